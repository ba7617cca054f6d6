"""What people said, where an answer is no single label: cells of any form, and the one form in which rows keep them.

The ``gold`` column of the rows table is text for every task. One label or text stands as it is (texts in NFC, runs of
white space as one space); lists, spans and parts are JSON:

- several labels, ranked texts: ``["a", "b"]``, labels in the task's order;
- spans: ``[{"start": 0, "end": 4, "text": "nike", "type": "brand", "link": null}]``, in the order of the text;
- parts: ``{"spelling": "…", "brand": [{…}]}``, without the parts that nobody gave.

``[]`` says that there is none; a null cell, that nobody said anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from distill.labeling.answers.locating import plain_text
from distill.labeling.answers.parsing import MISSING, AnswerError, match_label
from distill.labeling.answers.parsing_kinds import read_spans
from distill.labeling.errors import DataError
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

_TAG = re.compile(r"^(?:O|[BIES]-\S+)$")
_TOKEN = re.compile(r"\S+")
_NONE = ("none", "[]")


def gold_text(task: Task, cell: Any, *, source: str, names: Mapping[str, str] | None = None) -> str | None:
    """The canonical form of what a cell says; None where it says nothing that the task can take.

    Lists are read as JSON, or parted by ``|``. Spans are read as JSON (substrings, or objects with ``text``, ``start``,
    ``end``, ``type``, ``link``), as substrings parted by ``|``, or as BIO tags, one for each run of characters of the
    input without white space (``B-brand O O``, also as a JSON list), or as words with ``start``, ``end`` and
    ``tag``. Types of spans that the task does not have are left out, so that tags of a richer scheme can be read.

    Args:
        task: Of any kind; of one part where it has parts, the cell is an object by part.
        cell: Text, or what JSON of it would give.
        source: The input that spans and texts are of.
        names: The task's words for labels or types that the cells call otherwise (``data.gold_map``).
    """
    value = gold_value(task, cell, source=source, names=names)
    return None if value is None else canonical(task, value)


def gold_value(task: Task, cell: Any, *, source: str, names: Mapping[str, str] | None = None) -> Any:
    """As :func:`gold_text`, as the value that :meth:`~distill.labeling.task.Task.parse_gold` gives."""
    if isinstance(cell, str) and not cell.strip():
        return None
    if task.parts:
        stated = _json(cell)
        return _part_values(task, stated, source, names) if isinstance(stated, Mapping) else None
    names = names or {}
    column = task.answer_column
    if column == "text":
        return plain_text(cell) if isinstance(cell, str) else None
    if column == "label":
        return _label(cell, task, names) if isinstance(cell, str) else None
    if column == "spans":
        return _spans(cell, task, source, names)
    items = _list(cell)
    if column == "texts":
        return [plain_text(str(item)) for item in items]
    labels = [_label(str(item), task, names) for item in items]
    if None in labels:
        return None
    order = {label: place for place, label in enumerate(task.labels)}
    return sorted(dict.fromkeys(label for label in labels if label), key=lambda label: order.get(label, len(order)))


def canonical(task: Task, value: Any) -> str:
    """A value of :meth:`~distill.labeling.task.Task.parse_gold` as text."""
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def parse_gold(task: Task, gold: str) -> Any:
    """Reads canonical text; see :meth:`distill.labeling.task.Task.parse_gold`.

    Raises:
        DataError: It is not in the form that :func:`gold_text` gives.
    """
    if not task.parts and task.answer_column in ("label", "text"):
        return gold
    try:
        value = json.loads(gold)
        if task.parts:
            named = {str(part.part): part for part in task.parts}
            return {name: _value(part, value[name]) for name, part in named.items() if name in value}
        return _value(task, value)
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"gold: got {gold[:80]!r}, which is no {task.answer_column} in canonical form; read rows through "
            "distill.read_rows"
        ) from None


def _value(task: Task, value: Any) -> Any:
    if task.answer_column == "spans":
        return [SpanAnswer(**span) for span in value]
    return value if isinstance(value, str) else [str(item) for item in value]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return (
        [item._asdict() if isinstance(item, SpanAnswer) else item for item in value]
        if isinstance(value, list)
        else value
    )


def _part_values(
    task: Task, stated: Mapping[str, Any], source: str, names: Mapping[str, str] | None
) -> dict[str, Any] | None:
    found = {}
    for part in task.parts:
        cell = next((stated[name] for name in (str(part.part), part.field) if name in stated), None)
        value = None if cell is None else gold_value(part, cell, source=source, names=names)
        if value is not None:
            found[str(part.part)] = value
    return found or None


def _json(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _list(cell: Any) -> list[Any]:
    stated = _json(cell)
    if isinstance(stated, list):
        return stated
    text = str(stated).strip()
    return [] if text.casefold() in _NONE else [part.strip() for part in text.split("|") if part.strip()]


def _label(cell: str, task: Task, names: Mapping[str, str]) -> str | None:
    stated = names.get(cell.strip(), cell)
    label = match_label(stated, task.labels)
    if label in (MISSING, None) and task.tree is not None:
        label = task.tree.find(stated)
    return None if label in (MISSING, None) else str(label)


def _spans(cell: Any, task: Task, source: str, names: Mapping[str, str]) -> list[SpanAnswer] | None:
    stated = _json(cell)
    tags = stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else []
    tokens = list(_TOKEN.finditer(source))
    if len(tags) == len(tokens) and all(isinstance(tag, str) and _TAG.match(tag) for tag in tags):
        return _of_tags(tags, tokens, task, source, names)
    items = stated if isinstance(stated, list) else _list(cell) if isinstance(stated, str) else [stated]
    items = _of_tagged(items)
    kept = []
    for item in items:
        if isinstance(item, Mapping) and item.get("type") is not None:
            kind = names.get(str(item["type"]), str(item["type"]))
            if kind not in task.types:
                continue
            item = {**item, "type": kind}
        kept.append(item)
    try:
        return read_spans(kept, task=task, source=source)
    except AnswerError:
        return None


def _of_tagged(items: list[Any]) -> list[Any]:
    """Words with offsets and a ``tag`` each, as spans: one goes on where the tag says I."""
    if not all(isinstance(item, Mapping) and _TAG.match(str(item.get("tag", ""))) for item in items):
        return items
    found: list[dict[str, Any]] = []
    for item in items:
        mark, _, kind = str(item["tag"]).partition("-")
        if mark in "IE" and found and found[-1]["type"] == kind:
            found[-1]["end"] = item["end"]
        elif mark != "O":
            found.append({"start": item["start"], "end": item["end"], "type": kind})
        else:
            found.append({"type": ""})  # what follows begins anew
    return [span for span in found if span["type"]]


def _of_tags(
    tags: list[str], tokens: list[re.Match[str]], task: Task, source: str, names: Mapping[str, str]
) -> list[SpanAnswer]:
    """Spans of BIO tags (also BIOES): a new one begins with B or S, or where the type changes."""
    found: list[tuple[int, int, str]] = []
    open_type = ""
    for tag, token in zip(tags, tokens, strict=True):
        mark, _, said = tag.partition("-")
        kind = names.get(said, said)
        if mark == "O" or kind not in task.types:
            open_type = ""
            continue
        if mark in "IE" and kind == open_type:
            found[-1] = (found[-1][0], token.end(), kind)
        else:
            found.append((token.start(), token.end(), kind))
        open_type = "" if mark in "ES" else kind
    link = task.brands.link if task.brands is not None else lambda text: None
    return [SpanAnswer(start, end, source[start:end], kind, link(source[start:end])) for start, end, kind in found]
