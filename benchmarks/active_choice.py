"""What choosing rows saves against drawing them, at equal quality, on product search data judged by one LLM.

    DISTILL_DATA=… python benchmarks/active_choice.py --learner logistic --seeds 100 101 102 … --sets crowdflower
    DISTILL_DATA=… python benchmarks/active_choice.py --learner dcn --seeds 7 8 9 10 11
    DISTILL_DATA=… python benchmarks/active_choice.py --table

A round asks the teacher (the LLM's recorded judgments) about more rows, trains a student on all answers so far, and
measures it on people's labels of queries that were never asked about. The first 40 rows are a plain draw for every rule
that needs a student, the same for all rules of a seed; each later round doubles them, up to 640. A seed moves split,
draws and student. Random choice goes on to 1,280, to see where it gets the quality of the others. No
human label is used but to measure. Each curve is kept in ``--cache``, so that the benchmark goes on where it was
stopped.

The saving at *B* rows is ``1 - B / b``, with *b* the rows at which random choice reaches the quality that the rule has
at B: on its learning curve, interpolated over the logarithm of rows and made monotone, within 40 and 1,280 rows. Its
interval is a bootstrap over seeds and, within them, test queries, the same for every rule.

How rules draw (``--learner logistic``, variants) and which shares are the default were chosen on CrowdFlower with seeds
100 and up and a logistic regression; the dcn and ESCI, and seeds 7 to 11, had no part in it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import distill
from distill.eval import row_choice
from distill.eval.metrics import Floats, auc_of_ranked, rank_scores
from distill.eval.row_choice import DEFAULT_SHARES, choose_rows
from distill.labeling.task import Task
from distill.recipe import load_recipe
from distill.students.features import HashedRows

_RESULTS = Path(__file__).parent / "results"
_SETS = ("crowdflower", "esci_us")
_BUDGETS = (40, 80, 160, 320, 640)
_BEYOND = (1280,)  # of random choice only: where it gets to later
_RESAMPLES = 1000
_LEVEL = 0.9
_MEMBERS = 3

Probs = Callable[[pl.DataFrame], Floats]


@dataclass(frozen=True)
class World:
    """A set at a seed: rows that may be asked about, rows to measure on, and what the teacher says."""

    name: str
    seed: int
    task: Task
    asking: pl.DataFrame
    test: pl.DataFrame
    labels: pl.DataFrame
    features: dict[str, Any]

    @property
    def beyond(self) -> list[int]:
        """Rows after rounds that only random choice goes on to."""
        return [min(each, self.asking.height) for each in _BEYOND]


@dataclass(frozen=True)
class Rule:
    """How rows of a round are chosen: shares of :func:`choose_rows`, or another way."""

    shares: Mapping[str, float]
    constants: Mapping[str, float] | None = None
    top: bool = False


_RULES = {
    "random": Rule({"random": 1.0}),
    "uncertainty": Rule({"uncertainty": 1.0}),
    "disagreement": Rule({"disagreement": 1.0}),
    "diversity": Rule({"diversity": 1.0}),
    "default": Rule(dict(DEFAULT_SHARES)),
}
_VARIANTS = {
    "uncertainty, the top": Rule({"uncertainty": 1.0}, top=True),
    "uncertainty, w = H": Rule({"uncertainty": 1.0}, {"_SHARPNESS": 1.0}),
    "uncertainty, w = H^6": Rule({"uncertainty": 1.0}, {"_SHARPNESS": 6.0}),
    "uncertainty, groups as they come": Rule({"uncertainty": 1.0}, {"WITHIN_GROUP": 1e-9, "_MOST_OF_A_GROUP": 1.0}),
    "random, spread over groups": Rule({"frequency": 1.0}),  # every row's weight is 1 here
    "uncertainty and diversity": Rule({"uncertainty": 0.5, "diversity": 0.5}),
    "uncertainty and disagreement": Rule({"uncertainty": 0.5, "disagreement": 0.5}),
    "all but frequency": Rule({"uncertainty": 0.25, "disagreement": 0.25, "diversity": 0.25, "random": 0.25}),
}


def main() -> None:
    """Makes the curves that are missing, or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=list(_SETS))
    parser.add_argument("--learner", choices=["dcn", "logistic"], default="dcn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9, 10, 11])
    parser.add_argument("--rules", nargs="+", default=list(_RULES), choices=[*_RULES, *_VARIANTS])
    parser.add_argument("--variants", action="store_true", help="also other ways to draw")
    parser.add_argument("--cache", type=Path, default=Path("runs/active_choice"))
    parser.add_argument("--table", action="store_true", help="train nothing, write the tables")
    arguments = parser.parse_args()
    if arguments.table:
        text = _report(arguments.cache)
        (_RESULTS / "active_choice.md").write_text(text, encoding="utf-8")
        print(text)
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name in arguments.sets:
            world = None
            for rule in [*arguments.rules, *(_VARIANTS if arguments.variants else [])]:
                cell = _cell(arguments.cache, name, seed, arguments.learner, rule)
                if cell.exists():
                    continue
                world = world or _world(name, seed, arguments.cache)
                began = time.perf_counter()
                curve = _curve(world, {**_RULES, **_VARIANTS}[rule], arguments.learner, arguments.cache)
                curve.write_parquet(cell.with_suffix(".partial"))
                cell.with_suffix(".partial").replace(cell)
                print(f"{cell.stem}: {time.perf_counter() - began:.0f} s", flush=True)


def _cell(cache: Path, name: str, seed: int, learner: str, rule: str) -> Path:
    return cache / f"{name}-{seed}-{learner}-{rule.replace(' ', '_').replace(',', '')}.parquet"


def _world(name: str, seed: int, cache: Path) -> World:
    overrides = [f"seed={seed}"]
    run = distill.run(name, out=cache / "runs" / f"{name}-{seed}", overrides=overrides, until="aggregate")
    recipe = load_recipe(name, overrides)
    assert recipe.task is not None
    labels = pl.read_parquet(run.path / "labels.parquet").filter(pl.col("label").is_not_null())
    rows = run.rows.join(labels.select("row_id"), on="row_id", how="semi")
    task = Task.from_config(recipe.task)
    test = rows.filter((pl.col("split") == "test") & pl.col("gold").is_in(list(task.labels)))
    asking = rows.filter(pl.col("split").is_in(["pool", "train"])).with_columns(gold=pl.lit(None, pl.String))
    return World(name, seed, task, asking.sort("row_id"), test.sort("row_id"), labels, {})


# Rounds -------------------------------------------------------------------------------------------------------------


def _curve(world: World, rule: Rule, learner: str, cache: Path) -> pl.DataFrame:
    """Scores of test rows after each round."""
    asked = world.asking.clear()
    predictions: pl.DataFrame | None = None
    parts = []
    for budget in [*_BUDGETS, *(world.beyond if rule.shares == {"random": 1.0} else [])]:
        asked = pl.concat([asked, _round(world, rule, budget - asked.height, asked, predictions)])
        members = _members(world, asked, learner, cache, committee=rule.shares.get("disagreement", 0) > 0)
        probs = members[0](world.test)
        positive = world.task.labels.index(world.task.positive or world.task.labels[0])
        parts.append(
            world.test.select("row_id", "group", "gold").with_columns(
                budget=pl.lit(asked.height),
                score=pl.Series(probs[:, positive]),
                predicted=pl.Series([world.task.labels[place] for place in probs.argmax(axis=1)]),
                probs=pl.Series(probs.tolist()),
            )
        )
        rest = world.asking.join(asked.select("row_id"), on="row_id", how="anti")
        if set(rule.shares) & {"uncertainty", "disagreement"} and asked.height < _BUDGETS[-1]:
            predictions = pl.concat(
                [
                    rest.select("row_id", student=pl.lit(str(place)), probs=pl.Series(of(rest).tolist()))
                    for place, of in enumerate(members)
                ]
            )
    return pl.concat(parts)


def _round(world: World, rule: Rule, count: int, asked: pl.DataFrame, predictions: pl.DataFrame | None) -> pl.DataFrame:
    rest = world.asking.join(asked.select("row_id"), on="row_id", how="anti")
    seed = world.seed * 100 + (0 if not asked.height else 1 + _BUDGETS.index(min(asked.height, _BUDGETS[-1])))
    if rule.top and predictions is not None:
        probs = np.array(predictions.filter(student="0")["probs"].to_list())
        order = np.argsort(-row_choice.normalised_entropy(probs), kind="stable")[:count]
        found = predictions.filter(student="0")[order].select("row_id")
    else:
        with _changed(rule.constants or {}):
            found = choose_rows(
                rest,
                count=count,
                rules=rule.shares,  # type: ignore[arg-type]
                predictions=predictions,
                asked=asked,
                inputs=world.task.inputs,
                seed=seed,
            )
    return rest.join(found.select("row_id"), on="row_id", how="semi")


@contextmanager
def _changed(constants: Mapping[str, float]) -> Any:
    before = {name: getattr(row_choice, name) for name in constants}
    for name, value in constants.items():
        setattr(row_choice, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(row_choice, name, value)


def _members(world: World, asked: pl.DataFrame, learner: str, cache: Path, *, committee: bool) -> list[Probs]:
    """The student first; then those that it may disagree with: a logistic regression, or ones of resampled queries."""
    if learner == "dcn":
        students = [_dcn(world, asked, cache)]
        return [*students, _logistic(world, asked)] if committee else students
    students = [_logistic(world, asked)]
    random = np.random.default_rng(world.seed)
    names = asked["group"].unique().sort()
    for _ in range(_MEMBERS if committee else 0):
        drawn = pl.DataFrame({"group": names.gather(random.integers(0, len(names), len(names)).tolist())})
        students.append(_logistic(world, asked.join(drawn, on="group", how="inner")))
    return students


def _dcn(world: World, asked: pl.DataFrame, cache: Path) -> Probs:
    out = cache / "students" / f"{world.name}-{world.seed}-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    config = {"type": "dcn", "train_on": "labels"}
    with _hashed_once(world):
        student = distill.train(asked, config, task=world.task, out=out, labels=world.labels, seed=world.seed)
    shutil.rmtree(out)

    def probs(rows: pl.DataFrame) -> Floats:
        with _hashed_once(world):
            logits = student.logits(rows)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exp / exp.sum(axis=1, keepdims=True), float)

    return probs


@contextmanager
def _hashed_once(world: World) -> Any:
    """Keeps the hashed features of each row of a world: all students read the same, and making them takes longest."""
    from distill.students import dcn_network

    plain = dcn_network.hash_rows

    def kept(rows: pl.DataFrame, *, inputs: Sequence[str], buckets: int) -> HashedRows:
        if "row_id" not in rows.columns:
            return plain(rows, inputs=inputs, buckets=buckets)
        known = world.features.setdefault("hashed", {})
        if new := [place for place, name in enumerate(rows["row_id"]) if name not in known]:
            found = plain(rows[new], inputs=inputs, buckets=buckets)
            known.update(zip(rows["row_id"].gather(new), zip(found.slots, found.dense, strict=True), strict=True))
        slots, dense = zip(*(known[name] for name in rows["row_id"]), strict=True)
        return HashedRows(list(slots), np.stack(dense))

    dcn_network.hash_rows = kept
    try:
        yield
    finally:
        dcn_network.hash_rows = plain


def _logistic(world: World, asked: pl.DataFrame) -> Probs:
    """The logistic regression of confident learning, on the dcn's hashed features."""
    from distill.students import confident_learning

    if "matrix" not in world.features:
        every = pl.concat([world.asking, world.test])
        world.features["matrix"] = confident_learning._features(every, world.task.inputs)
        world.features["place"] = dict(zip(every["row_id"], range(every.height), strict=True))
        said = every.select("row_id").join(world.labels, on="row_id", how="left", maintain_order="left")
        world.features["target"] = np.array(said["probs"].to_list())
    matrix, place = world.features["matrix"], world.features["place"]
    at = np.array([place[name] for name in asked["row_id"]])
    target = world.features["target"][at]

    def probs(rows: pl.DataFrame) -> Floats:
        to = np.array([place[name] for name in rows["row_id"]])
        return confident_learning._fitted(matrix[at], target, np.ones(len(at)), matrix[to])

    return probs


# Table --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Quality of a rule at each budget: ``value`` ``[seeds, budgets]``, ``draws`` ``[resamples, budgets]`` of means."""

    value: Floats
    draws: Floats


def _report(cache: Path) -> str:
    parts = ["# Active choice of rows", _ABOUT]
    for name in _SETS:
        for learner, seeds, rules in (
            ("dcn", [7, 8, 9, 10, 11], list(_RULES)),
            ("logistic", list(range(7, 17)), list(_RULES)),
            ("logistic", list(range(100, 120)), [*_RULES, *_VARIANTS]),
        ):
            parts += _of_learner(cache, name, learner, seeds, rules)
    packages = ("torch", "polars", "scikit-learn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    made = f"Made on {date.today()} by `benchmarks/active_choice.py`; {platform.machine()}, {os.cpu_count()} cores"
    return "\n\n".join([*parts, f"{made}; {versions}."]) + "\n"


def _of_learner(cache: Path, name: str, learner: str, seeds: Sequence[int], rules: Sequence[str]) -> list[str]:
    there = {rule: {seed for seed in seeds if _cell(cache, name, seed, learner, rule).exists()} for rule in rules}
    rules = [rule for rule in rules if len(there[rule]) > 1]
    done = sorted(set(seeds).intersection(*(there[rule] for rule in rules))) if "random" in rules else []
    if len(done) < 2:
        return []
    tables = {rule: [pl.read_parquet(_cell(cache, name, seed, learner, rule)) for seed in done] for rule in rules}
    recipe = load_recipe(name)
    assert recipe.task is not None
    positive = Task.from_config(recipe.task).positive
    budgets = tables["random"][0]["budget"].unique().sort().to_list()
    parts = [
        f"## {name}, {learner}, seeds {done[0]} to {done[-1]}",
        f"{len(done)} seeds; test rows of a seed {_span(tables['random'], 'row_id', budgets[0])}, queries "
        f"{_span(tables['random'], 'group', budgets[0])}.",
    ]
    for what, statistic in (("AUC", _auc), ("match or not, share right", _match)):
        curves = {rule: _quality(tables[rule], statistic, str(positive)) for rule in rules}
        parts.append(_lines(what, curves, tables["random"]))
    return parts


def _span(tables: Sequence[pl.DataFrame], column: str, budget: int) -> str:
    found = [table.filter(budget=budget)[column].n_unique() for table in tables]
    return f"{min(found)} to {max(found)}"


def _auc(table: pl.DataFrame, positive: str, weights: Floats) -> Floats:
    ranked = rank_scores(table["score"].to_numpy(), (table["gold"] == positive).to_numpy())
    return auc_of_ranked(ranked, weights)


def _match(table: pl.DataFrame, positive: str, weights: Floats) -> Floats:
    right = ((table["gold"] == positive) == (table["predicted"] == positive)).to_numpy().astype(float)
    result: Floats = weights @ right / weights.sum(axis=1)
    return result


def _quality(tables: Sequence[pl.DataFrame], statistic: Callable[..., Floats], positive: str) -> Curve:
    """By bootstrap over seeds and the queries of each; the draws hang on the seed's place only, so all are paired."""
    values, draws = [], []
    for place, table in enumerate(tables):
        parts = [table.filter(budget=budget) for budget in table["budget"].unique().sort()]
        names, codes = np.unique(parts[0]["group"].to_numpy(), return_inverse=True)
        drawn = np.random.default_rng([11, place]).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES
        )
        weights = drawn[:, codes].astype(float)
        with np.errstate(invalid="ignore"):
            draws.append(np.stack([statistic(part, positive, weights) for part in parts], axis=1))
        one = np.ones((1, parts[0].height))
        values.append([float(statistic(part, positive, one)[0]) for part in parts])
    of_seeds = np.random.default_rng(5).integers(0, len(tables), (_RESAMPLES, len(tables)))
    by_seed = np.stack(draws)  # [seeds, resamples, budgets]
    mean = np.nanmean(by_seed[of_seeds, np.arange(_RESAMPLES)[:, None]], axis=1)
    return Curve(np.array(values), mean)


def _needed(quality: Floats, curve: Floats, budgets: Floats) -> Floats:
    """Rows at which ``curve`` ``[B, budgets]`` reaches ``quality`` ``[B]``: within the first budget and the last."""
    monotone = np.maximum.accumulate(curve, axis=1)
    logs = np.log(budgets)
    found = [np.interp(q, line + 1e-9 * np.arange(len(line)), logs) for q, line in zip(quality, monotone, strict=True)]
    result: Floats = np.exp(np.array(found))
    return result


def _lines(what: str, curves: Mapping[str, Curve], random: Sequence[pl.DataFrame]) -> str:
    every = [table["budget"].unique().sort().to_numpy().astype(float) for table in random]
    budgets = np.mean(every, axis=0)
    head = [what, *(f"{budget:.0f}" for budget in budgets)]
    compared = range(1, len(_BUDGETS))
    head += [f"against random at {budgets[at]:.0f}" for at in compared]
    head += [f"saving at {budgets[at]:.0f}" for at in compared]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    control = curves["random"]
    for rule, curve in curves.items():
        cells = [rule, *(f"{value:.3f}" for value in curve.value.mean(axis=0))]
        cells += ["–"] * (len(budgets) - curve.value.shape[1])
        if rule == "random":
            lines.append("| " + " | ".join([*cells, *["–"] * (2 * len(compared))]) + " |")
            continue
        for at in compared:
            gain = curve.draws[:, at] - control.draws[:, at]
            point = curve.value.mean(axis=0)[at] - control.value.mean(axis=0)[at]
            cells.append(f"{point:+.3f} ({_ends(gain, '+.3f')})")
        for at in compared:
            needed = _needed(curve.draws[:, at], control.draws, budgets)
            whole = _needed(curve.value.mean(axis=0)[None, at], control.value.mean(axis=0)[None], budgets)
            point, drawn = 1 - budgets[at] / whole[0], 1 - budgets[at] / needed
            cells.append(f"{point:.0%} ({_ends(drawn, '.0%')})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ends(draws: Floats, form: str) -> str:
    low, high = np.nanquantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return f"{low:{form}} to {high:{form}}"


_ABOUT = """\
The teacher is one LLM's recorded judgments; the truth is people's labels of test queries, of which the student saw
none. Means over seeds, 90% intervals by bootstrap over seeds and test queries, paired. A saving of 30% at 160 rows
says that random choice needs 229 for the quality that the rule has at 160; below 0, that it needs fewer. It cannot
exceed what the curve of random choice reaches to, and where that is flat it says little. Seeds 100 and up on
CrowdFlower are those that the way of drawing and the default shares were chosen on; all else had no part in it."""


if __name__ == "__main__":
    main()
