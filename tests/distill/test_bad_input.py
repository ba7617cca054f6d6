"""What is wrong from outside gets one clear message and the right exit code, and loses nothing."""

import json
import sqlite3
import subprocess
import sys

import polars as pl
import pytest


def change_rows(shop, change):
    change(pl.read_csv(shop / "rows.csv")).write_csv(shop / "rows.csv")


def fails(called, code, *told):
    assert called.code == code, called.err
    errors = [line for line in called.err.splitlines() if line.startswith("error: ")]
    assert errors, called.err
    assert "Traceback" not in called.err
    for text in told:
        assert text in called.err
    return errors


# Rows


def test_missing_column(shop, cli):
    change_rows(shop, lambda rows: rows.rename({"title": "titel", "label": "lable"}))
    (error, *_) = fails(cli("run", "recipe.yaml"), 2, "'title'", "did you mean 'titel'", "'label'", "'lable'")
    assert "rows.csv" in error


def test_empty_data(shop, cli):
    change_rows(shop, lambda rows: rows.head(0))
    fails(cli("run", "recipe.yaml"), 2, "rows.csv", "there are no rows")


def test_an_empty_file(shop, cli):
    (shop / "rows.csv").write_text("")
    fails(cli("run", "recipe.yaml"), 2, "rows.csv")


def test_one_group_across_two_splits(shop, cli):
    moved = pl.when(pl.col("row_id") == "q0-0").then(pl.lit("test")).otherwise(pl.col("split")).alias("split")
    change_rows(shop, lambda rows: rows.with_columns(moved))
    fails(cli("run", "recipe.yaml"), 2, "'red shoe 0'", "more than one split", "data.split")


def test_an_unknown_split(shop, cli):
    change_rows(shop, lambda rows: rows.with_columns(pl.col("split").replace("audit", "dev")))
    fails(cli("run", "recipe.yaml"), 2, "dev", "split_map: {'dev': audit}")


def test_no_gold_label_inside_the_set(shop, cli):
    change_rows(shop, lambda rows: rows.with_columns(pl.col("label").str.slice(0, 1).str.to_uppercase()))
    fails(cli("run", "recipe.yaml"), 2, "'label'", "gold_map")


def test_some_gold_labels_outside_the_set_are_listed_and_the_run_goes_on(shop, cli):
    odd = pl.when(pl.col("row_id") == "q2-0").then(pl.lit("exakt")).otherwise(pl.col("label")).alias("label")
    change_rows(shop, lambda rows: rows.with_columns(odd))
    assert cli("run", "recipe.yaml").code == 0
    (problem,) = [json.loads(line) for line in (shop / "runs/shop/rows_problems.jsonl").read_text().splitlines()]
    assert (problem["row_id"], problem["kind"]) == ("q2-0", "label_outside_set")


def test_duplicate_ids_are_listed_and_the_run_goes_on(shop, cli):
    again = pl.col("title") + " again"
    change_rows(shop, lambda rows: pl.concat([rows, rows.head(1).with_columns(again)]))
    called = cli("run", "recipe.yaml")
    assert called.code == 0 and "1 duplicate_id" in called.err
    (problem,) = [json.loads(line) for line in (shop / "runs/shop/rows_problems.jsonl").read_text().splitlines()]
    assert (problem["row_id"], problem["kind"], problem["line"]) == ("q0-0", "duplicate_id", 50)


# Servers


def outcomes(shop):
    votes = pl.read_parquet(shop / "runs/shop/votes.parquet")
    return dict(votes.group_by("outcome").len().iter_rows())


def test_a_server_that_is_down(shop, cli, make_fault_server, recipe):
    server = make_fault_server()
    server.stop()
    recipe(teachers=server.base_url, labeling={"retries": 0})
    called = cli("label", "recipe.yaml")
    fails(called, 1, "no teacher labeled any row", "is the server up")
    assert sum(outcomes(shop).values()) == 36 and "labeled" not in outcomes(shop)


def test_a_server_that_refuses_the_key(shop, cli, make_fault_server, recipe, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "sk-hush")
    server = make_fault_server(api_key="sk-right")
    recipe(teachers=server.base_url, api_key="${SHOP_KEY}")
    called = cli("label", "recipe.yaml")
    fails(called, 1, "no teacher labeled any row", "401")
    assert "sk-hush" not in called.err + called.out
    assert set(outcomes(shop)) <= {"failed", "unsent"} and sum(outcomes(shop).values()) == 36
    assert len(server.requests) < 36
    for file in (shop / "runs/shop").rglob("*"):
        assert not file.is_file() or b"sk-hush" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("fault", "outcome", "told"),
    [
        ("html", "failed", "got an HTML page titled 'Welcome to the proxy'"),
        ("cut", "failed", "cut off before its end"),
        ("half_json", "failed", "expected a chat completion"),
        ("prose", "invalid", "JSON"),
        ("unknown_label", "invalid", "great match"),
        ("never", "failed", "no whole answer within 0.1 s"),
    ],
)
def test_a_row_whose_answer_is_unusable_is_recorded_and_the_others_go_on(
    shop, cli, fault_server, recipe, fault, outcome, told
):
    fault_server.on("shoe 0 number 0", then=fault)
    recipe(teachers=fault_server.base_url, labeling={"retries": 0}, timeout_s=0.1)
    assert cli("label", "recipe.yaml").code == 0
    assert outcomes(shop) == {"labeled": 35, outcome: 1}
    (failure,) = [json.loads(line) for line in (shop / "runs/shop/failures.jsonl").read_text().splitlines()]
    assert failure["row_id"] == "q0-0" and told in failure["reason"]


