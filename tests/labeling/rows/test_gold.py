"""People's answers of every kind, in the one form in which rows keep them."""

from __future__ import annotations

from typing import Any

import pytest

from distill.labeling.rows.gold import canonical, gold_text, parse_gold
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

BRAND = Task(labels=(), inputs=("query",), kind="spans", type="brand", types=("brand",))
NIKE = SpanAnswer(4, 8, "nike", "brand")


@pytest.mark.parametrize(
    "cell",
    [
        '["nike"]',
        "nike",
        '[{"start": 4, "end": 8}]',
        '[{"text": "nike", "type": "creator"}, {"text": "red", "type": "color"}]',  # a type that nobody asks for
        "O B-creator O",
        '["O", "B-brand", "B-color"]',
    ],
)
def test_spans_in_any_form_are_one(cell: str) -> None:
    text = gold_text(BRAND, cell, source="red nike shoe", names={"creator": "brand"})
    assert text is not None and BRAND.parse_gold(text) == [NIKE]
    assert text == '[{"start": 4, "end": 8, "text": "nike", "type": "brand", "link": null}]'


def test_tags_go_over_several_words() -> None:
    text = gold_text(BRAND, "B-brand I-brand B-brand O", source="new balance nike shoe")
    assert [span.text for span in BRAND.parse_gold(text or "")] == ["new balance", "nike"]
    assert gold_text(BRAND, "O O", source="red shoe") == "[]"


@pytest.mark.parametrize("cell", ["", "  ", "puma", '["puma"]'])
def test_what_cannot_be_read_is_no_gold(cell: str) -> None:
    assert gold_text(BRAND, cell, source="red nike shoe") is None


def test_lists_texts_and_parts() -> None:
    category = Task(labels=("A > x", "B"), inputs=("query",), type="category", several=True, part="category")
    spelling = Task(labels=(), inputs=("query",), kind="text", type="spelling", part="spelling")
    assert gold_text(category, "B | a>x", source="q") == '["A > x", "B"]'
    assert gold_text(category, "Toys", source="q") is None
    assert gold_text(spelling, "cafe\u0301  noir", source="q") == "café noir"
    both = Task(labels=(), inputs=("query",), kind="parts", parts=(spelling, category))
    text = gold_text(both, {"corrected": "x", "category": "B"}, source="q")
    assert text == '{"spelling": "x", "category": ["B"]}' and both.parse_gold(text) == {
        "spelling": "x",
        "category": ["B"],
    }


@pytest.mark.parametrize("value", [[NIKE], []])
def test_canonical_and_parsed_are_each_others_inverse(value: Any) -> None:
    assert parse_gold(BRAND, canonical(BRAND, value)) == value
