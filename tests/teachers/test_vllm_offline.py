"""The offline engine's worker, with a stand-in for vLLM whose probabilities can be told by hand."""

from __future__ import annotations

import asyncio
import json
import math

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.errors import BadReplyError, LocalServerError, MissingDependencyError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Teacher
from distill.labeling.vote import votes_frame
from distill.teachers.config import VLLMOfflineConfig
from distill.teachers.registry import build_teacher

TASK = Task(labels=("ab", "abc", "d"), inputs=("title",))


def label(teacher, folder, titles, **settings):
    table = pl.DataFrame({"row_id": [f"r{n}" for n in range(len(titles))], "title": titles})
    votes = [votes_frame([])]
    with Ledger(folder / "ledger.sqlite") as ledger:
        run = LabelingRun(task=TASK, teachers=[teacher], ledger=ledger, config=LabelingConfig(**settings))
        result = run.run([table], on_votes=votes.append)
    return pl.concat(votes).sort("row_id"), result


def teacher_of(section):
    return build_teacher("batch", VLLMOfflineConfig(**section))


@pytest.mark.parametrize("adapter", [{}, {"lora": {"shop": "org/shop"}, "adapter": "shop"}])
def test_label_probabilities_are_of_the_whole_label_and_the_end_of_the_turn(fake_vllm, tmp_path, adapter):
    teacher = teacher_of(fake_vllm.section(**adapter))
    assert isinstance(teacher, Teacher)
    assert (teacher.answer.form, teacher.answer.trace) == ("label", False)
    votes, result = label(teacher, tmp_path, [f"item {n}" for n in range(20)])
    assert votes["outcome"].to_list() == ["labeled"] * 20
    # A character's is -1 - place / 10 (a: -1, b: -1.1, c: -1.2, d: -1.3), that of the turn's end -0.5.
    logs = [-1 - 1.1 - 0.5, -1 - 1.1 - 1.2 - 0.5, -1.3 - 0.5]
    total = sum(map(math.exp, logs))
    assert votes["probs"].to_list()[0] == pytest.approx([math.exp(log) / total for log in logs])
    assert set(votes["label"]) == {"d"}
    assert set(votes["probs_source"]) == {"logprob"}
    assert result.teachers["batch"].requests_sent == 20
    again = teacher_of(fake_vllm.section(**adapter))
    assert label(again, tmp_path, ["item 3"])[1].teachers["batch"].requests_sent == 0


def test_answers_in_json_with_several_samples_and_an_adapter(fake_vllm, tmp_path):
    section = fake_vllm.section(lane="json", samples=3, temperature=0.7, seed=5, clauses=False)
    teacher = teacher_of(section)
    task = Task(labels=("exact", "substitute"), inputs=("title",))
    prompt = Prompter(task, teacher.answer)({"row_id": "r", "title": "t"})

    async def ask(teacher):
        await teacher.open()
        try:
            return teacher.read(await teacher.ask(teacher.compile(prompt, sample=0)))
        finally:
            await teacher.close()

    completion = asyncio.run(ask(teacher))
    assert completion.text == '{"label": "substitute"}'
    assert completion.others == ('{"label": "substitute"}',) * 2
    assert (completion.finish, completion.output_tokens) == ("stop", 6)
    item = json.loads(teacher.compile(prompt, sample=0).body)
    assert item["schema"] == prompt.schema
    assert (item["sampling"]["n"], item["sampling"]["temperature"]) == (3, 0.7)
    tuned = teacher_of({**section, "lora": {"shop": "org/shop"}, "adapter": "shop"})
    assert asyncio.run(ask(tuned)).text == '{"label": "exact"}'
    assert tuned.endpoint == "vllm-offline:org/tiny+shop=org/shop?dtype=auto"


def test_a_row_that_is_too_long_fails_alone(fake_vllm, tmp_path):
    teacher = teacher_of(fake_vllm.section(max_model_len=3000))
    votes, _ = label(teacher, tmp_path, ["short", "long " * 1000, "brief"])
    assert votes["outcome"].to_list() == ["labeled", "failed", "labeled"]
    assert "the model holds 3000" in votes["reason"][1]
    assert votes["cause"][1] == "request_rejected"


def test_a_row_that_kills_the_worker_fails_alone(fake_vllm, tmp_path):
    titles = ["one", "two", "poisonous", "three"]
    section = fake_vllm.section(env={"FAKE_VLLM_POISON": "poisonous"}, restarts=9)
    votes, _ = label(teacher_of(section), tmp_path, titles, retries=1)
    assert votes["outcome"].to_list() == ["labeled", "labeled", "failed", "labeled"]
    assert "the vLLM worker died: it ended with signal SIGKILL" in votes["reason"][2]


def test_a_worker_that_keeps_dying_stops_the_teacher(fake_vllm, tmp_path):
    section = fake_vllm.section(env={"FAKE_VLLM_POISON": "item"}, restarts=1)
    votes, result = label(teacher_of(section), tmp_path, ["item 1", "item 2"])
    assert set(votes["outcome"]) <= {"failed", "unsent"}
    assert "died 2 times in a row" in result.teachers["batch"].stopped


def test_what_keeps_the_engine_from_starting_is_told(fake_vllm):
    teacher = teacher_of(fake_vllm.section(env={"FAKE_VLLM_FAIL": "no such architecture"}))
    with pytest.raises(LocalServerError, match="RuntimeError: no such architecture"):
        asyncio.run(teacher.open())
    section = fake_vllm.section()
    with pytest.raises(MissingDependencyError):
        asyncio.run(teacher_of({**section, "env": {}}).open())


def test_a_reply_that_is_none(fake_vllm):
    with pytest.raises(BadReplyError, match="expected a result of the worker"):
        teacher_of(fake_vllm.section()).read(Reply('{"texts": []}'))
