from __future__ import annotations

import asyncio
import json
import socket
import traceback
from typing import Any

import pytest

from distill.labeling import errors
from distill.labeling.answers.parsing import parse_answer
from distill.labeling.guideline import Guideline
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Prompt, Reply, Request, Teacher
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher, endpoint_of
from distill.teachers.registry import build_teacher

KEY = "sk-very-secret-key-0123456789"
TASK = Task(
    labels=("exact", "substitute", "complement", "irrelevant"),
    inputs=("query", "title"),
    positive="exact",
    ordered=True,
)
ROW = {"row_id": "r1", "query": "red shoe", "title": "Crimson sneaker"}


def teacher(server, **changes) -> OpenAITeacher:
    base_url = server if isinstance(server, str) else server.base_url
    section = {"base_url": base_url, "model": "tiny", "family": "llama", "timeout_s": 5.0, **changes}
    return OpenAITeacher("local", OpenAITeacherConfig(**section))


def prompt_of(one: OpenAITeacher, row=ROW) -> Prompt:
    return Prompter(TASK, one.answer)(row)


def sent_by(request: Request) -> dict[str, Any]:
    return json.loads(request.body)


def ask(one: OpenAITeacher, row=ROW) -> Reply:
    """Compiles, opens, asks once, closes."""

    async def main() -> Reply:
        await one.open()
        try:
            request = one.compile(prompt_of(one, row), sample=0)
            return await one.ask(request)
        finally:
            await one.close()

    return asyncio.run(main())


def failure(server, fault: str | None, kind: type[errors.TeacherError], **changes) -> errors.TeacherError:
    """Asks a server with this fault; the error is exactly of this kind, and everything it prints is without the key."""
    if fault:
        server.script(fault)
    with pytest.raises(errors.TeacherError) as caught:
        ask(teacher(server, **{"api_key": KEY, **changes}))
    assert type(caught.value) is kind, caught.value
    printed = "".join(traceback.format_exception(caught.value))
    assert KEY not in printed
    assert str(caught.value).startswith("teacher local (http://")
    assert "\n" not in str(caught.value)
    return caught.value


