"""How well the engine finds how many requests a server bears at once.

    python benchmarks/concurrency.py --out benchmarks/results/concurrency.md

A stub in a process of its own takes as many requests at once as a hidden limit says, each for about 200 ms. What comes
above the limit is rejected with 429 (``rejects``), or waits for its turn so that answers come later (``queues``). For
each limit every fixed setting of a grid is tried first; then ``concurrency: auto`` runs, with a new ledger, and is
measured once it has had time to settle; then once more for a few seconds with the limit that the ledger has kept. In
two cases the limit changes half-way: each half is compared with the best fixed setting for its limit.

``share`` is auto's answers a second over those of the best fixed setting; ``rejected`` is the share of requests that
the stub turned away after settling.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl

from distill.labeling.engine.engine import ask_teachers
from distill.labeling.errors import SpendLimitError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher

_LATENCY_S = 0.2
_REJECTION_S = 0.01
_GRID = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_SAMPLE_EVERY_S = 0.1
_TASK = Task(labels=("exact", "irrelevant"), inputs=("query", "title"), positive="exact")


class Case(NamedTuple):
    """A server: what it does above its limit, and the limit, which may change half-way."""

    kind: str
    limits: tuple[int, ...]


CASES = (
    Case("rejects", (6,)),
    Case("rejects", (20,)),
    Case("rejects", (70,)),
    Case("rejects", (150,)),
    Case("queues", (40,)),
    Case("rejects", (25, 80)),
    Case("rejects", (80, 25)),
)


class Shared(NamedTuple):
    """What the stub's process shares with this one."""

    limit: Any
    queues: Any
    answered: Any
    rejected: Any


class Stub(asyncio.Protocol):
    """Answers each POST on a connection after a while, or turns it away. On bare sockets, to cost little."""

    shared: Shared
    busy = 0
    waiting: ClassVar[deque[Stub]] = deque()
    dice = random.Random(7)

    def connection_made(self, transport: Any) -> None:
        """Starts a connection."""
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Takes what arrived: one whole request at a time, since the client waits for each answer."""
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = int(self.received[:head].lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.received) < head + 4 + length:
            return
        self.received = b""
        if Stub.busy < self.shared.limit.value:
            self.serve()
        elif self.shared.queues.value:
            Stub.waiting.append(self)
        else:
            self.shared.rejected.value += 1
            error = {"error": {"message": "too many requests", "type": "rate", "code": "rate_limit_exceeded"}}
            asyncio.get_running_loop().call_later(_REJECTION_S, self.write, b"429 Too Many Requests", error)

    def serve(self) -> None:
        """Works on a request, for 133 to 267 ms."""
        Stub.busy += 1
        asyncio.get_running_loop().call_later(_LATENCY_S * Stub.dice.uniform(0.67, 1.33), self.answer)

    def answer(self) -> None:
        """Writes one chat completion, and takes up who waits."""
        Stub.busy -= 1
        self.shared.answered.value += 1
        message = {"role": "assistant", "content": '{"label": "exact"}'}
        usage = {"prompt_tokens": 300, "completion_tokens": 6, "total_tokens": 306}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        self.write(b"200 OK", {"id": "c", "object": "chat.completion", "model": "stub", **body})
        while Stub.waiting and Stub.busy < self.shared.limit.value:
            Stub.waiting.popleft().serve()

    def write(self, status: bytes, body: dict[str, Any]) -> None:
        """Writes a response."""
        text = json.dumps(body).encode()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(text))
        self.transport.write(head + text)


def serve(shared: Shared, port: Any) -> None:
    async def main() -> None:
        Stub.shared = shared
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=4096)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class Sample(NamedTuple):
    """Counters of the stub at a time."""

    at_s: float
    answered: int
    rejected: int


class Watch:
    """Notes the stub's counters, and changes its limit when it is time to."""

    def __init__(self, shared: Shared, limits: tuple[int, ...], seconds: float) -> None:
        self.samples: list[Sample] = []
        self._shared = shared
        self._limits = limits
        self._seconds = seconds
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def rate(self, since_s: float, until_s: float) -> float:
        """Answers a second between two times."""
        first, last = self._between(since_s, until_s)
        return (last.answered - first.answered) / (last.at_s - first.at_s)

    def rejected(self, since_s: float, until_s: float) -> float:
        """Share of requests that were turned away between two times."""
        first, last = self._between(since_s, until_s)
        rejected, answered = last.rejected - first.rejected, last.answered - first.answered
        return rejected / max(1, rejected + answered)

    def _between(self, since_s: float, until_s: float) -> tuple[Sample, Sample]:
        inside = [sample for sample in self.samples if since_s <= sample.at_s <= until_s]
        return inside[0], inside[-1]

    def _look(self) -> None:
        began_s = time.monotonic()
        while (at_s := time.monotonic() - began_s) < self._seconds:
            self._shared.limit.value = self._limits[int(at_s / self._seconds * len(self._limits))]
            self.samples.append(Sample(at_s, self._shared.answered.value, self._shared.rejected.value))
            time.sleep(_SAMPLE_EVERY_S)


def rows_for(seconds: float, name: str) -> Iterator[pl.DataFrame]:
    """Rows without end, for a time."""
    until_s = time.monotonic() + seconds
    first = 0
    while time.monotonic() < until_s:
        numbers = range(first, first + 64)
        titles = [f"{name} {number}" for number in numbers]
        yield pl.DataFrame({"row_id": titles, "query": "wireless mouse", "title": titles})
        first += 64


