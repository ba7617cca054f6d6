"""What is said of a student where nobody labeled its test rows: its teachers, itself, and itself asked again.

Three figures, none of them an accuracy, each wrong in a way that is known:

* **Agreement** with the teachers' merged label on rows that it did not learn from. It reads high where the teachers err
  together, and higher for a student that learned to imitate them; agreement with families that it did not learn from
  lacks the second half of that.
* **What it expects** of itself (CBPE, and ATC beside it): holds as far as its probabilities are calibrated on rows like
  these, which gold of split ``audit`` can refute.
* **Consistency**: a student that changes its mind about a row that means the same was wrong once; one that never does
  may be wrong each time.

Where the task names a positive label and the ladder compares match or not, so do all figures here: they stand beside
that quality and have to move as it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import polars as pl

from distill.eval.config import EvalConfig
from distill.eval.consistency import Change, changed_rows
from distill.eval.evaluation import primary_metric
from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.label_free import (
    LabelFreeEstimate,
    confidence_estimate,
    confidence_of,
    rank_teachers,
    threshold_estimate,
)
from distill.labeling.task import Task

CHANGES: tuple[Change, ...] = get_args(Change)
MOST_AUDIT_ROWS = 500
"""Audit rows that a student is asked about to check its confidence: enough for a gap of about four points."""

Predict = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class StudentToEstimate:
    """A student, as far as its estimate needs it.

    Attributes:
        predictions: Its predictions on the test rows: ``row_id``, ``label``, ``probs``.
        predict: Asks it about other rows; None leaves out what needs that (consistency, the check on audit rows).
        families: Teachers' families whose labels it learned from.
        calibrated_on_audit: Whether its probabilities were set right on the gold that they are checked on.
    """

    predictions: pl.DataFrame
    predict: Predict | None = None
    families: Collection[str] = ()
    calibrated_on_audit: bool = False


@dataclass(frozen=True)
class HeldOutRows:
    """What every student of a run is held against.

    Attributes:
        test: Rows that no student learned from, with the inputs.
        audit: Rows of split ``audit`` with ``gold``, which it did not learn from either; may be empty.
        labels: The merged labels, ``row_id`` and ``label``; None without teachers.
        votes: The votes; None without teachers.
    """

    test: pl.DataFrame
    audit: pl.DataFrame
    labels: pl.DataFrame | None = None
    votes: pl.DataFrame | None = None

    @classmethod
    def of(cls, rows: pl.DataFrame, *, labels: pl.DataFrame | None, votes: pl.DataFrame | None) -> HeldOutRows:
        """From the tables of a run, with a bounded number of audit rows."""
        audit = rows.filter((pl.col("split") == "audit") & pl.col("gold").is_not_null())
        return cls(
            test=rows.filter(pl.col("split") == "test"),
            audit=_first_groups(audit, most=MOST_AUDIT_ROWS),
            labels=labels,
            votes=votes,
        )


def estimate_student(
    student: StudentToEstimate, held_out: HeldOutRows, *, task: Task, config: EvalConfig | None = None, seed: int = 0
) -> LabelFreeEstimate:
    """Says of a student what can be said without a label by a person on the test rows.

    Args:
        student: Who.
        held_out: On what.
        task: The labels.
        config: Resamples, level, what the ladder compares, and how many rows consistency asks about.
        seed: Of the resamples and the changes.
    """
    config = config or EvalConfig()
    sides = _Sides.of(task, config)
    said = student.predictions.filter(pl.col("label").is_not_null())
    notes: list[str] = []
    agreement = _agreement(said, held_out, sides, config, seed, notes)
    others = _other_families(student, said, held_out, sides, config, seed)
    if others is not None:
        notes.append("agreement with other families reads high where all families err together")
    found = LabelFreeEstimate(positive=sides.positive, agreement=agreement, other_families=others)
    if "probs" in said.columns and not said["probs"].null_count() and len(said):
        found = found.model_copy(update=_expected(student, said, held_out, sides, config, seed, notes))
    changes = _consistency(student, said, held_out.test, task, sides, config, seed)
    if changes:
        notes.append("consistency finds students that waver; one that never does may still be wrong every time")
    return found.model_copy(update={"consistency": changes.pop("all", None), "changes": changes, "notes": tuple(notes)})


@dataclass(frozen=True)
class _Sides:
    """How answers are compared: as match or not where the ladder does, else label by label.

    Attributes:
        task: The labels compared: two of them where match or not is.
        positive: The positive label, None where each label counts.
        place: Its place among the labels asked for.
    """

    task: Task
    positive: str | None = None
    place: int = 0

    @classmethod
    def of(cls, task: Task, config: EvalConfig) -> _Sides:
        if task.positive is None or primary_metric(task, config) not in ("positive_accuracy", "auc"):
            return cls(task)
        sides = (task.positive, f"not {task.positive}")
        return cls(replace(task, labels=sides, ordered=False), task.positive, task.labels.index(task.positive))

    def __call__(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with its labels, gold and distributions brought down to these sides."""
        if self.positive is None:
            return table
        one, other = self.task.labels
        columns = [
            pl.when(pl.col(name).is_not_null())
            .then(pl.when(pl.col(name) == self.positive).then(pl.lit(one)).otherwise(pl.lit(other)))
            .alias(name)
            for name in ("label", "gold")
            if name in table.columns
        ]
        if "probs" in table.columns:
            match = pl.col("probs").list.get(self.place)
            columns.append(pl.concat_list(match, 1.0 - match).alias("probs"))
        return table.with_columns(columns)


