"""One provider batch job as a run follows it: who waits for it, and when it is looked at next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distill.labeling.engine.batch_journal import OpenJob
from distill.labeling.engine.jobs import Job
from distill.labeling.errors import TeacherError

_FIRST_LOOK_S = 10.0
_LONGEST_LOOK_S = 300.0
_SLOWER = 1.5


@dataclass(slots=True, eq=False)
class ProviderJob:
    """A batch job that is at the provider, or may be. Times are by the run's clock.

    Attributes:
        entry: Its line in the journal.
        keys: Keys of its requests.
        ours: Whether this lane looks after it also where nobody waits for it: it was submitted under the teacher's
            name, or under one that is not in the run. What was set aside for it is then set aside in this run.
        job_id: The provider's id; None while it is not known whether it was submitted.
        waiting: Rows of this run that wait for it, by key.
        next_look_s: When it is looked at next.
        abandoned_s: When it counts as never submitted if it has not been found by then.
        tail_s: When it is cancelled so that the rest can be asked live.
        looks: How often it was looked at.
        done: Requests that have a result, when last looked at.
        cancelling: Whether it has been told to stop.
        lost_since_s: Since when the provider cannot be asked about it; None where it can.
        trouble: What went wrong as it was submitted.
    """

    entry: OpenJob
    keys: frozenset[bytes]
    ours: bool
    job_id: str | None
    next_look_s: float
    waiting: dict[bytes, Job] = field(default_factory=dict)
    abandoned_s: float = math.inf
    tail_s: float = math.inf
    looks: int = 0
    done: int = 0
    cancelling: bool = False
    lost_since_s: float | None = None
    trouble: TeacherError | None = None

    @property
    def tag(self) -> str:
        """Our name of it."""
        return self.entry.tag

    @property
    def name(self) -> str:
        """What to call it in messages: the provider's id, else ours."""
        return self.job_id or self.tag

    @property
    def watched(self) -> bool:
        """Whether it is to be looked at."""
        return self.ours or bool(self.waiting)

    def look_again(self, now_s: float) -> None:
        """Sets the next look: in 10 s at first, less and less often, every 5 minutes in the end."""
        wait_s = min(_LONGEST_LOOK_S, _FIRST_LOOK_S * _SLOWER**self.looks)
        self.looks += 1
        self.next_look_s = min(now_s + wait_s, self.tail_s if self.tail_s > now_s else math.inf)
