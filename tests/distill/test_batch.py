"""What a person sees of batch jobs: the plan, a run that does not wait, the ledger's figures."""

from __future__ import annotations

import json

import polars as pl

from distill.labeling.engine.progress import BatchProgress, TeacherProgress, TeacherTally
from distill.labeling_show import describe

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}


def planned(cli):
    called = cli("plan", "recipe.yaml", "--json")
    assert called.code == 0, called.err
    return json.loads(called.out)["teachers"][0]


def submitted(recipe, cli, server):
    """A run that has submitted its 36 rows and gone."""
    recipe(teachers=server.base_url, price=PRICE, students=None, batch={"wait": False})
    return cli("label", "recipe.yaml")


def test_a_run_that_does_not_wait_ends_with_3_and_the_same_command_goes_on(shop, cli, recipe, batch_server):
    batch_server.ends = ["never"]
    called = submitted(recipe, cli, batch_server)
    assert called.code == 3
    assert "1 batch job with 36 requests under way; the same command picks the answers up" in called.err
    failures = [json.loads(line) for line in (shop / "runs/shop/failures.jsonl").read_text().splitlines()]
    assert {(line["outcome"], line["cause"]) for line in failures} == {("unsent", "in_batch")}
    assert len(failures) == 36

    assert cli("label", "recipe.yaml").code == 3  # still running
    batch_server.jobs["batch_0"].end = "completed"
    called = cli("label", "recipe.yaml")
    assert called.code == 0 and "36 labeled; 0 requests sent" in called.err
    assert pl.read_parquet(shop / "runs/shop/votes.parquet")["outcome"].unique().to_list() == ["labeled"]
    assert cli("label", "recipe.yaml").err.count("unchanged, kept") == 2
    assert batch_server.paid_twice() == 0


def test_retry_failed_picks_jobs_up_too(shop, cli, recipe, batch_server):
    batch_server.run_s = 0.0
    submitted(recipe, cli, batch_server)
    called = cli("run", "recipe.yaml", "--until", "label", "--retry-failed")
    assert called.code == 0 and "36 labeled" in called.err
    assert batch_server.paid_twice() == 0


def test_plan_says_what_goes_by_batch(shop, cli, recipe, batch_server):
    recipe(teachers=batch_server.base_url, price=PRICE)
    live = planned(cli)
    recipe(teachers=batch_server.base_url, price=PRICE, batch=True)
    plan = planned(cli)
    assert plan["by_batch"] and not live["by_batch"]
    assert plan["cost_usd"] == [cost / 2 for cost in live["cost_usd"]]
    text = cli("plan", "recipe.yaml").out
    assert "within 24 h" in text and "goes by batch jobs" in text
    recipe(teachers=batch_server.base_url, price={**PRICE, "batch_factor": 0.25}, batch=True)
    assert planned(cli)["cost_usd"] == [cost / 4 for cost in live["cost_usd"]]


def test_what_is_in_open_jobs_is_not_to_send(shop, cli, recipe, batch_server):
    batch_server.ends = ["never"]
    submitted(recipe, cli, batch_server)
    plan = planned(cli)
    assert (plan["to_send"], plan["in_batch"], plan["in_ledger"]) == (0, 36, 0)
    assert "36 requests are in open batch jobs" in cli("plan", "recipe.yaml").out
    # A probe asks live, and only about what is in no job.
    assert cli("plan", "recipe.yaml", "--probe", "5").code == 0
    assert not batch_server.live


def test_a_probe_asks_live(shop, cli, recipe, batch_server):
    recipe(teachers=batch_server.base_url, price=PRICE, batch=True)
    assert "5 labeled" in cli("plan", "recipe.yaml", "--probe", "5").out
    assert (batch_server.live.total(), batch_server.submitted.total()) == (5, 0)


def test_ledger_figures_and_upkeep_leave_open_jobs_alone(shop, cli, recipe, batch_server):
    batch_server.ends = ["never"]
    submitted(recipe, cli, batch_server)
    assert "36 requests  batch job batch_0" in cli("ledger", "stats").out
    (job,) = json.loads(cli("ledger", "stats", "--json").out)["open_batch_jobs"]
    assert (job["job_id"], job["requests"], job["teacher"]) == ("batch_0", 36, "one")
    for verb in (("export", "copy.jsonl"), ("prune", "--older-than-days", "0"), ("import", "copy.jsonl")):
        called = cli("ledger", *verb)
        assert called.code == 0, called.err
    batch_server.jobs["batch_0"].end = "completed"
    assert "36 labeled; 0 requests sent" in cli("label", "recipe.yaml").err
    assert "batch job" not in cli("ledger", "stats").out


def test_a_server_without_batch_jobs_is_a_clear_error(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None, batch=True)
    called = cli("label", "recipe.yaml")
    assert called.code == 1
    assert "the server has no batch jobs" in called.err and "leave batch out" in called.err
    assert not fault_server.requests


def test_progress_shows_jobs():
    state = TeacherProgress(
        name="one",
        total=900,
        tally=TeacherTally(),
        in_flight=0,
        rows_per_s=0.0,
        tokens_per_s=0.0,
        left_s=None,
        forecast_usd=None,
        paused_s=0.0,
        batch=BatchProgress(jobs=2, requests=800, done=310, gathered=100),
    )
    assert describe(state) == "0 rows/s · 100 gathered · 2 batch jobs, 310 of 800 requests done"
