from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import traceback
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr, ValidationError

import distill
from distill.labeling import errors
from distill.labeling.answers.parsing import parse_answer
from distill.labeling.engine.learned_lanes import settled_lane
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Capabilities, ProbingTeacher, Prompt, Reply, Request, Teacher
from distill.teachers.config import GeminiTeacherConfig
from distill.teachers.gemini import GeminiTeacher
from distill.teachers.gemini_read import Step, label_probs
from distill.teachers.registry import build_teacher

pytest.importorskip("google.genai")

KEY = "AIza-very-secret-key-0123456789"
LABELS = ("exact", "substitute", "complement", "irrelevant")
TASK = Task(labels=LABELS, inputs=("query", "title"), positive="exact", ordered=True)
ROWS = [{"row_id": f"r{n}", "query": "red shoe", "title": f"Crimson sneaker {n}"} for n in range(4)]
PNG = b"\x89PNG\r\n\x1a\n0000"


def section(server, **changes) -> GeminiTeacherConfig:
    base_url = server if isinstance(server, str) else server.base_url
    given = {"api_key": KEY, "base_url": base_url, "model": "gemini-tiny", "family": "gemini", "timeout_s": 5.0}
    return GeminiTeacherConfig(**{**given, "lane": "json", **changes})


def teacher(server, **changes) -> GeminiTeacher:
    return GeminiTeacher("hosted", section(server, **changes))


def prompts_of(one: GeminiTeacher, **changes) -> list[Prompt]:
    prompter = Prompter(TASK, one.answer)
    prompts = [prompter(row) for row in ROWS]
    for prompt in prompts:
        for name, value in changes.items():
            setattr(prompt, name, value)
    return prompts


def opened(one: GeminiTeacher, work) -> Any:
    async def main() -> Any:
        await one.open()
        try:
            return await work()
        finally:
            await one.close()

    return asyncio.run(main())


def ask(one: GeminiTeacher, request: Request | None = None, **changes) -> Reply:
    request = request or one.compile(prompts_of(one, **changes)[0], sample=0)
    return opened(one, lambda: one.ask(request))


def failure(server, fault: str, kind: type[errors.TeacherError], **changes) -> Any:
    """Asks a service with this fault; the error is exactly of this kind, and nothing that it prints holds the key."""
    server.script(fault)
    before = len(server.requests)
    with pytest.raises(errors.TeacherError) as caught:
        ask(teacher(server, **changes))
    assert type(caught.value) is kind, caught.value
    # The engine is to see every refusal: one question, one request, whatever the SDK would do by itself.
    assert len(server.requests) <= before + 1
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith("teacher hosted (http://")
    assert "\n" not in str(caught.value)
    return caught.value


# generateContent


def test_is_a_teacher_and_built_from_a_recipe(gemini_server):
    built = build_teacher("hosted", section(gemini_server, max_concurrency=3))
    assert isinstance(built, Teacher)
    assert isinstance(built, ProbingTeacher)
    assert (built.name, built.family, built.max_concurrency) == ("hosted", "gemini", 3)
    assert KEY not in repr(built)


def test_answers_and_counts(gemini_server):
    price = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}
    one = teacher(gemini_server, probs="distribution", traces=True, price=price)
    reply = ask(one)
    completion = one.read(reply)
    answer = parse_answer(completion.text, task=TASK, answer=one.answer)
    assert answer.label in LABELS
    assert answer.probs_source == "verbal"
    assert answer.trace
    read = completion.input_tokens
    assert read is not None and read > 100
    # 2 dollars a million in, 8 out.
    assert reply.cost_usd == pytest.approx((2 * read + 8 * completion.output_tokens) / 1e6)
    assert reply.latency_s > 0
    assert one.read(reply) == reply.completion