def _agreement(
    said: pl.DataFrame, held_out: HeldOutRows, sides: _Sides, config: EvalConfig, seed: int, notes: list[str]
) -> Estimate | None:
    if held_out.labels is None:
        return None
    merged = held_out.labels.filter(pl.col("label").is_not_null()).select("row_id", merged="label")
    both = _with_groups(said.select("row_id", "label"), held_out.test, config).join(merged, on="row_id")
    if both.is_empty():
        notes.append("no agreement: teachers were asked about no test row; name test in labeling.splits")
        return None
    label = sides(both.select("label"))["label"]
    same = (label == sides(both.select(label="merged"))["label"]).to_numpy().astype(float)
    notes.append(
        "agreement is with merged labels of teachers: it reads high where they err together, and higher for a student "
        "that learned to imitate them"
    )
    return _share(same, both, config, seed)


def _other_families(
    student: StudentToEstimate,
    said: pl.DataFrame,
    held_out: HeldOutRows,
    sides: _Sides,
    config: EvalConfig,
    seed: int,
) -> Estimate | None:
    """Agreement with what the families that it did not learn from say most; None where it learned from all or none."""
    if held_out.votes is None or not student.families or "family" not in held_out.votes.columns:
        return None
    others = held_out.votes.filter(~pl.col("family").fill_null(pl.col("teacher")).is_in(list(student.families)))
    others = others.join(held_out.test.select("row_id"), on="row_id", how="semi")
    if others.is_empty():
        return None
    own = said.select(
        "row_id", "label", teacher=pl.lit("\0student"), family=pl.lit("\0student"), outcome=pl.lit("labeled")
    )
    panel = pl.concat([others.select(own.columns), own])
    ranked = rank_teachers(sides(panel), held_out.test, task=sides.task, config=config, seed=seed)
    found = next((one.agreement for one in ranked if one.teacher == "\0student"), None)
    return None if found is None or found.value is None else found.model_copy(update={"note": None})


