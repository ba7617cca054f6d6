"""The lanes that give probabilities, against a real vLLM server and transformers on the same random model.

DISTILL_VLLM_PYTHON=/path/to/vllm-venv/bin/python pytest -m vllm tests/teachers/test_openai_lanes_vllm.py

The model is a tiny Qwen3, since that is an architecture for which vLLM serves ``/v1/systemone``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill.labeling import errors
from distill.labeling.answers.distributions import answer_of_probs
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Capabilities, Completion, Prompt
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

# Labels of several tokens, some of which begin alike, and one that begins another.
TASK = Task(
    labels=("exact", "exact match", "substitute", "substantial part", "complement", "irrelevant"),
    inputs=("query", "title"),
    positive="exact",
)
ROWS = [
    {"row_id": "r1", "query": "red shoe", "title": "Crimson sneaker"},
    {"row_id": "r2", "query": "무선 이어폰", "title": "Wireless earbuds, black"},
    {"row_id": "r3", "query": "usb c cable 2m", "title": "USB-C to USB-C cable, 2 m, braided"},
]


class Served(NamedTuple):
    base_url: str
    folder: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    assert PYTHON is not None
    folder = tmp_path_factory.mktemp("vllm")
    make_qwen(folder / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "tiny")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--block-size", "32", "--max-model-len", "4096", "--structured-outputs-config"]
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
            yield Served(f"http://127.0.0.1:{port}/v1", folder / "tiny")
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def make_qwen(folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    spec = importlib.util.spec_from_file_location("tiny_llama", ROOT / "benchmarks" / "tiny_llama.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    tokenizer = tiny.train_tokenizer(4096)
    tokenizer.add_tokens(["yes", "no"])  # vLLM wants every label of its questions to be one token
    torch.manual_seed(7)
    # Weights three times as wide as usual: the answer then hangs on the row, and no label has all the mass.
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.06,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def reference(served):
    """Log-probabilities of a reply's tokens after a chat, by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(served.folder)
    model = AutoModelForCausalLM.from_pretrained(served.folder, dtype=torch.float32).eval()

    def logprobs(messages: list[dict[str, str]], reply: str, *, ended: bool) -> float:
        start = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        tokens = tokenizer.encode(reply, add_special_tokens=False) + [tokenizer.eos_token_id] * ended
        with torch.no_grad():
            logits = model(torch.tensor([[*start, *tokens]])).logits[0].float()
        scores = logits.log_softmax(-1)
        return sum(scores[len(start) - 1 + place, token].item() for place, token in enumerate(tokens))

    return logprobs


def teacher(served: Served, **section: Any) -> OpenAITeacher:
    settings = {"base_url": served.base_url, "model": "tiny", "family": "qwen", **section}
    return OpenAITeacher("local", OpenAITeacherConfig(**settings))


def probed(one: OpenAITeacher) -> tuple[Capabilities, str]:
    async def main() -> tuple[Capabilities, str]:
        await one.open()
        try:
            found = await one.probe()
            return found, one.settle(found)
        finally:
            await one.close()

    return asyncio.run(main())


def ask(one: OpenAITeacher, requests: list[Any]) -> list[Completion]:
    async def main() -> list[Completion]:
        await one.open()
        try:
            replies = await asyncio.gather(*map(one.ask, requests))
        finally:
            await one.close()
        return [one.read(reply) for reply in replies]

    return asyncio.run(main())


def prompts_of(one: OpenAITeacher) -> list[Prompt]:
    return [Prompter(TASK, one.answer)(row) for row in ROWS]


def shares(totals: list[float]) -> list[float]:
    import torch

    return torch.tensor(totals, dtype=torch.float64).softmax(0).tolist()


@pytest.mark.parametrize("method", ["next", "prompt"])
def test_labels_have_the_probabilities_of_transformers(served, reference, method):
    one = teacher(served, lane="logprobs")
    one.settle(Capabilities(logprobs=(method,)))
    prompts = prompts_of(one)
    completions = ask(one, [one.compile(prompt, sample=0) for prompt in prompts])
    seen = set()
    for prompt, completion in zip(prompts, completions, strict=True):
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        expected = shares([reference(messages, label, ended=True) for label in TASK.labels])
        got = answer_of_probs(completion, task=TASK)
        assert got.probs == pytest.approx(expected, abs=1e-3)
        assert max(expected) < 0.99, "the model is too sure to tell anything"
        assert got.probs_source == "logprob"
        assert not completion.probs_clipped
        seen.add(tuple(round(value, 3) for value in expected))
    assert len(seen) == len(ROWS), "the rows are all alike to the model"


def test_the_best_lane_is_found(served):
    assert probed(teacher(served))[1] == "decision:systemone"
    assert probed(teacher(served, lane="logprobs"))[1] == "logprobs:next"
    assert probed(teacher(served, clauses=True))[1] == "json:json_schema"
    assert probed(teacher(served, lane="json", structured="auto"))[1] == "json:json_schema"
    assert probed(teacher(served, lane="json", structured="structured_outputs"))[1] == "json:structured_outputs"


def test_a_constraint_that_is_ignored_is_noticed(served):
    with pytest.raises(errors.ConstraintIgnoredError, match="does not keep to it"):
        probed(teacher(served, lane="json", structured="guided_json"))


def test_decisions_are_those_of_transformers_alone_and_together(served, reference):
    one = teacher(served, lane="decision")
    probed(one)
    prompts = prompts_of(one)
    assert one.compile_pack is not None
    alone = ask(one, [one.compile(prompt, sample=0) for prompt in prompts])
    (together,) = ask(one, [one.compile_pack(prompts, sample=0)])
    assert together.parts is not None
    assert len(together.parts) == len(prompts)
    options = "\n".join(f"{letter}: {label}" for letter, label in zip("ABCDEF", TASK.labels, strict=True))
    for prompt, single, part in zip(prompts, alone, together.parts, strict=True):
        content = f"{prompt.system}\n\nQuestion: {prompt.user}\n{options}\nAnswer with the letter of one option only."
        letters = [reference([{"role": "user", "content": content}], letter, ended=False) for letter in "ABCDEF"]
        assert answer_of_probs(single, task=TASK).probs == pytest.approx(shares(letters), abs=1e-3)
        assert part.probs == pytest.approx(single.probs, abs=1e-3)
        assert single.probs_source == part.probs_source == "decision"
        assert single.output_tokens is not None
    assert together.input_tokens == sum(single.input_tokens or 0 for single in alone)


def test_samples_of_one_request(served):
    one = teacher(served, samples_per_request=5, temperature=1.0, clauses=False)
    assert probed(one)[1] == "json:json_schema"
    (completion,) = ask(one, [one.compile(prompts_of(one)[0], sample=0)])
    assert len(completion.others) == 4
    assert len({completion.text, *completion.others}) > 1