def test_what_arrives_is_what_was_hashed(gemini_server):
    one = teacher(
        gemini_server,
        seed=5,
        tier="flex",
        thinking={"level": "low", "summaries": True},
        temperature=0.0,
        extra_body={
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
            "generationConfig": {"top_k": 1, "temperature": None},
        },
    )
    # Property names in snake case and enums are data: the SDK would put its own case on fields that it knows.
    schema = {"type": "object", "properties": {"label": {"enum": ["a_b", "cD"]}, "max_items": {"type": "string"}}}
    prompt = prompts_of(one, schema=schema)[0]
    prompt.turns = (("assistant", "nothing"), ("user", "again"))
    prompt.user += " \u2028 \U0001f45f ü"
    gemini_server.answer = lambda body: "{}"
    request = one.compile(prompt, sample=0)
    ask(one, request)
    ((path, arrived),) = gemini_server.requests
    hashed = json.loads(request.body)
    assert path == f"POST /v1beta/{hashed.pop('model')}:generateContent"
    assert arrived.pop("serviceTier") == "flex"
    assert arrived == hashed
    settings = arrived["generationConfig"]
    assert settings["responseJsonSchema"] == schema
    assert settings["thinkingConfig"] == {"thinkingLevel": "LOW", "includeThoughts": True}
    assert settings["top_k"] == 1
    assert "temperature" not in settings
    assert [content["role"] for content in arrived["contents"]] == ["user", "model", "user"]
    assert gemini_server.headers[0]["x-goog-api-key"] == KEY
    assert KEY.encode() not in request.body


def test_the_key_of_a_request(gemini_server):
    one, again = teacher(gemini_server), teacher(gemini_server)
    prompt = prompts_of(one)[0]
    request = one.compile(prompt, sample=0)
    assert request.key == again.compile(prompt, sample=0).key
    # RequestHead and Request agree on what a key is.
    assert request.key == Request(one.endpoint, request.body).key
    changed = [
        teacher(gemini_server, model="gemini-other"),
        teacher(gemini_server, temperature=0.5),
        teacher(gemini_server, thinking={"budget": 0}),
        teacher(gemini_server, seed=1),
        teacher(gemini_server, api_version="v1"),
    ]
    keys = {one.compile(prompt, sample=0).key for one in changed} | {one.compile(prompt, sample=1).key, request.key}
    assert len(keys) == 7
    same = [teacher(gemini_server, cache={}), teacher(gemini_server, tier="flex"), teacher(gemini_server, batch=True)]
    same += [teacher(gemini_server, api_key="another", timeout_s=9, max_concurrency=3)]
    assert {one.compile(prompt, sample=0).key for one in same} == {request.key}


def test_each_row_and_sample_has_a_seed_of_its_own(gemini_server):
    from distill.teachers.row_seed import row_seed

    one = teacher(gemini_server, seed=7)
    first, second = prompts_of(one)[:2]
    sent = [
        json.loads(one.compile(prompt, sample=sample).body)["generationConfig"]["seed"]
        for prompt, sample in [(first, 0), (first, 1), (second, 0)]
    ]
    assert len(set(sent)) == 3
    assert sent[0] == row_seed(7, sample=0, user=first.user)  # as the other teachers draw it
    assert "seed" not in json.loads(teacher(gemini_server).compile(first, sample=0).body)["generationConfig"]


def test_thoughts_are_kept_and_paid_for_as_output(gemini_server):
    price = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 10}
    one = teacher(gemini_server, thinking={"budget": 100, "summaries": True}, price=price)
    reply = ask(one)
    completion = one.read(reply)
    assert completion.reasoning == "The shopper wants a shoe."
    assert "shopper" not in completion.text
    answered = len(completion.text.split())
    assert completion.output_tokens == answered + 50
    assert reply.cost_usd == pytest.approx(10e-6 * (answered + 50))


@pytest.mark.parametrize(
    ("thinking", "limit"),
    # 512 for the answer, and what is thought before it counts against the same limit.
    [({"budget": 0}, 512), ({"budget": 2000}, 2512), ({"level": "minimal"}, 512 + 1024), (None, 512 + 8192)],
)
def test_there_is_room_for_thoughts(thinking, limit):
    config = section("http://localhost", thinking=thinking)
    assert config.output_limit == limit


