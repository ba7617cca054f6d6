"""Memory of a training on a million rows: resident memory that is the process's own, by rows.

    python benchmarks/training_memory.py --rows 20000 200000 1000000 --steps 100

Writes a job of made-up rows (a query, a title and a text of about 300 letters), trains so many steps of a small network
on it in a process of its own, and prints what that process held at most: ``own`` is anonymous memory, ``mapped`` are
pages of files, which the system takes back when it needs them. ``--kind encoder`` takes a BERT of two layers built on
the spot; tokenising is in the measurement, and so is the linear model beside the network, which is fitted on at most
50,000 rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

_PIECE = 50_000
_WORDS = [f"{a}{b}{c}" for a in "bcdfgklmnprst" for b in "aeiou" for c in "bdgklmnprst"]


def main() -> None:
    """Measures, or trains one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--kind", choices=["dcn", "encoder"], default="dcn")
    parser.add_argument("--folder", type=Path, help="where the jobs are written; a temporary one where not given")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(_train(arguments.one, steps=arguments.steps)))
        return
    print(
        "| rows | texts, MB | own memory at most, MB | mapped files, MB | seconds: all, reading, linear model |\n"
        "|---|---|---|---|---|"
    )
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            job = Path(folder) / "job"
            texts = _write_job(job, rows, kind=arguments.kind, base=Path(folder) / "base")
            command = [sys.executable, __file__, "--one", str(job), "--steps", str(arguments.steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found = json.loads(done.stdout.strip().splitlines()[-1])
        line = (f"{rows:,}", f"{texts / 1e6:,.0f}", f"{found['own']:,.0f}", f"{found['mapped']:,.0f}")
        print(
            f"| {' | '.join(line)} | {found['seconds']:.0f}, {found['reading']:.0f}, {found['wide']:.0f} |", flush=True
        )


def _write_job(folder: Path, rows: int, *, kind: str, base: Path) -> int:
    """A job folder as :meth:`distill.students.job.Job.write` leaves it, without all rows in memory; bytes of text."""
    from distill.students.config import DcnConfig, EncoderConfig, StudentConfig
    from distill.students.job import Job
    from distill.students.training_set import TrainingSet

    if kind == "encoder":
        _tiny_base(base)
    config: StudentConfig = (
        DcnConfig(epochs=1, batch_size=64)
        if kind == "dcn"
        else EncoderConfig(base=str(base), epochs=1, batch_size=64, max_length=64)
    )
    job = Job(folder, config, labels=("yes", "no"), inputs=("query", "title", "description"), seed=0)
    job.write(TrainingSet(_piece(0, 2), _piece(0, 2).clear()))
    pieces = folder.with_name("pieces")
    pieces.mkdir()
    size = 0
    for start in range(0, rows, _PIECE):
        piece = _piece(start, min(_PIECE, rows - start))
        size += int(piece.select(pl.col(job.inputs).str.len_bytes().sum()).sum_horizontal().item())
        piece.write_parquet(pieces / f"{start:09d}.parquet")
    pl.scan_parquet(pieces / "*.parquet").sink_parquet(folder / "train.parquet", row_group_size=_PIECE)
    return size


def _piece(start: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(start)

    def texts(low: int, high: int) -> pl.Series:
        pool = [" ".join(random.choice(_WORDS, size=count)) for count in random.integers(low, high, size=500)]
        return pl.Series(pool).gather(random.integers(0, len(pool), size=rows))

    share = random.uniform(size=rows)
    return pl.DataFrame(
        {
            "row_id": [str(start + number) for number in range(rows)],
            "group": [f"g{(start + number) // 10}" for number in range(rows)],
            "query": texts(2, 4),
            "title": texts(6, 12),
            "description": texts(60, 90),
            "target": np.stack([share, 1 - share], axis=1).tolist(),
            "weight": np.ones(rows),
            "source": ["labels"] * rows,
            "confidence": share,
            "n_eff": np.ones(rows),
            "trace": texts(20, 30),
            "clauses": [["E1"]] * rows,
        }
    )


def _tiny_base(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "title", "description", ":"]
    vocabulary = {word: number for number, word in enumerate([*special, *_WORDS])}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)


def _train(folder: Path, *, steps: int) -> dict[str, float]:
    """Trains a job for so many steps and says what it held at most, megabytes."""
    from distill.students.job import Job
    from distill.students.train import train
    from distill.students.training import trainer
    from distill.students.wide import MOST_ROWS as WIDE_ROWS
    from distill.students.wide import fit_wide
    from distill.students.wide_config import WideSection

    step = trainer.DistributionTrainer.training_step
    peak = {"own": 0.0, "mapped": 0.0}
    began, first = time.perf_counter(), [0.0]

    def limited(self: Any, *args: Any, **options: Any) -> Any:
        first[0] = first[0] or time.perf_counter() - began
        if self.state.global_step >= steps:
            self.control.should_training_stop = True
        return step(self, *args, **options)

    trainer.DistributionTrainer.training_step = limited  # type: ignore[method-assign]
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, stop), daemon=True)
    watcher.start()
    job = Job.read(folder)
    train(job)
    trained = time.perf_counter()
    # As fit_student does, whose caller has the rows in memory: here a sample of as many as it takes is read.
    rows = job.scan("train").head(WIDE_ROWS).collect()
    fit_wide(WideSection(), rows, inputs=job.inputs, seed=0)
    stop.set()
    watcher.join()
    seconds = time.perf_counter() - began
    return {**peak, "seconds": seconds, "reading": first[0], "wide": began + seconds - trained}


def _watch(peak: dict[str, float], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        for name, field in (("own", "RssAnon"), ("mapped", "RssFile")):
            peak[name] = max(peak[name], int(fields[field].split()[0]) / 1e3)


if __name__ == "__main__":
    main()
