"""What ``rounds`` says of the other sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from distill.recipe_problems import suggest
from distill.rounds_config import RoundsConfig
from distill.students.config import HUMAN, StudentConfig
from distill.teachers.config import TeacherConfig, spreads
from distill.teachers.model_config import ModelTeacherConfig
from distill.yaml_source import Location

if TYPE_CHECKING:
    from distill.recipe import Recipe

CHOOSABLE = ("pool", "train")
"""Splits whose rows a round chooses from. Rows of the others are asked whole in the first round, so that every round
is measured against the same labels."""


def deciding_student(recipe: Recipe) -> str:
    """The student whose predictions choose rows and whose gain decides."""
    assert recipe.rounds is not None
    return recipe.rounds.student or learners(recipe.students)[-1]


def learners(students: Mapping[str, StudentConfig]) -> list[str]:
    """The students that change from round to round: those that learn from teachers."""
    return [name for name, config in students.items() if set(config.train_on) != {HUMAN}]


def rounds_problems(recipe: Recipe) -> Iterator[tuple[Location, str]]:
    """What does not fit, and where."""
    rounds, able = recipe.rounds, learners(recipe.students)
    if rounds is None:
        return
    if not able:
        text = "there is no student that learns from labels or a teacher, and rounds are for those; add one to students"
        yield ("rounds",), text
    elif rounds.student is not None and rounds.student not in recipe.students:
        yield (
            ("rounds", "student"),
            f"got {rounds.student!r}; give the name of a student{suggest(rounds.student, able)}",
        )
    elif rounds.student is not None and rounds.student not in able:
        text = (
            f"{rounds.student} learns from people alone and is the same in every round{suggest(rounds.student, able)}"
        )
        yield ("rounds", "student"), text
    if rounds.choose.get("disagreement") and len(recipe.students) < 2:
        yield (
            ("rounds", "choose", "disagreement"),
            "students are to differ, and there is one; add another, or leave it out",
        )
    if recipe.labeling.cascade is not None:
        text = (
            "a cascade sets its threshold on all rows at once, and rounds ask a few at a time; leave one of the two out"
        )
        yield ("rounds",), f"{text} (rounds.recheck has a stronger teacher asked where a label is doubted)"
    if not set(CHOOSABLE) & set(recipe.labeling.splits):
        yield (
            ("rounds",),
            "rows are chosen from splits pool and train, and neither is asked; add one to labeling.splits",
        )
    yield from _recheck_problems(recipe, rounds)
    yield from _budget_problems(recipe.teachers, rounds)


def _recheck_problems(recipe: Recipe, rounds: RoundsConfig) -> Iterator[tuple[Location, str]]:
    if rounds.recheck is None:
        return
    name, place = rounds.recheck.teacher, ("rounds", "recheck", "teacher")
    if name not in recipe.teachers:
        yield place, f"got {name!r}; give the name of a teacher{suggest(name, recipe.teachers)}"
        return
    if spreads(recipe.teachers[name]):
        yield place, f"{name} is several teachers; give one"
    if len(recipe.teachers) == 1:
        yield place, f"{name} is the only teacher, and would be left to label nothing but doubts; add one that labels"
    for student, config in recipe.students.items():
        if name in config.train_on:
            text = f"{name} answers a few doubted rows (rounds.recheck); its labels are part of labels: give that"
            yield ("students", student, "train_on"), text


def _budget_problems(teachers: Mapping[str, TeacherConfig], rounds: RoundsConfig) -> Iterator[tuple[Location, str]]:
    if rounds.budget_usd is None:
        return
    for name, config in teachers.items():
        if isinstance(config, ModelTeacherConfig) and config.known_price is None:
            text = f"cannot see what {name} costs; give teachers.{name}.price (0 where it costs nothing)"
            yield ("rounds", "budget_usd"), text
