"""Does a cascade keep its word, what does it save, and what does that cost in quality?

On real judges: for every pair of a cheap and a strong one, calibration rows are drawn again and again, whole groups
each time, the threshold is set as ``labeling.cascade`` sets it, and the answers kept on all *other* rows are compared
with what they should be. On made-up rows, where errors come in clusters and the truth is known: how often the target is
missed, beside two ways that are often taken (the same test as if rows were independent; the lowest threshold at which
the calibration rows themselves meet the target).

    python benchmarks/cascade.py > benchmarks/results/cascade.md      # 15 minutes on one core

The quickstart's judges are part of the package; the others are read from ``$DISTILL_DATA`` or ``../shared/data``, and
left out where they are not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.eval.intervals import Resamples, ratio_estimates
from distill.labeling.asking.cascade import Choice, Judged, choose_threshold

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DISTILL_DATA") or ROOT.parent / "shared" / "data")
CONFIDENCE = 0.95
METHODS = ("cascade", "rows independent", "as they come")


@dataclass(frozen=True)
class Pair:
    """A cheap and a strong judge on the same rows, ``[n]`` each: label codes, how sure the cheap one is, and groups."""

    name: str
    cheap: np.ndarray
    sureness: np.ndarray
    strong: np.ndarray
    gold: np.ndarray
    group: np.ndarray

    def wrong(self, measure: str) -> np.ndarray:
        """Whether the cheap answer is wrong."""
        return self.cheap != (self.strong if measure == "agreement" else self.gold)


class Tried(NamedTuple):
    """One draw: the threshold (None for none), which rows are kept, and whether the target was missed on them."""

    threshold: float | None
    kept: np.ndarray
    missed: bool


def quickstart() -> Iterator[Pair]:
    """The sample shop's recorded judges, against its author."""
    folder = ROOT / "recipes" / "quickstart"
    table = pl.read_parquet(folder / "author_labels.parquet").select("row_id", gold="label")
    for name in ("literal", "careful"):
        replies = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        said = [{"row_id": reply["row_id"], **json.loads(reply["reply"])} for reply in replies]
        lines = [(one["row_id"], one["label"], one.get("confidence") or max(one["probs"].values())) for one in said]
        found = pl.DataFrame(lines, schema=["row_id", name, f"sure_{name}"], orient="row")
        table = table.join(found, on="row_id")
    group = table["row_id"].str.split("-").list.first()
    yield _pair("quickstart: literal → careful", table, "literal", table["sure_literal"], "careful", group)


def product_matching() -> Iterator[Pair]:
    """LLM judges of product pairs: how sure one is, is how far its four prompts agree, or several small models do."""
    pairs = DATA / "llm_judges_pairs.parquet"
    if not pairs.exists():
        return
    votes = pl.read_parquet(DATA / "llm_judges_votes.parquet").filter(pl.col("prompt") != "gen-complex-free")
    rows = pl.read_parquet(pairs).select("dataset", "pair_id", gold="label")
    for data, cheap, strong in (
        ("abt-buy", "gpt-4o-mini/zero-shot", "70B-Instruct/small/explanation"),
        ("abt-buy", "8B-Instruct/wdc/small/2024-07-30", "8B-Instruct/abt-buy/no_explanations"),
        ("abt-buy", "8B-Instruct/wdc", "8B-Instruct/abt-buy/no_explanations"),
        ("abt-buy", "8B-Instruct/wdc", "70B-Instruct/small/explanation"),
        ("walmart-amazon", "8B-Instruct/wdc", "8B-Instruct/walmart-amazon/no_explanations"),
        ("walmart-amazon", "8B-Instruct/wdc", "70B-Instruct/small/explanation"),
    ):
        own = votes.filter(pl.col("dataset") == data)
        several = cheap.endswith("wdc")
        first = own.filter(pl.col("judge").str.contains(cheap, literal=True)) if several else _prompts(own, cheap)
        first = first.group_by("pair_id").agg(yes=pl.col("vote").mean(), times=pl.len())
        one = _prompts(own, strong).filter(pl.col("prompt") == "complex-force").select("pair_id", strong="vote")
        table = rows.filter(pl.col("dataset") == data).join(first.filter(pl.col("times") >= 4), on="pair_id")
        table = table.join(one, on="pair_id").sort("pair_id").with_columns(cheap=(pl.col("yes") > 0.5).cast(pl.Int64))
        sure = pl.Series(np.maximum(table["yes"].to_numpy(), 1 - table["yes"].to_numpy()))
        group = table["pair_id"].str.split("#").list.first()
        name = f"{data}: {'8B models, all prompts' if several else _short(cheap)} → {_short(strong)}"
        yield _pair(name, table, "cheap", sure, "strong", group)


