from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.consistency import changed_rows
from distill.eval.student_estimate import CHANGES, HeldOutRows, StudentToEstimate, estimate_student

QUICK = EvalConfig(bootstrap=200, consistency_rows=40)
ACCURACY = EvalConfig(bootstrap=200, consistency_rows=0, metric="accuracy")


def _said(rows: pl.DataFrame, labels: list[str], sure: float = 0.7) -> pl.DataFrame:
    order = ("exact", "substitute", "complement", "irrelevant")
    probs = [[sure if name == label else (1 - sure) / 3 for name in order] for label in labels]
    return pl.DataFrame({"row_id": rows["row_id"], "label": labels, "probs": probs})


@pytest.fixture
def tables(make_rows):
    """Ten test rows; the merged label is right on all, the student calls two of five substitutes exact."""
    gold = ["exact"] * 4 + ["substitute"] * 5 + ["irrelevant"]
    rows = make_rows(gold, group=[f"g{i // 2}" for i in range(10)], query=[f"steel kettle {i}" for i in range(10)])
    said = ["exact"] * 6 + ["substitute"] * 3 + ["complement"]
    merged = rows.select("row_id", label="gold")
    return rows, _said(rows, said), merged


def test_agreement_is_of_match_or_not_where_the_ladder_is(tables, task):
    rows, said, merged = tables
    held_out = HeldOutRows.of(rows, labels=merged, votes=None)
    found = estimate_student(StudentToEstimate(said), held_out, task=task, config=QUICK)
    # rows 5 and 6 are on the wrong side; complement for irrelevant is on the right one
    assert (found.positive, found.agreement.value, found.agreement.rows) == ("exact", 0.8, 10)
    plain = estimate_student(StudentToEstimate(said), held_out, task=task, config=ACCURACY)
    assert (plain.positive, plain.agreement.value) == (None, 0.7)
    assert any("reads high" in note for note in found.notes)
    # nothing could be asked again
    assert (found.consistency, found.believable, found.thresholded) == (None, None, None)


def test_rows_count_by_their_weight(tables, task):
    rows, said, merged = tables
    heavy = rows.with_columns(weight=pl.when(pl.col("row_id") == "r004").then(11.0).otherwise(1.0))
    found = estimate_student(StudentToEstimate(said), HeldOutRows.of(heavy, labels=merged, votes=None), task=task)
    assert found.agreement.value == pytest.approx(8 / 20)  # weight 20 in all; the two that differ have 11 and 1


def test_what_it_expects_is_the_probability_of_its_answer(tables, task):
    rows, said, merged = tables
    found = estimate_student(StudentToEstimate(said), HeldOutRows.of(rows, labels=merged, votes=None), task=task)
    # exact on six rows: .7 of match; else on four: 1 - .1 of no match
    assert found.expected.value == pytest.approx((6 * 0.7 + 4 * 0.9) / 10)
    assert any("unchecked" in note for note in found.notes)


def test_teachers_that_were_not_asked_about_test_rows_are_named(tables, task):
    rows, said, merged = tables
    elsewhere = merged.with_columns(row_id=pl.col("row_id") + "x")
    found = estimate_student(StudentToEstimate(said), HeldOutRows.of(rows, labels=elsewhere, votes=None), task=task)
    assert found.agreement is None
    assert any("labeling.splits" in note for note in found.notes)


def test_other_families_are_those_it_did_not_learn_from(tables, task, make_votes):
    rows, said, merged = tables
    own = [(row, "mine", label, None) for row, label in said.select("row_id", "label").iter_rows()]
    other = [(row, "theirs", label, None) for row, label in merged.iter_rows()]
    votes = make_votes(*own, *other)  # each teacher is its own family
    held_out = HeldOutRows.of(rows, labels=merged, votes=votes)
    found = estimate_student(StudentToEstimate(said, families={"mine"}), held_out, task=task, config=QUICK)
    assert found.other_families.value == 0.8
    everyone = StudentToEstimate(said, families={"mine", "theirs"})
    assert estimate_student(everyone, held_out, task=task, config=QUICK).other_families is None


