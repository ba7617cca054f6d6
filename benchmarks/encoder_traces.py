"""What reasoning traces buy an encoder: the same encoder with and without them.

    python benchmarks/encoder_traces.py quickstart --teacher careful --rows 200 --epochs 6
    DISTILL_DATA=… python benchmarks/encoder_traces.py crowdflower --teacher llm --arms off trace --rows 300
    python benchmarks/encoder_traces.py --tell

Every student learns from one teacher's recorded answers on ``--rows`` rows drawn by seed, the same for every arm, so
that a smaller number shows what traces buy where few rows are labelled. It is measured on the recipe's test queries.
Trained students and predictions lie under ``--out`` and are not made again. Every cell is done for one seed before the
next seed begins; ``--tell`` writes ``results/encoder_traces.md`` from the cells that are there.

A gain is a difference of means over seeds, paired: the interval resamples queries, and a query brings the predictions
of all seeds and both arms with it. It holds for these seeds and other queries. The gain of each seed stands beside it:
where these differ by more than the interval is wide, more seeds are needed than more queries.

The clauses named for test rows are measured against those that the teacher cited for them, beside what the predicted
label alone would say: the clauses cited in at least half of the training rows of that label, or the commonest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates
from distill.eval.metrics import auc, auc_of_ranked, rank_scores
from distill.labeling.task import Task
from distill.recipe import load_recipe
from distill.runner import run
from distill.students.config import EncoderConfig
from distill.students.fit import fit_student
from distill.students.student import load_student
from distill.students.training_set import TrainingSet, training_set

RESULTS = Path(__file__).parent / "results" / "encoder_traces.md"
ARMS: dict[str, dict[str, Any] | None] = {
    "off": None,
    "clauses": {"clauses": 1.0},
    "trace": {"clauses": 0.0, "draw_to": "trace"},
    "trace, contrast": {"clauses": 0.0, "draw_to": "trace", "draw_by": "contrast", "weight": 0.1},
    "input with trace": {"clauses": 0.0, "draw_to": "input_with_trace"},
    "input with trace, contrast": {
        "clauses": 0.0,
        "draw_to": "input_with_trace",
        "draw_by": "contrast",
        "weight": 0.1,
    },
}


RESAMPLES = 2000
_HEAD = """# What reasoning traces buy an encoder

The same encoder (the bundled all-MiniLM-L6-v2, 22.7M parameters; the network alone, `wide: null`) with and without
what `traces:` adds, on the same rows by seed. Gains are differences of means over seeds, with 95% intervals that
resample queries, paired: they hold for these seeds and other queries. Where gains by seed have both signs nothing is
shown. The arms are those of `benchmarks/encoder_traces.py`."""


class Cell(NamedTuple):
    """One student: what it learned from, and how."""

    recipe: str
    teacher: str
    rows: int
    epochs: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return "-".join(map(str, self)).replace(", ", "_").replace(" ", "_")


class Shop(NamedTuple):
    """A recipe's rows and votes, and the task."""

    rows: pl.DataFrame
    votes: pl.DataFrame
    task: Task
    student: EncoderConfig
    truth: str


def main() -> None:
    """Trains what is missing, or tells what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart", help="a recipe that ships, or its file")
    parser.add_argument("--teacher", default="careful", help="whose answers are learned")
    parser.add_argument("--rows", type=int, default=0, help="training rows drawn; 0 for all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:3], choices=list(ARMS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/encoder_traces"), help="where cells are kept")
    parser.add_argument("--tell", action="store_true", help="write the table of the cells that are there")
    arguments = parser.parse_args()
    if arguments.tell:
        text = told(arguments.out)
        RESULTS.write_text(text, encoding="utf-8")
        print(text)
        return
    shop = read_shop(arguments.recipe, arguments.out)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            cell = Cell(arguments.recipe, arguments.teacher, arguments.rows, arguments.epochs, arm, seed)
            made = make(cell, shop, arguments.out, threads=arguments.threads)
            print(f"{cell.name}: {made['train_s']:.0f} s", flush=True)


def read_shop(recipe: str, out: Path) -> Shop:
    """Runs the recipe until its teachers' answers are read; no student is trained."""
    ran = run(recipe, out=out / f"{recipe}-run", until="label")
    section = load_recipe(recipe)
    assert section.task is not None and section.data is not None
    student = next(found for found in section.students.values() if isinstance(found, EncoderConfig))
    return Shop(ran.rows, ran.votes, Task.from_config(section.task), student, section.data.gold_source)


