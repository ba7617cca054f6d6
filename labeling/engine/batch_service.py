"""Provider batch jobs: many requests handed over at once, answered within hours, at a lower price."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, NamedTuple, Protocol

from distill.labeling.errors import TeacherError
from distill.labeling.teacher import Reply, Request

BatchState = Literal["running", "ended", "expired", "cancelled", "failed"]
"""``ended``: every request has its result. ``expired`` and ``cancelled``: those that were finished have. ``failed``:
none has, the job as a whole was refused."""


class BatchStatus(NamedTuple):
    """How a job is getting on.

    Attributes:
        state: Whether it is over, and how.
        done: Requests that have a result so far.
        reason: Why it failed, in the provider's words; None where it did not.
        error: The same as the error whose kind says what happens next: ``retryable`` where the job may be submitted
            again later (a quota of jobs or tokens under way); any other stops the teacher, and so does None.
    """

    state: BatchState
    done: int = 0
    reason: str | None = None
    error: TeacherError | None = None


class BatchResult(NamedTuple):
    """The result of one request of a job.

    Attributes:
        key: The request's key.
        reply: What came back, in the form that the teacher's ``read`` takes; or why nothing did.
    """

    key: bytes
    reply: Reply | TeacherError


class BatchService(Protocol):
    """A provider's batch jobs. A teacher that has them carries one as its attribute ``batches``.

    The tag is ours, written down before anything is submitted: a job that was submitted just before a kill is found
    again by it and never submitted twice.

    A service may also have ``estimate_usd(request) -> float | None``: about what a request costs in a job, the higher
    side of it. A budget sets that aside for the first jobs, before any reply tells.

    Attributes:
        most_requests: The most requests of one job.
        most_bytes: The most bytes of the bodies of one job.
    """

    most_requests: int
    most_bytes: int

    async def submit(self, requests: Sequence[Request], *, tag: str) -> str:
        """Submits a job whose requests are told apart by the hex of their keys.

        Returns:
            The provider's id of the job.

        Raises:
            TeacherError: It was not submitted; or, where ``retryable``, that is not known.
        """
        ...

    async def find(self, tag: str) -> str | None:
        """The id of the job that carries a tag; None where the provider has none.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        ...

    async def status(self, job_id: str) -> BatchStatus:
        """How a job is getting on.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        ...

    def results(self, job_id: str) -> AsyncIterator[BatchResult]:
        """Results of a job that is over, in any order. Requests that were not finished have none.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        ...

    async def cancel(self, job_id: str) -> None:
        """Has a job stop; what is finished by then keeps its results.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        ...
