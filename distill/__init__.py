"""Turns large-model judgments into small, fast, trustworthy models for product search.

The names below are the public API; each loads what it needs when it is first used, so that ``import distill``
costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api import (
        aggregate,
        analyze_labeling_functions,
        evaluate,
        label,
        load_student,
        read_rows,
        review,
        train,
    )
    from distill.labeling.errors import DistillError
    from distill.labeling.guideline import Guideline
    from distill.labeling.labeling_function import ABSTAIN, LabelingFunction, labeling_function
    from distill.labeling.task import Task
    from distill.recipe import Recipe, load_recipe
    from distill.runner import run
    from distill.runs import Run

__all__ = [
    "ABSTAIN",
    "DistillError",
    "Guideline",
    "LabelingFunction",
    "Recipe",
    "Run",
    "Task",
    "aggregate",
    "analyze_labeling_functions",
    "evaluate",
    "label",
    "labeling_function",
    "load_recipe",
    "load_student",
    "read_rows",
    "review",
    "run",
    "train",
]

_HOME = {
    "ABSTAIN": "distill.labeling.labeling_function",
    "DistillError": "distill.labeling.errors",
    "Guideline": "distill.labeling.guideline",
    "LabelingFunction": "distill.labeling.labeling_function",
    "Recipe": "distill.recipe",
    "Run": "distill.runs",
    "Task": "distill.labeling.task",
    "aggregate": "distill.api",
    "analyze_labeling_functions": "distill.api",
    "evaluate": "distill.api",
    "label": "distill.api",
    "labeling_function": "distill.labeling.labeling_function",
    "load_recipe": "distill.recipe",
    "load_student": "distill.api",
    "read_rows": "distill.api",
    "review": "distill.api",
    "run": "distill.runner",
    "train": "distill.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("distill")
    if name not in _HOME:
        raise AttributeError(f"module 'distill' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
