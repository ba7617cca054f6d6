"""Rows written out for people to label, and their labels read back: CSV, Label Studio, Argilla.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``, and listings are written by strangers: such
cells get an apostrophe before them in CSV (OWASP, "CSV Injection"), which is taken off again when the file is read.

Label Studio: a list of tasks with ``data`` (https://labelstud.io/guide/task_format), and beside it the labeling
configuration; both its JSON and its JSON-MIN exports are read. Argilla: a list of records with ``id``, ``fields`` and
``metadata`` (``Dataset.records.from_json``); ``to_json`` is read. Neither was tried against a running server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.task import Task

AnnotationFormat = Literal["csv", "label_studio", "argilla"]

_RUNS = ("=", "+", "-", "@", "\t", "\r")
_ANSWER = "label"


def write_annotation_file(path: Path, rows: pl.DataFrame, *, task: Task, form: AnnotationFormat = "csv") -> list[Path]:
    """Writes rows for people to label.

    Args:
        path: ``.csv`` for ``csv``, ``.json`` for the others.
        rows: ``row_id``, the task's inputs and, where rows were drawn, ``chance``.
        task: What is asked.
        form: Which tool reads it.

    Returns:
        Files written: the rows, and for Label Studio the labeling configuration.

    Raises:
        DataError: A column is missing.
    """
    columns = ["row_id", *task.inputs, *(["chance"] if "chance" in rows.columns else [])]
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise DataError(f"{path}: rows to label lack the columns {missing}; there are {rows.columns}")
    table = rows.select(columns).with_columns(pl.col(name).cast(pl.String).fill_null("") for name in task.inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        spreadsheet_safe(table).with_columns(
            pl.lit("").alias(_ANSWER), annotator=pl.lit(""), note=pl.lit("")
        ).write_csv(path)
        return [path]
    records = [
        _task(row, task) if form == "label_studio" else _record(row, task) for row in table.iter_rows(named=True)
    ]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if form == "argilla":
        return [path]
    config = path.with_suffix(".xml")
    config.write_text(label_studio_config(task), encoding="utf-8")
    return [path, config]


def read_annotation_file(path: Path, *, task: Task) -> pl.DataFrame:
    """Reads labels back; the format is told from the content.

    Rows that nobody labeled are left out. A row that two people labeled stands twice.

    Returns:
        ``row_id`` str, ``label`` str, ``annotator`` str (nullable), ``note`` str (nullable), ``chance`` f64 (nullable).

    Raises:
        DataError: The file cannot be read, or a label is outside the task's set; the message names the row.
    """
    try:
        found = list(_from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path))
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        told = f"{path}: no labels can be read ({error}); give the file as it was written or exported"
        raise DataError(told) from error
    schema = {"row_id": pl.String, "label": pl.String, "annotator": pl.String, "note": pl.String, "chance": pl.Float64}
    by_case = {label.casefold(): label for label in task.labels}
    for entry in found:
        label = by_case.get(entry["label"].strip().casefold())
        if label is None:
            raise DataError(
                f"{path}: row {entry['row_id']!r} has the label {entry['label']!r}, which is none of "
                f"{list(task.labels)}; correct it in the file"
            )
        entry["label"] = label
    return pl.DataFrame(found, schema=schema)


def label_studio_config(task: Task) -> str:
    """The labeling configuration: the inputs as text, the labels as a single choice with number keys."""
    texts = [
        f'  <Header value="{escape(name)}"/>\n  <Text name="{escape(name)}" value="${escape(name)}"/>'
        for name in task.inputs
    ]
    keys = [f' hotkey="{number}"' if number < 10 else "" for number in range(1, len(task.labels) + 1)]
    choices = [f'    <Choice value="{escape(label)}"{key}/>' for label, key in zip(task.labels, keys, strict=True)]
    lines = [
        "<View>",
        *texts,
        f'  <Choices name="{_ANSWER}" toName="{escape(task.inputs[0])}" choice="single" required="true">',
        *choices,
        "  </Choices>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def spreadsheet_safe(table: pl.DataFrame) -> pl.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would run."""
    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    runs = {name: pl.any_horizontal(pl.col(name).str.starts_with(mark) for mark in _RUNS) for name in texts}
    return table.with_columns(
        pl.when(runs[name]).then(pl.concat_str(pl.lit("'"), pl.col(name))).otherwise(pl.col(name)).alias(name)
        for name in texts
    )


def _plain(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(_RUNS) else text


def _task(row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    data = {"row_id": row["row_id"], **{name: row[name] for name in task.inputs}}
    return {"data": data | ({"chance": row["chance"]} if "chance" in row else {})}


def _record(row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    chance = {"chance": row["chance"]} if "chance" in row else {}
    return {"id": row["row_id"], "fields": {name: row[name] for name in task.inputs}, "metadata": chance}


def _from_csv(path: Path) -> Iterable[dict[str, Any]]:
    table = pl.read_csv(path, infer_schema=False)
    for row in table.iter_rows(named=True):
        if (row[_ANSWER] or "").strip():
            chance = row.get("chance")
            yield {
                "row_id": _plain(row["row_id"]),
                "label": row[_ANSWER],
                "annotator": row.get("annotator") or None,
                "note": row.get("note") or None,
                "chance": float(chance) if chance else None,
            }


def _from_json(path: Path) -> Iterable[dict[str, Any]]:
    for record in json.loads(path.read_text(encoding="utf-8")):
        if "fields" in record:
            yield from _from_argilla(record)
        else:
            yield from _from_label_studio(record)


def _from_label_studio(record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    data = record.get("data", record)
    known = {"row_id": str(data["row_id"]), "note": None, "chance": data.get("chance")}
    if "annotations" not in record:
        if record.get(_ANSWER):
            yield {**known, "label": str(record[_ANSWER]), "annotator": _name(record.get("annotator"))}
        return
    for annotation in record["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        chosen = [part for part in annotation["result"] if part.get("from_name") == _ANSWER]
        if chosen:
            label = str(chosen[0]["value"]["choices"][0])
            yield {**known, "label": label, "annotator": _name(annotation.get("completed_by"))}


def _from_argilla(record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    chance = (record.get("metadata") or {}).get("chance")
    for response in (record.get("responses") or {}).get(_ANSWER, ()):
        yield {
            "row_id": str(record["id"]),
            "label": str(response["value"]),
            "annotator": _name(response.get("user_id")),
            "note": None,
            "chance": chance,
        }


def _name(who: Any) -> str | None:
    if isinstance(who, Mapping):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)
