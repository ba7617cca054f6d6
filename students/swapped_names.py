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
from distill.students.asked_task import head_kind, part_name
from distill.students.part_targets import ANSWERS
from distill.students.synthetic_rows import SYNTHETIC

_SURE = 0.5
"""Support that a span of a training row needs to be exchanged, or to give its name to others."""
_LONGEST_NAME = 4
"""Words of a name of the list; longer ones are companies, which nobody types."""


def with_names(table: pl.DataFrame, copies: float, *, task: Task, seed: int) -> pl.DataFrame:
    """Adds copies of the rows that have spans, with every span's text exchanged; only the spans of those are known.

    Names come from the other rows and, of brands, from the task's list, each as likely as any other. They are written
    in lower case where the query is.

    Args:
        table: Training rows, see :func:`distill.students.part_targets.part_targets`.
        copies: How many of each row; 0.5 makes one of every second row.
        task: With a part that is spans; without one nothing is added.
        seed: Of the names drawn.
    """
    singles = [single for single in task.singles if head_kind(single) == "spans"]
    names = [part_name(single) for single in task.singles]
    parts = [table]
    for single in singles:
        own = part_name(single)
        known = [json.loads(answers).get(own, ()) for answers in table[ANSWERS]]
        texts = table[task.source].fill_null("").to_list()
        pool = _names(texts, known, single)
        pulls = [1.0 if name == own else 0.0 for name in names]
        for copy in range(math.ceil(copies)):
            share = min(1.0, copies - copy)
            made = [
                _exchanged(text, spans, pool, random.Random(f"{seed} {copy} {text}"), share)
                for text, spans in zip(texts, known, strict=True)
            ]
            kept = pl.Series([one is not None for one in made], dtype=pl.Boolean)
            found = [one for one in made if one is not None]
            answers = [json.dumps({own: spans}, ensure_ascii=False) for _, spans in found]
            rows = table.filter(kept).with_columns(
                pl.Series(task.source, [text for text, _ in found], dtype=pl.String),
                pl.Series(ANSWERS, answers, dtype=pl.String),
                pl.Series("target", [pulls] * len(found), dtype=pl.List(pl.Float64)),
                row_id=pl.col("row_id") + f"~{own}{copy}",
                source=pl.lit(SYNTHETIC),
            )
            parts.append(rows)
    return pl.concat(parts)


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


def _exchanged(
    text: str, spans: Sequence[Any], pool: Mapping[int, Sequence[str]], generator: random.Random, share: float
) -> tuple[str, list[list[Any]]] | None:
    """A text with other names and where they stand; None where it has none, or is not drawn."""
    sure = [span for span in spans if span[3] > _SURE]
    if not sure or len(sure) < len(spans) or generator.random() >= share:
        return None
    written, found, at = "", [], 0
    for start, end, type_, support in sorted(spans):
        name = generator.choice(pool[type_])
        written += text[at:start]
        found.append([len(written), len(written) + len(name), type_, support])
        written += name.casefold() if text == text.casefold() else name
        at = end
    return written + text[at:], found
