"""The lanes against an imitation of their wire formats, and its faults."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from distill.labeling import errors
from distill.labeling.answers.distributions import answer_of_probs, answer_of_samples
from distill.labeling.engine.engine import LabelingRun
from distill.labeling.engine.learned_lanes import settle_as_before
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Completion, ProbingTeacher, Prompt, Reply
from distill.labeling.vote import votes_frame
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher
from distill.teachers.openai_sampled import Step, label_masses

TASK = Task(labels=("exact", "exact match", "substitute", "irrelevant"), inputs=("query", "title"), positive="exact")
ROWS = [
    {"row_id": "r1", "query": "red shoe", "title": "Crimson sneaker"},
    {"row_id": "r2", "query": "red shoe", "title": "Blue hat"},
]
# What the imitation's model writes, see lane_server.py.
WEIGHTS = [0.5, 0.2, 0.2, 0.1]
LANES = {
    "decision:openai": ("openai", "/v1/decisions"),
    "decision:sglang": ("sglang", "/v1/decisions"),
    "decision:systemone": ("systemone", "/v1/systemone"),
    "logprobs:next": ("next", "/v1/completions"),
    "logprobs:prompt": ("prompt", "/v1/completions"),
    "logprobs:sampled": ("sampled", "/v1/chat/completions"),
}


def teacher(server: Any, **changes: Any) -> OpenAITeacher:
    section = {"base_url": server.base_url, "model": "tiny", "family": "llama", "timeout_s": 5.0, **changes}
    one = OpenAITeacher("local", OpenAITeacherConfig(**section))
    one.probe_pause_s = 0.0
    return one


def settled(server: Any, **changes: Any) -> OpenAITeacher:
    one = teacher(server, **changes)

    async def main() -> None:
        await one.open()
        try:
            one.settle(await one.probe())
        finally:
            await one.close()

    asyncio.run(main())
    return one


def prompt_of(one: OpenAITeacher, row: dict[str, str] = ROWS[0], task: Task = TASK) -> Prompt:
    return Prompter(task, one.answer)(row)


def ask(one: OpenAITeacher, request: Any = None) -> Reply:
    async def main() -> Reply:
        await one.open()
        try:
            return await one.ask(request or one.compile(prompt_of(one), sample=0))
        finally:
            await one.close()

    return asyncio.run(main())


def run(one: OpenAITeacher, tmp_path: Any, *, task: Task = TASK, rows: Any = ROWS, **settings: Any) -> pl.DataFrame:
    """Labels rows by the engine, with a ledger that the test's runs share."""
    parts = [votes_frame([])]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        config = LabelingConfig(**{"concurrency": 2, **settings})
        engine = LabelingRun(task=task, teachers=[one], ledger=ledger, config=config)
        engine.run([pl.DataFrame(rows)], on_votes=parts.append)
    return pl.concat(parts).sort("row_id")


# Which lane


@pytest.mark.parametrize("lane", LANES)
def test_the_lane_that_a_server_has_is_found_and_gives_its_probabilities(make_lane_server, lane):
    server = make_lane_server(has=(LANES[lane][0],))
    one = settled(server)
    assert isinstance(one, ProbingTeacher)
    assert one.lane == lane
    reply = ask(one)
    completion = one.read(reply)
    assert completion == reply.completion
    got = answer_of_probs(completion, task=TASK)
    assert got.probs == pytest.approx(WEIGHTS, abs=1e-6)
    assert got.label == "exact"
    assert got.probs_source == ("decision" if lane.startswith("decision") else "logprob")
    assert not completion.probs_clipped
    assert completion.input_tokens


@pytest.mark.parametrize(
    ("has", "lane"),
    [
        (("openai", "next", "sampled"), "decision:openai"),
        (("sglang", "prompt"), "decision:sglang"),
        (("systemone", "next"), "decision:systemone"),
        (("next", "prompt", "sampled"), "logprobs:next"),
        (("prompt", "sampled"), "logprobs:prompt"),
        (("sampled",), "logprobs:sampled"),
        ((), "json:json_schema"),
    ],
)
def test_the_best_lane_is_taken(make_lane_server, has, lane):
    server = make_lane_server(has=has)
    assert settled(server).lane == lane


