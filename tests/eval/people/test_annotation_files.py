from __future__ import annotations

import json
from xml.etree import ElementTree

import polars as pl
import pytest

from distill.eval.people.annotation_files import read_annotation_file, write_annotation_file
from distill.labeling.errors import DataError


@pytest.fixture
def rows() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "row_id": ["a", "-7", "c"],
            "query": ["usb kabel", '=HYPERLINK("http://x")', 'مرحبا, "quoted"\nline'],
            "title": ["@SUM(A1)", "도어락", None],
            "chance": [0.5, 0.25, 1.0],
        }
    )


def test_csv_there_and_back(tmp_path, rows, task):
    path = tmp_path / "label.csv"
    assert write_annotation_file(path, rows, task=task) == [path]
    sheet = pl.read_csv(path, infer_schema=False)
    assert not any(str(cell).startswith(("=", "+", "-", "@")) for row in sheet.iter_rows() for cell in row if cell)
    sheet.with_columns(
        label=pl.Series(["Exact", "", "irrelevant"]), annotator=pl.lit("kim"), note=pl.lit("")
    ).write_csv(path)
    found = read_annotation_file(path, task=task)
    assert found.rows() == [("a", "exact", "kim", None, 0.5, None), ("c", "irrelevant", "kim", None, 1.0, None)]
    sheet.with_columns(label=pl.lit("exact")).write_csv(path)
    assert read_annotation_file(path, task=task)["row_id"].to_list() == ["a", "-7", "c"]


def test_label_studio_there_and_back(tmp_path, rows, task):
    tasks, config = write_annotation_file(tmp_path / "label.json", rows, task=task, form="label_studio")
    (choices,) = ElementTree.fromstring(config.read_text()).iter("Choices")
    assert [choice.get("value") for choice in choices] == list(task.labels)
    exported = json.loads(tasks.read_text())
    assert exported[1]["data"]["query"] == '=HYPERLINK("http://x")'  # JSON runs nothing
    answer = {"from_name": "label", "to_name": "query", "type": "choices", "value": {"choices": ["substitute"]}}
    exported[0]["annotations"] = [
        {"completed_by": {"id": 3, "email": "lee@example.org"}, "result": [answer], "was_cancelled": False},
        {"completed_by": 4, "result": [answer], "was_cancelled": True},
    ]
    exported[1]["annotations"] = []
    exported[2] = {"id": 9, "row_id": "c", "query": "x", "chance": 1.0, "label": "exact", "annotator": 5}  # JSON-MIN
    tasks.write_text(json.dumps(exported))
    assert read_annotation_file(tasks, task=task).rows() == [
        ("a", "substitute", "lee@example.org", None, 0.5, None),
        ("c", "exact", "5", None, 1.0, None),
    ]


def test_argilla_there_and_back(tmp_path, rows, task):
    (path,) = write_annotation_file(tmp_path / "records.json", rows, task=task, form="argilla")
    records = json.loads(path.read_text())
    assert records[0]["fields"] == {"query": "usb kabel", "title": "@SUM(A1)"}
    records[0]["responses"] = {"label": [{"value": "exact", "user_id": "u1"}, {"value": "substitute", "user_id": "u2"}]}
    records[1]["responses"] = {}
    path.write_text(json.dumps(records))
    found = read_annotation_file(path, task=task)
    assert found.select("row_id", "label", "annotator").rows() == [("a", "exact", "u1"), ("a", "substitute", "u2")]


def test_a_strange_label_names_its_row(tmp_path, rows, task):
    path = tmp_path / "label.csv"
    write_annotation_file(path, rows, task=task)
    pl.read_csv(path, infer_schema=False).with_columns(label=pl.lit("exakt")).write_csv(path)
    with pytest.raises(DataError, match="row 'a' has the label 'exakt'"):
        read_annotation_file(path, task=task)


def test_files_that_are_none(tmp_path, rows, task):
    path = tmp_path / "label.json"
    path.write_text("{")
    with pytest.raises(DataError, match="no labels can be read"):
        read_annotation_file(path, task=task)
    with pytest.raises(DataError, match="lack the columns \\['title'\\]"):
        write_annotation_file(path, rows.drop("title"), task=task)
