"""``distill serve`` on the loopback interface, with a trained student behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import polars as pl
import pytest

import distill
from distill.labeling.errors import UsageError
from distill.labeling.prompts.fence import fence, field_lines
from distill.labeling.task import Task
from distill.server import Server, ServerConfig, load_students
from distill.server_batching import Batcher, BatchLimits
from distill.server_errors import ServeError
from distill.server_wire import Limits
from distill.students.config import DcnConfig
from distill.students.fit import fit_student
from distill.students.student import Student, load_student
from distill.students.training_set import training_set

TASK = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query", "title"), positive="exact", ordered=True)
THINGS = ("lamp", "chair", "kettle", "shoe")


def _rows(split: str = "train") -> pl.DataFrame:
    pairs = [(thing, other) for thing in THINGS for other in THINGS]
    return pl.DataFrame(
        {
            "row_id": [f"{thing}-{other}" for thing, other in pairs],
            "group": [thing for thing, _ in pairs],
            "split": [split] * len(pairs),
            "gold": ["exact" if thing == other else "irrelevant" for thing, other in pairs],
            "weight": [1.0] * len(pairs),
            "query": [thing for thing, _ in pairs],
            "title": [f"a {other}" for _, other in pairs],
        }
    )


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    training = training_set(_rows(), train_on="human", labels=None, votes=None, task=TASK)
    out = tmp_path_factory.mktemp("students") / "dcn"
    config = DcnConfig(epochs=2, buckets=256, embedding_dim=4, hidden=(8,))
    fit_student(config, training, task=TASK, out=out, seed=1)
    return load_student(out)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Running:
    """A server on a free port, in a thread of its own."""

    def __init__(self, students: dict[str, Student], config: ServerConfig) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(students, config)), daemon=True)
        self._thread.start()
        assert self._ready.wait(30), "the server did not start"

    async def _main(self, students: dict[str, Student], config: ServerConfig) -> None:
        from aiohttp import web

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = Server(students, config)
        runner = web.AppRunner(self.server.app, access_log=None, shutdown_timeout=5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def ask(self, path: str, body: Any = None, **options: Any) -> Answer:
        (answer,) = self.ask_together(path, [body], **options)
        return answer

    def ask_together(self, path: str, bodies: list[Any], **options: Any) -> list[Answer]:
        async def one(session: aiohttp.ClientSession, body: Any) -> Answer:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            method = "GET" if body is None else "POST"
            async with session.request(method, self.url + path, data=data, **options) as response:
                text = await response.text()
                is_json = response.content_type == "application/json"
                return Answer(response.status, dict(response.headers), json.loads(text) if is_json else text)

        async def all_of_them() -> list[Answer]:
            async with aiohttp.ClientSession() as session:
                return await asyncio.gather(*(one(session, body) for body in bodies))

        return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def running(student: Student) -> Iterator[Running]:
    limits = Limits(rows=20, text_chars=200, body_bytes=8192)
    server = Running({"dcn": student}, ServerConfig(limits=limits))
    yield server
    server.stop()


def _expected(student: Student) -> dict[str, list[float]]:
    found = student.predict(_rows())
    return dict(zip(found["row_id"], found["probs"].to_list(), strict=True))


def _question(query: str, title: str) -> str:
    return fence(field_lines({"query": query, "title": title}))


def test_rows_are_predicted_as_the_student_does(running: Running, student: Student) -> None:
    rows = [{"query": row["query"], "title": row["title"], "row_id": row["row_id"]} for row in _rows().to_dicts()]
    answer = running.ask("/v1/predict", {"model": "dcn", "rows": rows})
    assert (answer.status, answer.body["model"]) == (200, "dcn")
    expected = _expected(student)
    for place, line in enumerate(answer.body["data"]):
        assert (line["index"], line["row_id"]) == (place, rows[place]["row_id"])
        assert list(line["probs"]) == list(TASK.labels)
        assert list(line["probs"].values()) == pytest.approx(expected[line["row_id"]], abs=1e-5)
        assert line["label"] == max(line["probs"], key=line["probs"].get)
        assert line["confidence"] == max(line["probs"].values())


@pytest.mark.parametrize("dialect", ["openai", "sglang", "systemone"])
def test_a_decision_gives_a_probability_per_option(running: Running, student: Student, dialect: str) -> None:
    text, labels = _question("lamp", "a lamp"), list(TASK.labels)
    if dialect == "systemone":
        questions: Any = {"q0": {"type": "choice", "instructions": text, "criteria": dict.fromkeys(labels)}}
        answer = running.ask("/v1/systemone", {"model": "dcn", "state": "…", "questions": questions})
        probs = answer.body["answers"]["q0"]["probabilities"]
    elif dialect == "sglang":
        options = [{"name": label} for label in labels]
        questions = [{"id": "q0", "type": "choice", "question": text, "options": options}]
        answer = running.ask("/v1/decisions", {"model": "dcn", "input": "…", "questions": questions})
        probs = answer.body["answers"]["q0"]["probabilities"]
    else:
        choices = [{"value": label} for label in labels]
        questions = [{"type": "choice", "name": "q0", "instructions": text, "choices": choices}]
        answer = running.ask("/v1/decisions", {"model": "dcn", "input": "…", "questions": questions})
        (told,) = answer.body["answers"]
        assert (told["name"], told["confidence"]) == ("q0", max(item["probability"] for item in told["probabilities"]))
        probs = {item["value"]: item["probability"] for item in told["probabilities"]}
    assert answer.status == 200
    assert list(probs.values()) == pytest.approx(_expected(student)["lamp-lamp"], abs=1e-6)


def test_of_some_options_the_probabilities_are_scaled(running: Running, student: Student) -> None:
    exact, _, irrelevant = _expected(student)["lamp-shoe"]
    row = json.dumps({"query": "lamp", "title": "a shoe", "colour": "red"})
    choices = [{"value": "irrelevant"}, {"value": "exact"}]
    body = {"questions": [{"type": "choice", "name": "q", "instructions": row, "choices": choices}]}
    (told,) = running.ask("/v1/decisions", body).body["answers"]
    assert [item["value"] for item in told["probabilities"]] == ["irrelevant", "exact"]
    assert told["probabilities"][1]["probability"] == pytest.approx(exact / (exact + irrelevant), abs=1e-6)


def test_a_recipes_teacher_asks_it_as_any_other(running: Running, student: Student, tmp_path: Path) -> None:
    """The real engine and the real teacher, which finds the decision lane by itself; rows alone and in packs."""
    for lane, per_request in (("auto", 1), ("decision", 4)):
        teacher = {"type": "openai", "base_url": f"{running.url}/v1", "model": "dcn", "lane": lane, "family": "dcn"}
        votes = distill.label(
            _rows(),
            TASK,
            {"served": {**teacher, "price": 0}},
            config={"rows_per_request": per_request},
            ledger=tmp_path / f"{lane}.sqlite",
        )
        assert set(votes["outcome"]) == {"labeled"}
        assert set(votes["probs_source"]) == {"decision"}
        expected = _expected(student)
        for row_id, probs in votes.select("row_id", "probs").iter_rows():
            assert probs == pytest.approx(expected[row_id], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/predict", b"{", 400, "invalid_json"),
        ("/v1/predict", [1], 400, "invalid_json"),
        ("/v1/predict", {"rows": []}, 400, "invalid_value"),
        ("/v1/predict", {"rows": ["secret lamp"]}, 400, "invalid_value"),
        ("/v1/predict", {"rows": [{"query": "secret lamp"}]}, 400, "missing_field"),
        ("/v1/predict", {"rows": [{"query": "secret lamp", "title": ["x"]}]}, 400, "invalid_value"),
        ("/v1/predict", {"rows": [{"query": "secret lamp", "title": "x" * 201}]}, 400, "text_too_long"),
        ("/v1/predict", {"rows": [{"query": "secret lamp", "title": ""}] * 21}, 400, "too_many_rows"),
        ("/v1/predict", {"rows": [{"query": "secret lamp", "title": "x" * 9000}]}, 413, "body_too_large"),
        ("/v1/predict", {"model": "gpt", "rows": [{"query": "secret lamp", "title": ""}]}, 404, "model_not_found"),
        ("/v1/chat/completions", {"messages": ["secret lamp"]}, 404, "no_such_route"),
        ("/v1/models", {"secret lamp": 1}, 405, "no_such_route"),
        ("/v1/decisions", {"questions": [{"type": "noul", "instructions": "secret lamp"}]}, 400, "unsupported"),
        (
            "/v1/decisions",
            {"questions": [{"type": "choice", "instructions": "secret lamp", "choices": [{"value": "exact"}]}]},
            400,
            "no_fields",
        ),
        (
            "/v1/decisions",
            {"questions": [{"type": "choice", "instructions": "secret lamp", "choices": [{"value": "plant"}]}]},
            400,
            "unknown_options",
        ),
        ("/v1/systemone", {"questions": {"q": {"instructions": "secret lamp", "criteria": {}}}}, 400, "invalid_value"),
        ("/v1/systemone", {"questions": [], "state": "secret lamp"}, 400, "invalid_value"),
    ],
)
def test_what_cannot_be_answered_is_told_in_openais_shape(
    running: Running, path: str, body: Any, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = running.ask(path, body)
    error = answer.body["error"]
    assert (answer.status, error["type"], error["code"]) == (status, "invalid_request_error", code)
    assert set(error) == {"message", "type", "param", "code"}
    assert "secret" not in error["message"] + caplog.text


def test_odd_values_are_read_as_text(running: Running) -> None:
    rows = [{"query": None, "title": 12}, {"query": "\ud800lamp", "title": True}, {"query": "램프", "title": ""}]
    assert running.ask("/v1/predict", {"rows": rows}).status == 200


def test_requests_share_batches_and_are_counted(running: Running, student: Student) -> None:
    bodies = [{"rows": [{"query": row["query"], "title": row["title"]}]} for row in _rows().to_dicts()]
    answers = running.ask_together("/v1/predict", bodies * 4)
    expected = list(_expected(student).values()) * 4
    for answer, probs in zip(answers, expected, strict=True):
        assert list(answer.body["data"][0]["probs"].values()) == pytest.approx(probs, abs=1e-5)
    text = running.ask("/metrics").body
    counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert counts['distill_requests_total{path="/v1/predict",status="200"}'] >= 64
    assert counts['distill_rows_total{model="dcn"}'] >= 64
    assert counts['distill_batch_rows_sum{model="dcn"}'] > counts['distill_batch_rows_count{model="dcn"}']
    assert (
        counts['distill_request_seconds_bucket{path="/v1/predict",le="+Inf"}']
        == (counts['distill_request_seconds_count{path="/v1/predict"}'])
    )
    assert counts['distill_queue_rows{model="dcn"}'] == 0


def test_models_and_health(running: Running) -> None:
    assert running.ask("/healthz").status == running.ask("/readyz").status == 200
    (model,) = running.ask("/v1/models").body["data"]
    assert (model["id"], model["labels"], model["inputs"]) == ("dcn", list(TASK.labels), list(TASK.inputs))


def test_a_key_is_asked_for_and_students_are_told_apart(student: Student) -> None:
    server = Running({"one": student, "other": student}, ServerConfig(api_key="k"))
    body = {"rows": [{"query": "lamp", "title": ""}]}
    try:
        for headers in ({}, {"Authorization": "Bearer no"}):
            answer = server.ask("/v1/predict", {**body, "model": "one"}, headers=headers)
            assert (answer.status, answer.body["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert server.ask("/healthz").status == 200
        headers = {"Authorization": "Bearer k"}
        assert server.ask("/v1/predict", {**body, "model": "other"}, headers=headers).body["model"] == "other"
        assert server.ask("/v1/predict", body, headers=headers).status == 404
    finally:
        server.stop()


class _Gate:
    """Stands for a student: each call waits until it is let through; rows that say ``bad`` fail."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.calls: list[list[str]] = []

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        self.entered.set()
        assert self.open.wait(10)
        self.calls.append(rows["query"].to_list())
        if "bad" in self.calls[-1]:
            raise ValueError("bad row")
        return rows.select("row_id", label=pl.col("query"))


