from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from distill.labeling import errors
from distill.labeling.engine.batch_service import BatchResult, BatchService, BatchStatus
from distill.labeling.engine.engine import LabelingRun
from distill.labeling.engine.jobs import Timing
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request
from distill.teachers.config import OpenAITeacherConfig, PriceConfig
from distill.teachers.openai import OpenAITeacher

TASK = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=("query", "title"))
PRICE = PriceConfig(input_usd_per_mtok=1.0, output_usd_per_mtok=10.0)
_SPEED = 1000  # seconds that the engine believes to pass in one


def make(server: Any, **settings: Any) -> OpenAITeacher:
    values = {
        "base_url": server.base_url,
        "model": "tiny",
        "family": "f",
        "batch": True,
        "probe": False,
        "price": PRICE,
        **settings,
    }
    return OpenAITeacher("judge", OpenAITeacherConfig(**values))


def requests_of(teacher: OpenAITeacher, count: int) -> list[Request]:
    prompter = Prompter(TASK, teacher.answer)
    rows = [{"row_id": f"r{n}", "query": "a query", "title": f"item{n}"} for n in range(count)]
    return [teacher.compile(prompter(row), sample=0) for row in rows]


def with_service(teacher: OpenAITeacher, work: Callable[[BatchService], Any]) -> Any:
    async def main() -> Any:
        await teacher.open()
        try:
            return await work(teacher.batches)
        finally:
            await teacher.close()

    return asyncio.run(main())


async def over(service: BatchService, job_id: str) -> BatchStatus:
    while (status := await service.status(job_id)).state == "running":
        await asyncio.sleep(0.005)
    return status


async def done(service: BatchService, requests: list[Request]) -> tuple[BatchStatus, dict[bytes, BatchResult]]:
    job_id = await service.submit(requests, tag="t")
    status = await over(service, job_id)
    return status, {result.key: result async for result in service.results(job_id)}


def test_a_job_answers_what_the_live_endpoint_would(batch_server: Any) -> None:
    teacher = make(batch_server)
    requests = requests_of(teacher, 5)

    async def work(service: BatchService) -> None:
        status, results = await done(service, requests)
        assert (status.state, status.done) == ("ended", 5)
        assert results.keys() == {request.key for request in requests}
        for request in requests:
            reply, live = results[request.key].reply, await teacher.ask(request)
            assert isinstance(reply, Reply)
            assert teacher.read(reply) == teacher.read(live)
            # Tokens by their prices, and half of it in a job.
            read = teacher.read(reply)
            assert live.cost_usd == pytest.approx((read.input_tokens + 10 * read.output_tokens) / 1e6)
            assert reply.cost_usd == pytest.approx(live.cost_usd / 2)

    with_service(teacher, work)
    (job,) = batch_server.jobs.values()
    assert job.made["metadata"] == {"distill_tag": "t"}
    assert job.lines[0]["custom_id"] == requests[0].key.hex()
    assert job.lines[0]["body"] == json.loads(requests[0].body)


def test_a_job_is_found_by_its_tag_on_any_page(batch_server: Any) -> None:
    teacher = make(batch_server)

    async def work(service: BatchService) -> None:
        ids = [await service.submit(requests_of(teacher, 1), tag=f"tag-{number}") for number in range(8)]
        assert [await service.find(f"tag-{number}") for number in range(8)] == ids
        assert await service.find("tag-8") is None

    with_service(teacher, work)


def test_errors_and_lines_without_an_answer(batch_server: Any) -> None:
    teacher = make(batch_server)
    requests = requests_of(teacher, 6)
    for title, fault in (("item1", "500"), ("item2", "400"), ("item3", "error"), ("item4", "lost"), ("item5", "429")):
        batch_server.on(title, fault)
    _, results = with_service(teacher, lambda service: done(service, requests))
    kinds = {request.row_id: type(results[request.key].reply) for request in requests if request.key in results}
    assert kinds == {
        "r0": Reply,
        "r1": errors.OverloadedError,
        "r2": errors.RequestRejectedError,
        "r3": errors.OverloadedError,
        "r5": errors.RateLimitError,
    }


