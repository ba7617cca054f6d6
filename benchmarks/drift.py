"""How often a comparison of two sets of rows raises a false alarm, what it sees, and what it says of quality.

    DISTILL_DATA=… python benchmarks/drift.py measure --out runs/benchmark/drift.jsonl
    python benchmarks/drift.py table --out runs/benchmark/drift.jsonl

Everything is on CrowdFlower's search results (query and title), cut into two halves by query:

* **False alarms**: random halves, of which nothing is planted. With queries exchanged, and with rows exchanged as if
  they were independent, on the same halves. And made-up weeks of one shop's traffic, in which most queries come again.
* **Power**: in a share of the current half's queries something is planted: a brand that nobody had put into the titles,
  or two letters of the query's longest word swapped.
* **Other shops**: a half against the titles of ESCI and of Home Depot.
* **Quality**: a DCN learns exact or not on a third of the queries. On the rest, its expected change of quality beside
  the true one by people's labels: random halves, halves by the length of the query, and the other shops.

``measure`` goes on where it was stopped; ``table`` writes ``results/drift.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import distill
from distill.eval.drift.comparison import StudentSets, compare_rows
from distill.eval.drift.config import DriftConfig
from distill.eval.drift.facts import DriftReport
from distill.eval.intervals import wilson
from distill.labeling.task import Task

_RESULTS = Path(__file__).parent / "results" / "drift.md"
_TASK = Task(labels=("exact", "other"), inputs=("query", "title"), positive="exact")
_CONFIG = DriftConfig(resamples=199)
_HALVES, _NAIVE, _WEEKS, _POWER, _SHOPS = 100, 10, 40, 8, 5
_PLANTED = (0.1, 0.2, 0.4)
_OTHER_QUERIES = 130
_KINDS = ["halves", "weeks", "power", "shop", "quality"]
Rows = pl.DataFrame


def main() -> None:
    """Measures, or writes the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/drift.jsonl"))
    arguments = parser.parse_args()
    if arguments.action == "table":
        _RESULTS.write_text(_table(_read(arguments.out)), encoding="utf-8")
        print(_RESULTS.read_text(encoding="utf-8"))
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["kind"], line["case"], line["seed"]) for line in _read(arguments.out)}
    for kind, case, seed, work in _jobs():
        if (kind, case, seed) in done:
            continue
        began = time.perf_counter()
        # All of a job at once: what is cut off half-way is done again.
        for line in list(work()):
            line = {"kind": kind, "case": case, "seed": seed, "seconds": time.perf_counter() - began, **line}
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _jobs() -> Iterator[tuple[str, str, int, Callable[[], Iterator[dict[str, Any]]]]]:
    """Cases in turns, so that what is stopped early has some of each."""
    rows = crowdflower()
    alone = rows.with_columns(group=pl.col("row_id"))
    for case, other in (("ESCI", esci()), ("Home Depot", home_depot())):
        for seed in range(_SHOPS):
            yield "shop", case, seed, partial(_other_shop, seed, rows, other)
    yield "quality", "", 0, partial(_quality, rows)
    for seed in range(_HALVES):
        yield "halves", "queries exchanged", seed, partial(_said, seed, rows)
        if seed < _NAIVE:
            yield "halves", "rows exchanged", seed, partial(_naive, seed, rows, alone)
        for sizes in ((800, 800), (1600, 400)) if seed < _WEEKS else ():
            yield "weeks", f"{sizes[0]:,} and {sizes[1]:,} rows", seed, partial(_weeks, seed, sizes)
        for name, plant in (("new brand", new_brand), ("misspelt query", misspelt)) if seed < _POWER else ():
            for share in _PLANTED:
                yield (
                    "power",
                    f"{name} in {100 * share:g}% of queries",
                    seed,
                    partial(_planted, seed, rows, plant, share),
                )