def people() -> Iterator[Pair]:
    """One LLM before people: exact match or not, against the people's own labels."""
    if (DATA / "llm_crowdflower.parquet").exists():
        rows = pl.read_parquet(DATA / "crowdflower.parquet").join(
            pl.read_parquet(DATA / "llm_crowdflower.parquet"), on="id"
        )
        table = rows.with_columns(cheap=pl.col("label") == 4, gold=pl.col("median_relevance") == 4)
        yield _pair(
            "CrowdFlower, exact or not: LLM → people", table, "cheap", table["confidence"], "gold", table["query"]
        )
    if (DATA / "llm_esci.parquet").exists():
        rows = pl.read_parquet(DATA / "esci_us.parquet").rename({"label": "people"}, strict=False)
        rows = rows.join(pl.read_parquet(DATA / "llm_esci.parquet"), on=["query", "product_id"])
        people = next(name for name in rows.columns if name in ("people", "esci_label"))
        table = rows.with_columns(cheap=pl.col("label") == "E", gold=pl.col(people).str.slice(0, 1) == "E")
        yield _pair("ESCI, exact or not: LLM → people", table, "cheap", table["confidence"], "gold", table["query"])


def _prompts(votes: pl.DataFrame, judge: str) -> pl.DataFrame:
    """The votes of the one judge whose name holds this, the shortest where several do."""
    names = votes.filter(pl.col("judge").str.contains(judge, literal=True))["judge"].unique().to_list()
    return votes.filter(pl.col("judge") == min(names, key=lambda name: (len(name), name)))


def _short(judge: str) -> str:
    return judge.replace("-Instruct", "").replace("/no_explanations", "").split("/2024")[0]


def _pair(name: str, table: pl.DataFrame, cheap: str, sure: pl.Series, strong: str, group: pl.Series) -> Pair:
    text = {column: table[column].cast(pl.String) for column in {cheap, strong, "gold"}}
    codes = {value: code for code, value in enumerate(sorted(set().union(*(set(column) for column in text.values()))))}
    coded = {column: values.replace_strict(codes).to_numpy() for column, values in text.items()}
    groups = (group.rank("dense").cast(pl.Int64) - 1).to_numpy()
    return Pair(name, coded[cheap], sure.cast(pl.Float64).to_numpy(), coded[strong], coded["gold"], groups)


def draw_groups(group: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
    """Whole groups in a random order, up to this many rows: which rows are drawn."""
    order = random.permutation(int(group.max()) + 1)
    sizes = np.bincount(group)[order]
    return np.isin(group, order[(np.cumsum(sizes) - sizes) < rows])


def threshold_by(method: str, judged: Judged, target: float, share: float) -> float | None:
    """The threshold that a method takes."""
    if method == "as they come":
        choice = choose_threshold(judged, target=target, confidence=0.5)
        able = [step.threshold for step in choice.steps if (step.right or 0.0) >= target]
        return min(able, default=None)
    if method == "rows independent":
        judged = Judged(judged.sureness, judged.wrong, judged.counts, np.arange(len(judged.wrong)))
        share = 0.0
    choice: Choice = choose_threshold(judged, target=target, confidence=CONFIDENCE, judged_share=share)
    return choice.threshold


def try_pair(
    pair: Pair, *, measure: str, target: float, calibration: int, draws: int, method: str = "cascade"
) -> list[Tried]:
    """Draws calibration rows again and again, and looks at the others."""
    wrong, tried = pair.wrong(measure), []
    for number in range(draws):
        drawn = draw_groups(pair.group, calibration, np.random.default_rng([7, number]))
        judged = Judged(pair.sureness[drawn], wrong[drawn], np.ones(drawn.sum(), bool), pair.group[drawn])
        threshold = threshold_by(method, judged, target, float(drawn.mean()))
        kept = ~drawn & (pair.sureness >= (np.inf if threshold is None else threshold))
        tried.append(Tried(threshold, kept, bool(kept.any() and 1 - wrong[kept].mean() < target)))
    return tried


def line_of(pair: Pair, *, measure: str, target: float, calibration: int, draws: int) -> str:
    """A line of the table."""
    settings = {"measure": measure, "target": target, "calibration": calibration, "draws": draws}
    tried = try_pair(pair, **settings)
    wrong, kept = pair.wrong(measure), np.stack([one.kept for one in tried])
    found = [one for one in tried if one.threshold is not None]
    saved = kept.mean(axis=1)
    right = [1 - wrong[one.kept].mean() for one in found if one.kept.any()]
    # Of each row, over the draws: how much more often the cascade's label is right than the strong judge's.
    change = kept.mean(axis=0) * ((pair.cheap == pair.gold).astype(float) - (pair.strong == pair.gold))
    resamples = Resamples.of(pair.group.astype(str), count=2000, seed=7)
    lost = ratio_estimates(change[:, None], np.ones((len(change), 1)), resamples, level=0.95)[0]
    others = [sum(one.missed for one in try_pair(pair, **settings, method=method)) / draws for method in METHODS[1:]]
    low, high = np.quantile(saved, [0.05, 0.95])
    cells = (
        pair.name,
        f"{len(wrong):,} in {int(pair.group.max()) + 1:,}",
        f"{measure} {target:g}",
        f"{calibration}",
        f"{100 * len(found) / draws:.0f}%",
        f"**{100 * sum(one.missed for one in tried) / draws:.1f}%**",
        *(f"{100 * other:.1f}%" for other in others),
        f"{100 * np.mean(right):.1f}%" if right else "–",
        f"{100 * saved.mean():.0f}% ({100 * low:.0f} to {100 * high:.0f})",
        f"{100 * lost.value:+.2f} ({100 * lost.low:+.2f} to {100 * lost.high:+.2f})"
        if found and lost.value is not None and lost.low is not None and lost.high is not None
        else "–",
    )
    return "| " + " | ".join(cells) + " |"


def made_up(groups: int, size: int, *, correlation: float, slope: bool, seed: list[int]) -> tuple[Judged, np.ndarray]:
    """Rows whose errors come in clusters: a group's rows share a part of what makes them wrong, and of the sureness.

    Returns:
        The rows, and the chance of each of being wrong as its sureness tells it. Flat, it is 5.01% whatever the
        sureness, just over what a target of 95% permits, so that any threshold taken is a miss.
    """
    from scipy.special import ndtr

    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), random.integers(1, 2 * size, groups))
    shared, own = random.normal(size=groups)[group], random.normal(size=len(group))
    sure = np.round(ndtr(np.sqrt(0.3) * shared + np.sqrt(0.7) * own), 2)
    chance = 0.12 * (1 - sure) if slope else np.full(len(group), 0.0501)
    shared, own = random.normal(size=groups)[group], random.normal(size=len(group))
    wrong = ndtr(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own) < chance
    return Judged(sure, wrong, np.ones(len(group), bool), group), chance


