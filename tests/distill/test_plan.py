"""What a plan says before anything is sent, and after a probe."""

from __future__ import annotations

import json
import math

import pytest

from distill.labeling.engine.limits import Learned
from distill.labeling.quota_config import QuotaConfig
from distill.plan_estimates import Interval, Load, Measured, estimate, in_flight, mean_interval, quota_s, time_s

PRICE = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 1000.0}


def planned(cli, *arguments):
    called = cli("plan", "recipe.yaml", "--json", *arguments)
    assert called.code == 0, called.err
    return json.loads(called.out)["teachers"][0]


def test_nothing_is_sent_without_a_probe_and_no_ledger_is_left_behind(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, price=PRICE)
    plan = planned(cli)
    assert (plan["rows"], plan["to_send"], plan["in_ledger"], plan["earlier"]) == (36, 36, 0, 0)
    assert plan["cost_usd"][0] > 0
    assert (plan["time_s"], plan["probe"]) == (None, None)
    assert "--probe 50" in plan["basis"]
    assert not fault_server.requests and not (shop / ".distill").exists()


def test_probe_tells_cost_and_time_and_is_not_paid_for_again(shop, cli, recipe, fault_server):
    # The sample hangs on the address, and an interval of 95% misses for one port in twenty.
    recipe(teachers=fault_server.base_url, endpoint="http://same/v1", price=PRICE, students=None)
    plan = planned(cli, "--probe", "12")
    assert len(fault_server.requests) == 12
    assert (plan["to_send"], plan["in_ledger"]) == (24, 12)
    assert plan["probe"].startswith("probe: 12 labeled, in ")
    assert plan["basis"] == "from 12 replies to requests of this plan"
    low, high = plan["cost_usd"]
    assert 0 < plan["time_s"][0] <= plan["time_s"][1]
    # Dollars are tokens here. What is then paid for the other 24 lies within the interval.
    told = json.loads(cli("label", "recipe.yaml", "--json").out)
    assert len(fault_server.requests) == 36
    assert low <= told["cost_usd"] <= high
    text = cli("plan", "recipe.yaml", "--probe", "5").out
    assert "one: probe: nothing left to ask" in text
    assert len(fault_server.requests) == 36


def test_probe_asks_a_spread_of_rows_the_same_each_time(shop, cli, recipe, fault_server, make_fault_server):
    other = make_fault_server()
    recipe(teachers=fault_server.base_url, endpoint="http://same/v1")
    planned(cli, "--probe", "8")
    recipe(teachers=other.base_url, endpoint="http://same/v1")
    (shop / ".distill/ledger.sqlite").rename(shop / "elsewhere.sqlite")
    planned(cli, "--probe", "8")
    texts = [{request["messages"][1]["content"] for request in server.requests} for server in (fault_server, other)]
    assert texts[0] == texts[1] and len(texts[0]) == 8
    assert len({text.split("query: ")[1].split("\n")[0] for text in texts[0]}) > 3


def test_probe_says_why_a_teacher_was_stopped(shop, cli, recipe, fault_server):
    fault_server.always("402")
    recipe(teachers=fault_server.base_url)
    plan = planned(cli, "--probe", "5")
    assert "stopped: SpendLimitError" in plan["probe"]
    assert plan["to_send"] == 36


def test_budget_holds_for_the_probe(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, labeling={"quota": {"requests": 3}})
    assert "3 labeled" in planned(cli, "--probe", "30")["probe"]
    assert len(fault_server.requests) == 3


def test_recorded_teachers_are_not_probed(shop, cli, recipe):
    (shop / "one.jsonl").write_text(json.dumps({"row_id": "q0-0", "reply": "{}"}))
    path = recipe()
    text = path.read_text() + "teachers: {one: {type: recorded, path: one.jsonl, family: f}}\n"
    path.write_text(text)
    assert planned(cli, "--probe", "5")["probe"] is None


def test_an_edited_clause_says_what_it_costs(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, price=PRICE, students=None)
    told = json.loads(cli("label", "recipe.yaml", "--json").out)
    (shop / "guideline.md").write_text("version: 2\n\n- **E1 Type.** The sort of thing that the query names.\n")
    plan = planned(cli)
    assert (plan["to_send"], plan["in_ledger"], plan["earlier"]) == (36, 0, 36)
    assert plan["basis"] == "from the last 36 replies of this teacher to other requests"
    # A word for a word: the edit costs what the first run did.
    low, high = plan["cost_usd"]
    assert low <= told["cost_usd"] * (1 + 1e-9) <= high * (1 + 2e-9) and high / low < 1.1
    assert "holds 36 answers of it to other requests" in cli("plan", "recipe.yaml").out


def test_prediction_interval_by_hand():
    # Mean 5, deviation sqrt((9 + 1 + 1 + 9) / 3) = 2.582, t(0.975, 3) = 3.182; sqrt(1/4 + 1/12) = 0.5774.
    found = mean_interval([2.0, 4.0, 6.0, 8.0], of=12)
    spread = 3.182 * 2.582 * 0.57735
    assert found.high == pytest.approx(5 + spread, rel=0.02)
    assert found.low == pytest.approx(5 - spread, abs=0.2)  # the expansion is 4% off at 3 degrees
    assert mean_interval([3.0], of=5) == Interval(3.0, 3.0)
    assert mean_interval([2.0, 4.0] * 500, of=10**9).high == pytest.approx(3 + 1.96 / math.sqrt(999), rel=1e-3)


