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


# Several rows in one request

PACKED = {"splits": ["pool", "train", "audit"], "rows_per_request": {"most": 3, "check": 0.2, "check_at_least": 6}}


def planned(cli):
    return json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"][0]


@pytest.mark.parametrize(
    "more", [{}, {"canaries": {"at_least": 5}, "watch": {"below": 0.01, "after": 6}, "samples": 2}]
)
def test_a_plan_counts_requests_about_several_rows_as_they_are_sent(twins, recipe, cli, fault_server, more):
    recipe(teachers=fault_server.base_url, students=None, labeling={**PACKED, "concurrency": 2, **more})
    plan = planned(cli)
    # 12 pool rows and their 12 twins, 12 train and 12 audit rows, 20% of them alone as well; canaries.
    samples = more.get("samples", 1)
    rows = (48 + plan["canaries"]) * samples
    assert (plan["rows"], plan["rows_to_send"], plan["checks"]) == (rows + 10, rows + 10 - plan["duplicates"], 10)
    assert plan["packs"] >= 12 * samples and plan["to_send"] < plan["rows_to_send"]
    text = cli("plan", "recipe.yaml").out
    assert f"ask about {plan['rows_to_send']} rows, {plan['packs']} of them about several at once" in text
    called = cli("run", "recipe.yaml", "--until", "label")
    assert called.code == 0, called.err
    assert len(fault_server.requests) == plan["to_send"]
    assert sum("Item 1 (mark" in str(request["messages"]) for request in fault_server.requests) == plan["packs"]
    assert planned(cli)["to_send"] == 0
    # More rows of known queries: what is planned is again what is sent.
    source = pl.read_csv("rows.csv")
    fresh = source.filter(pl.col("split") == "train").with_columns(
        row_id="new-" + pl.col("row_id"), title="new " + pl.col("title")
    )
    pl.concat([fresh, source]).write_csv("rows.csv")
    plan, sent = planned(cli), len(fault_server.requests)
    assert 4 * samples <= plan["to_send"] and plan["in_ledger"] > 0
    assert cli("run", "recipe.yaml", "--until", "label").code == 0
    assert len(fault_server.requests) - sent == plan["to_send"]


def test_the_report_says_what_several_rows_at_once_did(twins, recipe, cli, fault_server):
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    recipe(teachers=fault_server.base_url, price=price, labeling=PACKED)
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    folder = RunFolder(twins / "runs/shop")
    votes, facts = pl.read_parquet(folder.votes), folder.stage("label").facts
    assert not votes["row_id"].str.starts_with("alone:").any() and len(votes) == 48
    packing = facts["packing"]["one"]
    assert packing["rows"] == (votes["asked_with"] > 1).sum() and packing["compared"] == 10
    assert packing["requests_saved"] == packing["rows"] - packing["packs"] > 0
    assert packing["saving"]["tokens"] > 1.2
    assert votes["cost_usd"].sum() < facts["cost_usd"]  # what was asked alone as well is paid for too
    report = (twins / "runs/shop/report.md").read_text()
    assert f"one answered {packing['rows']} rows in {packing['packs']} requests about several at once" in report
    assert "Asked alone as well, " in report
    assert "requests about several" in called.err + called.out


def test_retrying_what_failed_packs_what_failed(twins, recipe, cli, fault_server):
    fault_server.on("red shoe 1\n", then="500")
    recipe(teachers=fault_server.base_url, students=None, labeling={**PACKED, "retries": 0})
    assert cli("label", "recipe.yaml").code == 0
    folder = RunFolder(twins / "runs/shop")
    before = folder.stage("label").facts
    failed = before["outcomes"]["failed"]
    assert failed >= 4
    fault_server._by_text.clear()
    sent = len(fault_server.requests)
    assert cli("label", "recipe.yaml", "--retry-failed").code == 0
    votes = pl.read_parquet(folder.votes)
    assert (votes["outcome"] == "labeled").all() and len(votes) == 48
    assert len(fault_server.requests) - sent == -(-failed // 3)
    assert folder.stage("label").facts["packing"] == before["packing"]


def test_a_probe_asks_whole_queries_together(twins, recipe, cli, fault_server):
    recipe(teachers=fault_server.base_url, students=None, labeling=PACKED)
    told = json.loads(cli("plan", "recipe.yaml", "--probe", "12", "--json").out)["teachers"][0]
    assert told["probe"].startswith("probe: 12 labeled")
    assert 4 <= len(fault_server.requests) <= 8
    assert told["basis"].endswith("replies to requests of this plan")
    sent = len(fault_server.requests)
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) - sent == told["to_send"]


def test_the_library_packs_as_a_recipe_does(twins, fault_server, tmp_path):
    task = {"inputs": ["query", "title"]}
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny"}
    rows = distill.read_rows("rows.csv", task, data={"id": "row_id", "gold": "label", "split": "split"})
    told = []
    settings = {"config": {"rows_per_request": 4}, "ledger": tmp_path / "ledger.sqlite", "on_facts": told.append}
    votes = distill.label(rows, task, {"one": teacher}, **settings)
    assert len(votes) == 60 and told[0].packing["one"].packs >= 12
    again = distill.label(rows, task, {"one": teacher}, **settings)
    assert again["from_ledger"].all() and again["label"].equals(votes["label"])


def test_rows_per_request_is_checked(shop, recipe, cli):
    for wrong, said in ((0, "got 0"), ({"most": 40}, "most"), ({"check": 2}, "check"), ("many", "got 'many'")):
        recipe(labeling={"rows_per_request": wrong})
        called = cli("check", "recipe.yaml")
        assert called.code == 2 and "labeling.rows_per_request" in called.err and said in called.err, called.err
    recipe(labeling={"rows_per_request": 1})
    assert cli("check", "recipe.yaml").code == 0
    schema = json.loads(cli("schema").out)
    kinds = [
        one.get("type", "ref") for one in schema["$defs"]["LabelingConfig"]["properties"]["rows_per_request"]["anyOf"]
    ]
    assert kinds == ["integer", "ref", "null"]
