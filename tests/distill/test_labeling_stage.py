"""What a person sees of a labeling run: what is asked again, progress, the log, and how quotas end it."""

from __future__ import annotations

import io
import json

import polars as pl

from distill.labeling.engine.events import LabelingEvent
from distill.labeling.engine.progress import Progress, TeacherProgress, TeacherTally
from distill.labeling_show import LabelingShow, describe
from distill.progress import TerminalProgress, duration

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}


def votes_of(shop):
    return pl.read_parquet(shop / "runs/shop/votes.parquet")


def failures_of(shop):
    return [json.loads(line) for line in (shop / "runs/shop/failures.jsonl").read_text().splitlines()]


def titles_asked(server):
    texts = [request["messages"][1]["content"] for request in server.requests]
    return [text.split("title: ")[1].split("\n")[0] for text in texts]


def broken(shop, cli, recipe, server, **settings):
    """A run of 36 rows of which two ended truncated and one was refused by the server."""
    server.on("shoe 1 number 2", "length")
    server.on("shoe 5 number 0", "length")
    server.on("shoe 8 number 1", "400")
    recipe(teachers=server.base_url, students=None, max_tokens=50, **settings)
    assert cli("label", "recipe.yaml").code == 0


def test_failures_say_why_by_name(shop, cli, recipe, fault_server):
    broken(shop, cli, recipe, fault_server)
    found = {failure["row_id"]: (failure["outcome"], failure["cause"]) for failure in failures_of(shop)}
    truncated, rejected = ("invalid", "truncated"), ("failed", "request_rejected")
    assert found == {"q1-2": truncated, "q5-0": truncated, "q8-1": rejected}
    (stage,) = [event for event in log_of(shop) if event["event"] == "stage_finished" and event["stage"] == "label"]
    assert stage["facts"]["causes"] == {"truncated": 2, "request_rejected": 1}


def test_retry_failed_asks_only_those_and_keeps_the_rest(shop, cli, recipe, fault_server):
    broken(shop, cli, recipe, fault_server)
    before = votes_of(shop)
    fault_server.requests.clear()
    # A higher max_tokens is another request for every row; only three are sent it.
    recipe(teachers=fault_server.base_url, students=None, max_tokens=500)
    called = cli("label", "recipe.yaml", "--retry-failed")
    assert called.code == 0, called.err
    assert sorted(titles_asked(fault_server)) == [
        "complement shoe 1 number 2",
        "exact shoe 5 number 0",
        "substitute shoe 8 number 1",
    ]
    after = votes_of(shop)
    assert after["row_id"].equals(before["row_id"]) and set(after["outcome"]) == {"labeled"}
    kept = pl.col("outcome") == "labeled"
    assert after.join(before.filter(kept), on="row_id", how="semi").equals(before.filter(kept))
    assert failures_of(shop) == []
    assert "36 labeled" in called.err
    # What was kept is not asked for under the new settings by the plain command either.
    assert "unchanged, kept" in cli("label", "recipe.yaml").err
    assert "nothing had failed" in cli("label", "recipe.yaml", "--retry-failed").err
    assert len(fault_server.requests) == 3


def test_retry_failed_goes_on_while_something_fails(shop, cli, recipe, fault_server):
    broken(shop, cli, recipe, fault_server)
    fault_server.on("shoe 1 number 2", then="400")
    fault_server._by_text.insert(0, fault_server._by_text.pop())
    fault_server.requests.clear()
    recipe(teachers=fault_server.base_url, students=None, max_tokens=500)
    assert cli("label", "recipe.yaml", "--retry-failed").code == 0
    assert [failure["row_id"] for failure in failures_of(shop)] == ["q1-2"]
    assert cli("label", "recipe.yaml", "--retry-failed").code == 0
    assert len(fault_server.requests) == 4


def test_retry_failed_refuses_another_question(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None)
    called = cli("label", "recipe.yaml", "--retry-failed")
    assert called.code == 2 and "nothing to retry" in called.err
    broken(shop, cli, recipe, fault_server, name="shop")
    (shop / "guideline.md").write_text("version: 2\n\n- **E1 Type.** Another kind of thing.\n")
    called = cli("label", "recipe.yaml", "--retry-failed")
    assert called.code == 2 and "would answer another question" in called.err


def test_quota_in_all_ends_with_3_and_the_same_command_goes_on(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None, quota={"requests": 20})
    called = cli("label", "recipe.yaml")
    assert called.code == 3 and "teachers.one.quota.requests: 20 of 20 are used" in called.err
    assert len(fault_server.requests) == 20
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 36