@pytest.mark.parametrize(
    ("fault", "finish"),
    [
        ("blocked", "filtered"),
        ("finish:SAFETY", "filtered"),
        ("finish:PROHIBITED_CONTENT", "filtered"),
        ("finish:RECITATION", "filtered"),
        ("finish:MAX_TOKENS", "length"),
        ("finish:OTHER", "stop"),
        ("ok", "stop"),
    ],
)
def test_how_an_answer_ends(gemini_server, fault, finish):
    gemini_server.script(fault)
    one = teacher(gemini_server)
    reply = ask(one)
    completion = one.read(reply)
    assert completion.finish == finish
    assert completion.input_tokens
    if finish == "filtered":
        assert completion.text.split(":")[0] == (fault.partition(":")[2] or "PROHIBITED_CONTENT")


def test_flex_costs_half_and_waits_longer(gemini_server):
    price = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}
    full, half = (ask(teacher(gemini_server, price=price, tier=tier)).cost_usd for tier in ("standard", "flex"))
    assert half == pytest.approx(full / 2)
    assert section(gemini_server, tier="flex", timeout_s=None).wait_s == 900
    assert section(gemini_server, timeout_s=None).wait_s == 120


def test_images_go_along(gemini_server, tmp_path):
    path = tmp_path / "shoe.png"
    path.write_bytes(PNG)
    one = teacher(gemini_server)
    ask(one, images=(str(path), "https://shop.example/shoe.webp?size=2"))
    parts = gemini_server.requests[0][1]["contents"][0]["parts"]
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}
    assert parts[2] == {"fileData": {"mimeType": "image/webp", "fileUri": "https://shop.example/shoe.webp?size=2"}}
    prompt = prompts_of(one, images=(str(path),))[0]
    before = one.compile(prompt, sample=0).key
    path.write_bytes(PNG + b"1")
    assert one.compile(prompt, sample=0).key != before
    with pytest.raises(errors.DataError, match="cannot be read"):
        one.compile(prompts_of(one, images=("nowhere.png",))[0], sample=0)


# The guideline kept at the provider


def test_the_guideline_is_kept_once_and_deleted_at_the_end(gemini_server):
    price = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 0, "cached_input_usd_per_mtok": 1}
    one = teacher(gemini_server, cache={"ttl_s": 600}, price=price)
    requests = [one.compile(prompt, sample=0) for prompt in prompts_of(one)]

    async def work() -> list[Reply]:
        replies = await asyncio.gather(*map(one.ask, requests))
        assert len(gemini_server.caches) == 1
        return replies

    replies = opened(one, work)
    (made,) = gemini_server.asked("POST /v1beta/cachedContents")
    assert (made["ttl"], made["model"]) == ("600s", "models/gemini-tiny")
    system = json.loads(requests[0].body)["systemInstruction"]["parts"][0]["text"]
    assert made["systemInstruction"]["parts"][0]["text"] == system
    asked = gemini_server.asked("generateContent")
    assert len(asked) == 4
    assert all(body["cachedContent"].startswith("cachedContents/") for body in asked)
    assert all("systemInstruction" not in body for body in asked)
    assert gemini_server.caches == {}
    # The kept part is the system text's words at 1 dollar a million, the rest is fresh at 10.
    completion, kept = one.read(replies[0]), len(system.split())
    assert replies[0].cost_usd == pytest.approx((10 * (completion.input_tokens - kept) + kept) / 1e6)


def test_a_guideline_that_is_too_small_is_sent_in_full_and_said_once(gemini_server, caplog):
    gemini_server.least_cached_chars = 10**6
    one = teacher(gemini_server, cache={})
    requests = [one.compile(prompt, sample=0) for prompt in prompts_of(one)]

    async def work() -> None:
        for request in requests:
            await one.ask(request)

    with caplog.at_level(logging.WARNING):
        opened(one, work)
    (said,) = caplog.messages
    assert "too small" in said
    assert len(gemini_server.asked("POST /v1beta/cachedContents")) == 1
    assert all("systemInstruction" in body for body in gemini_server.asked("generateContent"))


def test_a_kept_guideline_that_is_gone_is_made_anew(gemini_server):
    one = teacher(gemini_server, cache={})
    requests = [one.compile(prompt, sample=0) for prompt in prompts_of(one)]

    async def work() -> None:
        await one.ask(requests[0])
        gemini_server.caches.clear()
        await one.ask(requests[1])  # refused, and asked again with the guideline in full
        await one.ask(requests[2])

    opened(one, work)
    asked = gemini_server.asked("generateContent")
    assert ["cachedContent" in body for body in asked] == [True, True, False, True]
    assert len({body["cachedContent"] for body in asked if "cachedContent" in body}) == 2


