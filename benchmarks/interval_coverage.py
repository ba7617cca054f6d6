"""How often the intervals of this project hold the truth, by simulation on real judgments and votes.

    DISTILL_DATA=… python benchmarks/interval_coverage.py

A set is taken for the whole world, so that its numbers are the truth. Samples of its queries (products, items) are
drawn from it with replacement, with all their rows; each estimator gives its 90% interval on each sample, and what is
counted is how often it holds the world's number. Beside it stands the interval that takes rows for independent. Each
cell is kept in ``--cache``, so that the benchmark goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from distill.eval.chance_corrected import reliability_of
from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates
from distill.eval.metrics import Floats, Ints, auc_of_ranked, rank_scores
from distill.eval.people.label_next import rows_to_label
from distill.eval.prediction_powered import Sample, prediction_powered_mean

_RESULTS = Path(__file__).parent / "results"
_LEVEL = 0.9
_RESAMPLES = 400
_GROUPS = (20, 50)
_UNLABELED = 4  # groups without labels to one with, for prediction-powered estimates

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class World:
    """Rows of a set, each with its group; what a set lacks is None.

    Attributes:
        group: ``[n]``, 0 to G - 1.
        right: ``[n]``, 1 where the judge is right.
        other: ``[n]``, the same of another judge on the same rows.
        guess: ``[n]``, chance of the first to be right, as its own confidence or the panel's agreement has it.
        score: ``[n]``, higher for likelier positives.
        positive: ``[n]`` bool.
        counts: ``[n, L]``, votes by label.
        ordered: Whether labels are grades.
    """

    name: str
    what: str
    group: Ints
    right: Floats | None = None
    other: Floats | None = None
    guess: Floats | None = None
    score: Floats | None = None
    positive: np.ndarray | None = None
    counts: Floats | None = None
    ordered: bool = False


def main() -> None:
    """Simulates what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path("runs/interval_coverage"))
    parser.add_argument("--table", action="store_true", help="simulate nothing")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    lines = []
    for world in _worlds(Path(os.environ["DISTILL_DATA"])):
        for groups in _GROUPS:
            for name, (work, truth) in _estimators(world).items():
                cell = arguments.cache / f"{world.name}-{groups}-{name.replace(' ', '_')}.json".replace("+", "p")
                if not cell.exists() and not arguments.table:
                    cell.write_text(json.dumps(_simulate(world, groups, work, truth, arguments.repeats)))
                    print(cell.stem, cell.read_text(), flush=True)
                if cell.exists():
                    lines.append(_line(world, groups, name, json.loads(cell.read_text())))
    head = "| set | groups drawn | number | truth | interval holds it | rows as independent | width | repeats |"
    table = "\n".join([head, "|" + " --- |" * 8, *lines])
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "polars"))
    made = f"Made on {date.today()} by `benchmarks/interval_coverage.py`; {platform.machine()}; {packages}."
    text = f"# Coverage of 90% intervals\n\n{_ABOUT}\n\n{table}\n\n{made}\n"
    (_RESULTS / "interval_coverage.md").write_text(text, encoding="utf-8")
    print(text)


# Worlds -------------------------------------------------------------------------------------------------------------


def _worlds(data: Path) -> Iterator[World]:
    crowdflower = pl.read_parquet(data / "crowdflower.parquet").join(
        pl.read_parquet(data / "llm_crowdflower.parquet"), on="id"
    )
    grades = crowdflower.select(
        group="query",
        gold=pl.col("median_relevance").cast(pl.Int64),
        label=pl.col("label").cast(pl.Int64),
        confidence="confidence",
        title="product_title",
    )
    yield _judged("crowdflower", "one LLM's grades, by query", grades, positive=4)
    esci = pl.read_parquet(data / "esci_us.parquet").join(
        pl.read_parquet(data / "llm_esci.parquet"), on=["query", "product_id"]
    )
    letters = {"E": 4, "S": 3, "C": 2, "I": 1}
    judged = esci.select(
        group="query",
        gold=pl.col("esci_label").replace_strict(letters),
        label=pl.col("label").replace_strict(letters),
        confidence="confidence",
        title="title",
    )
    yield _judged("esci_us", "one LLM's labels, by query", judged, positive=4)
    yield _llm_judges(data)
    yield _crowd_pairs(data)
    yield _chorus(data)
    yield _dog(data)