def test_a_teachers_budget_ends_with_3(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None, budget_usd=0.002, price=PRICE)
    called = cli("label", "recipe.yaml")
    assert called.code == 3 and "teachers.one.budget_usd: $0.00" in called.err
    assert 0 < len(fault_server.requests) < 36


def test_a_run_wide_quota_without_a_price_is_complained_of(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None, labeling={"quota": {"usd_per_minute": 1.0}})
    assert "labeling.quota.usd_per_minute cannot see what one costs" in cli("label", "recipe.yaml").err


def log_of(shop):
    return [json.loads(line) for line in (shop / "runs/shop/log.jsonl").read_text().splitlines()]


def test_log_tells_what_happened(shop, cli, recipe, fault_server):
    fault_server.script("ok", "ok", "429:0.01", "402")
    recipe(teachers=fault_server.base_url, students=None, labeling={"concurrency": 1})
    assert cli("label", "recipe.yaml").code == 0
    events = {event["event"]: event for event in log_of(shop) if event["event"].startswith("labeling_")}
    assert list(events) == ["labeling_started", "labeling_pause", "labeling_stopped", "labeling_ended"]
    assert events["labeling_started"]["rows"] == 36
    assert (events["labeling_pause"]["seconds"], events["labeling_pause"]["cause"]) == (0.01, "minute_quota")
    assert events["labeling_stopped"]["cause"] == "spend_limit"
    assert events["labeling_ended"]["outcomes"] == {"labeled": 2, "failed": 1, "unsent": 33}
    assert events["labeling_ended"]["retries"] == {"minute_quota": 1}


def state(**changes):
    tally = TeacherTally(input_tokens=900, output_tokens=100, cost_usd=1.5, ledger_hits=2000, limit=64)
    tally.outcomes["labeled"] = 5000
    tally.retries.update({"minute_quota": 3, "timeout": 1})
    values = {
        "name": "one",
        "total": 20_000,
        "tally": tally,
        "in_flight": 60,
        "rows_per_s": 250.0,
        "tokens_per_s": 81_000.4,
        "left_s": 60.0,
        "forecast_usd": 6.0,
        "paused_s": 0.0,
    }
    return TeacherProgress(**{**values, **changes})


def test_a_line_says_how_it_is_going():
    assert describe(state()) == (
        "250 rows/s · 81,000 tokens/s · $1.5000 of about $6.00 · 2,000 from the ledger · 3 × minute_quota · "
        "1 × timeout · 60 of 64 in flight"
    )
    assert describe(state(paused_s=12.3)).endswith("waiting 12 s for the server")
    held = state(in_flight=3)
    held.tally.quota_waits["teachers.one.quota.tokens_per_minute"] = 7.0
    assert describe(held).endswith("held by tokens_per_minute")
    held.tally.stopped, held.tally.stop_cause = "SpendLimitError: …", "spend_limit"
    assert describe(held).endswith("stopped: spend_limit")


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("distill.progress.time.monotonic", lambda: now_s)
    stream, notes = io.StringIO(), []
    progress = TerminalProgress(stream)
    show = LabelingShow(progress, lambda event, **facts: notes.append((event, facts)))
    show(Progress(0.0, (state(),), (LabelingEvent(0.0, "one", "started", {"limit": 8}),)))
    assert stream.getvalue() == ""
    now_s = 11.0
    show(Progress(11.0, (state(left_s=5400.0),)))
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("  one                  5,000 of 20,000 (25%)  250 rows/s · 81,000 tokens/s")
    assert line.endswith("60 of 64 in flight · 1 h 30 min left") and "\x1b" not in line
    assert notes[0] == ("labeling_started", {"teacher": "one", "at_s": 0.0, "limit": 8})
    event, facts = notes[1]
    assert (event, facts["at_s"], len(notes)) == ("labeling_snapshot", 11.0, 2)
    assert facts["teachers"]["one"]["done"] == 5000 and facts["teachers"]["one"]["left_s"] == 5400.0


def test_durations():
    assert [duration(seconds) for seconds in (0, 89.4, 90, 3600, 5400, 86400)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "1 h 30 min",
        "24 h 0 min",
    ]


def test_a_recipe_may_name_several_servers(shop, cli, recipe, fault_server, make_fault_server):
    other = make_fault_server()
    recipe(teachers=[fault_server.base_url, other.base_url], students=None)
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) + len(other.requests) == 36 and other.requests
    assert cli("doctor", "recipe.yaml").code == 0
    assert cli("label", "runs/shop/recipe.yaml", "--out", "again").code == 0
    assert len(fault_server.requests) + len(other.requests) == 36
