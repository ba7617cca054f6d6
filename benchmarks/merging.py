"""Merging methods on real votes, beside crowd-kit and Snorkel: accuracy, stated confidence against true, seconds.

    DISTILL_DATA=... python benchmarks/merging.py [--out FILE] [--sets product,rte]

Peers run in an interpreter of their own, ``$DISTILL_MERGING_PEERS`` (a python with crowd-kit or snorkel; several
separated by ``:``); without it they are left out. Truth is the set's gold; for the LLM panels that have none, the label
that most people gave, where one leads. Every method has its default settings on every set. Seconds
are of processor time, after imports; ours hold reading, dependence and confidence too, the peers' their fit alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.labeling.aggregate import aggregate

METHODS = (
    "majority",
    "family_vote",
    "weighted_family_vote",
    "dawid_skene",
    "mace",
    "glad",
    "label_model",
    "auto",
)
PEERS = ("MajorityVote", "DawidSkene", "OneCoinDawidSkene", "MACE", "GLAD", "snorkel")
SETS = {
    "crowds": ("rte", "bluebird", "dog", "product"),
    "LLM panels": ("cebab_aspects", "framing", "lgbteen", "10k_prompts", "wax"),
    "labeling functions": ("wrench_trec", "wrench_youtube"),
}
RESAMPLES = 2000
FOLDS = 5


class VoteSet(NamedTuple):
    """Votes of one set with their truth; ``text`` of the rows where the set has it."""

    name: str
    kind: str
    votes: pl.DataFrame
    gold: pl.DataFrame
    labels: list[str]
    ordered: bool
    text: pl.DataFrame | None


class Score(NamedTuple):
    """Share right with a 95% interval, mean stated confidence (None where nothing is stated), seconds."""

    accuracy: float
    low: float
    high: float
    confidence: float | None
    seconds: float


def vote_sets(data: Path, chosen: list[str]) -> Iterator[VoteSet]:
    for kind, names in SETS.items():
        for name in names:
            if not chosen or name in chosen:
                yield read_set(data / "votes" / name, kind)
    if not chosen or "llm_judges" in chosen:
        yield from judge_sets(data)


def read_set(folder: Path, kind: str) -> VoteSet:
    votes = pl.read_parquet(folder / "votes.parquet").select(
        row_id="item", teacher="voter", family=pl.coalesce("family", "voter"), label=pl.col("label").cast(pl.String)
    )
    # Rows that the source appended as copies of others.
    votes = votes.filter(~pl.col("row_id").str.starts_with("labeled/"))
    labels = sorted(votes["label"].unique())
    gold = pl.read_parquet(folder / "gold.parquet").select(row_id="item", gold=pl.col("gold").cast(pl.String))
    gold = gold.drop_nulls("gold")
    if not len(gold):
        votes, gold = split_people(votes)
    text = None
    if kind == "labeling functions":
        text = pl.read_parquet(folder / "items.parquet").select("text", row_id="item")
    return VoteSet(folder.name, kind, votes, gold, labels, folder.name == "10k_prompts", text)


def split_people(votes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Votes of the LLMs, and the label that most people gave where one leads."""
    counts = votes.filter(pl.col("family") == "human").group_by("row_id", "label").len()
    leading = counts.filter(pl.col("len") == pl.col("len").max().over("row_id"))
    gold = leading.filter(pl.len().over("row_id") == 1).select("row_id", gold="label")
    return votes.filter(pl.col("family") != "human"), gold


def judge_sets(data: Path) -> Iterator[VoteSet]:
    """Product-match judges; a family is a model, whatever it was tuned on and however it was asked."""
    votes, pairs = (pl.read_parquet(data / f"llm_judges_{part}.parquet") for part in ("votes", "pairs"))
    for (name,), part in votes.group_by("dataset", maintain_order=True):
        tidy = part.select(
            row_id="pair_id",
            teacher=pl.col("judge") + " " + pl.col("prompt"),
            family=pl.col("judge").str.split("/").list.first(),
            label=pl.col("vote").cast(pl.String),
        )
        gold = pairs.filter(pl.col("dataset") == name).select(row_id="pair_id", gold=pl.col("label").cast(pl.String))
        yield VoteSet(f"llm_judges {name}", "LLM panels", tidy, gold, ["0", "1"], False, None)


def score(found: pl.DataFrame, gold: pl.DataFrame, seconds: float) -> Score:
    joined = found.drop_nulls("label").join(gold, on="row_id")
    right = (joined["label"] == joined["gold"]).to_numpy().astype(np.float64)
    random = np.random.default_rng(7)
    means = random.binomial(len(right), right.mean(), size=RESAMPLES) / len(right)
    low, high = np.quantile(means, [0.025, 0.975])
    stated = joined["confidence"].mean() if joined["confidence"].null_count() < len(joined) else None
    return Score(float(right.mean()), float(low), float(high), stated, seconds)  # type: ignore[arg-type]


def ours(of: VoteSet, method: str, predictions: pl.DataFrame | None = None) -> tuple[pl.DataFrame, float]:
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = aggregate(of.votes, labels=of.labels, method=method, ordered=of.ordered, predictions=predictions)
    return found, time.process_time() - began


