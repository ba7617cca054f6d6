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
    ├── AnswerError [1]                a text is no answer (labeling/answers/parsing.py): control flow of the
    │                                  engine, which asks again and then ends the row as `invalid`
    ├── BudgetError [3]                the budget is spent; what was answered is kept, the run resumes
    ├── InBatchError [3]               rows wait in batch jobs at a provider; the same command picks them up
    └── TeacherError [1]               a teacher did not answer; `stops_teacher` and `retryable` say what next
        ├── WrongKeyError              wrong_key: 401/403; stops the teacher at once
        ├── UnknownModelError          unknown_model: 404 for the model; stops the teacher at once
        ├── SpendLimitError            spend_limit: the account has no credit left (402, 429 with insufficient_quota);
        │                              stops the teacher at once, the same command goes on when it is topped up
        ├── DailyQuotaError            daily_quota: 429 for a quota of a day or longer; stops the teacher at once, the
        │                              same command goes on tomorrow
        ├── LocalServerError           local_server: a server or worker that we start ourselves does not come up, or
        │                              keeps dying; stops the teacher at once
        ├── SchemaRejectedError        schema_rejected: 400 for the answer's schema, which every row shares; stops the
        │                              teacher at once, and names the setting that asks for less
        ├── ConstraintIgnoredError     constraint_ignored: the server answers as if it had not been held to a schema;
        │                              stops the teacher before the first row, and names another way to hold it
        ├── LaneMissingError           lane_missing: the server lacks the way of answering that the recipe asks for;
        │                              stops the teacher before the first row
        ├── RequestRejectedError       request_rejected: 400/422; this request is at fault, not retried
        ├── RateLimitError             minute_quota: 429; retried, after `retry_after_s` where the server says so
        ├── OverloadedError            overloaded: 5xx; retried
        ├── TeacherTimeoutError        timeout: no answer in time; retried
        ├── ConnectionFailedError      connection: refused, reset, cut in the middle; retried
        ├── BatchUnfinishedError       batch_unfinished: a batch job ended before it came to the request;
        │                              goes into the next job
        ├── FunctionRaisedError        function_raised: a labeling function raised on this row; not tried again
        └── BadReplyError              bad_reply: 200, but the body is not what the protocol says (HTML, half a JSON);
                                       retried

The word before the colon is the error's `cause`: votes, `failures.jsonl`, progress and the log name it so. A row that
ends without an error of this tree has one of the causes in :data:`CAUSES`.

A message reads *where: what, got what, do what*. The CLI prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CAUSES",
    "BadReplyError",
    "BatchUnfinishedError",
    "BudgetError",
    "ConnectionFailedError",
    "ConstraintIgnoredError",
    "DailyQuotaError",
    "DataError",
    "DistillError",
    "FunctionRaisedError",
    "InBatchError",
    "LaneMissingError",
    "LedgerDamagedError",
    "LedgerError",
    "LedgerVersionError",
    "LedgerWriteError",
    "LocalServerError",
    "MissingDependencyError",
    "OverloadedError",
    "RateLimitError",
    "RecipeError",
    "RequestRejectedError",
    "RunFolderError",
    "SchemaRejectedError",
    "SpendLimitError",
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


class InBatchError(DistillError):
    """Rows wait in batch jobs at a provider. The jobs are on record; the same command takes their results."""

    exit_code = 3


class TeacherError(DistillError):
    """A teacher did not answer a request.

    Class attributes say what happens next: ``retryable`` errors are sent again a bounded number of times,
    and ``stops_teacher`` ones end that teacher's part of the run, since no other request would fare better. ``cause``
    is its name in tables and logs.
    """

    cause = "error"
    retryable = False
    stops_teacher = False


class WrongKeyError(TeacherError):
    """The server does not accept the credentials (401, 403)."""

    cause = "wrong_key"
    stops_teacher = True


class UnknownModelError(TeacherError):
    """The server does not serve this model, or the path is wrong (404)."""

    cause = "unknown_model"
    stops_teacher = True


class SpendLimitError(TeacherError):
    """The account has no credit left, or has reached the limit set for it (402, 429 with insufficient_quota)."""

    cause = "spend_limit"
    stops_teacher = True


class DailyQuotaError(TeacherError):
    """A quota of a day or longer is used up: waiting for it would take hours."""

    cause = "daily_quota"
    stops_teacher = True