def _expected(
    student: StudentToEstimate,
    said: pl.DataFrame,
    held_out: HeldOutRows,
    sides: _Sides,
    config: EvalConfig,
    seed: int,
    notes: list[str],
) -> dict[str, object]:
    here = sides(said)
    checked = None
    if student.predict is not None and len(held_out.audit):
        answers = student.predict(held_out.audit).filter(pl.col("label").is_not_null())
        if len(answers):
            checked = sides(answers), sides(held_out.audit)
    found = confidence_estimate(here, held_out.test, task=sides.task, labeled=checked, config=config, seed=seed)
    thresholded = None
    if checked is not None:
        both = checked[0].join(checked[1].select("row_id", "gold"), on="row_id")
        right = (both["label"] == both["gold"]).to_numpy().astype(float)
        thresholded = threshold_estimate(
            confidence_of(here, sides.task), labeled_confidence=confidence_of(both, sides.task), labeled_right=right
        )
    notes.append(f"what it expects of itself is {found.note}" if checked is None else found.note)
    if checked is not None and student.calibrated_on_audit:
        notes.append(
            "its probabilities were set right on this same audit gold, so that the gap there is small by making; only "
            "the shift between the splits is tested"
        )
    return {
        "expected": found.expected,
        "gap": found.gap,
        "shift": found.shift,
        "believable": found.believable,
        "thresholded": thresholded,
    }


def _consistency(
    student: StudentToEstimate,
    said: pl.DataFrame,
    test: pl.DataFrame,
    task: Task,
    sides: _Sides,
    config: EvalConfig,
    seed: int,
) -> dict[str, Estimate]:
    """Consistency by change, and under ``all``; each row is asked about again under one change only."""
    if student.predict is None or not config.consistency_rows or said.is_empty():
        return {}
    answered = test.join(said.select("row_id"), on="row_id", how="semi")
    order = np.argsort([_place(name, seed) for name in answered["row_id"]], kind="stable")
    wanted = -(-config.consistency_rows // len(CHANGES))
    parts = []
    for number, change in enumerate(CHANGES):
        # Twice as many as wanted: a change does not touch every row.
        candidates = answered[order[number :: len(CHANGES)][: 2 * wanted]]
        fresh = changed_rows(candidates, change, inputs=task.inputs, seed=seed).head(wanted)
        parts.append(fresh.with_columns(_change=pl.lit(change)))
    changed = pl.concat(parts)
    if changed.is_empty():
        return {}
    after = sides(student.predict(changed.drop("_change"))).select("row_id", after="label")
    both = changed.select("row_id", "_change").join(after, on="row_id").join(sides(said), on="row_id")
    both = _with_groups(both.select("row_id", "_change", "label", "after"), test, config)
    same = both["label"].eq_missing(both["after"]).to_numpy().astype(float)
    found = {"all": _share(same, both, config, seed)}
    for change in CHANGES:
        at = (both["_change"] == change).to_numpy()
        if at.any():
            found[change] = _share(same[at], both.filter(pl.col("_change") == change), config, seed)
    return found


def _with_groups(said: pl.DataFrame, rows: pl.DataFrame, config: EvalConfig) -> pl.DataFrame:
    weight = pl.col("weight") if config.weighted and "weight" in rows.columns else pl.lit(1.0)
    return said.join(rows.select("row_id", "group", weight.cast(pl.Float64).alias("weight")), on="row_id")


def _share(same: np.ndarray, rows: pl.DataFrame, config: EvalConfig, seed: int) -> Estimate:
    """Weighted share of ones, with its interval over groups."""
    weight = rows["weight"].to_numpy()[:, None]
    resamples = Resamples.of(rows["group"].to_numpy(), count=config.bootstrap, seed=seed)
    return ratio_estimates(same[:, None] * weight, weight, resamples, level=config.level)[0]


def _first_groups(rows: pl.DataFrame, *, most: int) -> pl.DataFrame:
    """Whole groups, in an order that has nothing to do with their names, until there are enough rows."""
    sizes = rows.group_by("group").len()
    ordered = sizes[_order_of(sizes["group"].to_list())].with_columns(pl.col("len").cum_sum().alias("sum"))
    kept = ordered.filter(pl.col("sum") - pl.col("len") < most)
    return rows.join(kept.select("group"), on="group", how="semi", maintain_order="left")


def _order_of(names: Sequence[str]) -> list[int]:
    return sorted(range(len(names)), key=lambda place: (_place(names[place], 0), names[place]))


def _place(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=7).digest())
