"""Answers that are no single label, read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distill.labeling.answers.parsing import Answer, AnswerError
from distill.labeling.answers.parsing_kinds import parse_kind
from distill.labeling.brands import BrandList
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

PATHS = ("Beauty > Skin > Cream", "Beauty > Skin > Sun", "Beauty > Hair", "Shoes > Boots")
BRANDS = BrandList.of([("Strydera", ["스트라이데라"]), ("Nike", ["나이키"])])
SPELLING = Task(labels=(), inputs=("query",), kind="text", type="spelling", part="spelling")
BRAND = Task(labels=(), inputs=("query",), kind="spans", type="brand", types=("brand",), brands=BRANDS, part="brand")
CATEGORY = Task(labels=PATHS, inputs=("query",), type="category", several=True, part="category")
EXPANSION = Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, most=3, part="expansion")
SPANS = Task(labels=(), inputs=("query",), kind="spans", types=("brand", "color"), type="spans")
PARTS = Task(labels=(), inputs=("query",), kind="parts", parts=(SPELLING, BRAND, CATEGORY, EXPANSION))


def read(answer: Any, task: Task, source: str = "red nike shoe") -> Answer:
    return parse_kind(answer if isinstance(answer, str) else json.dumps(answer), task=task, source=source)


def part(name: str, value: Any, source: str = "red nike shoe", **others: Any) -> Answer:
    """One part's answer, the others well formed."""
    given = {"corrected": source, "brand": [], "category": [], "expansions": [], **others, name: value}
    parts = read(given, PARTS, source).parts
    assert parts is not None
    found = parts[{"corrected": "spelling", "expansions": "expansion"}.get(name, name)]
    if isinstance(found, AnswerError):
        raise found
    return found


def test_a_correction_keeps_case_and_is_composed() -> None:
    assert part("corrected", "  Cafe\u0301  noir ").text == "Café noir"
    assert part("corrected", "red  nike shoe").text == "red nike shoe"  # spaced otherwise: the query itself
    with pytest.raises(AnswerError, match="where nothing is to be corrected, write the input itself"):
        part("corrected", None)


@pytest.mark.parametrize(
    ("source", "said", "found"),
    [
        ("red nike shoe", ["nike"], [SpanAnswer(4, 8, "nike", "brand", "Nike")]),
        ("red nike shoe", [{"text": "nike", "link": "Nike"}], [SpanAnswer(4, 8, "nike", "brand", "Nike")]),
        ("red nike shoe", None, []),
        ("red nike shoe", "none", []),
        # Offsets that are wrong are not believed; the text is looked for.
        ("red nike shoe", [{"text": "nike", "start": 0, "end": 4}], [SpanAnswer(4, 8, "nike", "brand", "Nike")]),
        ("red nike shoe", [[4, 8]], [SpanAnswer(4, 8, "nike", "brand", "Nike")]),
        (
            "nike nike",
            ["nike", "nike"],
            [SpanAnswer(0, 4, "nike", "brand", "Nike"), SpanAnswer(5, 9, "nike", "brand", "Nike")],
        ),
        # A brand by its name, where the query has another script, or a slip.
        ("스트라이데라 벨로", "Strydera", [SpanAnswer(0, 6, "스트라이데라", "brand", "Strydera")]),
        ("strydra velo", ["Strydera"], [SpanAnswer(0, 7, "strydra", "brand", "Strydera")]),
        ("acme drill", ["acme"], [SpanAnswer(0, 4, "acme", "brand", None)]),  # not in the list
    ],
)
def test_spans_are_located_and_linked(source: str, said: Any, found: list[SpanAnswer]) -> None:
    assert part("brand", said, source).spans == found


def test_a_span_that_is_not_there_is_told_with_its_cause() -> None:
    with pytest.raises(AnswerError, match="'puma' does not stand in query 'red nike shoe'") as raised:
        part("brand", ["puma"])
    assert raised.value.cause == "not_in_input"


def test_types_of_spans() -> None:
    found = read({"spans": [{"text": "nike", "type": "Brand"}, {"text": "red", "type": "color"}]}, SPANS).spans
    assert found == [SpanAnswer(0, 3, "red", "color"), SpanAnswer(4, 8, "nike", "brand")]
    with pytest.raises(AnswerError, match="expected one of brand, color"):
        read({"spans": ["nike"]}, SPANS)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Shoes > Boots", ["Shoes > Boots"]),
        (["shoes>boots", "Beauty > Hair"], ["Beauty > Hair", "Shoes > Boots"]),  # in the order of the set
        ("Cream", ["Beauty > Skin > Cream"]),  # the only label that ends so
        ("Shoes", ["Shoes > Boots"]),  # a branch with one label
        ("Beauty > Skin", ["Beauty > Skin"]),  # a branch is an answer, shared out when votes are merged
        ([], []),
        (None, []),
    ],
)
def test_categories(said: Any, found: list[str]) -> None:
    assert part("category", said).labels == found


def test_an_expansion_is_a_ranked_list_without_repeats_or_the_query() -> None:
    said = ["Nike  trainers", "nike trainers", "RED NIKE SHOE", "", "red trainers", "sneaker", "a fourth"]
    assert part("expansions", said).texts == ["Nike trainers", "red trainers", "sneaker"]


def test_parts_that_do_not_fit_stand_beside_those_that_do() -> None:
    said = {"corrected": "red nike shoe", "brand": ["puma"], "category": "Toys", "confidence": {"corrected": "97%"}}
    parts = read(said, PARTS).parts
    assert parts is not None and isinstance(parts["spelling"], Answer)
    assert (parts["spelling"].text, parts["spelling"].confidence) == ("red nike shoe", 0.97)
    assert {name: getattr(found, "cause", None) for name, found in parts.items()} == {
        "spelling": None,
        "brand": "not_in_input",
        "category": "misfit",
        "expansion": "misfit",  # not there at all
    }


def test_none_is_an_answer_and_cannot_tell_is_none() -> None:
    brand = Task(labels=(), inputs=("query",), kind="spans", type="brand", types=("brand",))
    assert read({"brand": []}, brand).spans == [] and not read({"brand": None}, brand).abstains
    assert read({"label": None}, brand).abstains and read({"brand": "cannot tell"}, brand).abstains
    assert read('I think…\n```json\n{"brand": ["nike",]}\n```', brand).spans == [SpanAnswer(4, 8, "nike", "brand")]
    # What a labeling function tells: parts left out are abstentions.
    parts = read({"parts": {"brand": ["nike"]}}, PARTS).parts
    assert parts is not None
    assert [name for name, found in parts.items() if isinstance(found, Answer) and found.abstains] == [
        "spelling",
        "category",
        "expansion",
    ]


def test_two_answers_that_differ_are_none() -> None:
    text = Task(labels=(), inputs=("query",), kind="text", type="text")
    assert read('{"text": "a"} {"text": "a"}', text).text == "a"
    with pytest.raises(AnswerError, match="2 that differ"):
        read('{"text": "a"} {"text": "b"}', text)
