"""Query tools as teachers: each answers its own part, says how sure it is, and abstains where it has nothing to say."""

from __future__ import annotations

import polars as pl
import pytest
from pydantic import ValidationError

from distill.labeling.brands import BrandList
from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue_config import CatalogueConfig
from distill.labeling.task import Task
from distill.teachers.query_tools import QueryTools, query_tool_teachers
from distill.teachers.query_tools_config import QueryToolsTeacherConfig

pytest.importorskip("bm25s")

TITLES = ["acme garden hose"] * 6 + ["acme garden rake"] * 4 + ["running shoe by beta"] * 3
BRANDS = ["Acme"] * 10 + ["Beta"] * 3
CATEGORIES = ["Garden > Hoses"] * 6 + ["Garden > Rakes"] * 4 + ["Shoes"] * 3


@pytest.fixture
def catalogue(tmp_path) -> CatalogueConfig:
    pl.DataFrame({"title": TITLES, "brand": BRANDS, "category": CATEGORIES}).write_csv(tmp_path / "products.csv")
    return CatalogueConfig(rows=str(tmp_path / "products.csv"))


def task() -> Task:
    labels = ("Garden > Hoses", "Garden > Rakes", "Shoes")
    common = {"inputs": ("query",)}
    parts = (
        Task(labels=(), kind="text", type="spelling", part="spelling", **common),
        Task(
            labels=(),
            kind="spans",
            type="brand",
            types=("brand",),
            brands=BrandList.of([("Acme", ["아크메"])]),
            part="brand",
            **common,
        ),
        Task(labels=labels, kind="choice", type="category", several=True, part="category", **common),
        Task(labels=(), kind="text", type="expansion", several=True, part="expansion", **common),
    )
    return Task(labels=(), inputs=("query",), kind="parts", type="query_understanding", parts=parts)


def section(*functions: str, **settings: float) -> QueryToolsTeacherConfig:
    return QueryToolsTeacherConfig.model_validate({"type": "query_tools", "functions": functions, **settings})


def test_each_answers_its_part(catalogue):
    tools = QueryTools(task(), section("noisy_channel", trust=0.5), catalogue)
    said = {
        name: tools.function(name)({"query": "아크메 gardne hose"}) for name in ("noisy_channel", "brand_dictionary")
    }
    assert said["noisy_channel"]["spelling"].answer == "아크메 garden hose"
    # The alias is of the task's list; no product says so, and the trust in it is whole. Half of that is believed.
    assert said["brand_dictionary"] == {"brand": ([(0, 3)], 0.5)}
    found = tools.function("category_vote")({"query": "garden hose"})["category"]
    # Six hoses and four rakes are found, hoses first; both have a fifth of the vote.
    assert found.answer == ["Garden > Hoses", "Garden > Rakes"] and found.confidence == pytest.approx(0.5)
    assert tools.function("plain_rewrites")({"query": "hose 5 pounds"})["expansion"].answer == ["hose 5 lb"]


def test_what_it_cannot_say_it_leaves_out(catalogue):
    tools = QueryTools(task(), section("noisy_channel"), catalogue)
    query = {"query": "tractor"}
    names = ("brand_dictionary", "category_vote", "title_terms", "plain_rewrites")
    assert [tools.function(name)(query) for name in names] == [None] * 4
    # To leave a query as it is says something: that nothing is wrong.
    assert tools.function("noisy_channel")(query)["spelling"].answer == "tractor"


def test_a_task_of_one_kind_is_answered_without_a_part(catalogue):
    single = Task(labels=(), inputs=("query",), kind="text", type="spelling")
    said = QueryTools(single, section("noisy_channel"), catalogue).function("noisy_channel")({"query": "gardne rake"})
    assert said.answer == "garden rake" and 0 < said.confidence <= 0.6


def test_a_tool_for_what_is_not_asked_is_refused(catalogue):
    single = Task(labels=(), inputs=("query",), kind="text", type="spelling")
    with pytest.raises(DataError, match="category_vote answers category, which the task does not ask"):
        query_tool_teachers("tools", section("category_vote"), task=single, catalogue=catalogue)


def test_every_tool_is_a_family_of_its_own(catalogue):
    teachers = query_tool_teachers("tools", section("noisy_channel", "category_vote"), task=task(), catalogue=catalogue)
    assert [(one.name, one.family) for one in teachers] == [
        ("tools.noisy_channel", "noisy_channel"),
        ("tools.category_vote", "category_vote"),
    ]


def test_the_section_says_what_is_wrong():
    with pytest.raises(ValidationError, match="functions repeat"):
        section("noisy_channel", "noisy_channel")
    with pytest.raises(ValidationError, match="noisy_channel"):
        section("symspell")
