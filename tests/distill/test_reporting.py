"""What the report of a whole run tells of its students and of the files beside it."""

import json
from urllib.parse import unquote

import polars as pl
import pytest
import yaml

from distill.run_folder import RunFolder


@pytest.fixture
def judged(shop, recipe):
    """The shop with a judge that knows the truth, and a student of it that may abstain."""
    rows = pl.read_csv(shop / "rows.csv")
    replies = [
        {"row_id": row_id, "reply": json.dumps({"label": label})}
        for row_id, label in rows["row_id", "label"].iter_rows()
    ]
    (shop / "one.jsonl").write_text("\n".join(map(json.dumps, replies)))
    student = {"type": "dcn", "train_on": "labels", "epochs": 1, "buckets": 256, "abstain": {"risk": 0.1}}
    path = recipe(students={"dcn": {**student, "loss": {"type": "gce", "q": 0.6}}})
    judge = {"type": "recorded", "path": "one.jsonl", "family": "f"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "teachers": {"one": judge}}))
    return shop


def test_the_report_tells_how_students_were_made_and_links_what_there_is(judged, cli):
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    folder = RunFolder(judged / "runs/shop")
    facts = json.loads(folder.report.with_suffix(".json").read_text())
    made, record = facts["students"]["dcn"], folder.stage("train:dcn")
    assert record is not None
    assert made["learned"] == record.facts["rows"]
    assert made["loss"] == "gce (q 0.6)"
    assert (made["train_s"], made["resumed_at"], made["pruned"]) == (record.facts["train_s"], 0, None)
    # Twelve audit rows are too few for a promise: the student answers none of the twelve test rows.
    assert made["abstention"]["threshold"] is None
    assert facts["answered"]["dcn"]["share"]["value"] == 0
    assert facts["labels"]["method"] == "family_vote" and facts["labels"]["warning"] is None
    links = {unquote(link["href"]) for link in facts["files"]}
    assert {"rows.parquet", "votes.parquet", "labels.parquet", "students/dcn/README.md"} <= links
    assert all((folder.path / href).is_file() for href in links)
    # Nothing failed and one judge is no panel: neither an empty list nor a review that is not there is linked.
    assert not {"failures.jsonl", "review.html"} & links


def test_a_csv_of_predictions_is_safe_to_open_in_a_spreadsheet(judged, cli):
    assert cli("run", "recipe.yaml", "--until", "train").code == 0
    rows = pl.read_csv(judged / "rows.csv").with_columns(row_id="=1+1|" + pl.col("row_id"))
    rows.write_csv(judged / "hostile.csv")
    called = cli("predict", "runs/shop/students/dcn", "hostile.csv", "--id", "row_id", "--out", "out.csv")
    assert called.code == 0, called.err
    ids = pl.read_csv(judged / "out.csv")["row_id"]
    assert ids.str.starts_with("'=1+1|").all() and len(ids) == len(rows)
