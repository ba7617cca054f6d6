from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.errors import DataError
from distill.labeling.labeling_config import ExamplesConfig, LabelingConfig
from distill.labeling.prompts.few_shot import ExampleBook
from distill.labeling.prompts.prompt import EXAMPLES_COLUMN
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

QUERIES = (
    "red running shoes",
    "running shoe men",
    "wooden desk lamp",
    "lamp for desks",
    "green tea leaves",
    "black tea",
)
LABELS = ("exact", "substitute", "complement", "irrelevant")


@pytest.fixture
def rows() -> pl.DataFrame:
    """Six judged queries with a listing of each label, and two queries to judge."""
    judged = [
        {
            "row_id": f"g{q}{at}",
            "group": query,
            "split": "train",
            "gold": label,
            "query": query,
            "title": f"{label} {q}",
        }
        for q, query in enumerate(QUERIES)
        for at, label in enumerate(LABELS)
    ]
    pool = [
        {"row_id": f"p{at}", "group": query, "split": "pool", "gold": None, "query": query, "title": f"thing {at}"}
        for at, query in enumerate(("blue running shoes", "Red running shoe", "tea"))
    ]
    audit = [
        {"row_id": "a0", "group": "oolong tea", "split": "audit", "gold": "exact", "query": "oolong tea", "title": "x"}
    ]
    return pl.DataFrame([*judged, *pool, *audit], schema_overrides={"gold": pl.String})


def chosen(rows: pl.DataFrame, task: Task, **settings: object) -> dict[str, list[str]]:
    book = ExampleBook(rows.lazy(), task=task, config=ExamplesConfig(**settings), seed=7)  # type: ignore[arg-type]
    table = book.add_to(rows)
    return {
        row_id: [book.row_ids[at] for at in places]
        for row_id, places in table.select("row_id", EXAMPLES_COLUMN).iter_rows()
    }


def test_examples_are_similar_balanced_and_from_train(rows: pl.DataFrame, task: Task) -> None:
    found = chosen(rows, task, count=4)
    gold = dict(rows.select("row_id", "gold").iter_rows())
    for row_id, examples in found.items():
        assert len(examples) == 4, row_id
        assert {example[0] for example in examples} == {"g"}
        assert Counter(gold[example] for example in examples) == dict.fromkeys(LABELS, 1)
    # "blue running shoes" is nearest to query 0, "tea" to query 5.
    assert {example[:2] for example in found["p0"]} == {"g0"}
    assert {example[:2] for example in found["p2"]} == {"g5"}


def test_never_from_the_own_group_or_a_near_duplicate_of_the_query(rows: pl.DataFrame, task: Task) -> None:
    found = chosen(rows, task, count=8)
    group = dict(rows.select("row_id", "group").iter_rows())
    for row_id, examples in found.items():
        assert group[row_id] not in {group[example] for example in examples}
    # "Red running shoe" is "red running shoes" in another form: its four rows would give the answer away.
    assert "red running shoes" not in {group[example] for example in found["p1"]}
    assert {group[example] for example in found["p1"]} >= {"running shoe men"}


def test_rows_to_judge_and_their_order_change_nobodys_examples(rows: pl.DataFrame, task: Task) -> None:
    found = chosen(rows, task)
    assert chosen(rows.reverse(), task) == found
    fewer = rows.filter(pl.col("split") != "pool")
    assert chosen(fewer, task).items() <= found.items()


def test_the_prompt_shows_them_before_the_item_and_the_prefix_is_the_same(rows: pl.DataFrame, task: Task) -> None:
    config = LabelingConfig(examples=ExamplesConfig(count=2))
    asked = AskedRows(rows.lazy(), task=task, config=config, seed=7, splits=("pool",))
    prompter = asked.prompter(AnswerFormat())
    prompts = [prompter(row) for batch in asked for row in batch.iter_rows(named=True)]
    assert len({prompt.system for prompt in prompts}) == 1
    # Both ask about shoes; capitals come first.
    red, first = (prompt.user for prompt in prompts[:2])
    assert "query: Red running shoe" in red
    examples, _, item = first.rpartition("The item to judge:")
    assert examples.count("\nlabel: ") == 2 and "blue running shoes" not in examples
    assert "query: blue running shoes" in item and "label:" not in item
    # Without examples the request is what it always was.
    plain = AskedRows(rows.lazy(), task=task, config=LabelingConfig(), seed=7).prompter(AnswerFormat())
    assert plain(rows.row(0, named=True)).user.startswith("<data ")
    assert "Other items" not in plain.system and "Other items" in prompter.system


def test_rows_of_one_query_share_their_examples(rows: pl.DataFrame, task: Task) -> None:
    more = rows.filter(pl.col("row_id") == "p0").with_columns(row_id=pl.lit("p9"), title=pl.lit("lamp"))
    rows = pl.concat([rows, more])
    by_query, by_row = chosen(rows, task), chosen(rows, task, similar="row")
    assert by_query["p0"] == by_query["p9"]
    assert len(by_row["p0"]) == 4


def test_without_gold_there_is_one_clear_error(rows: pl.DataFrame, task: Task) -> None:
    with pytest.raises(DataError, match=r"labeling\.examples: .*split train"):
        chosen(rows.filter(pl.col("split") != "train"), task)


def test_a_few_rows_are_shown_the_examples_of_all(rows: pl.DataFrame, task: Task) -> None:
    config = LabelingConfig(examples=ExamplesConfig(count=2))
    few = rows.filter(pl.col("split") == "pool").lazy()
    asked = AskedRows(few, task=task, config=config, seed=7, examples_from=rows.lazy())
    whole = AskedRows(rows.lazy(), task=task, config=config, seed=7, splits=["pool"])
    answer = AnswerFormat()
    shown = [
        [one.prompter(answer)(row) for batch in one for row in batch.iter_rows(named=True)] for one in (asked, whole)
    ]
    assert len(shown[0]) == 3 and shown[0] == shown[1]
    with pytest.raises(DataError, match="gold rows of split train, and there is none"):
        AskedRows(few, task=task, config=config, seed=7)
