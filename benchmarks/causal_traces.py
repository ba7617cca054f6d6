"""What reasoning traces buy a small GPT: label-only, distilling step-by-step, and trace-then-label, side by side.

    python benchmarks/causal_traces.py --base /tmp/smollm2
    DISTILL_DATA=… python benchmarks/causal_traces.py crowdflower --teacher llm --base /tmp/smollm2 --rows 960
    python benchmarks/causal_traces.py --base tiny --rows 0 --epochs 2 --lr 1e-3 --lang en ko
    DISTILL_DATA=… python benchmarks/causal_traces.py --base titles --pairs 40000 --lr 1e-3
    python benchmarks/causal_traces.py --tell

Students learn from one teacher's labels and traces on ``--rows`` of the recipe's rows outside split ``test``, drawn by
seed and the same for every arm, and are measured on its test queries against its gold labels, which no student sees.
The base is a folder (``smollm2.py`` makes one) or an id; ``tiny``, with random weights, made on the spot; or
``titles``, the tiny one after a short pretraining on search queries and titles. The arm ``encoder`` is the recipe's
encoder on the same rows and labels, without its linear model, for comparison. What ``wide: {}`` would make of each is
told in a column of its own: the linear model is fitted apart from the network, on the same rows, and counts half.

SmolLM2 reads English; Korean takes it one to three tokens a character. So where rows name their language, by default
English ones alone are used.

Predictions are kept under ``--out``, one folder for each student, and a student that is there is not trained again.
Every arm is done for one seed before the next seed begins; ``--tell`` writes ``results/causal_traces.md`` from what is
there. A gain is the difference of means over seeds, paired by seed and row, its interval resamples queries: it holds
for these seeds and other queries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import softmax

import distill
from distill.eval.metrics import auc
from distill.labeling.task import Task
from distill.recipe import load_recipe
from distill.students.causal.config import TinySection
from distill.students.causal.pretrained import save
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.config import CausalConfig, EncoderConfig, StudentConfig
from distill.students.fit import fit_student
from distill.students.training_set import TrainingSet, training_set
from distill.students.wide import DEFAULT_SHARE, fit_wide, mix
from distill.students.wide_config import WideSection

_RESULTS = Path(__file__).parent / "results" / "causal_traces.md"
_ARMS = {"label only": "none", "step-by-step": "multitask", "trace then label": "before_label"}
_ENCODER = "encoder"
_SLOW = ", traces written"
_LINEAR = "linear.parquet"
_RESAMPLES = 2000
_COLUMNS = ("student", "seeds", "AUC", "AUC with `wide`", "match or not", "accuracy", "AUC over label only", "by seed")
_COLUMNS += ("traces learned", "train s", "rows/s")
_SOURCES = {"home_depot": ("search_term", "product_title"), "crowdflower": ("query", "product_title")}
_PRETRAINING_LENGTH = 128
_INPUTS = {"quickstart": ("query", "title", "attributes")}
"""What tells most in few tokens; elsewhere query and title. A brand stands in its title, and categories are long."""


class Cell(NamedTuple):
    """One student: from what, and how."""

    recipe: str
    teacher: str
    base: str
    rows: int
    epochs: int
    lr: str
    max_length: int
    lang: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return "-".join(map(str, self)).replace(", ", "_").replace(" ", "_")


class Shop(NamedTuple):
    """What students learn from, what they are measured on and by whom, the task, and the encoder to compare with."""

    training: TrainingSet
    test: pl.DataFrame
    truth: str
    task: Task
    encoder: EncoderConfig


def main() -> None:
    """Trains what is missing, or tells what is there."""
    options = _options()
    if not options.tell:
        shop = _shop(options)
        base = str(_pretrained(options, shop.training)) if options.base == "titles" else options.base
        for seed in options.seeds:
            for arm in options.arms:
                cell = Cell(
                    options.recipe,
                    options.teacher,
                    base=Path(options.base).name,
                    rows=options.rows,
                    epochs=options.epochs,
                    lr=f"{options.lr:g}",
                    max_length=options.max_length,
                    lang="+".join(options.lang),
                    arm=arm,
                    seed=seed,
                )
                if not (options.out / cell.name / "cell.json").is_file():
                    _make(cell, shop, base=base, options=options)
                    print(f"{cell.name}: done", flush=True)
                _fit_linear(cell, shop, options.out / cell.name)
    _RESULTS.write_text(_told(options.out), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart", help="a recipe that ships, or its file")
    parser.add_argument("--teacher", default="careful", help="whose answers are learned")
    parser.add_argument("--base", default="tiny", help="a pretrained GPT, tiny, or titles")
    parser.add_argument("--arms", nargs="+", default=[*_ARMS, _ENCODER], choices=[*_ARMS, _ENCODER])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--rows", type=int, default=160, help="training rows drawn; 0 for all")
    parser.add_argument("--test-queries", type=int, help="measure on so many of the test queries; all where not given")
    parser.add_argument("--lang", nargs="+", default=["en"], help="languages of the rows, where they name one")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains the whole model")
    parser.add_argument("--max-length", type=int, default=160)
    parser.add_argument("--trace-tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=40_000, help="query and title pairs that titles is pretrained on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/causal_traces"), help="where cells are kept")
    parser.add_argument("--tell", action="store_true", help="write the table of what is there, train nothing")
    return parser.parse_args()


def _shop(options: argparse.Namespace) -> Shop:
    judged = distill.run(options.recipe, out=options.out / options.recipe, until="label")
    recipe = load_recipe(options.recipe)
    assert recipe.task is not None and recipe.data is not None
    task = replace(Task.from_config(recipe.task), inputs=_INPUTS.get(options.recipe, ("query", "title")))
    rows = judged.rows
    if "lang" in rows.columns:
        rows = rows.filter(pl.col("lang").is_in(options.lang))
    votes = judged.votes.filter(pl.col("row_id").is_in(rows["row_id"].to_list()))
    training = training_set(rows, train_on=options.teacher, labels=None, votes=votes, task=task, seed=7)
    test = rows.filter((pl.col("split") == "test") & pl.col("gold").is_not_null())
    queries = test["group"].unique().sort()[: options.test_queries]
    test = test.filter(pl.col("group").is_in(queries.to_list()))
    encoder = next(found for found in recipe.students.values() if isinstance(found, EncoderConfig))
    return Shop(training, test, recipe.data.gold_source, task, encoder)


def _config(arm: str, base: str, shop: Shop, options: argparse.Namespace) -> StudentConfig:
    kept: dict[str, Any] = {"train_on": (options.teacher,), "threads": options.threads, "checkpoint": None}
    if arm == _ENCODER:  # for as many epochs as suit few rows
        return EncoderConfig.model_validate(shop.encoder.model_dump() | kept | {"epochs": 5, "wide": None})
    kept |= {"base": base, "max_length": options.max_length, "lr": options.lr, "epochs": options.epochs}
    kept |= {"traces": _ARMS[arm], "trace_tokens": options.trace_tokens, "batch_size": options.batch_size}
    return CausalConfig.model_validate(kept | {"lora": {"r": options.lora} if options.lora else None})


def _make(cell: Cell, shop: Shop, *, base: str, options: argparse.Namespace) -> None:
    """Trains a student, and keeps what it says of the test rows, fast and where it can slow, and what it took."""
    train = _drawn(cell, shop)
    folder, config = options.out / cell.name, _config(cell.arm, base, shop, options)
    began = time.process_time()
    training = TrainingSet(train, shop.training.validation)
    fit = fit_student(config, training, task=shop.task, out=folder / "student", seed=cell.seed)
    note = {**cell._asdict(), "train_s": time.process_time() - began, "facts": fit.facts, "lora": options.lora}
    note |= {
        "inputs": shop.task.inputs,
        "labels": shop.task.labels,
        "positive": shop.task.positive,
        "truth": shop.truth,
    }
    note |= {"trained_on": train.height, "loss": [record.loss for record in fit.history]}
    student = distill.load_student(fit.path)
    tables = []
    for slow in (False, True) if cell.arm == "trace then label" else (False,):
        began = time.process_time()
        predicted = student.predict(shop.test, traces=slow, threads=options.threads)
        rate = shop.test.height / (time.process_time() - began)
        trace = pl.col("trace") if slow else pl.lit(None, pl.String)
        tables.append(predicted.with_columns(trace=trace, slow=pl.lit(slow), rows_per_s=rate))
    truth = shop.test.select("row_id", "group", "gold")
    pl.concat(tables).join(truth, on="row_id").write_parquet(folder / "predictions.parquet")
    (folder / "cell.json").write_text(json.dumps(note) + "\n", encoding="utf-8")


def _drawn(cell: Cell, shop: Shop) -> pl.DataFrame:
    train = shop.training.train
    return train.sample(cell.rows, seed=cell.seed, shuffle=True) if cell.rows else train


def _fit_linear(cell: Cell, shop: Shop, folder: Path) -> None:
    """Keeps the scores of a linear model of the same rows, where they are not there yet."""
    if not (folder / _LINEAR).is_file():
        part = fit_wide(WideSection(), _drawn(cell, shop), inputs=shop.task.inputs, seed=cell.seed)
        scores = pl.Series(part.logits(shop.test).tolist(), dtype=pl.List(pl.Float64))
        shop.test.select("row_id", linear=scores).write_parquet(folder / _LINEAR)


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


def _told(out: Path) -> str:
    """The results page: of every base and setting, the arms that are there."""
    whole = (path.with_name("cell.json") for path in sorted(out.glob(f"*/{_LINEAR}")))
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in whole]
    cells = {Cell(*(note[field] for field in Cell._fields)): note for note in notes}
    settings = sorted({cell._replace(arm="", seed=0) for cell in cells})
    made = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    parts = [
        "# What reasoning traces buy a small GPT",
        "Students of one teacher's labels and traces, measured on test queries that none learned from. Means over "
        f"seeds, with 95% intervals over queries ({_RESAMPLES:,} resamples, the seeds together); gains are paired. "
        "They hold for these seeds and other queries. Seconds are CPU seconds of one thread.",
        *(_setting_told(setting, cells, out) for setting in settings),
        f"Made {date.today()} by `benchmarks/causal_traces.py`; {platform.machine()}, {os.cpu_count()} cores; {made}.",
    ]
    return "\n\n".join(parts) + "\n"


def _setting_told(setting: Cell, cells: dict[Cell, dict[str, Any]], out: Path) -> str:
    own = {cell: note for cell, note in cells.items() if cell._replace(arm="", seed=0) == setting}
    note = next(iter(own.values()))
    positive = note["positive"]
    found = pl.concat(_predictions(cell, note, out / cell.name) for cell, note in own.items())
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for arm in (_ENCODER, "label only", "step-by-step", "trace then label", f"trace then label{_SLOW}"):
        part = found.filter(pl.col("arm") == arm)
        if part.height:
            of_arm = [note for cell, note in own.items() if cell.arm == arm.removesuffix(_SLOW)]
            lines.append(_arm_told(arm, part, found.filter(pl.col("arm") == "label only"), of_arm))
    test = found.unique("row_id")
    majority = test["gold"].value_counts(sort=True).row(0)
    how = f"adapters of rank {note['lora']}" if note["lora"] else "the whole model"
    return "\n\n".join(
        [
            f"## `{setting.recipe}`, `{setting.base}`, {note['trained_on']:,} rows by `{setting.teacher}`, "
            f"{setting.epochs} epochs",
            f"Inputs: {', '.join(note['inputs'])}; languages, where rows name one: {setting.lang}; trained: {how}, "
            f"highest learning rate {setting.lr}, prompts of at most {setting.max_length} tokens. {test.height} test "
            f"rows of {test['group'].n_unique()} queries; truth source: {note['truth']}. A match is `{positive}`. "
            f"Always saying `{majority[0]}` is right on {majority[1] / test.height:.3f} of them; AUC 0.5 is chance.",
            "\n".join(lines),
        ]
    )


def _predictions(cell: Cell, note: dict[str, Any], folder: Path) -> pl.DataFrame:
    """A cell's test rows: scores of a match by the network alone and with the linear model, and what is right."""
    table = pl.read_parquet(folder / "predictions.parquet").join(pl.read_parquet(folder / _LINEAR), on="row_id")
    positive, place = note["positive"], note["labels"].index(note["positive"])
    probs, linear = (np.array(table[name].to_list()) for name in ("probs", "linear"))
    both = softmax(mix(np.log(probs.clip(1e-12)), linear, DEFAULT_SHARE), axis=1)
    return table.select(
        "row_id",
        "slow",
        "rows_per_s",
        "gold",
        "group",
        score=pl.Series(probs[:, place]),
        wide=pl.Series(both[:, place]),
        match=pl.col("gold") == positive,
        said=pl.col("label") == positive,
        right=pl.col("label") == pl.col("gold"),
        seed=pl.lit(cell.seed),
        arm=cell.arm + pl.when("slow").then(pl.lit(_SLOW)).otherwise(pl.lit("")),
    )


