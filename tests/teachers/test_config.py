from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from distill.labeling.teacher import AnswerFormat
from distill.teachers.batch_config import BatchConfig, batch_settings
from distill.teachers.config import OpenAITeacherConfig, RecordedTeacherConfig, TeacherConfig

ADAPTER: TypeAdapter[TeacherConfig] = TypeAdapter(TeacherConfig)
OPENAI = {"type": "openai", "base_url": "http://localhost:8000/v1", "model": "m", "family": "qwen"}
RECORDED = {"type": "recorded", "path": "a.jsonl", "family": "f"}


def test_type_decides():
    assert isinstance(ADAPTER.validate_python(OPENAI), OpenAITeacherConfig)
    assert isinstance(ADAPTER.validate_python(RECORDED), RecordedTeacherConfig)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "opnai"}, "type"),
        ({"modle": "m"}, "modle"),
        ({"family": ""}, "family"),
        ({"base_url": "localhost:8000"}, "must be an address"),
        ({"base_url": "http://"}, "must be an address"),
        ({"base_url": "http://host:99999/v1"}, "must be an address"),
        ({"base_url": "http://me:hunter2@host/v1"}, "holds credentials"),
        ({"base_url": "http://host/v1/chat/completions"}, "leave that off"),
        ({"api_key": "hunter2 hunter2"}, "holds a space"),
        ({"headers": {"X-A": "hunter2\r\nX-B: 1"}}, "line break"),
        ({"headers": {"X A": "1"}}, "without a space or colon"),
        ({"extra_body": {"messages": []}}, "may not set messages"),
        ({"base_url": []}, "empty list"),
        ({"base_url": ["http://a/v1", "http://a/v1 "]}, "names a server twice"),
        ({"base_url": ["http://a/v1", "b"]}, "must be an address"),
        ({"budget_usd": 5}, "give price"),
        ({"quota": {"usd_per_minute": 5}}, "give price"),
        ({"quota": {"requests_per_hour": 5}}, "requests_per_hour"),
        ({"probs": "all"}, "probs"),
        ({"temperature": 3}, "temperature"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"price": {"input_usd_per_mtok": 1}}, "output_usd_per_mtok"),
    ],
)
def test_wrong_sections(changes, words):
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({**OPENAI, **changes})
    assert words in str(caught.value)
    assert "hunter2" not in " ".join(problem["msg"] for problem in caught.value.errors())
    # Pydantic shows the input by the outermost model's setting, so whoever composes these hides it too.
    if changes.get("type") is None:
        with pytest.raises(ValidationError) as caught:
            OpenAITeacherConfig(**{**OPENAI, **changes})
        assert "hunter2" not in str(caught.value)


def test_recorded_sections():
    mapped = RecordedTeacherConfig(
        path="a.csv", family="f", id=["query", "sku"], columns={"label": "l"}, label_map={4: "exact"}
    )
    assert mapped.id == ("query", "sku")
    assert mapped.label_map == {"4": "exact"}
    assert RecordedTeacherConfig(path="a.csv", family="f").id == ("row_id",)
    with pytest.raises(ValidationError, match="label_map is for parsed tables"):
        RecordedTeacherConfig(path="a.csv", family="f", label_map={"E": "exact"})


def test_a_key_loses_its_line_break_and_an_empty_one_is_none():
    key = OpenAITeacherConfig(**OPENAI, api_key="sk-1\n").api_key
    assert key is not None
    assert key.get_secret_value() == "sk-1"
    assert OpenAITeacherConfig(**OPENAI, api_key=" ").api_key is None


def test_answer_format_and_token_limit():
    plain = OpenAITeacherConfig(**OPENAI)
    assert plain.answer == AnswerFormat(trace=False, clauses=True, probs="none")
    assert plain.token_limit == 512
    assert OpenAITeacherConfig(**OPENAI, traces=True).token_limit == 1024
    assert OpenAITeacherConfig(**OPENAI, traces=True, max_tokens=7).token_limit == 7


def test_every_field_is_described_for_editors():
    schema = ADAPTER.json_schema()
    for model in schema["$defs"].values():
        for name, field in model["properties"].items():
            assert field.get("description"), f"{model['title']}.{name}"


def test_importing_the_config_is_cheap():
    code = "import sys, distill.teachers.config; print([m for m in ('aiohttp', 'polars', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_trace_has_a_budget_and_room():
    traced = OpenAITeacherConfig(**OPENAI, traces=True)
    assert traced.answer.trace_tokens == 120
    assert traced.token_limit == 1024
    # 512 for the rest of the answer, and four tokens for each of the budget's.
    assert OpenAITeacherConfig(**OPENAI, traces=True, trace_tokens=400).token_limit == 512 + 4 * 400
    assert OpenAITeacherConfig(**OPENAI, traces=True, trace_tokens=400, max_tokens=300).token_limit == 300
    with pytest.raises(ValidationError, match="trace_tokens"):
        OpenAITeacherConfig(**OPENAI, traces=True, trace_tokens=5)
    explains = OpenAITeacherConfig(**OPENAI, rationale_for="gold").answer
    assert (explains.trace, explains.trace_order, explains.explains) == (True, "given", True)
    with pytest.raises(ValidationError):
        OpenAITeacherConfig(**OPENAI, trace_order="given")


def test_batch_is_a_switch_or_settings():
    assert batch_settings(OpenAITeacherConfig(**OPENAI).batch) is None
    assert batch_settings(OpenAITeacherConfig(**OPENAI, batch=True).batch) == BatchConfig()
    given = batch_settings(OpenAITeacherConfig(**OPENAI, batch={"wait": False}).batch)
    assert given is not None and given.patience_s == 0.0
    assert BatchConfig(wait_s=60).patience_s == 60.0
    assert BatchConfig().patience_s == float("inf")
    with pytest.raises(ValidationError, match="does nothing without live_tail"):
        OpenAITeacherConfig(**OPENAI, batch={"live_tail_after_s": 60})