def test_a_guideline_that_is_lost_again_and_again_is_no_longer_kept(gemini_server, caplog):
    one = teacher(gemini_server, cache={})
    requests = [one.compile(prompt, sample=0) for prompt in prompts_of(one)]

    async def work() -> None:
        for request in [*requests, *requests]:
            kept = await one._cache.name_for(json.loads(request.body)["systemInstruction"]["parts"][0]["text"])
            gemini_server.caches.clear()
            await one.ask(request)
            assert kept or len(gemini_server.asked("POST /v1beta/cachedContents")) == 3

    with caplog.at_level(logging.WARNING):
        opened(one, work)
    assert len(gemini_server.asked("POST /v1beta/cachedContents")) == 3
    assert len(caplog.messages) == 1


def test_a_kept_guideline_is_made_anew_before_it_expires(gemini_server):
    from distill.teachers.gemini_cache import PrefixCache

    clock = {"now_s": 0.0}
    one = teacher(gemini_server)

    async def work() -> list[str | None]:
        cache = PrefixCache(one.client, model="gemini-tiny", ttl_s=600, say=str, clock=lambda: clock["now_s"])
        names = []
        for clock["now_s"] in (0.0, 569.0, 571.0):  # made anew 30 s ahead of the end
            names.append(await cache.name_for("guideline"))
        assert len(gemini_server.caches) == 2
        await cache.close()
        return names

    names = opened(one, work)
    assert names[0] == names[1] != names[2]
    assert gemini_server.caches == {}


# Log-probabilities


def test_log_probabilities_become_a_distribution(gemini_server):
    one = teacher(gemini_server, lane="logprobs")
    assert (one.answer.form, one.answer.clauses) == ("label", False)
    reply = ask(one)
    sent = gemini_server.requests[0][1]
    assert "options" not in sent
    assert (sent["generationConfig"]["responseLogprobs"], sent["generationConfig"]["logprobs"]) == (True, 20)
    assert "responseJsonSchema" not in sent["generationConfig"]
    completion = one.read(Reply(reply.body))
    # "e" 0.8, "s" 0.1, "i" 0.03; nothing leads to complement, which stands at the least that was reported.
    assert completion.probs == pytest.approx({"exact": 0.8, "substitute": 0.1, "complement": 0.03, "irrelevant": 0.03})
    assert (completion.probs_source, completion.probs_clipped) == ("logprob", True)


def test_labels_that_begin_alike_are_told_apart_at_their_first_difference():
    half, quarter = -0.6931471805599453, -1.3862943611198906
    steps = [
        Step(" shoe", {" shoe": half, "hat": half}),
        Step("_red", {"_red": quarter, "_blue": half, "x": quarter}),
    ]
    probs, clipped = label_probs(steps, ["shoe_red", "shoe_blue", "hat"])
    # 0.5 × 0.25, 0.5 × 0.5, and 0.5 for the one that left the path at the first token.
    assert probs == pytest.approx({"shoe_red": 0.125, "shoe_blue": 0.25, "hat": 0.5})
    assert not clipped
    shared, clipped = label_probs([Step("hat", {"hat": half, "shoe": half})], ["shoe_red", "shoe_blue", "hat"])
    assert shared == pytest.approx({"shoe_red": 0.25, "shoe_blue": 0.25, "hat": 0.5})
    assert clipped
    assert label_probs([Step("The", {"The": half})], ["hat", "cap"]) is None


# Decisions


