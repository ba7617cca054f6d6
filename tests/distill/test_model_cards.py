"""The cards of a run's students, and what a student that abstains leaves."""

import json

import polars as pl
import pytest
import yaml

from distill.run_folder import RunFolder
from distill.teachers.local_model import folder_digest


@pytest.fixture
def judged(shop, recipe):
    """The shop with a recorded judge; a student learns from it, and may abstain."""
    rows = pl.read_csv(shop / "rows.csv")
    replies = [
        {"row_id": row_id, "reply": json.dumps({"label": label})}
        for row_id, label in rows["row_id", "label"].iter_rows()
    ]
    (shop / "one.jsonl").write_text("\n".join(map(json.dumps, replies)))
    student = {"type": "dcn", "train_on": "labels", "epochs": 1, "buckets": 256, "abstain": {"risk": 0.1}}
    path = recipe(students={"dcn": student})
    judge = {"type": "recorded", "path": "one.jsonl", "family": "f|g"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "teachers": {"one": judge}}))
    return shop


def test_a_card_tells_what_the_run_knows_and_is_written_once(judged, cli):
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    folder = RunFolder(judged / "runs/shop")
    student = folder.student("dcn")
    card = (student / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n", 2)[1])
    assert metadata["library_name"] == "distill"
    named = {metric["type"] for metric in metadata["model-index"][0]["results"][0]["metrics"]}
    assert {"auc", "calibration_error", "share answered"} <= named
    # Twelve queries of four listings, a quarter each in train, pool, test and audit.
    assert "| audit | 12 | 3 | 12 |" in card
    assert "On 12 test rows of 3 groups, against **labels by people**." in card
    # The judge labeled the 36 rows that are asked about: all but the test rows.
    assert "| one | f\\|g | recorded | 36 |" in card
    assert "rows.csv" in card and str(judged) not in card
    assert "Guideline: version 1, SHA-256" in card
    # Twelve audit rows are too few to promise anything.
    assert "every row is marked abstained" in card
    assert "dcn: abstain" in called.err
    assert pl.read_parquet(folder.predictions("dcn"))["abstained"].all()
    before = {key: folder.stage(key) for key in folder.stages}
    assert cli("run", "recipe.yaml").code == 0
    assert {key: folder.stage(key) for key in folder.stages} == before


def test_a_lost_card_is_written_again_without_training(judged, cli):
    assert cli("run", "recipe.yaml").code == 0
    folder = RunFolder(judged / "runs/shop")
    card, trained = folder.student("dcn") / "README.md", folder.stage("train:dcn")
    text, digest = card.read_text(), folder_digest(folder.student("dcn"))
    card.unlink()
    # A student that judges is the same student with another card, or none.
    assert folder_digest(folder.student("dcn")) == digest
    assert cli("run", "recipe.yaml").code == 0
    assert card.read_text() == text
    assert folder.stage("train:dcn") == trained


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_prediction_says_whether_it_is_an_answer(judged, cli, ending):
    assert cli("run", "recipe.yaml", "--until", "train").code == 0
    assert cli("predict", "runs/shop/students/dcn", "rows.csv", "--id", "row_id", "--out", f"out.{ending}").code == 0
    out = judged / f"out.{ending}"
    found = pl.read_csv(out) if ending == "csv" else pl.read_ndjson(out)
    assert found["abstained"].to_list() == [True] * 48
    assert found["label"].null_count() == 0
