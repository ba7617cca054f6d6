"""When a student says that it does not know: a threshold under which, on held-out rows, it is wrong too often.

The choice is that of a cascade (:mod:`distill.labeling.asking.cascade`): thresholds are tested from the highest down,
each by Clopper and Pearson's test at what rows in groups are worth, and the lowest that is shown to do is taken (*Learn
then Test*, arXiv:2110.01052). It holds because the answers tested hang on the network alone: sureness is the highest
probability *before* calibration, and a student that abstains is calibrated by maps that leave its label as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.labeling.asking.cascade import Judged, choose_threshold
from distill.students.calibration import softmax


@dataclass(frozen=True)
class Abstention:
    """Which rows a student answers.

    Attributes:
        risk: Greatest share of wrong labels wanted among the rows answered.
        confidence: Probability with which it is kept to, over draws of the held-out groups.
        threshold: Rows are answered whose highest probability, before calibration, is at least this. None where no
            threshold was shown to do, and no row is answered then: a promise that cannot be kept is not given.
        source: Whose labels tell right from wrong: ``audit gold``, or ``none`` where no row was held out.
        rows: Held-out rows.
        groups: Groups that they are in.
        answered: Share of them that is answered.
        wrong: Share of wrong labels among those answered; None where none is.
        wrong_at_most: What that share is at most, with the confidence wanted; None likewise.
        rows_needed: Held-out rows that would probably be enough where none is answered, the same in kind; None where
            some are, or where no number of rows would do.
    """

    risk: float
    confidence: float
    threshold: float | None = None
    source: str = "none"
    rows: int = 0
    groups: int = 0
    answered: float = 0.0
    wrong: float | None = None
    wrong_at_most: float | None = None
    rows_needed: int | None = None

    def abstains(self, logits: np.ndarray) -> np.ndarray:
        """Whether each row of ``[N, K]`` scores is left unanswered, ``[N]`` bool."""
        if self.threshold is None:
            return np.ones(len(logits), dtype=bool)
        return np.asarray(_sureness(logits) < self.threshold)


def fit_abstention(
    logits: np.ndarray,
    gold: np.ndarray,
    *,
    group: Sequence[str] | np.ndarray,
    risk: float,
    confidence: float,
    source: str,
) -> Abstention:
    """Takes the lowest threshold at which the rows answered are shown to be right often enough.

    Every row counts once, however often it occurs.

    Args:
        logits: ``[N, K]`` on held-out rows, before calibration.
        gold: ``[N]``, index of each row's true label.
        group: ``[N]``, rows of one group tend to be wrong together.
        risk: Greatest share of wrong labels wanted.
        confidence: Probability with which it is kept to.
        source: Whose labels ``gold`` are.
    """
    names, codes = np.unique(np.asarray(group), return_inverse=True)
    judged = Judged(
        sureness=_sureness(logits),
        wrong=logits.argmax(axis=1) != gold,
        counts=np.ones(len(gold), dtype=bool),
        group=codes.astype(np.int64),
    )
    choice = choose_threshold(judged, target=1.0 - risk, confidence=confidence)
    taken = choice.taken
    return Abstention(
        risk=risk,
        confidence=confidence,
        threshold=choice.threshold,
        source=source,
        rows=len(gold),
        groups=len(names),
        answered=0.0 if taken is None else taken.kept,
        wrong=None if taken is None or taken.right is None else 1.0 - taken.right,
        wrong_at_most=None if taken is None or taken.at_least is None else 1.0 - taken.at_least,
        rows_needed=choice.rows_needed,
    )


def _sureness(logits: np.ndarray) -> np.ndarray:
    return np.asarray(softmax(logits).max(axis=1))
