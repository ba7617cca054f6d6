from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from distill.annotations import AnnotationColumns, read_annotations
from distill.cli import app
from distill.eval.guideline.review import review
from distill.labeling.errors import DataError, UsageError

LONG = """id,query,title,annotator,label,clauses,comment,gold
1,usb kabel,Anker cable,kim,exact,"E1; E2",fits,exact
1,usb kabel,Anker cable,lee,substitute,S1,,exact
2,usb kabel,Lamp,kim,irrelevant,,,
2,usb kabel,Lamp,lee,irrelevant,,,
3,lamp,Lamp,kim,,,,
"""


def test_a_line_a_judgment(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(LONG)
    found = read_annotations(path)
    assert found.task.labels == ("exact", "substitute", "irrelevant")
    assert (found.task.inputs, found.task.ordered) == (("query", "title"), False)
    assert found.votes.height == 4  # the empty label is no vote
    assert found.votes["clauses"].to_list()[:2] == [["E1", "E2"], ["S1"]]
    assert found.rows.select("row_id", "group", "gold", "title").rows() == [
        ("1", "usb kabel", "exact", "Anker cable"),
        ("2", "usb kabel", None, "Lamp"),
        ("3", "lamp", None, "Lamp"),
    ]
    reviewed = review(found.votes, found.rows, task=found.task)
    assert (reviewed.rows, reviewed.rows_apart) == (2, 1)
    assert "give --labels" in found.notes[0]


def test_a_column_an_annotator(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"docid": [7, 7, 8], "query": ["a", "b", "b"], "name": ["x", "x", "y"], "r1": [3, 0, 1], "r2": [3, 1, None]}
    pl.DataFrame({**table, "final_rating": [3.0, 0.0, 9.0]}).write_parquet(path)
    found = read_annotations(path, columns=AnnotationColumns(judges=("r1", "r2")))
    assert (found.task.labels, found.task.ordered) == (("3", "1", "0"), True)
    # product 7 was judged for two queries: two rows
    assert found.rows["row_id"].to_list() == ["a | 7", "b | 7", "b | 8"]
    assert found.votes.group_by("teacher").len().sort("teacher").rows() == [("r1", 3), ("r2", 2)]
    assert found.rows["gold"].to_list() == ["3", "0", None]
    assert any("gold labels that no judge gave were left out: 9" in note for note in found.notes)
    assert any("a row is named by both" in note for note in found.notes)


def test_labels_in_the_order_given(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(LONG)
    found = read_annotations(path, labels="exact > substitute > complement > irrelevant")
    assert found.task.labels[2] == "complement"
    assert found.task.ordered
    with pytest.raises(DataError, match=r"labels outside --labels: \['irrelevant', 'substitute'\]"):
        read_annotations(path, labels="exact, complement")


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("id,who,label\n1,a,x\n", AnnotationColumns(), "which column is the judge"),
        ("id,annotator,label\n1,a,x\n", AnnotationColumns(group="query"), "no column 'query' for the group"),
        ("id,annotator,label\n1,a,x\n1,b,x\n", AnnotationColumns(), "1 different labels"),
        ("id,a\n1,x\n", AnnotationColumns(judges=("a", "b")), r"no columns \['b'\]"),
    ],
)
def test_what_cannot_be_found_is_asked_for(tmp_path, text, columns, said):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_annotations(path, columns=columns)


def test_other_files_are_refused():
    with pytest.raises(DataError, match="convert the annotations"):
        read_annotations(Path("a.xlsx"))


def test_columns_are_named_as_on_the_command_line():
    one = AnnotationColumns.parse(["judge=who", "label=grade", "group=q", "input=q", "input=title"])
    assert (one.judge, one.judges, one.label, one.inputs) == ("who", (), "grade", ("q", "title"))
    assert AnnotationColumns.parse(["judge=a", "judge = b"]).judges == ("a", "b")
    with pytest.raises(UsageError, match="--column rater=a: write it as part=column"):
        AnnotationColumns.parse(["rater=a"])


def test_reviewed_decided_and_reviewed_again_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("judged.csv").write_text(LONG)
    Path("guideline.md").write_text("- **E1 Kind.** The same kind.\n- **S1 Off.** One thing fails.\n")
    command = ["review", "judged.csv", "--guideline", "guideline.md", "--labels", "exact>substitute>irrelevant"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert [name for name in first.stdout.split() if not Path(name).is_file()] == []
    decided = {"row_id": "1", "label": "substitute", "clauses": ["S1"], "note": "too short"}
    saved = {"format": "distill-decisions", "version": 1, "name": "judged", "decisions": [decided]}
    Path("decided.json").write_text(json.dumps(saved))
    second = CliRunner().invoke(app, [*command, "--decisions", "decided.json"])
    assert second.exit_code == 0, second.output
    assert "judged_review_examples.md" in second.stdout
    assert "is **substitute**: too short" in Path("judged_review_examples.md").read_text()
    told = json.loads(Path("judged_review.json").read_text())
    assert [row["gold"] for row in told["telling"]] == ["substitute"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.csv"], "none.csv: no such run folder or file"),
        (["judged.csv", "--edits", "e.yaml"], "--edits"),
        (["judged.csv", "--propose", "careful"], "--propose"),
        ([".", "--labels", "a,b"], "--labels"),
    ],
)
def test_options_of_the_other_kind_are_not_swallowed(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("judged.csv").write_text(LONG)
    called = CliRunner().invoke(app, ["review", *arguments])
    assert called.exit_code == 2
    assert said in " ".join(called.output.split())
