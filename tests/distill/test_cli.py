"""The commands that stand around a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = (
    *("init", "recipes", "check", "plan", "run", "label", "aggregate", "train", "eval"),
    *("report", "review", "predict", "export", "serve", "ladder", "doctor", "schema", "version", "ledger"),
    *("label-next", "agreement", "monitor"),
)


def shown(*arguments, **environment):
    """What a command prints in a terminal of 100 columns."""
    command = [sys.executable, "-m", "distill", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "100", **environment})
    return done.stdout


def test_help_is_what_it_was():
    assert shown("--help").splitlines()[1:] == (GOLDEN / "help.txt").read_text().splitlines()[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli, command):
    called = cli(command, "--help")
    assert called.code == 0
    if command not in ("ledger", "version"):
        assert f"Example: distill {command}" in " ".join(called.out.split())


def test_every_command_is_in_the_readme():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    missing = [command for command in COMMANDS if f"`distill {command}" not in readme and f"`{command}`" not in readme]
    assert missing == ["version"]


def test_check_says_what_is_in_a_recipe(shop, cli):
    called = cli("check", "recipe.yaml", "--set", "seed=8")
    assert called.code == 0 and "Students: dcn" in called.out


def test_check_prints_every_problem_on_a_line_of_its_own(shop, cli):
    called = cli("check", "recipe.yaml", "--set", "sed=8", "--set", "task.inputs=query")
    assert called.code == 2 and called.out == ""
    assert [line.partition(": ")[0] for line in called.err.splitlines()] == ["error", "error"]


def test_init_lays_out_a_starter_and_overwrites_nothing(shop, cli):
    called = cli("init", "mine")
    assert called.code == 0
    assert called.out.split() == ["mine/guideline.md", "mine/pairs.csv", "mine/recipe.yaml"]
    assert cli("check", "mine/recipe.yaml").code == 0
    (shop / "mine/recipe.yaml").write_text("my own work")
    again = cli("init", "mine")
    assert again.code == 2 and "already there" in again.err
    assert (shop / "mine/recipe.yaml").read_text() == "my own work"


def test_recipes_are_listed_shown_and_copied_with_their_files(shop, cli):
    listed = cli("recipes").out
    assert "quickstart" in listed and "crowdflower" in listed
    assert yaml.safe_load(cli("recipes", "show", "quickstart").out)["name"] == "quickstart"
    assert cli("recipes", "copy", "quickstart", "mine").code == 0
    assert cli("check", "mine/quickstart.yaml").code == 0
    assert (shop / "mine/quickstart/pairs.parquet").exists()


def test_the_schema_is_one_that_editors_read(cli):
    schema = json.loads(cli("schema").out)
    assert schema["title"] == "Recipe" and {"data", "task", "teachers"} <= set(schema["properties"])


def test_plan_tells_what_a_run_then_does(shop, cli, recipe, fault_server):
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    recipe(teachers=fault_server.base_url, price=price, students=None)
    (planned,) = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"]
    assert (planned["rows"], planned["to_send"], planned["in_ledger"]) == (36, 36, 0)
    assert not (shop / ".distill").exists() and not (shop / "runs").exists() and not fault_server.requests
    low, high = planned["cost_usd"]
    assert 0 < low < high
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 36
    (planned,) = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"]
    assert (planned["to_send"], planned["in_ledger"], planned["cost_usd"]) == (0, 36, [0.0, 0.0])


def test_plan_learns_tokens_and_time_from_the_ledger(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None, labeling={"splits": ["train", "pool"], "concurrency": 4})
    assert cli("label", "recipe.yaml").code == 0
    recipe(teachers=fault_server.base_url, students=None, labeling={"concurrency": 4})
    text = cli("plan", "recipe.yaml").out
    assert "from 24 replies to requests of this plan" in text
    (planned,) = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"]
    assert planned["to_send"] == 12 and planned["time_s"] is not None
    # The server counts words as tokens: those of the 12 rows to come lie in the interval, give or take a word each.
    assert cli("label", "recipe.yaml").code == 0
    words = [sum(len(m["content"].split()) for m in request["messages"]) for request in fault_server.requests[24:]]
    low, high = planned["input_tokens"]
    assert low - 12 <= sum(words) <= high + 12


def test_the_ledger_is_counted_exported_taken_in_and_pruned(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None)
    assert cli("label", "recipe.yaml").code == 0
    assert "36 replies" in cli("ledger", "stats").out
    assert json.loads(cli("ledger", "stats", "--json").out)["sources"][0]["model"] == "tiny"
    assert "36 replies" in cli("ledger", "export", "all.jsonl").out
    assert "36 replies added" in cli("ledger", "import", "all.jsonl", "--ledger", "other.sqlite").out
    assert "36 were there already" in cli("ledger", "import", "all.jsonl", "--ledger", "other.sqlite").out
    assert cli("label", "recipe.yaml", "--set", "ledger=other.sqlite", "--out", "second").code == 0
    assert len(fault_server.requests) == 36
    assert "36 replies removed" in cli("ledger", "prune", "--older-than-days", "0").out
    assert "0 replies" in cli("ledger", "stats").out


def test_doctor_finds_what_is_there(shop, cli):
    called = cli("doctor", "--json")
    found = {item["what"]: item for item in json.loads(called.out)["findings"]}
    assert called.code == 0 and found["torch"]["state"] == "ok" and "cpu" in found
    assert found["ledger"]["state"] == "note"


def test_doctor_reaches_the_servers_of_a_recipe(shop, cli, recipe, make_fault_server):
    server = make_fault_server(models=("tiny", "large"))
    recipe(teachers=server.base_url)
    assert "serves tiny, large" in cli("doctor", "recipe.yaml").out
    recipe(teachers=server.base_url, model="other")
    called = cli("doctor", "recipe.yaml")
    assert called.code == 1 and "not 'other'" in called.out
    server.stop()
    called = cli("doctor", "recipe.yaml")
    assert called.code == 1 and "is the server up" in called.out


def test_the_ladder_of_two_runs(shop, cli):
    for out in ("first", "second"):
        assert cli("run", "recipe.yaml", "--out", out).code == 0
    told = cli("ladder", "first", "second")
    assert told.code == 0 and "first: dcn" in told.out and "second: dcn" in told.out
    rows = json.loads(cli("ladder", "first", "second", "--json").out)["rows"]
    assert [(row["run"], row["name"]) for row in rows] == [("first", "dcn"), ("second", "dcn")]
