"""``distill doctor RECIPE --teacher NAME``: one real question, and what came of it."""

from __future__ import annotations

import json

TRACED = '{"trace": "The color is off, so it is a substitute.", "label": "exact", "clauses": ["E1"]}'


def doctor(cli, *options):
    return cli("doctor", "recipe.yaml", "--teacher", "one", *options)


def write(recipe, url, **given):
    """A recipe with one teacher that is asked for its reasoning and how sure it is."""
    recipe(teachers=url, students=None, traces=True, probs="confidence", **given)


def test_it_shows_lane_answer_trace_tokens_price_and_time(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url, price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 2})
    fault_server.always(f"text:{TRACED}")
    called = doctor(cli)
    assert called.code == 0, called.err
    lines = dict(line.split(maxsplit=1) for line in called.out.splitlines())
    assert lines["lane"] == "json:json_schema"
    assert lines["outcome"] == "labeled: exact"
    assert "before the label; contradicts_label" in lines["trace"]
    assert lines["clauses"] == "E1"
    assert lines["price"] == "$1 in, $2 out a million tokens (the recipe)"
    assert lines["cost"].startswith("$0.0")
    assert "served" not in lines["time"]


def test_nothing_is_paid_twice_and_fresh_asks_anew(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url)
    first = json.loads(doctor(cli, "--json").out)
    assert (first["answered"], first["from_ledger"], first["cost_usd"]) == (True, False, None)
    assert first["price"].startswith("unknown, not zero")
    again = json.loads(doctor(cli, "--json").out)
    assert again["from_ledger"] and again["label"] == first["label"]
    assert len(fault_server.requests) == 1
    fresh = json.loads(doctor(cli, "--json", "--fresh").out)
    assert not fresh["from_ledger"]
    assert len(fault_server.requests) == 2
    # The question is that of a run, which so finds its answer in the ledger.
    assert cli("label", "recipe.yaml").code == 0
    asked = [request["messages"][1]["content"] for request in fault_server.requests]
    assert asked.count(asked[0]) == 2


def test_a_fault_is_explained_and_ends_in_1(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url)
    for fault, cause, words in (
        ("401", "wrong_key", "does not accept the key"),
        ("length", "truncated", "raise max_tokens"),
        ("refusal", "refused", "declined"),
    ):
        fault_server.script(fault)
        called = doctor(cli, "--fresh")
        assert called.code == 1
        assert words in called.out and "which means" in called.out
        fault_server.script(fault)
        assert json.loads(doctor(cli, "--fresh", "--json").out)["cause"] == cause


def test_without_data_it_asks_a_built_in_row(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url, data=None)
    called = doctor(cli)
    assert called.code == 0, called.err
    assert "a built-in sample" in called.out
    assert "wireless noise cancelling" in fault_server.requests[0]["messages"][1]["content"]


def test_what_cannot_be_asked(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url)
    assert cli("doctor", "--teacher", "one").code == 2
    assert cli("doctor", "recipe.yaml", "--fresh").code == 2
    wrong = cli("doctor", "recipe.yaml", "--teacher", "oen")
    assert wrong.code == 2 and "the recipe has one" in wrong.err


def test_doctor_shows_the_price_of_each_teacher(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url)
    found = json.loads(cli("doctor", "recipe.yaml", "--json").out)["findings"]
    (price,) = [one for one in found if one["what"] == "price of one"]
    assert price["state"] == "note" and "price (0 where it costs nothing)" in price["text"]


def test_a_known_label_is_explained(shop, cli, recipe, fault_server):
    write(recipe, fault_server.base_url, rationale_for="gold")
    fault_server.answer = lambda request: '{"trace": "Type and color hold.", "clauses": ["E1"]}'
    called = json.loads(doctor(cli, "--json").out)
    assert (called["outcome"], called["label"], called["trace_order"]) == ("explained", None, "given")
