"""Makes a student's probabilities mean what they say: three maps of its scores, of which log loss chooses one.

========= ================================================================== ==================================
method    map                                                                paper
========= ================================================================== ==================================
none      ``softmax(z)``
temperature ``softmax(z / T)``                                               Guo et al. 2017, arXiv:1706.04599
vector    ``softmax(a * z / T + b)``, ``a`` and ``b`` drawn to 1 and 0        likewise, section 4.2
isotonic  ``f_k(softmax(z / T)_k)``, each ``f_k`` monotone, and renormalised  Zadrozny and Elkan 2002
========= ================================================================== ==================================

The maps are plain numbers, so that whoever serves a student's scores elsewhere gets the same distribution from
:func:`calibrated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.labeling.asking.cascade import Judged, effective_rows, error_correlation

FEWEST_ROWS = 20
"""With fewer rows nothing is fitted."""
FEWEST_GROUPS = 5
"""With fewer groups only a temperature is fitted: what a map of many numbers is worth on others cannot be told."""
_FEWEST_WORTH_ISOTONIC = 200.0
"""Rows as independent ones under which no isotonic map is tried: it overfits on few (Niculescu-Mizil and Caruana 2005),
which a cross-validation over few queries does not always see (docs/log.md)."""
_LOWEST, _HIGHEST = 0.05, 20.0
_MOST_FOLDS = 10
_BINS = 15
_VECTOR_PRECISION = 25.0
"""How strongly log scales and biases are drawn to 0: as by a Gaussian prior of standard deviation 1 / 5.

Chosen on scores of CrowdFlower's audit and test rows, 7 and 15 queries at a time (docs/log.md)."""


@dataclass(frozen=True)
class Curve:
    """A monotone map: straight lines between points, flat beyond the first and the last.

    Attributes:
        x: Probabilities before, ascending.
        y: Probabilities after.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """How well a map does on groups that it was not fitted on.

    Attributes:
        log_loss: Mean cross-entropy with the target, in nats.
        calibration_error: Expected calibration error of the most probable label, 15 bins of equal width.
    """

    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Calibration:
    """How a student's probabilities were set right; :func:`calibrated` applies it.

    Attributes:
        temperature: Divides the logits.
        source: ``audit gold``, ``validation`` (the targets that students learn from: weak labels mostly), or ``none``.
        rows: Rows that it was fitted on.
        method: ``none``, ``temperature``, ``vector`` or ``isotonic``.
        scale: Multiplies the logits of each label; empty for ones.
        bias: Added to the scaled logits of each label; empty for zeros.
        curves: A map for each label's probability, renormalised after; empty for none.
        floor: Least probability that a curve gives.
        groups: Groups that the rows are in.
        scores: Of each method that was tried, on groups that it was not fitted on; ``none`` is how it was before.
    """

    temperature: float = 1.0
    source: str = "none"
    rows: int = 0
    method: str = "temperature"
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    curves: tuple[Curve, ...] = ()
    floor: float = 0.0
    groups: int = 0
    scores: Mapping[str, Score] = field(default_factory=dict)

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """Reads what ``dataclasses.asdict`` wrote, also before there was more than a temperature."""
        return cls(
            **{
                **found,
                "scale": tuple(found.get("scale", ())),
                "bias": tuple(found.get("bias", ())),
                "curves": tuple(Curve(tuple(curve["x"]), tuple(curve["y"])) for curve in found.get("curves", ())),
                "scores": {name: Score(**score) for name, score in found.get("scores", {}).items()},
            }
        )


def calibrated(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Turns a student's scores into the distribution that it states.

    Args:
        logits: ``[N, K]``.
        calibration: The student's.

    Returns:
        ``[N, K]`` float64, each line summing to one. After a curve no probability is 0.
    """
    scaled = logits.astype(np.float64)
    if calibration.scale:
        scaled = scaled * np.array(calibration.scale)
    if calibration.bias:
        # The bias stands beside the scores that are divided already: softmax(a z / T + b).
        scaled = scaled + calibration.temperature * np.array(calibration.bias)
    probs = softmax(scaled, temperature=calibration.temperature)
    if not calibration.curves:
        return probs
    mapped = np.stack(
        [np.interp(probs[:, label], curve.x, curve.y) for label, curve in enumerate(calibration.curves)], axis=1
    )
    mapped = np.maximum(mapped, calibration.floor)
    result: np.ndarray = mapped / mapped.sum(axis=1, keepdims=True)
    return result


