from __future__ import annotations

import polars as pl
import pytest

from distill.eval.guideline.diagnosis import ROW_CAUSES, cause_counts, diagnose

ROW = {"group": "usb cable", "query": "usb cable", "title": "Anker cable", "gold": None}


def _vote(row_id: str, teacher: str, label: str, **more: object) -> dict[str, object]:
    known = {"family": teacher, "clauses": [], "trace": None, "probs": None, "sample": 0, "outcome": "labeled"}
    return {"row_id": row_id, "teacher": teacher, "label": label, **known, **more}


def _diagnosed(task, votes: list[dict[str, object]], **rows: dict[str, object]) -> dict[str, dict[str, object]]:
    # forty quiet rows on which all agree, so that judges have a record
    quiet = [_vote(f"z{row:02d}", name, "exact") for row in range(40) for name in ("a", "b", "c")]
    names = sorted({str(vote["row_id"]) for vote in [*quiet, *votes]})
    table = pl.DataFrame([{"row_id": name, **ROW, **rows.get(name, {})} for name in names], infer_schema_length=None)
    table = table.with_columns(pl.col("gold").cast(pl.String))
    schema = {"clauses": pl.List(pl.String), "probs": pl.List(pl.Float64), "trace": pl.String}
    found = diagnose(pl.DataFrame([*quiet, *votes], schema_overrides=schema), table, task=task)
    return {line["row_id"]: line for line in found.iter_rows(named=True)}


def test_one_judge_that_never_does_so_has_slipped(task):
    votes = [_vote("r", "a", "exact"), _vote("r", "b", "exact"), _vote("r", "c", "irrelevant")]
    (line,) = _diagnosed(task, votes).values()
    assert (line["cause"], line["odd_one"], line["label"]) == ("slip", "c", "exact")
    assert "2% of 41" in line["evidence"]  # once in forty-one rows where the others say exact


def test_repeats_that_differ_speak_for_a_slip(task):
    votes = [_vote("r", "a", "exact"), _vote("r", "b", "exact")]
    votes += [
        _vote("r", "c", label, sample=sample) for sample, label in enumerate(("irrelevant", "irrelevant", "exact"))
    ]
    (line,) = _diagnosed(task, votes).values()
    assert line["evidence"].endswith("its own repeats differ")
    assert line["slip_score"] == 1.0


def test_a_family_that_often_does_so_leans(task):
    votes = []
    for row in range(30):
        own = "exact" if row < 10 else "substitute"
        votes += [_vote(f"r{row:02d}", name, "substitute") for name in ("a", "b")]
        votes += [_vote(f"r{row:02d}", name, own, family="lenient") for name in ("c", "d")]
    found = _diagnosed(task, votes)
    assert len(found) == 10
    assert {line["cause"] for line in found.values()} == {"leaning"}
    assert found["r00"]["odd_one"] == "lenient"
    assert "33% of 30" in found["r00"]["evidence"]


def test_the_same_clause_on_both_sides_blames_the_guideline(task):
    votes = [_vote("r", name, label, clauses=["E3"]) for name, label in (("a", "exact"), ("b", "substitute"))]
    (line,) = _diagnosed(task, votes).values()
    assert (line["cause"], line["evidence"]) == ("guideline", "both sides cite E3")
    votes = [_vote("r", "a", "exact", clauses=["E3"]), _vote("r", "b", "substitute", clauses=["S1"])]
    (line,) = _diagnosed(task, votes).values()
    assert line["evidence"] == "clauses collide, exact: E3 against substitute: S1"


def test_all_against_gold(task):
    votes = [_vote("r", name, "exact", probs=[0.9, 0.1, 0, 0]) for name in "abc"]
    votes += [_vote("s", name, "exact") for name in "abc"]
    found = _diagnosed(task, votes, r={"gold": "irrelevant"}, s={"gold": "exact"})
    assert set(found) == {"r"}  # s agrees with gold and is not contested
    assert found["r"]["cause"] == "gold_error"
    assert "all 3 voices say exact, gold says irrelevant; mean confidence 0.90" in found["r"]["evidence"]


@pytest.mark.parametrize("words", ["The listing doesn’t state the length.", "Size unknown.", "no mention of a plug"])
def test_reasons_that_miss_something_in_the_listing(task, words):
    votes = [_vote("r", name, label, trace=words) for name, label in (("a", "exact"), ("b", "substitute"))]
    (line,) = _diagnosed(task, votes, r={"title": ""}).values()
    assert line["cause"] == "missing_information"
    assert line["evidence"] == "2 of 2 reasons say that the listing does not tell; empty: title"


def test_rows_without_dispute_are_not_diagnosed(task):
    assert _diagnosed(task, [_vote("r", "a", "exact")]) == {}
    assert cause_counts(pl.DataFrame({"cause": ["slip", "slip"]})) == {**dict.fromkeys(ROW_CAUSES, 0), "slip": 2}