@pytest.mark.parametrize(
    "asked",
    [{"traces": True}, {"probs": "distribution"}, {"clauses": True}, {"samples_per_request": 3, "temperature": 1.0}],
)
def test_what_only_json_carries_means_json(make_lane_server, asked):
    one = settled(make_lane_server(has=("openai", "next")), **asked)
    assert one.lane == "json:json_schema"
    assert one.answer.form == "json"


def test_before_it_is_settled_it_asks_as_json_does(make_lane_server):
    one = teacher(make_lane_server(has=("openai",)))
    assert one.answer.form == "json"
    assert one.answer.clauses
    assert one.lane is None
    assert json.loads(one.compile(prompt_of(one), sample=0).body)["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("lane", ["decision", "logprobs"])
def test_a_lane_that_the_server_lacks_stops_the_teacher(make_lane_server, tmp_path, lane):
    with pytest.raises(errors.LaneMissingError, match=f"lane: {lane}: the server does not have it"):
        settled(make_lane_server(), lane=lane)
    votes = run(teacher(make_lane_server(), lane=lane), tmp_path)
    assert votes["outcome"].to_list() == ["unsent", "unsent"]
    assert set(votes["cause"]) == {"lane_missing"}


def test_without_probing_the_recipe_is_believed(make_lane_server):
    server = make_lane_server(has=("openai", "next"))
    assert settled(server, probe=False).lane == "json:json_schema"
    assert settled(server, probe=False, lane="logprobs").lane == "logprobs:sampled"
    assert settled(server, probe=False, lane="decision").lane == "decision:openai"
    assert server.requests == []


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"lane": "decision", "traces": True}, "nothing written"),
        ({"lane": "logprobs", "clauses": True}, "nothing written"),
        ({"samples_per_request": 4}, "all alike"),
        ({"structured": "auto", "probe": False}, "finds out by asking"),
    ],
)
def test_recipes_that_contradict_themselves(section, words):
    with pytest.raises(ValidationError, match=words):
        OpenAITeacherConfig(base_url="http://h/v1", model="m", family="f", **section)


def test_the_lane_is_kept_though_the_server_learns_a_better_one(make_lane_server, tmp_path):
    server = make_lane_server(has=("sampled",))
    run(teacher(server), tmp_path)
    server.has, asked = ("openai", "sampled"), len(server.requests)
    again = teacher(server)
    votes = run(again, tmp_path)
    assert again.lane == "logprobs:sampled"
    assert votes["from_ledger"].all()
    # One request sees whether the lane still bears, and no row is asked again.
    assert server.paths()[asked:] == ["/v1/chat/completions"]
    planned = teacher(server)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        settle_as_before(planned, ledger)
    assert planned.lane == "logprobs:sampled"


def test_a_ledger_serves_its_lane_while_the_server_is_down(make_lane_server, tmp_path):
    server = make_lane_server(has=("systemone",))
    first = run(teacher(server), tmp_path)
    server.stop()
    votes = run(teacher(server), tmp_path, rows=[*ROWS, {**ROWS[0], "row_id": "r3", "query": "tv"}], retries=0)
    assert votes["from_ledger"].to_list() == [True, True, False]
    assert votes["probs"].to_list()[:2] == first["probs"].to_list()
    # It is not stopped: the row that is new meets the connection like any.
    assert votes["outcome"].to_list() == ["labeled", "labeled", "failed"]
    assert votes["cause"][2] == "connection"


def test_a_lane_that_is_gone_is_replaced(make_lane_server, tmp_path):
    server = make_lane_server(has=("openai",))
    run(teacher(server), tmp_path)
    server.has = ()
    one = teacher(server)
    run(one, tmp_path)
    assert one.lane == "json:json_schema"


def test_a_server_that_is_not_ready_is_asked_again(make_lane_server):
    server = make_lane_server(has=("openai",))
    server.script("/v1/decisions", "429", "503")
    assert settled(server).lane == "decision:openai"