def fit_calibration(
    logits: np.ndarray,
    target: np.ndarray,
    *,
    group: Sequence[str] | np.ndarray,
    source: str,
    weight: np.ndarray | None = None,
    keep_labels: bool = False,
) -> Calibration:
    """Fits each map, and takes the one of least log loss on groups that it was not fitted on.

    Groups are dealt into at most ten parts; each map is fitted on all but one and costs what it costs on that one.
    Without groups enough for that (:data:`FEWEST_GROUPS`) it is the temperature.

    Args:
        logits: ``[N, K]`` on rows that the student has not learned from.
        target: ``[N, K]``, one-hot for gold labels.
        group: ``[N]``, what no part may cut through.
        source: What the target is, for :attr:`Calibration.source`.
        weight: ``[N]``; ones where it is None.
        keep_labels: Take none but the maps that leave the most probable label the same: no map, or a temperature.

    Returns:
        The map; none where there are fewer than :data:`FEWEST_ROWS` rows.
    """
    if len(logits) < FEWEST_ROWS:
        return Calibration(method="none")
    weights = np.ones(len(logits)) if weight is None else weight / weight.mean()
    target = target.astype(np.float64)
    names = ("none", "temperature") if keep_labels else tuple(_FITS)
    codes = np.unique(np.asarray(group), return_inverse=True)[1]
    groups = int(codes.max()) + 1
    method, scores = "temperature", {}
    if groups >= FEWEST_GROUPS:
        weights = weights * _worth(logits, target, codes)
        if weights.sum() < _FEWEST_WORTH_ISOTONIC:
            names = tuple(name for name in names if name != "isotonic")
        fits = {name: _FITS[name] for name in names}
        scores = _held_out_scores(fits, logits, target, weight=weights, folds=_folds(codes))
        method = min(scores, key=lambda name: scores[name].log_loss)
    fitted = _FITS[method](logits, target, weights)
    return Calibration(
        temperature=fitted.temperature,
        source=source,
        rows=len(logits),
        method=method,
        scale=fitted.scale,
        bias=fitted.bias,
        curves=fitted.curves,
        floor=fitted.floor,
        groups=groups,
        scores=scores,
    )


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """``exp(z / T) / sum exp(z / T)`` by row, in float64.

    Args:
        logits: ``[N, K]``.
        temperature: Above 1 flattens, below 1 sharpens; the most probable label stays the same.
    """
    return np.asarray(np.exp(_log_softmax(logits, temperature=temperature)))


def log_loss(logits: np.ndarray, target: np.ndarray, *, temperature: float, weight: np.ndarray) -> float:
    """``sum_i w_i * -sum_k t_ik * log softmax(z_i / T)_k / sum_i w_i``."""
    log_probs = _log_softmax(logits, temperature=temperature)
    return float((weight * -(target * log_probs).sum(axis=-1)).sum() / weight.sum())