def test_a_decision_is_a_distribution(gemini_server):
    price = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0}
    one = teacher(gemini_server, lane="decision", price=price)
    assert one.answer.form == "decision"
    prompt = prompts_of(one)[0]
    request = one.compile(prompt, sample=0)
    reply = ask(one, request)
    ((path, arrived),) = gemini_server.requests
    assert path == "POST /v1beta/decisions"
    assert arrived == json.loads(request.body)
    assert arrived["model"] == "gemini-tiny"
    instruction, item = (block["text"] for block in arrived["input"])
    assert instruction == prompt.system
    assert "Crimson sneaker 0" in item
    (question,) = arrived["questions"].values()
    assert list(question["criteria"]) == list(LABELS)
    # What a seller wrote stays out of the place of instructions; these only say by its mark which item is meant.
    assert "sneaker" not in question["instructions"]
    assert item.split()[1].rstrip(">") in question["instructions"]
    completion = one.read(Reply(reply.body))
    assert sum(completion.probs.values()) == pytest.approx(1)
    assert completion.probs[completion.text] == 0.7
    assert (completion.probs_source, completion.probs_clipped) == ("decision", False)
    assert completion.output_tokens == 0
    assert reply.cost_usd == pytest.approx(0.1e-6 * completion.input_tokens)


def test_options_without_a_probability_share_what_is_left(gemini_server):
    gemini_server.script("fewer")
    one = teacher(gemini_server, lane="decision")
    completion = one.read(ask(one))
    # 0.7 and two of 0.1 are stated, 0.1 is left for the one that is missing.
    assert sorted(completion.probs.values()) == pytest.approx([0.1, 0.1, 0.1, 0.7])
    assert completion.probs_clipped


def test_a_blocked_decision_is_filtered(gemini_server):
    gemini_server.script("blocked")
    one = teacher(gemini_server, lane="decision")
    completion = one.read(ask(one))
    assert (completion.finish, completion.text) == ("filtered", "prohibited_content")


def test_a_pack_answers_each_row(gemini_server, tmp_path):
    one = teacher(gemini_server, lane="decision")
    assert one.packs and one.most_packed == 1000
    prompts = prompts_of(one)
    request = one.compile_pack(prompts, sample=0)
    reply = ask(one, request)
    arrived = gemini_server.requests[0][1]
    assert arrived == json.loads(request.body)
    # The instruction is read once for all.
    assert [block["text"] for block in arrived["input"]].count(prompts[0].system) == 1
    assert list(arrived["questions"]) == ["1", "2", "3", "4"]
    whole = one.read(Reply(reply.body))
    assert len(whole.parts) == 4
    alone = [one.read(ask(one, one.compile(prompt, sample=0))) for prompt in prompts]
    # The imitation decides by the question, which names the item's mark: each part is its own row's answer.
    assert [part.text for part in whole.parts] == [completion.text for completion in alone]
    assert all(part.probs_source == "decision" for part in whole.parts)
    assert whole.input_tokens and whole.parts[0].input_tokens is None
    one_packed = one.read(ask(one, one.compile_pack(prompts[:1], sample=0)))
    assert len(one_packed.parts) == 1
    gemini_server.script("fewer")
    with pytest.raises(errors.BadReplyError, match="4 questions, got 3"):
        ask(one, request)


def test_decisions_see_images(gemini_server, tmp_path):
    path = tmp_path / "shoe.png"
    path.write_bytes(PNG)
    one = teacher(gemini_server, lane="decision")
    request = one.compile(prompts_of(one, images=(str(path), "https://shop.example/shoe.jpg"))[0], sample=0)
    ask(one, request)
    arrived = gemini_server.requests[0][1]
    assert arrived == json.loads(request.body)
    assert arrived["input"][2] == {"type": "image", "data": base64.b64encode(PNG).decode(), "mime_type": "image/png"}
    assert arrived["input"][3] == {"type": "image", "uri": "https://shop.example/shoe.jpg", "mime_type": "image/jpeg"}


def test_too_many_options_are_said(gemini_server):
    one = teacher(gemini_server, lane="decision")
    prompt = prompts_of(one, options={f"label {n}": "" for n in range(256)})[0]
    with pytest.raises(errors.DataError, match="2 to 255 options, got 256"):
        one.compile(prompt, sample=0)


