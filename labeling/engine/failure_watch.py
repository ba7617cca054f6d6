"""Says when a teacher is to be stopped because too many of the last rows came to nothing."""

from __future__ import annotations

from collections import deque

from distill.labeling.labeling_config import FailureStop


class FailureWatch:
    """Looks at how the last rows that a teacher was asked ended.

    Args:
        stop: How many of how many may fail; None where a teacher is never stopped for that.
    """

    def __init__(self, stop: FailureStop | None) -> None:
        self._stop = stop
        self._recent: deque[bool] = deque(maxlen=stop.of_last if stop else 1)

    def note(self, went_wrong: bool, reason: str | None) -> str | None:
        """Takes in how a row ended.

        Args:
            went_wrong: Whether it failed, or its answer did not fit.
            reason: Why, in words.

        Returns:
            Why the teacher is to be stopped; None where it is not.
        """
        stop = self._stop
        if stop is None:
            return None
        self._recent.append(went_wrong)
        wrong = sum(self._recent)
        if not went_wrong or len(self._recent) < stop.of_last or wrong < stop.fraction * stop.of_last:
            return None
        return f"{wrong} of the last {stop.of_last} rows asked failed or did not fit, the last one with: {reason}"