def test_a_server_that_was_never_reached_stops_the_teacher(make_lane_server, tmp_path):
    server = make_lane_server()
    server.stop()
    votes = run(teacher(server), tmp_path)
    assert votes["outcome"].to_list() == ["unsent", "unsent"]
    assert set(votes["cause"]) == {"connection"}


def test_a_wrong_key_is_not_taken_for_a_lane_that_is_missing(make_lane_server):
    for lane, has in (("decision", "/v1/decisions"), ("logprobs", "/tokenize")):
        server = make_lane_server(has=("openai", "next"))
        server.script(has, "401")
        with pytest.raises(errors.WrongKeyError):
            settled(server, lane=lane)
        server.script(has, *["403"] * 2)
        assert settled(server, structured="none").lane is not None


@pytest.mark.parametrize(("fault", "kind"), [("401", errors.WrongKeyError), ("402", errors.SpendLimitError)])
def test_a_refusal_of_the_account_stops_the_probe(make_lane_server, fault, kind):
    server = make_lane_server()
    server.script("/v1/chat/completions", *[fault] * 9)
    with pytest.raises(kind):
        settled(server)


# How the server is held to a schema


@pytest.mark.parametrize("structured", ["json_schema", "structured_outputs", "guided_json", "json_object"])
def test_a_constraint_that_is_ignored_stops_the_teacher(make_lane_server, tmp_path, structured):
    one = teacher(make_lane_server(honours=()), lane="json", structured=structured)
    votes = run(one, tmp_path)
    assert set(votes["cause"]) == {"constraint_ignored"}
    assert f"structured: {structured}" in votes["reason"][0]


@pytest.mark.parametrize(
    ("honours", "rejects", "found"),
    [
        (("json_schema", "json_object"), (), "json_schema"),
        (("structured_outputs",), (), "structured_outputs"),
        (("guided_json",), ("json_schema",), "guided_json"),
        (("json_object",), (), "json_object"),
    ],
)
def test_auto_takes_the_first_that_is_kept_to(make_lane_server, honours, rejects, found):
    one = settled(make_lane_server(honours=honours, rejects=rejects), lane="json", structured="auto")
    assert one.lane == f"json:{found}"
    field = {"json_schema": "response_format", "json_object": "response_format"}.get(found, found)
    assert field in json.loads(one.compile(prompt_of(one), sample=0).body)


def test_auto_refuses_a_server_that_keeps_to_nothing(make_lane_server):
    with pytest.raises(errors.ConstraintIgnoredError, match="structured: none"):
        settled(make_lane_server(honours=()), lane="json", structured="auto")
    assert settled(make_lane_server(honours=()), lane="json", structured="none").lane == "json:none"


def test_a_schema_that_is_refused_says_so(make_lane_server):
    with pytest.raises(errors.SchemaRejectedError):
        settled(make_lane_server(rejects=("json_schema",)), lane="json")


# What is sent and read


def test_several_rows_in_one_request(make_lane_server):
    for dialect in ("openai", "sglang", "systemone"):
        one = settled(make_lane_server(has=(dialect,)))
        assert one.packs
        assert one.compile_pack is not None
        prompts = [prompt_of(one, row) for row in ROWS]
        reply = ask(one, one.compile_pack(prompts, sample=0))
        parts = one.read(reply).parts
        assert parts is not None
        for part in parts:
            assert answer_of_probs(part, task=TASK).probs == pytest.approx(WEIGHTS)
        # A row is asked alike alone and with others: the question is the row, what is shared is the input.
        alone = json.loads(one.compile(prompts[0], sample=0).body)
        together = json.loads(one.compile_pack(prompts, sample=0).body)
        assert {**together, "questions": 0} == {**alone, "questions": 0}
        both, first = together["questions"], alone["questions"]
        assert (both["q0"], len(both)) == (first["q0"], 2) if dialect == "systemone" else both[:1] == first


def test_other_lanes_pack_in_their_own_way_or_not(make_lane_server):
    one = settled(make_lane_server(has=("next",)))
    assert not one.packs
    assert one.compile_pack is None