def _codes(group: pl.Series) -> Ints:
    return (group.rank("dense").cast(pl.Int64) - 1).to_numpy()


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _judged(name: str, what: str, table: pl.DataFrame, *, positive: int) -> World:
    """The other judge says match where all words of the query are in the title."""
    overlap = np.array(
        [len(_words(query) & _words(title or "")) / max(len(_words(query)), 1) for query, title in
         table.select("group", "title").iter_rows()]
    )  # fmt: skip
    gold = table["gold"].to_numpy() == positive
    said = table["label"].to_numpy() == positive
    sure = table["confidence"].to_numpy()
    score = table["label"].to_numpy() + np.where(said, sure, -sure)
    return World(
        name, what, _codes(table["group"]), (said == gold).astype(float), ((overlap == 1.0) == gold).astype(float),
        sure.astype(float), score.astype(float), gold,
    )  # fmt: skip


def _llm_judges(data: Path) -> World:
    """Product pairs of all sets, by the left product; the panel is every judge with the commonest prompt."""
    pairs = pl.read_parquet(data / "llm_judges_pairs.parquet")
    votes = pl.read_parquet(data / "llm_judges_votes.parquet").filter(pl.col("vote").is_in([0, 1]))
    prompt = votes["prompt"].mode().sort()[0]
    votes = votes.filter(prompt=prompt)
    keys = ["dataset", "pair_id"]
    pairs = pairs.unique(keys, maintain_order=True)
    shares = votes.group_by(keys).agg(yes=pl.col("vote").sum(), number=pl.len())
    judges = votes.group_by("judge").len().sort("len", "judge", descending=[True, False])["judge"][:2].to_list()
    table = pairs.join(shares, on=keys, how="inner")
    for place, judge in enumerate(judges):
        own = votes.filter(judge=judge).unique(keys).select(*keys, pl.col("vote").alias(f"judge{place}"))
        table = table.join(own, on=keys, how="inner")
    table = table.sort(keys)
    gold, share = table["label"].to_numpy() == 1, (table["yes"] / table["number"]).to_numpy()
    one, other = (table[f"judge{place}"].to_numpy() == 1 for place in (0, 1))
    group = table.select(pl.concat_str("dataset", pl.col("pair_id").str.split("#").list.first()))[:, 0]
    counts = np.column_stack([(table["number"] - table["yes"]).to_numpy(), table["yes"].to_numpy()]).astype(float)
    return World(
        "llm_judges", "panels of LLMs on product pairs, by product", _codes(group), (one == gold).astype(float),
        (other == gold).astype(float), np.where(one, share, 1 - share), share, gold, counts,
    )  # fmt: skip


def _crowd_pairs(data: Path) -> World:
    folder = data / "votes" / "product"
    votes = pl.read_parquet(folder / "votes.parquet")
    table = (
        votes.group_by("item")
        .agg(yes=(pl.col("label") == 1).sum(), number=pl.len())
        .join(pl.read_parquet(folder / "gold.parquet"), on="item")
        .join(pl.read_parquet(folder / "items.parquet").select("item", "record_a"), on="item")
        .sort("item")
    )
    gold, share = table["gold"].to_numpy() == 1, (table["yes"] / table["number"]).to_numpy()
    counts = np.column_stack([(table["number"] - table["yes"]).to_numpy(), table["yes"].to_numpy()]).astype(float)
    majority = share > 0.5
    unanimous = share == 1.0
    return World(
        "product", "crowd on product pairs, by product", _codes(table["record_a"]), (majority == gold).astype(float),
        (unanimous == gold).astype(float), np.maximum(share, 1 - share), share, gold, counts,
    )  # fmt: skip


def _chorus(data: Path) -> World:
    table = pl.read_parquet(data / "chorus_3raters.parquet")
    ratings = table.select(pl.col("^agent_.*_rating$"))
    grades = sorted({value for column in ratings for value in column.drop_nulls().to_list()})
    of_grade = [
        ratings.select(pl.sum_horizontal((pl.all() == grade).fill_null(False).cast(pl.Float64)))[:, 0]
        for grade in grades
    ]
    counts = np.column_stack([column.to_numpy() for column in of_grade])
    return World("chorus", "three raters, by query", _codes(table["query"]), counts=counts, ordered=True)


