"""How numbers and metrics are said to a reader: the same words in terminal, Markdown and HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distill.eval.evaluation import LOWER_IS_BETTER
from distill.eval.intervals import Estimate
from distill.eval.queries.wording import QUERY_MEANINGS, QUERY_PERCENT, QUERY_TITLES
from distill.eval.ranking import CUTOFFS, RANK_METRICS
from distill.eval.scored import TruthSource


def _first(k: int) -> str:
    return "the first" if k == 1 else f"the first {k}"


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PRECISIONS = frozenset(name for name in RANK_METRICS if name.startswith("precision"))
_PERCENT = frozenset({"accuracy", "positive_accuracy", "macro_f1", "calibration_error", *_PRECISIONS, *QUERY_PERCENT})
_TITLES = {
    "accuracy": "accuracy, all labels",
    "positive_accuracy": "accuracy, {positive} or not",
    "macro_f1": "macro F1",
    "auc": "AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "grade_error": "grades off",
    "ranked_probability": "RPS",
    **{f"ndcg@{k}": f"nDCG at {k}" for k in CUTOFFS},
    **{f"precision@{k}": f"precision at {k}" for k in CUTOFFS},
    **QUERY_TITLES,
}
_MEANINGS = {
    "accuracy": "share of rows that got the right one of all labels",
    "positive_accuracy": "share of rows put on the right side of {positive} or not; the other labels count as one",
    "macro_f1": "F1 of each label, averaged so that rare labels count as much as common ones",
    "auc": "chance that a row that is {positive} is scored above one that is not; 0.5 is guessing",
    "log_loss": "mean of minus the log of the probability given to the true label; 0 is perfect",
    "brier": "squared error of the stated probabilities; 0 is perfect, 2 is certain and wrong",
    "calibration_error": "mean gap between how sure it says it is and how often it is right (15 equal-width bins)",
    "grade_error": "mean distance between the true grade and the given one; 0 is perfect",
    "ranked_probability": "ranked probability score: as Brier, with near misses costing less than far ones",
    **{f"ndcg@{k}": f"grades of {_first(k)} of each query, against those of the best order" for k in CUTOFFS},
    **{f"precision@{k}": f"share that is {{positive}} among {_first(k)} of each query" for k in CUTOFFS},
    **QUERY_MEANINGS,
}
TRUTH_WORDS: dict[str, str] = {
    "human": "labels by people",
    "author": "labels by the author of the data",
    "teacher": "merged teacher labels (agreement, not accuracy)",
}


def metric_title(metric: str, *, positive: str | None = None, truth_source: TruthSource | None = None) -> str:
    """Short name of a metric. Against teachers it is agreement, and is called that."""
    title = _TITLES.get(metric, metric.replace("_", " ")).format(positive=positive or "positive")
    if truth_source == "teacher":
        return f"{title.replace('accuracy', 'agreement')}" if "accuracy" in title else f"{title}, against teachers"
    return title


def metric_meaning(metric: str, *, positive: str | None = None) -> str:
    """One line that says what the metric measures, and which way is better."""
    meaning = _MEANINGS.get(metric, metric).format(positive=f"“{positive}”" if positive else "positive")
    if metric in RANK_METRICS:
        return f"{meaning}; mean over the queries with enough rows"
    return f"{meaning} (lower is better)" if metric in LOWER_IS_BETTER else meaning


def is_percent(metric: str) -> bool:
    """Whether the metric is read as a percentage."""
    return metric in _PERCENT


def number(value: float | None, metric: str) -> str:
    """A metric's value: ``84.2%``, ``0.913``, ``–`` where it is undefined."""
    if value is None:
        return "–"
    said = f"{100 * value:.1f}%" if is_percent(metric) else f"{value:.3f}"
    return said.replace("-", "−")


def interval(estimate: Estimate, metric: str, *, signed: bool = False) -> str:
    """Value and interval: ``84.2% (81.0 to 87.1)``; with ``signed``, ``+3.1 (+0.2 to +6.0)`` in points."""
    if estimate.value is None:
        return f"– ({estimate.note})" if estimate.note else "–"
    if signed:
        scale, places = (100, 1) if is_percent(metric) else (1, 3)
        ends = [estimate.value, estimate.low, estimate.high]
        said = [f"{scale * end:+.{places}f}".replace("-", "−") if end is not None else "?" for end in ends]
        return f"{said[0]} ({said[1]} to {said[2]})"
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, metric)
    low, high = number(estimate.low, metric).rstrip("%"), number(estimate.high, metric).rstrip("%")
    return f"{number(estimate.value, metric)} ({low} to {high})"


def share(estimate: Estimate) -> str:
    """A proportion and its interval, as percentages."""
    return interval(estimate, "accuracy")


def count(value: float | None) -> str:
    """A count with thousands apart: ``1,408``."""
    return "–" if value is None else f"{value:,.0f}"


def dollars(value: float | None) -> str:
    """A price. Unknown is said, and never shown as nothing."""
    if value is None:
        return "unknown"
    if value == 0:
        return "$0"
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}" if value >= 1e-4 else f"${value:.1e}"


def seconds(value: float | None) -> str:
    """A duration: ``0.8 s``, ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def quantity(value: float | None, unit: str = "") -> str:
    """A large number shortened: ``22.7M``, ``1,350 pairs/s``."""
    if value is None:
        return "–"
    said = f"{value / 1e9:.1f}B" if value >= 1e9 else f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value:,.0f}"
    return f"{said}{unit}"


def plural(amount: float, singular: str, many: str | None = None) -> str:
    """A counted noun: ``1 row``, ``1,408 rows``."""
    return f"{count(amount)} {singular if amount == 1 else many or singular + 's'}"


def printable(text: object) -> str:
    """Text without control characters and without marks that reorder what is around them (bidi overrides)."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as ``a.b`` and text, for a list of names and values."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            lines.append((name, ", ".join(str(item) for item in value) or "–"))
        else:
            lines.append((name, "–" if value is None else str(value)))
    return lines
