"""A cascade's threshold: which answers of the cheap teacher are sure enough to be kept.

On calibration rows, whole groups by a draw, it is known whether the cheap teacher is right. Of all thresholds of its
sureness the lowest is taken at which the answers kept are shown to be right as often as wanted.

The choice is fixed-sequence testing as in *Learn then Test* (Angelopoulos, Bates, Candès, Jordan and Lei 2021,
arXiv:2110.01052, section 4): thresholds are tested from the highest down, each at the full level, and the first that is
not shown to do stops the walk. Which thresholds are tested, and where the walk begins, hangs on the sureness of the
answers and not on whether they are right, so that the threshold taken misses the target with a probability of at most
``1 - confidence``, however many are tested.

A single test is Clopper and Pearson's exact one (Biometrika 1934) at the *effective* number of rows, as Korn and
Graubard (Survey Methodology 1998) do for shares near 0 or 1 in samples of groups: rows of one query tend to be wrong
together, and a hundred of them are no hundred trials. See :func:`effective_rows`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.labeling.cascade_config import SurenessBy

Floats = NDArray[np.float64]

_MOST_STEPS = 40
_LEAST_GROUPS = 5
_SPARE = 0.3
"""Share of the errors permitted with which the first test has to be passable, where there are rows enough for it."""
_TOGETHER = 0.5
"""Groups for which errors are taken to come wholly together, beside those seen."""
# One step alone may pass where the walk ended before it: a tenth more rows would promise too much.
_LEAST_NEEDED_TIMES, _MOST_NEEDED_TIMES = 1.5, 100.0


@dataclass(frozen=True)
class Judged:
    """Answers of the cheap teacher on calibration rows, and whether they are right.

    Attributes:
        sureness: ``[n]``, how sure it is.
        wrong: ``[n]``, whether the answer is wrong; for rows that do not count, false.
        counts: ``[n]``, whether the row counts towards the target; a precision counts positive answers only.
        group: ``[n]``, index of the row's group.
    """

    sureness: Floats
    wrong: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    group: NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One threshold that was looked at.

    Attributes:
        threshold: Answers at least this sure are kept.
        kept: Share of the calibration rows that are kept.
        rows: Of those kept, the rows that count.
        groups: Groups that these are in.
        right: Share of these that are right; None without any.
        at_least: What that share is at least, with the confidence wanted; None likewise.
        effective_rows: What they are worth as independent trials.
        p_value: Chance of as few errors, or fewer, where the target is missed; None where the step was not tested.
        passed: Whether the walk went past it.
    """

    threshold: float
    kept: float
    rows: int
    groups: int
    right: float | None
    at_least: float | None
    effective_rows: float
    p_value: float | None
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Choice:
    """The threshold taken.

    Attributes:
        threshold: Answers at least this sure are kept; None where no threshold was shown to do.
        steps: Every threshold looked at, from the highest down.
        correlation: How much errors of one group go together, from 0 to 1; see :func:`error_correlation`.
        rows_needed: Calibration rows that would probably be enough where none does: as the same rows go on. None where
            a threshold was found, or where no number of rows would do.
    """

    threshold: float | None
    steps: tuple[Step, ...]
    correlation: float
    rows_needed: int | None

    @property
    def taken(self) -> Step | None:
        """The step of the threshold taken."""
        return next((step for step in self.steps if step.threshold == self.threshold), None)


def choose_threshold(judged: Judged, *, target: float, confidence: float, judged_share: float = 0.0) -> Choice:
    """Takes the lowest threshold at which the answers kept are shown to be right often enough.

    The guarantee is about the answers kept on rows that were *not* judged. Where those judged are a good part of all
    rows, luck on the ones is bad luck on the others, and the effective number of rows shrinks by ``1 - judged_share``:
    with N rows of which n are judged, Var(share of the n - share of the others) is 1 / (1 - n / N) times as great as
    with others without end.

    Args:
        judged: Calibration rows.
        target: Share of right answers wanted among those kept.
        confidence: Probability with which it is to be met, over draws of the calibration rows.
        judged_share: Share that these rows are of all rows.
    """
    correlation = error_correlation(judged)
    level = 1.0 - confidence
    steps = [
        _step(judged, at, correlation, scale=1.0 - judged_share, level=level) for at in candidates(judged.sureness)
    ]
    begin = _begin([step.effective_rows for step in steps], target=target, level=level)
    walked, threshold, going = steps[:begin], None, True
    for step in steps[begin:]:
        if going:
            errors = step.effective_rows * (1.0 - (step.right or 0.0))
            step = replace(step, p_value=p_value(errors, step.effective_rows, target=target))
            going = step.p_value is not None and step.p_value <= level
            step = replace(step, passed=going)
            threshold = step.threshold if going else threshold
        walked.append(step)
    needed = None if threshold is not None else _rows_needed(steps, len(judged.wrong), target=target, level=level)
    return Choice(threshold, tuple(walked), correlation, needed)