def _arm_told(arm: str, part: pl.DataFrame, plain: pl.DataFrame, notes: Sequence[dict[str, Any]]) -> str:
    draws, gain, by_seed = _draws(part), "", ""
    both = sorted(set(part["seed"]) & set(plain["seed"]))
    if arm != "label only" and both:
        own, others = (_draws(table.filter(pl.col("seed").is_in(both)))["auc"] for table in (part, plain))
        gain = _shown(own - others, sign=True)
        each = [[_draws(table.filter(pl.col("seed") == seed))["auc"][0] for table in (part, plain)] for seed in both]
        by_seed = ", ".join(f"{own - other:+.3f}" for own, other in each)
    learned = [note["facts"]["traces_learned"] for note in notes if "traces_learned" in note["facts"]]
    shown = [arm, ", ".join(map(str, part["seed"].unique().sort()))]
    shown += [_shown(draws[name]) for name in ("auc", "wide", "positive", "accuracy")]
    shown += [gain, by_seed, f"{np.mean(learned):.0f}" if learned else ""]
    shown += [f"{np.mean([note['train_s'] for note in notes]):.0f}", f"{part['rows_per_s'].mean():.1f}"]
    return "| " + " | ".join(shown) + " |"


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
    match = part["match"].to_numpy()
    score, wide = part["score"].to_numpy(), part["wide"].to_numpy()
    right = part["right"].to_numpy()
    agrees = (part["said"].to_numpy() == match).astype(float)
    total = row_weights.sum(axis=1)
    return {
        "auc": np.array([auc(score, match, weight=weight) for weight in row_weights]),
        "wide": np.array([auc(wide, match, weight=weight) for weight in row_weights]),
        "positive": row_weights @ agrees / total,
        "accuracy": row_weights @ right.astype(float) / total,
    }


def _shown(draws: np.ndarray, *, sign: bool = False) -> str:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{draws[0]:+.3f} [{low:+.3f}, {high:+.3f}]" if sign else f"{draws[0]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
