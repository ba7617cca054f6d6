import polars as pl

from distill.labeling.task import Task
from distill.students.suspects import SUSPECT_SCHEMA, suspected_errors


def _said(rows: pl.DataFrame, task: Task) -> tuple[pl.DataFrame, pl.DataFrame, set[str]]:
    """The rule's own labels, but every ninth row says another one."""
    known = rows.filter(pl.col("gold").is_not_null() & (pl.col("split") != "test"))
    wrong = {"exact": "irrelevant", "irrelevant": "exact", "substitute": "irrelevant"}
    said = [wrong[gold] if number % 9 == 0 else gold for number, gold in enumerate(known["gold"])]
    probs = [[float(name == label) for label in task.labels] for name in said]
    labels = pl.DataFrame({"row_id": known["row_id"], "label": said, "probs": probs})
    return known, labels, set(known["row_id"].gather_every(9))


def test_suspects_are_mostly_the_planted_mistakes_the_clearest_first(rows: pl.DataFrame, task: Task) -> None:
    known, labels, planted = _said(rows, task)
    found = suspected_errors(known, labels, task=task, most=6, seed=0)
    assert dict(found.schema) == SUSPECT_SCHEMA
    # An eighth of what is found at random would be planted.
    assert 0 < len(found) <= 6 and len(planted & set(found["row_id"])) >= len(found) / 2
    assert found["margin"].is_sorted(descending=True) and (found["margin"] > 0).all()
    assert (found["label"] != found["suspected"]).all()
    few = suspected_errors(known, labels, task=task, most=2, seed=0)
    assert few.equals(found.head(2))


def test_only_rows_among_those_named_are_suspects(rows: pl.DataFrame, task: Task) -> None:
    known, labels, _ = _said(rows, task)
    first = suspected_errors(known, labels, task=task, most=1, seed=0)["row_id"]
    others = known.filter(~pl.col("row_id").is_in(first.implode()))["row_id"]
    found = suspected_errors(known, labels, task=task, most=100, seed=0, among=others)
    assert first[0] not in set(found["row_id"]) and set(found["row_id"]) <= set(others)


def test_there_are_none_where_no_other_group_can_judge(rows: pl.DataFrame, task: Task) -> None:
    known, labels, _ = _said(rows, task)
    one = known.filter(pl.col("group") == known["group"][0])
    assert suspected_errors(one, labels, task=task, most=5, seed=0).is_empty()
    nobody = suspected_errors(known, labels, task=task, most=5, seed=0, among=pl.Series([], dtype=pl.String))
    assert nobody.is_empty() and dict(nobody.schema) == SUSPECT_SCHEMA
