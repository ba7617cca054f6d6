"""Whether the guideline review names a clause that is ambiguous: `python benchmarks/planted_clauses.py`.

A clause of the quickstart's guideline is made ambiguous, and the review is asked what to settle first. Twenty plants a
strength, written to ``benchmarks/results/planted_clauses.md``.

**The judges are simulated.** No model was asked under a changed guideline. What a plant starts from is real: the
recorded answers of ``careful`` and ``literal`` on 1,920 rows, with the clauses that each cites of its own accord. What
an ambiguous clause does to them is assumed:

* A row is *touched* where either judge cites the clause. On it each judge, by itself and with probability ``p``, takes
  the other reading: its label turns into the other one of the clause's two readings (``READINGS``: exact or substitute
  for clauses on exactness, the neighbouring label for the rest). A label that is neither of the two stays.
* A judge who takes the other reading cites the clause with probability 0.8; else it leaves the clause out, so that the
  clause stands on the one side and others on the other. Of its other citations it drops those that say the old label
  (``SAYS``: S1 on a substitute) and adds the one that says the new.
* Everything else stays as recorded.

Two bases: *as recorded*, with the judges' real disagreement, much of which is over clauses that are truly ambiguous
(E4 was written so), and *settled*, the rows on which both gave one label, where the plant is all there is.

A plant is *named first* where the first thing that the review says to do is about the clause, alone or against another
one. A plant is *outranked* where what comes first is also a cause of the base without any plant. Intervals are Wilson's
at 95%, with plants taken as independent; those of one clause are not quite, so they are somewhat too narrow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.eval.config import EvalConfig
from distill.eval.guideline.review import Review, review
from distill.eval.intervals import wilson
from distill.eval.page import markdown_table
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
JUDGES = ("careful", "literal")
LABELS = ("exact", "substitute", "complement", "irrelevant")
TASK = Task(
    labels=LABELS,
    inputs=("query", "title"),
    positive="exact",
    ordered=True,
    guideline=Guideline.load(QUICKSTART / "guideline.md"),
)
STRENGTHS = (0.1, 0.25, 0.5)
KEEPS_CITING = 0.8
READINGS = {f"E{i}": ("exact", "substitute") for i in range(1, 10)} | {
    "S1": ("substitute", "irrelevant"),
    "S2": ("substitute", "complement"),
    "C1": ("complement", "irrelevant"),
    "I1": ("irrelevant", "substitute"),
    "A1": ("substitute", "exact"),
}
"""The two labels between which each clause leaves a judge once it is ambiguous."""
SAYS = {"exact": ("E3",), "substitute": ("S1", "S2"), "complement": ("C1",), "irrelevant": ("I1",)}
"""Clauses that say a label rather than decide it; the first is cited for a label that a judge turns to."""

FOUND = (
    "One plant showed a fault of the review, and is counted as it stands since that was mended: of A1's six conflicts "
    "at p = 0.5 all were put to “E3 against S1”, two clauses that say labels and so meet wherever the labels differ. "
    "Such pairs now come after the clauses that decide. Before, the settled base at p = 0.5 stood at 19 of 20; among "
    "the recorded votes A1 at p = 0.5 moved from place 7 to 4, and E9 at p = 0.1 from 2 to 3. Nothing else was set by "
    "looking at plants."
)


class Said(NamedTuple):
    """What one judge said of a row."""

    label: str
    clauses: tuple[str, ...]


class Plant(NamedTuple):
    """What became of one plant."""

    clause: str
    strength: float
    touched: int
    rank: int | None
    first: tuple[str, ...]
    outranked: bool


Votes = dict[str, dict[str, Said]]


def main() -> None:
    """Plants, reviews, and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plants", type=int, default=20, help="of each strength")
    asked = parser.parse_args()
    recorded = read_votes()
    settled = {row: said for row, said in recorded.items() if len({one.label for one in said.values()}) == 1}
    found = {}
    for name, base in (("as recorded", recorded), ("settled rows only", settled)):
        natural = [cause.clauses for cause in reviewed(base).causes]
        found[name] = (natural, [plant for p in STRENGTHS for plant in plants(base, p, asked.plants, natural)])
        for plant in found[name][1]:
            print(name, plant, flush=True)
    (ROOT / "benchmarks" / "results" / "planted_clauses.md").write_text(written(found, asked.plants), encoding="utf-8")


def read_votes() -> Votes:
    """What both judges said, by row."""
    found: Votes = {}
    for judge in JUDGES:
        for line in (QUICKSTART / f"{judge}.jsonl").read_text(encoding="utf-8").splitlines():
            recorded = json.loads(line)
            answer = json.loads(recorded["reply"])
            found.setdefault(recorded["row_id"], {})[judge] = Said(answer["label"], tuple(answer["clauses"]))
    return found