class Timed(OpenAITeacher):
    """Stops when its time is over, so that the rows still queued need not be waited for."""

    def __init__(self, base_url: str, seconds: float) -> None:
        super().__init__("judge", OpenAITeacherConfig(base_url=base_url, model="stub", family="stub", probe=False))
        self._until_s = time.monotonic() + seconds

    async def ask(self, request: Request) -> Reply:
        """As any teacher, while there is time."""
        if time.monotonic() > self._until_s:
            raise SpendLimitError("the time is over")
        return await super().ask(request)


def run(
    base_url: str, shared: Shared, limits: tuple[int, ...], *, concurrency: Any, seconds: float, ledger: Path
) -> Watch:
    """Labels for a time; gives what the stub saw."""
    config = LabelingConfig(concurrency=concurrency, retries=1000, stop_after_failures=None)
    name = f"{concurrency} {time.monotonic_ns()}"
    with Ledger(ledger) as opened, Watch(shared, limits, seconds) as watch:
        ask_teachers(
            rows_for(seconds, name),
            task=_TASK,
            teachers=[Timed(base_url, seconds)],
            ledger=opened,
            config=config,
            on_votes=lambda votes: None,
        )
    return watch


class Result(NamedTuple):
    """One line of the table."""

    case: str
    best: int
    best_rate: float
    rate: float
    rejected: float
    first_rate: float
    learned_rate: float


def best_fixed(base_url: str, shared: Shared, limit: int, *, seconds: float, folder: Path) -> tuple[int, float]:
    """The fixed setting with most answers a second, of those up to three times the limit."""
    rates = {}
    for setting in (setting for setting in (*_GRID, limit) if limit / 2 <= setting <= 3 * limit):
        ledger = folder / f"{time.monotonic_ns()}.sqlite"
        watch = run(base_url, shared, (limit,), concurrency=setting, seconds=seconds, ledger=ledger)
        rates[setting] = watch.rate(1.0, seconds)
    best = max(rates, key=lambda setting: rates[setting])
    return best, rates[best]


def measure(base_url: str, shared: Shared, case: Case, *, sweep_s: float, auto_s: float, folder: Path) -> list[Result]:
    """Sweeps fixed settings, then runs auto; one result for each limit of the case."""
    shared.queues.value = case.kind == "queues"
    fixed = {limit: best_fixed(base_url, shared, limit, seconds=sweep_s, folder=folder) for limit in case.limits}
    ledger = folder / f"{time.monotonic_ns()}.sqlite"
    whole_s = auto_s * len(case.limits)
    watch = run(base_url, shared, case.limits, concurrency="auto", seconds=whole_s, ledger=ledger)
    again = run(base_url, shared, case.limits[-1:], concurrency="auto", seconds=sweep_s, ledger=ledger)
    results = []
    for number, limit in enumerate(case.limits):
        began_s, ended_s = number * auto_s, (number + 1) * auto_s
        settled_s = began_s + auto_s / 2
        before = f", after {case.limits[number - 1]}" if number else ""
        best, best_rate = fixed[limit]
        results.append(
            Result(
                case=f"{case.kind}, {limit}{before}",
                best=best,
                best_rate=best_rate,
                rate=watch.rate(settled_s, ended_s - 0.2),
                rejected=watch.rejected(settled_s, ended_s - 0.2),
                first_rate=watch.rate(began_s, began_s + sweep_s - 0.2),
                learned_rate=again.rate(0.0, sweep_s - 0.2) if number == len(case.limits) - 1 else float("nan"),
            )
        )
    return results


def table(results: list[Result], *, sweep_s: float, auto_s: float) -> str:
    """The results as Markdown, with what they were measured on."""
    lines = [
        "# Concurrency that finds itself",
        "",
        f"Written by `benchmarks/concurrency.py` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}. Each fixed setting {sweep_s:g} s, auto "
        f"{auto_s:g} s a limit, of which the second half is measured.",
        "",
        f"| server, hidden limit | best fixed | answers/s | auto, answers/s | share | rejected | first {sweep_s:g} s | "
        f"first {sweep_s:g} s, limit kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in results:
        learned = "" if one.learned_rate != one.learned_rate else f"{one.learned_rate:.0f}"
        share = one.rate / one.best_rate
        lines.append(
            f"| {one.case} | {one.best} | {one.best_rate:.0f} | {one.rate:.0f} | {share:.2f} | {one.rejected:.1%} | "
            f"{one.first_rate:.0f} | {learned} |"
        )
    worst, rejected = min(one.rate / one.best_rate for one in results), max(one.rejected for one in results)
    lines += ["", f"Worst share {worst:.2f}, most rejected {rejected:.1%}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description="Auto concurrency beside the best fixed setting.")
    parser.add_argument("--sweep-s", type=float, default=5.0, help="seconds of each fixed setting")
    parser.add_argument("--auto-s", type=float, default=30.0, help="seconds of auto for each limit")
    parser.add_argument("--only", type=int, help="number of the one case to run, from 0")
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    arguments = parser.parse_args()
    shared = Shared(*(multiprocessing.Value(kind, 0, lock=False) for kind in ("i", "i", "q", "q")))
    port: Any = multiprocessing.Queue()
    stub = multiprocessing.Process(target=serve, args=(shared, port), daemon=True)
    stub.start()
    base_url = f"http://127.0.0.1:{port.get(timeout=30)}/v1"
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            if arguments.only in (None, number):
                found = measure(
                    base_url,
                    shared,
                    case,
                    sweep_s=arguments.sweep_s,
                    auto_s=arguments.auto_s,
                    folder=Path(folder),
                )
                results += found
                print(*found, sep="\n", flush=True)
    stub.terminate()
    text = table(results, sweep_s=arguments.sweep_s, auto_s=arguments.auto_s)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
