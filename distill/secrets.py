"""Secrets: written in a recipe as ``${NAME}``, read from the environment only when a teacher is built."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from distill.labeling.errors import RecipeError
from distill.yaml_source import Location

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEYS = ("api_key",)
_SECRET_MAPPINGS = ("headers",)

_Config = TypeVar("_Config", bound=BaseModel)


def secret_problems(data: Any) -> list[tuple[Location, str]]:
    """Secrets in the open, and references to the environment where no secret belongs.

    A recipe is copied into run folders and mailed around, so a secret may stand in it by name only; and a
    run must not change with the environment in any other way.
    """
    problems: list[tuple[Location, str]] = []
    for location, text in _texts(data, ()):
        names = _REFERENCE.findall(text)
        if location[-1] in _SECRET_KEYS and text:
            if _REFERENCE.fullmatch(text) is None:
                problems.append((location, "a secret in the open; write ${NAME} and set NAME in the environment"))
        elif names and not is_secret(location):
            problems.append((location, f"${{{names[0]}}} is read for secrets only; write the value, or use --set"))
    return problems


def with_secrets(config: _Config, *, where: str) -> _Config:
    """A teacher's settings with each ``${NAME}`` replaced by the environment's value.

    Args:
        config: Settings as the recipe holds them.
        where: What to call them in errors.

    Raises:
        RecipeError: A variable is not set, or holds what cannot be a secret of that kind.
    """

    def resolve(value: Any, path: str) -> Any:
        if isinstance(value, SecretStr):
            return _from_environment(value.get_secret_value(), where=f"{where}.{path}")
        if isinstance(value, dict):
            return {key: resolve(item, f"{path}.{key}") for key, item in value.items()}
        return value

    values = {name: resolve(value, name) for name, value in config.model_dump().items()}
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{where}.{path}: {first['msg']}; check the environment variable that it names") from None


def without_secrets(value: Any) -> Any:
    """Plain values of a dumped model: references such as ``${NAME}`` stay, anything else secret is masked."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return text if _REFERENCE.search(text) else "**********"
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _from_environment(text: str, *, where: str) -> str:
    missing = [name for name in _REFERENCE.findall(text) if name not in os.environ]
    if missing:
        raise RecipeError(f"{where}: ${{{missing[0]}}} is not set in the environment; export it and run again")
    return _REFERENCE.sub(lambda found: os.environ[found[1]], text)


def is_secret(location: Location) -> bool:
    """Whether what stands there may be a secret, and is never to be shown."""
    return any(part in _SECRET_KEYS or part in _SECRET_MAPPINGS for part in location)


def _texts(value: Any, location: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(value, str | int | float) and location:
        yield location, str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*location, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*location, index))
