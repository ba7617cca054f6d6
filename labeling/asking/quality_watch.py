"""Watches how well teachers do on gold rows while they are asked, and says when one is to be paused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.labeling.labeling_config import WatchConfig
from distill.labeling.shares import Share, anytime_share
from distill.labeling.task import Task
from distill.labeling.vote import Vote


@dataclass(frozen=True)
class Quality:
    """How a teacher did on the gold rows that it was asked.

    Attributes:
        metric: ``accuracy`` or ``positive_accuracy``.
        right: Right answers among those labeled, with an interval that holds however often it is looked at.
        below: The line.
        paused: Whether it was paused for it.
    """

    metric: str
    right: Share
    below: float
    paused: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"metric": self.metric, **self.right.to_dict(), "below": self.below, "paused": self.paused}


class QualityWatch:
    """Counts right answers on gold rows by teacher.

    A teacher is paused as soon as the whole of its interval lies below the line. The interval is a confidence sequence
    (:func:`~distill.labeling.shares.anytime_share`), so that looking after every answer pauses a teacher that is no
    worse than the line with a probability of at most 5%. Rows without a label (refused, failed) count neither way:
    those have a limit of their own. Of repeats only the first counts.

    Args:
        gold: Gold label by row id.
        task: For the positive label.
        config: Metric and line.
    """

    def __init__(self, gold: Mapping[str, str], *, task: Task, config: WatchConfig) -> None:
        self._gold = gold
        self._config = config
        self._positive = task.positive if config.metric == "positive_accuracy" else None
        self._right: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._paused: set[str] = set()

    def __call__(self, vote: Vote) -> str | None:
        """Counts a vote.

        Returns:
            Why its teacher is to be paused, with the evidence; None where it is not, or was told before.
        """
        gold = self._gold.get(vote.row_id)
        if gold is None or vote.outcome != "labeled" or vote.sample or vote.teacher in self._paused:
            return None
        self._seen[vote.teacher] += 1
        self._right[vote.teacher] += self._is_right(vote.label, gold)
        seen, right, config = self._seen[vote.teacher], self._right[vote.teacher], self._config
        if seen < config.after or right / seen >= config.below:
            return None
        share = anytime_share(right, seen)
        if share.high is None or share.high >= config.below:
            return None
        self._paused.add(vote.teacher)
        return (
            f"its {config.metric} on gold rows is below labeling.watch.below {config.below:g}: {right} of {seen} "
            f"right, {100 * right / seen:.1f}% (95% interval {100 * (share.low or 0):.1f} to {100 * share.high:.1f}, "
            f"also when looked at after every answer); correct its prompt or model, lower the line, or take it out"
        )

    def quality(self, teacher: str) -> Quality:
        """How a teacher did so far; what came after it was paused is not counted."""
        share = anytime_share(self._right[teacher], self._seen[teacher])
        return Quality(self._config.metric, share, self._config.below, teacher in self._paused)

    def _is_right(self, label: str | None, gold: str) -> bool:
        if self._positive is None:
            return label == gold
        return (label == self._positive) == (gold == self._positive)
