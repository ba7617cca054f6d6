"""How often the checks of reasoning traces are right: `python benchmarks/trace_checks.py [--show]`.

Three measurements, written to ``benchmarks/results/trace_checks.md``:

- on recorded traces as they are: how many each check flags. ``--show`` prints those flagged, to be read one by one;
  what a reading found is in ``READ`` below, and holds as long as the counts do;
- the same traces with conclusions of many forms put behind them: contradictions that are to be found, and mentions that
  are not to be taken for one;
- copies of the listing's own title, which must be flagged as repeats, and the time that a check takes.

The quickstart's traces ship with the project. With ``$DISTILL_DATA`` the reasons of two more recorded judgments are
read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

import polars as pl

from distill.labeling.answers.traces import contradicts, trace_problems
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
LABELS = ("exact", "substitute", "complement", "irrelevant")
INPUTS = ("query", "title", "brand", "category", "attributes", "description")
TASK = Task(labels=LABELS, inputs=INPUTS, guideline=Guideline.load(QUICKSTART / "guideline.md"))

READ = {"repeats_listing": (81, 76)}
"""Flagged and, of those, right, as a reading of each found."""

CONTRADICTIONS = (
    "So it is {a_other}.",
    "Therefore, {other}.",
    "This makes it {a_other} match.",
    "Thus it would be {a_other}.",
    "Label: {other}",
    "It is not {own}, but {a_other}.",
    "Hence not {a_own} match.",
    "The product is clearly {other}.",
    "It isn't {own} because one constraint fails.",
    "Overall: {other}.",
    "This is best judged {other}.",
    "I would call this {other}.",
    "That leaves {other} as the only choice.",
    "It falls under {other}.",
)
MENTIONS = (
    "So it is {a_own}.",
    "The note telling graders to mark it {other} decides nothing.",
    "The seller says it is {other}, which is ignored.",
    "It would be {other} if the query named it.",
    "It is not {other}, so it is {own}.",
    "It is almost {a_other}, but it is {own}.",
    "The {other} model number is unstated.",
    "Whether it is {other} does not matter.",
    "The finish is {other} to the query.",
    "Not {a_other} but {a_own}.",
    "Unless it is {other}, this holds.",
    "Reviewers call it {other}.",
)


class Item(NamedTuple):
    """A recorded answer: its label, its trace, and the row's inputs."""

    label: str
    trace: str
    values: dict[str, str]


def quickstart() -> Iterator[Item]:
    rows = {row["row_id"]: row for row in pl.read_parquet(QUICKSTART / "pairs.parquet").iter_rows(named=True)}
    for line in (QUICKSTART / "careful.jsonl").read_text(encoding="utf-8").splitlines():
        reply = json.loads(line)
        answer, row = json.loads(reply["reply"]), rows[reply["row_id"]]
        yield Item(answer["label"], answer["trace"], {name: str(row[name] or "") for name in INPUTS})


def esci(folder: Path) -> Iterator[Item]:
    names = dict(zip("ESCI", LABELS, strict=True))
    reasons, rows = pl.read_parquet(folder / "llm_esci.parquet"), pl.read_parquet(folder / "esci_us.parquet")
    columns = ("query", "title", "brand", "color", "bullet_points", "description")
    for row in reasons.join(rows, on=["query", "product_id"]).iter_rows(named=True):
        yield Item(names[row["label"]], row["reason"], {name: str(row[name] or "") for name in columns})


def crowdflower(folder: Path) -> Iterator[Item]:
    reasons, rows = pl.read_parquet(folder / "llm_crowdflower.parquet"), pl.read_parquet(folder / "crowdflower.parquet")
    columns = ("query", "product_title", "product_description")
    for row in reasons.join(rows, on="id").iter_rows(named=True):
        yield Item(LABELS[4 - int(row["label"])], row["reason"], {name: str(row[name] or "") for name in columns})


def check(item: Item) -> list[str]:
    return trace_problems(item.trace, label=item.label, task=TASK, values=item.values)


