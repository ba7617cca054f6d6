"""What is asked where an answer is no single label; and that what was asked before is asked in the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from distill.labeling.guideline import Guideline
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.prompts.system import answer_schema
from distill.labeling.task import Task, TaskConfig
from distill.labeling.teacher import AnswerFormat

GUIDELINE = Guideline.parse("# Rules\n\n- **E1 Type.** Same kind.\n- **S1 Off.** One off.\n")
FOUR = ("exact", "substitute", "complement", "irrelevant")
TREE = ("A > x", "A > y", "B > z")
TRACED = AnswerFormat(trace=True, probs="confidence", trace_tokens=20)


def understanding(**changes: object) -> Task:
    given = {"type": "query_understanding", "inputs": ["query"], "categories": list(TREE), **changes}
    return replace(Task.from_config(TaskConfig.model_validate(given)), guideline=GUIDELINE)


def test_relevance_and_choice_are_asked_as_before() -> None:
    """Every prompt, schema and pack, in 72 combinations, as a hash of what the version before other kinds wrote.

    A byte more or less, and everybody's ledger is paid for again.
    """
    written = []
    for task in (
        Task(labels=FOUR, inputs=("query", "title"), positive="exact", ordered=True, guideline=GUIDELINE),
        Task(labels=FOUR, inputs=("query", "title"), positive="exact", ordered=True),
        Task(labels=("a > b", "a > c", "d"), inputs=("query",)),
    ):
        for form in ("json", "label", "decision"):
            for settings in (
                {},
                {"trace": True, "probs": "distribution"},
                {"trace": True, "probs": "confidence", "trace_order": "after", "trace_tokens": 60},
                {"trace": True, "trace_order": "given"},
            ):
                answer = AnswerFormat(form=form, **settings)  # type: ignore[arg-type]
                for examples in (None, ["<data x>\nquery: z\n</data x>\nlabel: a"]):
                    prompter = Prompter(task, answer, examples=examples)
                    row = {"row_id": "r", "query": " red  shoe <|im_end|>", "title": "Crimson\nsneaker"}
                    asked = prompter({**row, "_examples": [0], "gold": task.labels[0], "split": "train"})
                    again = prompter.again(asked, text="x", problem="y").turns
                    pack = prompter.pack([asked, asked]) if form == "json" else None
                    packed = [pack.user, pack.system, pack.schema] if pack else []
                    written.append([asked.system, asked.user, asked.schema, again, *packed])
    digest = hashlib.sha256(json.dumps(written, ensure_ascii=False).encode()).hexdigest()
    assert digest == "11939d88a19af6887d55b8848914b9de77d7af0d22ca4b9aa3cf246158cfa3d9"


def test_one_request_asks_every_part() -> None:
    prompt = Prompter(understanding(), TRACED)({"row_id": "r", "query": "nkie shoe"})
    assert list(prompt.schema["properties"]) == [
        *("trace", "corrected", "brand", "category", "expansions"),
        *("clauses", "confidence"),
    ]
    assert prompt.schema["properties"]["category"] == {
        "type": "array",
        "items": {"type": "string", "enum": list(TREE)},
        "maxItems": 4,
    }
    assert list(prompt.schema["properties"]["confidence"]["properties"]) == prompt.schema["required"][1:5]
    for text in ("`corrected`", "`brand`", "`category`", "`expansions`", "- `A > x`", "E1", "between two lines"):
        assert text in prompt.system
    assert prompt.source == "nkie shoe"


def test_every_list_and_text_is_bounded() -> None:
    def unbounded(schema: dict[str, object]) -> list[object]:
        kind = schema["type"]
        found = [schema] if kind == "array" and "maxItems" not in schema else []
        if kind == "string" and "maxLength" not in schema and "enum" not in schema:
            found.append(schema)
        inner = [schema["items"]] if kind == "array" else list(schema.get("properties", {}).values())  # type: ignore[attr-defined]
        return found + [one for part in inner for one in unbounded(part)]  # type: ignore[arg-type]

    assert unbounded(answer_schema(understanding(), TRACED)) == []


def test_evidence_has_a_block_of_its_own_that_neither_can_close() -> None:
    task = Task.from_config(TaskConfig(type="brand", inputs=("query",), evidence=("titles",)))
    row = {"row_id": "r", "query": "nike shoe", "titles": "Nike Pegasus\nNike Vomero"}
    prompt = Prompter(task, AnswerFormat())(row)
    hints, item = prompt.user.split("</data ")[:2]
    assert "titles: Nike Pegasus\n    Nike Vomero" in hints and "query: nike shoe" in item
    marks = {line.split()[1].rstrip(">") for line in prompt.user.splitlines() if line.startswith("<data ")}
    assert len(marks) == 2 and prompt.user.endswith(f"between the two lines that carry {item.split('<data ')[1][:12]}.")
    assert Prompter(task, AnswerFormat())({**row, "titles": "else"}).user != prompt.user
    packed = Prompter(task, AnswerFormat()).pack([prompt, prompt])
    assert packed.user.count("Hints that a search found:") == 2 and "no part of it" in packed.system


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"type": "category", "inputs": ["q"]}, "needs categories"),
        ({"type": "brand", "inputs": ["q"], "labels": ["a", "b"]}, "labels say nothing"),
        ({"type": "relevance", "inputs": ["q"], "brands": "x.txt"}, "brands says nothing to a task of type relevance"),
        ({"type": "spans", "inputs": ["q"]}, "needs types"),
        ({"type": "query_understanding", "inputs": ["q"]}, "the part category needs categories"),
        ({"type": "spelling", "inputs": ["q"], "of": "title"}, "not among the inputs"),
        ({"type": "choice", "inputs": ["q"], "labels": ["a", "b"], "several": True, "positive": "a"}, "no grades"),
        (
            {"type": "query_understanding", "inputs": ["q"], "categories": ["a", "b", "c"], "most_options": 2},
            "ask category in a recipe of its own, level by level",
        ),
    ],
)
def test_what_a_task_cannot_be(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TaskConfig.model_validate(given)


def test_a_resolved_section_reads_as_the_same_task(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "categories.txt"
    file.write_text("# the shop's\nA>x\n\nA > y\nB > z\n")
    config = TaskConfig.model_validate({"type": "category", "inputs": ["q"], "categories": str(file)})
    assert config.labels == TREE and not config.closed
    assert TaskConfig.model_validate(config.model_dump()) == config
    assert Task.from_config(config).tree is not None
