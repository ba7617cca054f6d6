"""How long does it take to merge votes whose answers are texts, spans, several labels and ranked lists, and how much
memory does it take?

    python benchmarks/merging_answers.py [--rows 1000 10000 100000] [--folder FOLDER] [--out FILE]

Votes on a ``query_understanding`` task are made up: a query of two to five words, one in eight misspelled, one in two
with a brand, one or two of 400 categories in a tree, up to five expansions. Three language models of two families
answer every part and state how sure they are; one of them gives a trace, all cite a clause. A tool of a family of its
own answers half of the queries and abstains on the others. How often two models say the same is below the table; speed
alone, so nothing here speaks of quality.

Each measurement is a process of its own that reads ``votes.parquet`` as a run's ``aggregate`` stage does and merges it.
``table`` is the resident memory of the process with the votes read, ``peak`` the most that it held at any time. The
single label beside it is one of four, with a distribution from every teacher, of as many rows and teachers, merged by
the same method.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from distill.labeling.merging.merge_answers import merge_answers
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task, TaskConfig
from distill.labeling.vote import PartVote, Vote, stored_columns, votes_frame
from distill.stages import decisive_votes

PARTS = ("spelling", "brand", "category", "expansion")
MODELS = (("large", "one", 0.95), ("small", "one", 0.88), ("other", "two", 0.91))
"""Teacher, family, and how often it gives the answer that is meant."""
TOOL = ("tool", "tools", 0.8)
LABELS = ("exact", "substitute", "complement", "irrelevant")
PIECE = 10_000
_SYLLABLES = [f"{a}{b}" for a in "bcdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
WORDS = [one + other for one in _SYLLABLES[::3] for other in _SYLLABLES[::2]]
BRANDS = [f"{one}{other}ex" for one in _SYLLABLES[::9] for other in _SYLLABLES[::5]]
CATEGORIES = [f"{a} > {a} {b} > {a} {b} {c}" for a in WORDS[:8] for b in WORDS[8:18] for c in WORDS[18:23]]
TRACE = "The query names {} and a shopper who types it wants that kind of product, so the answer follows clause Q2."


def task_of(kind: str) -> Task:
    """The task with four parts, or the one with a single label."""
    config: dict[str, Any] = {"type": "choice", "labels": list(LABELS), "inputs": ["query"]}
    if kind == "parts":
        config = {"type": "query_understanding", "inputs": ["query"], "categories": CATEGORIES, "most_options": 400}
    return Task.from_config(TaskConfig.model_validate(config))


class Meant:
    """What a made-up query means, and what a teacher makes of it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        words = chance.choices(WORDS, k=chance.randint(2, 5))
        self.brand = chance.choice(BRANDS) if chance.random() < 0.5 else None
        self.text = " ".join([*([self.brand] if self.brand else []), *words])
        self.query = self._misspelled() if chance.random() < 0.125 else self.text
        self.categories = sorted(chance.sample(CATEGORIES, 1 if chance.random() < 0.8 else 2), key=CATEGORIES.index)
        self.expansions = [f"{self.text} {word}" for word in chance.choices(WORDS, k=6)]

    def _misspelled(self) -> str:
        at = self.chance.randrange(1, len(self.text))
        return self.text[:at] + self.chance.choice("aeiourst") + self.text[at:]

    def parts(self, right: float) -> tuple[PartVote, ...]:
        """A vote on each part by a teacher that is right so often; texts carry a capital now and then."""
        text = self.text if self.chance.random() < right else self._misspelled()
        text = text.capitalize() if self.chance.random() < 0.1 else text
        length = len(self.brand) if self.brand else 0
        if length and self.chance.random() > right:
            length = length - 2 if self.chance.random() < 0.5 else 0
        spans = [SpanAnswer(0, length, self.query[:length], "brand", self.brand)] if length else []
        labels = self.categories if self.chance.random() < right else [self.chance.choice(CATEGORIES)]
        texts = [one for one in self.expansions if self.chance.random() < right - 0.2]
        self.chance.shuffle(texts)
        answers: list[dict[str, Any]] = [{"text": text}, {"spans": spans}, {"labels": labels}, {"texts": texts[:5]}]
        return tuple(
            PartVote(name, confidence=round(self.chance.uniform(0.6, 1.0), 2), **answer)
            for name, answer in zip(PARTS, answers, strict=True)
        )


def votes_of(chance: random.Random, row: int, *, parts: bool) -> Iterator[Vote]:
    """What all teachers say of a row."""
    meant = Meant(chance)
    for teacher, family, right in (*MODELS, TOOL):
        known: dict[str, Any] = {"key": f"{chance.getrandbits(256):064x}", "clauses": ["Q2"], "cost_usd": 1e-5}
        if teacher == "large":
            known["trace"] = TRACE.format(meant.text)
        if family == "tools" and chance.random() < 0.5:
            yield Vote(f"row-{row}", teacher, family, "abstained", parts=tuple(map(PartVote, PARTS)) if parts else ())
        elif parts:
            yield Vote(f"row-{row}", teacher, family, "labeled", parts=meant.parts(right), **known)
        else:
            label = row % 4 if chance.random() < right else chance.randrange(4)
            known |= {"label": LABELS[label], "probs": [0.91 if at == label else 0.03 for at in range(4)]}
            yield Vote(f"row-{row}", teacher, family, "labeled", probs_source="logprob", **known)


