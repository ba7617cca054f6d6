"""What a client of ``distill serve`` did wrong, in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any


class ServeError(Exception):
    """A request that is not answered with a prediction.

    Args:
        status: HTTP status.
        message: What, got what, do what; never a row's text.
        code: One word for programs.
        param: The field of the body at fault.
        retry_after_s: Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {message, type, param, code}}``."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After``, where there is one, and ``WWW-Authenticate`` where a key is asked for."""
        found = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def bad(message: str, *, param: str | None, code: str = "invalid_value") -> ServeError:
    """A body that cannot be used (400).

    Args:
        message: Where, what, got what, do what.
        param: The field that is to blame; None for the body as a whole.
        code: What programs read.
    """
    return ServeError(400, message, code=code, param=param)
