"""Rows that wait to be put into a provider batch job, and how many of them the next job takes."""

from __future__ import annotations

from itertools import islice

from distill.labeling.engine.batch_service import BatchService
from distill.labeling.engine.budget import Purse, Use
from distill.labeling.engine.jobs import Job
from distill.labeling.teacher import Request

# Where nothing has been counted yet, over the tokenizers in use.
_CHARS_PER_TOKEN = 3.5


class Gathering:
    """Gathers rows, and cuts them into jobs within the provider's limits and the budget.

    Args:
        service: The provider's jobs.
        purse: What the teacher may use.
        most_requests: The most requests of a job.
    """

    def __init__(self, service: BatchService, purse: Purse, *, most_requests: int | None) -> None:
        self._service = service
        self._purse = purse
        self.most_requests = min(service.most_requests, most_requests or service.most_requests)
        self.rows: list[Job] = []
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it fills a job."""
        return len(self.rows) >= self.most_requests or self.size_bytes >= self._service.most_bytes

    @property
    def overfull(self) -> bool:
        """Whether it fills more than two jobs: nothing more should be read meanwhile."""
        return self.size_bytes >= 2 * self._service.most_bytes

    def add(self, job: Job) -> None:
        """Takes a row."""
        self.rows.append(job)
        self.size_bytes += size_of(job.request)

    def let_go(self, count: int | None = None) -> list[Job]:
        """Gives rows back, the first ones first; all of them where no number is given."""
        count = len(self.rows) if count is None else count
        gone, self.rows = self.rows[:count], self.rows[count:]
        self.size_bytes -= sum(size_of(job.request) for job in gone)
        return gone

    def cut(self) -> list[Job]:
        """Takes out the rows of the next job; none where the budget does not bear the first."""
        left, spent, size, count = self._purse.left(), Use(), 0, 0
        for job in islice(self.rows, self.most_requests):
            expected = self.expected(job.request)
            spent = Use(*(one + more for one, more in zip(spent, expected, strict=True)))
            size += size_of(job.request)
            # Sums of many small floats drift: what was set aside for a whole budget must go on fitting in it.
            if size > self._service.most_bytes or any(
                used > most * (1 + 1e-9) for used, most in zip(spent, left, strict=True)
            ):
                break
            count += 1
        return self.let_go(count) if count else []

    def expected(self, request: Request) -> Use:
        """What a request will probably use: as replies have shown, else by the provider's prices."""
        if not self._purse.limited or self._purse.informed:
            return self._purse.estimate
        estimate = getattr(self._service, "estimate_usd", None)
        usd = estimate(request) if estimate is not None else None
        return Use(1.0, size_of(request) / _CHARS_PER_TOKEN, usd or 0.0)

    def short_text(self) -> str | None:
        """Why the budget will never bear the first row; None where it does, or may once jobs under way are paid."""
        if not self.rows:
            return None
        expected = self.expected(self.rows[0].request)
        return self._purse.short_text(expected) if self._purse.bears(expected) == "stop" else None


def size_of(request: Request) -> int:
    """Bytes of a request's body, without putting it together."""
    return len(request.start) + len(request.rest)
