"""Where a student's corrector finds its titles."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from distill.labeling.errors import RecipeError
from distill.recipe import load_recipe


def _recipe(folder: Path, *, corrector: dict[str, object], catalogue: bool = True) -> Path:
    pl.DataFrame({"query": ["red lmap"]}).write_csv(folder / "rows.csv")
    pl.DataFrame({"name": ["Red Lamp"]}).write_csv(folder / "products.csv")
    products = {"rows": "products.csv", "title": "name", "brand": None, "category": None}
    data = {"rows": "rows.csv", **({"catalogue": products} if catalogue else {})}
    recipe = {
        "version": 1,
        "name": "spelled",
        "data": data,
        "task": {"type": "spelling", "inputs": ["query"]},
        "students": {"small": {"type": "encoder", "train_on": "human", "corrector": corrector}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def test_titles_are_the_catalogues_where_none_are_named(tmp_path: Path) -> None:
    student = load_recipe(_recipe(tmp_path, corrector={})).students["small"]
    assert student.corrector.titles == str(tmp_path / "products.csv")  # type: ignore[union-attr]
    assert student.corrector.column == "name"  # type: ignore[union-attr]


def test_named_titles_are_found_beside_the_recipe_and_win(tmp_path: Path) -> None:
    pl.DataFrame({"title": ["Blue Lamp"]}).write_csv(tmp_path / "own.csv")
    student = load_recipe(_recipe(tmp_path, corrector={"titles": "own.csv"})).students["small"]
    assert student.corrector.titles == str(tmp_path / "own.csv")  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"students.small.corrector.titles: no such file: 'gone.csv'"):
        load_recipe(_recipe(tmp_path, corrector={"titles": "gone.csv"}))


def test_a_corrector_without_titles_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"students.small.corrector: has no titles; name a file in titles"):
        load_recipe(_recipe(tmp_path, corrector={}, catalogue=False))