def test_a_question_carries_what_options_mean(make_lane_server):
    one = settled(make_lane_server(has=("openai",)))
    task = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=("query", "title"))
    sent = json.loads(one.compile(prompt_of(one, task=task), sample=0).body)
    assert sent["questions"][0]["choices"][0]["description"].startswith("the product meets everything")
    assert "max_tokens" not in sent
    assert "# Answer" not in sent["input"]


def test_a_price_counts_what_newer_endpoints_call_tokens(make_lane_server):
    price = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 5, "cached_input_usd_per_mtok": 1}
    one = settled(make_lane_server(has=("openai",)), price=price)
    # 50 fresh at 10 dollars a million, 20 cached at 1, 1 written at 5.
    assert ask(one).cost_usd == pytest.approx(525e-6)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("fault", ["429", "500", "html", "half_json", "cut", "drop", "nan"])
def test_faults_are_retried(make_lane_server, lane, fault):
    has, path = LANES[lane]
    server = make_lane_server(has=(has,))
    one = settled(server)
    server.script(path, fault)
    with pytest.raises(errors.TeacherError) as caught:
        ask(one)
    assert caught.value.retryable
    assert str(caught.value).startswith("teacher local (http://")
    assert answer_of_probs(one.read(ask(one)), task=TASK).probs == pytest.approx(WEIGHTS)


@pytest.mark.parametrize("dialect", ["openai", "sglang", "systemone"])
def test_options_that_are_missing_or_unknown(make_lane_server, dialect):
    has, path = LANES[f"decision:{dialect}"]
    server = make_lane_server(has=(has,))
    one = settled(server)
    server.script(path, "missing", "unknown")
    completion = one.read(ask(one))
    # "exact" (0.5) was left out: 0.2 + 0.2 + 0.1 remain.
    assert completion.probs_clipped
    assert answer_of_probs(completion, task=TASK).probs == pytest.approx([0, 0.4, 0.4, 0.2])
    with pytest.raises(errors.DistillError, match="something else"):
        answer_of_probs(one.read(ask(one)), task=TASK)


def test_a_token_that_was_not_scored_is_no_answer(make_lane_server):
    server = make_lane_server(has=("next",))
    one = settled(server)
    server.script("/v1/completions", "missing")
    with pytest.raises(errors.BadReplyError, match="use lane: json"):
        ask(one)


def test_a_refusal_is_one(make_lane_server):
    server = make_lane_server(has=("openai",))
    one = settled(server)
    server.script("/v1/decisions", "refusal")
    assert one.read(ask(one)).finish == "refused"


def test_votes_say_where_their_probabilities_come_from(make_lane_server, tmp_path):
    votes = run(teacher(make_lane_server(has=("next",))), tmp_path)
    assert votes["probs_source"].to_list() == ["logprob", "logprob"]
    assert votes["probs"][0].to_list() == pytest.approx(WEIGHTS)
    assert votes["probs_clipped"].to_list() == [False, False]


def test_labels_are_turned_into_tokens_once(make_lane_server):
    server = make_lane_server(has=("next",))
    one = settled(server)
    one._lane._labels.clear()
    server.requests.clear()
    ask(one)
    # The chat, an example of a chat, and each label left open and ended; then one request scores them all.
    assert server.paths() == ["/tokenize"] * (2 + 2 * len(TASK.labels)) + ["/v1/completions"]
    server.requests.clear()
    ask(one)
    assert server.paths() == ["/tokenize", "/v1/completions"]


def test_more_tokens_than_one_request_may_name(make_lane_server):
    # 150 labels that begin with characters of their own: 151 different tokens with the end of turn, and 128 a request.
    labels = tuple(chr(0x4E00 + number) for number in range(150))
    weights = {label: number + 1 for number, label in enumerate(labels)}
    server = make_lane_server(has=("next",), weights={**weights, "tool": 1, "plant": 1})
    one = settled(server, most_options=200)
    server.requests.clear()
    task = Task(labels=labels, inputs=("query", "title"))
    got = answer_of_probs(one.read(ask(one, one.compile(prompt_of(one, task=task), sample=0))), task=task)
    assert server.paths().count("/v1/completions") == 2
    assert got.probs == pytest.approx([(number + 1) / (150 * 151 / 2) for number in range(150)])