def make(cell: Cell, shop: Shop, out: Path, *, threads: int) -> dict[str, Any]:
    """Trains a student and keeps it, what it predicts of the test rows, and what it took."""
    folder = out / cell.name
    note = folder / "cell.json"
    if note.is_file():
        return dict(json.loads(note.read_text(encoding="utf-8")))
    training = training_set(
        shop.rows, train_on=cell.teacher, labels=None, votes=shop.votes, task=shop.task, seed=cell.seed
    )
    rows = training.train.sample(cell.rows, seed=cell.seed, shuffle=True) if cell.rows else training.train
    settings = {"train_on": [cell.teacher], "epochs": cell.epochs, "traces": ARMS[cell.arm], "threads": threads}
    settings["wide"] = None  # it learns nothing from traces, and would hide half of what the network does
    config = EncoderConfig.model_validate(shop.student.model_dump() | settings)
    began = time.process_time()
    fitted = fit_student(
        config, TrainingSet(rows, training.validation), task=shop.task, out=folder / "student", seed=cell.seed
    )
    took = {"wall_s": fitted.seconds, "train_s": time.process_time() - began, "trained_on": rows.height}
    test = shop.rows.filter((pl.col("split") == "test") & pl.col("gold").is_not_null())
    predicted = load_student(fitted.path).predict(test, threads=threads)
    cited = shop.votes.filter((pl.col("teacher") == cell.teacher) & (pl.col("outcome") == "labeled"))
    cited = cited.unique("row_id", keep="first").select("row_id", cited="clauses")
    table = predicted.join(test.select("row_id", "group", "gold"), on="row_id").join(cited, on="row_id", how="left")
    table.write_parquet(folder / "predictions.parquet")
    told_of = {"truth": shop.truth, "labels": shop.task.labels, "positive": shop.task.positive}
    made = {**cell._asdict(), **took, **told_of, "usual_clauses": usual_clauses(rows, shop.task.labels)}
    note.write_text(json.dumps(made) + "\n", encoding="utf-8")
    return made


class Read(NamedTuple):
    """The cells of one setting, over all seeds that have every arm told."""

    setting: Cell
    seeds: list[int]
    arms: dict[str, list[tuple[dict[str, Any], pl.DataFrame]]]


def told(out: Path) -> str:
    """The results page of the cells that are there."""
    parts = [_HEAD, *(_setting_told(read) for read in _settings(out)), _made()]
    return "\n\n".join(parts) + "\n"


