"""How a labeling run goes, and how it went."""

from __future__ import annotations

import copy
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

_RATE_WINDOW_S = 10.0


@dataclass(slots=True)
class TeacherTally:
    """Counts of one teacher. Rows are counted once a sample.

    Attributes:
        outcomes: How rows ended, by outcome. Together they are the rows done.
        requests_sent: Requests sent, each sending counted.
        ledger_hits: Requests that needed no sending, since the ledger or a request in flight had the answer.
        input_tokens: Of the replies bought in this run, as the provider counted them.
        output_tokens: Likewise.
        cost_usd: What this run paid, as far as prices are known.
        unpriced: Replies bought in this run whose price is not known; a budget cannot see them.
        retries: Sendings that failed and were tried again, by the name of the error.
        reasks: Answers that did not fit and were asked for again.
        cut_rows: Rows of which an input was too long and was shown in part.
        cut_fields: How often that was so, by input.
        stopped: Why the teacher was stopped early; None where it was not.
        limit: Requests allowed in flight when last looked at.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    requests_sent: int = 0
    ledger_hits: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    reasks: int = 0
    cut_rows: int = 0
    cut_fields: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    limit: int = 0

    @property
    def done(self) -> int:
        """Rows that have ended, one way or another."""
        return self.outcomes.total()


@dataclass(frozen=True, slots=True)
class TeacherProgress:
    """How one teacher is getting on.

    Attributes:
        name: The teacher's name.
        total: Rows × samples it will be asked in all; None where that is not known.
        tally: Its counts so far.
        in_flight: Requests that it is answering now.
        rows_per_s: Rows ended a second over the last ten seconds.
        paused_s: Seconds for which the server has asked for quiet; 0 where it has not.
    """

    name: str
    total: int | None
    tally: TeacherTally
    in_flight: int
    rows_per_s: float
    paused_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How a labeling run is getting on.

    Attributes:
        elapsed_s: Seconds since it began.
        teachers: Each teacher, in the order given.
    """

    elapsed_s: float
    teachers: tuple[TeacherProgress, ...]

    @property
    def cost_usd(self) -> float:
        """What the run has paid so far."""
        return sum(teacher.tally.cost_usd for teacher in self.teachers)


@dataclass(frozen=True, slots=True)
class LabelingResult:
    """How a labeling run went.

    Attributes:
        teachers: Counts by the teacher's name. Each one's outcomes add up to rows × samples.
        stopped: ``budget`` where a budget ended it before every row was asked; else None.
        elapsed_s: Seconds that it took.
    """

    teachers: dict[str, TeacherTally]
    stopped: Literal["budget"] | None
    elapsed_s: float

    @property
    def outcomes(self) -> Counter[str]:
        """How rows ended, over all teachers."""
        return sum((tally.outcomes for tally in self.teachers.values()), Counter())

    @property
    def cost_usd(self) -> float:
        """What the run paid, as far as prices are known."""
        return sum(tally.cost_usd for tally in self.teachers.values())

    @property
    def requests_sent(self) -> int:
        """Requests sent, each sending counted."""
        return sum(tally.requests_sent for tally in self.teachers.values())

    @property
    def ledger_hits(self) -> int:
        """Requests that needed no sending."""
        return sum(tally.ledger_hits for tally in self.teachers.values())


class Speedometer:
    """Rate of a counter over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, count: int, now_s: float) -> float:
        """Notes where the counter stands and returns how fast it rose, per second."""
        self._seen.append((now_s, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - _RATE_WINDOW_S:
            self._seen.popleft()
        since_s, before = self._seen[0]
        return (count - before) / (now_s - since_s) if now_s > since_s else 0.0


def snapshot(tally: TeacherTally) -> TeacherTally:
    """Copies counts, so that who is shown them does not see them change."""
    return copy.deepcopy(tally)