def _with_batcher(gate: _Gate, limits: BatchLimits, body: Callable[[Batcher], Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(gate, executor, limits=limits)
            batcher.start()
            await body(batcher)
            await batcher.stop()

    asyncio.run(run())


async def _entered(gate: _Gate) -> None:
    await asyncio.get_running_loop().run_in_executor(None, gate.entered.wait, 10)


def test_rows_gather_while_a_batch_is_predicted() -> None:
    gate = _Gate()

    async def body(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([{"query": "a"}]))
        await _entered(gate)
        others = [asyncio.create_task(batcher.predict([{"query": name}] * 2)) for name in "bcd"]
        await asyncio.sleep(0)
        gate.open.set()
        found = await asyncio.gather(first, *others)
        assert [[line["label"] for line in lines] for lines in found] == [["a"], ["b"] * 2, ["c"] * 2, ["d"] * 2]

    # Of four rows at once, the second batch takes b and c; d would make it six.
    _with_batcher(gate, BatchLimits(rows=4, wait_s=0), body)
    assert gate.calls == [["a"], ["b", "b", "c", "c"], ["d", "d"]]


def test_a_row_waits_for_others_only_where_there_lately_were_any() -> None:
    gate = _Gate()

    async def body(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([{"query": "alone"}]))
        await _entered(gate)
        others = [asyncio.create_task(batcher.predict([{"query": name}])) for name in "ab"]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *others)
        one = asyncio.create_task(batcher.predict([{"query": "c"}]))
        await asyncio.sleep(0.05)
        await asyncio.gather(one, batcher.predict([{"query": "d"}]))

    # 60 s: were the first to wait, or c not to wait for d, the calls would be others.
    _with_batcher(gate, BatchLimits(rows=2, wait_s=60), body)
    assert gate.calls == [["alone"], ["a", "b"], ["c", "d"]]


def test_what_is_too_much_is_refused_and_told_when_to_come_back() -> None:
    gate = _Gate()

    async def body(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([{"query": "a"}]))
        await _entered(gate)
        second = asyncio.create_task(batcher.predict([{"query": "b"}] * 3))
        await asyncio.sleep(0)
        with pytest.raises(ServeError, match="3 rows wait already") as refused:
            await batcher.predict([{"query": "c"}])
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        gate.open.set()
        await asyncio.gather(first, second)

    _with_batcher(gate, BatchLimits(rows=8, wait_s=0, queued_rows=3), body)


def test_a_row_that_fails_fails_alone_and_whoever_left_is_not_predicted() -> None:
    gate = _Gate()

    async def body(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([{"query": "a"}]))
        await _entered(gate)
        bad, good, gone = (asyncio.create_task(batcher.predict([{"query": name}])) for name in ("bad", "good", "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await first
        with pytest.raises(ValueError, match="bad row"):
            await bad
        assert (await good)[0]["label"] == "good"

    _with_batcher(gate, BatchLimits(rows=8, wait_s=0), body)
    assert gate.calls == [["a"], ["bad", "good"], ["bad"], ["good"]]


def test_what_still_waits_is_told_that_the_server_goes_down() -> None:
    gate = _Gate()

    async def body(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([{"query": "a"}]))
        await _entered(gate)
        waiting = asyncio.create_task(batcher.predict([{"query": "b"}]))
        await asyncio.sleep(0)
        gate.open.set()
        await batcher.stop()
        with pytest.raises(ServeError, match="going down"):
            await waiting
        assert (await first)[0]["label"] == "a"

    _with_batcher(gate, BatchLimits(wait_s=0), body)


def test_students_are_called_by_their_folder_or_as_they_are_named(student: Student) -> None:
    assert list(load_students([str(student.path), f"other={student.path}"])) == ["dcn", "other"]
    with pytest.raises(UsageError, match="two students are called 'dcn'"):
        load_students([str(student.path), str(student.path)])


def test_the_command_needs_the_key_that_it_names(
    student: Student, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVE_KEY", raising=False)
    called = cli("serve", student.path, "--api-key-env", "SERVE_KEY")
    assert called.code == 2
    assert "the variable is not set or empty" in called.err


def test_a_signal_ends_the_command_once_it_has_answered(student: Student) -> None:
    """The real command: SIGTERM, and exit status 0."""
    import os
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-c", "from distill.cli import main; main()", "serve", str(student.path), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("dcn at http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
