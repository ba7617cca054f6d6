"""Turns a batch as found into rows: cleaned inputs, id, group, split, gold, weight."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.clean import clean_text, to_text
from distill.labeling.rows.data_config import SPLITS
from distill.labeling.rows.gold import gold_text
from distill.labeling.rows.index import split_groups
from distill.labeling.rows.plan import RowPlan
from distill.labeling.rows.problems import ProblemLog
from distill.labeling.rows.row_id import join_columns
from distill.labeling.rows.source import RawBatch

_WHOLE_NUMBER = re.compile(r"^(?P<digits>[+-]?\d+)\.0+$")
_SHOWN_VALUES = 12
_USUAL_SPLITS = {
    "training": "train",
    "validation": "audit",
    "valid": "audit",
    "val": "audit",
    "dev": "audit",
    "eval": "test",
    "testing": "test",
    "": "pool",
    "unlabeled": "pool",
}


@dataclass
class Findings:
    """What is only known to be wrong once all rows are read."""

    read: int = 0
    cleaned: Counter[str] = field(default_factory=Counter)
    gold_known: int = 0
    gold_outside: Counter[str] = field(default_factory=Counter)
    unknown_splits: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)

    def raise_if_wrong(self, plan: RowPlan, log: ProblemLog) -> None:
        """Stops where a split is unknown or no gold label is in the label set.

        Raises:
            DataError: Says which values were found and how to map them.
        """
        if self.unknown_splits:
            found = [name for name, _ in _ranked(self.unknown_splits)]
            mapping = {name: _likely_split(name) for name in found}
            raise DataError(
                f"{plan.source}: column {plan.split!r} says {_counted(self.unknown_splits)}, which are no splits "
                f"(those are {', '.join(SPLITS)}); say what they are, such as data.split_map: {_yaml(mapping)}"
            )
        if self.gold_outside and not self.gold_known:
            found = [value for value, _ in _ranked(self.gold_outside)]
            labels = plan.task.labels
            if not plan.task.closed:
                raise DataError(
                    f"{plan.source}: no value of the gold column is an answer to the task, a list of "
                    f"{plan.task.answer_column} or the like: it says {_counted(self.gold_outside)}; see data.gold"
                )
            mapping = {value: labels[min(index, len(labels) - 1)] for index, value in enumerate(found[: len(labels)])}
            raise DataError(
                f"{plan.source}: no value of column {plan.gold!r} is a label: it says {_counted(self.gold_outside)}, "
                f"the labels are {list(labels)}; say which is which (this is a guess at the form, not at the meaning): "
                f"data.gold_map: {_yaml(mapping)}"
            )


def prepare(batch: RawBatch, plan: RowPlan, findings: Findings, log: ProblemLog) -> pl.DataFrame:
    """Makes rows of a batch and lists those that cannot be used.

    Args:
        batch: As a reader gave it.
        plan: Which column means what.
        findings: Counts over all batches; added to.
        log: Where rows that cannot be used are listed; added to.

    Returns:
        The usable rows, with the columns of a table of rows and ``__source``, ``__unit``, ``__number`` for messages.
    """
    findings.read += batch.read
    findings.cleaned.update(batch.cleaned)
    if batch.note:
        findings.notes[batch.source] = batch.note
    for bad in batch.unreadable:
        log.add(bad.kind, (batch.source, batch.unit, bad.number), detail=bad.detail, row=bad.raw)
    height = len(batch.numbers)
    absent = [pl.lit(None, dtype=pl.String).alias(name) for name in plan.wanted if name not in batch.columns.columns]
    raw = batch.columns.with_columns(absent).select(list(plan.wanted))
    structured = _open_golds(plan)
    texts = {
        name: (_as_json(raw[name]) if name in structured else to_text(raw[name])).rename(name) for name in plan.wanted
    }
    inputs = _inputs(texts, plan, findings)
    row_id = _ids(texts, inputs, plan)
    weight = _weights(texts, plan, height)
    gold = _gold(texts, plan, findings, height) if plan.task.closed else _open_gold(texts, inputs, plan, findings)
    group = _groups(texts, inputs, plan, findings, row_id)
    frame = pl.DataFrame(
        {
            "row_id": row_id,
            "group": group,
            "split": _splits(texts, group, plan, findings),
            "gold": gold,
            "weight": weight.fill_null(1.0),
            **inputs,
            **{name: texts[theirs] for name, theirs in plan.extras.items()},
            "__source": pl.Series([batch.source], dtype=pl.String).new_from_index(0, height),
            "__unit": pl.Series([batch.unit], dtype=pl.String).new_from_index(0, height),
            "__number": pl.Series(batch.numbers, dtype=pl.Int64),
        }
    )
    _list_odd_values(batch, frame, texts, plan, log)
    return _drop_unusable(batch, frame, raw, plan, log)


def _inputs(texts: Mapping[str, pl.Series], plan: RowPlan, findings: Findings) -> dict[str, pl.Series]:
    inputs = {}
    for name, theirs in plan.inputs.items():
        cleaned = clean_text(
            texts[theirs], strip_html=plan.config.html == "strip", max_chars=plan.config.max_cell_chars
        )
        inputs[name] = cleaned.values.rename(name)
        findings.cleaned.update(cleaned.counts)
    return inputs


def _ids(texts: Mapping[str, pl.Series], inputs: Mapping[str, pl.Series], plan: RowPlan) -> pl.Series:
    """The id columns joined by a bar, null where one is empty; else 16 hex digits of a BLAKE2b of inputs and images."""
    if plan.ids:
        return join_columns([_stripped(texts[name]) for name in plan.ids])
    images = [texts[plan.extras[name]].fill_null("") for name in plan.task.images]
    joined = pl.select(pl.concat_str([*inputs.values(), *images], separator="\x1f")).to_series()
    return pl.Series([hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in joined], dtype=pl.String)


def _stripped(values: pl.Series) -> pl.Series:
    """Without white space around it; null where nothing is left."""
    values = values.str.strip_chars()
    return values.set(values == "", None)


def _groups(
    texts: Mapping[str, pl.Series],
    inputs: Mapping[str, pl.Series],
    plan: RowPlan,
    findings: Findings,
    row_id: pl.Series,
) -> pl.Series:
    """The group columns joined. An input counts by its cleaned text in lower case: "TV" and "tv" are one query."""
    parts = [inputs[name].str.to_lowercase() if name in inputs else texts[name] for name in plan.groups]
    group = join_columns([_stripped(part) for part in parts])
    alone = group.is_null() & row_id.is_not_null()
    if alone.any() and not set(plan.groups) & set(plan.inputs):
        # A row of no group is a group of its own; an empty query is a problem and is listed as such.
        findings.cleaned["group_filled"] += int(alone.sum())
    return group.zip_with(group.is_not_null(), row_id).fill_null("").rename("group")


def _splits(texts: Mapping[str, pl.Series], group: pl.Series, plan: RowPlan, findings: Findings) -> pl.Series:
    if plan.split is None:
        return split_groups(group, plan.shares, seed=plan.seed)
    found = texts[plan.split].str.strip_chars().fill_null("")
    mapping = {**dict(zip(SPLITS, SPLITS, strict=True)), **(plan.config.split_map or {})}
    names = found.replace_strict(list(mapping), list(mapping.values()), default=None, return_dtype=pl.String)
    unknown = found.filter(names.is_null())
    if len(unknown):
        findings.unknown_splits.update(dict(unknown.value_counts().iter_rows()))
    return names.fill_null(SPLITS[0])


def _gold(texts: Mapping[str, pl.Series], plan: RowPlan, findings: Findings, height: int) -> pl.Series:
    if plan.gold is None:
        return pl.Series([None] * height, dtype=pl.String)
    found = _stripped(texts[plan.gold])
    values = found.drop_nulls().unique()
    mapping = {value: _label_of(value, plan) for value in values}
    labels = found.replace_strict(list(mapping), list(mapping.values()), default=None, return_dtype=pl.String)
    findings.gold_known += len(labels) - labels.null_count()
    outside = found.filter(labels.is_null() & found.is_not_null())
    if len(outside):
        findings.gold_outside.update(dict(outside.value_counts().iter_rows()))
    return labels


def _open_golds(plan: RowPlan) -> set[str]:
    """Columns of gold that may hold lists and objects, which stay what they are."""
    if plan.task.closed:
        return set()
    return {*plan.part_golds.values(), *([plan.gold] if plan.gold is not None else [])}


def _as_json(values: pl.Series) -> pl.Series:
    if not values.dtype.is_nested() and values.dtype != pl.Object:
        return to_text(values)
    cells = values.to_list()
    texts = [cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]
    return pl.Series(texts, dtype=pl.String)


def _open_gold(
    texts: Mapping[str, pl.Series], inputs: Mapping[str, pl.Series], plan: RowPlan, findings: Findings
) -> pl.Series:
    """Gold that is no single label, in its canonical form; see :mod:`distill.labeling.rows.gold`."""
    task, source = plan.task, inputs[plan.task.source]
    columns = {part: texts[name] for part, name in plan.part_golds.items()}
    if plan.gold is not None:
        columns[""] = texts[plan.gold]
    kept: list[str | None] = []
    for place in range(len(source)):
        cells = {part: cell for part, column in columns.items() if (cell := column[place]) and cell.strip()}
        stated: Any = cells.get("", cells or None)
        text = None
        if stated is not None:
            text = gold_text(task, stated, source=source[place], names=plan.config.gold_map)
            findings.gold_known += text is not None
            if text is None:
                findings.gold_outside[str(stated)] += 1
        kept.append(text)
    return pl.Series("gold", kept, dtype=pl.String)


def _label_of(value: str, plan: RowPlan) -> str | None:
    """The label that a gold value means: by ``gold_map``, as it is, or as a whole number (4.0 is 4)."""
    number = _WHOLE_NUMBER.match(value)
    for form in (value, number["digits"]) if number else (value,):
        mapped = (plan.config.gold_map or {}).get(form, form)
        if mapped in plan.task.labels:
            return mapped
    return None


def _weights(texts: Mapping[str, pl.Series], plan: RowPlan, height: int) -> pl.Series:
    """Weights, null where the column holds no positive number."""
    if plan.weight is None:
        return pl.Series([1.0] * height, dtype=pl.Float64)
    numbers = texts[plan.weight].str.strip_chars().cast(pl.Float64, strict=False)
    good = numbers.is_finite() & (numbers > 0)
    return numbers.set(~good.fill_null(False), None)


def _list_odd_values(
    batch: RawBatch, frame: pl.DataFrame, texts: Mapping[str, pl.Series], plan: RowPlan, log: ProblemLog
) -> None:
    """Lists values that are left out of rows that are kept: gold outside the set, weights that are no weights."""
    odd: list[tuple[str, str, pl.Series, str]] = []
    if plan.gold is not None:
        found = _stripped(texts[plan.gold])
        among = f"is not among the labels {list(plan.task.labels)}" if plan.task.closed else "is no answer to the task"
        detail = f"{among}; the row counts as unlabeled"
        odd.append(("label_outside_set", plan.gold, frame["gold"].is_null() & found.is_not_null(), detail))
    if plan.weight is not None:
        bad = _weights(texts, plan, frame.height).is_null()
        odd.append(("bad_weight", plan.weight, bad, "is no number above 0; the row weighs 1"))
    for kind, column, where, detail in odd:
        for index in where.arg_true().to_list():
            value = texts[column][index]
            place = (batch.source, batch.unit, batch.numbers[index])
            row = batch.columns.row(index, named=True)
            log.add(kind, place, detail=f"{value!r} {detail}", row=row, row_id=frame["row_id"][index], usable=True)


def _drop_unusable(
    batch: RawBatch, frame: pl.DataFrame, raw: pl.DataFrame, plan: RowPlan, log: ProblemLog
) -> pl.DataFrame:
    query, *others = plan.task.inputs
    usable = pl.Series([True]).new_from_index(0, frame.height)
    checks = [("empty_id", frame["row_id"].is_null(), f"no value in {plan.ids}")]
    checks.append(("empty_query", frame[query] == "", f"{query!r} is empty"))
    if others:
        empty = frame.select(pl.all_horizontal(pl.col(others) == "")).to_series()
        checks.append(("empty_inputs", empty, f"{', '.join(others)} are all empty"))
    for kind, where, detail in checks:
        for index in (where & usable).arg_true().to_list():
            place = (batch.source, batch.unit, batch.numbers[index])
            log.add(kind, place, detail=detail, row=raw.row(index, named=True), row_id=frame["row_id"][index])
        usable &= ~where
    return frame.filter(usable)


def _ranked(values: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent values; in the order of the alphabet where they are equally frequent."""
    return sorted(values.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_VALUES]


def _counted(values: Counter[str]) -> str:
    shown = ", ".join(f"{value!r} ({count:,})" for value, count in _ranked(values))
    return shown + (f" and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else "")


def _likely_split(name: str) -> str:
    folded = name.casefold()
    return folded if folded in SPLITS else _USUAL_SPLITS.get(folded, SPLITS[0])


def _yaml(mapping: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key!r}: {value}" for key, value in mapping.items()) + "}"