def candidates(sureness: Floats) -> Floats:
    """Thresholds to look at, from the highest down: values that occur, at most 40, evenly over the rows."""
    if not len(sureness):
        return np.empty(0)
    shares = np.linspace(0, 1, _MOST_STEPS + 1)[:-1]
    found = np.unique(np.quantile(sureness, shares, method="lower"))
    return np.asarray(found[::-1], dtype=np.float64)


def sureness(probs: Floats, *, by: SurenessBy) -> Floats:
    """How sure distributions are, from 0 to 1.

    ``confidence`` is the greatest probability, ``margin`` that less the second, ``entropy`` is ``1 - H / log(labels)``.

    Args:
        probs: ``[n, labels]``, each line summing to one.
        by: Which.
    """
    if by == "confidence":
        return np.asarray(probs.max(axis=1))
    if by == "margin":
        top = np.sort(probs, axis=1)
        return np.asarray(top[:, -1] - top[:, -2])
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return np.asarray(1.0 + (probs * logs).sum(axis=1) / math.log(probs.shape[1]))


def error_correlation(judged: Judged) -> float:
    r"""How much errors of one group go together: the intraclass correlation, from the analysis of variance.

    .. math:: \rho = \frac{MSB - MSW}{MSB + (m_0 - 1) MSW}, \quad
              m_0 = \frac{1}{G - 1} \Big(n - \frac{\sum_g m_g^2}{n}\Big)

    with MSB and MSW the mean squares of errors between and within the G groups, of :math:`m_g` rows (Ridout, Demetrio
    and Firth, Biometrics 1999). It is taken over all rows that count, not those kept alone, among which there are too
    few errors to tell; what is below 0 counts as 0.

    Few groups with an error tell little of it, and none tells nothing: luck would then pass for independence. So it is
    drawn towards 1 by the weight of half a group, with k groups that have an error: ``(k rho + 1/2) / (k + 1/2)``.
    Without that, made-up rows with wholly clustered errors missed a 5% promise in 10% of draws.
    """
    sizes, wrong = _by_group(judged, judged.counts)
    rows, groups = sizes.sum(), len(sizes)
    if groups < 2 or rows <= groups:  # groups of one row each: there is nothing to come together
        return 0.0
    share = wrong / sizes
    between = (sizes * (share - wrong.sum() / rows) ** 2).sum() / (groups - 1)
    within = (sizes * share * (1.0 - share)).sum() / (rows - groups)
    size = (rows - (sizes**2).sum() / rows) / (groups - 1)
    spread = between + (size - 1.0) * within
    found = min(1.0, max(0.0, (between - within) / spread)) if spread > 0 else 0.0
    seen = int((wrong > 0).sum())
    return float((seen * found + _TOGETHER) / (seen + _TOGETHER))


def effective_rows(sizes: Floats, correlation: float) -> float:
    r"""What rows in groups are worth as independent trials.

    .. math:: n^* = \frac{n}{1 + (\bar m - 1) \rho} \Big(\frac{z_{0.975}}{t_{0.975, G - 1}}\Big)^2, \quad
              \bar m = \frac{\sum_g m_g^2}{n}

    The first part is Kish's design effect; the second, of Korn and Graubard (1998), answers for G groups from which the
    design effect is guessed. Below five groups nothing can be told, and it is 0.

    Args:
        sizes: Rows of each group.
        correlation: As :func:`error_correlation` gives it.
    """
    groups, rows = len(sizes), float(sizes.sum())
    if groups < _LEAST_GROUPS:
        return 0.0
    effect = 1.0 + (float((sizes**2).sum()) / rows - 1.0) * correlation
    return rows / max(1.0, effect) * _few_groups(groups)


