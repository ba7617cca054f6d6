"""Rows handed to annotators and their labels read back, through the commands, in every format.

Exports are of the shape that Argilla's SDK 2.8 (``records.to_json``) and Label Studio's converter write.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from distill import run
from tests.distill.conftest import shop_rows, write_recipe

LABELED = ("q2-0", "q2-1")
"""Test rows that have their label anyway; the ten others have none."""


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> Path:
    """A shop with few labels in split test, and a run with a student."""
    folder = tmp_path_factory.mktemp("shop")
    kept = (pl.col("split") != "test") | pl.col("row_id").is_in(LABELED)
    shop_rows().with_columns(label=pl.when(kept).then("label")).write_csv(folder / "rows.csv")
    (folder / "guideline.md").write_text("version: 1\n\n- **E1 Type.** The kind of thing that the query names.\n")
    run(write_recipe(folder), out=folder / "out", until="eval")
    return folder


@pytest.fixture
def trained(trained_once, shop) -> Path:
    """A copy of it, in the current folder."""
    return shutil.copytree(trained_once, shop, dirs_exist_ok=True)


def truth(row_id: str) -> str:
    return ("exact", "substitute", "complement", "irrelevant")[int(row_id[-1])]


def with_annotations(*files: str) -> None:
    document = yaml.safe_load(Path("recipe.yaml").read_text())
    document["data"]["annotations"] = list(files)
    Path("recipe.yaml").write_text(yaml.safe_dump(document))


def fill_csv(path: Path) -> None:
    sheet = pl.read_csv(path, infer_schema=False)
    given = [truth(name) for name in sheet["row_id"]]
    sheet.with_columns(label=pl.Series(given), annotator=pl.lit("kim")).write_csv(path)


def fill_label_studio(path: Path) -> None:
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks, start=1):
        chosen = {"value": {"choices": [truth(task["data"]["row_id"])]}, "id": "a1b2", "from_name": "label"}
        chosen |= {"to_name": "query", "type": "choices", "origin": "manual"}
        made = {"created_at": "2026-01-05T10:00:00.000000Z", "updated_at": "2026-01-05T10:00:09.000000Z"}
        first = {"id": 10 * number, "completed_by": 1, "result": [chosen], "was_cancelled": False, "lead_time": 9.1}
        first |= {"ground_truth": False, "draft_created_at": None, "prediction": {}, "result_count": 1, **made}
        skipped = {**first, "id": 10 * number + 1, "completed_by": 2, "result": [], "was_cancelled": True}
        task |= {"id": number, "annotations": [first, skipped], "drafts": [], "predictions": [], "meta": {}, **made}
    path.write_text(json.dumps(tasks))


def fill_label_studio_min(path: Path) -> None:
    found = []
    for number, task in enumerate(json.loads(path.read_text()), start=1):
        note = {"text": ["two", "lines"]}
        answer = {"id": number, "label": truth(task["data"]["row_id"]), "note": note, "annotator": 1}
        found.append({**task["data"], **answer, "annotation_id": number, "lead_time": 3.2})
    path.write_text(json.dumps(found))


def fill_argilla(path: Path) -> None:
    records = json.loads(path.read_text())
    for record in records:
        user = "46b47cec-3d3f-4c59-b5ae-a0daac662d9b"
        answers = {"label": [{"value": truth(record["id"]), "user_id": user}, {"value": None, "user_id": "f083"}]}
        record |= {"suggestions": {}, "responses": answers, "vectors": {}, "status": "completed", "_server_id": None}
    path.write_text(json.dumps(records))


FILLED = {
    "csv": ("csv", fill_csv, "kim"),
    "label_studio": ("label_studio", fill_label_studio, "1"),
    "label_studio_min": ("label_studio", fill_label_studio_min, "1"),
    "argilla": ("argilla", fill_argilla, "46b47cec-3d3f-4c59-b5ae-a0daac662d9b"),
}


@pytest.mark.parametrize("form", FILLED)
def test_handed_out_filled_in_and_read_back(trained, cli, form):
    named, fill, annotator = FILLED[form]
    called = cli("label-next", "out", "--rows", 6, "--format", named)
    assert called.code == 0, called.err
    assert "6 rows of 3 groups, drawn from 10 without a label" in called.err and "±" in called.err
    path = Path(called.out.splitlines()[0])
    handed = path.read_text()
    assert "prob" not in handed and "confidence" not in handed and "dcn" not in handed
    fill(path)
    with_annotations(path.name)
    called = cli("run", "recipe.yaml", "--until", "eval", "--out", "out")
    assert called.code == 0, called.err
    assert "6 labeled by 1 annotator" in called.err
    rows = pl.read_parquet("out/rows.parquet").filter(split="test")
    drawn = rows.filter(pl.col("chance").is_not_null())
    assert len(drawn) == 6 and not set(drawn["row_id"]) & set(LABELED)
    assert drawn["gold"].to_list() == [truth(name) for name in drawn["row_id"]]
    assert drawn["chance"].to_list() == pytest.approx([0.6] * 6, rel=0.6)
    assert set(pl.read_parquet("out/annotations.parquet")["annotator"]) == {annotator}
    assert "train:dcn" not in _begun(), "labels of test rows are nothing to learn from"


def test_a_second_draw_has_the_chances_that_count(trained, cli):
    cli("label-next", "out", "--rows", 4, "--out", "first.csv")
    fill_csv(Path("first.csv"))
    with_annotations("first.csv")
    cli("run", "recipe.yaml", "--until", "eval", "--out", "out")
    called = cli("label-next", "out", "--rows", 3, "--out", "second.csv")
    assert "drawn from 6 without a label" in called.err
    assert not set(pl.read_csv("first.csv")["row_id"]) & set(pl.read_csv("second.csv")["row_id"])
    fill_csv(Path("second.csv"))
    with_annotations("first.csv", "second.csv")
    cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    rows = pl.read_parquet("out/rows.parquet").filter(split="test")
    assert rows["gold"].null_count() == 3
    assert set(rows.filter(pl.col("chance").is_not_null())["row_id"]) == set(pl.read_csv("second.csv")["row_id"])


def test_several_annotators_strangers_and_rows_of_the_pool(trained, cli):
    head = "row_id,label,annotator,note,chance,draw\n"
    Path("kim.csv").write_text(head + "q1-0,irrelevant,,,,\nq2-0,substitute,,unsure,,\nq2-2,exact,,,0.5,1\n")
    Path("lee.csv").write_text(head + "q2-2,irrelevant,,,0.5,1\ngone,exact,,,,\n")
    with_annotations("kim.csv", "lee.csv")
    called = cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    assert called.code == 0, called.err
    said = "3 labeled by 2 annotators, 1 row by two or more, 1 tie left without a label, 2 of them in place of another"
    assert f"{said} gold label, 1 are of rows that are not there" in called.err
    rows = {row["row_id"]: row for row in pl.read_parquet("out/rows.parquet").iter_rows(named=True)}
    assert (rows["q1-0"]["gold"], rows["q1-0"]["split"]) == ("irrelevant", "train")
    # a label that stood there anyway: nobody drew the row
    assert (rows["q2-0"]["gold"], rows["q2-0"]["chance"]) == ("substitute", None)
    assert (rows["q2-2"]["gold"], rows["q2-2"]["chance"]) == (None, None)
    own = pl.read_parquet("out/annotations.parquet")
    assert own.select("row_id", "annotator", "label", "note").rows()[:2] == [
        ("q1-0", "kim", "irrelevant", None),
        ("q2-0", "kim", "substitute", "unsure"),
    ]
    with_annotations()
    cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    assert not Path("out/annotations.parquet").exists()
    assert "chance" not in pl.read_parquet("out/rows.parquet").columns


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rows", 11), "split test has 10 rows without a label; give --rows 10 or fewer"),
        (("--rows", 2, "--split", "audit"), "each of the 12 rows of split audit has a label"),
        (("--rows", 2, "--student", "dnc"), "'dnc' is not trained in out; there are dcn, and labels"),
        (("--rows", 2, "--format", "xml"), "one of csv, label_studio, argilla"),
        (("--rows", 2, "--format", "argilla", "--out", "x.csv"), "give a name that ends in .json"),
        (("--rows", 2, "--split", "tset"), "one of pool, train, audit, test"),
        (("--rows", 2, "--student", "labels"), "labels.parquet: not there yet"),
    ],
)
def test_what_cannot_be_handed_out_is_said(trained, cli, options, said):
    called = cli("label-next", "out", *options)
    assert called.code == 2 and said in called.err, called.err


def test_annotators_work_is_never_written_over(trained, cli):
    assert cli("label-next", "out", "--rows", 4).code == 0
    fill_csv(Path("out_to_label.csv"))
    done = Path("out_to_label.csv").read_text()
    called = cli("label-next", "out", "--rows", 4)
    assert called.code == 2 and "is there already, perhaps with labels in it" in called.err
    assert Path("out_to_label.csv").read_text() == done
    called = cli("label-next", "out", "--rows", 4, "--for", "prevalence", "--force", "--json")
    assert json.loads(called.out)["measure"] == "how many rows are exact"


def test_without_a_student_the_way_to_one_is_told(shop, cli, recipe):
    rows = pl.read_csv("rows.csv").with_columns(label=pl.when(pl.col("split") != "test").then("label"))
    rows.write_csv("rows.csv")
    cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    called = cli("label-next", "out", "--rows", 2)
    assert called.code == 2 and "has no trained student" in called.err and "distill train" in called.err
    assert "Example: distill label-next" in cli("label-next", "--help").out


def _begun() -> list[str]:
    """Stages that the last run did, and did not skip."""
    begun: list[str] = []
    for line in Path("out/log.jsonl").read_text().splitlines():
        event = json.loads(line)
        begun = [] if event["event"] == "run_started" else begun
        begun += [event["stage"]] if event["event"] == "stage_started" else []
    return begun