def _settings(out: Path) -> Iterator[Read]:
    """Of every recipe, number of rows and epochs: the arms that share seeds with the one without traces."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/cell.json"))]
    cells = {Cell(*(note[field] for field in Cell._fields)): note for note in notes}
    for setting in sorted({cell._replace(arm="off", seed=0) for cell in cells}):
        found: dict[str, list[tuple[dict[str, Any], pl.DataFrame]]] = {}
        seeds = sorted(cell.seed for cell in cells if cell._replace(seed=0) == setting)
        for arm in ARMS:
            of_arm = [setting._replace(arm=arm, seed=seed) for seed in seeds]
            found[arm] = [
                (cells[cell], pl.read_parquet(out / cell.name / "predictions.parquet").sort("row_id"))
                for cell in of_arm
                if cell in cells
            ]
        if found["off"] and any(known for arm, known in found.items() if arm != "off"):
            yield Read(setting, seeds, {arm: known for arm, known in found.items() if known})


def _setting_told(read: Read) -> str:
    note, table = read.arms["off"][0]
    setting = read.setting
    heading = f"## `{setting.recipe}`, {note['trained_on']:,} rows by `{setting.teacher}`, {setting.epochs} epochs"
    size = f"{table.height} test rows of {table['group'].n_unique()} queries; truth source: {note['truth']}."
    head = "| traces | seeds | AUC | gain in AUC | by seed | exact or not | gain in exact or not | CPU time, ratio |"
    lines = [head, "|" + " --- |" * 8]
    for arm, cells in read.arms.items():
        seeds = {note["seed"] for note, _ in cells}
        lines.append(_arm_line(arm, cells, [cell for cell in read.arms["off"] if cell[0]["seed"] in seeds]))
    named = [_clauses_told(arm, cells) for arm, cells in read.arms.items() if "clause_probs" in cells[0][1].columns]
    return "\n\n".join([heading, size, "\n".join(lines), *named])


def _arm_line(arm: str, cells: Sequence[Any], plain: Sequence[Any]) -> str:
    resamples = Resamples.of(cells[0][1]["group"].to_numpy(), count=RESAMPLES, seed=7)
    size = Size(cells[0][1].height, resamples.groups)
    shown = [arm, str(len(cells))]
    for statistic in (_auc, _accuracy):
        values, draws = _mean(cells, statistic, resamples)
        other, other_draws = _mean(plain, statistic, resamples)
        shown.append(f"{values:.3f}")
        gain = estimate(values - other, draws - other_draws, size, level=0.95)
        shown.append("–" if arm == "off" else f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    by_seed = [_auc(*one, resamples)[0] - _auc(*other, resamples)[0] for one, other in zip(cells, plain, strict=True)]
    shown.insert(4, "–" if arm == "off" else ", ".join(f"{gain:+.3f}" for gain in by_seed))
    seconds = [sum(note["train_s"] for note, _ in part) for part in (cells, plain)]
    return "| " + " | ".join([*shown, f"{seconds[0] / seconds[1]:.2f}"]) + " |"


def _mean(cells: Sequence[Any], statistic: Any, resamples: Resamples) -> tuple[float, np.ndarray]:
    """Mean over the cells of a statistic, and of its resampled draws."""
    found = [statistic(note, table, resamples) for note, table in cells]
    return float(np.mean([value for value, _ in found])), np.mean([draws for _, draws in found], axis=0)


def _auc(note: dict[str, Any], table: pl.DataFrame, resamples: Resamples) -> tuple[float, np.ndarray]:
    place = note["labels"].index(note["positive"])
    scores = table["probs"].list.get(place).to_numpy()
    is_positive = (table["gold"] == note["positive"]).to_numpy()
    ranked = rank_scores(scores, is_positive)
    return auc(scores, is_positive), resamples.map_weights(lambda weights: auc_of_ranked(ranked, weights))


def _accuracy(note: dict[str, Any], table: pl.DataFrame, resamples: Resamples) -> tuple[float, np.ndarray]:
    positive = note["positive"]
    right = ((table["label"] == positive) == (table["gold"] == positive)).to_numpy().astype(np.float64)
    drawn = resamples.sums(np.stack([right, np.ones_like(right)], axis=1))
    return float(right.mean()), drawn[:, 0] / drawn[:, 1]


def _clauses_told(arm: str, cells: Sequence[Any]) -> str:
    """How the named clauses compare with those cited, with the label's own beside them."""
    kinds: dict[str, Callable[[dict[str, Any], str, list[str]], list[str]]] = {
        "named by the student": lambda note, label, named: named,
        "by the predicted label alone": lambda note, label, named: note["usual_clauses"][label],
    }
    lines = ["| clauses | micro F1 | precision | recall | most probable one was cited |", "|" + " --- |" * 5]
    resamples = None
    for kind, of_row in kinds.items():
        counts = []
        for note, table in cells:
            known = table.filter(pl.col("cited").list.len() > 0)
            resamples = resamples or Resamples.of(known["group"].to_numpy(), count=RESAMPLES, seed=7)
            rows = known.select("label", "clauses", "cited").iter_rows()
            counts.append([_counted(of_row(note, label, named), cited) for label, named, cited in rows])
        assert resamples is not None
        total = np.array(counts, dtype=np.float64).sum(axis=0)
        hits, named, cited, top, ones = total.T
        shares = ratio_estimates(
            np.stack([2 * hits, hits, hits, top], axis=1),
            np.stack([named + cited, named, cited, ones], axis=1),
            resamples,
            level=0.95,
        )
        lines.append(f"| {kind} | " + " | ".join(map(_shown, shares)) + " |")
    size = f"{len(total)} test rows on which the teacher cites clauses, {len(cells)} seeds"
    return f"Clauses of `{arm}`, against the teacher's citations ({size}; truth source: teacher):\n\n" + "\n".join(
        lines
    )


def _counted(named: list[str], cited: list[str]) -> tuple[int, int, int, int, int]:
    """Clauses named rightly, named, cited; whether the first named was cited; one row."""
    return len(set(named) & set(cited)), len(set(named)), len(set(cited)), int(named[0] in cited), 1


def usual_clauses(rows: pl.DataFrame, labels: Sequence[str]) -> dict[str, list[str]]:
    """Clauses cited in at least half of each label's rows that cite any, the commonest first; at least one."""
    found = {}
    for number, label in enumerate(labels):
        of_label = rows.filter(pl.col("target").list.arg_max() == number)
        cited = of_label.filter(pl.col("clauses").list.len() > 0)["clauses"]
        counts = Counter(clause for clauses in cited for clause in set(clauses)).most_common()
        found[label] = [name for place, (name, count) in enumerate(counts) if place == 0 or 2 * count >= len(cited)]
    return found


def _shown(share: Estimate) -> str:
    return f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"


def _made() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("distill", "torch", "transformers", "polars"))
    return (
        f"Made on {date.today()} by `benchmarks/encoder_traces.py`; {platform.machine()}, {os.cpu_count()} cores; "
        f"{packages}."
    )


if __name__ == "__main__":
    main()