def _dog(data: Path) -> World:
    folder = data / "votes" / "dog"
    votes = pl.read_parquet(folder / "votes.parquet").with_columns(pl.col("label").cast(pl.String))
    table = votes.group_by("item").agg(
        *((pl.col("label") == label).sum().cast(pl.Float64).alias(label) for label in "1234")
    )
    table = table.join(pl.read_parquet(folder / "gold.parquet").with_columns(pl.col("gold").cast(pl.String)), on="item")
    table = table.sort("item")
    counts = table.select(list("1234")).to_numpy()
    gold = table["gold"].cast(pl.Int64).to_numpy() - 1
    right = (counts.argmax(axis=1) == gold).astype(float)
    guess = counts.max(axis=1) / counts.sum(axis=1)
    return World("dog", "crowd on pictures, each by itself", np.arange(len(gold)), right, guess=guess, counts=counts)


# Estimators ---------------------------------------------------------------------------------------------------------


Drawn = tuple[Ints, Ints]
Work = Callable[[World, Drawn, int, int], tuple[Ends, Ends]]


def _draw(world: World, groups: int, random: np.random.Generator) -> Drawn:
    """Rows of so many groups drawn with replacement, and each row's group: one drawn twice is two."""
    order = np.argsort(world.group, kind="stable")
    bounds = np.searchsorted(world.group[order], np.arange(world.group.max() + 2))
    drawn = random.integers(0, world.group.max() + 1, groups)
    rows = [order[bounds[one] : bounds[one + 1]] for one in drawn]
    return np.concatenate(rows), np.repeat(np.arange(groups), [len(part) for part in rows])


def _estimators(world: World) -> dict[str, tuple[Work, float]]:
    found: dict[str, tuple[Work, float]] = {}
    if world.right is not None:
        found["accuracy"] = (_accuracy, float(world.right.mean()))
    if world.right is not None and world.other is not None:
        found["paired difference"] = (_difference, float((world.right - world.other).mean()))
    if world.score is not None and world.positive is not None:
        whole = auc_of_ranked(rank_scores(world.score, world.positive), np.ones((1, len(world.score))))
        found["AUC"] = (_auc, float(whole[0]))
    if world.right is not None and world.guess is not None:
        for name in ("PPI++", "PPI++ stratified", "PPI++ drawn rows"):
            found[name] = (_powered(name), float(world.right.mean()))
    if world.counts is not None:
        whole_resamples = Resamples.of(world.group.astype(str), count=2, seed=0)
        said = reliability_of(world.counts, whole_resamples, judges=2, ordered=world.ordered)
        for name in ("alpha", "kappa", "ac"):
            found[name] = (_reliability(name), float(getattr(said, name).value))
    return found


def _ends(found: Estimate) -> Ends:
    return found.low, found.high


def _of_rows(values: Floats) -> Ends:
    """The textbook interval of a mean of independent rows."""
    reach = 1.6449 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def _accuracy(world: World, drawn: Drawn, groups: int, seed: int) -> tuple[Ends, Ends]:
    assert world.right is not None
    values = world.right[drawn[0]]
    resamples = Resamples(drawn[1], groups, _RESAMPLES, seed)
    found = ratio_estimates(values[:, None], np.ones((len(values), 1)), resamples, level=_LEVEL)[0]
    return _ends(found), _of_rows(values)


def _difference(world: World, drawn: Drawn, groups: int, seed: int) -> tuple[Ends, Ends]:
    assert world.right is not None and world.other is not None
    values = world.right[drawn[0]] - world.other[drawn[0]]
    resamples = Resamples(drawn[1], groups, _RESAMPLES, seed)
    sums = resamples.sums(np.column_stack([values, np.ones(len(values))]))
    size = Size(len(values), groups)
    return _ends(estimate(float(values.mean()), sums[:, 0] / sums[:, 1], size, level=_LEVEL)), _of_rows(values)


def _auc(world: World, drawn: Drawn, groups: int, seed: int) -> tuple[Ends, Ends]:
    assert world.score is not None and world.positive is not None
    ranked = rank_scores(world.score[drawn[0]], world.positive[drawn[0]])
    size = Size(len(drawn[0]), groups)
    value = float(auc_of_ranked(ranked, np.ones((1, size.rows)))[0])

    def ends(codes: Ints, number: int) -> Ends:
        resamples = Resamples(codes, number, _RESAMPLES, seed)
        with np.errstate(invalid="ignore"):
            draws = resamples.map_weights(lambda weights: auc_of_ranked(ranked, weights))
        return _ends(estimate(value, draws, Size(size.rows, number), level=_LEVEL, proportion=True))

    naive = ends(np.arange(size.rows), size.rows) if seed % 4 == 0 else (None, None)  # a quarter of the samples will do
    return ends(drawn[1], groups), naive