def test_samples_of_one_request_are_a_distribution(make_lane_server):
    one = settled(make_lane_server(), samples_per_request=4, temperature=0.7)
    request = one.compile(prompt_of(one), sample=0)
    assert json.loads(request.body)["n"] == 4
    completion = one.read(ask(one))
    assert len(completion.others) == 3
    texts = ['{"label":"exact"}', '{"label":"exact"}', '{"label":"substitute"}', "Hello"]
    completion = Completion(texts[0], others=tuple(texts[1:]))
    got = answer_of_samples(completion, task=TASK, answer=one.answer)
    # Two of the three that can be read, and one.
    assert got.probs == pytest.approx([2 / 3, 0, 1 / 3, 0])
    assert got.probs_source == "samples"


# Labels read off the way they were written


def p(value: float) -> float:
    return math.log(value)


def test_labels_that_share_their_first_token_are_told_apart():
    # sub|stitute was written; at the second token "stantial" had 0.25. exact had 0.3 at the first.
    steps = [
        Step("sub", p(0.6), [("exact", p(0.3))]),
        Step("stitute", p(0.75), [("stantial", p(0.25))]),
    ]
    got = label_masses(steps, ["exact", "substitute", "substantial"])
    assert got is not None
    assert got.probs == pytest.approx({"exact": 0.3, "substitute": 0.45, "substantial": 0.15})
    assert not got.clipped


def test_a_label_that_begins_another_gets_what_ended_there():
    steps = [Step("Exact", p(0.9), []), Step(" match", p(0.5), [("<|im_end|>", p(0.4))]), Step("<|im_end|>", 0.0, [])]
    got = label_masses(steps, ["exact", "exact match"])
    assert got is not None
    assert got.probs == pytest.approx({"exact": 0.36, "exact match": 0.45})


def test_what_is_shared_by_several_labels_and_what_is_missing_is_guessed():
    # "sub" was not followed, so that its 0.2 are shared; "irrelevant" is nowhere: the least that was reported is 0.2,
    # but no more than 0.1 is left.
    got = label_masses([Step("exact", p(0.7), [("sub", p(0.2))])], ["exact", "substitute", "substantial", "irrelevant"])
    assert got is not None
    assert got.clipped
    assert got.probs == pytest.approx({"exact": 0.7, "substitute": 0.1, "substantial": 0.1, "irrelevant": 0.1})


def test_a_label_that_is_written_on_after_counts():
    steps = [Step("exact", p(0.8), []), Step(".", p(0.9), []), Step(" Because", p(0.9), [])]
    got = label_masses(steps, ["exact", "irrelevant"])
    assert got is not None
    assert got.probs["exact"] == pytest.approx(0.72)


def test_prose_has_no_label():
    assert label_masses([Step("I", p(0.9), []), Step(" think", p(0.9), [])], ["exact", "irrelevant"]) is None


# Many labels, and images

MANY = Task(
    labels=tuple(f"label {letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"), inputs=("query", "title")
)
# Probabilities of the imitation's labels, in proportion: label a has 36 parts of 666, the last one.
PARTS = {label: float(36 - place) for place, label in enumerate(MANY.labels)}


def test_more_labels_than_the_endpoint_takes_are_asked_as_a_tree(make_lane_server, tmp_path):
    server = make_lane_server(has=("systemone",), weights={"group 1": 0.8, "group 2": 0.2, "label b": 0.9})
    one = teacher(server)
    votes = run(one, tmp_path, task=MANY, rows=ROWS[:1])
    asked = [body for path, body in server.requests if path == "/v1/systemone"][1:]  # the first one is the probe
    questions = [body["questions"]["q0"]["criteria"] for body in asked]
    assert [len(asked) for asked in questions] == [2, 18, 18]  # 36 labels, at most 26 a question
    got = dict(zip(MANY.labels, votes["probs"][0], strict=True))
    assert votes["label"].to_list() == ["label b"]
    assert got["label b"] == pytest.approx(0.8 * 0.9)
    # The other 17 of its group share 0.1; "label b" is not of the second group, whose 18 share 0.2.
    assert got["label a"] == pytest.approx(0.8 * 0.1 / 17)
    assert got["label 9"] == pytest.approx(0.2 / 18)
    assert sum(got.values()) == pytest.approx(1)
    again = run(teacher(server), tmp_path, task=MANY, rows=ROWS[:1])
    assert again["from_ledger"].all()
    assert again["probs"].to_list() == votes["probs"].to_list()


