"""The bodies that ``distill serve`` reads and writes: decisions in the dialects that teachers speak, and plain rows.

A decision carries a row as the text of its question. It is read where distill itself wrote it (see
:mod:`distill.labeling.prompts.fields`), or where it is a JSON object of fields. The instruction, the guideline, the
meanings of the options and judged examples are not read: a student has learned one task, and its own labels and inputs
are what it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from distill.eval.queries.evaluation import part_title
from distill.labeling.prompts.fields import read_fields
from distill.labeling.task import Task
from distill.predicted_parts import part_line
from distill.server_errors import bad

Dialect = Literal["openai", "sglang", "systemone"]
Row = dict[str, str]
_PREDICTED = ("row_id", "label", "probs", "confidence")


class Limits(NamedTuple):
    """What one request may ask for.

    Attributes:
        rows: Rows, or questions.
        text_chars: Characters of one field.
        body_bytes: Bytes of the body.
    """

    rows: int = 256
    text_chars: int = 20_000
    body_bytes: int = 4 * 2**20


class Question(NamedTuple):
    """One question of a decision.

    Attributes:
        name: What the answer is called.
        options: Which labels may be answered, in the order in which they were given.
        row: The student's inputs.
    """

    name: str
    options: tuple[str, ...]
    row: Row


def read_decision(body: Mapping[str, Any], *, task: Task, path: str, limits: Limits) -> tuple[Dialect, list[Question]]:
    """Reads the body of ``POST /v1/decisions`` or ``POST /v1/systemone``.

    Args:
        body: The JSON object that was sent.
        task: The student's, whose labels may be asked about and whose inputs are read.
        path: ``decisions`` or ``systemone``, which says the dialect.
        limits: How many questions, and how long a text.

    Raises:
        ServeError: It cannot be answered, and why; ``unknown_options`` where a question is not the student's.
    """
    if body.get("images"):
        raise bad("images: this model reads text alone; leave them out", param="images", code="unsupported")
    asked = body.get("questions")
    if path == "systemone":
        if not isinstance(asked, dict) or not asked:
            raise bad(f"questions: expected an object by name, got {_kind(asked)}", param="questions")
        dialect: Dialect = "systemone"
        named = [(str(name), question) for name, question in asked.items()]
    else:
        if not isinstance(asked, list) or not asked:
            raise bad(f"questions: expected a list, got {_kind(asked)}", param="questions")
        dialect = "sglang" if isinstance(asked[0], dict) and "options" in asked[0] else "openai"
        key = "id" if dialect == "sglang" else "name"
        named = [
            (str(question.get(key) or f"q{place}") if isinstance(question, dict) else "", question)
            for place, question in enumerate(asked)
        ]
    _refuse_too_many(len(named), limits, param="questions")
    if len({name for name, _ in named}) < len(named):
        raise bad("questions: two have the same name; give each its own", param="questions")
    return dialect, [_question(name, question, dialect, task, limits) for name, question in named]


def write_decision(
    dialect: Dialect, model: str, questions: Sequence[Question], found: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Writes the answers to a decision.

    Probabilities are those of the options asked about: where some of the student's labels were left out, the others are
    scaled to sum to one.

    Args:
        dialect: In whose words.
        model: Who answers.
        questions: What was asked.
        found: The student's distribution for each.
    """
    answers = [_answer(question, probs) for question, probs in zip(questions, found, strict=True)]
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    if dialect == "openai":
        listed = [
            {**answer, "name": question.name, "probabilities": _listed(answer["probabilities"])}
            for question, answer in zip(questions, answers, strict=True)
        ]
        return {"object": "decision", "model": model, "answers": listed, "usage": usage}
    named = {question.name: answer for question, answer in zip(questions, answers, strict=True)}
    kind = "structured_decision" if dialect == "systemone" else "decisions"
    return {"object": kind, "model": model, "answers": named, "usage": usage}


def read_rows(body: Mapping[str, Any], *, task: Task, limits: Limits) -> list[Row]:
    """Reads the body of ``POST /v1/predict``: ``{"rows": [{"query": …, "title": …}, …]}``; other fields are left alone.

    Args:
        body: The JSON object that was sent.
        task: The student's, whose inputs each row must have.
        limits: How many rows, and how long a text.

    Raises:
        ServeError: It cannot be answered, and why.
    """
    rows = body.get("rows")
    if not isinstance(rows, list) or not rows:
        raise bad(f"rows: expected a list of objects, got {_kind(rows)}", param="rows")
    _refuse_too_many(len(rows), limits, param="rows")
    return [_row(row, task, limits, where=f"rows[{place}]") for place, row in enumerate(rows)]


