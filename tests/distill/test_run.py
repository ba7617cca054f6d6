"""A run, whole and interrupted, through the command line and the library."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import yaml

import distill
from distill.run_folder import RunFolder

STAGE_KEYS = ["data", "label", "aggregate", "train:dcn", "predict:dcn", "eval", "report"]


@pytest.fixture
def judged(shop, recipe):
    """The shop with two recorded judges and a student that learns from them."""
    rows = pl.read_csv(shop / "rows.csv")
    for judge, wrong_every in (("one", 7), ("two", 5)):
        lines = []
        for place, row in enumerate(rows.iter_rows(named=True)):
            label = row["label"] if place % wrong_every else "irrelevant"
            reply = {"label": label, "clauses": ["E1"], "confidence": 0.9}
            lines.append(json.dumps({"row_id": row["row_id"], "reply": json.dumps(reply)}))
        (shop / f"{judge}.jsonl").write_text("\n".join(lines))
    path = recipe(students={"dcn": {"type": "dcn", "train_on": "labels", "epochs": 1, "buckets": 256}})
    text = yaml.safe_load(path.read_text())
    judges = {name: {"type": "recorded", "path": f"{name}.jsonl", "family": "f"} for name in ("one", "two")}
    path.write_text(yaml.safe_dump({**text, "teachers": judges}))
    return shop


def decisive(folder):
    """What a run decided, without what it took."""
    votes = pl.read_parquet(folder / "votes.parquet").drop("latency_s", "from_ledger")
    return {
        "rows": (folder / "rows.parquet").read_bytes(),
        "votes": votes.write_ndjson(),
        "labels": pl.read_parquet(folder / "labels.parquet").write_ndjson(),
        "student": (folder / "students/dcn/model.safetensors").read_bytes(),
        "predictions": pl.read_parquet(folder / "predictions/dcn.parquet").write_ndjson(),
        "evaluations": (folder / "evaluations.json").read_text(),
    }


def test_a_run_leaves_everything_that_it_promises(judged, cli):
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    folder = judged / "runs/shop"
    for name in ("recipe.yaml", "manifest.json", "rows.parquet", "votes.parquet", "labels.parquet", "ladder.json"):
        assert (folder / name).stat().st_size > 0, name
    assert RunFolder(folder).stages == STAGE_KEYS
    assert "dcn" in called.out and "report.html" in called.out and "review.html" in called.out
    votes = pl.read_parquet(folder / "votes.parquet")
    assert len(votes) == 2 * 36 and set(votes["outcome"]) == {"labeled"}
    assert [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()][-1] == "run_finished"


def test_json_output_is_one_document(judged, cli):
    told = json.loads(cli("run", "recipe.yaml", "--json").out)
    assert told["outcomes"] == {"labeled": 72}
    assert told["ladder"][0]["name"] == "dcn" and told["ladder"][0]["truth_source"] == "human"


def test_a_second_run_does_nothing_and_a_change_does_what_follows_from_it(judged, cli):
    assert cli("run", "recipe.yaml").code == 0
    folder = RunFolder(judged / "runs/shop")
    before = {key: folder.stage(key) for key in STAGE_KEYS}
    assert "unchanged, kept" in cli("run", "recipe.yaml").err
    assert {key: folder.stage(key) for key in STAGE_KEYS} == before
    assert cli("run", "recipe.yaml", "--set", "eval.bootstrap=200").code == 0
    redone = [key for key in STAGE_KEYS if folder.stage(key).fingerprint != before[key].fingerprint]
    assert redone == ["eval", "report"]


def test_a_file_that_was_changed_by_hand_is_made_again(judged, cli):
    assert cli("run", "recipe.yaml").code == 0
    predictions = judged / "runs/shop/predictions/dcn.parquet"
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:100])
    assert cli("run", "recipe.yaml").code == 0
    assert predictions.read_bytes() == whole


def test_an_edited_clause_asks_again_and_one_that_stays_does_not(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None)
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 36
    rows = pl.read_csv(shop / "rows.csv")
    rows.reverse().write_csv(shop / "rows.csv")
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 36
    (shop / "guideline.md").write_text("version: 2\n\n- **E1 Type.** Another kind of thing.\n")
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)["teachers"][0]
    assert (planned["to_send"], planned["in_ledger"]) == (36, 0)
    assert len(fault_server.requests) == 36
    assert cli("label", "recipe.yaml").code == 0
    assert len(fault_server.requests) == 72


def test_the_same_seed_gives_the_same_bytes(judged, cli):
    assert cli("run", "recipe.yaml", "--out", "first").code == 0
    assert cli("run", "recipe.yaml", "--out", "second").code == 0
    assert decisive(judged / "first") == decisive(judged / "second")


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_ends_in_the_same_result(judged, cli):
    assert cli("run", "recipe.yaml", "--out", "whole").code == 0
    command = [sys.executable, "-m", "distill", "run", "recipe.yaml", "--out", "killed"]
    environment = {**os.environ, "DISTILL_LEDGER": "killed.sqlite", "OMP_NUM_THREADS": "1"}
    dice, kills = random.Random(5), 0
    for attempt in range(25):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Later and later, so that in the end a run gets through whatever the machine's speed.
        deadline = time.monotonic() + dice.uniform(0.7, 1.3) * 1.5 * 1.3**attempt
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read().decode()
            break
        process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGINT)
        process.wait()
        kills += 1
    assert kills > 0
    assert decisive(judged / "killed") == decisive(judged / "whole")


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(shop, recipe, make_fault_server):
    server = make_fault_server()
    server.always("never")
    recipe(teachers=server.base_url)
    command = [sys.executable, "-m", "distill", "label", "recipe.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not server.requests and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130, told
    assert "the same command goes on from there" in told and "Traceback" not in told


def test_limit_keeps_whole_groups_of_every_split(judged, cli):
    assert cli("run", "recipe.yaml", "--limit", "16").code == 0
    rows = distill.Run(judged / "runs/shop").rows
    assert len(rows) <= 20 and set(rows["split"]) == {"train", "pool", "test", "audit"}
    assert set(rows.group_by("group").len()["len"]) == {4}


def test_without_gold_students_are_compared_by_agreement_and_no_accuracy_is_printed(judged, cli):
    called = cli("run", "recipe.yaml", "--set", "data.gold=null", "--set", "labeling.splits=[pool,train,audit,test]")
    assert called.code == 0, called.err
    run = distill.Run(judged / "runs/shop")
    assert {row.truth_source for row in run.ladder.rows} == {"teacher"}
    assert "agreement, not accuracy" in " ".join(called.out.split())


def test_the_library_does_what_the_command_does(judged, tmp_path):
    recipe = distill.load_recipe("recipe.yaml")
    run = distill.run(recipe, out="by-recipe")
    task = recipe.task
    data = {"id": "row_id", "gold": "label", "split": "split"}
    rows = distill.read_rows("rows.csv", task, data=data)
    votes = distill.label(rows, task, recipe.teachers)
    asked = votes.filter(pl.col("row_id").is_in(run.votes["row_id"].implode()))
    columns = ["row_id", "teacher", "outcome", "label", "probs"]
    assert asked.select(columns).equals(run.votes.select(columns))
    labels = distill.aggregate(asked, labels=task.labels)
    assert labels.select("row_id", "label").equals(run.labels.select("row_id", "label"))
    student = distill.train(rows, recipe.students["dcn"], task=task, out=tmp_path / "s", labels=labels)
    test = rows.filter(pl.col("split") == "test")
    predictions = student.predict(test)
    assert predictions.select("row_id", "label").equals(run.predictions("dcn").select("row_id", "label"))
    found = distill.evaluate(predictions, rows, task=task)
    assert found.metrics["accuracy"].value == run.evaluations["dcn"].metrics["accuracy"].value
    assert distill.review(votes, rows, task).judges


@pytest.mark.parametrize("out", ["predicted.parquet", "predicted.csv", "predicted.jsonl", None])
def test_predict_answers_every_line_of_a_file(judged, cli, out):
    assert cli("run", "recipe.yaml").code == 0
    pl.read_csv("rows.csv").drop("label", "split").rename({"title": "name"}).write_ndjson("new.jsonl")
    with open("new.jsonl", "a") as file:
        file.write("this is no json\n")
    options = ["--id", "row_id", "--column", "title=name", *(["--out", out] if out else [])]
    called = cli("predict", "runs/shop/students/dcn", "new.jsonl", *options)
    assert called.code == 0, called.err
    assert "48 rows" in called.err and "1 rows could not be used" in called.err
    if out is None:
        got = pl.DataFrame([json.loads(line) for line in called.out.splitlines()])
    else:
        readers = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
        got = readers[out.partition(".")[2]](out)
    assert got["row_id"].to_list() == pl.read_csv("rows.csv")["row_id"].to_list()
    assert set(got["label"]) <= {"exact", "substitute", "complement", "irrelevant"}
