"""Turns what pydantic found wrong with a recipe into lines that a person can act on."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from distill.secrets import is_secret
from distill.yaml_source import Location, YamlSource

_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text (quote it)",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section (key: value)",
    "model_type": "a section (key: value)",
    "model_attributes_type": "a section (key: value)",
    "path_type": "a path",
}


def describe_problems(errors: Sequence[ErrorDetails], *, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One line a problem: ``file:line: path: what, got what, do what``, in the order of the file.

    Args:
        errors: As ``ValidationError.errors()`` gives them.
        source: The document, for the lines.
        model: The model that it was checked against, for suggestions.
    """
    lines: dict[str, None] = {}
    for error in errors:
        location = _written(error["loc"], source.data)
        if error["type"] == "extra_forbidden":
            known = _fields_at(model, error["loc"][:-1])
            text = f"unknown key{suggest(str(error['loc'][-1]), known)}"
        elif error["type"] == "union_tag_not_found":
            text = f"`type` is missing; one of {', '.join(_types_at(model, error['loc']))}"
        else:
            text = _sentence(error)
        dotted = ".".join(map(str, location)) or "recipe"
        lines[f"{source.place(location)}: {dotted}: {text}"] = None
    return list(lines)


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


class _Withheld:
    """Stands for a value that must not be shown."""

    def __repr__(self) -> str:
        return "a secret"


def _sentence(error: ErrorDetails) -> str:
    kind, given = error["type"], _Withheld() if is_secret(error["loc"]) else error.get("input")
    context: Mapping[str, Any] = error.get("ctx") or {}
    if kind == "missing":
        return "missing; add it"
    if kind == "union_tag_invalid":
        expected = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        return f"unknown type {context['tag']!r}{suggest(str(context['tag']), expected)}"
    if kind == "literal_error":
        expected = [word.strip(" '") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"got {_short(given)}; one of {', '.join(expected)}{_did_you_mean(given, expected)}"
    if kind == "value_error":
        return str(context.get("error") or error["msg"])
    if wanted := _WANTED.get(kind):
        return f"got {_short(given)}; give {wanted}"
    return f"got {_short(given)}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _did_you_mean(given: object, expected: list[str]) -> str:
    close = difflib.get_close_matches(str(given), expected, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _written(loc: tuple[str | int, ...], data: Any) -> Location:
    """The location as the user wrote it: pydantic puts the names of union members into it."""
    written: list[str | int] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(data, Mapping) and (part in data or last):
            data = data.get(part)
            written.append(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
            written.append(part)
    return tuple(written)


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """Keys that the model at a location accepts."""
    current: Any = model
    for part in loc:
        current = _step(current, part)
    return {name for member in _models(current) for name in member.model_fields}


def _types_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Values of ``type`` that a union of models at a location goes by."""
    current: Any = model
    for part in loc:
        current = _step(current, part)
    fields = [member.model_fields["type"] for member in _models(current) if "type" in member.model_fields]
    return [str(tag) for field in fields for tag in get_args(field.annotation)]


def _step(annotation: Any, part: str | int) -> Any:
    models = _models(annotation)
    for member in models:
        if part in member.model_fields:
            return member.model_fields[str(part)].annotation
    for member in models:
        # A discriminated union puts its tag into the location, and stays where it is.
        tag = member.model_fields.get("type")
        if tag is not None and part in get_args(tag.annotation):
            return member
    arguments = get_args(_bare(annotation))
    return arguments[-1] if arguments else annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _models(argument)]
    return []


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return Literal if annotation is None else annotation