def test_audit_gold_refutes_a_boaster_and_not_the_honest(make_rows, task):
    rng = np.random.default_rng(0)
    gold = [str(label) for label in rng.choice(["exact", "irrelevant"], 400)]
    rows = make_rows(gold, group=[f"g{i // 4}" for i in range(400)], split=["test"] * 200 + ["audit"] * 200)

    def student(share_right: float) -> StudentToEstimate:
        right = rng.random(400) < share_right
        flipped = {"exact": "irrelevant", "irrelevant": "exact"}
        said = _said(rows, [one if ok else flipped[one] for one, ok in zip(gold, right, strict=True)], sure=0.9)
        # two sides of .9 and .1, whichever label it is
        sides = pl.when(pl.col("label") == "exact").then([0.9, 0.1, 0.0, 0.0]).otherwise([0.1, 0.0, 0.0, 0.9])
        said = said.with_columns(probs=sides)

        def predict(asked: pl.DataFrame) -> pl.DataFrame:
            return asked.select("row_id").join(said, on="row_id", how="left", maintain_order="left")

        return StudentToEstimate(said.head(200), predict)

    held_out = HeldOutRows.of(rows, labels=None, votes=None)
    config = EvalConfig(bootstrap=200, consistency_rows=0)
    honest = estimate_student(student(0.9), held_out, task=task, config=config)
    boaster = estimate_student(student(0.6), held_out, task=task, config=config)
    assert (honest.believable, boaster.believable) == (True, False)
    assert honest.expected.value == boaster.expected.value == pytest.approx(0.9)
    assert boaster.gap.value == pytest.approx(0.3, abs=0.08)
    assert boaster.gap.rows == 200


def test_a_fit_on_the_same_gold_is_admitted(tables, task):
    rows, said, _ = tables
    rows = pl.concat([rows, rows.with_columns(row_id=pl.col("row_id") + "a", split=pl.lit("audit"))])

    def predict(asked: pl.DataFrame) -> pl.DataFrame:
        return said.with_columns(row_id=pl.col("row_id") + "a").join(asked.select("row_id"), on="row_id")

    student = StudentToEstimate(said, predict, calibrated_on_audit=True)
    found = estimate_student(
        student, HeldOutRows.of(rows, labels=None, votes=None), task=task, config=EvalConfig(consistency_rows=0)
    )
    assert any("same audit gold" in note for note in found.notes)


def test_consistency_asks_about_no_more_rows_than_it_may(make_rows, task):
    count = 80
    rows = make_rows(
        ["exact"] * count,
        query=[f"steel kettle number {i}" for i in range(count)],
        title=[f"kettle {i}; steel; 2 litres" for i in range(count)],
    )
    asked: list[pl.DataFrame] = []

    def predict(changed: pl.DataFrame) -> pl.DataFrame:
        asked.append(changed)
        # shouts at capitals, and says the same of everything else
        loud = changed["query"].str.to_uppercase() == changed["query"]
        return _said(changed, ["irrelevant" if shouted else "exact" for shouted in loud])

    student = StudentToEstimate(_said(rows, ["exact"] * count), predict)
    found = estimate_student(student, HeldOutRows.of(rows, labels=None, votes=None), task=task, config=QUICK)
    (changed,) = asked
    assert len(changed) == 40 and changed["row_id"].n_unique() == 40  # a row is asked about once
    assert {name: estimate.rows for name, estimate in found.changes.items()} == dict.fromkeys(CHANGES, 10)
    assert found.changes["case"].value == 0.0 and found.changes["typo"].value == 1.0
    assert found.consistency.value == 0.75
    # each is the change that it says, of the row as it was
    case = changed_rows(rows, "case", inputs=task.inputs)
    assert len(changed.join(case, on=["row_id", "query", "title"], how="semi")) >= 10
    nothing = estimate_student(
        student, HeldOutRows.of(rows, labels=None, votes=None), task=task, config=EvalConfig(consistency_rows=0)
    )
    assert nothing.consistency is None and len(asked) == 1
