"""How many rows a second does ``distill serve`` answer, and how long does one wait, with many clients at once?

Starts the real command on a free port of this machine, and sends decisions of one row each from as many connections as
the column says, one after the other on each, for some seconds. Clients and server share the cores. Beside it stands the
same server without batching (``--batch-rows 1``), in turns.

    python benchmarks/serving.py STUDENT... --rows run/rows.parquet > benchmarks/results/serving.md
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import polars as pl

from distill.labeling.prompts.fence import fence, field_lines
from distill.students.student import load_student


class Served(NamedTuple):
    """What the clients saw: rows a second, and seconds of each request."""

    rate: float
    seconds: np.ndarray


@contextmanager
def server(student: Path, *, batch_rows: int) -> Iterator[str]:
    """Runs the command; gives its address."""
    command = [sys.executable, "-c", "from distill.cli import main; main()", "serve", str(student), "--port", "0"]
    process = subprocess.Popen([*command, "--batch-rows", str(batch_rows)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield process.stderr.readline().split(" at ")[1].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def load(url: str, bodies: list[bytes], *, clients: int, seconds: float) -> Served:
    """Asks from several connections at once, each waiting for its answer before it asks again."""
    coming = itertools.cycle(bodies)
    took: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        began = time.perf_counter()

        async def client() -> None:
            while time.perf_counter() - began < seconds:
                asked = time.perf_counter()
                async with session.post(f"{url}/decisions", data=next(coming)) as response:
                    assert response.status == 200, await response.text()
                    await response.read()
                took.append(time.perf_counter() - asked)

        await asyncio.gather(*(client() for _ in range(clients)))
        return Served(len(took) / (time.perf_counter() - began), np.array(took))


def bodies_of(student: Path, rows: pl.DataFrame) -> list[bytes]:
    """A decision about each row, as distill's own teachers write it."""
    task = load_student(student).task
    choices = [{"value": label} for label in task.labels]
    texts = [fence(field_lines(row)) for row in rows.select(task.inputs).fill_null("").iter_rows(named=True)]
    questions = [[{"type": "choice", "name": "q0", "instructions": text, "choices": choices}] for text in texts]
    return [json.dumps({"input": "", "questions": asked}).encode() for asked in questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--rows", type=Path, required=True, help="rows.parquet of a run")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    rows = pl.read_parquet(arguments.rows).filter(pl.col("split") == "test").head(2000)
    print("# Serving: rows a second and waiting times of distill serve\n")
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores for clients and server together; aiohttp "
        f"{version('aiohttp')}, torch {version('torch')}, onnxruntime {version('onnxruntime')}. One row a request, "
        f"{arguments.seconds:g} s each, {arguments.turns} turns: medians. Load of the machine at the start: "
        f"{os.getloadavg()[0]:.1f}.\n"
    )
    print("| student | clients | rows/s | p50 ms | p99 ms | times as many rows/s as without batching |")
    print("|---|---|---|---|---|---|")
    for student in arguments.students:
        bodies = bodies_of(student, rows)
        with server(student, batch_rows=64) as batched, server(student, batch_rows=1) as single:
            for clients in arguments.clients:
                turns = []
                for _ in range(arguments.turns):
                    found = [
                        asyncio.run(load(url, bodies, clients=clients, seconds=arguments.seconds))
                        for url in (batched, single)
                    ]
                    turns.append(found)
                rate = np.median([one.rate for one, _ in turns])
                p50, p99 = (1000 * np.median([np.quantile(one.seconds, at) for one, _ in turns]) for at in (0.5, 0.99))
                times = [one.rate / other.rate for one, other in turns]
                spread = f"{np.median(times):.1f} ({min(times):.1f}–{max(times):.1f})"
                print(f"| {student.name} | {clients} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
