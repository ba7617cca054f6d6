"""How a labeling run goes, and how it went."""

from __future__ import annotations

import copy
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from distill.labeling.engine.events import LabelingEvent

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
        retries: Sendings that failed and were tried again, by cause (:data:`~distill.labeling.errors.CAUSES`).
        reasks: Answers that did not fit and were asked for again.
        cut_rows: Rows of which an input was too long and was shown in part.
        cut_fields: How often that was so, by input.
        packs: Requests about several rows that were answered in this run.
        asked_alone: Rows asked about alone because the request about several did not answer them.
        quota_waits: Seconds for which a quota a minute held requests back, by the quota's name.
        stopped: Why the teacher was stopped early; None where it was not.
        stop_cause: The same by name, one of :data:`~distill.labeling.errors.CAUSES`.
        limit: Requests allowed in flight when last looked at.
        batch_jobs: Batch jobs submitted.
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
    packs: int = 0
    asked_alone: int = 0
    quota_waits: dict[str, float] = field(default_factory=dict)
    stopped: str | None = None
    stop_cause: str | None = None
    limit: int = 0
    batch_jobs: int = 0

    @property
    def done(self) -> int:
        """Rows that have ended, one way or another."""
        return self.outcomes.total()


class BatchProgress(NamedTuple):
    """How a teacher's batch jobs are getting on.

    Attributes:
        jobs: Jobs that are not over.
        requests: Requests in them.
        done: Of these, those that have a result at the provider.
        gathered: Requests that wait to be put into a job.
    """

    jobs: int
    requests: int
    done: int
    gathered: int


@dataclass(frozen=True, slots=True)
class TeacherProgress:
    """How one teacher is getting on.

    Attributes:
        name: The teacher's name.
        total: Rows × samples it will be asked in all; None where that is not known.
        tally: Its counts so far.
        in_flight: Requests that it is answering now.
        rows_per_s: Rows ended a second over the last ten seconds.
        tokens_per_s: Tokens bought a second, in and out, likewise.
        left_s: Seconds left at this rate; None where the total or the rate is not known.
        forecast_usd: What it will have cost in the end if rows go on as in the last ten seconds; None where the total
            is not known.
        paused_s: Seconds for which the server has asked for quiet; 0 where it has not.
        batch: Its batch jobs; None where there is none and none is to come.
    """

    name: str
    total: int | None
    tally: TeacherTally
    in_flight: int
    rows_per_s: float
    tokens_per_s: float
    left_s: float | None
    forecast_usd: float | None
    paused_s: float
    batch: BatchProgress | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How a labeling run is getting on.

    Attributes:
        elapsed_s: Seconds since it began.
        teachers: Each teacher, in the order given.
        events: What happened since the last report.
    """

    elapsed_s: float
    teachers: tuple[TeacherProgress, ...]
    events: tuple[LabelingEvent, ...] = ()

    @property
    def cost_usd(self) -> float:
        """What the run has paid so far."""
        return sum(teacher.tally.cost_usd for teacher in self.teachers)


@dataclass(frozen=True, slots=True)
class LabelingResult:
    """How a labeling run went.

    Attributes:
        teachers: Counts by the teacher's name. Each one's outcomes add up to rows × samples.
        stopped: ``budget`` where a budget ended it before every row was asked, ``in_batch`` where it ended while rows
            were in batch jobs at a provider; else None.
        elapsed_s: Seconds that it took.
    """

    teachers: dict[str, TeacherTally]
    stopped: Literal["budget", "in_batch"] | None
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


class Speeds(NamedTuple):
    """How fast counts rose over the last seconds: ``rows`` and ``tokens`` a second, and ``usd_per_row``."""

    rows: float
    tokens: float
    usd_per_row: float


class _Counts(NamedTuple):
    at_s: float
    rows: int
    tokens: int
    usd: float


class Speedometer:
    """How fast a teacher's counts rose over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[_Counts] = deque()

    def rates(self, tally: TeacherTally, now_s: float) -> Speeds:
        """Notes where the counts stand and returns how fast they rose."""
        now = _Counts(now_s, tally.done, tally.input_tokens + tally.output_tokens, tally.cost_usd)
        self._seen.append(now)
        while len(self._seen) > 2 and self._seen[1].at_s <= now_s - _RATE_WINDOW_S:
            self._seen.popleft()
        first = self._seen[0]
        seconds, rows = now_s - first.at_s, now.rows - first.rows
        usd_per_row = (now.usd - first.usd) / rows if rows else 0.0
        if seconds <= 0:
            return Speeds(0.0, 0.0, usd_per_row)
        return Speeds(rows / seconds, (now.tokens - first.tokens) / seconds, usd_per_row)


def snapshot(tally: TeacherTally) -> TeacherTally:
    """Copies counts, so that who is shown them does not see them change."""
    return copy.deepcopy(tally)


def facts_of(tally: TeacherTally) -> dict[str, Any]:
    """Counts as plain values, for a log; what is nothing is left out."""
    facts: dict[str, Any] = {
        "outcomes": dict(tally.outcomes),
        "requests_sent": tally.requests_sent,
        "ledger_hits": tally.ledger_hits,
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "cost_usd": round(tally.cost_usd, 6),
        "unpriced": tally.unpriced,
        "retries": dict(tally.retries),
        "reasks": tally.reasks,
        "packs": tally.packs,
        "asked_alone": tally.asked_alone,
        "batch_jobs": tally.batch_jobs,
        "quota_waits": {name: round(seconds, 3) for name, seconds in tally.quota_waits.items()},
    }
    return {name: value for name, value in facts.items() if value}