def crowdflower() -> Rows:
    """Query, title, and whether people call it exact (their median grade is 4)."""
    found = _data("crowdflower").with_columns(gold=_exact(pl.col("median_relevance") == 4))
    return _plain(found.rename({"product_title": "title"}), "c")


def esci() -> Rows:
    """The same of ESCI: exact is E."""
    return _plain(_data("esci_us").with_columns(gold=_exact(pl.col("esci_label") == "E")), "e")


def home_depot() -> Rows:
    """The same of Home Depot: exact is a mean grade of 3."""
    found = _data("home_depot").with_columns(gold=_exact(pl.col("relevance") >= 2.99))
    return _plain(found.rename({"product_title": "title", "search_term": "query"}), "h")


def halves(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Two random halves of the queries."""
    return cut(rows, rows["query"].unique().sort().to_list(), seed)


def cut(rows: Rows, queries: list[str], seed: int) -> tuple[Rows, Rows]:
    """The rows of these queries in two random halves by query."""
    order = np.random.default_rng(seed).permutation(len(queries))
    first = [queries[k] for k in order[: len(order) // 2]]
    own = rows.filter(pl.col("query").is_in(queries))
    chosen = pl.col("query").is_in(first)
    return own.filter(chosen), own.filter(~chosen)


def some(rows: Rows, seed: int) -> Rows:
    """As many queries of another shop as half of CrowdFlower has."""
    queries = rows["query"].unique().sort()
    return rows.filter(pl.col("query").is_in(queries.sample(min(_OTHER_QUERIES, len(queries)), seed=seed).implode()))


def weeks(seed: int, sizes: tuple[int, int]) -> tuple[Rows, Rows]:
    """Two weeks of one made-up shop: 400 queries, Zipf; each has a brand that nine of ten of its listings are of."""
    shop = np.random.default_rng(0)
    words = [f"w{k}" for k in range(400)]
    queries = [" ".join(shop.choice(words, 3)) for _ in range(400)]
    brand = shop.integers(8, size=400)
    popular = 1 / np.arange(1, 401)
    found = []
    for week, size in enumerate(sizes):
        random = np.random.default_rng([seed, week])
        lines = []
        for number, query in enumerate(random.choice(400, size, p=popular / popular.sum())):
            own = brand[query] if random.random() < 0.9 else random.integers(8)
            title = f"{queries[query]} brand{own} {' '.join(random.choice(words, 4))}"
            lines.append((f"{week}-{number}", str(query), queries[query], title))
        found.append(pl.DataFrame(lines, schema=["row_id", "group", "query", "title"], orient="row"))
    return found[0], found[1]


def new_brand(rows: Rows, share: float, seed: int) -> Rows:
    """A share of the queries sells a brand that nobody had."""
    return rows.with_columns(
        title=pl.when(_drawn(rows, share, seed)).then(pl.format("Novatek {}", "title")).otherwise("title")
    )


def misspelt(rows: Rows, share: float, seed: int) -> Rows:
    """In a share of the queries the second and third letter of the longest word are swapped."""

    def swapped(query: str) -> str:
        longest = max(query.split() or [""], key=len)
        odd = longest[:1] + longest[2:3] + longest[1:2] + longest[3:]
        return query.replace(longest, odd, 1) if len(longest) > 3 else query

    changed = rows["query"].map_elements(swapped, return_dtype=pl.String)
    return rows.with_columns(query=pl.when(_drawn(rows, share, seed)).then(changed).otherwise("query"))


def _drawn(rows: Rows, share: float, seed: int) -> pl.Series:
    queries = rows["group"].unique().sort()
    chosen = queries.sample(max(1, round(share * len(queries))), seed=seed + 1)
    return rows["group"].is_in(chosen.implode())


def _said(seed: int, rows: Rows) -> Iterator[dict[str, Any]]:
    yield _facts(_compared(*halves(rows, seed), seed))


def _naive(seed: int, rows: Rows, alone: Rows) -> Iterator[dict[str, Any]]:
    """The same halves, each row a group of its own."""
    mine = pl.col("row_id").is_in(halves(rows, seed)[0]["row_id"].implode())
    yield _facts(_compared(alone.filter(mine), alone.filter(~mine), seed))


def _weeks(seed: int, sizes: tuple[int, int]) -> Iterator[dict[str, Any]]:
    yield _facts(_compared(*weeks(seed, sizes), seed))


def _planted(
    seed: int, rows: Rows, plant: Callable[[Rows, float, int], Rows], share: float
) -> Iterator[dict[str, Any]]:
    before, now = halves(rows, seed)
    yield _facts(_compared(before, plant(now, share, seed), seed))


def _other_shop(seed: int, rows: Rows, other: Rows) -> Iterator[dict[str, Any]]:
    yield _facts(_compared(halves(rows, seed)[0], some(other, seed), seed))


def _compared(reference: Rows, current: Rows, seed: int) -> DriftReport:
    return compare_rows(reference, current, task=_TASK, config=_CONFIG, seed=seed)


def _facts(report: DriftReport) -> dict[str, Any]:
    moved = [f"{one.column}: {one.measure}" for one in report.comparisons if one.verdict == "moved"]
    raw = [f"{one.column}: {one.measure}" for one in report.comparisons if one.p_value <= report.alpha]
    auc = report.whole.auc.value if report.whole else None
    return {"verdict": report.verdict, "moved": moved, "below_alpha": raw, "auc": auc}


def _quality(rows: Rows) -> Iterator[dict[str, Any]]:
    """Expected and true change of a student's accuracy over shifts of several kinds."""
    queries = rows["query"].unique().sort().to_list()
    order = np.random.default_rng(7).permutation(len(queries))
    learned = [queries[k] for k in order[: len(order) // 3]]
    checked = [queries[k] for k in order[len(order) // 3 : len(order) // 2]]
    rest = rows.filter(~pl.col("query").is_in(learned + checked))
    with tempfile.TemporaryDirectory() as scratch:
        is_checked = pl.col("query").is_in(checked)
        training = rows.filter(pl.col("query").is_in(learned) | is_checked).with_columns(
            split=pl.when(is_checked).then(pl.lit("audit")).otherwise(pl.lit("train")), weight=pl.lit(1.0)
        )
        config = {"type": "dcn", "train_on": "human", "threads": 1, "epochs": 6}
        student = distill.train(training, config, task=_TASK, out=Path(scratch) / "dcn")
        left = rest["query"].unique().sort().to_list()
        by_length = sorted(left, key=lambda query: (len(query), query))
        first, second = cut(rest, left, 7)
        short, long = (rest.filter(pl.col("query").is_in(part)) for part in _two(by_length))
        shifts = {
            "random halves": (first, second),
            "short queries, then long": (short, long),
            "long queries, then short": (long, short),
            "to ESCI": (rest, some(esci(), 0)),
            "to Home Depot": (rest, some(home_depot(), 0)),
        }
        for name, (before, now) in shifts.items():
            sets = StudentSets("dcn", student.predict(before), student.predict(now))
            report = compare_rows(before, now, task=_TASK, predictions=sets, config=_CONFIG, seed=7)
            assert report.quality is not None
            yield {**_facts(report), "shift": name, "quality": report.quality.model_dump(mode="json")}


def _two(names: list[str]) -> tuple[list[str], list[str]]:
    return names[: len(names) // 2], names[len(names) // 2 :]


def _data(name: str) -> Rows:
    return pl.read_parquet(Path(os.environ["DISTILL_DATA"]) / f"{name}.parquet")


def _exact(is_exact: pl.Expr) -> pl.Expr:
    return pl.when(is_exact).then(pl.lit("exact")).otherwise(pl.lit("other"))


def _plain(rows: Rows, shop: str) -> Rows:
    return rows.select(
        row_id=pl.format("{}{}", pl.lit(shop), pl.int_range(pl.len())),
        group=pl.col("query").str.to_lowercase(),
        query="query",
        title=pl.col("title").fill_null(""),
        gold="gold",
    )


def _table(lines: list[dict[str, Any]]) -> str:
    parts = [
        "# Drift between two sets of rows: false alarms, power, quality",
        f"CrowdFlower, query and title, cut by query; at a level of {_CONFIG.alpha:g} for all comparisons together, "
        f"{_CONFIG.resamples} exchanges of groups. An alarm is a part that is called moved. Intervals of shares: "
        "Wilson, 95%.",
        "| rows | case | runs | alarms | whole rows below the level, unadjusted | median AUC |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n"
        + "\n".join(_line(kind, case, own) for (kind, case), own in _by_case(lines).items() if kind != "quality"),
    ]
    told = [line for line in lines if line["kind"] == "quality"]
    if told:
        head = (
            "| from, to | rows | AUC | expected then | expected now | expected change | true change "
            "| gap on the reference | reweighted gold | true now | effective rows | verdict on quality |\n|"
            + " --- |"
            * 12
        )
        parts += [
            "A DCN that learned exact or not on a third of the queries, calibrated on a sixth; people's labels are the "
            "truth. Expected is its own confidence (CBPE); intervals over queries.",
            head + "\n" + "\n".join(_quality_line(line) for line in told),
        ]
    made = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "polars", "scikit-learn"))
    seconds = np.median([line["seconds"] for line in lines if line["kind"] in ("halves", "power")])
    parts.append(
        f"Made {date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, {made}; a comparison of "
        f"5,661 rows took {seconds:.1f} s (median, on a shared machine)."
    )
    return "\n\n".join(parts) + "\n"


def _by_case(lines: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda one: _KINDS.index(one["kind"])):
        found.setdefault((line["kind"], line["case"]), []).append(line)
    return found


def _line(kind: str, case: str, own: list[dict[str, Any]]) -> str:
    words = {
        "halves": "random halves, nothing planted",
        "weeks": "two weeks of one shop, nothing planted",
        "power": "random halves, planted",
        "shop": "a half against another shop",
    }
    alarms = sum(line["verdict"] == "moved" for line in own)
    whole = sum("whole row: whole row" in line["below_alpha"] for line in own)
    auc = np.median([line["auc"] for line in own])
    return (
        f"| {words[kind]} | {case} | {len(own)} | {_share(alarms, len(own))} | {_share(whole, len(own))} | {auc:.3f} |"
    )


def _share(count: int, of: int) -> str:
    low, high = wilson(count, of, level=0.95)
    return f"{100 * count / of:.0f}% ({100 * low:.0f} to {100 * high:.0f})"


def _quality_line(line: dict[str, Any]) -> str:
    found = line["quality"]
    then, now = found["measured_reference"]["value"], found["measured_current"]["value"]
    quality = "moved" if "confidence: expected right" in line["moved"] else "steady"
    cells = [
        line["shift"],
        f"{found['expected_reference']['rows']:,}, {found['expected_current']['rows']:,}",
        f"{line['auc']:.3f}",
        *(_ends(found[name]) for name in ("expected_reference", "expected_current")),
        _ends(found["difference"], signed=True),
        f"{100 * (now - then):+.1f}",
        _ends(found["gap"], signed=True),
        _ends(found["reweighted"]) if found["reweighted"] else "not said",
        _ends(found["measured_current"]),
        f"{found['effective_rows']:.0f}" if found["effective_rows"] else "–",
        quality,
    ]
    return "| " + " | ".join(cells) + " |"


def _ends(found: dict[str, Any], *, signed: bool = False) -> str:
    mark = "+" if signed else ""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:{mark}.1f} ({low:{mark}.1f} to {high:{mark}.1f})"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main()