def _powered(name: str) -> Work:
    def work(world: World, drawn: Drawn, groups: int, seed: int) -> tuple[Ends, Ends]:
        assert world.right is not None and world.guess is not None
        random = np.random.default_rng(seed)
        more, of = _draw(world, _UNLABELED * groups, random)
        rows, group = np.concatenate([drawn[0], more]), np.concatenate([drawn[1], of + groups])
        truth, guess, chance, stratum = world.right[rows], world.guess[rows], None, None
        labeled = group < groups
        if name == "PPI++ drawn rows":
            table = pl.DataFrame({"row_id": np.arange(len(rows)), "group": group.astype(str)})
            chosen = rows_to_label(table, np.clip(guess, 0, 1), count=len(drawn[0]), seed=seed)
            labeled = np.zeros(len(rows), dtype=bool)
            labeled[chosen["row_id"].to_numpy()] = True
            chance = np.ones(len(rows))
            chance[chosen["row_id"].to_numpy()] = chosen["chance"].to_numpy()
        elif name == "PPI++ stratified":
            stratum = (guess > np.median(guess)).astype(int)
            if min(labeled[stratum == one].sum() for one in np.unique(stratum)) < 2:
                stratum = None
        truth = np.where(labeled, truth, np.nan)
        ends = []
        for by in (group, np.arange(len(rows))):
            sample = Sample(truth, guess, by, stratum=stratum, chance=chance)
            ends.append(_ends(prediction_powered_mean(sample, level=_LEVEL).estimate))
        return ends[0], ends[1]

    return work


def _reliability(name: str) -> Work:
    def work(world: World, drawn: Drawn, groups: int, seed: int) -> tuple[Ends, Ends]:
        assert world.counts is not None
        ends = []
        for codes, number in ((drawn[1], groups), (np.arange(len(drawn[0])), len(drawn[0]))):
            if number != groups and seed % 4:
                ends.append((None, None))
                continue
            resamples = Resamples(codes, number, _RESAMPLES, seed)
            said = reliability_of(world.counts[drawn[0]], resamples, judges=2, ordered=world.ordered, level=_LEVEL)
            ends.append(_ends(getattr(said, name)))
        return ends[0], ends[1]

    return work


def _simulate(world: World, groups: int, work: Work, truth: float, repeats: int) -> dict[str, float]:
    held = {"interval": [0, 0], "rows": [0, 0]}
    widths, sides = [], [0, 0]
    for repeat in range(repeats):
        drawn = _draw(world, groups, np.random.default_rng([groups, repeat]))
        for name, (low, high) in zip(held, work(world, drawn, groups, repeat), strict=True):
            if low is None or high is None:
                continue
            held[name][0] += low <= truth <= high
            held[name][1] += 1
            if name == "interval":
                widths.append(high - low)
                sides[0] += truth < low
                sides[1] += truth > high
    found = {name: count / max(number, 1) for name, (count, number) in held.items()}
    rest = {"truth": truth, "width": float(np.mean(widths)), "repeats": held["interval"][1]}
    return {**found, **rest, "below": sides[0] / repeats, "above": sides[1] / repeats}


def _line(world: World, groups: int, name: str, found: dict[str, float]) -> str:
    error = np.sqrt(found["interval"] * (1 - found["interval"]) / max(found["repeats"], 1))
    cells = [f"{world.name} ({world.what})", str(groups), name, f"{found['truth']:.3f}"]
    cells += [f"{100 * found['interval']:.1f}% ± {100 * error:.1f}", f"{100 * found['rows']:.0f}%"]
    return "| " + " | ".join([*cells, f"{found['width']:.3f}", f"{found['repeats']:.0f}"]) + " |"


_ABOUT = """\
How often the 90% interval holds the number of the whole set, when so many of its groups are drawn with replacement,
with all their rows; ± is the standard error of the count itself. *Rows as independent*: the same, as if each row were a
group of its own (for means, the textbook interval). Prediction-powered estimates have five times as many groups, of
which the number given, or as many rows as those hold, carry labels."""


if __name__ == "__main__":
    main()
