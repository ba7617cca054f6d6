"""Merging methods on real votes, beside crowd-kit and Snorkel: accuracy, stated confidence against true, seconds.

    DISTILL_DATA=... python benchmarks/merging.py [--out FILE] [--sets product,rte]

Peers run in an interpreter of their own, ``$DISTILL_MERGING_PEERS`` (a python with crowd-kit or snorkel; several
separated by ``:``); without it they are left out. Truth is the set's gold; for the LLM panels that have none, the label
that most people gave, where one leads. Every method has its default settings on every set. Intervals are of 95%, by
a bootstrap over groups (a product with all its pairs; where a set has none, rows); those against majority are paired.
Seconds are of processor time, after imports; ours hold reading, dependence and confidence too, the peers' their fit
alone.
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

from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.labeling.merging.aggregate import aggregate

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
RESAMPLES = 1000
FOLDS = 5


class VoteSet(NamedTuple):
    """Votes of one set with their truth; ``text`` and ``group`` of the rows where the set has them."""

    name: str
    kind: str
    votes: pl.DataFrame
    gold: pl.DataFrame
    labels: list[str]
    ordered: bool
    text: pl.DataFrame | None
    group: pl.DataFrame | None = None


class Score(NamedTuple):
    """Share right, what it is beyond majority's, mean stated confidence (None where nothing is stated), seconds.

    ``right`` has ``row_id``, ``group`` and ``right`` of each row.
    """

    accuracy: Estimate
    gain: Estimate | None
    confidence: float | None
    seconds: float
    right: pl.DataFrame


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
    text = group = None
    if kind == "labeling functions":
        text = pl.read_parquet(folder / "items.parquet").select("text", row_id="item")
    if folder.name == "product":
        group = pl.read_parquet(folder / "items.parquet").select(row_id="item", group="record_a")
    return VoteSet(folder.name, kind, votes, gold, labels, folder.name == "10k_prompts", text, group)


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
        group = gold.select("row_id", group=pl.col("row_id").str.split("#").list.first())
        yield VoteSet(f"llm_judges {name}", "LLM panels", tidy, gold, ["0", "1"], False, None, group)


def score(of: VoteSet, found: pl.DataFrame, seconds: float, base: Score | None) -> Score:
    joined = found.drop_nulls("label").join(of.gold, on="row_id", maintain_order="left")
    group = pl.lit(None, pl.String).alias("group")
    joined = joined.with_columns(group) if of.group is None else joined.join(of.group, on="row_id", how="left")
    right = joined.select(
        "row_id",
        pl.coalesce(pl.col("group").cast(pl.String), "row_id").alias("group"),
        (pl.col("label") == pl.col("gold")).cast(pl.Float64).alias("right"),
    )
    gain = None
    if base is not None:
        both = right.join(base.right.select("row_id", was="right"), on="row_id")
        gain = mean_by_group(both.select("group", value=pl.col("right") - pl.col("was")))
    accuracy = mean_by_group(right.select("group", value="right"))
    stated = joined["confidence"].mean() if joined["confidence"].null_count() < len(joined) else None
    return Score(accuracy, gain, stated, seconds, right)  # type: ignore[arg-type]


def mean_by_group(table: pl.DataFrame) -> Estimate:
    """Mean of ``value`` with the interval of a bootstrap over ``group``."""
    resamples = Resamples.of(table["group"].to_numpy().astype(str), count=RESAMPLES, seed=7)
    value = table["value"].to_numpy()
    sums = resamples.sums(np.column_stack([value, np.ones(len(value))]))
    return estimate(float(value.mean()), sums[:, 0] / sums[:, 1], Size(len(value), resamples.groups), level=0.95)


def ours(of: VoteSet, method: str, predictions: pl.DataFrame | None = None) -> tuple[pl.DataFrame, float]:
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = aggregate(of.votes, labels=of.labels, method=method, ordered=of.ordered, predictions=predictions)
    return found, time.process_time() - began


def in_the_loop(of: VoteSet) -> tuple[pl.DataFrame, float]:
    """The label model, a student trained on its labels across folds of the text, and both joined.

    Words and characters together foretell the held-out merged labels best on both sets (log loss .22 and .45, words
    alone .31 and .58); no gold was looked at for that.
    """
    from scipy.sparse import hstack  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    assert of.text is not None
    began = time.process_time()
    merged = aggregate(of.votes, labels=of.labels, method="label_model").drop_nulls("label").join(of.text, on="row_id")
    texts = merged["text"].str.to_lowercase()
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True)
    inputs = hstack([words.fit_transform(texts), parts.fit_transform(texts)]).tocsr()
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


def line(name: str, of: Score) -> str:
    accuracy = of.accuracy.value
    stated = "" if of.confidence is None else f"{100 * of.confidence:.1f}"
    over = "" if of.confidence is None else f"{100 * (of.confidence - accuracy):+.1f}"
    gain, around = ("", "") if of.gain is None else (f"{100 * of.gain.value:+.1f}", ends(of.gain, "+.1f"))
    cells = (name, f"{100 * accuracy:.1f}", ends(of.accuracy, ".1f"), gain, around, stated, over, f"{of.seconds:.2f}")
    return f"| {' | '.join(cells)} |"


def ends(of: Estimate, form: str) -> str:
    return "" if of.low is None or of.high is None else f"{100 * of.low:{form}} to {100 * of.high:{form}}"


def table_of(of: VoteSet, pythons: list[str]) -> list[str]:
    people = "" if of.kind != "LLM panels" or of.name.startswith("llm_judges") else " (what most people said)"
    rows = of.votes["row_id"].n_unique()
    lines = [
        f"\n### {of.name}\n",
        f"{of.kind}: {rows:,} rows, {of.votes['teacher'].n_unique()} voters "
        f"of {of.votes['family'].n_unique()} families, "
        f"{of.votes.height / rows:.1f} votes a row, {len(of.labels)} labels; truth: human{people}; "
        f"intervals by {'row' if of.group is None else 'product'}.\n",
        "| method | accuracy % | interval | against majority | interval | stated % | over-confident | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = None
    for method in METHODS:
        scored = score(of, *ours(of, method), base)
        base = base or scored
        lines.append(line(method, scored))
    if of.text is not None:
        lines.append(line("label_model + student", score(of, *in_the_loop(of), base)))
    for method in PEERS:
        done = next((found for python in pythons if (found := peer(of, method, python)) is not None), None)
        if done is not None:
            name = "Snorkel LabelModel" if method == "snorkel" else f"crowd-kit {method}"
            lines.append(line(name, score(of, *done, base)))
    return lines


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
