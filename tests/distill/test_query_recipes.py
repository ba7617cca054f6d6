"""Recipes of query tasks: evidence from the catalogue, tools that read it, checks, measurement, ladder and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import distill
from distill.labeling.errors import DataError, RecipeError, RunFolderError, UsageError
from distill.recipe import load_recipe
from distill.runs import joined_ladder

pytest.importorskip("bm25s")

ROWS = [
    {"id": "q0", "query": "acme gardne hose", "split": "test", "corrected": "acme garden hose", "brand": ["acme"]},
    {"id": "q1", "query": "running shoe", "split": "test", "corrected": "running shoe", "brand": []},
    {"id": "q2", "query": "garden rake", "split": "test", "corrected": "garden rake", "brand": []},
    {"id": "q3", "query": "garden hose", "split": "pool"},
]
EXPANSIONS = {
    "q0": ["garden hose", "running shoe"],
    "q1": ["shoe for running"],
    "q2": ["rake"],
    "q3": ["hose", "spaceship"],
}
PRODUCTS = [
    *({"sku": f"h{n}", "title": "acme garden hose", "brand": "Acme", "category": "Garden > Hoses"} for n in range(4)),
    *({"sku": f"r{n}", "title": "garden rake", "brand": "Oak", "category": "Garden > Rakes"} for n in range(3)),
    *({"sku": f"s{n}", "title": "running shoe", "brand": "Beta", "category": "Shoes"} for n in range(3)),
]
CORRECTIONS = {"q0": "acme garden hose", "q1": "running shoes", "q2": "garden rake", "q3": "garden hose"}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    lines(tmp_path / "rows.jsonl", ROWS)
    lines(tmp_path / "products.jsonl", PRODUCTS)
    replies = [
        {
            "id": row["id"],
            "reply": json.dumps(
                {"corrected": CORRECTIONS[row["id"]], "brand": None, "expansions": EXPANSIONS[row["id"]]}
            ),
        }
        for row in ROWS
    ]
    lines(tmp_path / "replies.jsonl", replies)
    return tmp_path


def recipe(folder: Path, *, data: dict[str, Any] | None = None, **sections: Any) -> Path:
    import yaml

    written: dict[str, Any] = {
        "version": 1,
        "name": "queries",
        "data": {
            "rows": "rows.jsonl",
            "id": "id",
            "split": "split",
            "gold": {"spelling": "corrected", "brand": "brand"},
            "catalogue": {"rows": "products.jsonl", "id": "sku", "titles": 2},
            **(data or {}),
        },
        "task": {
            "type": "query_understanding",
            "parts": ["spelling", "brand", "expansion"],
            "inputs": ["query"],
            "evidence": ["near_titles", "near_brands"],
        },
        "teachers": {
            "model": {"type": "recorded", "path": "replies.jsonl", "id": "id", "family": "llm"},
            "tools": {"type": "query_tools", "functions": ["noisy_channel", "brand_dictionary"]},
        },
        "labeling": {"splits": ["pool", "test"]},
        "aggregate": {"type": "family_vote", "checks": ["expansions"]},
        "eval": {"bootstrap": 100},
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in written.items() if value is not None}))
    return path


def test_what_the_catalogue_has_near_stands_in_the_rows(folder):
    run = distill.run(recipe(folder), until="data")
    rows = {row["row_id"]: row for row in run.rows.iter_rows(named=True)}
    assert rows["q1"]["near_titles"] == "running shoe\nrunning shoe"
    assert rows["q1"]["near_brands"] == "Beta (3 of 3)" and rows["q1"]["near_categories"] == "Shoes (3 of 3)"
    before = json.loads((run.path / "stages.json").read_text())["data"]["fingerprint"]
    # Judgments change nothing that judges see; a product does.
    again = distill.run(
        recipe(folder, data={"catalogue": {"rows": "products.jsonl", "id": "sku", "titles": 2}}), until="data"
    )
    assert json.loads((again.path / "stages.json").read_text())["data"]["fingerprint"] == before
    lines(folder / "products.jsonl", [*PRODUCTS, {**PRODUCTS[-1], "sku": "s3", "brand": "Gamma"}])
    changed = distill.run(recipe(folder), until="data")
    assert changed.rows.filter(row_id="q1")["near_brands"].item() == "Beta (3 of 4)\nGamma (1 of 4)"


def test_votes_of_tools_and_of_a_model_are_merged_for_real(folder):
    run = distill.run(recipe(folder), until="aggregate")
    families = dict(run.votes.select("teacher", "family").unique().iter_rows())
    assert families == {
        "model": "llm",
        "tools.noisy_channel": "noisy_channel",
        "tools.brand_dictionary": "brand_dictionary",
    }
    own = run.votes.filter(teacher="tools.noisy_channel", outcome="labeled")
    assert set(own["part"]) == {"spelling"} and own["confidence"].max() <= 0.6
    # q3 hose and rake share most of their products; a running shoe drifts from a hose, a spaceship finds nothing.
    facts = json.loads((run.path / "stages.json").read_text())["aggregate"]["facts"]
    assert facts["checks"] == {"model": {"given": 6, "drifts": 1, "finds nothing": 1}}
    texts = dict(run.labels.filter(part="expansion").select("row_id", "texts").iter_rows())
    assert texts["q0"] == ["garden hose"] and texts["q3"] == ["hose"]
    unchecked = distill.run(recipe(folder, aggregate={"type": "family_vote"}), until="aggregate", out="unchecked")
    assert (
        dict(unchecked.labels.filter(part="expansion").select("row_id", "texts").iter_rows())["q3"] == EXPANSIONS["q3"]
    )


def test_each_part_is_measured_and_stands_on_the_ladder(folder):
    run = distill.run(recipe(folder))
    measured = run.query_measurement
    # Nobody gave expansions or judged products, and there is no student to hold against the merged ones.
    assert [part.part for part in measured.parts] == ["spelling", "brand"]
    spelling = measured.parts[0]
    by_name = {one.name: one for one in spelling.evaluations}
    assert list(by_name) == ["model", "merged labels", "tools.noisy_channel"]
    # The model changes one of two right queries (running shoes), the tool none; both mend the one slip.
    assert by_name["model"].metrics["left_alone"].value == 0.5
    assert by_name["tools.noisy_channel"].metrics["left_alone"].value == 1.0
    assert by_name["model"].metrics["brand_over_correction"].value == 0.0
    ladder = run.ladder
    assert [(row.part, row.metric) for row in ladder.rows[:1]] == [("spelling", "word_f05")]
    assert ladder.best is None and "spelling · model (teacher)" in ladder.to_markdown()
    second = distill.run(recipe(folder), out="second")
    both = joined_ladder([run.path, second.path])
    assert len(both.rows) == 2 * len(ladder.rows) and not both.differences
    with pytest.raises(RunFolderError, match="no single labels"):
        _ = run.evaluations
    assert "Brands" in run.reports["run report"].read_text(encoding="utf-8")


def test_expansions_are_measured_on_judged_products(folder):
    judged = [{"query": "garden rake", "product_id": f"r{n}", "label": "exact"} for n in range(3)]
    judged += [{"query": "running shoe", "product_id": "h0", "label": "irrelevant"}]
    lines(folder / "judged.jsonl", judged)
    catalogue = {"rows": "products.jsonl", "id": "sku", "judgments": {"rows": "judged.jsonl"}}
    run = distill.run(recipe(folder, data={"catalogue": catalogue}))
    part = run.query_measurement.parts[-1]
    assert (part.part, part.judged, part.rows, part.metric) == ("expansion", True, 2, "ndcg")
    assert part.evaluations[0].metrics["recall"].value == 1.0


def test_a_judgment_without_a_gain_is_refused(folder):
    lines(folder / "judged.jsonl", [{"query": "garden rake", "product_id": "r0", "label": "good"}])
    catalogue = {"rows": "products.jsonl", "id": "sku", "judgments": {"rows": "judged.jsonl"}}
    with pytest.raises(DataError, match=r"says \['good'\]; gains names"):
        distill.run(recipe(folder, data={"catalogue": catalogue}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"catalogue": None}}, "teachers.tools.type: query tools read a catalogue"),
        ({"data": {"catalogue": None}}, "aggregate.checks: searches a catalogue"),
        (
            {"data": {"catalogue": {"rows": "products.jsonl", "brand": None}}},
            "teachers.tools.functions: brand_dictionary reads the brand",
        ),
        (
            {"data": {"catalogue": {"rows": "products.jsonl", "judgments": {"rows": "rows.jsonl"}}}},
            "data.catalogue.judgments: names products by id",
        ),
        ({"data": {"catalogue": {"rows": "nowhere.csv"}}}, "data.catalogue.rows: no such file"),
        (
            {"teachers": {"tools": {"type": "query_tools", "functions": ["category_vote"]}}},
            "teachers.tools.functions: category_vote answers category, which the task does not ask",
        ),
    ],
)
def test_what_does_not_fit_is_said_at_once(folder, sections, said):
    with pytest.raises(RecipeError, match=said.replace("[", r"\[")):
        load_recipe(recipe(folder, **sections))


def test_evidence_that_the_catalogue_does_not_give_is_refused(folder):
    catalogue = {"rows": "products.jsonl", "brand": None}
    tools = {"model": {"type": "recorded", "path": "replies.jsonl", "id": "id", "family": "llm"}}
    with pytest.raises(DataError, match=r"task.evidence: \['near_brands'\] need columns"):
        distill.run(recipe(folder, data={"catalogue": catalogue}, teachers=tools), until="data")


def test_what_needs_single_labels_says_so(folder):
    run = distill.run(recipe(folder))
    with pytest.raises(UsageError, match=r"review: .*no single label"):
        run.write_review()


def test_a_run_whose_test_rows_nobody_answered_says_that_there_is_nothing_to_measure(folder):
    lines(folder / "rows.jsonl", [{"id": row["id"], "query": row["query"], "split": row["split"]} for row in ROWS])
    run = distill.run(recipe(folder, data={"gold": None}))
    assert run.query_measurement.parts == [] and run.ladder.rows == []
    assert "nothing to measure against" in run.reports["run report"].read_text(encoding="utf-8")


def test_rows_take_their_evidence_in_a_notebook_too(folder):
    config = load_recipe(recipe(folder))
    given = {"id": "id", "split": "split", "catalogue": {"rows": str(folder / "products.jsonl"), "id": "sku"}}
    rows = distill.read_rows(pl.DataFrame(ROWS).select("id", "query", "split"), config.task, data=given)
    assert rows["near_brands"].to_list()[1] == "Beta (3 of 3)"


CLICKS = [("garden hose", "h0", 9), ("acme hose", "h0", 9), ("acme hose", "h1", 1), ("running shoe", "s0", 4)]


def clicking(folder: Path, *functions: str, **clicks: Any) -> Path:
    """The recipe with tools that read a click log."""
    log = {"rows": "clicks.csv", "clicks": "clicks", **clicks}
    return recipe(
        folder,
        data={"catalogue": {"rows": "products.jsonl", "id": "sku", "clicks": log}},
        teachers={"tools": {"type": "query_tools", "functions": list(functions)}},
    )


def test_queries_that_lead_to_the_same_products_expand_one_another(folder):
    written = pl.DataFrame(CLICKS, schema=["query", "product_id", "clicks"], orient="row")
    written.write_csv(folder / "clicks.csv")
    run = distill.run(clicking(folder, "co_clicks", "clicked_brands"), until="aggregate")
    texts = dict(run.labels.filter(part="expansion").select("row_id", "texts").iter_rows())
    assert texts["q3"] == ["acme hose"] and texts["q0"] is None  # nobody clicked after the misspelled query
    marks = json.loads((run.path / "stages.json").read_text())
    # Another log asks the tools anew, and leaves rows and evidence as they are; so does another column.
    pl.concat([written, written[:1].with_columns(query=pl.lit("acme garden"))]).write_csv(folder / "clicks.csv")
    run = distill.run(clicking(folder, "co_clicks", "clicked_brands"), until="aggregate")
    texts = dict(run.labels.filter(part="expansion").select("row_id", "texts").iter_rows())
    assert sorted(texts["q3"]) == ["acme garden", "acme hose"]
    again = json.loads((run.path / "stages.json").read_text())
    assert again["data"]["fingerprint"] == marks["data"]["fingerprint"]
    assert again["label"]["fingerprint"] != marks["label"]["fingerprint"]
    other = distill.run(clicking(folder, "co_clicks", "clicked_brands", clicks=None), until="aggregate")
    assert json.loads((other.path / "stages.json").read_text())["label"]["fingerprint"] != again["label"]["fingerprint"]


@pytest.mark.parametrize(
    ("catalogue", "said"),
    [
        ({"id": "sku"}, "teachers.tools.functions: co_clicks, clicked_brands: reads what shoppers clicked"),
        ({"clicks": {"rows": "rows.jsonl"}}, "teachers.tools.functions: clicked_brands finds products by id"),
        (
            {"id": "sku", "brand": None, "clicks": {"rows": "rows.jsonl"}},
            "teachers.tools.functions: clicked_brands reads the brand",
        ),
        ({"id": "sku", "clicks": {"rows": "nowhere.csv"}}, "data.catalogue.clicks.rows: no such file"),
    ],
)
def test_tools_that_read_clicks_say_what_they_lack(folder, catalogue, said):
    tools = {"tools": {"type": "query_tools", "functions": ["co_clicks", "clicked_brands"]}}
    path = recipe(folder, data={"catalogue": {"rows": "products.jsonl", **catalogue}}, teachers=tools)
    with pytest.raises(RecipeError, match=said):
        load_recipe(path)
