"""A map from a teacher's labels to the task's, as recipes give it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def _as_texts(value: object) -> object:
    """YAML reads the labels 1, 2, 3 as numbers."""
    return {_as_text(key): _as_text(label) for key, label in value.items()} if isinstance(value, dict) else value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


LabelMap = Annotated[dict[str, str], BeforeValidator(_as_texts)]
"""Labels by labels; numbers count as their texts."""
