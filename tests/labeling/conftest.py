"""A teacher that says what it is told to, and a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.engine.jobs import Timing
from distill.labeling.engine.progress import LabelingResult
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Reply, Request
from distill.labeling.vote import votes_frame

LABELS = ("exact", "substitute", "complement", "irrelevant")


class ScriptedTeacher:
    """Answers ``exact``, except where a script says otherwise.

    A script is a list of steps for the requests about an item, one step a request: an exception is raised, a text is
    the model's answer, a pair is the finish and the answer. After its steps all is well.
    """

    def __init__(self, name: str = "judge", *, family: str = "f", max_concurrency: int | None = None) -> None:
        self.name = name
        self.family = family
        self.answer = AnswerFormat(clauses=False)
        self.max_concurrency = max_concurrency
        self.cost_usd: float | None = 0.25
        self.model = "m"
        self.scripts: dict[str, list[Any]] = {}
        self.always: Any = None
        self.unanswerable: set[str] = set()
        self.uncompilable: set[str] = set()
        self.asked: Counter[bytes] = Counter()
        self.prompts: list[Prompt] = []
        self.latency_s = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = 0

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        if prompt.row_id in self.uncompilable:
            raise ZeroDivisionError("a bug")
        if prompt.row_id in self.unanswerable:
            return None
        messages = [["system", prompt.system], ["user", prompt.user], *map(list, prompt.turns)]
        body = json.dumps({"model": self.model, "messages": messages}).encode()
        return Request("http://fake", body, sample, prompt.row_id, self.model)

    def read(self, reply: Reply) -> Completion:
        body = json.loads(reply.body)
        return Completion(body["text"], finish=body["finish"], input_tokens=10, output_tokens=2)

    async def ask(self, request: Request) -> Reply:
        self.asked[request.key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            step = self._step(request)
        finally:
            self.in_flight -= 1
        if isinstance(step, BaseException):
            raise step
        finish, text = step if isinstance(step, tuple) else ("stop", step)
        return Reply(json.dumps({"text": text, "finish": finish}), latency_s=0.5, cost_usd=self.cost_usd)

    def _step(self, request: Request) -> Any:
        text = json.loads(request.body)["messages"][1][1]
        for word, steps in self.scripts.items():
            if f"{word}\n" in text and steps:
                return steps.pop(0)
        return self.always if self.always is not None else '{"label": "exact"}'

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self.closed += 1


class FakeTime:
    """A clock that a sleep puts forward at once. Jitter takes half of what it may."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def timing(self) -> Timing:
        return Timing(clock=lambda: self.now_s, sleep=self._sleep, uniform=lambda low, high: (low + high) / 2)

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        until_s = self.now_s + seconds
        await asyncio.sleep(0)
        self.now_s = max(self.now_s, until_s)


@pytest.fixture
def teacher() -> ScriptedTeacher:
    return ScriptedTeacher()


@pytest.fixture
def make_teacher() -> type[ScriptedTeacher]:
    return ScriptedTeacher


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def task() -> Task:
    return Task(labels=LABELS, inputs=("query", "title"), positive="exact", ordered=True)


@pytest.fixture
def make_rows() -> Callable[[int], pl.DataFrame]:
    """Rows ``r0`` … whose titles are the words ``item0`` …"""

    def make(count: int, *, first: int = 0) -> pl.DataFrame:
        numbers = range(first, first + count)
        return pl.DataFrame(
            {"row_id": [f"r{n}" for n in numbers], "query": "a query", "title": [f"item{n}" for n in numbers]},
            schema={"row_id": pl.String, "query": pl.String, "title": pl.String},
        )

    return make


@pytest.fixture
def label(task: Task, tmp_path: Any, fake_time: FakeTime) -> Callable[..., tuple[pl.DataFrame, LabelingResult]]:
    """Runs the engine on rows, with a ledger that the test's runs share, and gives votes in order, and the result."""

    def run(
        rows: pl.DataFrame, *teachers: Any, on_progress: Any = None, **settings: Any
    ) -> tuple[pl.DataFrame, LabelingResult]:
        parts = [votes_frame([])]
        config = LabelingConfig(**{"concurrency": 8, **settings})
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            engine = LabelingRun(task=task, teachers=teachers, ledger=ledger, config=config, timing=fake_time.timing())
            result = engine.run([rows], on_votes=parts.append, on_progress=on_progress)
        return pl.concat(parts).sort("row_id", "teacher", "sample"), result

    return run