def plants(base: Votes, strength: float, count: int, natural: list[tuple[str, ...]]) -> Iterator[Plant]:
    """One plant after another, going round the clauses."""
    ids = list(READINGS)
    for number in range(count):
        clause = ids[number % len(ids)]
        votes = planted(base, clause, strength, seed=number)
        causes = [cause.clauses for cause in reviewed(votes).causes]
        rank = next((place for place, names in enumerate(causes, 1) if clause in names), None)
        first = causes[0] if causes else ()
        outranked = rank != 1 and first in natural
        yield Plant(clause, strength, len(touched(base, clause)), rank, first, outranked)


def touched(base: Votes, clause: str) -> list[str]:
    """Rows for which either judge cites the clause."""
    return [row for row, said in base.items() if any(clause in one.clauses for one in said.values())]


def planted(base: Votes, clause: str, strength: float, *, seed: int) -> Votes:
    """The votes as they would be if judges read the clause in two ways."""
    draw = np.random.default_rng([seed, int(100 * strength)])
    changed = {row: dict(said) for row, said in base.items()}
    for row in touched(base, clause):
        for judge, said in base[row].items():
            turns, keeps = draw.random() < strength, draw.random() < KEEPS_CITING
            if turns and said.label in READINGS[clause]:
                changed[row][judge] = other_reading(said, clause, keeps=keeps)
    return changed


def other_reading(said: Said, clause: str, *, keeps: bool) -> Said:
    """The other label, with the citations that go with it."""
    left, right = READINGS[clause]
    label = right if said.label == left else left
    clauses = [name for name in said.clauses if name != clause and name not in SAYS[said.label]]
    clauses += [clause] if keeps else []
    if SAYS[label][0] not in clauses:
        clauses.append(SAYS[label][0])
    return Said(label, tuple(clauses))


def reviewed(votes: Votes) -> Review:
    """The review of these votes, as `distill review` makes it."""
    table = votes_frame(
        Vote(row, judge, judge, "labeled", label=said.label, clauses=list(said.clauses))
        for row, by_judge in votes.items()
        for judge, said in by_judge.items()
    )
    pairs = pl.read_parquet(QUICKSTART / "pairs.parquet")
    rows = pairs.select("row_id", "query", "title", group="query_id", gold="label").filter(
        pl.col("row_id").is_in(list(votes))
    )
    return review(table, rows, task=TASK, config=EvalConfig(bootstrap=100))


def written(found: dict[str, tuple[list[tuple[str, ...]], list[Plant]]], count: int) -> str:
    """The results as Markdown."""
    parts = [
        "# Planted clauses",
        f"Written by `benchmarks/planted_clauses.py` on {date.today()}. **Truth source: the plant itself; judges are "
        "simulated** on top of the recorded answers of two prompts of one model (see the script for what is assumed). "
        f"{count} plants a strength; Wilson's interval at 95%.",
    ]
    lines: list[list[object]] = []
    for base, (natural, every) in found.items():
        for strength in STRENGTHS:
            own = [plant for plant in every if plant.strength == strength]
            first = sum(plant.rank == 1 for plant in own)
            three = sum(plant.rank is not None and plant.rank <= 3 for plant in own)
            outranked = sum(plant.outranked for plant in own)
            missed = sum(plant.rank is None for plant in own)
            anyway = sum(plant.clause in natural[0] for plant in own) if natural else 0
            lines.append([base, strength, rate(first, len(own)), anyway, rate(three, len(own)), outranked, missed])
    columns = ["base", "p", "named first", "of those, first without a plant too", "within the first three"]
    columns += ["outranked by real ambiguity", "not named"]
    parts.append(markdown_table(columns, lines))
    causes = ", ".join(" against ".join(names) for names in found["as recorded"][0])
    parts.append(f"Causes of the recorded votes without any plant, first to last: {causes}.")
    parts.append(FOUND)
    for base, (_, every) in found.items():
        parts += [f"## By clause: {base}", markdown_table(["clause", "rows", *map(str, STRENGTHS)], by_clause(every))]
    parts.append("Place of the planted clause among what the review says to settle, a number a plant; – where absent.")
    return "\n\n".join(parts) + "\n"


def by_clause(every: list[Plant]) -> list[list[object]]:
    """A line a clause: its rows, and its places by strength."""
    lines: list[list[object]] = []
    for clause in READINGS:
        own = [plant for plant in every if plant.clause == clause]
        if own:
            places = [", ".join(str(x.rank or "–") for x in own if x.strength == strength) for strength in STRENGTHS]
            lines.append([clause, own[0].touched, *places])
    return lines


def rate(hits: int, total: int) -> str:
    """``18 of 20 (90%; 70% to 97%)``."""
    low, high = wilson(hits, total, level=0.95)
    return f"{hits} of {total} ({hits / total:.0%}; {low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
