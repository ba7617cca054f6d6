"""Whether what is said of students without any label by a person moves as their quality moves, and how far it is off.

    DISTILL_DATA=… python benchmarks/label_free_quality.py --cache runs/student_quality --curves runs/active_choice
    DISTILL_DATA=… python benchmarks/label_free_quality.py --cache … --curves … --table

Students are those of `student_quality.py` (a dcn and an encoder, each taught by people, by one LLM, by both) and those
of the rounds of random choice in `active_choice.py` (a dcn on 40 to 1,280 rows of the LLM's labels), on the same
test rows at the same seeds. What is missing is trained, and ``--table`` takes what is there. On held-out rows that no
student learned from, each label-free number is set beside the truth, people's labels: per seed over its students as a
rank correlation, and as a mean difference in points. Intervals are bootstraps over the queries of all seeds, drawn once
for all students.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import active_choice
import numpy as np
import polars as pl
import student_quality

from distill.eval.intervals import Resamples
from distill.eval.label_free import threshold_estimate
from distill.eval.metrics import Floats, Ints, auc_of_ranked, rank_scores
from distill.students.calibration import calibrated, fit_calibration, softmax

_RESULTS = Path(__file__).parent / "results"
_RUNGS = (
    "dcn-human",
    "dcn-llm",
    "dcn-both",
    "dcn-matched",
    "encoder-human",
    "encoder-llm",
    "encoder-both",
)
_RESAMPLES = 500
_LEVEL = 0.9


@dataclass(frozen=True)
class Student:
    """A student on the test rows of its seed; a number of a student is a mean over rows, or an AUC."""

    name: str
    taught_by: str
    probs: Floats
    expected: Floats  # [n] each row's chance to be right by the student's own calibrated confidence, NaN without audit
    passes: Floats  # [n] 1 where its confidence is above the threshold of ATC, NaN without audit


@dataclass(frozen=True)
class Seed:
    """Students of a seed, people's labels and the teacher's of its test rows."""

    group: np.ndarray
    gold: Ints
    said: Ints
    positive: int
    students: list[Student]


def main() -> None:
    """Trains what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=["crowdflower", "esci_us"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--cache", type=Path, default=Path("runs/student_quality"))
    parser.add_argument("--curves", type=Path, default=Path("runs/active_choice"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    parts = ["# Label-free estimates against the truth", _ABOUT]
    for name in arguments.sets:
        if not arguments.table:
            for seed in arguments.seeds:
                _train(name, seed, arguments.cache, arguments.curves)
        read = [_seed(name, seed, arguments.cache, arguments.curves) for seed in arguments.seeds]
        parts += _report(name, [one for one in read if len(one.students) >= 6])
    packages = ("torch", "polars", "scikit-learn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    parts.append(f"Made on {date.today()} by `benchmarks/label_free_quality.py`; {machine}; {versions}.")
    text = "\n\n".join(parts) + "\n"
    (_RESULTS / "label_free_quality.md").write_text(text, encoding="utf-8")
    print(text)


def _train(name: str, seed: int, cache: Path, curves: Path) -> None:
    curve = active_choice._cell(curves, name, seed, "dcn", "random")
    if not curve.exists():
        world = active_choice._world(name, seed, curves)
        active_choice._curve(world, active_choice._RULES["random"], "dcn", curves).write_parquet(curve)
    rungs = [rung for rung in student_quality._RUNGS[name] if rung.name in _RUNGS]
    if all((cache / f"{name}-{seed}-{rung.name}.parquet").exists() for rung in rungs):
        return
    world_of_rungs = student_quality._world(name, seed, cache)
    for rung in rungs:
        student_quality._train(rung, world_of_rungs)


def _seed(name: str, seed: int, cache: Path, curves: Path) -> Seed:
    world = active_choice._world(name, seed, curves)
    place = {label: number for number, label in enumerate(world.task.labels)}
    test = world.test.select("row_id", "group", "gold").join(
        world.labels.select("row_id", said="label"), on="row_id", maintain_order="left"
    )
    students = [
        _of_rung(pl.read_parquet(path), test, rung, place)
        for rung in _RUNGS
        if (path := cache / f"{name}-{seed}-{rung}.parquet").exists()
    ]
    curve = active_choice._cell(curves, name, seed, "dcn", "random")
    if curve.exists():
        students += _of_curve(pl.read_parquet(curve), test)
    gold, said = (np.array([place[label] for label in test[column]]) for column in ("gold", "said"))
    positive = place[world.task.positive or world.task.labels[0]]
    return Seed(test["group"].to_numpy(), gold, said, positive, students)


def _of_rung(table: pl.DataFrame, test: pl.DataFrame, rung: str, place: dict[str, int]) -> Student:
    audit = table.filter((pl.col("split") == "audit") & pl.col("gold").is_in(list(place)))
    logits = np.array(audit["logits"].to_list())
    gold = np.array([place[label] for label in audit["gold"]])
    found = fit_calibration(logits, np.eye(len(place))[gold], group=audit["group"].to_numpy(), source="audit gold")
    here = test.select("row_id").join(table, on="row_id", how="left", maintain_order="left")
    scores = np.array(here["logits"].to_list())
    probs, sure = softmax(scores), softmax(logits)
    right = (sure.argmax(axis=1) == gold).astype(float)
    confidence = probs.max(axis=1)
    # The threshold by itself: the share that passes is what threshold_estimate gives, here row by row for resamples.
    share = threshold_estimate(confidence, labeled_confidence=sure.max(axis=1), labeled_right=right)
    passing = round(right.mean() * len(right))
    threshold = np.sort(sure.max(axis=1))[::-1][passing - 1] if passing else np.inf
    passes = (confidence >= threshold).astype(float)
    assert np.isclose(passes.mean(), share)
    return Student(rung, rung.split("-", 1)[1], probs, calibrated(scores, found).max(axis=1), passes)


def _of_curve(table: pl.DataFrame, test: pl.DataFrame) -> list[Student]:
    unknown = np.full(test.height, np.nan)
    found = []
    for budget in table["budget"].unique().sort():
        here = test.select("row_id").join(table.filter(budget=budget), on="row_id", how="left", maintain_order="left")
        found.append(Student(f"dcn-llm, {budget} rows", "llm", np.array(here["probs"].to_list()), unknown, unknown))
    return found


# Numbers of students ------------------------------------------------------------------------------------------------


def _numbers(seed: Seed, weights: Floats) -> dict[str, Floats]:
    """Truths and label-free numbers of every student, ``[B, S]`` each."""
    total = weights.sum(axis=1)
    found: dict[str, list[Floats]] = {}

    def add(name: str, values: Floats) -> None:
        found.setdefault(name, []).append(values)

    for student in seed.students:
        predicted, score = student.probs.argmax(axis=1), student.probs[:, seed.positive]
        match = predicted == seed.positive
        for truth, labels in (("true", seed.gold), ("agreement", seed.said)):
            add(f"{truth}: all labels", weights @ (predicted == labels).astype(float) / total)
            add(f"{truth}: match or not", weights @ (match == (labels == seed.positive)).astype(float) / total)
            add(f"{truth}: AUC", auc_of_ranked(rank_scores(score, labels == seed.positive), weights))
        add("CBPE", weights @ student.probs.max(axis=1) / total)
        add("CBPE, calibrated on audit gold", weights @ student.expected / total)
        add("ATC, threshold from audit gold", weights @ student.passes / total)
    return {name: np.stack(values, axis=1) for name, values in found.items()}


_PAIRS = (
    ("agreement: all labels", "true: all labels"),
    ("agreement: match or not", "true: match or not"),
    ("agreement: AUC", "true: AUC"),
    ("agreement: all labels", "true: AUC"),
    ("CBPE", "true: all labels"),
    ("CBPE", "true: AUC"),
    ("CBPE, calibrated on audit gold", "true: all labels"),
    ("ATC, threshold from audit gold", "true: all labels"),
)


def kendall(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b of each line, ``[B, S]``; columns without a number are left out."""
    known = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    upper = np.triu_indices(int(known.sum()), k=1)
    signs = [np.sign(part[:, known][:, upper[0]] - part[:, known][:, upper[1]]) for part in (one, other)]
    norm = np.sqrt(np.square(signs[0]).sum(axis=1) * np.square(signs[1]).sum(axis=1))
    return np.divide((signs[0] * signs[1]).sum(axis=1), norm, out=np.full(len(norm), np.nan), where=norm > 0)


def spearman(one: Floats, other: Floats) -> Floats:
    """Spearman's rho of each line, ``[B, S]``."""
    from scipy.stats import rankdata

    known = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    ranks = [rankdata(part[:, known], axis=1) for part in (one, other)]
    ranks = [part - part.mean(axis=1, keepdims=True) for part in ranks]
    norm = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return np.divide((ranks[0] * ranks[1]).sum(axis=1), norm, out=np.full(len(norm), np.nan), where=norm > 0)


# Tables -------------------------------------------------------------------------------------------------------------


def _report(name: str, seeds: Sequence[Seed]) -> list[str]:
    if not seeds:
        return []
    resamples = Resamples.of(np.concatenate([seed.group for seed in seeds]), count=_RESAMPLES, seed=3)
    whole, drawn, start = [], [], 0
    for seed in seeds:
        rows = np.arange(start, start + len(seed.group))
        start += len(rows)
        weights = np.concatenate([np.take(chunk, resamples.codes[rows], axis=1) for chunk in resamples.chunks()])
        whole.append(_numbers(seed, np.ones((1, len(rows)))))
        with np.errstate(invalid="ignore"):
            drawn.append(_numbers(seed, weights))
    count = ", ".join(str(len(seed.students)) for seed in seeds)
    about = f"{len(seeds)} seeds with {count} students; {resamples.groups} test queries in all."
    return [
        f"## {name}\n\n{about}",
        _ranked(seeds, whole, drawn),
        _biases(seeds, whole, drawn),
        _teachers_pets(seeds, whole, drawn),
        _listed(seeds[0], whole[0]),
    ]


def _ranked(seeds: Sequence[Seed], whole: Sequence[dict[str, Floats]], drawn: Sequence[dict[str, Floats]]) -> str:
    lines = [
        "| label-free | against | students | Kendall tau, each seed | tau | Spearman | tau, taught by the LLM only |",
        "|" + " --- |" * 7,
    ]
    for guess, truth in _PAIRS:
        every = [np.isfinite(part[guess][0]) for part in whole]
        taught = [np.array([one.taught_by == "llm" for one in seed.students]) for seed in seeds]
        each = [float(kendall(part[guess], part[truth])[0]) for part in whole]
        cells = [guess, truth, "/".join(str(int(one.sum())) for one in every), " ".join(f"{one:+.2f}" for one in each)]
        for statistic, kept in ((kendall, every), (spearman, every), (kendall, taught)):
            if min(int((one & known).sum()) for one, known in zip(kept, every, strict=True)) < 4:
                cells.append("–")
                continue
            value, draws = (
                np.mean(
                    [
                        statistic(part[guess][:, own], part[truth][:, own])
                        for part, own in zip(parts, kept, strict=True)
                    ],
                    axis=0,
                )
                for parts in (whole, drawn)
            )
            cells.append(f"{float(value[0]):+.2f} ({_ends(draws, '+.2f')})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_OFF = tuple(pair for pair in _PAIRS if pair not in {_PAIRS[3], _PAIRS[5]})  # those that are to equal what they track


def _biases(seeds: Sequence[Seed], whole: Sequence[dict[str, Floats]], drawn: Sequence[dict[str, Floats]]) -> str:
    sources = list(dict.fromkeys(one.taught_by for seed in seeds for one in seed.students))
    lines = ["| less the truth, in points | " + " | ".join(f"taught by {one}" for one in sources) + " |"]
    lines.append("|" + " --- |" * (1 + len(sources)))
    for guess, truth in _OFF:
        cells = [guess]
        for source in sources:
            kept = [np.array([one.taught_by == source for one in seed.students]) for seed in seeds]
            value, draws = (
                np.nanmean(
                    np.concatenate(
                        [part[guess][:, own] - part[truth][:, own] for part, own in zip(parts, kept, strict=True)],
                        axis=1,
                    ),
                    axis=1,
                )
                for parts in (whole, drawn)
            )
            cells.append(f"{100 * float(value[0]):+.1f} ({_ends(100 * draws, '+.1f')})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _teachers_pets(
    seeds: Sequence[Seed], whole: Sequence[dict[str, Floats]], drawn: Sequence[dict[str, Floats]]
) -> str:
    """How much more a student of the LLM's labels gains in agreement than in quality, beside its twin of people's."""
    lines = [
        "| taught by the LLM less taught by people, in points | agreement | truth | flattered by |",
        "|" + " --- |" * 4,
    ]
    for kind, (guess, truth) in product(("dcn", "encoder"), _PAIRS[:3]):
        apart, draws = (_apart(seeds, parts, kind, (guess, truth)) for parts in (whole, drawn))
        if apart is None or draws is None:
            continue
        cells = [f"{kind}: {guess.split(': ')[1]}"]
        for value, spread in zip((*apart, apart[0] - apart[1]), (*draws, draws[0] - draws[1]), strict=True):
            cells.append(f"{100 * float(value[0]):+.1f} ({_ends(100 * spread, '+.1f')})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _apart(
    seeds: Sequence[Seed], parts: Sequence[dict[str, Floats]], kind: str, numbers: tuple[str, str]
) -> Floats | None:
    """``[2, draws]``: the student of the LLM's labels less its twin of people's, mean over seeds that have both."""
    found = []
    for seed, part in zip(seeds, parts, strict=True):
        names = [one.name for one in seed.students]
        if {f"{kind}-llm", f"{kind}-human"} <= set(names):
            one, other = names.index(f"{kind}-llm"), names.index(f"{kind}-human")
            found.append([part[number][:, one] - part[number][:, other] for number in numbers])
    return np.mean(found, axis=0) if found else None


def _listed(seed: Seed, numbers: dict[str, Floats]) -> str:
    shown = ("true: AUC", "agreement: AUC", "true: match or not", "agreement: match or not", "true: all labels")
    shown += ("agreement: all labels", "CBPE", "CBPE, calibrated on audit gold", "ATC, threshold from audit gold")
    lines = ["| student, first seed | " + " | ".join(shown) + " |", "|" + " --- |" * (1 + len(shown))]
    for place in np.argsort(-numbers["true: AUC"][0]).tolist():
        values = [numbers[name][0, place] for name in shown]
        cells = ["–" if np.isnan(value) else f"{value:.3f}" for value in values]
        lines.append("| " + " | ".join([seed.students[place].name, *cells]) + " |")
    return "\n".join(lines)


def _ends(draws: Floats, form: str) -> str:
    low, high = np.nanquantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return f"{low:{form}} to {high:{form}}"


_ABOUT = """\
Truth: people's labels of test queries. Agreement is with the labels of one LLM on the same rows, of which no student
saw any; CBPE is the student's mean confidence; ATC needs a threshold, which is from people's labels of split audit, as
the calibration is. 90% intervals by bootstrap over queries; resampled rank correlations lie lower than the one seen
where students are close, since noise shuffles them. Students named by their rows are rounds of random choice, without
audit labels."""


if __name__ == "__main__":
    main()
