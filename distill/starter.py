"""The recipes that ship: listed, shown, copied; and the starter that ``distill init`` lays out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from distill.labeling.errors import RecipeError, UsageError
from distill.labeling.queries.catalogue_file import catalogue_files
from distill.recipe import find_recipe, load_recipe, shipped_recipes
from distill.teachers.registry import files_of

_STARTER = Path(__file__).parent / "recipes" / "starter"


def copy_starter(folder: Path) -> list[Path]:
    """Lays out a recipe, a guideline and sample rows, to be replaced by one's own.

    Returns:
        The files written.

    Raises:
        UsageError: One of them is there already.
    """
    return _copy([(source, folder / source.name) for source in sorted(_STARTER.iterdir())])


def describe_recipes() -> list[str]:
    """One line a recipe: its name and the first line of its comment."""
    lines = []
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        lines.append(f"{name:<20} {first.removeprefix('#').strip()}")
    return lines


def show_recipe(name: str | None) -> str:
    """A recipe's text."""
    return _shipped(name).read_text(encoding="utf-8")


def copy_recipe(name: str | None, to: Path | None) -> list[Path]:
    """Copies a recipe and the folder of files that goes with it.

    Args:
        name: A recipe that ships.
        to: A folder, or the new recipe's file; the current folder where none is given.

    Returns:
        The files written.

    Raises:
        UsageError: One of them is there already.
    """
    source = _shipped(name)
    target = to or Path()
    file = target if target.suffix in (".yaml", ".yml") else target / source.name
    pairs = [(source, file)]
    for companion in _companions(source):
        pairs.append((companion, file.parent / companion.relative_to(source.parent.absolute())))
    return _copy(pairs)


def _shipped(name: str | None) -> Path:
    if name is None:
        raise UsageError(f"recipes: name one of {', '.join(shipped_recipes())}")
    return find_recipe(name)


def _companions(source: Path) -> list[Path]:
    """Files beside a shipped recipe that it names."""
    try:
        recipe = load_recipe(source)
    except RecipeError:
        return []  # Its data is not part of the package, so there is nothing to go with it.
    named: list[Path] = []
    if recipe.data:
        named += [
            Path(rows) for rows in ([recipe.data.rows] if isinstance(recipe.data.rows, str) else recipe.data.rows)
        ]
    if recipe.data and recipe.data.catalogue:
        named += catalogue_files(recipe.data.catalogue)
    task = recipe.task
    listed = (task.guideline, task.categories, task.brands) if task else ()
    named += [path for path in listed if isinstance(path, Path)]
    named += [file for teacher in recipe.teachers.values() for file in files_of(teacher)]
    return [path for path in dict.fromkeys(named) if path.is_file() and path.is_relative_to(source.parent.absolute())]


def _copy(pairs: Sequence[tuple[Path, Path]]) -> list[Path]:
    taken = [str(target) for _, target in pairs if target.exists()]
    if taken:
        raise UsageError(f"{', '.join(taken)}: already there; nothing was copied, choose another folder")
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return [target for _, target in pairs]
