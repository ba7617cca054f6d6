"""What happened in a labeling run, for its log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LabelingEventKind = Literal["started", "stopped", "ended", "limit", "pause", "quota", "alone", "batch"]
"""``started`` and ``ended``: a teacher's part began, or every row has its outcome. ``stopped``: it sends nothing more.
``limit``: the requests allowed in flight changed by a quarter or more. ``pause``: the server asked for quiet.
``quota``: a quota a minute holds it back for the first time. ``alone``: it refused requests about several rows, and
is asked about each row alone from now on. ``batch``: something happened to one of its batch jobs."""

_NOTABLE_CHANGE = 1.25


@dataclass(frozen=True, slots=True)
class LabelingEvent:
    """One thing that happened.

    Attributes:
        at_s: Seconds since the run began.
        teacher: To whom.
        kind: What.
        facts: The rest, as plain values.
    """

    at_s: float
    teacher: str
    kind: LabelingEventKind
    facts: dict[str, Any] = field(default_factory=dict)


class LimitWatch:
    """Says when a limit has changed enough to be worth a line in a log."""

    def __init__(self, limit: int) -> None:
        self._noted = limit

    def changed(self, limit: int) -> int | None:
        """The limit noted before, where this one is off by a quarter or more."""
        before = self._noted
        if max(limit, before) < _NOTABLE_CHANGE * min(limit, before):
            return None
        self._noted = limit
        return before
