from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill.labeling.errors import DataError
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.teachers.config import RulesTeacherConfig
from distill.teachers.registry import build_teachers
from distill.teachers.rules import compile_rule
from distill.teachers.rules_config import Rule

TASK = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query", "title", "brand"))


def holds(condition: dict[str, object], *, query: str = "", title: str = "", brand: str = "") -> bool:
    rule = Rule.model_validate({"when": {"fields": "title", **condition}, "then": "exact"})
    return compile_rule(rule, {})({"query": query, "title": title, "brand": brand}) == "exact"


@pytest.mark.parametrize(
    ("condition", "row", "expected"),
    [
        ({"match": "regex", "pattern": r"\bp\d\b"}, {"title": "Zenta P5"}, True),
        ({"match": "regex", "pattern": r"\bp\d\b", "flags": []}, {"title": "Zenta P5"}, False),
        ({"match": "regex", "pattern": r"\bp\d\b"}, {"title": "Zenta Ｐ５"}, True),  # full-width
        ({"match": "words", "words": "케이스"}, {"title": "가죽케이스"}, True),
        ({"match": "words", "words": ["a b"], "fields": ["title", "brand"]}, {"title": "a", "brand": "b"}, False),
        ({"match": "quantity", "relation": "same"}, {"query": "oil 500 ml", "title": "Oil 0.5 L"}, True),
        ({"match": "quantity", "relation": "different"}, {"query": "oil 500 ml", "title": "Oil 0.5 L"}, False),
        ({"match": "quantity", "relation": "different"}, {"query": "oil 500 ml", "title": "Oil 1 L"}, True),
        ({"match": "quantity", "relation": "different"}, {"query": "oil 500 ml", "title": "Oil"}, False),
        ({"match": "quantity", "relation": "same"}, {"query": "oil 500 ml", "title": "Oil"}, False),
        ({"match": "quantity", "relation": "different"}, {"query": "oil", "title": "Oil 1 L"}, False),
        ({"match": "quantity", "relation": "same"}, {"query": "oil 500 ml 2 pack", "title": "Oil 500 ml"}, False),
        (
            {"match": "value", "relation": "different", "values": "colors"},
            {"query": "검정 티", "title": "navy tee"},
            True,
        ),
        ({"match": "value", "relation": "same", "values": "colors"}, {"query": "검정 티", "title": "Black Tee"}, True),
        ({"match": "value", "relation": "different", "values": "colors"}, {"query": "티", "title": "Black Tee"}, False),
        ({"match": "value", "relation": "same", "fields": "brand"}, {"query": "acme lamp", "brand": "ACME"}, True),
        ({"match": "value", "relation": "same", "fields": "brand"}, {"query": "acmetal lamp", "brand": "ACME"}, False),
        ({"match": "value", "relation": "same", "fields": "brand"}, {"query": "lamp", "brand": ""}, False),
        (
            {"match": "value", "relation": "different", "fields": "brand", "values": {"acme": ["에크미"], "zed": []}},
            {"query": "에크미 lamp", "brand": "Zed"},
            True,
        ),
        ({"match": "overlap", "at_least": 0.5}, {"query": "red lamp", "title": "lamp"}, True),
        ({"match": "overlap", "at_least": 0.6}, {"query": "red lamp", "title": "lamp"}, False),
        ({"match": "overlap", "at_most": 0.0}, {"query": "red lamp", "title": "chair"}, True),
        ({"match": "overlap", "at_most": 0.0}, {"query": "", "title": "chair"}, False),
    ],
)
def test_conditions(condition, row, expected):
    assert holds(condition, **row) is expected


def test_all_of_when_none_of_unless():
    lamp, red, old = ({"match": "words", "fields": "title", "words": word} for word in ("lamp", "red", "old"))
    rule = Rule.model_validate({"when": [lamp, red], "unless": old, "then": "exact"})
    said = [compile_rule(rule, {})({"query": "", "title": title}) for title in ("red lamp", "lamp", "old red lamp")]
    assert said == ["exact", None, None]


