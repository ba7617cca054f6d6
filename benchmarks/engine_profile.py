"""Where a row's time goes in the labeling engine: each part alone, on one thread, beside the whole.

    python benchmarks/engine_profile.py --out benchmarks/results/engine_profile.md

Parts are the engine's own functions over the rows of ``engine_throughput.py`` (a guideline of 4 KB, a listing of 450
bytes, a short label), the best of several times: on a shared machine the least time is the one least disturbed. What
they do not add up to is the engine itself: queues, counts, event loop, and the wait for the interpreter's lock.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine_throughput import AtOnce, make_rows, make_task

from distill.labeling.answers.parsing import parse_answer
from distill.labeling.engine.engine import ask_teachers
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.codec import pack
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.teacher import Reply, Request
from distill.labeling.vote import Vote, votes_frame
from distill.teachers.config import OpenAITeacherConfig

_STEP = 256
_VOTES_PER_FRAME = 2048


def steps(items: list[Any], size: int = _STEP) -> Iterator[list[Any]]:
    """Cuts a list into steps."""
    return (items[start : start + size] for start in range(0, len(items), size))


def best_us(work: Callable[[], Any], *, rows: int, times: int) -> float:
    """Least microseconds a row of several times."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / rows * 1e6


def measure(rows: int, times: int) -> tuple[list[tuple[str, float]], float, float]:
    """Times the parts; and the whole, bought from a teacher that answers at once and served from the ledger."""
    task, table = make_task(), make_rows(rows)
    teacher = AtOnce(
        "judge",
        OpenAITeacherConfig(base_url="http://localhost/v1", model="stub", family="stub", probe=False, lane="json"),
    )
    prompter = Prompter(task, teacher.answer)

    def timed(work: Callable[[], Any]) -> float:
        return best_us(work, rows=rows, times=times)

    def bought_replies(requests: list[Request]) -> list[Reply]:
        async def ask() -> list[Reply]:
            return [await teacher.ask(request) for request in requests]

        return asyncio.run(ask())

    prompts: list[Any] = [one.prompt for step in prompter.steps(table, _STEP) for one in step]
    requests = [teacher.compile(prompt, sample=0) for prompt in prompts]
    replies = bought_replies(requests)
    packed = [pack(reply.body) for reply in replies]
    texts = [teacher.read(reply).text for reply in replies]
    votes = [Vote(str(n), "judge", "stub", "labeled", label="exact", latency_s=0.1, key="0" * 32) for n in range(rows)]
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:

        def label() -> None:
            config = LabelingConfig(concurrency=256)
            batches = [table.slice(start, 5000) for start in range(0, rows, 5000)]
            result = ask_teachers(
                batches, task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=lambda votes: None
            )
            assert result.outcomes["labeled"] == rows, result

        whole_bought = best_us(label, rows=rows, times=1)
        whole_served = timed(label)
        keys = [request.key for request in requests]
        parts = [
            ("write the prompt", timed(lambda: list(prompter.steps(table, _STEP)))),
            (
                "write the request and hash its key",
                timed(lambda: [teacher.compile(prompt, sample=0) for prompt in prompts]),
            ),
            ("look it up in the ledger and unpack it", timed(lambda: [ledger.get_many(step) for step in steps(keys)])),
            ("take off the provider's envelope", timed(lambda: [teacher.read(reply) for reply in replies])),
            (
                "parse the answer, where it was not seen before",
                timed(lambda: [parse_answer(text, task=task, answer=teacher.answer) for text in texts]),
            ),
            ("lay votes out as a table", timed(lambda: [votes_frame(step) for step in steps(votes, _VOTES_PER_FRAME)])),
            ("pack the reply for the ledger (only where bought)", timed(lambda: [pack(r.body) for r in replies])),
        ]
        assert len(packed) == rows
    return parts, whole_bought, whole_served


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_480)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    parts, bought, served = measure(arguments.rows, arguments.times)
    lines = [
        "# Where a row's time goes",
        "",
        f"Written by `benchmarks/engine_profile.py` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}; the least of {arguments.times} times, µs a row.",
        "",
        "| part | µs a row |",
        "|---|--:|",
        *(f"| {name} | {value:.1f} |" for name, value in parts),
        f"| **a whole row served from the ledger** | {served:.1f} |",
        f"| **a whole row bought from a teacher that answers at once, once measured** | {bought:.1f} |",
        "",
        "Over a network a row takes 110 to 180 µs of CPU in all (`engine_throughput.md`). Prompts, parsing and the "
        f"table of votes are {sum(parts[at][1] for at in (0, 1, 3, 4, 5)):.0f} of them; most of the rest is the "
        "connection and the event loop's wake-ups, and that is what limits the engine on one thread. Served from the "
        "ledger no part stands out: it is the interpreter.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