def calibration_error(probs: np.ndarray, target: np.ndarray, *, weight: np.ndarray | None = None) -> float:
    """``sum_b (n_b / n) |mean confidence_b - mean target_b|`` of the most probable label, 15 bins of equal width.

    As :func:`distill.eval.metrics.expected_calibration_error`, but for targets that may be soft.

    Args:
        probs: ``[N, K]``.
        target: ``[N, K]``.
        weight: ``[N]``; ones where it is None.
    """
    weights = np.ones(len(probs)) if weight is None else weight
    top = probs.argmax(axis=1)
    confidence = probs[np.arange(len(probs)), top]
    right = target[np.arange(len(probs)), top]
    place = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(place, weights=weights * (confidence - right), minlength=_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def fit_temperature(logits: np.ndarray, target: np.ndarray, *, weight: np.ndarray | None = None) -> float:
    """The temperature of least log loss (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The log loss is convex in ``1 / T``, so that the one minimum is found by bounded search over ``log T``.

    Args:
        logits: ``[N, K]`` on rows that the student has not learned from.
        target: ``[N, K]``, one-hot for gold labels.
        weight: ``[N]``; ones where it is None.

    Returns:
        A temperature between 0.05 and 20; 1 for no rows.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    if len(logits) == 0:
        return 1.0
    weights = np.ones(len(logits)) if weight is None else weight
    found = minimize_scalar(
        lambda log_t: log_loss(logits, target, temperature=math.exp(log_t), weight=weights),
        bounds=(math.log(_LOWEST), math.log(_HIGHEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))


Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Calibration]


def _fit_none(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    return Calibration()


def _fit_temperature(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    return Calibration(temperature=fit_temperature(logits, target, weight=weight))


def _fit_vector(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    r"""Minimises, over :math:`a = e^\alpha` and b, with the temperature found before,

    .. math:: \sum_i w_i CE(t_i, softmax(a z_i / T + b)) + \frac{\lambda}{2} (|\alpha|^2 + |b|^2)

    where the weights add up to what the rows are worth as independent ones. Without the second part a label that occurs
    in no calibration row would be ruled out for ever.
    """
    from scipy.optimize import minimize

    temperature = fit_temperature(logits, target, weight=weight)
    scores, labels = logits.astype(np.float64) / temperature, logits.shape[1]

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = np.exp(values[:labels]), values[labels:]
        log_probs = _log_softmax(scores * scale + bias)
        wrong = weight[:, None] * (np.exp(log_probs) * target.sum(axis=1, keepdims=True) - target)
        gradient = np.concatenate([(wrong * scores).sum(axis=0) * scale, wrong.sum(axis=0)])
        loss = float((weight[:, None] * -(target * log_probs)).sum())
        penalty = _VECTOR_PRECISION / 2 * float((values**2).sum())
        return loss + penalty, gradient + _VECTOR_PRECISION * values

    found = minimize(cost, np.zeros(2 * labels), jac=True, method="L-BFGS-B").x
    return Calibration(
        temperature=temperature,
        scale=tuple(float(value) for value in np.exp(found[:labels])),
        bias=tuple(float(value) for value in found[labels:]),
    )


def _fit_isotonic(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """One monotone regression a label on its tempered probability, each label against the others."""
    from sklearn.isotonic import IsotonicRegression

    temperature = fit_temperature(logits, target, weight=weight)
    probs = softmax(logits, temperature=temperature)
    curves = []
    for label in range(logits.shape[1]):
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
            probs[:, label], target[:, label], sample_weight=weight
        )
        curves.append(Curve(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())))
    # Half a row of n + 1: never seen in n rows is not never (Krichevsky and Trofimov 1981).
    return Calibration(temperature=temperature, curves=tuple(curves), floor=0.5 / (len(logits) + 1))


_FITS: dict[str, Fit] = {
    "none": _fit_none,
    "temperature": _fit_temperature,
    "vector": _fit_vector,
    "isotonic": _fit_isotonic,
}
"""Simplest first: of two that do as well the first is taken."""


def _held_out_scores(
    fits: Mapping[str, Fit], logits: np.ndarray, target: np.ndarray, *, weight: np.ndarray, folds: np.ndarray
) -> dict[str, Score]:
    """Cross-validates each map; ``folds`` ``[N]`` says which part each row is in."""
    scores = {}
    for name, fit in fits.items():
        probs = np.zeros_like(target)
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            probs[out] = calibrated(logits[out], fit(logits[~out], target[~out], weight[~out]))
        losses = -(target * np.log(np.maximum(probs, np.finfo(np.float64).tiny))).sum(axis=1)
        scores[name] = Score(
            float((weight * losses).sum() / weight.sum()), calibration_error(probs, target, weight=weight)
        )
    return scores


def _worth(logits: np.ndarray, target: np.ndarray, codes: np.ndarray) -> float:
    """What a row is worth beside an independent one: the rows of one query tend to be wrong together."""
    judged = Judged(
        sureness=np.zeros(len(codes)),
        wrong=logits.argmax(axis=1) != target.argmax(axis=1),
        counts=np.ones(len(codes), dtype=bool),
        group=codes.astype(np.int64),
    )
    sizes = np.bincount(codes).astype(np.float64)
    return effective_rows(sizes, error_correlation(judged)) / len(codes)


def _folds(codes: np.ndarray) -> np.ndarray:
    """Deals groups into parts of like size: the greatest first, each to the part with the fewest rows."""
    sizes = np.bincount(codes)
    parts = np.zeros(min(_MOST_FOLDS, len(sizes)))
    fold_of = np.zeros(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(parts.argmin())
        parts[fold_of[group]] += sizes[group]
    return fold_of[codes]


def _log_softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
