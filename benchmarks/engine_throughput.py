"""How fast the engine labels, beside a bare pool of aiohttp workers that keeps nothing.

    python benchmarks/engine_throughput.py --rows 20000 --in-flight 256 --latency-ms 50

A stub in a process of its own answers chat completions after a fixed time. In turns, so that both see the same machine:

- ``pool``: the loop one would write by hand. As many workers as requests in flight, ``session.post``, the reply and the
  label parsed, nothing stored.
- ``engine``: ``ask_teachers`` with the ``openai`` teacher. Prompts rendered, every reply durable in the ledger before
  it is read, votes as tables.
- ``ledger``: the same rows again, all of them served from the ledger.

Prints rows a second of each turn, and the best of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from distill.labeling.engine import ask_teachers
from distill.labeling.guideline import Guideline
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger import Ledger
from distill.labeling.prompt import Prompter
from distill.labeling.task import Task
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher

_GUIDELINE = Path(__file__).parents[1] / "recipes" / "quickstart" / "guideline.md"
_ANSWER = json.dumps({"label": "exact", "clauses": ["E1"]})


class Stub(asyncio.Protocol):
    """Answers each POST on a connection after a while.

    On bare sockets: a web framework would itself be what limits the rate.
    """

    latency_s = 0.05
    served = 0

    def connection_made(self, transport: Any) -> None:
        """Starts a connection."""
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Takes what arrived, and answers each whole request in it later."""
        self.received += data
        while (head := self.received.find(b"\r\n\r\n")) >= 0:
            length = int(self.received[:head].lower().split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.received) < head + 4 + length:
                return
            self.received = self.received[head + 4 + length :]
            asyncio.get_running_loop().call_later(self.latency_s, self.answer)

    def answer(self) -> None:
        """Writes one chat completion."""
        Stub.served += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 812, "total_tokens": 824, "completion_tokens": 12}
        identity = f"chatcmpl-{Stub.served * 0x9E3779B97F4A7C15 % 2**128:032x}"
        body = {"id": identity, "object": "chat.completion", "created": 1_760_000_000, "model": "stub"}
        text = json.dumps({**body, "choices": [choice], "usage": usage}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        self.transport.write(head + text)


def serve(latency_s: float, port: Any) -> None:
    async def main() -> None:
        Stub.latency_s = latency_s
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=4096)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def run_pool(rows: pl.DataFrame, task: Task, base_url: str, in_flight: int) -> int:
    """Asks about every row with a bare pool of workers; returns how many labels came back."""
    import aiohttp

    system = Prompter(task, OpenAITeacher("judge", _config(base_url)).answer).system

    async def main() -> int:
        waiting = iter(rows.rows(named=True))
        labels = []

        async def work(session: aiohttp.ClientSession) -> None:
            for row in waiting:
                user = "\n".join(f"{name}: {row[name]}" for name in task.inputs)
                messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
                payload = {"model": "stub", "messages": messages, "max_tokens": 512, "temperature": 0.0}
                async with session.post(f"{base_url}/chat/completions", json=payload) as response:
                    reply = await response.json()
                labels.append(json.loads(reply["choices"][0]["message"]["content"])["label"])

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(in_flight)))
        return len(labels)

    return asyncio.run(main())


def run_engine(rows: pl.DataFrame, task: Task, base_url: str, ledger: Path, concurrency: int) -> int:
    """Asks about every row with the engine; returns how many labels came back."""
    with Ledger(ledger) as opened:
        result = ask_teachers(
            [rows.slice(start, 10_000) for start in range(0, rows.height, 10_000)],
            task=task,
            teachers=[OpenAITeacher("judge", _config(base_url))],
            ledger=opened,
            config=LabelingConfig(concurrency=concurrency),
            on_votes=lambda votes: None,
        )
    return result.outcomes["labeled"]


def measure(name: str, rows: int, run: Callable[[], int]) -> float:
    began_s = time.perf_counter()
    labels = run()
    rate = rows / (time.perf_counter() - began_s)
    assert labels == rows, f"{name}: {labels} labels for {rows} rows"
    print(f"{name:<8} {rate:>10,.0f} rows/s", flush=True)
    return rate


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description="Throughput of the labeling engine beside a bare aiohttp pool.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the ledger is written; a temporary folder by default")
    arguments = parser.parse_args()
    task = Task(
        labels=("exact", "substitute", "complement", "irrelevant"),
        inputs=("query", "title", "brand", "description"),
        positive="exact",
        ordered=True,
        guideline=Guideline.load(_GUIDELINE),
    )
    numbers = range(arguments.rows)
    rows = pl.DataFrame(
        {
            "row_id": [str(n) for n in numbers],
            "query": [f"wireless mouse {n // 8}" for n in numbers],
            "title": [f"Acme optical mouse, model {n}" for n in numbers],
            "brand": "Acme",
            "description": "Three buttons, two batteries, one receiver. " * 6,
        }
    )
    port: Any = multiprocessing.Queue()
    stub = multiprocessing.Process(target=serve, args=(arguments.latency_ms / 1000, port), daemon=True)
    stub.start()
    base_url = f"http://127.0.0.1:{port.get(timeout=30)}/v1"
    rates: dict[str, list[float]] = {"pool": [], "engine": [], "ledger": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for turn in range(arguments.turns):
            ledger = Path(folder) / f"{turn}.sqlite"

            def ask(ledger: Path = ledger) -> int:
                return run_engine(rows, task, base_url, ledger, arguments.in_flight)

            rates["pool"].append(
                measure("pool", rows.height, lambda: run_pool(rows, task, base_url, arguments.in_flight))
            )
            rates["engine"].append(measure("engine", rows.height, ask))
            rates["ledger"].append(measure("ledger", rows.height, ask))
        size = ledger.stat().st_size / rows.height
    stub.terminate()
    best = {name: max(values) for name, values in rates.items()}
    print(f"engine / pool: {best['engine'] / best['pool']:.2f}; {size:.0f} bytes a reply on disk")


def _config(base_url: str) -> OpenAITeacherConfig:
    return OpenAITeacherConfig(base_url=base_url, model="stub", family="stub")


if __name__ == "__main__":
    main()