def test_what_failed_is_asked_again_by_the_same_command_and_nothing_else_is(shop, cli, fault_server, recipe):
    fault_server.on("shoe 0 number 0", "500", then="ok")
    recipe(teachers=fault_server.base_url, labeling={"retries": 0})
    assert cli("label", "recipe.yaml").code == 0
    assert outcomes(shop) == {"labeled": 35, "failed": 1}
    assert cli("label", "recipe.yaml").code == 0
    assert outcomes(shop) == {"labeled": 36}
    assert len(fault_server.requests) == 37


def test_a_spent_budget_ends_the_run_with_3_and_the_next_one_goes_on(shop, cli, fault_server, recipe):
    price = {"input_usd_per_mtok": 1e4, "output_usd_per_mtok": 1e4}
    recipe(teachers=fault_server.base_url, price=price, labeling={"budget_usd": 20.0, "concurrency": 1})
    called = cli("label", "recipe.yaml")
    fails(called, 3, "budget_usd")
    first = outcomes(shop)
    assert 0 < first["labeled"] < 36 and first["labeled"] + first["unsent"] == 36
    recipe(teachers=fault_server.base_url, price=price, labeling={"budget_usd": 2000.0, "concurrency": 1})
    assert cli("label", "recipe.yaml").code == 0
    assert outcomes(shop) == {"labeled": 36}
    assert len(fault_server.requests) == 36


# Ledger and run folder


@pytest.mark.parametrize("room", [500, 40_000])
def test_a_full_disk_stops_the_run_and_keeps_what_was_answered(shop, fault_server, recipe, room):
    recipe(teachers=fault_server.base_url)
    # No file may grow beyond this many bytes: what a full disk does to SQLite, without filling one.
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        "sys.argv = ['distill', 'label', 'recipe.yaml']\n"
        "from distill.cli import main\n"
        "main()\n"
    )
    limited = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert limited.returncode == 1, limited.stderr
    assert "error: " in limited.stderr and "Traceback" not in limited.stderr
    assert "make room" in limited.stderr
    paid = len(fault_server.requests)
    done = subprocess.run(
        [sys.executable, "-m", "distill", "label", "recipe.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert outcomes(shop) == {"labeled": 36}
    assert len(fault_server.requests) <= paid + 36


def test_a_ledger_from_a_newer_version(shop, cli, fault_server, recipe):
    recipe(teachers=fault_server.base_url)
    assert cli("label", "recipe.yaml").code == 0
    ledger = shop / ".distill/ledger.sqlite"
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    fails(cli("label", "recipe.yaml", "--out", "again"), 1, str(ledger.relative_to(shop)), "newer")


def test_a_ledger_that_is_none(shop, cli, fault_server, recipe):
    (shop / ".distill").mkdir()
    (shop / ".distill/ledger.sqlite").write_bytes(b"this is no database" * 100)
    recipe(teachers=fault_server.base_url)
    fails(cli("label", "recipe.yaml"), 1, "ledger.sqlite")
    assert (shop / ".distill/ledger.sqlite").read_bytes().startswith(b"this is no database")


def test_a_run_folder_made_by_another_recipe(shop, cli, recipe):
    assert cli("run", "recipe.yaml", "--until", "data", "--out", "mine").code == 0
    recipe(name="other")
    fails(cli("run", "recipe.yaml", "--until", "data", "--out", "mine"), 2, "mine", "'shop'", "'other'", "--out")


def test_a_folder_that_no_run_wrote_is_left_alone(shop, cli):
    (shop / "photos").mkdir()
    (shop / "photos/cat.jpg").write_bytes(b"cat")
    fails(cli("run", "recipe.yaml", "--out", "photos"), 2, "photos", "cat.jpg")
    assert [path.name for path in (shop / "photos").iterdir() if path.name != ".lock"] == ["cat.jpg"]


def test_two_runs_in_one_folder(shop, cli):
    from distill.run_folder import RunFolder

    with RunFolder(shop / "runs/shop").locked("shop"):
        fails(cli("run", "recipe.yaml"), 2, "another run", "--out")
    assert cli("run", "recipe.yaml", "--until", "data").code == 0


# The command line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "gone.yaml"), "gone.yaml: no such recipe"),
        (("run", "recipe.yaml", "--until", "lunch"), "lunch"),
        (("label", "recipe.yaml"), "teachers: missing; the stage `label` needs this section"),
        (("ladder", "gone"), "gone: not a run folder"),
        (("predict", "gone", "rows.csv"), "gone"),
        (("ledger", "stats"), "no ledger here"),
        (("recipes", "show", "quickstrat"), "did you mean 'quickstart'"),
    ],
)
def test_a_wrong_command(shop, cli, arguments, told):
    called = cli(*arguments)
    assert called.code in (1, 2) and told in called.err and "Traceback" not in called.err
