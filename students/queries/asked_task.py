"""The task of a student whose answers are no single label: kept as plain values, and each part with its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distill.labeling.brands import BrandList
from distill.labeling.task import Task

BRANDS_FILE = "brands.jsonl"
"""In a student's folder: what its spans are linked to."""

HeadKind = Literal["edits", "spans", "paths", "labels", "ranking", "text"]
"""How an encoder answers a part.

``edits``: an edit at every letter (:mod:`distill.students.queries.letters`), for spelling. ``spans``: marks of word
pieces (:mod:`distill.students.queries.bio`). ``paths``: a softmax over labels that are paths
(:mod:`distill.students.queries.tree_softmax`), for categories, one or several. ``labels``: each label by itself, for a
choice of several. ``ranking``: a softmax over the texts that teachers gave, for lists of texts. ``text``: not at all; a
causal student writes open texts.
"""

_KEPT = ("type", "kind", "labels", "several", "most", "types", "part")


def part_name(single: Task) -> str:
    """What a part is called in a student's section and in what it says of itself; the type where it is asked alone."""
    if single.type == "text" and single.several:
        return "texts"
    return single.part or single.type or "choice"


def head_kind(single: Task) -> HeadKind:
    """How an encoder answers a task of one kind."""
    if single.type == "spelling":
        return "edits"
    if single.kind == "spans":
        return "spans"
    if single.kind == "choice":
        return "paths" if single.type == "category" or not single.several else "labels"
    return "ranking" if single.several else "text"


def record_of(task: Task) -> dict[str, Any] | None:
    """What a student has to know of a task beyond labels and inputs, as JSON takes it; None for one label a row.

    Brands are left out: a list may be long, see :data:`BRANDS_FILE`.
    """
    if task.closed:
        return None
    return {"kind": task.kind, "type": task.type, "of": task.of, "singles": [_single(one) for one in task.singles]}


def task_of(record: Mapping[str, Any], *, inputs: tuple[str, ...], brands: BrandList | None = None) -> Task:
    """The task of a record; guideline, evidence and what else only teachers see are not there.

    Args:
        record: From :func:`record_of`.
        inputs: The task's, the query first.
        brands: From :func:`read_brands`, for the part that is linked to them.
    """
    kept: list[dict[str, Any]] = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in one.items()}
        for one in record["singles"]
    ]
    singles = tuple(
        Task(
            **one,
            inputs=inputs,
            of=record["of"],
            brands=brands if one["type"] == "brand" else None,
        )
        for one in kept
    )
    if record["kind"] != "parts":
        return singles[0]
    return Task(labels=(), inputs=inputs, kind="parts", type=record["type"], of=record["of"], parts=singles)


def brands_of(task: Task) -> BrandList | None:
    """The task's list of brands; None where it has none."""
    return next((single.brands for single in task.singles if single.brands is not None), None)


def write_brands(task: Task, folder: Path) -> None:
    """Writes the task's brand list into a student's folder, where it has one."""
    brands = brands_of(task)
    if brands is None:
        return
    lines = [json.dumps({"brand": name, "aliases": aliases}, ensure_ascii=False) for name, aliases in brands.entries]
    (folder / BRANDS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_brands(folder: Path) -> BrandList | None:
    """The brand list of a student's folder; None without one."""
    path = folder / BRANDS_FILE
    return BrandList.load(path) if path.exists() else None


def reading_order(task: Task) -> tuple[str, ...]:
    """Inputs with the one that spans and texts are of first: what an encoder reads as the query."""
    return (task.source, *(name for name in task.inputs if name != task.source))


def _single(single: Task) -> dict[str, Any]:
    return {name: list(value) if isinstance(value := getattr(single, name), tuple) else value for name in _KEPT}
