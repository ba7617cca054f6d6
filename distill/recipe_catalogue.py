"""What needs ``data.catalogue``, or parts of it, in other sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill.teachers.query_tools_config import CLICK_TOOLS
from distill.yaml_source import Location

if TYPE_CHECKING:
    from distill.recipe import Recipe

_COLUMNS = {
    "brand_dictionary": "brand",
    "clicked_brands": "brand",
    "category_vote": "category",
    "clicked_categories": "category",
}
"""Column of the catalogue that a tool reads."""


def with_titles(recipe: Recipe) -> Recipe:
    """The recipe, its students' correctors with the catalogue's titles where they name none of their own."""
    catalogue = recipe.data.catalogue if recipe.data else None
    found = dict(recipe.students)
    for name, student in recipe.students.items():
        corrector = getattr(student, "corrector", None)
        if catalogue is not None and corrector is not None and corrector.titles is None:
            own = corrector.model_copy(update={"titles": catalogue.rows, "column": catalogue.title})
            found[name] = student.model_copy(update={"corrector": own})
    return recipe.model_copy(update={"students": found})


def catalogue_problems(recipe: Recipe) -> Iterator[tuple[Location, str]]:
    """Problems, each with its place: a catalogue that is not there, lacks a column, or measures nothing."""
    catalogue = recipe.data.catalogue if recipe.data else None
    task = recipe.task
    for name, student in recipe.students.items():
        corrector = getattr(student, "corrector", None)
        if corrector is not None and corrector.titles is None:
            yield ("students", name, "corrector"), "has no titles; name a file in titles, or give data.catalogue"
    tools = [name for name, config in recipe.teachers.items() if config.type == "query_tools"]
    if catalogue is None:
        for name in tools:
            yield ("teachers", name, "type"), "query tools read a catalogue; give data.catalogue"
        if recipe.aggregate.checks:
            yield ("aggregate", "checks"), "searches a catalogue; give data.catalogue"
        return
    for name in tools:
        functions = getattr(recipe.teachers[name], "functions", ())
        for function, key in _COLUMNS.items():
            if function in functions and getattr(catalogue, key) is None:
                yield ("teachers", name, "functions"), f"{function} reads the {key}; give data.catalogue.{key}"
        clicking = [function for function in functions if function in CLICK_TOOLS]
        if clicking and catalogue.clicks is None:
            text = f"{', '.join(clicking)}: reads what shoppers clicked; give data.catalogue.clicks"
            yield ("teachers", name, "functions"), text
        for function in sorted({*clicking} - {"co_clicks"}):
            if catalogue.id is None:
                yield ("teachers", name, "functions"), f"{function} finds products by id; give data.catalogue.id"
    parts = () if task is None else (task.type, *(task.parts if task.type == "query_understanding" else ()))
    if recipe.aggregate.checks and "expansion" not in parts:
        yield ("aggregate", "checks"), "checks expansions, which the task does not ask; take it out"
    if catalogue.judgments is not None and catalogue.id is None:
        yield ("data", "catalogue", "judgments"), "names products by id; give data.catalogue.id"
    if catalogue.judgments is not None and "expansion" not in parts:
        yield ("data", "catalogue", "judgments"), "measures expansions, which the task does not ask; take it out"
