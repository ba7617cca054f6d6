r"""The student in the loop: its out-of-fold predictions join the vote as one more voter.

After Goh, Tkachenko and Mueller, "CROWDLAB: supervised learning to infer consensus labels and quality scores for data
with multiple annotators", NeurIPS HCOMP workshop 2022. A voter and the student are weighed by how well each agrees
with the merged label *of the others' votes*, above what always giving the most frequent label would reach:

.. math:: w = \max\Big(0, \; 1 - \frac{1 - A}{1 - A_{mode}}\Big)

For the student :math:`A` is taken over rows with more than one vote, where the merged label is worth most, and its
weight is multiplied by the root of the mean number of voters of a row. The merged distribution, which stands for the
voters, and the student's :math:`p_M` are then averaged:

.. math:: p \propto w_V \, n_{i} \, p_V + w_M \sqrt{\bar n} \, p_M

with :math:`n_i` the row's votes and :math:`w_V` the mean weight of a voter. So a row with many votes hardly moves and
a row with one does. CROWDLAB weighs each voter by its own agreement; here the method has done that already in
:math:`p_V`.

The predictions must come from a student that did not train on the row (cross-fitting): one that did only repeats the
label.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.merging.merged import Merged, winners
from distill.labeling.merging.panel import Panel

_LEAST_CHANCE = 1e-6


def student_probs(panel: Panel, predictions: pl.DataFrame) -> np.ndarray:
    """The student's distributions of the panel's rows; NaN where it predicts none, shape (rows, labels).

    Raises:
        DataError: A column is missing, or a distribution has another number of labels.
    """
    missing = [name for name in ("row_id", "probs") if name not in predictions.columns]
    if missing:
        raise DataError(f"predictions: missing column(s) {missing}, got {predictions.columns}; give row_id and probs")
    known = predictions.select(pl.col("row_id").cast(pl.String), "probs").drop_nulls("probs")
    widths = known["probs"].list.len().unique().to_list()
    if widths not in ([], [len(panel.labels)]):
        raise DataError(
            f"predictions: got distributions of {widths} values for {len(panel.labels)} labels; give one a label, in "
            "order"
        )
    known = known.unique("row_id", keep="first", maintain_order=True)
    found = panel.row_ids.to_frame("row_id").join(known, on="row_id", how="left", maintain_order="left")["probs"]
    probs = np.full((len(found), len(panel.labels)), np.nan)
    where = found.is_not_null().to_numpy()
    if where.any():
        probs[where] = np.array(found.drop_nulls().to_list(), dtype=np.float64)
    return probs


def with_student(panel: Panel, merged: Merged, student: np.ndarray) -> Merged:
    """Joins a student's distributions to a merge; rows without votes stay without a label.

    Args:
        panel: The votes.
        merged: What a method made of them.
        student: Of each row, NaN where there is none, shape (rows, labels).
    """
    hard = panel.hard_judgments
    votes = np.bincount(hard.row, minlength=len(panel.row_ids))
    seen = np.isfinite(student).all(axis=1) & (votes > 0)
    if not seen.any():
        return merged
    known = np.where(seen[:, None], student, 0.0)
    of_voters, of_student = student_weights(panel, merged, known, seen)
    weight = of_student * np.sqrt(votes[votes > 0].mean())
    joined = (of_voters * votes)[:, None] * merged.probs + weight * known
    total = joined.sum(axis=1, keepdims=True)
    probs = np.where(seen[:, None] & (total > 0), joined / np.maximum(total, _LEAST_CHANCE), merged.probs)
    label, tie = winners(probs, merged.probs)
    # An average of distributions is no product of evidence, so that nothing is left to discount.
    return replace(merged, probs=probs, label=label, tie=tie, prior=None)


def student_weights(panel: Panel, merged: Merged, student: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Weights of an average voter and of the student, each at least 0; the same where nothing tells.

    A voter's weight is how far it agrees beyond what always saying the commonest label would.

    Args:
        panel: The votes.
        merged: What they were merged into without the student.
        student: The student's distributions, shape (rows, labels).
        seen: Which rows the student has predicted, shape (rows,).
    """
    hard = panel.hard_judgments
    votes = np.bincount(hard.row, minlength=len(panel.row_ids))
    several = (votes > 1) & seen
    if not several.any():
        return 1.0, 1.0
    frequency = np.bincount(merged.label[several], minlength=len(panel.labels)) / several.sum()
    room = max(1 - float(frequency.max()), _LEAST_CHANCE)
    # A voter is judged by the mean of the row's other votes, not by a label that its own vote made.
    counts = panel.sum_by_row(hard.row, hard.probs)
    rest = counts[hard.row] - hard.probs
    judged = several[hard.row]
    total = np.maximum(rest.sum(axis=1), _LEAST_CHANCE)
    agreed = ((rest * hard.probs).sum(axis=1) / total)[judged].mean()
    right = float((student.argmax(axis=1) == merged.label)[several].mean())
    of_voters, of_student = (max(0.0, 1 - (1 - float(value)) / room) for value in (agreed, right))
    if of_voters + of_student == 0:
        return 1.0, 1.0
    return of_voters, of_student