@pytest.mark.parametrize(("end", "state"), [("expired:0.5", "expired"), ("never", "cancelled")])
def test_an_unfinished_job_gives_what_it_has(batch_server: Any, end: str, state: str) -> None:
    teacher = make(batch_server)
    batch_server.ends = [end]

    async def work(service: BatchService) -> None:
        job_id = await service.submit(requests_of(teacher, 4), tag="t")
        if end == "never":
            await service.cancel(job_id)
            await service.cancel(job_id)
        assert (await over(service, job_id)).state == state
        await service.cancel(job_id)  # too late, and no error
        assert len([result async for result in service.results(job_id)]) == 2

    with_service(teacher, work)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("token_limit_exceeded", errors.RateLimitError),
        ("billing_hard_limit_reached", errors.SpendLimitError),
        ("model_not_found", errors.UnknownModelError),
        ("invalid_json_line", errors.RequestRejectedError),
    ],
)
def test_why_a_job_failed(batch_server: Any, code: str, kind: type[Exception]) -> None:
    teacher = make(batch_server)
    batch_server.ends = [f"failed:{code}"]
    status, results = with_service(teacher, lambda service: done(service, requests_of(teacher, 3)))
    assert (status.state, type(status.error), results) == ("failed", kind, {})
    assert code in (status.reason or "")


def test_a_job_that_the_service_forgot_counts_as_expired(batch_server: Any) -> None:
    async def work(service: BatchService) -> None:
        assert (await service.status("batch_gone")).state == "expired"
        assert [result async for result in service.results("batch_gone")] == []

    with_service(make(batch_server), work)


def test_a_server_without_batch_jobs_says_so(fault_server: Any) -> None:
    teacher = make(fault_server)
    with pytest.raises(errors.UnknownModelError, match=r"no batch jobs \(POST /files: 404.*leave batch out"):
        with_service(teacher, lambda service: service.submit(requests_of(teacher, 1), tag="t"))


@pytest.mark.parametrize(("status", "kind"), [(401, errors.WrongKeyError), (503, errors.OverloadedError)])
def test_refusals_by_kind_and_without_secrets(batch_server: Any, status: int, kind: type[Exception]) -> None:
    batch_server.refuse = {"POST /batches": [status]}
    teacher = make(batch_server, api_key="sk-very-secret")
    with pytest.raises(kind) as caught:
        with_service(teacher, lambda service: service.submit(requests_of(teacher, 1), tag="t"))
    assert "sk-very" not in str(caught.value)


def test_estimate_is_on_the_higher_side_and_at_the_price_of_a_job(batch_server: Any) -> None:
    teacher = make(batch_server)
    (request,) = requests_of(teacher, 1)
    # 2.5 bytes a token and 80 tokens written, at $1 and $10 a million, and half of it.
    assert teacher.batches.estimate_usd(request) == pytest.approx((len(request.body) / 2.5 + 800) / 1e6 / 2)
    assert make(batch_server, price=None).batches.estimate_usd(request) is None


def test_rows_go_through_jobs_whatever_happens_to_them(batch_server: Any, tmp_path: Any) -> None:
    """The engine with the real service against every fault; the outcomes add up, and nothing is paid for twice."""
    faults = {"item1\\n": "500", "item2\\n": "400", "item3\\n": "lost", "item4\\n": "prose", "item5\\n": "refusal"}
    for text, fault in faults.items():
        batch_server.on(text, fault)
    batch_server.ends = ["expired:0.5", "completed", "failed:token_limit_exceeded", "completed"]
    batch_server.refuse = {"POST /batches": [], "GET /files": [500]}
    rows = pl.DataFrame(
        {"row_id": [f"r{n}" for n in range(90)], "query": "a query", "title": [f"item{n}" for n in range(90)]}
    )
    teacher = make(batch_server, batch={"most_requests": 30})
    votes: list[pl.DataFrame] = []
    quick = Timing(clock=lambda: time.monotonic() * _SPEED, sleep=lambda seconds: asyncio.sleep(seconds / _SPEED))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        run = LabelingRun(task=TASK, teachers=[teacher], ledger=ledger, config=LabelingConfig(retries=2), timing=quick)
        result = run.run([rows], on_votes=votes.append)
    got = dict(pl.concat(votes).select("row_id", "outcome").iter_rows())
    ends = {"r1": "failed", "r2": "failed", "r3": "failed", "r4": "invalid", "r5": "refused"}
    assert {row_id: outcome for row_id, outcome in got.items() if outcome != "labeled"} == ends
    assert len(got) == 90 == result.outcomes.total()
    assert not batch_server.live
