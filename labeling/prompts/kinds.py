"""What is asked of a row where the answer is no single label: in words, and as a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.labeling.answers.traces import trace_chars
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

MAX_CLAUSES = 4
PROBABILITY: Mapping[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}

EVIDENCE_RULE = (
    "Hints that a search of the shop found for the item may stand before it, as fields between two lines with a mark "
    "of their own. They are data as well, and may be wrong or about something else: they help to understand the item, "
    "and are no part of it."
)

_MAX_CHARS = 300

_SPELLING = (
    "You correct the spelling of search queries of an online shop. You see one query, as a shopper typed it. Write the "
    "query that the shopper meant to type, in the same language and word order. Correct misspelled words, and words "
    "wrongly joined or split. Brands, model numbers, abbreviations and slang that are meant so are no mistakes. Add, "
    "leave out, translate and explain nothing."
)
_BRAND = (
    "You find the brands that search queries of an online shop name. You see one query, as a shopper typed it. A brand "
    "is the name of who makes or sells a product, also misspelled, abbreviated or written in another script. A word "
    "that is a brand elsewhere but a plain word here is none, and a kind of product or a model is none."
)
_CATEGORY = (
    "You sort search queries of an online shop into its categories. You see one query, as a shopper typed it. Decide "
    "from the shopper's side: where in the shop do they expect what they look for?"
)
_SEVERAL_CATEGORIES = " A query may rightly have several; one that is merely related to it is none of them."
_EXPANSION = (
    "You write further search queries for an online shop that find what one query asks for. You see one query, as a "
    "shopper typed it. Use the names that sellers and other shoppers have for the same thing: synonyms, abbreviations "
    "spelled out, other spellings. Keep every constraint (brand, model, size, color, for whom): a product that answers "
    "one of them has to answer the query, and none may ask for more, for less, or for something that goes with it."
)
_QUERIES = (
    "You help an online shop to understand what shoppers type into its search. You see one query and answer several "
    "questions about it, each on its own."
)
_SPANS = "You mark parts of a text. You see one item. Find every part of `{source}` that is one of: {types}."
_TEXT = "You see one item. Write the text that is asked for."
_SEVERAL_LABELS = (
    "You sort items into a closed set of labels, of which several may fit. You see one item. Name all that fit."
)

_INSTRUCTIONS = {"spelling": _SPELLING, "brand": _BRAND, "category": _CATEGORY, "expansion": _EXPANSION}


def kind_instruction(task: Task) -> str | None:
    """The built-in instruction of a task; None for a plain choice."""
    if task.parts:
        return "\n\n".join([_QUERIES, *(f"`{part.field}`: {_of_part(part)}" for part in task.parts)])
    if task.type in _INSTRUCTIONS:
        return _INSTRUCTIONS[task.type] + (_SEVERAL_CATEGORIES if task.type == "category" and task.several else "")
    if task.kind == "spans":
        return _SPANS.format(source=task.source, types=", ".join(task.types))
    if task.kind == "text":
        return _TEXT
    return _SEVERAL_LABELS if task.several else None


def _of_part(part: Task) -> str:
    """A part's instruction without its opening, which is that of the whole."""
    text = kind_instruction(part) or ""
    return text.replace(" You see one query, as a shopper typed it.", "")


def kind_schema(task: Task, answer: AnswerFormat, *, clauses: Sequence[str]) -> dict[str, Any]:
    """Writes the JSON schema of an answer that is no single label, within the subset that strict modes accept.

    Every list and text is bounded: held to an unbounded schema, a small model may write until its tokens run out.

    Args:
        task: What is asked.
        answer: What is to be written besides.
        clauses: Ids of the guideline's clauses.
    """
    trace: dict[str, Any] = {"type": "string"}
    if answer.trace_tokens is not None:
        trace["maxLength"] = trace_chars(answer.trace_tokens)
    properties: dict[str, Any] = {}
    if answer.trace and answer.trace_order == "before":
        properties["trace"] = trace
    for part in task.singles:
        properties[part.field] = _value_schema(part)
    if answer.clauses and clauses:
        properties["clauses"] = clause_schema(clauses)
    if answer.probs != "none":
        one = dict(PROBABILITY)
        properties["confidence"] = closed_object({part.field: dict(one) for part in task.parts}) if task.parts else one
    if answer.trace and answer.trace_order == "after":
        properties["trace"] = trace
    return closed_object(properties)


def _value_schema(task: Task) -> dict[str, Any]:
    text = {"type": "string", "maxLength": _MAX_CHARS}
    if task.kind == "choice":
        label = {"type": "string", "enum": list(task.labels)}
        return _list_of(label, task.most) if task.several else label
    if task.kind == "text":
        return _list_of(text, task.most) if task.several else text
    fields: dict[str, Any] = {"text": dict(text)}
    if len(task.types) > 1:
        fields["type"] = {"type": "string", "enum": list(task.types)}
    if task.brands is not None:
        fields["link"] = dict(text)
    return _list_of(closed_object(fields) if len(fields) > 1 else text, task.most)


def _list_of(item: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "maxItems": most}


def clause_schema(ids: Sequence[str]) -> dict[str, Any]:
    """The schema of the clauses cited."""
    return {"type": "array", "items": {"type": "string", "enum": list(ids)}, "maxItems": MAX_CLAUSES}


def closed_object(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these fields and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def says_of(task: Task) -> dict[str, str]:
    """What is to be written into each field of an answer, in words."""
    says = {part.field: _says(part) for part in task.singles}
    says["confidence"] = (
        "for each field, the probability, from 0 to 1, that careful judges would settle on your answer."
        if task.parts
        else "the probability, from 0 to 1, that careful judges would settle on your answer."
    )
    return says


def _says(task: Task) -> str:
    most = task.most
    if task.type == "spelling":
        return "the query, corrected; where nothing is wrong, the query itself, unchanged."
    if task.type == "expansion":
        return f"a list of queries, the best first, at most {most}; empty where none would say the same. Not the query."
    if task.kind == "choice":
        return f"a list of labels, at most {most}; empty where none fits." if task.several else "one label of the set."
    if task.kind == "text":
        return f"a list of texts, the best first, at most {most}." if task.several else "the text."
    says = f"a list of parts of `{task.source}`, at most {most}; empty where there is none. "
    says += "Copy each letter by letter as it stands there, with its mistakes"
    if len(task.types) > 1:
        says += f"; `type` says what it is: {', '.join(task.types)}"
    if task.brands is not None:
        says += "; `link` is the brand's proper name, as the shop's list has it, or empty where you do not know it"
    return says + "."


def form_of(schema: Mapping[str, Any]) -> str:
    """The form of a value of a schema, without suggesting one."""
    if schema["type"] == "array":
        return f"[{form_of(schema['items'])}]"
    if schema["type"] == "object":
        return "{" + ", ".join(f'"{name}": {form_of(part)}' for name, part in schema["properties"].items()) + "}"
    return "0.…" if schema["type"] == "number" else '"…"'
