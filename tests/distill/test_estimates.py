"""Few or no labels, through a run: what the eval stage writes, the report shows and ``distill ladder`` compares."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

import distill
from distill.eval.student_estimate import CHANGES
from distill.run_folder import RunFolder


@pytest.fixture
def judged(shop, recipe):
    """The shop with judges of two families asked about every split, and students of people and of one judge."""
    rows = pl.read_csv(shop / "rows.csv")
    judges = {}
    for judge, wrong_every in (("one", 7), ("two", 5)):
        lines = []
        for place, row in enumerate(rows.iter_rows(named=True)):
            label = row["label"] if place % wrong_every else "irrelevant"
            lines.append(json.dumps({"row_id": row["row_id"], "reply": json.dumps({"label": label})}))
        (shop / f"{judge}.jsonl").write_text("\n".join(lines))
        judges[judge] = {"type": "recorded", "path": f"{judge}.jsonl", "family": f"family-{judge}"}
    plain = {"type": "dcn", "epochs": 1, "buckets": 256}
    students = {"people": {**plain, "train_on": "human"}, "pupil": {**plain, "train_on": "one"}}
    path = recipe(students=students, labeling={"splits": ["pool", "train", "audit", "test"]})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "teachers": judges}))
    return shop


def hide_test_gold(shop, keep: int, of: int) -> None:
    """Leaves gold to the first few of so many test rows each."""
    place = pl.int_range(pl.len()).over("split") % of
    hidden = (pl.col("split") == "test") & (place >= keep)
    rows = pl.read_csv(shop / "rows.csv")
    rows.with_columns(label=pl.when(~hidden).then(pl.col("label"))).write_csv(shop / "rows.csv")


def test_a_run_estimates_students_and_ranks_teachers_without_labels(judged, cli):
    assert cli("run", "recipe.yaml").code == 0
    run = distill.Run("runs/shop")
    found = run.label_free
    assert [one.rank for one in found.teachers] == [1, 2]
    assert {one.teacher for one in found.teachers} == {"one", "two"}
    assert list(found.students) == ["people", "pupil"]
    people, pupil = found.students.values()
    assert people.positive == "exact" and people.other_families is None
    assert pupil.other_families is not None  # judge two is of a family that it did not learn from
    said = run.predictions("pupil").join(run.labels.select("row_id", merged="label"), on="row_id")
    same = ((said["label"] == "exact") == (said["merged"] == "exact")).mean()
    assert pupil.agreement.value == pytest.approx(same)
    assert pupil.gap.rows == 12  # the audit rows, which the student was asked about in this stage
    assert set(pupil.changes) <= set(CHANGES) and "case" in pupil.changes
    assert run.ladder.rows[1].estimate == pupil
    assert run.few_labels is None  # every test row has gold
    assert 'id="unlabeled"' in (judged / "runs/shop/report.html").read_text(encoding="utf-8")
    # a folder of an older version has none, and still opens
    RunFolder(judged / "runs/shop").label_free.unlink()
    assert run.label_free is None and len(run.ladder.rows) == 5


def test_students_are_estimated_also_where_nothing_can_be_measured(shop, cli):
    hide_test_gold(shop, keep=0, of=1)
    assert cli("run", "recipe.yaml").code == 0
    run = distill.Run("runs/shop")
    assert run.ladder.rows == [] and run.evaluations == {}
    found = run.label_free.students["dcn"]
    assert found.agreement is None and 0.0 < found.expected.value <= 1.0
    report = (shop / "runs/shop/report.html").read_text(encoding="utf-8")
    assert 'id="unlabeled"' in report and "no trained student with a measured quality" in report


def test_where_a_part_of_the_test_rows_has_gold_the_rest_is_guessed(judged, cli):
    rows = pl.concat(
        pl.read_csv(judged / "rows.csv").with_columns(
            row_id=pl.col("row_id") + f"-{copy}", query=pl.col("query") + f" {copy}"
        )
        for copy in range(3)
    )
    whole = judged / "whole.csv"
    rows.write_csv(whole)
    rows.write_csv(judged / "rows.csv")
    for judge in ("one", "two"):
        lines = [json.loads(line) for line in (judged / f"{judge}.jsonl").read_text().splitlines()]
        copies = [{**line, "row_id": f"{line['row_id']}-{copy}"} for copy in range(3) for line in lines]
        (judged / f"{judge}.jsonl").write_text("\n".join(json.dumps(line) for line in copies))
    hide_test_gold(judged, keep=2, of=4)
    assert cli("run", "recipe.yaml").code == 0
    run = distill.Run("runs/shop")
    few = run.few_labels
    assert (few.rows, few.labeled, few.truth_source) == (36, 18, "human")
    assert set(few.quality) == {"people", "pupil", "one", "two", "merged labels"}
    line = run.ladder.rows[1]
    assert line.quality.rows == 18 and line.powered == few.quality["pupil"]["positive_accuracy"]
    assert line.powered.labeled == 18 and line.powered.unlabeled == 18
    assert (few.differences[0].better, few.differences[0].than) == ("pupil", "people")
    assert "as a part of 36" in cli("eval", "recipe.yaml", "--set", "eval.bootstrap=101").err
    # with all gold there is nothing left to guess, and no stale file
    whole.rename(judged / "rows.csv")
    assert cli("run", "recipe.yaml").code == 0
    assert run.few_labels is None and run.ladder.rows[1].powered is None


def test_runs_are_compared_over_the_rows_that_they_share(judged, cli):
    off = ("--set", "eval.consistency_rows=0")
    assert cli("eval", "recipe.yaml", "--out", "first", *off).code == 0
    changed = cli("eval", "recipe.yaml", "--out", "second", "--set", "students.pupil.train_on=two", *off)
    assert changed.code == 0, changed.err
    assert distill.Run("first").label_free.students["pupil"].consistency is None
    told = json.loads(cli("ladder", "first", "second", "--json").out)
    assert {row["run"] for row in told["rows"]} == {"first", "second"}
    named = {(one["student"], one["over_student"]): one for one in told["differences"]}
    assert all(one["shared"] == one["rows"] == one["over_rows"] == 12 for one in named.values())
    assert all(one["difference"]["value"] is not None for one in named.values())
    markdown = cli("ladder", "first", "second", "--markdown").out
    assert "| run | student | over | why these | difference | shared test rows |" in markdown
    assert "12 of 12 and 12" in cli("ladder", "first", "second").out
    hide_test_gold(judged, keep=0, of=1)
    assert cli("eval", "recipe.yaml", "--out", "third", *off).code == 0
    apart = json.loads(cli("ladder", "first", "third", "--json").out)["differences"]
    assert {one["reason"] for one in apart} == {"measured against merged labels of teachers, which are each run's own"}
    alone = json.loads(cli("ladder", "first", "--json").out)
    assert alone["differences"] == []
