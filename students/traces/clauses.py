"""Which clauses of the guideline a student says stand behind its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distill.students.traces.rows import TraceCounts

FEWEST_ROWS_TO_CHOOSE = 20
_THRESHOLDS = np.arange(5, 96) / 100.0


@dataclass(frozen=True)
class ClauseQuality:
    """How well clauses were predicted.

    A clause is a decision of its own: precision, recall and F1 are over all rows' clauses together (micro).

    Attributes:
        rows: Rows with citations behind it.
        precision: Of the clauses named, how many were cited.
        recall: Of the clauses cited, how many were named.
        f1: Harmonic mean of both.
        top_1: Rows whose most probable clause was cited.
        truth_source: Whose citations they are.
    """

    rows: int
    precision: float
    recall: float
    f1: float
    top_1: float
    truth_source: str = "teacher"


@dataclass(frozen=True)
class TracesInfo:
    """What a student that learned from traces keeps of them.

    Attributes:
        counts: What became of the training rows' traces.
        clauses: The guideline's clauses that it can name, in the order of the head's scores; empty without the head.
        behind: Those that may stand behind each label, see :func:`distill.students.traces.rows.clause_labels`.
        threshold: A clause is named from this probability on.
        threshold_source: ``validation``, or ``none`` where it was not fitted.
        quality: On the validation rows that the threshold was chosen on, so a little flattering; None without any.
    """

    counts: TraceCounts
    clauses: tuple[str, ...] = ()
    behind: Mapping[str, tuple[str, ...]] | None = None
    threshold: float = 0.5
    threshold_source: str = "none"
    quality: ClauseQuality | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> TracesInfo:
        """Reads it back from JSON."""
        behind = {label: tuple(clauses) for label, clauses in (found["behind"] or {}).items()}
        quality = ClauseQuality(**found["quality"]) if found["quality"] else None
        read = {"counts": TraceCounts(**found["counts"]), "clauses": tuple(found["clauses"])}
        return cls(**{**found, **read, "behind": behind or None, "quality": quality})

    def told(self) -> str:
        """One line: what was learned, and what was left out and why."""
        counts = self.counts
        learned = f"{len(self.clauses)} clauses from {counts.citations:,} rows, " if self.clauses else ""
        dropped = ", ".join(f"{count:,} {problem.replace('_', ' ')}" for problem, count in counts.dropped.items())
        return f"{learned}{counts.traces:,} traces fit to learn from" + (f" (left out: {dropped})" if dropped else "")

    def may_stand(self, labels: Sequence[str]) -> np.ndarray:
        """``[N, C]``: whether each clause may stand behind each row's label."""
        behind = self.behind or {}
        by_label = {
            label: np.array([clause in behind.get(label, self.clauses) for clause in self.clauses])
            for label in set(labels)
        }
        return (
            np.stack([by_label[label] for label in labels]) if len(labels) else np.zeros((0, len(self.clauses)), bool)
        )


class Named(NamedTuple):
    """The clauses named for each row, the most probable first, and how probable each is."""

    clauses: list[list[str]]
    probs: list[list[float]]


def name_clauses(scores: np.ndarray, labels: Sequence[str], info: TracesInfo) -> Named:
    """Names the clauses behind predicted labels, so that whoever reads a label also reads why.

    Of the clauses that may stand behind the label, those as probable as the threshold; where none is, the one most
    probable. So a label never stands without a reason, nor beside one that speaks for another label.

    Args:
        scores: ``[N, C]``, of the head.
        labels: The predicted labels.
        info: Clauses, what they may stand behind, and the threshold.
    """
    probs = _probabilities(scores)
    chosen = _chosen(probs, info.may_stand(labels), info.threshold)
    order = np.argsort(-probs, axis=1, kind="stable")
    places = [line[picked[line]] for line, picked in zip(order, chosen, strict=True)]
    return Named(
        [[info.clauses[place] for place in row] for row in places],
        [[float(line[place]) for place in row] for line, row in zip(probs, places, strict=True)],
    )


def choose_threshold(scores: np.ndarray, cited: np.ndarray, may_stand: np.ndarray) -> float:
    """The threshold of highest micro F1 among 0.05, 0.06, … 0.95; of equals the one nearest to 0.5.

    Args:
        scores: ``[N, C]``, of rows that the student has not learned from.
        cited: ``[N, C]`` of 0 and 1.
        may_stand: ``[N, C]``, see :meth:`TracesInfo.may_stand`.
    """
    probs = _probabilities(scores)
    found = [(clause_quality(probs, cited, _chosen(probs, may_stand, t)).f1, -abs(t - 0.5), t) for t in _THRESHOLDS]
    return float(max(found)[2])


def clause_quality(probs: np.ndarray, cited: np.ndarray, named: np.ndarray) -> ClauseQuality:
    """Compares the clauses named with those cited.

    Args:
        probs: ``[N, C]``, any increasing function of them.
        cited: ``[N, C]`` of 0 and 1.
        named: ``[N, C]`` of booleans.
    """
    real = cited > 0
    hits = int((real & named).sum())
    precision, recall = hits / max(1, int(named.sum())), hits / max(1, int(real.sum()))
    f1 = 2 * hits / max(1, int(named.sum()) + int(real.sum()))
    top = np.where(named, probs, -np.inf).argmax(axis=1)
    top_1 = float(real[np.arange(len(real)), top].mean()) if len(real) else 0.0
    return ClauseQuality(len(real), precision, recall, f1, top_1)


def measured(scores: np.ndarray, cited: np.ndarray, labels: Sequence[str], info: TracesInfo) -> ClauseQuality:
    """How well :func:`name_clauses` names what was cited."""
    probs = _probabilities(scores)
    return clause_quality(probs, cited, _chosen(probs, info.may_stand(labels), info.threshold))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1.0 / (1.0 + np.exp(-scores.astype(np.float64)))
    return found


def _chosen(probs: np.ndarray, may_stand: np.ndarray, threshold: float) -> np.ndarray:
    allowed = np.where(may_stand, probs, -1.0)
    chosen = allowed >= threshold
    if probs.shape[1]:
        bare = ~chosen.any(axis=1)
        chosen[bare, allowed[bare].argmax(axis=1)] = True
    return chosen
