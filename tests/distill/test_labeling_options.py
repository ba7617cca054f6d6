"""Canaries, the watch, shared answers, examples and cut rows, through a recipe and through the library."""

from __future__ import annotations

import json

import polars as pl
import pytest

import distill
from distill.run_folder import RunFolder

OPTIONS = {
    "splits": ["pool", "train", "audit"],
    "canaries": {"share": 0.05, "at_least": 5},
    "watch": {"below": 0.9, "after": 6},
    "near_duplicates": "share",
    "near_duplicate_audit": 0.0,
    "examples": {"count": 2},
    "row_tokens": 60,
    "concurrency": 2,
}


@pytest.fixture
def twins(shop):
    """The shop, with every pool row a second time under another writing of its query, and two long titles."""
    rows = pl.read_csv(shop / "rows.csv").with_columns(
        label=pl.when(pl.col("split") == "pool").then(None).otherwise(pl.col("label"))
    )
    again = rows.filter(pl.col("split") == "pool").with_columns(
        row_id=pl.concat_str([pl.lit("t-"), "row_id"]), query=pl.col("query").str.replace("red shoe", "Red  Shoes")
    )
    rows = pl.concat([rows, again])
    long = pl.col("row_id").is_in(["q1-0", "q1-1"])
    rows.with_columns(title=pl.when(long).then(pl.col("title") + " x" * 400).otherwise("title")).write_csv(
        shop / "rows.csv"
    )
    return shop


def test_a_recipe_with_everything_on(twins, recipe, cli, fault_server):
    recipe(teachers=fault_server.base_url, labeling=OPTIONS)
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"][0]
    # 12 pool rows and 12 twins, of which one each is asked; 12 train, 12 audit, 5 canaries. Two of the pool rows have a
    # long title that their twins lack, which makes them other rows: 10 share, 2 are cut.
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    folder = RunFolder(twins / "runs/shop")
    rows, votes = pl.read_parquet(folder.rows), pl.read_parquet(folder.votes)
    asked = rows.filter(pl.col("split") != "test")
    assert sorted(votes["row_id"]) == sorted(asked["row_id"])
    shared = votes["shared_from"].is_not_null().sum()
    assert shared == planned["shared"] == 10
    assert (planned["canaries"], planned["rows"], planned["rows_cut"]) == (5, len(asked) - 10 + 5, 2)
    assert planned["to_send"] + planned["in_ledger"] + planned["duplicates"] == planned["rows"]
    labels = pl.read_parquet(folder.labels)
    assert not labels["row_id"].str.starts_with("canary:").any() and len(labels) == len(asked)
    assert len(pl.read_parquet(folder.canaries)) == 5
    facts = folder.stage("label").facts
    assert sum(facts["outcomes"].values()) == len(asked)
    assert facts["quality"]["one"]["metric"] == "accuracy" and facts["breaches"]["one"]["asked"] == 5
    assert facts["fields_cut"] == {"title": 2}
    report = (twins / "runs/shop/report.md").read_text()
    assert "10 rows took the answer of a near-duplicate" in report and "2 rows were too long" in report


def test_a_second_run_asks_nothing_and_without_canaries_their_table_goes(twins, recipe, cli, fault_server):
    options = {**OPTIONS, "watch": None}
    recipe(teachers=fault_server.base_url, labeling=options)
    assert cli("run", "recipe.yaml", "--until", "label").code == 0
    folder, sent = RunFolder(twins / "runs/shop"), len(fault_server.requests)
    assert folder.stage("label").facts["requests_sent"] == sent
    assert cli("run", "recipe.yaml", "--until", "label").code == 0
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"][0]
    assert planned["to_send"] == 0
    recipe(teachers=fault_server.base_url, labeling={**options, "canaries": None})
    assert cli("run", "recipe.yaml", "--until", "label").code == 0
    assert len(fault_server.requests) == sent
    assert not folder.canaries.exists()


def test_the_library_tells_facts(twins, fault_server, tmp_path):
    task = {"inputs": ["query", "title"]}
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny", "probe": False}
    told = []
    votes = distill.label(
        distill.read_rows("rows.csv", task, data={"id": "row_id", "gold": "label", "split": "split"}),
        task,
        {"one": teacher},
        config={"canaries": {"at_least": 4}, "row_tokens": 60},
        ledger=tmp_path / "ledger.sqlite",
        on_facts=told.append,
    )
    assert len(votes) == 60 and not votes["row_id"].str.starts_with("canary:").any()
    assert told[0].breaches["one"].asked == 4 and told[0].requests_cut == {"one": 2}


def test_wrong_settings_are_said_at_once(shop, recipe, cli):
    for settings, said in (
        ({"canaries": {"share": 2}}, "labeling.canaries.share"),
        ({"watch": {"after": 5}}, "labeling.watch.below"),
        ({"watch": {"below": 0.5, "metric": "auc"}}, "labeling.watch.metric"),
        ({"near_duplicates": "merge"}, "labeling.near_duplicates"),
        ({"examples": {"count": 0}}, "labeling.examples.count"),
    ):
        recipe(labeling=settings)
        called = cli("check", "recipe.yaml")
        assert called.code == 2 and said in called.err, called.err


def test_retrying_what_failed_heals_shared_answers_and_leaves_canaries_alone(twins, recipe, cli, fault_server):
    options = {**OPTIONS, "watch": None}
    rows = pl.read_csv(twins / "rows.csv").filter(pl.col("split") == "pool", ~pl.col("row_id").str.starts_with("t-"))
    row_id, title = rows.filter(~pl.col("title").str.ends_with(" x")).select("row_id", "title").row(-1)
    fault_server.on(f"title: {title}", then="400")
    recipe(teachers=fault_server.base_url, students=None, labeling=options)
    assert cli("label", "recipe.yaml").code == 0
    folder = RunFolder(twins / "runs/shop")
    before, canaries = folder.stage("label").facts, folder.canaries.read_bytes()
    failed = pl.read_ndjson(folder.failures)
    # Whichever of the two was asked, the other took its failure.
    assert sorted(failed["row_id"]) == sorted([row_id, f"t-{row_id}"])
    assert set(failed["cause"]) == {"request_rejected"}
    fault_server._by_text.clear()
    fault_server.requests.clear()
    called = cli("label", "recipe.yaml", "--retry-failed")
    assert called.code == 0, called.err
    assert len(fault_server.requests) == 1
    votes = pl.read_parquet(folder.votes)
    assert set(votes["outcome"]) == {"labeled"} and votes["shared_from"].is_not_null().sum() == 10
    after = folder.stage("label").facts
    assert (after["breaches"], after["shared"]) == (before["breaches"], 10)
    assert folder.canaries.read_bytes() == canaries and folder.failures.stat().st_size == 0


def test_a_probe_asks_what_the_run_would(twins, recipe, cli, fault_server):
    recipe(teachers=fault_server.base_url, students=None, labeling={**OPTIONS, "watch": None})
    planned = json.loads(cli("plan", "recipe.yaml", "--json", "--probe", "9").out)["teachers"][0]
    assert len(fault_server.requests) == 9 and planned["in_ledger"] >= 9
    assert all("Items that people have judged" in sent["messages"][1]["content"] for sent in fault_server.requests)
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 9 + planned["to_send"]