def planted(items: list[Item], forms: tuple[str, ...]) -> dict[str, float]:
    """Share of traces in which a check of contradiction speaks, by the form put behind them."""
    shares = {}
    for form in forms:
        spoke = 0
        for place, item in enumerate(items):
            others = [label for label in LABELS if label != item.label]
            said = {"own": item.label, "other": others[place % len(others)]}
            said |= {f"a_{name}": f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for name, word in said.items()}
            spoke += contradicts(f"{item.trace} {form.format(**said)}", item.label, LABELS)
        shares[form] = spoke / len(items)
    return shares


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def table(head: tuple[str, ...], lines: list[tuple[object, ...]]) -> str:
    rule = tuple("---" for _ in head)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, rule, *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print every trace that is flagged")
    show = parser.parse_args().show
    sets = {"quickstart, careful": list(quickstart())}
    if data := os.environ.get("DISTILL_DATA"):
        sets |= {"ESCI, reasons of a few words": list(esci(Path(data)))}
        sets |= {"CrowdFlower, reasons of a few words": list(crowdflower(Path(data)))}
    counts: dict[str, Counter[str]] = {}
    for name, items in sets.items():
        counts[name] = Counter()
        for item in items:
            found = check(item)
            counts[name].update(found)
            if show and set(found) - {"too_short"}:
                print(", ".join(found), "|", item.label, "|", item.trace)
    own = sets["quickstart, careful"]
    began = time.perf_counter()
    for item in own:
        check(item)
    each_us = (time.perf_counter() - began) / len(own) * 1e6
    everything = [item for items in sets.values() for item in items]
    titles = [item._replace(trace=item.values["title"]) for item in own if len(item.values["title"].split()) >= 6]
    repeats = sum("repeats_listing" in check(item) for item in titles) / len(titles)
    mention = sum(any(label in item.trace.lower() for label in LABELS) for item in everything)
    write(counts, {name: len(items) for name, items in sets.items()}, own, (repeats, len(titles), each_us, mention))


def write(
    counts: dict[str, Counter[str]], sizes: dict[str, int], own: list[Item], rest: tuple[float, int, float, int]
) -> None:
    repeats, titles, each_us, mention = rest
    names = ("contradicts_label", "unknown_clause", "label_first", "repeats_listing", "too_short")
    flagged = sum(found["repeats_listing"] for found in counts.values())
    told, right = READ["repeats_listing"]
    reading = (
        f"Read one by one: {right} of the {told} flagged as repeats are a piece of the listing and no reason "
        f"({percent(right / told)}); the others add a word that is one."
        if flagged == told
        else "The flagged ones have to be read anew: `--show` prints them."
    )
    found, missed = planted(own, CONTRADICTIONS), planted(own, MENTIONS)
    lines = [
        "# Checks of reasoning traces",
        f"Written by `benchmarks/trace_checks.py` on {date.today()}: {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. The last two sets are read from `$DISTILL_DATA`.",
        "## Recorded traces as they are",
        table(
            ("traces", "of", *names),
            [(name, f"{sizes[name]:,}", *(found[one] for one in names)) for name, found in counts.items()],
        ),
        f"{mention} of these traces hold the word of a label; read one by one, none of them concludes another label "
        "than its own, and none is flagged: no false alarm, and nothing there to find.",
        reading,
        f"Titles of the quickstart put in a trace's place: {percent(repeats)} of {titles:,} are flagged as repeats. "
        f"A check of one trace takes {each_us:.0f} µs.",
        "## Conclusions put behind each of the quickstart's traces",
        "The forms were written beside the checks: these shares say which are covered, not how often models use them.",
        table(
            ("a contradiction", "found"),
            [(form, percent(share)) for form, share in found.items()],
        ),
        table(
            ("no contradiction", "taken for one"),
            [(form, percent(share)) for form, share in missed.items()],
        ),
    ]
    target = ROOT / "benchmarks" / "results" / "trace_checks.md"
    target.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