def test_answers_and_counts(fault_server):
    one = teacher(
        fault_server, probs="distribution", traces=True, price={"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}
    )
    reply = ask(one)
    completion = one.read(reply)
    answer = parse_answer(completion.text, task=TASK, answer=one.answer)
    assert answer.label in TASK.labels
    assert answer.probs_source == "verbal"
    assert answer.trace
    sent = fault_server.requests[0]
    words = sum(len(message["content"].split()) for message in sent["messages"])
    assert completion.input_tokens == words
    assert reply.latency_s > 0
    # 2 dollars a million in, 8 out.
    assert reply.cost_usd == pytest.approx((2 * words + 8 * completion.output_tokens) / 1e6)
    assert one.read(reply) == completion


def test_is_a_teacher_and_built_from_a_recipe(fault_server):
    section = OpenAITeacherConfig(base_url=fault_server.base_url, model="tiny", family="llama", max_concurrency=3)
    built = build_teacher("local", section)
    assert isinstance(built, Teacher)
    assert (built.name, built.family, built.max_concurrency) == ("local", "llama", 3)


def test_no_price_no_cost(fault_server):
    assert ask(teacher(fault_server)).cost_usd is None


def test_cached_tokens_have_their_price(fault_server):
    one = teacher(
        fault_server,
        price={"input_usd_per_mtok": 10, "output_usd_per_mtok": 0, "cached_input_usd_per_mtok": 1},
    )
    from distill.teachers.openai_body import token_usage
    from distill.teachers.prices import Usage, cost_usd

    counts = {"prompt_tokens": 100, "completion_tokens": 7}
    usage = token_usage({"usage": {**counts, "prompt_tokens_details": {"cached_tokens": 80}}})
    assert usage == token_usage({"usage": {**counts, "prompt_cache_hit_tokens": 80}}) == Usage(100, 7, 80)
    # 20 fresh at 10 dollars a million and 80 cached at 1: 280 dollars a million.
    assert cost_usd(usage, one._price) == pytest.approx(280e-6)


def test_what_is_sent(fault_server):
    one = teacher(
        fault_server, api_key=KEY, seed=5, headers={"X-Team": "search"}, extra_body={"top_k": 1, "max_tokens": None}
    )
    ask(one)
    sent = fault_server.requests[0]
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["response_format"]["json_schema"]["strict"] is True
    assert list(sent["response_format"]["json_schema"]["schema"]["properties"]) == ["label"]
    assert (sent["model"], sent["temperature"], sent["top_k"]) == ("tiny", 0.0, 1)
    assert "max_tokens" not in sent
    assert fault_server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert fault_server.headers[0]["X-Team"] == "search"


def test_own_header_replaces_ours_whatever_its_case(fault_server):
    ask(teacher(fault_server, api_key=KEY, headers={"authorization": "Basic abc"}))
    seen = {name.lower(): value for name, value in fault_server.headers[0].items()}
    assert seen["authorization"] == "Basic abc"


@pytest.mark.parametrize(("structured", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_servers_that_know_less(fault_server, structured, sent):
    ask(teacher(fault_server, structured=structured))
    assert fault_server.requests[0].get("response_format") == sent


def test_seeds_differ_by_row_and_sample_and_repeat():
    one = teacher("http://localhost:8000/v1", seed=5)
    rows = [{**ROW, "title": f"shoe {number}"} for number in range(20)]
    seeds = [sent_by(one.compile(prompt_of(one, row), sample=sample))["seed"] for row in rows for sample in range(3)]
    assert len(set(seeds)) == 60
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sent_by(one.compile(prompt_of(one, rows[0]), sample=1))["seed"] == seeds[1]
    assert "seed" not in sent_by(teacher("http://localhost:8000/v1").compile(prompt_of(one), sample=3))


def test_a_schema_without_bounds(fault_server):
    one = teacher(fault_server, structured="json_schema_unbounded", probs="distribution")
    task = Task(labels=("minimum", "b"), inputs=("query",), guideline=Guideline.parse("- **E1 A.** b\n"))
    prompt = Prompter(task, one.answer)(ROW)
    schema = sent_by(one.compile(prompt, sample=0))["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {
        "label": {"type": "string", "enum": ["minimum", "b"]},
        "clauses": {"type": "array", "items": {"type": "string", "enum": ["E1"]}},
        "probs": {
            "type": "object",
            "properties": {"minimum": {"type": "number"}, "b": {"type": "number"}},
            "required": ["minimum", "b"],
            "additionalProperties": False,
        },
    }


def test_turns_follow_the_question(fault_server):
    one = teacher(fault_server)
    prompt = Prompter(TASK, one.answer).again(prompt_of(one), text="great", problem="label: got 'great'")
    messages = sent_by(one.compile(prompt, sample=0))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert one.compile(prompt, sample=0).key != one.compile(prompt_of(one), sample=0).key


def test_key_of_a_request_is_free_of_secrets_and_changes_with_the_sample():
    plain = teacher("http://localhost:8000/v1/", seed=3)
    keyed = teacher("http://LOCALHOST:8000/v1", api_key=KEY, headers={"X-A": "secret-header"}, seed=3, timeout_s=9)
    request = keyed.compile(prompt_of(keyed), sample=0)
    assert request.key == plain.compile(prompt_of(plain), sample=0).key
    repeat = keyed.compile(prompt_of(keyed), sample=2)
    assert repeat.key != request.key
    assert keyed.compile(prompt_of(keyed), sample=2).key == repeat.key
    for text in (repr(keyed), repr(keyed._config), repr(request), keyed._config.model_dump_json()):
        assert KEY not in text
        assert "secret-header" not in text


@pytest.mark.parametrize(
    ("base_url", "endpoint"),
    [
        ("http://Localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.example.com:443/v1", "https://api.example.com/v1"),
        ("https://user:pw@host/v1?api-version=2", "https://host/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_endpoint_is_normalised(base_url, endpoint):
    assert endpoint_of(base_url) == endpoint


def test_query_of_the_address_is_sent(fault_server):
    ask(teacher(fault_server.base_url + "/?api-version=2"))
    assert len(fault_server.requests) == 1


def test_wrong_key(make_fault_server):
    server = make_fault_server(api_key="sk-another")
    error = failure(server, None, errors.WrongKeyError)
    assert error.stops_teacher
    assert "401: Incorrect API key provided: Bearer ***" in str(error)
    assert "give one: api_key" in str(failure(server, None, errors.WrongKeyError, api_key=None))


def test_forbidden_and_no_credit_stop_the_teacher(fault_server):
    failure(fault_server, "403", errors.WrongKeyError)
    assert "no credit" in str(failure(fault_server, "402", errors.SpendLimitError))
    assert failure(fault_server, "quota", errors.SpendLimitError).stops_teacher


def test_a_quota_of_a_day_is_no_quota_of_a_minute(fault_server):
    error = failure(fault_server, "daily", errors.DailyQuotaError)
    assert error.stops_teacher and not error.retryable
    assert "run the same command again then" in str(error)


def test_a_schema_that_the_server_does_not_take_stops_the_teacher_with_what_to_do(fault_server):
    error = failure(fault_server, "schema", errors.SchemaRejectedError)
    assert error.stops_teacher
    assert "try json_schema_unbounded" in str(error)
    # Nobody is held to a schema: it is this request's fault.
    failure(fault_server, "schema", errors.RequestRejectedError, structured="none")


def test_a_server_that_has_answered_takes_the_schema(fault_server):
    async def main(one: OpenAITeacher) -> None:
        await one.open()
        try:
            request = one.compile(prompt_of(one), sample=0)
            await one.ask(request)
            fault_server.script("schema")
            with pytest.raises(errors.RequestRejectedError, match="json_schema_unbounded"):
                await one.ask(request)
        finally:
            await one.close()

    asyncio.run(main(teacher(fault_server)))


def test_used_up_quota_is_told(fault_server):
    fault_server.script("used_up:12")
    assert ask(teacher(fault_server)).quiet_s == 12.0
    assert ask(teacher(fault_server)).quiet_s == 0.0


def test_unknown_model_names_what_is_served(make_fault_server):
    server = make_fault_server(models=("qwen3-8b", "llama-8b"))
    error = failure(server, None, errors.UnknownModelError)
    assert error.stops_teacher
    assert "no model 'tiny' here" in str(error)
    assert "it serves qwen3-8b, llama-8b: correct teachers.local.model" in str(error)


def test_wrong_path(fault_server):
    error = failure(fault_server.base_url.removesuffix("/v1"), None, errors.UnknownModelError)
    assert "base_url (it usually ends in /v1)" in str(error)


def test_redirect_is_not_followed(fault_server):
    assert "redirects to /elsewhere (307)" in str(failure(fault_server, "redirect", errors.UnknownModelError))


@pytest.mark.parametrize("fault", ["400", "413", "422"])
def test_rejected_request(fault_server, fault):
    error = failure(fault_server, fault, errors.RequestRejectedError)
    assert not error.retryable
    assert not error.stops_teacher
    assert f"got {fault}: scripted fault {fault} second line" in str(error)


def test_too_many_requests(fault_server):
    assert failure(fault_server, "429:7", errors.RateLimitError).retry_after_s == 7.0
    assert failure(fault_server, "429", errors.RateLimitError).retry_after_s is None


@pytest.mark.parametrize("fault", ["500", "502", "503:2", "529"])
def test_overloaded(fault_server, fault):
    error = failure(fault_server, fault, errors.OverloadedError)
    assert error.retryable
    assert error.retry_after_s == (2.0 if ":" in fault else None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("html", "an HTML page titled 'Welcome to the proxy'"),
        ("half_json", "expected a chat completion"),
        ("no_choices", "upstream had no worker"),
        ("empty", "an empty body"),
    ],
)
def test_bad_reply(fault_server, fault, words):
    error = failure(fault_server, fault, errors.BadReplyError)
    assert error.retryable
    assert words in str(error)


@pytest.mark.parametrize("fault", ["cut", "drop"])
def test_lost_connection(fault_server, fault):
    assert failure(fault_server, fault, errors.ConnectionFailedError).retryable
    assert len(fault_server.requests) == 1  # sending again is the engine's business


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: the port is refused, and nobody else takes it
        port = taken.getsockname()[1]
        error = failure(f"http://127.0.0.1:{port}/v1", None, errors.ConnectionFailedError)
    assert "is the server up" in str(error)


def test_not_http_at_all():
    async def main() -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.com ESMTP\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        one = teacher(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        await one.open()
        try:
            with pytest.raises(errors.ConnectionFailedError):
                await one.ask(one.compile(prompt_of(one), sample=0))
        finally:
            await one.close()
            server.close()

    asyncio.run(main())


def test_never_answers(fault_server):
    error = failure(fault_server, "never", errors.TeacherTimeoutError, timeout_s=0.05)
    assert error.retryable
    assert "no whole answer within 0.05 s" in str(error)


def test_slow_is_not_never(fault_server):
    fault_server.script("slow:0.02")
    assert ask(teacher(fault_server)).latency_s >= 0.02


def test_refused_filtered_and_cut_answers_are_values(fault_server):
    one = teacher(fault_server, api_key=KEY)
    fault_server.script("refusal", "content_filter", "length", "azure_filter")
    completions = [one.read(ask(one)) for _ in range(4)]
    assert [completion.finish for completion in completions] == ["refused", "filtered", "length", "filtered"]
    assert completions[0].text == "I cannot help with that."


@pytest.mark.parametrize("fault", ["prose", "unknown_label", "abstain"])
def test_odd_answers_are_the_parsers_business(fault_server, fault):
    fault_server.script(fault)
    one = teacher(fault_server)
    assert one.read(ask(one)).finish == "stop"


def test_reads_what_servers_return_apart():
    one = teacher("http://localhost:8000/v1")
    body = """{"choices": [{"message": {"content": [{"type": "text", "text": "{\\"label\\": "},
        {"type": "text", "text": "\\"exact\\"}"}], "reasoning_content": "Hm."}, "finish_reason": "stop"}],
        "usage": null}"""
    completion = one.read(Reply(body))
    assert (completion.text, completion.reasoning) == ('{"label": "exact"}', "Hm.")
    assert (completion.input_tokens, completion.output_tokens) == (None, None)
    body = '{"choices": [{"message": {"content": null, "reasoning": "Long."}, "finish_reason": "length"}]}'
    completion = one.read(Reply(body))
    assert (completion.text, completion.reasoning, completion.finish) == ("", "Long.", "length")


@pytest.mark.parametrize(
    "body", ["", "null", "[]", '{"choices": []}', '{"choices": [1]}', '{"choices": [{}]}', "[" * 100000]
)
def test_read_raises_on_what_is_no_completion(body):
    with pytest.raises(errors.BadReplyError, match="teacher local"):
        teacher("http://localhost:8000/v1").read(Reply(body))


def test_many_at_once_share_a_bounded_pool(fault_server):
    one = teacher(fault_server, max_concurrency=4)
    rows = [{"row_id": str(number), "query": f"q{number}", "title": "t"} for number in range(40)]

    async def main() -> list[Reply]:
        await one.open()
        try:
            return await asyncio.gather(*(one.ask(one.compile(prompt_of(one, row), sample=0)) for row in rows))
        finally:
            await one.close()

    assert len(asyncio.run(main())) == 40
    assert len(fault_server.counts) == 40
    assert set(fault_server.counts.values()) == {1}
    assert fault_server.most_in_flight <= 4


@pytest.mark.parametrize(
    ("base_url", "structured", "kept"),
    [
        ("http://localhost:8000/v1", "json_schema", True),
        ("http://localhost:8000/v1", "json_schema_unbounded", False),
        ("https://api.openai.com/v1", "json_schema", False),  # its strict mode refuses maxLength
        ("https://us.openai.azure.com/openai/v1", "json_schema", False),
        ("https://notapi.example.com/v1", "json_schema", True),
    ],
)
def test_the_length_of_a_trace_is_bounded_where_the_server_takes_it(base_url, structured, kept):
    config = OpenAITeacherConfig(base_url=base_url, model="m", family="f", traces=True, structured=structured)
    one = OpenAITeacher("one", config)
    task = Task(labels=("yes", "no"), inputs=("query",))
    prompt = Prompter(task, one.answer)({"row_id": "a", "query": "q"})
    body = json.loads(one.compile(prompt, sample=0).body)
    trace = body["response_format"]["json_schema"]["schema"]["properties"]["trace"]
    assert ("maxLength" in trace) is kept
    assert "at most 90 words" in body["messages"][0]["content"]
