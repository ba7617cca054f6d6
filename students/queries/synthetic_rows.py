"""Further training rows that nobody labeled: misspelled queries, made from those that are taken to be right."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import polars as pl

from distill.labeling.answers.locating import plain_text
from distill.labeling.queries.synthetic_typos import synthetic_typos
from distill.labeling.task import Task
from distill.students.queries.asked_task import head_kind, part_name
from distill.students.queries.config import SyntheticSection
from distill.students.queries.letters import changes
from distill.students.queries.part_targets import ANSWERS

SYNTHETIC = "synthetic"
"""Source of such rows."""
_RIGHT = 0.5


def with_typos(table: pl.DataFrame, config: SyntheticSection, *, task: Task, seed: int) -> pl.DataFrame:
    """Adds misspelled copies of the rows whose query is taken to be right; only the spelling of those is known.

    Brands that a row is known to have are not touched, nor are numbers; a query with nothing else gives no row.

    Args:
        table: Training rows, see :func:`distill.students.queries.part_targets.part_targets`.
        config: How many copies.
        task: With a part that is spelling; without one nothing is added.
        seed: Of the slips.
    """
    names = [part_name(single) for single in task.singles]
    spelled = next((part_name(single) for single in task.singles if head_kind(single) == "edits"), None)
    if spelled is None or (config.typos == 0 and not config.alone):
        return table
    brands: dict[str, list[tuple[int, int]]] = {}
    right = []
    spans = [part_name(single) for single in task.singles if head_kind(single) == "spans"]
    for text, answers in table.select(pl.col(task.source).fill_null(""), ANSWERS).iter_rows():
        known = json.loads(answers)
        kept = sum(share for corrected, share in known.get(spelled, ()) if not changes(text, corrected))
        right.append(kept > _RIGHT and bool(text.strip()))
        brands[text] = [(start, end) for name in spans for start, end, *_ in known.get(name, ())]
    clean = table.filter(pl.Series(right, dtype=pl.Boolean))
    parts = [_without_corrections(table, right, part=names.index(spelled)) if config.alone else table]
    pulls = [1.0 if name == spelled else 0.0 for name in names]
    for copy in range(math.ceil(config.typos)):
        share = min(1.0, config.typos - copy)
        made = synthetic_typos(
            clean[task.source].to_list(), find_brands=lambda text: brands.get(text, ()), share=share, seed=seed + copy
        )
        answers = [json.dumps({spelled: [[plain_text(text), 1.0]]}, ensure_ascii=False) for text in made["correction"]]
        typed = clean.with_columns(
            made["query"].alias(task.source),
            pl.Series(ANSWERS, answers, dtype=pl.String),
            pl.Series("target", [pulls] * len(clean), dtype=pl.List(pl.Float64)),
            row_id=pl.col("row_id") + f"~typo{copy}",
            source=pl.lit(SYNTHETIC),
        )
        parts.append(typed.filter(made["changed"]))
    return pl.concat(parts)


def _without_corrections(table: pl.DataFrame, right: Sequence[bool], *, part: int) -> pl.DataFrame:
    """Rows without what teachers corrected: other parts of such a row are learned all the same."""
    lines = table["target"].to_list()
    pulls = [
        [0.0 if place == part and not kept else pull for place, pull in enumerate(line)]
        for line, kept in zip(lines, right, strict=True)
    ]
    table = table.with_columns(target=pl.Series(pulls, dtype=pl.List(pl.Float64)))
    return table.filter(pl.col("target").list.sum() > 0)