class LocalServerError(TeacherError):
    """A server or worker that we start ourselves does not come up, or keeps dying."""

    cause = "local_server"
    stops_teacher = True


class SchemaRejectedError(TeacherError):
    """The server does not take the schema that answers are held to, which is the same for every row."""

    cause = "schema_rejected"
    stops_teacher = True


class ConstraintIgnoredError(TeacherError):
    """The server accepts a constraint on the answer, and then does not keep to it."""

    cause = "constraint_ignored"
    stops_teacher = True


class LaneMissingError(TeacherError):
    """The server lacks the lane that the recipe asks for: no decision endpoint, no log-probabilities."""

    cause = "lane_missing"
    stops_teacher = True


class RequestRejectedError(TeacherError):
    """The server refuses this one request (400, 413, 422); the next row may fare better."""

    cause = "request_rejected"


class RateLimitError(TeacherError):
    """The server asks to slow down (429).

    Attributes:
        retry_after_s: Seconds that the server asked to wait, None where it did not say.
    """

    cause = "minute_quota"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RateLimitError):
    """The server is in trouble (5xx). Handled as :class:`RateLimitError`: wait, then send again."""

    cause = "overloaded"


class TeacherTimeoutError(TeacherError):
    """No complete answer within the time allowed."""

    cause = "timeout"
    retryable = True


class ConnectionFailedError(TeacherError):
    """The connection was refused, reset, or cut before the body was whole.

    Attributes:
        sent: Whether the request may have arrived; False where no connection was made.
    """

    cause = "connection"
    retryable = True

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class BatchUnfinishedError(TeacherError):
    """A batch job expired or was cancelled before it came to the request."""

    cause = "batch_unfinished"
    retryable = True


class FunctionRaisedError(TeacherError):
    """A labeling function raised on this row. It would again: it is not tried again."""

    cause = "function_raised"


class BadReplyError(TeacherError):
    """The server answered 200 with something that is not the protocol: an HTML page, half a JSON."""

    cause = "bad_reply"
    retryable = True


CAUSES: dict[str, str] = {
    "wrong_key": "The server does not accept the key; the teacher was stopped",
    "unknown_model": "The server has no such model or path; the teacher was stopped",
    "spend_limit": "The account has no credit left; the teacher was stopped, top it up and run the same command",
    "daily_quota": "A quota of a day or longer is used up; the teacher was stopped, run the same command tomorrow",
    "local_server": "The server or worker started for the teacher did not come up, or kept dying; its log says why",
    "schema_rejected": "The server does not take the answer's schema; the teacher was stopped, ask for less",
    "constraint_ignored": "The server ignores the schema that answers are held to; the teacher was stopped",
    "lane_missing": "The server lacks the lane that the recipe asks for; the teacher was stopped",
    "request_rejected": "The server refuses this one request; not sent again",
    "minute_quota": "Too many requests, also after retries; the same command asks again",
    "overloaded": "The server was in trouble (5xx), also after retries; the same command asks again",
    "timeout": "No answer in time, also after retries; the same command asks again",
    "connection": "No connection, or one that broke, also after retries; the same command asks again",
    "bad_reply": "The body was not what the protocol says, also after retries; the same command asks again",
    "function_raised": "A labeling function raised on the row; correct it and run the same command",
    "truncated": "The answer ended at max_tokens before it was whole; not asked again, raise max_tokens",
    "misfit": "The answer does not fit the schema, also after it was asked again with the reason",
    "not_in_input": "A span that is not in the input, also after it was asked again with the reason",
    "filtered": "The provider withheld the answer",
    "refused": "The model declined",
    "abstained": "The teacher said that it cannot tell",
    "budget": "A budget or quota in all was used up first; the same command goes on from there",
    "in_batch": "It waits in a batch job at the provider; the same command takes the result when it is there",
    "batch_unfinished": "Batch jobs ended before they came to it, also the later ones; the same command asks again",
    "failing": "The teacher was stopped since most of its rows failed",
    "paused": "The teacher was stopped for another reason, which is given",
    "no_reply": "A recorded teacher has no reply for the row",
    "no_known_label": "A label is to be explained and the row has none that may be shown",
    "cascade": "Not asked for: the other teacher of the cascade answers this row",
    "error": "Something that should not happen; the reason holds it in full",
}
"""What can go wrong with a row, by name, in one sentence each."""
