"""From a recipe's sections to teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distill.labeling.errors import UsageError
from distill.labeling.task import Task
from distill.labeling.teacher import Teacher
from distill.teachers.config import (
    ClassifierTeacherConfig,
    FunctionsTeacherConfig,
    GeminiTeacherConfig,
    OpenAITeacherConfig,
    QueryToolsTeacherConfig,
    RulesTeacherConfig,
    StudentTeacherConfig,
    TeacherConfig,
    VLLMOfflineConfig,
    VLLMTeacherConfig,
)

if TYPE_CHECKING:
    from distill.labeling.queries.catalogue_config import CatalogueConfig
    from distill.teachers.student import LoadStudent
    from distill.teachers.vllm_fleet import VLLMFleet


def build_teachers(
    configs: Mapping[str, TeacherConfig],
    *,
    load_student: LoadStudent | None = None,
    task: Task | None = None,
    catalogue: CatalogueConfig | None = None,
) -> list[Teacher]:
    """Builds the teachers of a recipe, in its order: one a section, or one a function for functions and rules.

    Those that want the same vLLM servers share them. Files are read now, and a file of functions is run; no one is
    called.

    Args:
        configs: Their sections, by name.
        load_student: Loads a student's folder, for sections of type student.
        task: What is asked, for sections of type query_tools.
        catalogue: What those read.

    Raises:
        DataError: A file is missing or cannot be used.
        UsageError: A student is named and nothing was given to load it, or a query tool without task and catalogue.
        MissingDependencyError: The package that reaches a teacher is not installed.
    """
    fleets: list[VLLMFleet] = []
    teachers: list[Teacher] = []
    for name, config in configs.items():
        if isinstance(config, FunctionsTeacherConfig):
            teachers += _functions(name, config)
        elif isinstance(config, RulesTeacherConfig):
            from distill.teachers.rules import rule_teachers

            teachers += rule_teachers(name, config)
        elif isinstance(config, QueryToolsTeacherConfig):
            from distill.teachers.query_tools import query_tool_teachers

            if task is None or catalogue is None:
                raise UsageError(f"teachers.{name}: query tools read a catalogue; give data.catalogue in a recipe")
            teachers += query_tool_teachers(name, config, task=task, catalogue=catalogue)
        elif isinstance(config, VLLMTeacherConfig):
            teachers.append(_sharing(name, config, fleets))
        else:
            teachers.append(build_teacher(name, config, load_student=load_student))
    return teachers


def build_teacher(name: str, config: TeacherConfig, *, load_student: LoadStudent | None = None) -> Teacher:
    """Builds the one teacher that a section describes; see :func:`build_teachers`.

    Args:
        name: Of the teacher, which is that of its section.
        config: The section.
        load_student: Loads the student of a section of type student.

    Raises:
        DataError: A file is missing or cannot be used.
        UsageError: The section is of several teachers, or names a student and nothing was given to load it.
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
    if isinstance(config, StudentTeacherConfig):
        from distill.teachers.student import StudentTeacher

        if load_student is None:
            raise UsageError(f"teachers.{name}: a student needs load_student; pass distill.load_student")
        return StudentTeacher(name, config, load=load_student)
    if isinstance(config, ClassifierTeacherConfig):
        from distill.teachers.classifier import ClassifierTeacher

        return ClassifierTeacher(name, config)
    if isinstance(config, FunctionsTeacherConfig | QueryToolsTeacherConfig | RulesTeacherConfig):
        raise UsageError(f"teachers.{name}: got type {config.type}, which is several teachers; use build_teachers")
    from distill.teachers.recorded import RecordedTeacher

    return RecordedTeacher(name, config)


def files_of(config: TeacherConfig) -> list[Path]:
    """Files and folders that a section's answers depend on.

    Raises:
        DataError: A module or package that it names is not there.
    """
    if isinstance(config, FunctionsTeacherConfig):
        from distill.teachers.function_files import source_file

        return [source_file(config)]
    if isinstance(config, RulesTeacherConfig):
        return list(config.files)
    if isinstance(config, ClassifierTeacherConfig):
        from distill.labeling.packaged_folder import packaged_folder

        folder = Path(packaged_folder(config.model))
        return [folder] if folder.is_dir() else []
    path = getattr(config, "path", None)
    return [] if path is None else [Path(path)]


def _functions(name: str, config: FunctionsTeacherConfig) -> list[Teacher]:
    from distill.teachers.function_files import load_functions
    from distill.teachers.functions import FunctionTeacher

    found = load_functions(config)
    return [
        FunctionTeacher.of(function, section=name, family=config.family, file=found.digest, keep=config.keep)
        for function in found.functions
    ]


def _sharing(name: str, config: VLLMTeacherConfig, fleets: list[VLLMFleet]) -> Teacher:
    from distill.teachers.vllm import VLLMTeacher
    from distill.teachers.vllm_fleet import VLLMFleet, same_servers

    fleet = next((fleet for fleet in fleets if same_servers(fleet.config, config)), None)
    if fleet is None:
        fleets.append(fleet := VLLMFleet(name, config))
    return VLLMTeacher(name, config, fleet=fleet)
