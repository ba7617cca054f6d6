from __future__ import annotations

import polars as pl
import pytest

from distill.eval.people.annotator_labels import read_annotations_of, settle_labels
from distill.labeling.errors import DataError
from distill.labeling.task import Task


def _file(path, lines: list[str]):
    path.write_text("row_id,label,annotator,chance,draw\n" + "\n".join(lines) + "\n")
    return path


def test_most_annotators_decide_and_ties_go_to_the_middle_grade_or_stay_open(tmp_path, task):
    path = _file(
        tmp_path / "all.csv",
        [
            *("alone,exact,kim,0.5,1", "same,exact,kim,,", "same,exact,lee,,"),
            *("most,irrelevant,kim,,", "most,exact,lee,,", "most,irrelevant,park,,"),
            # exact, substitute, irrelevant: none leads, the middle one of the grades is substitute
            *("spread,exact,kim,0.25,1", "spread,irrelevant,lee,0.25,1", "spread,substitute,park,0.25,1"),
            # two grades and no middle one
            *("split,exact,kim,,", "split,substitute,lee,,"),
            # exact twice, irrelevant twice, substitute once: exact and irrelevant tie, the middle of five is substitute
            *(
                f"five,{label},{who},,"
                for who, label in zip("abcde", ["exact"] * 2 + ["irrelevant"] * 2 + ["substitute"], strict=True)
            ),
        ],
    )
    found = settle_labels(read_annotations_of([path], task=task), task=task)
    assert dict(found.gold.select("row_id", "label").rows()) == {
        "alone": "exact",
        "same": "exact",
        "most": "irrelevant",
        "spread": "substitute",
        "five": "substitute",
    }
    assert found.gold.filter(row_id="spread").select("chance", "draw").row(0) == (0.25, 1)
    assert (found.several, found.median, found.open) == (5, 2, 1)
    assert found.said() == (
        "5 labeled by 8 annotators, 5 rows by two or more, 2 ties settled by the middle grade, 1 tie left without a "
        "label"
    )
    names = Task(labels=task.labels, inputs=("query",))
    assert settle_labels(read_annotations_of([path], task=names), task=names).open == 3


def test_later_labels_of_one_annotator_replace_earlier_ones_and_nameless_ones_are_called_by_their_file(tmp_path, task):
    kim = _file(tmp_path / "kim.csv", ["a,exact,,,", "b,exact,,,"])
    again = _file(tmp_path / "again.csv", ["a,irrelevant,kim,,", "a,exact,lee,,"])
    found = read_annotations_of([kim, again], task=task)
    assert sorted(found.select("row_id", "annotator", "label").rows()) == [
        ("a", "kim", "irrelevant"),
        ("a", "lee", "exact"),
        ("b", "kim", "exact"),
    ]


def test_no_file_and_no_label(tmp_path, task):
    nothing = settle_labels(read_annotations_of([], task=task), task=task)
    assert (len(nothing.gold), nothing.annotators) == (0, ())
    with pytest.raises(DataError, match=r"chance 3 is no probability"):
        read_annotations_of([_file(tmp_path / "x.csv", ["a,exact,kim,3,"])], task=task)
    assert pl.DataFrame(schema=nothing.gold.schema).is_empty()
