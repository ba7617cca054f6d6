"""A request's key changes with everything that can change the answer, and with nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Prompt, Request, RequestHead

TEXT = st.text(min_size=1, max_size=40)
BODY = st.binary(max_size=80)
REQUEST = st.builds(Request, TEXT, BODY, st.integers(0, 99), TEXT, TEXT)


def copy(request: Request, **changes: Any) -> Request:
    """A new object, whose key is worked out afresh."""
    return replace(request, **{"key": b"", **changes})


@given(REQUEST, TEXT, TEXT)
def test_row_id_and_the_noted_model_do_not_matter(request: Request, row_id: str, model: str) -> None:
    assert copy(request, row_id=row_id, model=model).key == request.key
    assert len(request.key) == 16


@given(REQUEST, st.sampled_from(["endpoint", "sample", "rest"]), st.data())
def test_each_part_matters(request: Request, part: str, data: st.DataObject) -> None:
    values: dict[str, st.SearchStrategy[Any]] = {"endpoint": TEXT, "sample": st.integers(0, 99), "rest": BODY}
    value = data.draw(values[part].filter(lambda value: value != getattr(request, part)))
    assert copy(request, **{part: value}).key != request.key


@given(REQUEST, st.integers(0, 80), st.integers(1, 255))
def test_one_byte_of_the_body_matters(request: Request, at: int, flip: int) -> None:
    inserted = request.body[:at] + bytes([flip]) + request.body[at:]
    assert copy(request, rest=inserted).key != request.key
    if at < len(request.body):
        changed = bytearray(request.body)
        changed[at] ^= flip
        assert copy(request, rest=bytes(changed)).key != request.key


@given(REQUEST, TEXT)
def test_text_cannot_move_from_one_part_to_another(request: Request, text: str) -> None:
    one = copy(request, endpoint=request.endpoint + text)
    two = copy(request, rest=text.encode() + request.body)
    three = copy(request, endpoint=f"{request.endpoint} {text}", rest=request.body)
    four = copy(request, endpoint=request.endpoint, rest=text.encode() + b" " + request.body)
    assert len({one.key, two.key, three.key, four.key, request.key}) == 5


@given(REQUEST, st.integers(0, 80))
def test_a_start_hashed_ahead_changes_nothing(request: Request, at: int) -> None:
    head = RequestHead(request.endpoint, request.body[:at], sample=request.sample, model=request.model)
    twice = [head.request(request.body[at:], row_id=request.row_id) for _ in range(2)]
    for made in twice:
        assert (made.key, made.body, made.endpoint) == (request.key, request.body, request.endpoint)
        assert (made.sample, made.row_id, made.model) == (request.sample, request.row_id, request.model)


def test_key_of_this_version() -> None:
    # Where this fails, every answer that anybody ever bought is bought again.
    request = Request("http://localhost/v1", '{"model":"m","messages":["é"]}'.encode(), 1, "row")
    assert request.key.hex() == "7fcfc246750d54671ff5681484c8ab82"


@pytest.mark.parametrize("seed", [None, 5])
def test_prompt_and_settings_matter_and_the_rows_around_do_not(seed: int | None) -> None:
    from distill.teachers.config import OpenAITeacherConfig
    from distill.teachers.openai import OpenAITeacher

    def key(task: Task, row: dict[str, str] | None = None, *, sample: int = 0, **settings: Any) -> bytes:
        section = {"base_url": "http://x/v1", "model": "m", "family": "f", "seed": seed, **settings}
        teacher = OpenAITeacher(settings.pop("name", "judge"), OpenAITeacherConfig(**section))
        prompter = Prompter(task, teacher.answer)
        # Others are asked before and after; what is kept of them must not leak into this one.
        for number in range(2):
            teacher.compile(prompter({"row_id": "0", "query": f"before {number}", "title": "b"}), sample=number)
        prompt: Prompt = prompter({"row_id": "1", "query": "q", "title": "t", "gold": "exact", **(row or {})})
        return teacher.compile(prompt, sample=sample).key

    task = Task(labels=("a", "b"), inputs=("query", "title"))
    plain = key(task)
    assert key(task, {"row_id": "2", "gold": "irrelevant", "group": "other"}) == plain
    assert key(task, timeout_s=9, max_concurrency=3, api_key="sk-secret", headers={"X-A": "b"}, family="g") == plain
    changed = [
        key(task, {"query": "q2"}),
        key(task, {"title": "t2"}),
        key(task, sample=1),
        key(replace(task, labels=("b", "a"))),
        key(replace(task, inputs=("title", "query"))),
        key(replace(task, instructions="Judge.")),
        key(task, base_url="http://y/v1"),
        key(task, model="n"),
        key(task, traces=True),
        key(task, probs="distribution"),
        key(task, temperature=1),
        key(task, temperature=None),
        key(task, max_tokens=7),
        key(task, seed=6),
        key(task, structured="json_object"),
        key(task, structured="none"),
        key(task, extra_body={"top_k": 1}),
    ]
    assert len({plain, *changed}) == 1 + len(changed)


def test_order_of_the_schema_matters() -> None:
    # A model writes the fields in the schema's order: reasoning before the label is another question than after it.
    from distill.teachers.config import OpenAITeacherConfig
    from distill.teachers.openai import OpenAITeacher

    teacher = OpenAITeacher("judge", OpenAITeacherConfig(base_url="http://x/v1", model="m", family="f", traces=True))
    prompt = Prompter(Task(labels=("a", "b"), inputs=("query",)), AnswerFormat(trace=True))(
        {"row_id": "1", "query": "q"}
    )
    properties = dict(reversed(prompt.schema["properties"].items()))
    other = replace(prompt, schema={**prompt.schema, "properties": properties})
    one, two = teacher.compile(prompt, sample=0), teacher.compile(other, sample=0)
    assert json.loads(one.body) == json.loads(two.body)
    assert one.key != two.key
