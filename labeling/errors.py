"""Every error that distill raises on purpose.

The tree (exit code of the CLI in brackets)::

    DistillError [1]
    ├── UsageError [2]                 what the user wrote cannot be run as it is
    │   ├── RecipeError                recipe: unknown key, wrong type, missing file, bad --set
    │   ├── DataError                  rows: missing column, empty data, a group across two splits
    │   ├── RunFolderError             run folder: made by another recipe, or in use by another run
    │   └── MissingDependencyError     an extra that is not installed; names the install line
    ├── LedgerError [1]                the ledger cannot be used
    │   ├── LedgerVersionError         written by a newer distill
    │   ├── LedgerDamagedError         not a database, or fails its integrity check
    │   └── LedgerWriteError           an answer could not be made durable (full disk, read-only)
    ├── StudentError [1]               a student cannot be trained, loaded or asked
    ├── AnswerError [1]                a text is no answer to the task (in labeling/parsing.py): control flow of the
    │                                  engine, which asks again and then ends the row as `invalid`
    ├── BudgetError [3]                the budget is spent; what was answered is kept, the run resumes
    └── TeacherError [1]               a teacher did not answer; `stops_teacher` and `retryable` say what next
        ├── WrongKeyError              401/403: stops the teacher at once
        ├── UnknownModelError          404 for the model: stops the teacher at once
        ├── RequestRejectedError       400/422: this request is at fault; not retried
        ├── RateLimitError             429: retried, after `retry_after_s` where the server says so
        ├── OverloadedError            5xx: retried
        ├── TeacherTimeoutError        no answer in time: retried
        ├── ConnectionFailedError      refused, reset, cut in the middle: retried
        └── BadReplyError              200, but the body is not what the protocol says (HTML, half a JSON): retried

A message reads *where: what, got what, do what*. The CLI prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadReplyError",
    "BudgetError",
    "ConnectionFailedError",
    "DataError",
    "DistillError",
    "LedgerDamagedError",
    "LedgerError",
    "LedgerVersionError",
    "LedgerWriteError",
    "MissingDependencyError",
    "OverloadedError",
    "RateLimitError",
    "RecipeError",
    "RequestRejectedError",
    "RunFolderError",
    "StudentError",
    "TeacherError",
    "TeacherTimeoutError",
    "UnknownModelError",
    "UsageError",
    "WrongKeyError",
]


class DistillError(Exception):
    """Root of every error raised on purpose."""

    exit_code = 1


class UsageError(DistillError):
    """What the user wrote (recipe, command line, arguments) cannot be run as it is."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is wrong. Carries every problem found, not only the first.

    Attributes:
        problems: One line each, ``file:line: path: what, got what, do what``.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(UsageError):
    """The rows as a whole cannot be used: a column is missing, nothing is left, a group leaks across splits."""


class RunFolderError(UsageError):
    """The run folder belongs to another recipe, or another process is writing to it."""


class MissingDependencyError(UsageError):
    """An optional package is not installed.

    Args:
        package: What could not be imported.
        needed_for: The feature that wants it.
        install: The command that installs it.
    """

    def __init__(self, package: str, *, needed_for: str, install: str) -> None:
        super().__init__(f"{needed_for}: needs the package {package!r}, which is not installed; run: {install}")


class LedgerError(DistillError):
    """The ledger cannot be used."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer distill than this one."""


class LedgerDamagedError(LedgerError):
    """The ledger is not a database, or does not pass its integrity check."""


class LedgerWriteError(LedgerError):
    """An answer could not be made durable. Nothing is used that is not in the ledger, so the run stops."""


class StudentError(DistillError):
    """A student cannot be trained, loaded, or asked to predict."""


class BudgetError(DistillError):
    """The budget is spent. Every answer paid for is kept; the same command goes on from there."""

    exit_code = 3


class TeacherError(DistillError):
    """A teacher did not answer a request.

    Class attributes say what happens next: ``retryable`` errors are sent again a bounded number of times,
    and ``stops_teacher`` ones end that teacher's part of the run, since no other request would fare better.
    """

    retryable = False
    stops_teacher = False


class WrongKeyError(TeacherError):
    """The server does not accept the credentials (401, 403)."""

    stops_teacher = True


class UnknownModelError(TeacherError):
    """The server does not serve this model, or the path is wrong (404)."""

    stops_teacher = True


class RequestRejectedError(TeacherError):
    """The server refuses this one request (400, 413, 422); the next row may fare better."""


class RateLimitError(TeacherError):
    """The server asks to slow down (429).

    Attributes:
        retry_after_s: Seconds that the server asked to wait, None where it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RateLimitError):
    """The server is in trouble (5xx). Handled as :class:`RateLimitError`: wait, then send again."""


class TeacherTimeoutError(TeacherError):
    """No complete answer within the time allowed."""

    retryable = True


class ConnectionFailedError(TeacherError):
    """The connection was refused, reset, or cut before the body was whole."""

    retryable = True


class BadReplyError(TeacherError):
    """The server answered 200 with something that is not the protocol: an HTML page, half a JSON."""

    retryable = True
