"""Recipes whose teachers run on this machine, through the CLI; with a stand-in for vLLM."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

from distill.recipe import load_recipe


@pytest.fixture
def judged(shop, fake_vllm):
    """The shop's recipe with these teachers; settings are added to the stand-in's."""

    def write(**teachers):
        document = yaml.safe_load((shop / "recipe.yaml").read_text())
        document["teachers"] = {name: fake_vllm.section(**settings) for name, settings in teachers.items()}
        (shop / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    return write


def test_a_model_and_its_adapters_are_looked_for_beside_the_recipe(shop, judged):
    for folder in ("models/tiny", "adapters/shop"):
        (shop / folder).mkdir(parents=True)
        (shop / folder / "config.json").write_text("{}")
    lora = {"shop": "adapters/shop", "hub": "org/adapter"}
    judged(
        here={"type": "vllm", "model": "models/tiny", "lora": lora, "adapter": "shop"},
        hub={"type": "vllm_offline", "model": "org/model", "lora": lora},
    )
    teachers = load_recipe("recipe.yaml").teachers
    assert teachers["here"].model == str(shop / "models/tiny")
    assert teachers["here"].lora == {"shop": str(shop / "adapters/shop"), "hub": "org/adapter"}
    assert teachers["hub"].model == "org/model"
    assert teachers["hub"].lora["shop"] == str(shop / "adapters/shop")


def test_check_plan_and_doctor_start_nothing(cli, judged, fake_vllm):
    judged(served={"type": "vllm"}, batch={"type": "vllm_offline"})
    assert "Teachers: served, batch" in cli("check", "recipe.yaml").out
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"]
    assert [(plan["teacher"], plan["to_send"]) for plan in planned] == [("served", 36), ("batch", 36)]
    examined = cli("doctor", "recipe.yaml")
    assert "1 server on no GPU" in examined.out
    assert "offline on no GPU" in examined.out
    assert not fake_vllm.starts()


def test_doctor_finds_that_there_is_no_vllm(cli, judged, monkeypatch):
    judged(served={"type": "vllm", "env": {"PYTHONPATH": "/nowhere"}, "python": "/no/python"})
    called = cli("doctor", "recipe.yaml")
    assert called.code == 1
    assert "/no/python cannot be run" in called.out


def test_a_run_with_both_and_then_none_of_it_is_paid_for_again(cli, judged, fake_vllm, shop):
    judged(served={"type": "vllm", "traces": True}, batch={"type": "vllm_offline"})
    assert cli("label", "recipe.yaml", "--out", "first").code == 0
    votes = pl.read_parquet(shop / "first" / "votes.parquet")
    assert set(votes["outcome"]) == {"labeled"}
    sources = dict(votes.group_by("teacher").agg(pl.col("probs_source").first()).iter_rows())
    assert sources == {"served": "none", "batch": "logprob"}
    assert fake_vllm.none_is_left()
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"]
    assert [plan["to_send"] for plan in planned] == [0, 0]


def test_a_server_that_does_not_come_up_is_told_of(cli, judged):
    judged(served={"type": "vllm", "env": {"FAKE_VLLM_FAIL": "RuntimeError: out of memory"}})
    called = cli("label", "recipe.yaml", "--out", "first")
    assert "out of memory" in called.err + called.out


def test_a_missing_vllm_ends_the_run_with_what_to_install(cli, judged, shop):
    judged(served={"type": "vllm"})
    document = yaml.safe_load((shop / "recipe.yaml").read_text())
    document["teachers"]["served"]["env"] = {}
    (shop / "recipe.yaml").write_text(yaml.safe_dump(document))
    called = cli("label", "recipe.yaml", "--out", "first")
    assert called.code == 2
    assert "pip install 'distill[vllm]'" in called.err
    assert "Traceback" not in called.err


def test_a_secret_in_the_environment_of_a_server_is_refused(cli, judged):
    judged(served={"type": "vllm", "env": {"HF_TOKEN": "hunter2"}})
    called = cli("check", "recipe.yaml")
    assert called.code == 2
    assert "export it instead" in called.err
    assert "hunter2" not in called.err + called.out
