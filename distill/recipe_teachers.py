"""What a recipe's teachers that compute here say of its task: labels, inputs, names of functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from distill.labeling.errors import DistillError
from distill.recipe_problems import suggest
from distill.teachers.config import (
    ClassifierTeacherConfig,
    FunctionsTeacherConfig,
    QueryToolsTeacherConfig,
    RulesTeacherConfig,
    StudentTeacherConfig,
    TeacherConfig,
)
from distill.teachers.query_tools_config import TOOL_TASKS
from distill.teachers.rules_config import Condition
from distill.yaml_source import Location

if TYPE_CHECKING:
    from distill.labeling.task import TaskConfig

Problem = tuple[Location, str]


def teacher_names(name: str, config: TeacherConfig) -> list[str]:
    """The teachers that a section becomes.

    Raises:
        DataError: A file of functions cannot be read, or holds none.
    """
    if isinstance(config, FunctionsTeacherConfig):
        from distill.teachers.function_files import function_names

        return [f"{name}.{function}" for function in function_names(config)]
    if isinstance(config, QueryToolsTeacherConfig):
        return [f"{name}.{function}" for function in config.functions]
    if isinstance(config, RulesTeacherConfig) and config.decide == "each":
        return [f"{name}.{rule}" for rule in config.rules]
    return [name]


def teacher_problems(name: str, config: TeacherConfig, task: TaskConfig | None) -> Iterator[Problem]:
    """What is wrong with a section, as far as it can be told without running anything."""
    here: Location = ("teachers", name)
    if isinstance(config, FunctionsTeacherConfig):
        try:
            teacher_names(name, config)
        except DistillError as error:
            yield (*here, "path" if config.path else "module"), str(error)
    if task is None:
        return
    if isinstance(config, QueryToolsTeacherConfig):
        asked = (task.type, *(task.parts if task.type == "query_understanding" else ()))
        for function in config.functions:
            if TOOL_TASKS[function] not in asked:
                text = f"{function} answers {TOOL_TASKS[function]}, which the task does not ask; take it out"
                yield (*here, "functions"), text
    if isinstance(config, RulesTeacherConfig):
        yield from _rule_problems(here, config, task)
    if isinstance(config, ClassifierTeacherConfig):
        yield from _unknown_inputs(config.template_inputs, task, (*here, "second" if config.second else "first"))
    if isinstance(config, StudentTeacherConfig):
        yield from _student_problems(here, config, task)
    if isinstance(config, ClassifierTeacherConfig | StudentTeacherConfig):
        yield from _unknown_labels(config.label_map.values(), task, (*here, "label_map"))


def _rule_problems(here: Location, config: RulesTeacherConfig, task: TaskConfig) -> Iterator[Problem]:
    for name, rule in config.rules.items():
        place: Location = (*here, "rules", name)
        yield from _unknown_labels(rule.labels, task, (*place, "then"))
        for part, conditions in (("when", rule.when), ("unless", rule.unless)):
            for condition in conditions:
                yield from _unknown_inputs(_inputs_of(condition), task, (*place, part))


def _inputs_of(condition: Condition) -> list[str]:
    query = getattr(condition, "query", None)
    return [*condition.fields, *([query] if query else [])]


def _student_problems(here: Location, config: StudentTeacherConfig, task: TaskConfig) -> Iterator[Problem]:
    from distill.students.student_info import StudentInfo

    try:
        info = StudentInfo.read(config.path)
    except DistillError as error:
        yield (*here, "path"), str(error)
        return
    labels = [config.label_map.get(label, label) for label in info.labels]
    unknown = sorted(set(labels) - set(task.labels))
    if unknown:
        text = f"the student's labels {unknown} are none of {list(task.labels)}; give label_map"
        yield (*here, "path"), text
    if missing := [name for name in info.inputs if name not in task.inputs]:
        yield (*here, "path"), f"the student reads the inputs {missing}, the task has {list(task.inputs)}; add them"


def _unknown_labels(labels: Iterable[str], task: TaskConfig, place: Location) -> Iterator[Problem]:
    for label in dict.fromkeys(labels):
        if label not in task.labels:
            yield place, f"got {label!r}, which is not among the labels{suggest(label, task.labels)}"


def _unknown_inputs(names: Iterable[str], task: TaskConfig, place: Location) -> Iterator[Problem]:
    for name in dict.fromkeys(names):
        if name not in task.inputs:
            yield place, f"got the field {name!r}, which is not among task.inputs{suggest(name, task.inputs)}"
