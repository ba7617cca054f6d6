"""How fast does a student predict, as it is and exported to INT8, beside sentence-transformers' CrossEncoder.predict?

The same weights in both: a student's folder is one that transformers loads. The same rows in both: crowdflower's test
queries, of which CrossEncoder reads the text that the student reads (without the match tokens, which it does not know).
``cross_encoder`` is ``CrossEncoder(folder).predict(pairs)`` at its defaults; ``cross_encoder, cut`` is the same with
``max_length`` set to the student's, so that both read as many tokens.

Ways of predicting are taken in turns, and each turn gives a ratio to ``cross_encoder, cut`` of that turn. CPU seconds
are of all threads: what a machine that does other things beside it has to pay.

    python -m venv peer && peer/bin/pip install sentence-transformers polars
    distill run recipes/crowdflower.yaml --until eval --out run        # trains the students
    distill export run/students/encoder-both --to int8 --out int8
    python benchmarks/prediction_speed.py run/students/encoder-both int8 --dcn run/students/dcn-human \\
        --peer peer/bin/python > benchmarks/results/prediction_speed.md

``--similarity`` adds a student with a sentence encoder beside it, and its INT8 export, with a first line of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate, paired_difference
from distill.students import matching
from distill.students.student import Student, load_student
from distill.students.text import PairTemplate

PEER = """
import json, sys, time
from sentence_transformers import CrossEncoder
folder, pairs, length, threads = json.loads(sys.stdin.readline())
import torch
torch.set_num_threads(threads)
models = {"cross_encoder": CrossEncoder(folder), "cross_encoder, cut": CrossEncoder(folder, max_length=length)}
import sentence_transformers
print(json.dumps(sentence_transformers.__version__), flush=True)
for line in sys.stdin:
    name, rows = json.loads(line)
    wall, cpu = time.perf_counter(), time.process_time()
    models[name].predict(pairs[:rows])
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""
BESIDE = "cross_encoder, cut"


class Peer:
    """CrossEncoder in an environment of its own, asked for one prediction at a time."""

    def __init__(self, python: str, folder: Path, pairs: list[tuple[str, str]], *, length: int, threads: int) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version = self._say([str(folder), pairs, length, threads])

    def predict(self, name: str, rows: int) -> tuple[float, float]:
        """Wall and CPU seconds of one prediction."""
        wall, cpu = self._say([name, rows])
        return wall, cpu

    def _say(self, message: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def timed(predict: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call, on rows as good as new: what was kept of them is forgotten."""
    matching._matched.cache_clear()
    wall, cpu = time.perf_counter(), time.process_time()
    predict()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: list[float]) -> str:
    """Median, and the lowest and highest."""
    return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def quality(students: dict[str, Student], table: pl.DataFrame) -> list[str]:
    """AUC against people's grades of each student, and its difference from the first, paired by query."""
    config = EvalConfig(metric="auc")
    found = {name: student.predict(table, precision="fp32") for name, student in students.items()}
    first = next(iter(found))
    lines = []
    for name, predictions in found.items():
        task = students[name].task
        auc = evaluate(predictions, table, task=task, truth_source="human", config=config).metrics["auc"]
        beside = paired_difference(predictions, found[first], table, task=task, config=config)
        change = (
            "" if name == first else f"{100 * beside.value:+.2f} ({100 * beside.low:+.2f} to {100 * beside.high:+.2f})"
        )  # type: ignore[operator]
        lines.append(f"| {name} | {auc.value:.4f} ({auc.low:.4f} to {auc.high:.4f}) | {change} |")
    return lines


def main() -> None:
    arguments = _arguments()
    encoder, int8 = load_student(arguments.encoder), load_student(arguments.int8)
    run = arguments.encoder.resolve().parent.parent
    table = pl.read_parquet(run / "rows.parquet").filter(pl.col("split") == "test")
    rows = table.sample(min(arguments.rows, len(table)), seed=0)
    queries, listings = PairTemplate(encoder.task.inputs).render(rows)
    pairs = list(zip(queries, listings or [""] * len(queries), strict=True))
    threads = arguments.threads
    peer = Peer(arguments.peer, arguments.encoder, pairs, length=encoder.info.max_length or 512, threads=threads)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        BESIDE: lambda: peer.predict(BESIDE, len(rows)),
        "cross_encoder": lambda: peer.predict("cross_encoder", len(rows)),
        "student, fp32": lambda: timed(lambda: encoder.predict(rows, precision="fp32", threads=threads)),
        "student": lambda: timed(lambda: encoder.predict(rows, threads=threads)),
        "student, INT8": lambda: timed(lambda: int8.predict(rows, threads=threads)),
    }
    beside = {}
    if arguments.similarity:
        similar, similar_int8 = map(load_student, arguments.similarity)
        beside = {"with similarity, fp32": similar, "with similarity, INT8": similar_int8}
        ways["student with similarity"] = lambda: timed(lambda: similar.predict(rows, threads=threads))
        ways["student with similarity, INT8"] = lambda: timed(lambda: similar_int8.predict(rows, threads=threads))
    if arguments.dcn:
        dcn = load_student(arguments.dcn)
        ways["dcn"] = lambda: timed(lambda: dcn.predict(rows, threads=threads))
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(arguments.turns + 1):
        for name, way in ways.items():
            wall, cpu = way()
            if turn:  # the first warms up
                rates[name].append((len(rows) / wall, len(rows) / cpu))
            print(turn, name, f"{len(rows) / wall:.0f} pairs/s", file=sys.stderr, flush=True)
    peer.close()
    _print(rates, arguments, peer.version, encoder)
    print("\n| student | AUC against people, interval by query | difference in points, paired |\n|---|---|---|")
    print("\n".join(quality({"encoder, fp32": encoder, "encoder, INT8": int8}, table)))
    if beside:
        print("\n".join(quality(beside, table)))


def _print(rates: dict[str, list[tuple[float, float]]], arguments: Any, peer: str, encoder: Student) -> None:
    packages = ("torch", "transformers", "onnxruntime")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print("# Prediction: pairs a second beside sentence-transformers' CrossEncoder\n")
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {arguments.threads} "
        f"threads; {versions}, sentence-transformers {peer}. {arguments.rows} of crowdflower's test pairs, "
        f"{arguments.turns} turns after a warm-up. The student: {encoder.parameters:,} parameters, "
        f"{encoder.info.max_length} tokens. Load of the machine at the end: {os.getloadavg()[0]:.1f}.\n"
    )
    print(f"| way | pairs/s | pairs per CPU second | times {BESIDE}, by wall | by CPU seconds |\n|---|---|---|---|---|")
    for name, found in rates.items():
        walls, cpus = ([pair[place] for pair in found] for place in (0, 1))
        beside = [[pair[place] for pair in rates[BESIDE]] for place in (0, 1)]
        ratios = [
            [own / other for own, other in zip(mine, theirs, strict=True)]
            for mine, theirs in zip((walls, cpus), beside, strict=True)
        ]
        print(
            f"| {name} | {np.median(walls):.0f} | {np.median(cpus):.0f} | {spread(ratios[0])} | {spread(ratios[1])} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="folder of an encoder, in its run")
    parser.add_argument("int8", type=Path, help="its INT8 export")
    parser.add_argument("--similarity", type=Path, nargs=2, help="a student with a sentence encoder, and its INT8")
    parser.add_argument("--dcn", type=Path, help="folder of a dcn of the same run")
    parser.add_argument("--peer", required=True, help="python of an environment with sentence-transformers")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
