"""The OpenAI teacher against a real vLLM server with a tiny random model: the serving path, not quality.

DISTILL_VLLM_PYTHON=/path/to/vllm-venv/bin/python pytest -m vllm tests/teachers/test_openai_vllm.py
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import distill
from distill.labeling import errors
from distill.labeling.answers.parsing import Answer, parse_answer
from distill.labeling.guideline import Guideline
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Completion
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("DISTILL_VLLM_PYTHON")
START_TIMEOUT_S = 300.0

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="DISTILL_VLLM_PYTHON names no python that has vllm"),
]

TASK = Task(
    labels=("exact", "substitute", "complement", "irrelevant"),
    inputs=("query", "title", "brand", "category", "attributes", "description"),
    positive="exact",
    ordered=True,
    guideline=Guideline.load(ROOT / "recipes" / "quickstart" / "guideline.md"),
)


@pytest.fixture(scope="module")
def base_url(tmp_path_factory) -> Iterator[str]:
    assert PYTHON is not None
    folder = tmp_path_factory.mktemp("vllm")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "tiny_llama.py", folder / "tiny"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "tiny")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--block-size", "32", "--max-model-len", "8192", "--structured-outputs-config"]
    command += ['{"backend":"xgrammar","disable_any_whitespace":true}']
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    log = folder / "vllm.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")


def ask_rows(base_url: str, *, rows: int, **section) -> list[tuple[Completion, Answer]]:
    settings = {"base_url": base_url, "model": "tiny", "family": "llama", "max_concurrency": 16, **section}
    teacher = OpenAITeacher("local", OpenAITeacherConfig(**settings))
    prompter = Prompter(TASK, teacher.answer)
    table = pl.read_parquet(ROOT / "recipes" / "quickstart" / "pairs.parquet").head(rows)

    async def one(row: dict) -> tuple[Completion, Answer]:
        reply = await teacher.ask(teacher.compile(prompter(row), sample=0))
        completion = teacher.read(reply)
        return completion, parse_answer(completion.text, task=TASK, answer=teacher.answer)

    async def main() -> list[tuple[Completion, Answer]]:
        await teacher.open()
        try:
            return await asyncio.gather(*map(one, table.to_dicts()))
        finally:
            await teacher.close()

    return asyncio.run(main())


@pytest.mark.parametrize("probs", ["none", "confidence", "distribution"])
def test_every_answer_fits_the_schema(base_url, probs):
    answered = ask_rows(base_url, rows=50, probs=probs, max_tokens=200)
    assert len(answered) == 50
    for completion, answer in answered:
        assert completion.finish == "stop"
        assert completion.input_tokens > 1000  # the guideline alone is some 600 tokens of this tokenizer
        assert 5 < completion.output_tokens <= 200
        assert answer.label in TASK.labels
        assert len(answer.clauses) <= 4
        assert not answer.unknown_clauses
        if probs == "confidence":
            assert sum(answer.probs) == pytest.approx(1)
    assert len({answer.label for _, answer in answered}) > 1


def test_several_rows_in_one_request_are_each_answered(base_url, tmp_path):
    teacher = {
        "type": "openai",
        "base_url": base_url,
        "model": "tiny",
        "family": "llama",
        "lane": "json",
        "max_concurrency": 4,
    }
    rows = pl.read_parquet(ROOT / "recipes" / "quickstart" / "pairs.parquet").sort("query").head(40)
    table = distill.read_rows(rows, TASK, data={"id": "row_id", "group": "query", "split": {"train": 1.0}})
    told = []
    settings = {"config": {"rows_per_request": 8}, "ledger": tmp_path / "ledger.sqlite", "on_facts": told.append}
    votes = distill.label(table, TASK, {"local": {**teacher, "max_tokens": 200}}, **settings)
    assert (votes["outcome"] == "labeled").all() and (votes["asked_with"] > 1).any()
    # Held to the schema, even a random model answers each item, and is asked nothing twice.
    tally, packing = told[0].result.teachers["local"], told[0].packing["local"]
    assert (tally.reasks, tally.asked_alone) == (0, 0)
    assert packing.saving["tokens"] > 1.5  # the guideline is read once for several rows
    again = distill.label(table, TASK, {"local": {**teacher, "max_tokens": 200}}, **settings)
    assert told[1].result.requests_sent == 0 and again["label"].equals(votes["label"])


def test_same_seed_same_answers(base_url):
    # One at a time: vLLM 0.32 on CPU dies of a seeded request whose prompt is read in several chunks ("CPU Generator
    # does not use offset"), which happens where several prompts share a step.
    section = {"clauses": False, "temperature": 1.0, "max_concurrency": 1}
    first, again = (ask_rows(base_url, rows=20, seed=3, **section) for _ in range(2))
    assert [answer.label for _, answer in first] == [answer.label for _, answer in again]
    other = ask_rows(base_url, rows=20, seed=4, **section)
    assert [answer.label for _, answer in first] != [answer.label for _, answer in other]


@pytest.mark.parametrize(
    ("section", "kind", "words"),
    [
        ({"model": "gpt-nope"}, errors.UnknownModelError, "it serves tiny"),
        ({"max_tokens": 9000}, errors.RequestRejectedError, "max_tokens"),
        ({"extra_body": {"temperature": "warm"}}, errors.RequestRejectedError, "temperature"),
        ({"timeout_s": 0.001}, errors.TeacherTimeoutError, "within 0.001 s"),
    ],
)
def test_what_the_server_refuses(base_url, section, kind, words):
    with pytest.raises(errors.TeacherError, match=words) as caught:
        ask_rows(base_url, rows=1, **section)
    assert type(caught.value) is kind


def test_wrong_path(base_url):
    with pytest.raises(errors.UnknownModelError, match="usually ends in /v1"):
        ask_rows(base_url.removesuffix("/v1"), rows=1)
