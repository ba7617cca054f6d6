"""Time of a training step and of a prediction of a small GPT, with what prompts begin with read once or every time.

    python benchmarks/causal_step.py /tmp/smollm2

Eight English rows of the quickstart with the careful teacher's labels and traces, one thread, the student's own
precision. Both ways take turns, after one step of each that is not counted; the ratio is of a round's two times, which
are CPU seconds, so that other work on the machine counts for little.
Writes ``results/causal_step.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import torch

import distill
from distill.labeling.task import Task
from distill.students.causal.network import CausalNetwork
from distill.students.config import CausalConfig
from distill.students.train import computes_in_bf16
from distill.students.training.objective import objective_for
from distill.students.training_set import training_set

_RESULTS = Path(__file__).parent / "results" / "causal_step.md"
_INPUTS = ("query", "title", "brand", "category", "attributes", "description")
_TASK = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=_INPUTS, positive="exact")
_WAYS = {"every time": False, "once": True}


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a pretrained GPT: a folder (smollm2.py) or an id")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = _rows()
    lines = [
        "| what | tokens, every time | tokens, once | CPU s, every time | CPU s, once | times as fast |",
        "|" + " --- |" * 6,
    ]
    for what, traces, lora in (
        ("training step, label only", "none", None),
        ("training step, label only, adapters", "none", {"r": 16}),
        ("training step, trace then label", "before_label", None),
        ("prediction", "none", None),
    ):
        config = CausalConfig.model_validate({"base": options.base, "traces": traces, "lora": lora})
        lines.append(_line(what, config, rows, rounds=options.rounds))
        print(lines[-1], flush=True)
    made = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    text = (
        "# What prompts begin with, read once\n\n"
        f"`{Path(options.base).name}`, eight English rows of the quickstart, one thread; tokens are those that the "
        f"decoder reads, padding included. Medians of {options.rounds} rounds in which both ways take turns.\n\n"
        + "\n".join(lines)
        + f"\n\nMade {date.today()} by `benchmarks/causal_step.py`; {platform.machine()}, {os.cpu_count()} cores; "
        + f"{made}.\n"
    )
    _RESULTS.write_text(text, encoding="utf-8")


def _rows() -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        judged = distill.run("quickstart", out=Path(folder) / "run", until="label")
        rows, votes = judged.rows.filter(pl.col("lang") == "en"), judged.votes
        votes = votes.filter(pl.col("row_id").is_in(rows["row_id"].to_list()))
        made = training_set(rows, train_on="careful", labels=None, votes=votes, task=_TASK, seed=7)
    return made.train.sample(8, seed=1)


def _line(what: str, config: CausalConfig, rows: pl.DataFrame, *, rounds: int) -> str:
    network = CausalNetwork.from_base(config, labels=_TASK.labels, inputs=_INPUTS, rows=rows.lazy())
    model: Any = network.model
    read = [0]
    model.whole.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    step = _prediction(network, rows) if what == "prediction" else _training_step(network, rows)
    tokens, seconds = {}, {way: [] for way in _WAYS}
    for number in range(rounds + 1):
        for way, shares in _WAYS.items():
            model.shares_beginnings = shares
            read.clear()
            began = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=computes_in_bf16(network, config.precision)):
                step()
            tokens[way] = sum(read)
            if number:
                seconds[way].append(time.process_time() - began)
    ratio = median(every / once for every, once in zip(*seconds.values(), strict=True))
    counts = " | ".join(f"{tokens[way]:,}" for way in _WAYS)
    times = " | ".join(f"{median(seconds[way]):.2f}" for way in _WAYS)
    return f"| {what} | {counts} | {times} | {ratio:.2f} |"


def _training_step(network: CausalNetwork, rows: pl.DataFrame) -> Callable[[], None]:
    """Forward and backward; the optimiser's part is the same both ways."""
    objective = objective_for(network.config, task=_TASK)
    batch = network.collate(objective.read(network, rows))
    columns = {name: torch.from_numpy(values) for name, values in objective.columns(rows).items()}
    network.model.train()

    def step() -> None:
        objective.loss(network, network.model, batch, columns).loss.backward()
        network.model.zero_grad()

    return step


def _prediction(network: CausalNetwork, rows: pl.DataFrame) -> Callable[[], None]:
    batch = network.collate(network.read(rows))
    network.model.eval()

    @torch.inference_mode()
    def step() -> None:
        network.forward(network.model, batch)

    return step


if __name__ == "__main__":
    main()