def test_estimates_take_the_best_basis():
    own = [Measured(100, 10, 1.0, 400)] * 25
    earlier = [Measured(90, 20, 2.0, 0)] * 30
    both = {"traced": False, "probed": False}
    assert estimate(Load(10, 10, 4000), own=own, earlier=earlier, **both).input_tokens == (
        1000,
        1000,
    )  # a token each four bytes
    assert estimate(Load(10, 10, 4000), own=own[:19], earlier=earlier, **both).output_tokens == (200, 200)
    assert estimate(Load(10, 10, 4000), own=own[:3], earlier=earlier, traced=False, probed=True).output_tokens == (
        100,
        100,
    )
    blind = estimate(Load(10, 10, 4500), own=[], earlier=[], **both)
    assert (blind.input_tokens, blind.latency_s) == ((1000, 1800), None)


def test_time_follows_from_latency_lanes_and_quotas():
    assert in_flight(8, None, None, most=1024) == (8, 8)
    assert in_flight(8, 3, None, most=1024) == (3, 3)
    assert in_flight("auto", None, None, most=1024) is None
    assert in_flight("auto", None, Learned(40, True), most=1024) == (40, 40)
    assert in_flight("auto", 64, Learned(16, False), most=1024) == (16, 64)
    assert time_s(1000, Interval(0.5, 1.0), Interval(10, 20)) == (25, 100)
    assert time_s(1000, Interval(0.5, 1.0), Interval(10, 20), least_s=60) == (60, 100)
    assert time_s(5, Interval(0.5, 1.0), Interval(10, 20)) == (0.5, 1.0)
    assert time_s(0, None, None) == (0, 0)
    assert time_s(9, None, Interval(1, 1)) is None
    quotas = [QuotaConfig(requests_per_minute=100), None, QuotaConfig(tokens_per_minute=1000, usd_per_minute=1)]
    assert quota_s(quotas, requests=200, tokens=3000, usd=0.5) == 180
    assert quota_s([None], requests=200, tokens=3000, usd=None) == 0


def test_a_plan_says_that_the_lane_is_not_known_and_knows_it_after_a_run(shop, cli, recipe, make_lane_server):
    server = make_lane_server(has=("next",))
    recipe(teachers=server.base_url, probe=True, students=None)
    plan = planned(cli)
    assert plan["lane"] is None
    assert "which lane its server has is found out" in plan["remarks"][0]
    assert cli("label", "recipe.yaml").code == 0
    asked = len(server.requests)
    plan = planned(cli)
    assert (plan["lane"], plan["remarks"], plan["to_send"]) == ("logprobs:next", [], 0)
    assert len(server.requests) == asked
    # Another question: nothing tells yet how many tokens the lane reads for it.
    guideline = shop / "guideline.md"
    guideline.write_text(guideline.read_text() + "\n- **Z9 New.** One clause more.\n")
    assert "tokens are told too low" in planned(cli)["remarks"][0]


def test_a_plan_with_a_probe_asks_on_the_lane_that_it_finds(shop, cli, recipe, make_lane_server):
    recipe(teachers=make_lane_server(has=("systemone",)).base_url, probe=True, students=None)
    plan = planned(cli, "--probe", "6")
    assert (plan["lane"], plan["to_send"], plan["in_ledger"]) == ("decision:systemone", 30, 6)


def test_labels_asked_level_by_level_are_planned_by_their_first_question(shop, cli, recipe, make_lane_server):
    server = make_lane_server(weights={"group 1": 1.0, "exact": 1.0})
    recipe(teachers=server.base_url, most_options=3, students=None)
    assert "level by level" in cli("plan", "recipe.yaml").out
    assert cli("label", "recipe.yaml").code == 0
    assert planned(cli)["to_send"] == 0


def test_the_strong_teacher_of_a_cascade_gets_between_the_calibration_rows_and_all(shop, cli, recipe, fault_server):
    teacher = {"type": "openai", "base_url": fault_server.base_url, "family": "f", "price": PRICE}
    teachers = {name: {**teacher, "model": name, "probs": "confidence"} for name in ("cheap", "strong")}
    recipe(labeling={"cascade": {"order": ["cheap", "strong"], "calibration": 20}})
    path = shop / "recipe.yaml"
    path.write_text(path.read_text() + "teachers: " + json.dumps(teachers) + "\n")
    called = cli("plan", "recipe.yaml", "--json")
    assert called.code == 0, called.err
    cheap, strong = json.loads(called.out)["teachers"]
    assert (cheap["to_send"], cheap["to_send_least"]) == (36, None)
    # Whole groups of four listings: five of them are 20 rows.
    assert (strong["to_send"], strong["to_send_least"]) == (36, 20)
    assert strong["cost_usd"][0] < 0.7 * cheap["cost_usd"][0] and strong["cost_usd"][1] == pytest.approx(
        cheap["cost_usd"][1], rel=0.01
    )
    text = cli("plan", "recipe.yaml").out
    assert "20–36" in text and "20 are certain" in text
    assert not fault_server.requests
