"""Expansions that find something else than their query leave the vote, and nothing else of it changes."""

import polars as pl
import pytest

from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.expansion_filter import without_failed_expansions
from distill.labeling.task import Task

pytest.importorskip("bm25s")

PRODUCTS = pl.DataFrame(
    {
        "title": ["red garden hose 15 m", "green garden hose", "hosepipe reel", "running shoe", "trail running shoe"],
        "brand": [None] * 5,
        "category": ["Garden > Hoses"] * 3 + ["Shoes > Running"] * 2,
    }
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(PRODUCTS)


def test_of_a_single_task(catalogue):
    task = Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, most=6)
    votes = pl.DataFrame(
        {
            "row_id": ["a", "a", "b"],
            "teacher": ["model", "other", "model"],
            # hosepipe finds another product of the same category; running shoe drifts; a tractor finds nothing
            "texts": [["hosepipe", "running shoe", "tractor"], ["running shoe"], None],
        }
    )
    rows = pl.DataFrame({"row_id": ["a", "b"], "query": ["garden hose", "garden hose"]})
    found = without_failed_expansions(votes, rows, task=task, catalogue=catalogue)
    # A list of which nothing is left says nothing, as null does; it does not say that there is none.
    assert found.votes["texts"].to_list() == [["hosepipe"], None, None]
    assert found.counts == {
        "model": {"given": 3, "drifts": 1, "finds nothing": 1},
        "other": {"given": 1, "drifts": 1},
    }
    assert found.said() == "3 of 4 expansions left out (2 drifts, 1 finds nothing)"


def test_the_query_is_taken_as_the_same_teacher_corrected_it(catalogue):
    parts = (
        Task(labels=(), inputs=("query",), kind="text", type="spelling", part="spelling"),
        Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, part="expansion"),
    )
    task = Task(labels=(), inputs=("query",), kind="parts", type="query_understanding", parts=parts)
    # As typed it finds shoes ("running"), as corrected hoses.
    votes = pl.DataFrame(
        {
            "row_id": ["a"] * 4,
            "teacher": ["corrects", "corrects", "leaves", "leaves"],
            "part": ["spelling", "expansion"] * 2,
            "text": ["garden hose", None, "running hoes", None],
            "texts": [None, ["garden hose 15 m"], None, ["garden hose 15 m"]],
        }
    )
    rows = pl.DataFrame({"row_id": ["a"], "query": ["running hoes"]})
    found = without_failed_expansions(votes, rows, task=task, catalogue=catalogue)
    assert found.votes["texts"].to_list() == [None, ["garden hose 15 m"], None, None]
    assert found.votes["text"].to_list() == votes["text"].to_list()