def in_the_loop(of: VoteSet) -> tuple[pl.DataFrame, float]:
    """The label model, a student trained on its labels across folds of the text, and both joined."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    assert of.text is not None
    began = time.process_time()
    merged = aggregate(of.votes, labels=of.labels, method="label_model").drop_nulls("label").join(of.text, on="row_id")
    texts = merged["text"].str.to_lowercase()
    inputs = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(texts)
    # Rows with the same text share a fold: half of the comments' copies would otherwise give the answer away.
    fold = (texts.hash(seed=7) % FOLDS).to_numpy()
    codes = merged["label"].replace_strict(of.labels, range(len(of.labels)), return_dtype=pl.Int64).to_numpy()
    probs = np.zeros((len(merged), len(of.labels)))
    for held in range(FOLDS):
        train, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        # Merged labels follow the loud rules; a student that learns their frequencies would only be louder.
        model = LogisticRegression(max_iter=300, class_weight="balanced")
        model.fit(inputs[train], codes[train], sample_weight=merged["confidence"].to_numpy()[train])
        probs[test[:, None], model.classes_[None, :]] = model.predict_proba(inputs[test])
    predictions = pl.DataFrame({"row_id": merged["row_id"], "probs": probs.tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = aggregate(of.votes, labels=of.labels, method="label_model", predictions=predictions)
    return found, time.process_time() - began


def peer(of: VoteSet, method: str, python: str) -> tuple[pl.DataFrame, float] | None:
    """A peer's answers, or None where it fails (or is not installed in that interpreter)."""
    rows, teachers = of.votes["row_id"].unique(maintain_order=True), of.votes["teacher"].unique(maintain_order=True)
    coded = of.votes.select(
        pl.col("row_id").replace_strict(rows, range(len(rows)), return_dtype=pl.Int64).alias("row"),
        pl.col("teacher").replace_strict(teachers, range(len(teachers)), return_dtype=pl.Int64),
        pl.col("label").replace_strict(of.labels, range(len(of.labels)), return_dtype=pl.Int64),
    )
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch) / "votes.csv", Path(scratch) / "out.csv"
        coded.write_csv(given)
        script = Path(__file__).with_name("merging_peers.py")
        try:
            subprocess.run([python, script, given, method, out], check=True, capture_output=True, timeout=240)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        found = pl.read_csv(out)
    label = found["label"].cast(pl.Int64).replace_strict(range(len(of.labels)), of.labels, return_dtype=pl.String)
    table = pl.DataFrame(
        {"row_id": rows.gather(found["row"]), "label": label, "confidence": found["top"].fill_nan(None)}
    )
    return table, float(found["seconds"][0])


def line(name: str, of: Score, base: Score | None) -> str:
    stated = "" if of.confidence is None else f"{100 * of.confidence:.1f}"
    over = "" if of.confidence is None else f"{100 * (of.confidence - of.accuracy):+.1f}"
    gain = "" if base is None else f"{100 * (of.accuracy - base.accuracy):+.1f}"
    interval = f"{100 * of.low:.1f}–{100 * of.high:.1f}"
    return f"| {name} | {100 * of.accuracy:.1f} | {interval} | {gain} | {stated} | {over} | {of.seconds:.2f} |"


def table_of(of: VoteSet, pythons: list[str]) -> list[str]:
    people = "" if of.kind != "LLM panels" or of.name.startswith("llm_judges") else " (what most people said)"
    rows = of.votes["row_id"].n_unique()
    lines = [
        f"\n### {of.name}\n",
        f"{of.kind}: {rows:,} rows, {of.votes['teacher'].n_unique()} voters "
        f"of {of.votes['family'].n_unique()} families, "
        f"{of.votes.height / rows:.1f} votes a row, {len(of.labels)} labels; truth: human{people}.\n",
        "| method | accuracy % | 95% interval | against majority | stated % | over-confident | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    base = None
    for method in METHODS:
        scored = score(*_with_gold(of, *ours(of, method)))
        base = base or scored
        lines.append(line(method, scored, base))
    if of.text is not None:
        lines.append(line("label_model + student", score(*_with_gold(of, *in_the_loop(of))), base))
    for method in PEERS:
        done = next((found for python in pythons if (found := peer(of, method, python)) is not None), None)
        if done is not None:
            name = "Snorkel LabelModel" if method == "snorkel" else f"crowd-kit {method}"
            lines.append(line(name, score(*_with_gold(of, *done)), base))
    return lines


def _with_gold(of: VoteSet, found: pl.DataFrame, seconds: float) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    return found, of.gold, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "merging.md")
    parser.add_argument("--sets", default="")
    given = parser.parse_args()
    pythons = [python for python in os.environ.get("DISTILL_MERGING_PEERS", "").split(":") if python]
    lines = ["# Votes merged into labels\n", *(__doc__ or "").split("\n\n")[2:3]]
    for of in vote_sets(Path(os.environ["DISTILL_DATA"]), [name for name in given.sets.split(",") if name]):
        lines += table_of(of, pythons)
        given.out.write_text("\n".join(lines) + "\n")
        print("\n".join(lines[-14:]), flush=True)


if __name__ == "__main__":
    main()
