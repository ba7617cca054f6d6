"""A request's key changes with everything that can change the answer, and with nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Prompt, Request

TEXT = st.text(min_size=1, max_size=40)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "model": TEXT,
    "messages": st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1, max_size=3),
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 9999),
    "response_format": st.dictionaries(TEXT, st.recursive(TEXT | st.booleans(), st.lists, max_leaves=5), max_size=3),
    "images": st.lists(st.binary(max_size=20).map(bytes.hex), max_size=2),
}
PAYLOAD = st.fixed_dictionaries(PARTS)
REQUEST = st.builds(Request, TEXT, PAYLOAD, st.integers(0, 99), TEXT)


def copy(request: Request, **changes: Any) -> Request:
    """A new object: the key is cached in the old one."""
    return replace(request, **{"payload": json.loads(json.dumps(request.payload)), **changes})


@given(REQUEST, TEXT)
def test_row_id_and_order_of_fields_do_not_matter(request: Request, row_id: str) -> None:
    shuffled = dict(reversed(list(request.payload.items())))
    assert copy(request, row_id=row_id, payload=shuffled).key == request.key
    assert len(request.key) == 16


@given(REQUEST, st.sampled_from(["endpoint", "sample", *PARTS]), st.data())
def test_each_part_matters(request: Request, part: str, data: st.DataObject) -> None:
    if part == "endpoint":
        other = copy(request, endpoint=data.draw(TEXT.filter(lambda text: text != request.endpoint)))
    elif part == "sample":
        other = copy(request, sample=request.sample + 1)
    else:
        value = data.draw(PARTS[part].filter(lambda value: value != request.payload[part]))
        other = copy(request, payload={**request.payload, part: value})
    assert other.key != request.key


@given(REQUEST, st.data())
def test_one_character_of_one_message_matters(request: Request, data: st.DataObject) -> None:
    messages = json.loads(json.dumps(request.payload["messages"]))
    message = messages[data.draw(st.integers(0, len(messages) - 1))]
    at = data.draw(st.integers(0, len(message["content"])))
    message["content"] = message["content"][:at] + data.draw(st.characters()) + message["content"][at:]
    assert copy(request, payload={**request.payload, "messages": messages}).key != request.key


@given(REQUEST, TEXT)
def test_text_cannot_move_from_one_part_to_another(request: Request, text: str) -> None:
    one = copy(request, endpoint=request.endpoint + text)
    two = copy(request, payload={**request.payload, "model": text + request.payload["model"]})
    assert len({one.key, two.key, request.key}) == 3


def test_key_of_the_first_version() -> None:
    # Where this fails, every answer that anybody ever bought is bought again.
    request = Request("http://localhost/v1", {"model": "m", "messages": [{"role": "user", "content": "é"}]}, 1, "row")
    assert request.key.hex() == "a477f53f8967dac77bde6aff5b986936"


def test_prompt_and_format_matter_and_the_rows_around_do_not() -> None:
    def key(task: Task, answer: AnswerFormat, **row: str) -> bytes:
        prompt: Prompt = Prompter(task, answer)({"row_id": "1", "query": "q", "title": "t", "gold": "exact", **row})
        payload = {"messages": [prompt.system, prompt.user], "schema": prompt.schema}
        return Request("http://x", payload).key

    task, answer = Task(labels=("a", "b"), inputs=("query", "title")), AnswerFormat()
    plain = key(task, answer)
    assert key(task, answer, row_id="2", gold="irrelevant", group="other") == plain
    changed = [
        key(task, answer, query="q2"),
        key(task, answer, title="t2"),
        key(replace(task, labels=("b", "a")), answer),
        key(replace(task, inputs=("title", "query")), answer),
        key(replace(task, instructions="Judge."), answer),
        key(task, AnswerFormat(trace=True)),
        key(task, AnswerFormat(probs="distribution")),
    ]
    assert len({plain, *changed}) == 8
