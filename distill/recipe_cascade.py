"""What ``labeling.cascade`` says of the other sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.task import TaskConfig
from distill.recipe_problems import suggest
from distill.teachers.config import TeacherConfig, spreads
from distill.teachers.model_config import ModelTeacherConfig
from distill.yaml_source import Location

_CASCADE: Location = ("labeling", "cascade")


def has_positive(task: TaskConfig | None) -> bool:
    """Whether the task has a positive label; true where there is no task to tell."""
    return task is None or task.positive is not None or task.type == "relevance"


def cascade_problems(
    labeling: LabelingConfig, teachers: Mapping[str, TeacherConfig], *, positive: bool
) -> Iterator[tuple[Location, str]]:
    """What does not fit, and where.

    Args:
        labeling: The section that holds the cascade, if any.
        teachers: The recipe's teachers.
        positive: Whether the task has a positive label.
    """
    cascade = labeling.cascade
    if cascade is None:
        return
    missing = [name for name in cascade.order if name not in teachers]
    for name in missing:
        yield (*_CASCADE, "order"), f"got {name!r}; give the names of two teachers{suggest(name, teachers)}"
    for name in cascade.order:
        if name in teachers and spreads(teachers[name]):
            yield (*_CASCADE, "order"), f"{name} is several teachers; give rules decide: first, or another teacher"
    if labeling.rows_per_request is not None:
        yield _CASCADE, "rows are asked one by one in a cascade; leave labeling.rows_per_request out, or the cascade"
    others = [name for name in teachers if name not in cascade.order]
    if others and not missing:
        yield (
            (*_CASCADE, "order"),
            f"has two teachers, and {', '.join(others)} would be asked beside them about every row; take "
            f"{'it' if len(others) == 1 else 'them'} out of teachers, or run without a cascade",
        )
    if cascade.measure == "positive_precision" and not positive:
        yield (*_CASCADE, "measure"), "got positive_precision, and the task has no positive label; give task.positive"
    if cascade.measure != "agreement" and not {"train", "audit"} & set(labeling.splits):
        yield (
            (*_CASCADE, "measure"),
            f"got {cascade.measure}, which needs gold of splits train or audit, and neither is asked; add one to "
            "labeling.splits, or take agreement",
        )
    cheap = teachers.get(cascade.cheap)
    # What recorded replies hold is known only when they are read.
    if cheap is not None and cheap.type != "recorded" and labeling.samples == 1 and _says_a_bare_label(cheap):
        yield (
            (*_CASCADE, "order"),
            f"{cascade.cheap} is to give bare labels, and nothing would tell which of them to keep; give "
            f"teachers.{cascade.cheap}.probs: confidence (or a lane that reads log-probabilities), or labeling.samples "
            "of 2 or more",
        )


def _says_a_bare_label(config: TeacherConfig) -> bool:
    """Whether it can give bare labels alone: no lane of probabilities, none stated, none sampled."""
    if not isinstance(config, ModelTeacherConfig) or config.probs != "none":
        return False
    sampled = max(getattr(config, "samples_per_request", 1), getattr(config, "samples", 1))
    return sampled == 1 and getattr(config, "lane", "json") == "json"
