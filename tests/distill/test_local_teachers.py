"""Functions, rules, students and classifiers as sections of a recipe, from check to report."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

import distill
from distill.recipe import load_recipe
from distill.teachers.config import functions_among, section_of

RULES = """\
from distill import labeling_function

@labeling_function
def kind(row):
    return row["title"].split()[0] if "number 3" not in row["title"] else None

@labeling_function(name="never")
def silent(row):
    return None
"""


@pytest.fixture
def ask(shop, recipe):
    """Writes the recipe with a section of teachers."""
    (shop / "rules.py").write_text(RULES)

    def write(teachers: dict[str, object], **sections: object):
        path = recipe(students=None, **sections)
        found = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**found, "teachers": teachers}, sort_keys=False))
        return path

    return write


def word(label: str, **more: object) -> dict[str, object]:
    return {"when": {"match": "words", "fields": "title", "words": label}, "then": label, **more}


FUNCTIONS = {"type": "functions", "path": "rules.py"}


def test_functions_and_rules_from_label_to_report(shop, ask, cli):
    rules = {"type": "rules", "rules": {"exact": word("exact"), "wrong": word("complement") | {"then": "irrelevant"}}}
    students = {"dcn": {"type": "dcn", "train_on": ["mine.kind", "labels"], "epochs": 1, "buckets": 256}}
    path = ask({"mine": FUNCTIONS, "rules": rules})
    path.write_text(path.read_text() + yaml.safe_dump({"students": students}))
    labeled = cli("label", "recipe.yaml")
    assert labeled.code == 0, labeled.err
    assert "mine.kind" in labeled.out and "75.0%" in labeled.out
    assert (shop / "runs/shop/failures.jsonl").read_text() == ""
    assert json.loads((shop / "runs/shop/stages.json").read_text())["label"]["final"]
    done = cli("run", "recipe.yaml")
    assert done.code == 0, done.err
    run = distill.Run(shop / "runs/shop")
    assert run.votes["teacher"].unique(maintain_order=True).to_list() == [
        *("mine.kind", "mine.never"),
        *("rules.exact", "rules.wrong"),
    ]
    found = {line["function"]: line for line in run.labeling_functions.rows(named=True)}
    # 36 of 48 rows are asked (train, pool, audit), a quarter of each label; gold is on them all.
    assert (found["mine.kind"]["coverage"], found["mine.kind"]["accuracy"]) == (0.75, 1.0)
    assert found["mine.never"]["coverage"] == 0.0
    assert (found["rules.wrong"]["coverage"], found["rules.wrong"]["conflict"]) == (0.25, 0.25)
    assert found["rules.wrong"]["accuracy"] == 0.0
    report = json.loads((shop / "runs/shop/report.json").read_text())
    assert [one["name"] for one in report["functions"]] == list(found)
    assert report["pairs"] == []
    assert [row["name"] for row in report["ladder"]["rows"]] == ["dcn"]
    page = (shop / "runs/shop/report.html").read_text()
    assert "What the labeling functions cover" in page and "rules.wrong" in page
    assert "## Labeling functions" in (shop / "runs/shop/report.md").read_text()


def test_a_stage_is_skipped_until_the_functions_file_changes(shop, ask, cli):
    ask({"mine": FUNCTIONS})
    assert cli("label", "recipe.yaml").code == 0
    assert "unchanged" in (again := cli("label", "recipe.yaml").err) or "skipped" in again
    (shop / "rules.py").write_text(RULES.replace("number 3", "number 2"))
    assert cli("label", "recipe.yaml").code == 0
    votes = pl.read_parquet(shop / "runs/shop/votes.parquet").filter(pl.col("teacher") == "mine.kind")
    abstained = votes.filter(pl.col("outcome") == "abstained")["row_id"].to_list()
    assert len(abstained) == 9 and all(row.endswith("-2") for row in abstained)


def test_a_run_in_which_everyone_abstains_is_no_failure(shop, ask, cli):
    ask({"mine": {**FUNCTIONS, "functions": ["silent"]}})
    called = cli("aggregate", "recipe.yaml")
    assert called.code == 0, called.err
    assert pl.read_parquet(shop / "runs/shop/labels.parquet")["label"].null_count() == 36


def test_a_function_that_raises_everywhere_is_one(shop, ask, cli):
    (shop / "rules.py").write_text("def broken(row):\n    return row['colour']\n")
    ask({"mine": {**FUNCTIONS, "functions": ["broken"]}})
    called = cli("label", "recipe.yaml")
    assert called.code == 1
    assert "KeyError: 'colour'" in called.err and "list what a function needs in task.inputs" in called.err


def test_a_plan_says_that_functions_cost_nothing_and_keeps_nothing(shop, ask, cli):
    ask({"mine": FUNCTIONS, "rules": {"type": "rules", "rules": {"exact": word("exact")}}})
    planned = json.loads(cli("plan", "recipe.yaml", "--json").out)
    lines = {line["teacher"]: line for line in planned["teachers"]}
    assert list(lines) == ["mine.kind", "mine.never", "rules.exact"]
    assert all(line["rows"] == line["to_send"] == 36 for line in lines.values())
    assert "computed in this process: no tokens, no cost" in cli("plan", "recipe.yaml").out
    assert all(line["cost_usd"] in ([0.0, 0.0], {"low": 0.0, "high": 0.0}) for line in lines.values())


def problems(path) -> str:
    with pytest.raises(distill.DistillError) as caught:
        load_recipe(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({**FUNCTIONS, "path": "none.py"}, "teachers.mine.path: no such file: 'none.py'"),
        ({**FUNCTIONS, "module": "m"}, "give either path: my_rules.py or module"),
        ({"type": "functions", "module": "no.such"}, "no such module with a source file"),
        ({"type": "rules", "rules": {"r": word("exakt")}}, "rules.r.then: got 'exakt', which is not among the labels"),
        (
            {
                "type": "rules",
                "rules": {"r": {**word("exact"), "unless": {"match": "words", "fields": "colour", "words": "a"}}},
            },
            "rules.r.unless: got the field 'colour', which is not among task.inputs",
        ),
        (
            {
                "type": "rules",
                "rules": {"r": {"when": {"match": "words", "fields": "title", "file": "w.txt"}, "then": "exact"}},
            },
            "rules.r.when.file: no such file: 'w.txt'",
        ),
        (
            {"type": "rules", "decide": "first", "rules": {"r": word("exact", family="f")}},
            "name its family beside decide",
        ),
        ({"type": "student", "path": "runs"}, "not a student"),
        ({"type": "classifier", "model": "m", "family": "f", "label_map": {"A": "exakt"}}, "did you mean 'exact'?"),
        ({"type": "classifier", "model": "m", "family": "f", "second": "{colour}"}, "got the field 'colour'"),
    ],
)
def test_check_finds_what_is_wrong_without_running_anything(shop, ask, section, said):
    (shop / "runs").mkdir()
    found = problems(ask({"mine": section}))
    assert said in found
    assert "recipe.yaml:" in found


def test_check_names_the_line_of_a_file_that_is_no_python_and_runs_none(shop, ask, cli):
    (shop / "rules.py").write_text("raise SystemExit('run')\n" + RULES)
    path = ask({"mine": FUNCTIONS})
    assert cli("check", path).code == 0
    (shop / "rules.py").write_text("def f(row:\n")
    assert "rules.py:1: not Python" in problems(path)


def test_train_on_names_a_function_and_not_its_section(shop, ask):
    path = ask({"mine": FUNCTIONS})
    text = path.read_text()

    def on(source: str):
        path.write_text(text + yaml.safe_dump({"students": {"s": {"type": "dcn", "train_on": source}}}))
        return path

    assert load_recipe(on("mine.never")).students["s"].train_on == ("mine.never",)
    assert "which is several teachers; give labels, or one; did you mean" in problems(on("mine"))
    assert "did you mean 'mine.kind'?" in problems(on("mine.knd"))


def test_a_student_of_an_earlier_run_is_a_teacher(shop, ask, recipe, cli):
    recipe()
    assert cli("train", "recipe.yaml", "--out", "runs/first").code == 0
    ask({"old": {"type": "student", "path": "runs/first/students/dcn", "threads": 1}})
    called = cli("aggregate", "recipe.yaml", "--out", "runs/second")
    assert called.code == 0, called.err
    votes = pl.read_parquet(shop / "runs/second/votes.parquet")
    assert len(votes) == 36 and set(votes["outcome"]) == {"labeled"} and set(votes["probs_source"]) == {"model"}
    rows = pl.read_parquet(shop / "runs/second/rows.parquet")
    alone = distill.load_student(shop / "runs/first/students/dcn").predict(rows)
    both = votes.join(alone, on="row_id")
    assert both["probs"].explode().to_list() == pytest.approx(both["probs_right"].explode().to_list(), abs=1e-5)
    found = problems(ask({"old": {"type": "student", "path": "runs/first/students/dcn"}}, task={"inputs": ["query"]}))
    assert "the student reads the inputs ['title'], the task has ['query']" in found


def test_whose_teacher_it_is():
    recipe = distill.Recipe.model_validate(
        {
            "version": 1,
            "name": "r",
            "teachers": {
                "mine": {"type": "rules", "rules": {"a": word("exact")}},
                "mine.b": {"type": "recorded", "path": "x.jsonl", "family": "f"},
                "all": {"type": "rules", "decide": "vote", "rules": {"a": word("exact")}},
            },
        }
    )
    names = ["mine.a", "mine.b", "all", "all.a", "other"]
    assert [section_of(name, recipe.teachers) for name in names] == ["mine", "mine.b", "all", None, None]
    assert functions_among(names, recipe.teachers) == ["mine.a", "all"]
