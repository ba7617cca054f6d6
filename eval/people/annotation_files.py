"""Rows written out for people to label, and their labels read back: CSV, Label Studio, Argilla.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``, and listings are written by strangers: such
cells get an apostrophe before them in CSV (OWASP, "CSV Injection"), which is taken off again when the file is read.

Label Studio: a list of tasks with ``data`` (https://labelstud.io/guide/task_format), and beside it the labeling
configuration; both its JSON and its JSON-MIN exports are read. Argilla: a list of records with ``id``, ``fields`` and
``metadata`` (``Dataset.records.from_json``); ``to_json`` is read, where questions ``label`` and, if there is one,
``note`` hold the answers. Neither was tried against a running server: exports are those that Argilla's SDK 2.8 writes,
and what Label Studio's documentation shows.
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
_NOTE = "note"
_CARRIED = ("chance", "draw")
"""What goes out with a row and has to come back: with which probability it was drawn, and in which draw."""


ANNOTATION_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "label": pl.String(),
    "annotator": pl.String(),
    "note": pl.String(),
    "chance": pl.Float64(),
    "draw": pl.Int64(),
}
"""One label of one person: ``annotator`` and ``note`` where they are known, ``chance`` and ``draw`` of a row that was
drawn to be labeled."""


def write_annotation_file(path: Path, rows: pl.DataFrame, *, task: Task, form: AnnotationFormat = "csv") -> list[Path]:
    """Writes rows for people to label.

    Args:
        path: ``.csv`` for ``csv``, ``.json`` for the others.
        rows: ``row_id``, the task's inputs and, where rows were drawn, ``chance`` and ``draw``. What models said of a
            row is no part of the file: who has seen it is drawn to it.
        task: What is asked.
        form: Which tool reads it.

    Returns:
        Files written: the rows, and for Label Studio the labeling configuration.

    Raises:
        DataError: A column is missing.
    """
    if taken := sorted({*task.inputs} & {"row_id", _ANSWER, "annotator", _NOTE, *_CARRIED}):
        raise DataError(f"{path}: {taken} are columns of the file itself; give the inputs other names, data.columns")
    columns = ["row_id", *task.inputs, *(name for name in _CARRIED if name in rows.columns)]
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise DataError(f"{path}: rows to label lack the columns {missing}; there are {rows.columns}")
    table = rows.select(columns).with_columns(pl.col(name).cast(pl.String).fill_null("") for name in task.inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        spreadsheet_safe(table).with_columns(
            pl.lit("").alias(_ANSWER), pl.lit("").alias("annotator"), pl.lit("").alias(_NOTE)
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
        The columns of :data:`ANNOTATION_SCHEMA`.

    Raises:
        DataError: The file cannot be read, or a label is outside the task's set; the message names the row.
    """
    try:
        found = list(_from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path))
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        told = f"{path}: no labels can be read ({error}); give the file as it was written or exported"
        raise DataError(told) from error
    by_case = {label.casefold(): label for label in task.labels}
    for entry in found:
        label = by_case.get(entry["label"].strip().casefold())
        if label is None:
            raise DataError(
                f"{path}: row {entry['row_id']!r} has the label {entry['label']!r}, which is none of "
                f"{list(task.labels)}; correct it in the file"
            )
        entry["label"] = label
    return pl.DataFrame(found, schema=ANNOTATION_SCHEMA)


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
        f'  <TextArea name="{_NOTE}" toName="{escape(task.inputs[0])}" rows="1" placeholder="note (may stay empty)"/>',
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
    carried = {name: row[name] for name in _CARRIED if name in row}
    return {"data": {"row_id": row["row_id"], **{name: row[name] for name in task.inputs}, **carried}}


def _record(row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    carried = {name: row[name] for name in _CARRIED if name in row}
    return {"id": row["row_id"], "fields": {name: row[name] for name in task.inputs}, "metadata": carried}


def _from_csv(path: Path) -> Iterable[dict[str, Any]]:
    head = path.read_text(encoding="utf-8-sig").partition("\n")[0]
    # Where the decimal mark is a comma, a spreadsheet saves with semicolons.
    table = pl.read_csv(path, infer_schema=False, separator=";" if head.count(";") > head.count(",") else ",")
    for row in table.iter_rows(named=True):
        if (row[_ANSWER] or "").strip():
            yield {
                "row_id": _plain(row["row_id"]),
                "label": row[_ANSWER],
                "annotator": (row.get("annotator") or "").strip() or None,
                "note": _text(row.get(_NOTE)),
                **_carried(row),
            }


def _from_json(path: Path) -> Iterable[dict[str, Any]]:
    for record in json.loads(path.read_text(encoding="utf-8")):
        if "fields" in record:
            yield from _from_argilla(record)
        else:
            yield from _from_label_studio(record)


def _from_label_studio(record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    data = record.get("data", record)
    known = {"row_id": str(data["row_id"]), **_carried(data)}
    if "annotations" not in record:
        # JSON-MIN: the answers stand in the task's own fields, and a task that two people labeled stands twice.
        if record.get(_ANSWER):
            who = _name(record.get("annotator"))
            yield {**known, "label": str(record[_ANSWER]), "annotator": who, "note": _text(record.get(_NOTE))}
        return
    for annotation in record["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        parts = {part.get("from_name"): part["value"] for part in annotation["result"] or ()}
        if parts.get(_ANSWER, {}).get("choices"):
            yield {
                **known,
                "label": str(parts[_ANSWER]["choices"][0]),
                "annotator": _name(annotation.get("completed_by")),
                "note": _text(parts.get(_NOTE, {}).get("text")),
            }


def _from_argilla(record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    responses = record.get("responses") or {}
    notes = {response.get("user_id"): response.get("value") for response in responses.get(_NOTE) or ()}
    for response in responses.get(_ANSWER) or ():
        # Whoever opened a record and put it aside has a response without a value.
        if response.get("value") is not None:
            yield {
                "row_id": str(record["id"]),
                "label": str(response["value"]),
                "annotator": _name(response.get("user_id")),
                "note": _text(notes.get(response.get("user_id"))),
                **_carried(record.get("metadata") or {}),
            }


def _carried(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Chance and draw, null where they are missing or were emptied."""
    chance, draw = (fields.get(name) for name in _CARRIED)
    given = [None if value in (None, "") else float(str(value).replace(",", ".")) for value in (chance, draw)]
    if given[0] is not None and not 0.0 < given[0] <= 1.0:
        raise ValueError(f"chance {given[0]:g} is no probability")
    return {"chance": given[0], "draw": None if given[1] is None else int(given[1])}


def _text(given: Any) -> str | None:
    """A note. Label Studio gives a list of lines, or ``{"text": [lines]}``, in its CSV as JSON."""
    if isinstance(given, str) and given.startswith('{"text":'):
        given = json.loads(given)
    if isinstance(given, Mapping):
        given = given.get("text")
    lines = given if isinstance(given, list) else [given]
    return "\n".join(str(line) for line in lines if line) or None


def _name(who: Any) -> str | None:
    if isinstance(who, Mapping):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)