@pytest.mark.parametrize(
    ("changes", "decides", "lane", "asked"),
    [
        ({}, True, "decision", 1),
        ({}, False, "json", 1),
        ({"traces": True}, True, "json", 0),
        ({"probs": "distribution"}, True, "json", 0),
        ({"batch": True}, True, "json", 0),
        ({"lane": "json"}, True, "json", 0),
        ({"lane": "logprobs"}, True, "logprobs", 0),
        ({"lane": "decision"}, True, "decision", 1),
    ],
)
def test_it_finds_its_lane(gemini_server, changes, decides, lane, asked):
    gemini_server.decides = decides
    one = teacher(gemini_server, **{"lane": "auto", **changes})
    found = opened(one, one.probe)
    assert one.settle(found) == lane
    assert one.answer.form == {"decision": "decision", "logprobs": "label", "json": "json"}[lane]
    assert len(gemini_server.requests) == asked
    assert found.most_options == (255 if asked and decides else None)


def test_a_lane_once_settled_on_is_kept():
    one = teacher("http://localhost", lane="auto")
    able, unable = Capabilities(decision=True), Capabilities()
    assert one.settle(able, kept="json") == "json"
    assert one.settle(able, kept="decision") == "decision"
    assert one.settle(unable, kept="decision") == "json"


def test_a_lane_that_is_asked_for_and_missing_is_an_error(gemini_server):
    gemini_server.decides = False
    one = teacher(gemini_server, lane="decision")
    with pytest.raises(errors.UnknownModelError, match="does not support decisions"):
        opened(one, one.probe)


def test_a_busy_moment_does_not_cost_the_lane(gemini_server, monkeypatch):
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    one = teacher(gemini_server, lane="auto")
    gemini_server.script("minute:7", "busy:3")

    async def work() -> Capabilities:
        monkeypatch.setattr("distill.teachers.gemini.asyncio.sleep", sleep)
        try:
            return await one.probe()
        finally:
            monkeypatch.undo()

    assert opened(one, work).decision
    assert [seconds for seconds in waited if seconds] == [7.0, 3.0]  # the imitation waits for 0 seconds
    gemini_server.script("bad_key")
    with pytest.raises(errors.WrongKeyError):
        opened(one, one.probe)


# What goes wrong


@pytest.mark.parametrize("lane", ["json", "decision"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("minute:18.5", errors.RateLimitError, "GenerateRequestsPerMinute"),
        ("daily", errors.DailyQuotaError, "GenerateRequestsPerDay"),
        ("minute_and_day", errors.DailyQuotaError, "run the same command again"),
        ("no_plan", errors.SpendLimitError, "plan has no quota"),
        ("credit", errors.SpendLimitError, "no credit left"),
        ("billing", errors.SpendLimitError, "no credit left"),
        ("402", errors.SpendLimitError, "no credit left"),
        ("bad_key", errors.WrongKeyError, "environment variable behind api_key"),
        ("401", errors.WrongKeyError, "does not accept the key"),
        ("403", errors.WrongKeyError, "does not accept the key"),
        ("404", errors.UnknownModelError, "teachers.hosted.model"),
        ("400", errors.RequestRejectedError, "refuses this request"),
        ("too_long", errors.RequestRejectedError, "shorten the row"),
        ("schema", errors.SchemaRejectedError, "clauses: false"),
        ("busy:2", errors.OverloadedError, "overloaded"),
        ("500", errors.OverloadedError, "in trouble"),
        ("504", errors.TeacherTimeoutError, "gave up waiting"),
        ("501", errors.UnknownModelError, "teachers.hosted.model"),
        ("redirect", errors.UnknownModelError, "redirects to http://127.0.0.1:9/elsewhere (307)"),
        ("html", errors.BadReplyError, "expected a JSON object, got <!doctype"),
        ("half_json", errors.BadReplyError, "expected a JSON object"),
        ("empty", errors.BadReplyError, "got an empty body"),
        ("cut", errors.ConnectionFailedError, "connection failed"),
        ("drop", errors.ConnectionFailedError, "connection failed"),
    ],
)
def test_each_failure_has_its_kind(gemini_server, fault, kind, words, lane):
    error = failure(gemini_server, fault, kind, lane=lane)
    assert words in str(error)


def test_a_refusal_that_is_half_a_json(gemini_server):
    failure(gemini_server, "half_error", errors.BadReplyError)  # aiohttp's reading of it loses the status
    failure(gemini_server, "half_error", errors.OverloadedError, lane="decision")


