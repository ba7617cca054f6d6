"""Gemini's batch jobs: ``batchGenerateContent``, with the requests inline or in an uploaded file."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.labeling.engine.batch_service import BatchResult, BatchState, BatchStatus
from distill.labeling.errors import BadReplyError, RequestRejectedError, TeacherError
from distill.labeling.teacher import Reply, Request
from distill.teachers.gemini_client import sdk
from distill.teachers.gemini_errors import Refusal, as_error
from distill.teachers.json_body import parsed_json

if TYPE_CHECKING:
    from distill.teachers.gemini import GeminiTeacher

# Inline requests may take 20 MB in all; base64 and the frame around each request are in that.
_MOST_INLINE_BYTES = 15 * 1000**2
_PAGE = 100
_STATES: dict[str, BatchState] = {
    "JOB_STATE_SUCCEEDED": "ended",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "ended",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_EXPIRED": "expired",
}


class GeminiBatches:
    """Batch jobs of one teacher (:class:`~distill.labeling.engine.batch_service.BatchService`), at half the price.

    Jobs are told apart by their display names, which are our tags, and requests by the hex of their keys. Bodies go out
    as they were hashed: the kept guideline and the flex tier are not for batches.

    Args:
        teacher: Whose requests they are; open while jobs are asked about.

    Attributes:
        most_requests: The most requests of one job.
        most_bytes: The most bytes of the bodies of one job; files may hold 2 GB, but are put together in memory.
    """

    most_requests = 50_000
    most_bytes = 200 * 1000**2

    def __init__(self, teacher: GeminiTeacher, *, most_inline_bytes: int = _MOST_INLINE_BYTES) -> None:
        self._teacher = teacher
        self._most_inline_bytes = most_inline_bytes

    async def submit(self, requests: Sequence[Request], *, tag: str) -> str:
        """Submits a job; inline where its bodies are below 15 MB, by an uploaded file above.

        Returns:
            The job's name, ``batches/…``.

        Raises:
            TeacherError: It was not submitted; or, where ``retryable``, that is not known.
        """
        small = sum(len(request.body) for request in requests) <= self._most_inline_bytes
        try:
            job = await (self._submit_inline(requests, tag) if small else self._submit_file(requests, tag))
        except Exception as error:
            raise self._failure(error) from None
        return str(job.name)

    async def find(self, tag: str) -> str | None:
        """The name of the job with this display name; None where the provider has none.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        try:
            async for job in await self._batches.list(config={"page_size": _PAGE}):
                if job.display_name == tag:
                    return str(job.name)
        except Exception as error:
            raise self._failure(error) from None
        return None

    async def status(self, job_id: str) -> BatchStatus:
        """How a job is getting on. The provider counts what is done only once the job is over.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        job = await self._job(job_id)
        state = _STATES.get(job.state.value if job.state else "", "running")
        done = len(job.dest.inlined_responses or ()) if job.dest else 0
        if state != "failed":
            return BatchStatus(state, done)
        told = getattr(job.error, "message", None) or "the provider gives no reason"
        error = RequestRejectedError(self._teacher.say(f"the batch job {job_id} failed: {told}"))
        return BatchStatus(state, done, told, error)

    async def results(self, job_id: str) -> AsyncIterator[BatchResult]:
        """Results of a job that is over, in any order. Requests that were not finished have none.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        job = await self._job(job_id)
        if job.dest is None:
            return
        for line in job.dest.inlined_responses or ():
            error = line.error.model_dump(exclude_none=True) if line.error else None
            raw = None
            if line.response is not None:
                raw = line.response.model_dump_json(by_alias=True, exclude_none=True, exclude={"sdk_http_response"})
            yield self._result((line.metadata or {}).get("key"), raw, error)
        if job.dest.file_name:
            for line in await self._lines(job.dest.file_name):
                response = line.get("response")
                raw = json.dumps(response, ensure_ascii=False) if isinstance(response, dict) else None
                yield self._result(line.get("key"), raw, line.get("error"))

    async def cancel(self, job_id: str) -> None:
        """Has a job stop; what is finished by then keeps its results.

        Raises:
            TeacherError: The provider cannot be asked.
        """
        try:
            await self._batches.cancel(name=job_id)
        except Exception as error:
            raise self._failure(error) from None

    @property
    def _batches(self) -> Any:
        return self._teacher.client.aio.batches

    async def _submit_inline(self, requests: Sequence[Request], tag: str) -> Any:
        _, types = sdk()
        inlined = [
            {"request": body, "metadata": {"key": request.key.hex()}}
            for request, body in zip(requests, _bodies(requests), strict=True)
        ]
        # The SDK writes the request that stands in src; extra_body puts ours, as they were hashed, in its place.
        batch = {"displayName": tag, "inputConfig": {"requests": {"requests": inlined}}}
        options = types.HttpOptions(extra_body={"batch": batch})
        config = types.CreateBatchJobConfig(display_name=tag, http_options=options)
        placeholder = types.InlinedRequest(contents="-")
        return await self._batches.create(model=self._teacher.model, src=[placeholder], config=config)

    async def _submit_file(self, requests: Sequence[Request], tag: str) -> Any:
        lines = [
            json.dumps({"key": request.key.hex(), "request": body}, ensure_ascii=False, separators=(",", ":"))
            for request, body in zip(requests, _bodies(requests), strict=True)
        ]
        content = io.BytesIO(("\n".join(lines) + "\n").encode("utf-8", "replace"))
        uploaded = await self._teacher.client.aio.files.upload(
            file=content, config={"display_name": tag, "mime_type": "application/jsonl"}
        )
        return await self._batches.create(model=self._teacher.model, src=uploaded.name, config={"display_name": tag})

    async def _job(self, job_id: str) -> Any:
        try:
            return await self._batches.get(name=job_id)
        except Exception as error:
            raise self._failure(error) from None

    async def _lines(self, file_name: str) -> list[dict[str, Any]]:
        try:
            content: bytes = await self._teacher.client.aio.files.download(file=file_name)
        except Exception as error:
            raise self._failure(error) from None
        lines = [parsed_json(line) for line in content.decode("utf-8", "replace").split("\n") if line.strip()]
        return [line for line in lines if isinstance(line, dict)]

    def _result(self, key: Any, raw: str | None, error: Mapping[str, Any] | None) -> BatchResult:
        say = self._teacher.say
        try:
            number = bytes.fromhex(key)
        except (TypeError, ValueError):
            raise BadReplyError(say(f"expected the key of a request beside its result, got {key!r}")) from None
        outcome: Reply | TeacherError
        if raw is None:
            refusal = Refusal.of_status(error or {"message": "neither a response nor an error"})
            outcome = as_error(refusal, name=self._teacher.name, model=self._teacher.model, say=say, answered=True)
        else:
            try:
                outcome = self._teacher.reply_of(raw, tier="batch")
            except TeacherError as problem:
                outcome = problem
        return BatchResult(number, outcome)

    def _failure(self, error: Exception) -> Exception:
        return self._teacher.failure(error)


def _bodies(requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
    return (json.loads(request.body) for request in requests)