def write_votes(rows: int, kind: str, path: Path) -> None:
    """Makes ``votes.parquet``, a piece at a time."""
    chance, kept = random.Random(7), stored_columns(task_of(kind))
    pieces = path.with_name(f"pieces-{kind}-{rows}")
    pieces.mkdir()
    for first in range(0, rows, PIECE):
        made = (
            vote
            for row in range(first, min(first + PIECE, rows))
            for vote in votes_of(chance, row, parts=kind == "parts")
        )
        votes_frame(made).select(kept).write_parquet(pieces / f"{first:09d}.parquet")
    pl.scan_parquet(pieces / "*.parquet").sink_parquet(path)
    shutil.rmtree(pieces)


def measured(path: Path, kind: str) -> dict[str, float]:
    """Reads and merges in this process; seconds and MB."""
    task = task_of(kind)
    votes = decisive_votes(path).collect()
    table = _memory_mb("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    labels = merge_answers(votes, task=task, method="family_vote").labels
    found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    return {**found, "table": table, "peak": _memory_mb("VmHWM"), "lines": len(labels)}


def seconds_by_part(path: Path) -> dict[str, float]:
    """CPU seconds of each part on its own."""
    votes, task = decisive_votes(path).collect(), task_of("parts")
    found = {}
    for single in task.singles:
        own = votes.filter(pl.col("part") == single.part)
        began = time.process_time()
        merge_answers(own, task=single, method="family_vote")
        found[str(single.part)] = time.process_time() - began
    return found


def agreement(path: Path) -> dict[str, float]:
    """How much two models say the same, by part: shares of equal answers, of lists the share of texts in common."""
    votes = decisive_votes(path).filter(pl.col("teacher").is_in([name for name, _, _ in MODELS])).collect()
    columns = {"spelling": "text", "brand": "spans", "category": "labels", "expansion": "texts"}
    found = {}
    for part, column in columns.items():
        own = votes.filter(pl.col("part") == part).select("teacher", column)
        answers = [rows[column].to_list() for _, rows in own.group_by("teacher", maintain_order=True)]
        pairs = [pair for left, right in combinations(answers, 2) for pair in zip(left, right, strict=True)]
        alike = [
            len({*one} & {*other}) / max(len({*one} | {*other}), 1)
            if column == "texts"
            else float(str(one).lower() == str(other).lower())
            for one, other in pairs
        ]
        found[part] = sum(alike) / len(alike)
    return found


def _memory_mb(field: str) -> float:
    """What the kernel says of this process; ``ru_maxrss`` would be that of the parent, where it was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def _in_a_process(*arguments: str) -> dict[str, float]:
    environment = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measures every number of rows in turn and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "merging_answers.md")
    parser.add_argument(
        "--folder", type=Path, help="where votes are kept for the next time; a temporary one by default"
    )
    parser.add_argument("--one", nargs=2, metavar=("FILE", "KIND"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        path, kind = Path(given.one[0]), given.one[1]
        print(json.dumps(seconds_by_part(path) if kind == "by part" else measured(path, kind)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = list(table_lines(given.rows, folder))
    given.out.write_text("\n".join(lines) + "\n")


def table_lines(counts: list[int], folder: Path) -> Iterator[str]:
    """The lines of the table, as they come."""
    yield "# Merging answers that are no single label\n"
    yield (
        f"{date.today()}, {platform.machine()}, one thread of {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, polars {pl.__version__}. Made-up votes; seconds of the wall, MB resident.\n"
    )
    head = [*("rows", "lines of votes", "seconds", "CPU seconds", "table, MB", "peak, MB"), *PARTS]
    head += ["single label: CPU seconds", "table, MB", "peak, MB"]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    same: dict[str, float] = {}
    for rows in counts:
        files = {kind: folder / f"{kind}-{rows}.parquet" for kind in ("parts", "label")}
        for kind, path in files.items():
            if not path.exists():
                write_votes(rows, kind, path)
        same = same or agreement(files["parts"])
        height = pl.scan_parquet(files["parts"]).select(pl.len()).collect().item()
        parts, label = (_in_a_process("--one", str(path), kind) for kind, path in files.items())
        apart = _in_a_process("--one", str(files["parts"]), "by part")
        cells = [f"{rows:,}", f"{height:,}", f"{parts['seconds']:.1f}", f"{parts['cpu']:.1f}"]
        cells += [f"{parts['table']:,.0f}", f"{parts['peak']:,.0f}", *(f"{apart[name]:.1f}" for name in PARTS)]
        cells += [f"{label['cpu']:.1f}", f"{label['table']:,.0f}", f"{label['peak']:,.0f}"]
        yield f"| {' | '.join(cells)} |"
        print(f"| {' | '.join(cells)} |", flush=True)
    said = ", ".join(f"{name} {100 * share:.0f}%" for name, share in same.items())
    yield f"\nTwo models agree on {said} (of expansions, the texts in common). By part: CPU seconds of it on its own."


if __name__ == "__main__":
    main()