def missed_on_made_up(method: str, *, groups: int, size: int, correlation: float, slope: bool, draws: int) -> float:
    """Share of draws in which the answers above the threshold are truly wrong more often than 5%."""
    missed = 0
    for number in range(draws):
        judged, _ = made_up(groups, size, correlation=correlation, slope=slope, seed=[11, number])
        threshold = threshold_by(method, judged, 0.95, 0.0)
        if threshold is not None:
            above = np.arange(round(100 * threshold), 101) / 100
            missed += not slope or float((0.12 * (1 - above)).mean()) > 0.05
    return missed / draws


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    print("# Cascade: is the target met, what is saved, what is lost\n")
    print(_LEDE.format(draws=draws))
    print(
        "| cheap → strong | rows in groups | target | calibration rows | threshold found | **missed** | missed, rows "
        "taken as independent | missed, as they come | right among kept | strong calls saved (5th to 95th of draws) "
        "| accuracy against all-strong, points |"
    )
    print("|" + " --- |" * 11)
    for pair in (*quickstart(), *product_matching(), *people()):
        measures = ("accuracy",) if (pair.strong == pair.gold).all() else ("agreement", "accuracy")
        for measure in measures:
            for target, calibration in ((0.9, 200), (0.95, 200), (0.95, 400)):
                print(line_of(pair, measure=measure, target=target, calibration=calibration, draws=draws), flush=True)
    print(_MADE_UP.format(draws=draws))
    print("| groups × mean rows | correlation of errors | truth | **cascade** | rows independent | as they come |")
    print("|" + " --- |" * 6)
    for slope in (False, True):
        for groups, size in ((25, 8), (60, 8), (40, 20)):
            for correlation in (0.0, 0.3, 0.8):
                kind = {"groups": groups, "size": size, "correlation": correlation, "slope": slope}
                found = [missed_on_made_up(method, **kind, draws=draws) for method in METHODS]
                truth = "falls with sureness" if slope else "5.01% wrong everywhere"
                shares = " | ".join(f"{100 * share:.1f}%" for share in found)
                print(f"| {groups} × {size} | {correlation:g} | {truth} | {shares} |", flush=True)
    print(made_on())


def made_on() -> str:
    """When and with what the tables were made."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("distill", "numpy", "scipy", "polars"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"\nMade on {date.today()} by `benchmarks/cascade.py`; {machine}; {versions}."


_LEDE = """\
Stated confidence 95%, so that the target may be missed in 5% of the draws. {draws} draws of calibration rows a line,
whole groups each. *Missed*: a threshold was found, and the answers kept on the rows not drawn fall short of the target.
Beside it the same for two other ways: the same test as if rows were independent, and the lowest threshold at which the
calibration rows themselves meet the target (*as they come*). *Saved*: of all rows, those on which the strong judge is
not asked; calibration rows count as asked. *Accuracy against all-strong*: against gold, the cascade's labels less the
strong judge's on the same rows, averaged over the draws, with a 95% bootstrap interval over groups. Groups are queries,
or the left product of a pair. Written by `python benchmarks/cascade.py`.
"""

_MADE_UP = """
## Made-up rows, where the truth is known

Target 95% with confidence 95%, {draws} draws a line; the share of draws in which the threshold taken truly misses the
target. Where 5.01% are wrong whatever the sureness, every threshold taken is a miss: the worst case there is.
"""

if __name__ == "__main__":
    main()
