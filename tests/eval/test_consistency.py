from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.eval.config import EvalConfig
from distill.eval.consistency import changed_rows, consistency

INPUTS = ("query", "title", "attributes")
ROWS = pl.DataFrame(
    {
        "row_id": ["a", "b", "c", "d"],
        "group": ["usb", "usb", "aa", "doh"],
        "query": ["usb charger cable", "USB CABLE", "aa", "도어락 건전지"],
        "title": ["Anker cable, 2 m; black", "Cable", None, "도어락"],
        "attributes": ["color: black; length: 2 m", "", "x", "y"],
    }
)


def test_a_typo_changes_one_word_a_little():
    changed = changed_rows(ROWS, "typo", inputs=INPUTS, seed=1)
    assert changed["row_id"].to_list()[:2] == ["a", "b"]
    assert "c" not in changed["row_id"]  # no word of four letters
    before, after = ROWS["query"][0].split(), changed["query"][0].split()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert [word[0] for word in before] == [word[0] for word in after]
    assert changed["title"].to_list() == ROWS.join(changed, on="row_id", how="semi")["title"].to_list()


def test_a_row_is_changed_the_same_whatever_stands_beside_it():
    alone = changed_rows(ROWS[:1], "typo", inputs=INPUTS, seed=3)
    assert alone["query"][0] == changed_rows(ROWS, "typo", inputs=INPUTS, seed=3)["query"][0]


def test_case_and_order():
    upper = changed_rows(ROWS, "case", inputs=INPUTS)
    assert upper["query"].to_list() == ["USB CHARGER CABLE", "usb cable", "AA"]  # Hangul has no case
    words = changed_rows(ROWS, "word_order", inputs=INPUTS)
    assert words["row_id"].to_list() == ["a", "b", "d"]
    assert sorted(words["query"][0].split()) == ["cable", "charger", "usb"]
    assert words["query"][1] == "CABLE USB"
    parts = changed_rows(ROWS, "listing_order", inputs=INPUTS)
    assert parts["row_id"].to_list() == ["a"]
    assert parts["attributes"][0] == "length: 2 m; color: black"
    assert parts["query"][0] == ROWS["query"][0]


def test_a_query_alone_has_no_listing_to_reorder():
    assert changed_rows(ROWS, "listing_order", inputs=("query",)).is_empty()


@given(st.text(max_size=40))
def test_any_text_can_be_changed(text):
    rows = pl.DataFrame({"row_id": ["r"], "query": [text], "title": [text]})
    for change in ("typo", "case", "word_order", "listing_order"):
        assert changed_rows(rows, change, inputs=("query", "title")).height <= 1


def _predicted(labels: list[str], tops: list[float]) -> pl.DataFrame:
    probs = [[top, 1 - top] for top in tops]
    schema = {"row_id": pl.String, "label": pl.String, "probs": pl.List(pl.Float64)}
    return pl.DataFrame({"row_id": ["a", "b", "d"][: len(labels)], "label": labels, "probs": probs}, schema=schema)


def test_consistency_by_hand():
    before, after = _predicted(["x", "x", "y"], [0.9, 0.6, 0.2]), _predicted(["x", "y", "y"], [0.8, 0.4, 0.2])
    found = consistency(before, after, ROWS, change="typo", config=EvalConfig(bootstrap=100))
    assert (found.rows, found.same_label.value, found.same_label.groups) == (3, pytest.approx(2 / 3), 2)
    assert found.moved.value == pytest.approx((0.1 + 0.2 + 0.0) / 3)  # half of .1 + .1, of .2 + .2, of nothing


def test_nothing_touched():
    found = consistency(_predicted(["x"], [0.9]), _predicted([], []), ROWS, change="case")
    assert (found.rows, found.same_label.value) == (0, None)