def p_value(errors: float, trials: float, *, target: float) -> float:
    """Chance of as few errors or fewer where the share right is at most ``target``: Clopper and Pearson's test.

    ``P(Bin(n, 1 - target) <= x)``, which is the regularised incomplete beta function ``I_target(n - x, x + 1)`` and so
    has a value for effective numbers that are no whole ones.

    Args:
        errors: Wrong answers, at least 0; effective numbers may be fractions.
        trials: Answers judged.
        target: Share right, between 0 and 1, that is to be shown to be exceeded.
    """
    from scipy.special import betainc  # type: ignore[import-untyped]

    if trials <= 0:
        return 1.0
    return float(betainc(trials - errors, errors + 1.0, target)) if errors < trials else 1.0


def least_share(errors: float, trials: float, *, level: float) -> float:
    """The least share right at which so few errors have a chance of ``level``: the end of the one-sided interval.

    Args:
        errors: As in :func:`p_value`.
        trials: As there.
        level: One minus the confidence.
    """
    from scipy.special import betaincinv

    return float(betaincinv(trials - errors, errors + 1.0, level)) if errors < trials else 0.0


def _begin(effective: list[float], *, target: float, level: float) -> int:
    """Where the walk begins: not at the very top, where one stray error among the few rows kept would end it.

    It begins where the test is passable with some errors, if that leaves half of the rows for going on, and else where
    it is passable without any. It looks at numbers of rows alone, so that nothing of the guarantee is lost.
    """

    def first(spare: float) -> int:
        permitted = spare * (1.0 - target)
        able = (at for at, rows in enumerate(effective) if p_value(permitted * rows, rows, target=target) <= level)
        return next(able, len(effective))

    comfortable = first(_SPARE)
    if comfortable < len(effective) and effective[comfortable] <= effective[-1] / 2:
        return comfortable
    return first(0.0)


def _step(judged: Judged, threshold: float, correlation: float, *, scale: float, level: float) -> Step:
    kept = judged.sureness >= threshold
    sizes, wrong = _by_group(judged, kept & judged.counts)
    rows, worth = int(sizes.sum()), effective_rows(sizes, correlation) * scale
    right = 1.0 - float(wrong.sum()) / rows if rows else None
    return Step(
        threshold=float(threshold),
        kept=float(kept.mean()),
        rows=rows,
        groups=len(sizes),
        right=right,
        at_least=None if right is None else least_share(worth * (1.0 - right), worth, level=level),
        effective_rows=worth,
        p_value=None,
        passed=False,
    )


def _by_group(judged: Judged, chosen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Rows chosen and errors among them, of each group that has any."""
    groups = int(judged.group.max()) + 1 if len(judged.group) else 0
    sizes = np.bincount(judged.group[chosen], minlength=groups).astype(np.float64)
    wrong: Floats = np.bincount(judged.group[chosen], weights=judged.wrong[chosen], minlength=groups).astype(np.float64)
    return sizes[sizes > 0], wrong[sizes > 0]


def _rows_needed(steps: list[Step], calibration: int, *, target: float, level: float) -> int | None:
    """Calibration rows with which some step would pass, if the others are like these; None where that is no help."""
    found = []
    for step in steps:
        if step.right is None or not step.effective_rows:
            continue
        wrong = ((1.0 - step.right) * step.rows + 0.5) / (step.rows + 1.0)
        times = np.geomspace(_LEAST_NEEDED_TIMES, _MOST_NEEDED_TIMES, 200)
        rows = times * step.effective_rows
        able = [t for t, n in zip(times, rows, strict=True) if p_value(wrong * n, n, target=target) <= level]
        found += [math.ceil(calibration * able[0])] if able else []
    return min(found, default=None)


@cache
def _few_groups(groups: int) -> float:
    from scipy.special import stdtrit

    normal = 1.959963984540054  # z at 0.975
    return float((normal / stdtrit(groups - 1, 0.975)) ** 2)
