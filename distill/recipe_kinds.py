"""What a task whose answer is no single label says of the other sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distill.labeling.merging.merge_answers import ANSWER_METHODS
from distill.yaml_source import Location

if TYPE_CHECKING:
    from distill.labeling.task import Task, TaskConfig
    from distill.recipe import Recipe
    from distill.rounds_config import RoundsConfig
    from distill.teachers.config import TeacherConfig

Problem = tuple[Location, str]

_CLOSED_TEACHERS = ("classifier", "student", "rules")
_TREE_METHODS = (*ANSWER_METHODS, "weighted_family_vote")


def kind_problems(recipe: Recipe) -> Iterator[Problem]:
    """What does not fit the task's kind, and where."""
    task = recipe.task
    if task is None:
        return
    if recipe.data is not None and isinstance(recipe.data.gold, dict) and task.type != "query_understanding":
        yield ("data", "gold"), "gives a column by part, and only a query_understanding task has parts; name one column"
    if task.type in ("relevance", "choice") and task.closed:
        return
    methods = _TREE_METHODS if task.closed else ANSWER_METHODS
    if recipe.aggregate.type not in methods:
        text = f"got {recipe.aggregate.type}; a task of type {task.type} is merged by one of {', '.join(methods)}"
        yield ("aggregate", "type"), text
    if recipe.labeling.cascade is not None:
        yield ("labeling", "cascade"), "a cascade needs a task of type relevance or choice with one label; take it out"
    if recipe.monitor is not None:
        yield ("monitor",), "drift is told of students with one label a row; take it out"
    for key in ("gold", "student"):
        if getattr(recipe.aggregate, key):
            yield ("aggregate", key), "needs a task of type relevance or choice with one label; take it out"
    if task.closed:
        return
    if recipe.rounds is not None:
        yield from _rounds_problems(recipe.rounds)
    yield from _labeling_problems(recipe, task)
    for name, config in recipe.teachers.items():
        yield from _teacher_problems(name, config, task)


def _rounds_problems(rounds: RoundsConfig) -> Iterator[Problem]:
    """What reads one distribution a row, where answers are no single label."""
    for rule in ("uncertainty", "disagreement"):
        if rounds.choose.get(rule):
            text = "reads a distribution over the labels of a closed set; use random, diversity or frequency"
            yield ("rounds", "choose", rule), text
    if rounds.recheck is not None:
        text = "doubts single labels by what others' labels say of them; take it out for tasks of other answers"
        yield ("rounds", "recheck"), text


def _labeling_problems(recipe: Recipe, task: TaskConfig) -> Iterator[Problem]:
    labeling = recipe.labeling
    for key, why in (
        ("watch", "compares single labels with gold"),
        ("canaries", "plants a label"),
    ):
        if getattr(labeling, key) is not None:
            yield ("labeling", key), f"{why}, and the answers of a {task.type} task are none; take it out"
    if labeling.near_duplicates == "share" and task.type not in ("choice", "category"):
        yield (
            ("labeling", "near_duplicates"),
            "spans and texts belong to the letters of their own row, so near-duplicates cannot share them; take ask",
        )
    if recipe.aggregate.clause_agreement:
        yield ("aggregate", "clause_agreement"), f"weighs single labels; take it out for a task of type {task.type}"


def _teacher_problems(name: str, config: TeacherConfig, task: TaskConfig) -> Iterator[Problem]:
    here: Location = ("teachers", name)
    if config.type in _CLOSED_TEACHERS:
        text = f"a teacher of type {config.type} gives one label of a closed set; take it out for type {task.type}"
        yield (*here, "type"), text
    lane = getattr(config, "lane", "json")
    if lane in ("decision", "logprobs"):
        yield (*here, "lane"), f"got {lane}, which gives probabilities of one label of a closed set; use lane: json"
    if getattr(config, "probs", "none") == "distribution":
        yield (*here, "probs"), "got distribution, which is over one label of a closed set; use confidence, or none"
    if getattr(config, "samples_per_request", 1) > 1:
        yield (*here, "samples_per_request"), "counts single labels; use labeling.samples, which asks again"
    if getattr(config, "rationale_for", None):
        yield (*here, "rationale_for"), "explains known labels, and these answers are none; take it out"


def for_task(config: Any, task: Task | TaskConfig | None) -> Any:
    """A teacher's section as its task needs it: where an answer is no single label, it is written as JSON."""
    if task is None or task.closed or getattr(config, "lane", None) != "auto":
        return config
    return config.model_copy(update={"lane": "json"})
