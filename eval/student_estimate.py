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
from dataclasses import dataclass, field, replace
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
    said = student.predictions.filter(pl.col("label").is_not_null())
    sides = _Sides.of(task, config)
    reading = _Reading(student, said, held_out, task=task, sides=sides, config=config, seed=seed)
    agreement, others = reading.agreement(), reading.other_families()
    found = LabelFreeEstimate(positive=reading.sides.positive, agreement=agreement, other_families=others)
    if "probs" in said.columns and not said["probs"].null_count() and len(said):
        found = found.model_copy(update=reading.expected())
    changes = reading.consistency()
    update = {"consistency": changes.pop("all", None), "changes": changes, "notes": tuple(reading.notes)}
    return found.model_copy(update=update)


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


@dataclass(frozen=True)
class _Reading:
    """One student beside what it is held against, which every figure is made of.

    Attributes:
        student: Who.
        said: Its predictions on test rows that it answered.
        held_out: On what.
        task: The labels asked for.
        sides: How answers are compared.
        config: Resamples, level, and how many rows consistency asks about.
        seed: Of the resamples and the changes.
        notes: What a reader has to know of the figures made so far; each adds its own.
    """

    student: StudentToEstimate
    said: pl.DataFrame
    held_out: HeldOutRows
    task: Task
    sides: _Sides
    config: EvalConfig
    seed: int
    notes: list[str] = field(default_factory=list)

    def agreement(self) -> Estimate | None:
        """How often it gives the merged label; None where teachers were asked about no test row."""
        if self.held_out.labels is None:
            return None
        merged = self.held_out.labels.filter(pl.col("label").is_not_null()).select("row_id", merged="label")
        both = self._with_groups(self.said.select("row_id", "label")).join(merged, on="row_id")
        if both.is_empty():
            self.notes.append("no agreement: teachers were asked about no test row; name test in labeling.splits")
            return None
        label = self.sides(both.select("label"))["label"]
        same = (label == self.sides(both.select(label="merged"))["label"]).to_numpy().astype(float)
        self.notes.append(
            "agreement is with merged labels of teachers: it reads high where they err together, and higher for a "
            "student that learned to imitate them"
        )
        return self._share(same, both)

    def other_families(self) -> Estimate | None:
        """Agreement with what families that it did not learn from say most; None where it learned from all or none."""
        votes, families = self.held_out.votes, self.student.families
        if votes is None or not families or "family" not in votes.columns:
            return None
        others = votes.filter(~pl.col("family").fill_null(pl.col("teacher")).is_in(list(families)))
        others = others.join(self.held_out.test.select("row_id"), on="row_id", how="semi")
        if others.is_empty():
            return None
        own = self.said.select(
            "row_id", "label", teacher=pl.lit("\0student"), family=pl.lit("\0student"), outcome=pl.lit("labeled")
        )
        panel = self.sides(pl.concat([others.select(own.columns), own]))
        ranked = rank_teachers(panel, self.held_out.test, task=self.sides.task, config=self.config, seed=self.seed)
        found = next((one.agreement for one in ranked if one.teacher == "\0student"), None)
        if found is None or found.value is None:
            return None
        self.notes.append("agreement with other families reads high where all families err together")
        return found.model_copy(update={"note": None})

    def expected(self) -> dict[str, object]:
        """Fields of :class:`LabelFreeEstimate` that say what it expects of itself, and whether that may be believed."""
        here = self.sides(self.said)
        checked = None
        if self.student.predict is not None and len(self.held_out.audit):
            answers = self.student.predict(self.held_out.audit).filter(pl.col("label").is_not_null())
            if len(answers):
                checked = self.sides(answers), self.sides(self.held_out.audit)
        found = confidence_estimate(
            here, self.held_out.test, task=self.sides.task, labeled=checked, config=self.config, seed=self.seed
        )
        thresholded = None
        if checked is not None:
            both = checked[0].join(checked[1].select("row_id", "gold"), on="row_id")
            right = (both["label"] == both["gold"]).to_numpy().astype(float)
            thresholded = threshold_estimate(
                confidence_of(here, self.sides.task),
                labeled_confidence=confidence_of(both, self.sides.task),
                labeled_right=right,
            )
        self.notes.append(f"what it expects of itself is {found.note}" if checked is None else found.note)
        if checked is not None and self.student.calibrated_on_audit:
            self.notes.append(
                "its probabilities were set right on this same audit gold, so that the gap there is small by making; "
                "only the shift between the splits is tested"
            )
        return {
            "expected": found.expected,
            "gap": found.gap,
            "shift": found.shift,
            "believable": found.believable,
            "thresholded": thresholded,
        }

    def consistency(self) -> dict[str, Estimate]:
        """Consistency by change, and under ``all``; each row is asked about again under one change only."""
        if self.student.predict is None or not self.config.consistency_rows or self.said.is_empty():
            return {}
        changed = self._changed()
        if changed.is_empty():
            return {}
        after = self.sides(self.student.predict(changed.drop("_change"))).select("row_id", after="label")
        both = changed.select("row_id", "_change").join(after, on="row_id").join(self.sides(self.said), on="row_id")
        both = self._with_groups(both.select("row_id", "_change", "label", "after"))
        same = both["label"].eq_missing(both["after"]).to_numpy().astype(float)
        found = {"all": self._share(same, both)}
        for change in CHANGES:
            at = (both["_change"] == change).to_numpy()
            if at.any():
                found[change] = self._share(same[at], both.filter(pl.col("_change") == change))
        self.notes.append("consistency finds students that waver; one that never does may still be wrong every time")
        return found

    def _changed(self) -> pl.DataFrame:
        """Test rows that it answered, each under one change, which ``_change`` names."""
        answered = self.held_out.test.join(self.said.select("row_id"), on="row_id", how="semi")
        order = np.argsort([_place(name, self.seed) for name in answered["row_id"]], kind="stable")
        wanted = -(-self.config.consistency_rows // len(CHANGES))
        parts = []
        for number, change in enumerate(CHANGES):
            # Twice as many as wanted: a change does not touch every row.
            candidates = answered[order[number :: len(CHANGES)][: 2 * wanted]]
            fresh = changed_rows(candidates, change, inputs=self.task.inputs, seed=self.seed).head(wanted)
            parts.append(fresh.with_columns(_change=pl.lit(change)))
        return pl.concat(parts)

    def _with_groups(self, said: pl.DataFrame) -> pl.DataFrame:
        """Answers with the ``group`` and ``weight`` of their test rows."""
        test = self.held_out.test
        weight = pl.col("weight") if self.config.weighted and "weight" in test.columns else pl.lit(1.0)
        return said.join(test.select("row_id", "group", weight.cast(pl.Float64).alias("weight")), on="row_id")

    def _share(self, same: np.ndarray, rows: pl.DataFrame) -> Estimate:
        """Weighted share of ones, with its interval over groups."""
        weight = rows["weight"].to_numpy()[:, None]
        resamples = Resamples.of(rows["group"].to_numpy(), count=self.config.bootstrap, seed=self.seed)
        return ratio_estimates(same[:, None] * weight, weight, resamples, level=self.config.level)[0]


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
