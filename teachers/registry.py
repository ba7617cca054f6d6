"""From a recipe's sections to teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill.labeling.teacher import Teacher
from distill.teachers.config import (
    GeminiTeacherConfig,
    OpenAITeacherConfig,
    TeacherConfig,
    VLLMOfflineConfig,
    VLLMTeacherConfig,
)

if TYPE_CHECKING:
    from distill.teachers.vllm_fleet import VLLMFleet


def build_teacher(name: str, config: TeacherConfig) -> Teacher:
    """Builds the teacher that a section describes. A recorded one reads its file now; no one is called.

    Args:
        name: Its name in the recipe.
        config: Its section.

    Raises:
        DataError: A recorded teacher's file is missing or cannot be used.
        MissingDependencyError: The package that reaches it is not installed.
    """
    if isinstance(config, GeminiTeacherConfig):
        from distill.teachers.gemini import GeminiTeacher

        return GeminiTeacher(name, config)
    if isinstance(config, OpenAITeacherConfig):
        from distill.teachers.openai import OpenAITeacher

        return OpenAITeacher(name, config)
    if isinstance(config, VLLMTeacherConfig):
        from distill.teachers.vllm import VLLMTeacher

        return VLLMTeacher(name, config)
    if isinstance(config, VLLMOfflineConfig):
        from distill.teachers.vllm_offline import VLLMOfflineTeacher

        return VLLMOfflineTeacher(name, config)
    from distill.teachers.recorded import RecordedTeacher

    return RecordedTeacher(name, config)


def build_teachers(configs: Mapping[str, TeacherConfig]) -> list[Teacher]:
    """Builds the teachers of a recipe, in its order. Those that want the same vLLM servers share them.

    Args:
        configs: Their sections, by name.

    Raises:
        DataError: As in :func:`build_teacher`.
    """
    fleets: list[VLLMFleet] = []
    return [
        _sharing(name, config, fleets) if isinstance(config, VLLMTeacherConfig) else build_teacher(name, config)
        for name, config in configs.items()
    ]


def _sharing(name: str, config: VLLMTeacherConfig, fleets: list[VLLMFleet]) -> Teacher:
    from distill.teachers.vllm import VLLMTeacher
    from distill.teachers.vllm_fleet import VLLMFleet, same_servers

    fleet = next((fleet for fleet in fleets if same_servers(fleet.config, config)), None)
    if fleet is None:
        fleets.append(fleet := VLLMFleet(name, config))
    return VLLMTeacher(name, config, fleet=fleet)
