"""How fast the engine labels, beside a bare pool of aiohttp workers that keeps nothing, and beside other clients.

    benchmarks/peers.sh                                  # once: the other clients, each in its own environment
    python benchmarks/engine_throughput.py --out benchmarks/results/engine_throughput.md

A stub in a process of its own answers chat completions after a fixed time. In turns, so that all see the same machine:

- ``pool``: the loop one would write by hand. As many workers as requests in flight, ``session.post``, the reply and the
  label parsed, nothing stored.
- ``engine``: ``ask_teachers`` with the ``openai`` teacher. Prompts rendered, every reply durable in the ledger before
  it is used, votes as tables.
- ``ledger``: the same rows again, all of them served from the ledger.
- ``openai``, ``litellm``, ``distilabel``: the same prompts through these, where ``peers.sh`` has installed them; fewer
  rows, since they are slower.

Then, in child processes, the most memory that the engine takes for a hundred thousand and for a million rows, with a
teacher that answers at once in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.engine.engine import ask_teachers
from distill.labeling.guideline import Guideline
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher

_GUIDELINE = Path(__file__).parents[1] / "recipes" / "quickstart" / "guideline.md"
_PEERS = Path(os.environ.get("DISTILL_PEERS", Path.home() / ".cache" / "distill" / "peers"))
_PEER_NAMES = ("openai", "litellm", "distilabel")
_PEER_TIMEOUT_S = 300
_ANSWER = json.dumps({"label": "exact", "clauses": ["E1"]})
_BATCH_ROWS = 10_000


class Run(NamedTuple):
    """One turn of one client: rows a second, and CPU of its process a row (None for the other clients)."""

    rows_per_s: float
    cpu_us: float | None


class Memory(NamedTuple):
    """How an engine of its own process went: most resident memory, rows a second, bytes of the ledger a row."""

    rows: int
    bought_mb: float
    bought_rows_per_s: float
    served_mb: float
    served_rows_per_s: float
    ledger_bytes: float


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
        text = _completion(Stub.served).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        self.transport.write(head + text)


def _completion(number: int) -> str:
    identity = f"chatcmpl-{number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128:032x}"
    choice = {"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 812, "total_tokens": 824, "completion_tokens": 12}
    body = {"id": identity, "object": "chat.completion", "created": 1_760_000_000, "model": "stub"}
    return json.dumps({**body, "choices": [choice], "usage": usage})


class AtOnce(OpenAITeacher):
    """Answers at once, in the same process."""

    answered = 0

    async def ask(self, request: Request) -> Reply:
        """Makes up a chat completion."""
        self.answered += 1
        return Reply(_completion(self.answered), latency_s=0.0)


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
    batches = [rows.slice(start, _BATCH_ROWS) for start in range(0, rows.height, _BATCH_ROWS)]
    return _label(batches, task, OpenAITeacher("judge", _config(base_url)), ledger, concurrency)


def _label(batches: Any, task: Task, teacher: OpenAITeacher, ledger: Path, concurrency: int) -> int:
    with Ledger(ledger) as opened:
        result = ask_teachers(
            batches,
            task=task,
            teachers=[teacher],
            ledger=opened,
            config=LabelingConfig(concurrency=concurrency),
            on_votes=lambda votes: None,
        )
    return result.outcomes["labeled"]


def run_peer(name: str, base_url: str, questions: Path, rows: int, in_flight: int) -> tuple[Run, str] | str:
    """Asks the same with another client, in its own environment.

    Returns:
        How it went and the client's version, or why it did not.
    """
    python = _PEERS / name / "bin" / "python"
    if not python.exists():
        return "not installed (benchmarks/peers.sh)"
    command = [python, Path(__file__).with_name("peer_clients.py"), name, base_url, questions, in_flight]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=_PEER_TIMEOUT_S, check=True, env=environment
        )
    except subprocess.CalledProcessError as error:
        return f"failed: {error.stderr.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired:
        return f"not done after {_PEER_TIMEOUT_S} s"
    told = json.loads(done.stdout)
    assert told["labels"] == rows, f"{name}: {told['labels']} labels for {rows} rows"
    return Run(rows / told["seconds"], None), told["version"]


def measure(rows: int, run: Callable[[], int]) -> Run:
    """Runs and times one turn; every row must have its label."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    labels = run()
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    assert labels == rows, f"{labels} labels for {rows} rows"
    return Run(rows / seconds, 1e6 * cpu_s / rows)


