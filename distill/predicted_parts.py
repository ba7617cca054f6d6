"""Predictions whose answers are no single label, as lines of JSON and as cells of a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from distill.labeling.task import Task

_DIGITS = 6
_ANSWERS = ("label", "labels", "text", "texts")


def part_line(row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A line of predictions without what its part has none of; ``probs`` by label.

    Args:
        row: As :meth:`distill.students.student.Student.predict` gives it.
        task: The student's.
    """
    found = {name: value for name, value in row.items() if value is not None}
    found["confidence"] = round(row["confidence"], _DIGITS)
    if row.get("probs") is not None:
        single = next(one for one in task.singles if one.part == row.get("part"))
        found["probs"] = {
            label: round(value, _DIGITS) for label, value in zip(single.labels, row["probs"], strict=True)
        }
    if row.get("support") is not None:
        found["support"] = [round(value, _DIGITS) for value in row["support"]]
    if row.get("candidates") is not None:
        found["candidates"] = {one["text"]: round(one["share"], _DIGITS) for one in row["candidates"]}
    return found


def part_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Predictions as ``row_id``, ``part`` where there are several, ``answer``, ``confidence``, and ``outcome`` of a
    student that writes.

    ``answer`` is a label or a text, or a list as JSON; of spans their texts. It is empty where there is none.
    """
    answers = []
    for row in table.iter_rows(named=True):
        value = next((row[name] for name in _ANSWERS if row.get(name) is not None), None)
        if value is None and row.get("spans") is not None:
            value = [span["text"] for span in row["spans"]]
        answers.append(value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    named, last = ([name for name in names if name in table.columns] for names in (("row_id", "part"), ("outcome",)))
    answer = pl.Series("answer", answers, dtype=pl.String)
    return table.select(*named, answer, pl.col("confidence").round(_DIGITS), *last)