def answers(config: dict[str, object], title: str) -> dict[str, str]:
    """What each teacher of a section returns, as JSON."""
    teachers = build_teachers({"shop": RulesTeacherConfig.model_validate({"type": "rules", **config})})

    async def ask() -> dict[str, str]:
        found = {}
        for one in teachers:
            await one.open()
            row = {"row_id": "r", "query": "red lamp", "title": title, "brand": ""}
            request = one.compile(Prompter(TASK, one.answer)(row), sample=0)
            found[one.name] = (await one.ask(request)).body
            await one.close()
        return found

    return asyncio.run(ask())


def word_rule(word: str, then: object) -> dict[str, object]:
    return {"when": {"match": "words", "fields": "title", "words": word}, "then": then}


def test_rules_are_teachers_each_or_decide_together():
    rules = {"lamp": word_rule("lamp", "exact"), "red": word_rule("red", {"substitute": 0.5, "irrelevant": 0.5})}
    assert answers({"rules": rules}, "red lamp") == {
        "shop.lamp": '{"label": "exact"}',
        "shop.red": '{"probs": {"substitute": 0.5, "irrelevant": 0.5}}',
    }
    first, vote = {"rules": rules, "decide": "first"}, {"rules": rules, "decide": "vote"}
    assert answers(first, "red lamp") == {"shop": '{"label": "exact"}'}
    assert answers(first, "red chair") == {"shop": '{"probs": {"substitute": 0.5, "irrelevant": 0.5}}'}
    # Of two rules that hold, exact gets one half, and each of the others half of the other half.
    assert answers(vote, "red lamp") == {"shop": '{"probs": {"exact": 0.5, "substitute": 0.25, "irrelevant": 0.25}}'}
    assert answers(vote, "chair") == {"shop": '{"label": null}'}


def test_word_lists_are_read_and_are_part_of_the_key(tmp_path: Path):
    words = tmp_path / "words.txt"
    rule = {"when": {"match": "words", "fields": "title", "file": str(words)}, "then": "exact"}
    config = RulesTeacherConfig.model_validate({"type": "rules", "rules": {"listed": rule}})
    with pytest.raises(DataError, match=r"words.txt: cannot be read"):
        build_teachers({"shop": config})
    words.write_text("# only a comment\n")
    with pytest.raises(DataError, match="holds no word"):
        build_teachers({"shop": config})

    def key() -> bytes:
        (one,) = build_teachers({"shop": config})
        row = {"row_id": "r", "query": "q", "title": "t", "brand": ""}
        return one.compile(Prompter(TASK, one.answer)(row), sample=0).key

    words.write_text("lamp  # a light\nchair\n", encoding="utf-8")
    assert answers({"rules": {"listed": rule}}, "a chair") == {"shop.listed": '{"label": "exact"}'}
    before = key()
    words.write_text("lamp\n")
    assert key() != before


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"when": {"match": "regex", "fields": "title", "pattern": "("}, "then": "exact"}, "no regular expression"),
        ({"when": {"match": "words", "fields": "title"}, "then": "exact"}, "words: none"),
        ({"when": {"match": "words", "fields": "title", "words": [" "]}, "then": "exact"}, "empty one"),
        ({"when": {"match": "overlap", "fields": "title"}, "then": "exact"}, "at_least, at_most or both"),
        ({"when": {"match": "overlap", "fields": "title", "at_least": 0.9, "at_most": 0.1}, "then": "e"}, "no row has"),
        ({"when": {"match": "value", "fields": "title", "relation": "different"}, "then": "exact"}, "needs values"),
        ({"when": {"match": "nothing", "fields": "title"}, "then": "exact"}, "match"),
        ({"when": {"match": "words", "fields": "title", "words": "a"}, "then": {"exact": 0.5}}, "sum to 0.5"),
        ({"when": [], "then": "exact"}, "at least 1"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule, words):
    with pytest.raises(ValidationError, match=words):
        Rule.model_validate(rule)