def make_task() -> Task:
    """Relevance with the quickstart's guideline."""
    return Task(
        labels=("exact", "substitute", "complement", "irrelevant"),
        inputs=("query", "title", "brand", "description"),
        positive="exact",
        ordered=True,
        guideline=Guideline.load(_GUIDELINE),
    )


def make_rows(count: int, first: int = 0) -> pl.DataFrame:
    """Rows of eight listings a query."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "row_id": [str(n) for n in numbers],
            "query": [f"wireless mouse {n // 8}" for n in numbers],
            "title": [f"Acme optical mouse, model {n}" for n in numbers],
            "brand": "Acme",
            "description": "Three buttons, two batteries, one receiver. " * 6,
        }
    )


def write_questions(rows: pl.DataFrame, task: Task, path: Path) -> None:
    """Writes the messages of every row for the other clients."""
    prompter = Prompter(task, OpenAITeacher("judge", _config("http://localhost/v1")).answer)
    prompts = map(prompter, rows.iter_rows(named=True))
    messages = [[_message("system", prompt.system), _message("user", prompt.user)] for prompt in prompts]
    path.write_text(json.dumps(messages), encoding="utf-8")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def take_turns(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, list[Run]], dict[str, str], float]:
    """Runs every client in turn, and again.

    Returns:
        Runs by client, what there is to say about the others (version, or why not), and bytes a reply on disk.
    """
    task, rows = make_task(), make_rows(arguments.rows)
    questions = folder / "questions.json"
    write_questions(rows.head(arguments.peer_rows), task, questions)
    port: Any = multiprocessing.Queue()
    stub = multiprocessing.Process(target=serve, args=(arguments.latency_ms / 1000, port), daemon=True)
    stub.start()
    base_url = f"http://127.0.0.1:{port.get(timeout=30)}/v1"
    runs: dict[str, list[Run]] = {"pool": [], "engine": [], "ledger": []}
    said: dict[str, str] = {}
    for turn in range(arguments.turns):
        ledger = folder / f"{turn}.sqlite"

        def ask(ledger: Path = ledger) -> int:
            return run_engine(rows, task, base_url, ledger, arguments.in_flight)

        runs["pool"].append(measure(rows.height, lambda: run_pool(rows, task, base_url, arguments.in_flight)))
        runs["engine"].append(measure(rows.height, ask))
        runs["ledger"].append(measure(rows.height, ask))
        for name in _PEER_NAMES if turn < arguments.peer_turns else ():
            outcome = run_peer(name, base_url, questions, arguments.peer_rows, arguments.in_flight)
            if isinstance(outcome, str):
                said[name] = outcome
            else:
                runs.setdefault(name, []).append(outcome[0])
                said[name] = outcome[1]
        print("  ".join(f"{name} {done[-1].rows_per_s:,.0f}" for name, done in runs.items()), "rows/s", flush=True)
    stub.terminate()
    return runs, said, ledger.stat().st_size / rows.height


def run_memory(count: int) -> Memory:
    """Labels in this process with a teacher that answers at once, then again from the ledger."""

    class Batches:
        def __iter__(self) -> Iterator[pl.DataFrame]:
            return (make_rows(_BATCH_ROWS, first) for first in range(0, count, _BATCH_ROWS))

    task, teacher = make_task(), AtOnce("judge", _config("http://localhost/v1"))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        bought = measure(count, lambda: _label(Batches(), task, teacher, ledger, 256))
        bought_mb = _peak_mb()
        served = measure(count, lambda: _label(Batches(), task, teacher, ledger, 256))
        size = ledger.stat().st_size / count
    return Memory(count, bought_mb, bought.rows_per_s, _peak_mb(), served.rows_per_s, size)


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def report(
    arguments: argparse.Namespace, runs: dict[str, list[Run]], said: dict[str, str], size: float, memory: list[Memory]
) -> str:
    """Lays everything out as Markdown."""
    notes = {"pool": f"aiohttp {version('aiohttp')}", "engine": "every answer durable", "ledger": "served from it"}
    lines = [
        "# Throughput of the labeling engine",
        "",
        f"Written by `benchmarks/engine_throughput.py` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, load average "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())} at the end; {arguments.latency_ms:g} ms stub on the "
        f"same machine, {arguments.in_flight} in flight, {arguments.rows:,} rows a turn ({arguments.peer_rows:,} for "
        f"the other clients), {arguments.turns} turns. The ratio is taken within each turn.",
        "",
        "| client | rows/s, best | median | min | CPU µs a row, median | of the pool, best | median | min | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, done in runs.items():
        rates = [run.rows_per_s for run in done]
        ratios = [run.rows_per_s / pool.rows_per_s for run, pool in zip(done, runs["pool"], strict=False)]
        cpu = [run.cpu_us for run in done if run.cpu_us is not None]
        cells = [f"{value:,.0f}" for value in (max(rates), median(rates), min(rates))]
        cells += [f"{median(cpu):.0f}" if cpu else ""]
        cells += [f"{value:.2f}" for value in (max(ratios), median(ratios), min(ratios))]
        lines.append(f"| {name} | {' | '.join(cells)} | {notes.get(name) or said.get(name, '')} |")
    lines += [f"| {name} | | | | | | | | {why} |" for name, why in said.items() if name not in runs]
    if "openai" in runs:
        ratios = [one.rows_per_s / two.rows_per_s for one, two in zip(runs["engine"], runs["openai"], strict=False)]
        lines += ["", f"engine / openai: {max(ratios):.1f} best, {median(ratios):.1f} median, {min(ratios):.1f} min."]
    lines += ["", f"{size:.0f} bytes a reply on disk, for a short label.", "", "## Memory", ""]
    lines += [
        "Most resident memory of a process that labels this many rows with a teacher that answers at once, and then "
        "again from the ledger; rows are made as they are asked for.",
        "",
        "| rows | bought, MB | rows/s | from the ledger, MB | rows/s | bytes a reply |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for one in memory:
        rates = (
            f"{one.bought_mb:.0f} | {one.bought_rows_per_s:,.0f} | {one.served_mb:.0f} | {one.served_rows_per_s:,.0f}"
        )
        lines.append(f"| {one.rows:,} | {rates} | {one.ledger_bytes:.0f} |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Throughput of the labeling engine beside other clients.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--peer-rows", type=int, default=2_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peer-turns", type=int, default=3, help="turns that the other clients take part in")
    parser.add_argument("--folder", type=Path, help="where ledgers are written; a temporary folder by default")
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument(
        "--only-memory", type=int, metavar="ROWS", help="measures one memory line and prints it as JSON"
    )
    parser.add_argument("--out", type=Path, help="Markdown file that the tables are written to")
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark."""
    arguments = parse_arguments()
    if arguments.only_memory:
        print(json.dumps(run_memory(arguments.only_memory)))
        return
    memory = []
    for count in arguments.memory_rows:
        child = subprocess.run(
            [sys.executable, __file__, "--only-memory", str(count)], stdout=subprocess.PIPE, text=True, check=True
        )
        memory.append(Memory(*json.loads(child.stdout)))
        print(f"{count:,} rows: {memory[-1].bought_mb:.0f} MB", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        runs, said, size = take_turns(arguments, Path(folder))
    text = report(arguments, runs, said, size, memory)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


def _config(base_url: str) -> OpenAITeacherConfig:
    return OpenAITeacherConfig(base_url=base_url, model="stub", family="stub", probe=False, lane="json")


if __name__ == "__main__":
    main()