def test_a_tree_on_the_logprobs_lane(make_lane_server, tmp_path):
    weights = {"group 1": 3.0, "group 2": 1.0, **PARTS, "tool": 1.0, "plant": 1.0}
    votes = run(teacher(make_lane_server(has=("next",), weights=weights), most_options=20), tmp_path, task=MANY)
    first = sum(PARTS[label] for label in MANY.labels[:18])
    assert votes["probs"][0][0] == pytest.approx(0.75 * 36 / first)
    assert votes["probs"][0][35] == pytest.approx(0.25 * 1 / (666 - first))


def test_a_tree_on_the_json_lane(make_lane_server, tmp_path):
    server = make_lane_server(weights={"group 2": 1.0, "label z": 1.0})
    votes = run(teacher(server, lane="json", most_options=20), tmp_path, task=MANY, rows=ROWS[:1])
    assert votes["label"].to_list() == ["label z"]
    assert votes["probs"].to_list() == [None]
    enums = [
        body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        for _, body in server.requests[1:]
    ]
    assert enums == [["group 1", "group 2"], list(MANY.labels[18:])]


def test_images_go_along_and_change_the_key(make_lane_server, tmp_path):
    picture = tmp_path / "shoe.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\nfirst")
    task = Task(labels=TASK.labels, inputs=("query", "title"), images=("photo", "detail"))
    row = {**ROWS[0], "photo": str(picture), "detail": "https://shop.example/2.jpg"}
    one = teacher(make_lane_server(), lane="json")
    request = one.compile(prompt_of(one, row, task), sample=0)
    text, photo, detail = json.loads(request.body)["messages"][1]["content"]
    assert text["type"] == "text"
    assert photo["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert detail == {"type": "image_url", "image_url": {"url": "https://shop.example/2.jpg"}}
    picture.write_bytes(b"\x89PNG\r\n\x1a\nother")
    assert one.compile(prompt_of(one, row, task), sample=0).key != request.key
    bare = one.compile(prompt_of(one, {**row, "photo": "", "detail": None}, task), sample=0)
    assert isinstance(json.loads(bare.body)["messages"][1]["content"], str)


def test_an_image_that_cannot_be_read_fails_its_row_only(make_lane_server, tmp_path):
    task = Task(labels=TASK.labels, inputs=("query", "title"), images=("photo",))
    rows = [{**ROWS[0], "photo": str(tmp_path / "nowhere.png")}, {**ROWS[1], "photo": "https://shop.example/2.jpg"}]
    votes = run(teacher(make_lane_server(), lane="json"), tmp_path, task=task, rows=rows)
    assert votes["outcome"].to_list() == ["failed", "labeled"]
    assert "cannot be read" in votes["reason"][0]


def test_images_on_the_decision_lane(make_lane_server):
    task = Task(labels=TASK.labels, inputs=("query", "title"), images=("photo",))
    row = {**ROWS[0], "photo": "data:image/png;base64,iVBORw0KGgo="}
    where = {"openai": lambda body: body["input"][0]["content"][1]["image_url"]}
    where |= {"sglang": lambda body: body["images"][0]["url"], "systemone": lambda body: body["images"][0]}
    for dialect, found in where.items():
        one = settled(make_lane_server(has=(dialect,)))
        prompt = prompt_of(one, row, task)
        assert found(json.loads(one.compile(prompt, sample=0).body)) == row["photo"]
        assert one.compile_pack is not None
        with pytest.raises(errors.DataError, match="images"):
            one.compile_pack([prompt, prompt], sample=0)