def write_rows(model: str, task: Task, given: Sequence[Any], predicted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes predictions: label, a probability per label, confidence, and whatever else the student says of a row.

    Args:
        model: Who answers.
        task: For its labels.
        given: The rows as they were sent; a ``row_id`` is given back.
        predicted: Lines of the student's predictions.
    """
    data = []
    for place, (row, line) in enumerate(zip(given, predicted, strict=True)):
        probs = {label: round(value, 6) for label, value in zip(task.labels, line["probs"], strict=True)}
        said = {name: value for name, value in line.items() if name not in _PREDICTED}
        own = {"row_id": row["row_id"]} if "row_id" in row else {}
        confidence = round(line["confidence"], 6)
        data.append({"index": place, **own, "label": line["label"], "confidence": confidence, "probs": probs, **said})
    return {"object": "list", "model": model, "data": data}


def write_parts(model: str, task: Task, given: Sequence[Any], predicted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes predictions whose answers are no single label, as ``predict`` does to JSON: what is null is left out.

    A row of a task of several parts has them under ``parts``, each by its name; of a task without parts the answer
    stands in the row itself.

    Args:
        model: Who answers.
        task: Of the parts, in whose order the lines of a row stand.
        given: The rows as they were sent; a ``row_id`` is given back.
        predicted: Lines of the student's predictions, one a row and part.
    """
    parts = len(task.singles)
    data = []
    for place, row in enumerate(given):
        own = {"row_id": row["row_id"]} if "row_id" in row else {}
        lines = [part_line(line, task) for line in predicted[place * parts : (place + 1) * parts]]
        said = [{name: value for name, value in line.items() if name not in ("row_id", "part")} for line in lines]
        answers = (
            {"parts": {line["part"]: one for line, one in zip(lines, said, strict=True)}} if task.parts else said[0]
        )
        data.append({"index": place, **own, **answers})
    return {"object": "list", "model": model, "data": data}


def parts_told(task: Task) -> list[dict[str, Any]]:
    """What a model answers, by part: its name, type, the field of its answer, and its labels where it has some."""
    return [
        {
            "part": part_title(single),
            "type": str(single.type or single.kind),
            "answer": single.answer_column,
            **({"labels": list(single.labels)} if single.labels else {}),
        }
        for single in task.singles
    ]


def _question(name: str, question: Any, dialect: Dialect, task: Task, limits: Limits) -> Question:
    if not isinstance(question, dict):
        raise bad(f"questions: expected objects, got {_kind(question)}", param="questions")
    kind = question.get("type", "choice")
    if kind != "choice":
        raise bad(
            f"question {name}: type {kind!r} is not answered here; ask a choice", param="type", code="unsupported"
        )
    if dialect == "systemone":
        options, text = question.get("criteria"), question.get("instructions")
        listed = list(options) if isinstance(options, dict) else None
    else:
        options = question.get("options" if dialect == "sglang" else "choices")
        text = question.get("question" if dialect == "sglang" else "instructions")
        key = "name" if dialect == "sglang" else "value"
        listed = (
            [item.get(key) if isinstance(item, dict) else item for item in options]
            if isinstance(options, list)
            else None
        )
    if not listed or not all(isinstance(option, str) for option in listed) or len(set(listed)) < len(listed):
        raise bad(f"question {name}: expected options, each once and by name, got {_kind(options)}", param="questions")
    if not set(listed) <= set(task.labels):
        raise bad(
            f"question {name}: unknown_options: this model decides between {list(task.labels)} alone; ask about those",
            param="questions",
            code="unknown_options",
        )
    return Question(name, tuple(listed), _row(_fields(name, text), task, limits, where=f"question {name}"))


def _fields(name: str, text: Any) -> Mapping[str, Any]:
    if isinstance(text, dict):
        return text
    if isinstance(text, str):
        if (fields := read_fields(text)) is not None:
            return fields
        if text.lstrip().startswith("{"):
            try:
                found = json.loads(text)
            except ValueError:
                found = None
            if isinstance(found, dict):
                return found
    raise bad(
        f"question {name}: its text holds no row that this model can read; send it as distill's prompts write it, or "
        "as a JSON object of fields",
        param="questions",
        code="no_fields",
    )


def _row(given: Any, task: Task, limits: Limits, *, where: str) -> Row:
    if not isinstance(given, Mapping):
        raise bad(f"{where}: expected an object of fields, got {_kind(given)}", param="rows")
    if missing := [name for name in task.inputs if name not in given]:
        raise bad(
            f"{where}: the fields {missing} are missing; the model reads {list(task.inputs)}, empty where unknown",
            param=missing[0],
            code="missing_field",
        )
    row = {}
    for name in task.inputs:
        value = given[name]
        if isinstance(value, dict | list):
            raise bad(f"{where}: {name} is {_kind(value)}; send text", param=name)
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        if len(text) > limits.text_chars:
            raise bad(
                f"{where}: {name} has {len(text):,} characters, at most {limits.text_chars:,} are read; cut it",
                param=name,
                code="text_too_long",
            )
        # A lone surrogate is valid JSON and no valid text.
        row[name] = text.encode("utf-8", "replace").decode("utf-8")
    return row


def _answer(question: Question, probs: Mapping[str, float]) -> dict[str, Any]:
    total = sum(probs[option] for option in question.options)
    shares = {option: probs[option] / total if total > 0 else 1 / len(question.options) for option in question.options}
    best = max(shares, key=shares.__getitem__)
    return {"type": "choice", "choice": best, "confidence": shares[best], "probabilities": shares}


def _listed(shares: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"value": option, "probability": share} for option, share in shares.items()]


def _refuse_too_many(count: int, limits: Limits, *, param: str) -> None:
    if count > limits.rows:
        raise bad(
            f"{param}: got {count:,}, at most {limits.rows:,} a request; send several",
            param=param,
            code="too_many_rows",
        )


def _kind(value: Any) -> str:
    """What a value is, without quoting it: it may be a row's text."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list) and not value:
        return "an empty one"
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")
