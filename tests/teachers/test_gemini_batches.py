from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from distill.labeling import errors
from distill.labeling.answers.parsing import parse_answer
from distill.labeling.engine.batch_service import BatchResult, BatchStatus
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request
from distill.teachers.config import GeminiTeacherConfig
from distill.teachers.gemini import GeminiTeacher
from distill.teachers.gemini_batches import GeminiBatches

pytest.importorskip("google.genai")

KEY = "AIza-very-secret-key-0123456789"
TASK = Task(labels=("exact", "irrelevant"), inputs=("query", "title"))
PRICE = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}


def teacher(server, **changes) -> GeminiTeacher:
    given = {"api_key": KEY, "base_url": server.base_url, "model": "gemini-tiny", "family": "gemini", "timeout_s": 5.0}
    return GeminiTeacher("hosted", GeminiTeacherConfig(**{**given, "batch": True, "price": PRICE, **changes}))


def requests_of(one: GeminiTeacher, *titles: str) -> list[Request]:
    prompter = Prompter(TASK, one.answer)
    rows = [{"row_id": f"r{n}", "query": "red shoe", "title": title} for n, title in enumerate(titles)]
    return [one.compile(prompter(row), sample=0) for row in rows]


def opened(one: GeminiTeacher, work) -> Any:
    async def main() -> Any:
        await one.open()
        try:
            return await work(one.batches)
        finally:
            await one.close()

    return asyncio.run(main())


async def results_of(batches: GeminiBatches, job: str) -> dict[bytes, BatchResult]:
    return {result.key: result async for result in batches.results(job)}


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "file"])
def test_a_job_from_requests_to_replies(gemini_server, inline):
    one = teacher(gemini_server, tier="flex", seed=3)
    one.batches = GeminiBatches(one, most_inline_bytes=10**6 if inline else 0)
    requests = requests_of(one, "Crimson sneaker", "this one fails", "Blau \u2028 ü \U0001f45f")

    async def work(batches: GeminiBatches) -> tuple[str, BatchStatus, dict[bytes, BatchResult]]:
        job = await batches.submit(requests, tag="distill-run-7")
        return job, await batches.status(job), await results_of(batches, job)

    job, status, results = opened(one, work)
    assert job.startswith("batches/")
    assert status.state == "ended"
    (sent,) = gemini_server.asked(":batchGenerateContent")
    assert sent["batch"]["displayName"] == "distill-run-7"
    source = sent["batch"]["inputConfig"]
    if inline:
        assert set(source) == {"requests"}
        lines = [(one["metadata"]["key"], one["request"]) for one in source["requests"]["requests"]]
    else:
        assert set(source) == {"fileName"}
        stored = gemini_server.files[source["fileName"]].decode()
        lines = [(one["key"], one["request"]) for one in map(json.loads, stored.split("\n")[:-1])]
    for (key, body), request in zip(lines, requests, strict=True):
        assert key == request.key.hex()
        assert body == json.loads(request.body)
    assert set(results) == {request.key for request in requests}
    good, bad, other = (results[request.key].reply for request in requests)
    assert isinstance(bad, errors.OverloadedError)
    assert "Internal error" in str(bad)
    for reply in (good, other):
        assert isinstance(reply, Reply)
        completion = one.read(Reply(reply.body))
        assert parse_answer(completion.text, task=TASK, answer=one.answer).label in TASK.labels
        # Half of 2 dollars a million in and 8 out.
        full = (2 * completion.input_tokens + 8 * completion.output_tokens) / 1e6
        assert reply.cost_usd == pytest.approx(full / 2)


def test_a_reply_of_a_job_reads_as_one_that_was_asked_for(gemini_server):
    one = teacher(gemini_server, thinking={"budget": 50, "summaries": True})
    (request,) = requests_of(one, "Crimson sneaker")

    async def work(batches: GeminiBatches) -> tuple[Reply, Reply]:
        result = await results_of(batches, await batches.submit([request], tag="t"))
        return await one.ask(request), result[request.key].reply

    asked, batched = opened(one, work)
    assert one.read(Reply(asked.body)) == one.read(Reply(batched.body))
    assert one.read(asked).reasoning


def test_a_job_is_found_again_by_its_tag_after_a_kill(gemini_server):
    def process(tag: str) -> str:
        """One process: looks for its job before it submits; then it is killed, and knows nothing any more."""
        one = teacher(gemini_server)

        async def work(batches: GeminiBatches) -> str:
            found = await batches.find(tag)
            return found or await batches.submit(requests_of(one, "Crimson sneaker"), tag=tag)

        return opened(one, work)

    first = [process(f"tag-{n}") for n in range(5)]  # on three pages of two
    again = [process(f"tag-{n}") for n in range(5)]
    assert first == again
    assert len(gemini_server.jobs) == len(set(first)) == 5


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("BATCH_STATE_PENDING", "running"),
        ("BATCH_STATE_RUNNING", "running"),
        ("BATCH_STATE_SUCCEEDED", "ended"),
        ("BATCH_STATE_FAILED", "failed"),
        ("BATCH_STATE_EXPIRED", "expired"),
        ("BATCH_STATE_CANCELLED", "cancelled"),
    ],
)
def test_how_a_job_is_getting_on(gemini_server, state, status):
    gemini_server.batch_state = state
    one = teacher(gemini_server)

    async def work(batches: GeminiBatches) -> BatchStatus:
        return await batches.status(await batches.submit(requests_of(one, "Crimson sneaker"), tag="t"))

    got = opened(one, work)
    assert got.state == status
    assert got.done == (0 if status == "running" else 1)
    assert (got.reason is not None) == (status == "failed")


def test_a_job_is_cancelled(gemini_server):
    gemini_server.batch_state = "BATCH_STATE_RUNNING"
    one = teacher(gemini_server)

    async def work(batches: GeminiBatches) -> BatchStatus:
        job = await batches.submit(requests_of(one, "Crimson sneaker"), tag="t")
        await batches.cancel(job)
        return await batches.status(job)

    assert opened(one, work).state == "cancelled"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("minute:3", errors.RateLimitError), ("daily", errors.DailyQuotaError), ("drop", errors.ConnectionFailedError)],
)
def test_a_job_that_is_not_submitted(gemini_server, fault, kind):
    one = teacher(gemini_server)
    gemini_server.script(fault)

    async def work(batches: GeminiBatches) -> None:
        await batches.submit(requests_of(one, "Crimson sneaker"), tag="t")

    with pytest.raises(kind):
        opened(one, work)
    assert len(gemini_server.asked(":batchGenerateContent")) == 1
    assert gemini_server.jobs == {}
