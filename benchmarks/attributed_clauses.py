"""How often clauses attributed from a judge's words are those that it cites: `python benchmarks/attributed_clauses.py`.

The quickstart's ``careful`` gives a reason and cites clauses. Its citations are taken away, read off the reasons again
by ``distill.eval.guideline.attributed_clauses``, and compared with what it cited: **the truth source is the teacher
itself**, who may well have applied a clause without citing it. The threshold is chosen on every other query and
measured on the rest. Written to ``benchmarks/results/attributed_clauses.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from distill.eval.guideline.attributed_clauses import LIKENESS, MOST_CLAUSES, attribution_quality, clauses_alike
from distill.eval.intervals import Resamples, ratio_estimates
from distill.eval.page import markdown_table
from distill.eval.wording import share
from distill.labeling.guideline import Guideline

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
TRIED = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3)


def main() -> None:
    """Attributes, compares, and writes the table."""
    guideline = Guideline.load(QUICKSTART / "guideline.md")
    lines = (QUICKSTART / "careful.jsonl").read_text(encoding="utf-8").splitlines()
    recorded = {one["row_id"]: json.loads(one["reply"]) for one in map(json.loads, lines)}
    group = dict(pl.read_parquet(QUICKSTART / "pairs.parquet").select("row_id", "query_id").iter_rows())
    place = {name: k for k, name in enumerate(sorted(set(group.values())))}
    cited = {row: answer["clauses"] for row, answer in recorded.items()}
    halves = [[row for row in recorded if place[group[row]] % 2 == half] for half in (0, 1)]
    table: list[list[object]] = []
    for least in TRIED:
        found = clauses_alike([answer["trace"] for answer in recorded.values()], guideline.clauses, least=least)
        by_row = dict(zip(recorded, found, strict=True))
        line: list[object] = [least]
        for half in halves:
            rows, guessed, right, real = attribution_quality({r: by_row[r] for r in half}, {r: cited[r] for r in half})
            line += [f"{rows / len(half):.1%}", f"{right / max(1, guessed):.1%}", f"{right / real:.1%}"]
        table.append(line)
        if least == LIKENESS:
            chosen = {row: by_row[row] for row in halves[1]}
    half = [f"{what}, {which}" for which in ("chosen on", "measured on") for what in ("rows", "cited too", "of cited")]
    guesses = [(group[row], name, name in cited[row]) for row, names in chosen.items() for name in names]
    right = np.array([[hit] for *_, hit in guesses], float)
    resamples = Resamples.of(np.array([query for query, *_ in guesses]), count=2000, seed=0)
    found_right = ratio_estimates(right, np.ones_like(right), resamples, level=0.95)[0]
    often = Counter(name for row in halves[1] for name in cited[row]).most_common(1)[0]
    parts = [
        "# Clauses attributed from reasons",
        f"Written by `benchmarks/attributed_clauses.py` on {date.today()}. Truth source: the teacher's own citations "
        f"({len(recorded):,} rows of the quickstart's `careful`). At the threshold in use, {LIKENESS}, and at "
        f"most {MOST_CLAUSES} clauses a reason, {share(found_right)} of the attributed clauses are among those cited, "
        f"on the half of the queries that had no say in the threshold. Naming {often[0]} every time would be right for "
        f"{often[1] / len(halves[1]):.1%} of rows, and would say nothing.",
        markdown_table(["least cosine", *half], table),
        "“rows”: share that gets a clause at all; “cited too”: of those attributed, the ones that the teacher cites; "
        "“of cited”: of what it cites, the share that is attributed.",
        "## By clause, at the threshold in use, measured on",
        markdown_table(
            ["clause", "attributed", "of those cited", "cited in all"],
            [
                [
                    clause.id,
                    sum(name == clause.id for _, name, _ in guesses),
                    sum(name == clause.id and hit for _, name, hit in guesses),
                    sum(clause.id in cited[row] for row in halves[1]),
                ]
                for clause in guideline.clauses
            ],
        ),
    ]
    path = ROOT / "benchmarks" / "results" / "attributed_clauses.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
