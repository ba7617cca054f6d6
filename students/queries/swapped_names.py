"""Further training rows for spans: queries whose names were exchanged for others of the same type.

What stands around a brand and where it stands is learned from far fewer queries than there are brands. A query whose
brand is replaced by another keeps its label, and the brand list, of which queries show a few names only, is seen in
queries (mention replacement: Dai & Adel 2020, https://aclanthology.org/2020.coling-main.343).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from distill.labeling.task import Task
from distill.students.queries.asked_task import head_kind, part_name
from distill.students.queries.part_targets import ANSWERS
from distill.students.queries.synthetic_rows import SYNTHETIC

_SURE = 0.5
"""Support that a span of a training row needs to be exchanged, or to give its name to others."""
_LONGEST_NAME = 4
"""Words of a name of the list; longer ones are companies, which nobody types."""


def with_names(table: pl.DataFrame, copies: float, *, task: Task, seed: int) -> pl.DataFrame:
    """Adds copies of the rows that have spans, with every span's text exchanged; only the spans of those are known.

    Names come from the other rows and, of brands, from the task's list, each as likely as any other. They are written
    in lower case where the query is. A row and its copies pull together as hard as the row did, so that how many
    queries have a brand is learned as it is: with copies of full weight a student marks brands where there are none.

    Args:
        table: Training rows, see :func:`distill.students.queries.part_targets.part_targets`.
        copies: How many of each row; 0.5 makes one of every second row.
        task: With a part that is spans; without one nothing is added.
        seed: Of the names drawn.
    """
    for place, single in enumerate(task.singles):
        if head_kind(single) == "spans" and copies > 0:
            table = _with_names(table, copies, task=task, place=place, seed=seed)
    return table


def _with_names(table: pl.DataFrame, copies: float, *, task: Task, place: int, seed: int) -> pl.DataFrame:
    single = task.singles[place]
    own = part_name(single)
    texts = table[task.source].fill_null("").to_list()
    known = [json.loads(answers).get(own, ()) for answers in table[ANSWERS]]
    pool = _names(texts, known, single)
    made: list[dict[str, Any]] = []
    pulls = table["target"].to_list()
    for number, (text, spans) in enumerate(zip(texts, known, strict=True)):
        generator = random.Random(f"{seed} {own} {text}")
        count = math.floor(copies + generator.random()) if _exchangeable(spans) else 0
        pulls[number][place] /= 1 + count
        for copy in range(count):
            written, answer = _exchanged(text, spans, pool, generator)
            pull = [pulls[number][place] if at == place else 0.0 for at in range(len(pulls[number]))]
            said = json.dumps({own: answer}, ensure_ascii=False)
            made.append({"number": number, "copy": copy, task.source: written, ANSWERS: said, "target": pull})
    if not made:
        return table
    changed = pl.DataFrame(made, schema_overrides={"target": pl.List(pl.Float64)})
    rows = table[changed["number"].to_list()].with_columns(
        *changed.select(task.source, ANSWERS, "target"),
        row_id=pl.col("row_id") + f"~{own}" + changed["copy"].cast(pl.String),
        source=pl.lit(SYNTHETIC),
    )
    return pl.concat([table.with_columns(target=pl.Series(pulls, dtype=pl.List(pl.Float64))), rows])


def _names(texts: Sequence[str], known: Sequence[Sequence[Any]], single: Task) -> Mapping[int, Sequence[str]]:
    """Names by the place of their type, each once."""
    found: dict[int, dict[str, str]] = {place: {} for place in range(len(single.types))}
    if single.brands is not None:
        listed = (name for entry, aliases in single.brands.entries for name in (entry, *aliases))
        found[0] |= {name.casefold(): name for name in listed if len(name.split()) <= _LONGEST_NAME}
    for text, spans in zip(texts, known, strict=True):
        for start, end, type_, support in spans:
            if support > _SURE:
                found[type_].setdefault(text[start:end].casefold(), text[start:end])
    return {place: list(names.values()) for place, names in found.items()}


def _exchangeable(spans: Sequence[Any]) -> bool:
    """Whether a row has spans, all of which are likelier than not."""
    return bool(spans) and all(support > _SURE for _, _, _, support in spans)


def _exchanged(
    text: str, spans: Sequence[Any], pool: Mapping[int, Sequence[str]], generator: random.Random
) -> tuple[str, list[list[Any]]]:
    """A text with other names, and where they stand."""
    written, at = "", 0
    found: list[list[Any]] = []
    for start, end, type_, support in sorted(spans):
        name = generator.choice(pool[type_])
        name = name.casefold() if text == text.casefold() else name
        written += text[at:start]
        found.append([len(written), len(written) + len(name), type_, support])
        written += name
        at = end
    return written + text[at:], found
