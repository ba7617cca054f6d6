"""What reasoning traces buy a small GPT: label-only, distilling step-by-step, and trace-then-label, side by side.

    python benchmarks/causal_traces.py
    python benchmarks/causal_traces.py --base /tmp/smollm2
    DISTILL_DATA=… python benchmarks/causal_traces.py --pairs 40000

Students learn from the careful teacher's labels and traces on the quickstart, and are measured on its test queries
against the author's labels, which no student sees. The base is a tiny GPT made on the spot. Whether traces help may
depend on whether the base knows any language, so two others can stand beside it: with ``--base`` a pretrained one, and
with ``--pairs`` the tiny one after a short pretraining on search queries and titles, for this benchmark only. The table
is written anew after every student, so that a run that is stopped leaves what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

import distill
from distill.eval.metrics import auc
from distill.labeling.task import Task
from distill.students.causal.config import TinySection
from distill.students.causal.pretrained import save
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.config import CausalConfig
from distill.students.fit import fit_student
from distill.students.training_set import TrainingSet, training_set

_RESULTS = Path(__file__).parent / "results" / "causal_traces.md"
_ARMS = {"label only": "none", "step-by-step": "multitask", "trace then label": "before_label"}
_SLOW = "trace then label, traces written"
_RESAMPLES = 2000
_COLUMNS = ("base", "student", "seeds", "AUC of exact", "exact or not", "accuracy of 4", "AUC over label only")
_COLUMNS += ("train s", "rows/s")
_SOURCES = {"home_depot": ("search_term", "product_title"), "crowdflower": ("query", "product_title")}
_PRETRAINING_LENGTH = 128


def main() -> None:
    """Trains, measures, and writes the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=0, help="query and title pairs to pretrain on; 0 for no such base")
    parser.add_argument(
        "--base", help="a pretrained GPT as well, trained with adapters: a folder (smollm2.py) or an id"
    )
    parser.add_argument("--rows", type=int, help="learn from so many rows, in whole queries; all where not given")
    parser.add_argument("--trace-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/causal_traces"), help="where runs and students go")
    options = parser.parse_args()
    judged = distill.run("quickstart", out=options.out / "quickstart", until="aggregate")
    rows, task = judged.rows, _task()
    training = training_set(rows, train_on="careful", labels=None, votes=judged.votes, task=task, seed=7)
    test = rows.filter(pl.col("split") == "test")
    if options.rows:
        training = TrainingSet(training.train.head(options.rows // 8 * 8), training.validation)
    bases = {"random weights": "tiny"}
    if options.pairs:
        bases["pretrained on titles"] = str(_pretrained(options, training))
    if options.base:
        bases[Path(options.base).name] = options.base
    found: list[pl.DataFrame] = []
    for seed in options.seeds:
        for base_name, base in bases.items():
            for arm, traces in _ARMS.items():
                config = _config(base, traces, options, adapters=base == options.base)
                found += _measured(config, training, test=test, task=task, seed=seed, out=options.out / "student")
                names = [arm, _SLOW][: len(found[-1]["mode"].unique())]
                found[-1] = found[-1].with_columns(
                    base=pl.lit(base_name), arm=pl.col("mode").replace_strict(["fast", "slow"][: len(names)], names)
                )
                _RESULTS.write_text(_text(pl.concat(found), test, options), encoding="utf-8")
                print(f"seed {seed}, {base_name}, {arm}: done", flush=True)


def _task() -> Task:
    inputs = ("query", "title", "brand", "category", "attributes", "description")
    return Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=inputs, positive="exact")


def _config(base: str, traces: str, options: argparse.Namespace, *, adapters: bool) -> CausalConfig:
    return CausalConfig.model_validate(
        {
            "base": base,
            "train_on": "careful",
            "traces": traces,
            "trace_tokens": options.trace_tokens,
            "epochs": options.epochs,
            "lr": 1e-3,
            "batch_size": 16,
            "max_length": options.max_length,
            "threads": options.threads,
            "lora": {"r": 16} if adapters else None,
        }
    )


def _measured(
    config: CausalConfig, training: TrainingSet, *, test: pl.DataFrame, task: Task, seed: int, out: Path
) -> list[pl.DataFrame]:
    """One line a test row and mode, with what the student says of it."""
    began = time.perf_counter()
    fit = fit_student(config, training, task=task, out=out, seed=seed)
    seconds = time.perf_counter() - began
    student = distill.load_student(fit.path)
    modes = {"fast": False, "slow": True} if config.traces == "before_label" else {"fast": False}
    tables = []
    for mode, traces in modes.items():
        began = time.perf_counter()
        predicted = student.predict(test, traces=traces, threads=config.threads).drop("trace", strict=False)
        rate = test.height / (time.perf_counter() - began)
        tables.append(predicted.with_columns(mode=pl.lit(mode), train_s=seconds, rows_per_s=rate, seed=seed))
    return [pl.concat(tables)]


def _pretrained(options: argparse.Namespace, training: TrainingSet) -> Path:
    """The same tiny GPT after a pass over query and title pairs; its vocabulary is the quickstart's and theirs."""
    import torch

    folder: Path = options.out / "pretrained"
    if (folder / "config.json").is_file():
        return folder
    section = TinySection()
    texts = list(_pairs(options.pairs))
    ours = [text for name in ("title", "description", "trace") for text in training.train[name].drop_nulls()]
    tokenizer = tiny_tokenizer([*texts, *ours], vocabulary=section.vocabulary)
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    model = tiny_model(section, tokenizer).train()
    end = tokenizer.eos_token_id
    stream = [token for ids in tokenizer(texts).input_ids for token in (*ids, end)]
    blocks = torch.tensor(stream[: len(stream) // _PRETRAINING_LENGTH * _PRETRAINING_LENGTH])
    blocks = blocks.view(-1, _PRETRAINING_LENGTH)[torch.randperm(len(stream) // _PRETRAINING_LENGTH)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    steps = len(blocks) // 16
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50, (steps - step) / (steps / 2))
        part = blocks[step * 16 : step * 16 + 16]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=part, labels=part).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"pretraining: step {step} of {steps}, loss {loss.item():.2f}", flush=True)
    save(model, tokenizer, folder, base="tiny", lora=None)
    (folder / "pretraining.json").write_text(json.dumps({"tokens": blocks.numel(), "loss": round(loss.item(), 3)}))
    return folder


def _pairs(count: int) -> Iterator[str]:
    """Search queries and titles in a fixed random order; none of the quickstart's products is among them."""
    tables = []
    for name, (query, title) in _SOURCES.items():
        path = Path(os.environ["DISTILL_DATA"]) / f"{name}.parquet"
        if path.is_file():
            tables.append(pl.read_parquet(path).select(query=pl.col(query), title=pl.col(title)))
    pairs = pl.concat(tables).drop_nulls().unique(maintain_order=True).sample(fraction=1.0, shuffle=True, seed=1)
    for query, title in pairs.head(count).iter_rows():
        yield f"Query: {query}\ntitle: {title}"


def _text(found: pl.DataFrame, test: pl.DataFrame, options: argparse.Namespace) -> str:
    table = found.join(test.select("row_id", "group", "gold", "weight"), on="row_id")
    seeds = table["seed"].unique().sort().to_list()
    lines = [
        "# What reasoning traces buy a small GPT",
        "",
        f"Trained for {options.epochs} epochs on the careful teacher's labels and traces of the quickstart's rows "
        f"outside split `test` ({options.rows or 'all'} of them; prompts of {options.max_length} tokens); measured on "
        f"its {test.height} test rows of {test['group'].n_unique()} queries. Truth source: author. Mean over the "
        f"seeds done, with the 95% interval over queries ({_RESAMPLES} resamples, the seeds together); differences "
        "are paired.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + " --- |" * len(_COLUMNS),
    ]
    for base in table["base"].unique(maintain_order=True):
        of_base = table.filter(pl.col("base") == base)
        plain = _draws(of_base.filter(pl.col("arm") == "label only"))
        for arm in of_base["arm"].unique(maintain_order=True):
            part = of_base.filter(pl.col("arm") == arm)
            draws = _draws(part)
            same = sorted(part["seed"].unique()) == sorted(
                of_base.filter(pl.col("arm") == "label only")["seed"].unique()
            )
            gain = "" if arm == "label only" or not same else _shown(draws["auc"] - plain["auc"], sign=True)
            cells = [base, arm, ", ".join(map(str, part["seed"].unique().sort()))]
            cells += [_shown(draws[name]) for name in ("auc", "positive", "accuracy")]
            cells += [gain, f"{part['train_s'].mean():.0f}", f"{part['rows_per_s'].mean():.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    majority = test["gold"].value_counts(sort=True).row(0)
    made = f"{date.today()}, {os.cpu_count()} cores, {options.threads} thread, shared with other work; "
    made += ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")) + f", {platform.machine()}"
    lines += [
        "",
        f"Always saying `{majority[0]}` is right on {majority[1] / test.height:.3f} of the rows; AUC 0.5 is chance. "
        f"Speeds are of a busy machine and say little beyond their order. Seeds {seeds}. Made {made}.",
        "",
    ]
    return "\n".join(lines)


def _draws(part: pl.DataFrame) -> dict[str, np.ndarray]:
    """Each metric, mean over seeds: first on all queries, then on each resample of them."""
    groups = part["group"].unique().sort().to_list()
    random = np.random.default_rng(0)
    counts = random.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=_RESAMPLES)
    weights = np.vstack([np.ones(len(groups)), counts])
    by_seed = [_metrics(one, groups, weights) for one in part.partition_by("seed", maintain_order=True)]
    return {name: np.mean([metrics[name] for metrics in by_seed], axis=0) for name in by_seed[0]}


def _metrics(part: pl.DataFrame, groups: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    place = part["group"].replace_strict(groups, range(len(groups)), return_dtype=pl.Int64).to_numpy()
    row_weights = weights[:, place]
    exact = (part["gold"] == "exact").to_numpy()
    score = part["probs"].list.get(0).to_numpy()
    right = (part["label"] == part["gold"]).to_numpy()
    agrees = ((part["label"] == "exact").to_numpy() == exact).astype(float)
    total = row_weights.sum(axis=1)
    return {
        "auc": np.array([auc(score, exact, weight=weight) for weight in row_weights]),
        "positive": row_weights @ agrees / total,
        "accuracy": row_weights @ right.astype(float) / total,
    }


def _shown(draws: np.ndarray, *, sign: bool = False) -> str:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{draws[0]:+.3f} [{low:+.3f}, {high:+.3f}]" if sign else f"{draws[0]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
