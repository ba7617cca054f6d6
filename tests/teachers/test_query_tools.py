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


@pytest.fixture
def clicked(catalogue, tmp_path) -> CatalogueConfig:
    """The same products with ids, and what was clicked: after garden hose hoses, after beta runners a shoe, a rake."""
    products = pl.read_csv(tmp_path / "products.csv").with_row_index("sku")
    products.write_csv(tmp_path / "products.csv")
    lines = [("garden hose", 0, 6), ("water pipe", 0, 6), ("water pipe", 1, 2), ("beta runners", 10, 3)]
    lines += [("beta runners", 9, 1), ("Beta runners", 99, 50)]  # 99 is no product any more
    pl.DataFrame(lines, schema=["query", "product_id", "n"], orient="row").write_csv(tmp_path / "clicks.csv")
    settings = catalogue.model_dump() | {"id": "sku", "clicks": {"rows": str(tmp_path / "clicks.csv"), "clicks": "n"}}
    return CatalogueConfig.model_validate(settings)


def test_what_was_clicked_answers_expansion_category_and_brand(clicked):
    tools = QueryTools(task(), section("co_clicks", trust=1.0), clicked)
    said = {
        (name, query): tools.function(name)({"query": query})
        for name in ("co_clicks", "clicked_categories", "clicked_brands")
        for query in ("garden hose", "BETA runners", "tractor")
    }
    assert said["co_clicks", "garden hose"]["expansion"].answer == ["water pipe"]
    assert said["co_clicks", "BETA runners"] is None
    # Three clicks of a shoe and one of a rake weigh log 4 and log 2: two thirds and one. Of 4 clicks 4 / (4 + 2) is
    # believed.
    found = said["clicked_categories", "BETA runners"]["category"]
    assert found.answer == ["Shoes", "Garden > Rakes"] and found.confidence == pytest.approx(4 / 6)
    found = said["clicked_categories", "garden hose"]["category"]
    assert found.answer == ["Garden > Hoses"] and found.confidence == pytest.approx(6 / 8)
    # Beta has two thirds of the clicks; Acme is clicked after "garden hose", which does not name it.
    assert said["clicked_brands", "BETA runners"]["brand"] == ([(0, 4)], pytest.approx(4 / 6 * 2 / 3))
    assert said["clicked_brands", "garden hose"] is None
    assert [said[name, "tractor"] for name in ("co_clicks", "clicked_categories", "clicked_brands")] == [None] * 3


def test_how_far_clicks_are_believed_is_set(clicked):
    def believed(**settings: float) -> float | None:
        tools = QueryTools(task(), section("co_clicks", trust=1.0, **settings), clicked)
        found = tools.function("co_clicks")({"query": "garden hose"})
        return found and found["expansion"].confidence

    whole = believed(shrinkage=0.0)
    assert believed(shrinkage=2.0) == pytest.approx(whole * 6 / 8)  # six clicks are shared
    assert believed(similarity=whole, shrinkage=2.0) is None


def test_clicks_that_are_not_there_are_asked_for(catalogue):
    with pytest.raises(DataError, match=r"co_clicks reads clicks, got none; give data\.catalogue\.clicks"):
        query_tool_teachers("tools", section("co_clicks"), task=task(), catalogue=catalogue)


def test_a_task_with_wider_categories_gets_the_nearest_above(clicked):
    wide = Task(labels=("Garden", "Shoes"), inputs=("query",), kind="choice", type="category", several=True)
    tools = QueryTools(wide, section("category_vote", trust=1.0), clicked)
    # Hoses and rakes are both of the garden, and their shares add up; no label is above "Shoes" but itself.
    found = tools.function("category_vote")({"query": "garden hose"})
    assert found.answer == ["Garden"] and found.confidence == pytest.approx(1.0)
    assert tools.function("clicked_categories")({"query": "beta runners"}).answer == ["Shoes", "Garden"]
    other = Task(labels=("Pets", "Toys"), inputs=("query",), kind="choice", type="category", several=True)
    assert QueryTools(other, section("category_vote"), clicked).function("category_vote")({"query": "rake"}) is None