def test_how_long_to_wait_is_read(gemini_server):
    assert failure(gemini_server, "minute:18.5", errors.RateLimitError).retry_after_s == 18.5
    assert failure(gemini_server, "busy:2", errors.OverloadedError).retry_after_s == 2
    assert failure(gemini_server, "busy", errors.OverloadedError).retry_after_s is None


@pytest.mark.parametrize("lane", ["json", "decision"])
def test_no_answer_in_time(gemini_server, lane):
    failure(gemini_server, "never", errors.TeacherTimeoutError, timeout_s=0.5, lane=lane)


@pytest.mark.parametrize("lane", ["json", "decision"])
def test_nobody_there(gemini_server, lane):
    one = teacher("http://127.0.0.1:9", lane=lane)
    with pytest.raises(errors.ConnectionFailedError) as caught:
        ask(one)
    assert not caught.value.sent


def test_a_response_without_candidates_is_no_answer(gemini_server):
    failure(gemini_server, "no_candidates", errors.BadReplyError)


def test_a_schema_is_not_to_blame_once_it_was_taken(gemini_server):
    one = teacher(gemini_server)
    ask(one)
    gemini_server.script("schema")
    with pytest.raises(errors.RequestRejectedError):
        ask(one)


def test_what_a_package_that_is_missing_says(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(errors.MissingDependencyError, match=r"pip install 'distill\[gemini\]'"):
        teacher("http://localhost")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lane": "decision", "traces": True}, "writes no traces"),
        ({"lane": "logprobs", "probs": "confidence"}, "writes no traces"),
        ({"lane": "decision", "batch": True}, "batch jobs need lane: json"),
        ({"thinking": {"budget": 1, "level": "low"}}, "not both"),
        ({"base_url": "localhost"}, "must be an address"),
        ({"base_url": "https://u:p@host"}, "without a key"),
        ({"extra_body": {"contents": []}}, "may not set contents"),
        ({"api_key": "two words"}, "no key has"),
        ({"budget_usd": 1}, "give price"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(ValidationError, match=words) as caught:
        section("http://localhost", **changes)
    assert KEY not in str(caught.value)


def test_the_key_comes_from_the_environment_by_default(monkeypatch):
    from distill.secrets import with_secrets

    config = GeminiTeacherConfig(model="gemini-tiny", family="gemini")
    assert config.api_key == SecretStr("${GEMINI_API_KEY}")
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert with_secrets(config, where="teachers.hosted").api_key.get_secret_value() == KEY


# The real engine


@pytest.mark.parametrize(("lane", "source"), [("auto", "decision"), ("logprobs", "logprob"), ("json", "none")])
def test_a_run_from_rows_to_votes(gemini_server, tmp_path, lane, source):
    ledger = tmp_path / "ledger.sqlite"
    gemini_server.script("ok", "minute:0.01", "drop", "busy:0.01")
    config = section(gemini_server, lane=lane, price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 1})
    rows = [{**row, "row_id": f"r{n}", "title": f"Shoe {n}"} for n in range(30) for row in ROWS[:1]]
    votes = distill.label(pl.DataFrame(rows), TASK, {"hosted": config}, ledger=ledger)
    assert set(votes["outcome"]) == {"labeled"}
    assert set(votes["probs_source"]) == {source}
    assert votes["cost_usd"].min() > 0
    before = len(gemini_server.asked("generateContent")) + len(gemini_server.asked("decisions"))
    again = distill.label(pl.DataFrame(rows), TASK, {"hosted": config}, ledger=ledger)
    assert again["from_ledger"].all()
    probes = 1 if lane == "auto" else 0
    after = len(gemini_server.asked("generateContent")) + len(gemini_server.asked("decisions"))
    assert after == before + probes
    assert again["label"].to_list() == votes["label"].to_list()
    if lane == "auto":
        with Ledger(ledger) as kept:
            endpoint = f"{gemini_server.base_url}/v1beta"
            assert settled_lane(kept, endpoint=endpoint, model="gemini-tiny", teacher="hosted").lane == "decision"
