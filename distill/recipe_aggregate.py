"""What the ``aggregate`` section says of other sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distill.labeling.merging.aggregate_config import AggregateConfig
from distill.labeling.rows.data_config import DataConfig
from distill.recipe_problems import suggest
from distill.students.config import DcnConfig, StudentConfig
from distill.yaml_source import Location


def aggregate_problems(
    config: AggregateConfig, students: Mapping[str, StudentConfig], data: DataConfig | None
) -> Iterator[tuple[Location, str]]:
    """Problems of a recipe, each with its place: a student that is not there or too dear, gold that nobody gives."""
    if config.student is not None and (name := config.student.name) is not None:
        fit = [other for other, student in students.items() if isinstance(student, DcnConfig)]
        if name not in students:
            yield (
                ("aggregate", "student", "name"),
                f"no student {name!r}; leave it out, or name one{suggest(name, fit)}",
            )
        elif name not in fit:
            text = (
                f"{name!r} is of type {students[name].type}, which is trained once a fold; name a dcn, or leave it out"
            )
            yield ("aggregate", "student", "name"), text
    people = data is not None and bool(data.gold or data.decisions or data.annotations)
    if config.gold_splits and data is not None and not people:
        yield ("aggregate", "gold"), "no row has gold; give data.gold, data.annotations or data.decisions"
