"""OpenAI's batch jobs: a file of requests in, a file of results out, within 24 hours.

Follows the reference of ``/files`` and ``/batches`` (https://platform.openai.com/docs/api-reference/batch) as the SDK
openai 3.57 types it. Tried against an imitation of it only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from distill.labeling.engine.batch_service import BatchResult, BatchState, BatchStatus
from distill.labeling.errors import (
    BadReplyError,
    OverloadedError,
    TeacherError,
    UnknownModelError,
)
from distill.labeling.teacher import Request
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai_errors import Refusal, is_filtered, told

if TYPE_CHECKING:
    from distill.teachers.openai import OpenAITeacher

TAG = "distill_tag"
"""Name of the metadata by which a job is found again."""

_PATH = "/v1/chat/completions"
_LINE = b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n'
_MOST_REQUESTS = 50_000
_MOST_FILE_BYTES = 200_000_000
_LINE_BYTES = 120  # what a line holds besides the body
_UPLOAD_TIMEOUT_S = 1800.0
_CALL_TIMEOUT_S = 60.0
_PAGE = 100
_STATES: dict[str, BatchState] = {
    "completed": "ended",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
}
_UNFINISHED = ("batch_expired", "batch_cancelled")
# Bytes of UTF-8 a token at the most, and tokens of a short and of a traced answer at the most: what a plan takes.
_BYTES_PER_TOKEN = 2.5
_SHORT_ANSWER_TOKENS = 80
_TRACED_ANSWER_TOKENS = 400


class OpenAIBatches:
    """The batch jobs of the service behind a teacher; a :class:`~distill.labeling.engine.batch_service.BatchService`.

    Args:
        teacher: Whose requests are sent, over its connections.
        config: Its section.
    """

    most_requests = _MOST_REQUESTS
    most_bytes = _MOST_FILE_BYTES - _MOST_REQUESTS * _LINE_BYTES

    def __init__(self, teacher: OpenAITeacher, config: OpenAITeacherConfig) -> None:
        self._teacher = teacher
        self._config = config

    async def submit(self, requests: Sequence[Request], *, tag: str) -> str:
        """Uploads the requests, and makes a job of them that carries the tag.

        Raises:
            TeacherError: As :meth:`~distill.labeling.engine.batch_service.BatchService.submit` says; a file that was
                uploaded stays with the service then.
        """
        with tempfile.TemporaryFile() as file:
            for request in requests:
                file.write(_LINE % (request.key.hex().encode(), _PATH.encode(), request.body))
            file.seek(0)
            uploaded = await self._upload(file, name=f"{tag}.jsonl")
        wanted = {
            "input_file_id": uploaded,
            "endpoint": _PATH,
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
        made = await self._call("POST", "/batches", json=wanted)
        return str(self._field(made, "id"))

    async def find(self, tag: str) -> str | None:
        """Goes through the list of jobs, the newest first, for one that carries the tag."""
        after: dict[str, str] = {}
        while True:
            page = await self._call("GET", "/batches", params={"limit": str(_PAGE), **after})
            jobs = [job for job in self._field(page, "data") if isinstance(job, dict)]
            for job in jobs:
                if (job.get("metadata") or {}).get(TAG) == tag:
                    return str(self._field(job, "id"))
            if not page.get("has_more") or not jobs:
                return None
            after = {"after": str(self._field(jobs[-1], "id"))}

    async def status(self, job_id: str) -> BatchStatus:
        """How a job is getting on; one that the service no longer knows counts as expired."""
        job = await self._call("GET", f"/batches/{job_id}", nothing=(404,))
        if not job:
            return BatchStatus("expired", reason="the service no longer knows the job")
        counts = job.get("request_counts") or {}
        done = int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
        state = _STATES.get(str(job.get("status")), "running")
        if state != "failed":
            return BatchStatus(state, done)
        error = await self._why(job)
        return BatchStatus(state, done, str(error), error)

    async def results(self, job_id: str) -> AsyncIterator[BatchResult]:
        """Results of a job that is over: the answers, then the errors."""
        job = await self._call("GET", f"/batches/{job_id}", nothing=(404,))
        for file_id in (job.get("output_file_id"), job.get("error_file_id")):
            if file_id:
                async for line in self._lines(str(file_id)):
                    if (result := await self._result(line)) is not None:
                        yield result

    async def cancel(self, job_id: str) -> None:
        """Has a job stop. One that is over, or is stopping already, is left as it is."""
        await self._call("POST", f"/batches/{job_id}/cancel", nothing=(400, 404, 409))

    def estimate_usd(self, request: Request) -> float | None:
        """About what a request costs in a job, the higher side of it; None where no price is known."""
        price = self._config.price
        if price is None:
            return None
        written = _TRACED_ANSWER_TOKENS if self._teacher.answer.trace else _SHORT_ANSWER_TOKENS
        read = len(request.body) / _BYTES_PER_TOKEN
        return (read * price.input_usd_per_mtok + written * price.output_usd_per_mtok) / 1e6 * price.batch_factor

    async def _upload(self, file: IO[bytes], *, name: str) -> str:
        import aiohttp

        with aiohttp.MultipartWriter("form-data") as form:
            form.append("batch").set_content_disposition("form-data", name="purpose")
            part = form.append(file, {"Content-Type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=name)
        # The teacher's connections say that a body is JSON where nobody says otherwise.
        headers = {"Content-Type": form.content_type}
        uploaded = await self._call("POST", "/files", data=form, headers=headers, timeout_s=_UPLOAD_TIMEOUT_S)
        return str(self._field(uploaded, "id"))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float = _CALL_TIMEOUT_S,
        nothing: tuple[int, ...] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Asks the service, and gives its answer back as an object; an empty one for a status that says ``nothing``."""
        async with self._teacher.request(method, path, timeout_s=timeout_s, **options) as response:
            body = (await response.read()).decode("utf-8", "replace")
        parsed = _object(body)
        if response.status == 200 and parsed is not None:
            return parsed
        if response.status == 200:
            raise BadReplyError(self._teacher.say(f"{method} {path}: expected an object, got {told(body, parsed)}"))
        if response.status in nothing:
            return {}
        refusal = Refusal(response.status, response.headers, body, parsed)
        if refusal.status in (404, 405, 501):
            raise UnknownModelError(
                self._teacher.say(f"the server has no batch jobs ({method} {path}: {refusal.told}); leave batch out")
            )
        raise await self._teacher.refused(refusal)

    async def _lines(self, file_id: str) -> AsyncIterator[bytes]:
        """Lines of a file; none of one that is gone."""
        rest = b""
        path = f"/files/{file_id}/content"
        async with self._teacher.request("GET", path, timeout_s=_UPLOAD_TIMEOUT_S) as response:
            if response.status == 404:
                return
            if response.status != 200:
                body = (await response.read()).decode("utf-8", "replace")
                raise await self._teacher.refused(Refusal(response.status, response.headers, body, _object(body)))
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
        if rest.strip():
            yield rest

    async def _result(self, line: bytes) -> BatchResult | None:
        """What a line of a result file says; None where it says that the job did not come to the request."""
        parsed = _object(line.decode("utf-8", "replace"))
        try:
            key = bytes.fromhex(str((parsed or {})["custom_id"]))
        except (KeyError, ValueError):
            return None  # not one of ours
        assert parsed is not None
        error, response = parsed.get("error"), parsed.get("response")
        if not isinstance(response, dict):
            code = error.get("code") if isinstance(error, dict) else None
            if code in _UNFINISHED:
                return None
            words = self._teacher.say(f"the batch job has no answer, got {told(json.dumps(parsed), parsed)}")
            return BatchResult(key, OverloadedError(words))
        status, body = int(response.get("status_code") or 0), response.get("body")
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        if 200 <= status < 300 or is_filtered(body):
            try:
                return BatchResult(key, self._teacher.batch_reply(text))
            except BadReplyError as error:
                return BatchResult(key, error)
        return BatchResult(key, await self._teacher.refused(Refusal(status, {}, text, body)))

    async def _why(self, job: Mapping[str, Any]) -> TeacherError:
        """Why a job failed as a whole: a file that is not in order, or too much at once."""
        listed = (job.get("errors") or {}).get("data") or [{}]
        first = listed[0] if isinstance(listed[0], dict) else {}
        code, message = str(first.get("code") or "no code"), str(first.get("message") or "no reason is given")
        error = {"code": code, "message": f"{message} ({code})"}
        status = 429 if "limit_exceeded" in code else 400
        return await self._teacher.refused(Refusal(status, {}, json.dumps({"error": error}), {"error": error}))

    def _field(self, answer: Mapping[str, Any], name: str) -> Any:
        if answer.get(name) is None:
            raise BadReplyError(
                self._teacher.say(f"batch jobs: the answer has no {name}, got {told(json.dumps(answer), answer)}")
            )
        return answer[name]


def _object(body: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
