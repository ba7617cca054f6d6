"""The ``teachers`` section of a recipe: one model a type. Imports nothing heavy, since ``distill --help`` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from distill.teachers.classifier_config import ClassifierTeacherConfig
from distill.teachers.functions_config import FunctionsTeacherConfig
from distill.teachers.gemini_config import GeminiTeacherConfig
from distill.teachers.openai_config import OpenAITeacherConfig
from distill.teachers.price_config import PriceConfig
from distill.teachers.query_tools_config import QueryToolsTeacherConfig
from distill.teachers.recorded_config import RecordedColumns, RecordedTeacherConfig
from distill.teachers.rules_config import RulesTeacherConfig
from distill.teachers.student_config import StudentTeacherConfig
from distill.teachers.vllm_config import VLLMOfflineConfig, VLLMTeacherConfig

__all__ = [
    "ClassifierTeacherConfig",
    "FunctionsTeacherConfig",
    "GeminiTeacherConfig",
    "OpenAITeacherConfig",
    "PriceConfig",
    "QueryToolsTeacherConfig",
    "RecordedColumns",
    "RecordedTeacherConfig",
    "RulesTeacherConfig",
    "StudentTeacherConfig",
    "TeacherConfig",
    "VLLMOfflineConfig",
    "VLLMTeacherConfig",
    "functions_among",
    "section_of",
    "spreads",
]

TeacherConfig = Annotated[
    GeminiTeacherConfig
    | OpenAITeacherConfig
    | VLLMTeacherConfig
    | VLLMOfflineConfig
    | RecordedTeacherConfig
    | FunctionsTeacherConfig
    | QueryToolsTeacherConfig
    | RulesTeacherConfig
    | StudentTeacherConfig
    | ClassifierTeacherConfig,
    Field(discriminator="type"),
]
"""One teacher of a recipe; ``type`` says which. Sections of functions, query tools or rules are several teachers."""


def spreads(config: TeacherConfig) -> bool:
    """Whether a section becomes several teachers, ``section.name`` each."""
    return isinstance(config, FunctionsTeacherConfig | QueryToolsTeacherConfig) or (
        isinstance(config, RulesTeacherConfig) and config.decide == "each"
    )


def section_of(teacher: str, sections: Mapping[str, TeacherConfig]) -> str | None:
    """The section of a recipe that a teacher comes from, by its name; None where none does.

    A section of that very name goes before one that spreads and begins so; of those, the longest.
    """
    if teacher in sections and not spreads(sections[teacher]):
        return teacher
    found = [name for name, config in sections.items() if spreads(config) and teacher.startswith(f"{name}.")]
    return max(found, key=len, default=None)


def functions_among(teachers: Iterable[str], sections: Mapping[str, TeacherConfig]) -> list[str]:
    """Those of some teachers that are labeling functions, query tools or rules: they abstain as a matter of course."""
    of = {name: section_of(name, sections) for name in teachers}
    kinds = FunctionsTeacherConfig | QueryToolsTeacherConfig | RulesTeacherConfig
    return [name for name, section in of.items() if section is not None and isinstance(sections[section], kinds)]
