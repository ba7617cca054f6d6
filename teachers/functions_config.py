"""The section of teachers that are Python functions of the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from distill.teachers.model_config import SECTION

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class FunctionsTeacherConfig(BaseModel):
    """Labeling functions of one file or module. Each is a teacher of its own, ``section.function``."""

    model_config = SECTION

    type: Literal["functions"] = Field(description="Python functions that label a row or abstain")
    path: Path | None = Field(None, description="Python file with the functions")
    module: str | None = Field(None, min_length=1, description="installed module with the functions, instead of path")
    functions: tuple[str, ...] | None = Field(
        None, min_length=1, description="which functions; those decorated with @distill.labeling_function by default"
    )
    family: str | None = Field(
        None,
        min_length=1,
        description="family of functions that name none in their decorator; the section's name by default, so that "
        "all of them together have one share beside other teachers",
    )
    keep: bool = Field(
        False,
        description="keep answers in the ledger, for slow functions; others are worked out anew when they are needed",
    )

    @field_validator("functions", mode="after")
    @classmethod
    def _names_are_usable(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            check_function_name(name)
        if value and len(set(value)) < len(value):
            raise ValueError(f"functions repeat: {list(value)}; name each once")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> FunctionsTeacherConfig:
        if (self.path is None) == (self.module is None):
            raise ValueError("give either path: my_rules.py or module: package.module")
        if self.path is not None and self.path.suffix != ".py":
            raise ValueError(f"path: got {self.path.name!r}; give a Python file (.py)")
        return self


def check_function_name(name: str) -> None:
    """Refuses a name that cannot stand in ``section.name``.

    Raises:
        ValueError: It can not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name!r} becomes a teacher's: letters, digits, dot, dash, underscore, at most 64")
