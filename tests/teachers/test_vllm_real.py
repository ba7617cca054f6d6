"""Real vLLM on the CPU with a tiny random model: servers that are started for a run, and the offline engine.

DISTILL_VLLM_PYTHON=/path/to/vllm-venv/bin/python pytest -m vllm tests/teachers/test_vllm_real.py
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.guideline import Guideline
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.vote import votes_frame
from distill.teachers.config import VLLMOfflineConfig, VLLMTeacherConfig
from distill.teachers.registry import build_teacher, build_teachers

ROOT = Path(__file__).parents[2]
RANK, ALPHA = 4, 16

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif("DISTILL_VLLM_PYTHON" not in os.environ, reason="DISTILL_VLLM_PYTHON names no python with vllm"),
]

TASK = Task(
    # One label begins another, and none is a single token of this tokenizer only by chance.
    labels=("exact", "substitute", "complement", "irrelevant", "exactly the brand"),
    inputs=("query", "title", "brand", "category", "attributes", "description"),
    guideline=Guideline.load(ROOT / "recipes" / "quickstart" / "guideline.md"),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A tiny chat model and a random adapter of it, which peft would have written so."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "tiny_llama.py", folder / "tiny"], check=True)
    config = json.loads((folder / "tiny" / "config.json").read_text())
    size = config["hidden_size"]
    torch.manual_seed(5)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        place = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{place}.lora_A.weight"] = torch.randn(RANK, size) * 0.1
        weights[f"{place}.lora_B.weight"] = torch.randn(size, RANK) * 0.1
    (folder / "shop").mkdir()
    save_file(weights, folder / "shop" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA}
    settings |= {"target_modules": ["q_proj"], "bias": "none", "base_model_name_or_path": str(folder / "tiny")}
    (folder / "shop" / "adapter_config.json").write_text(json.dumps(settings))
    return {"tiny": folder / "tiny", "shop": folder / "shop"}


def section(models, tmp_path, **settings):
    variables = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return {
        "model": str(models["tiny"]),
        "lora": {"shop": str(models["shop"])},
        "family": "llama",
        "dtype": "float32",
        "max_model_len": 4096,
        "args": {"enforce_eager": True, "block_size": 32},
        "env": variables,
        "log": tmp_path / "vllm.log",
        **settings,
    }


def rows(count):
    return pl.read_parquet(ROOT / "recipes" / "quickstart" / "pairs.parquet").head(count)


def reference(models, prompts, *, adapter):
    """Log-probability of each label and the end of the turn, by transformers in float32, one sequence at a time."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(models["tiny"])
    model = AutoModelForCausalLM.from_pretrained(models["tiny"], dtype=torch.float32).eval()
    if adapter:
        weights = load_file(models["shop"] / "adapter_model.safetensors")
        for number, layer in enumerate(model.model.layers):
            place = f"base_model.model.model.layers.{number}.self_attn.q_proj"
            change = weights[f"{place}.lora_B.weight"] @ weights[f"{place}.lora_A.weight"]
            layer.self_attn.q_proj.weight.data += ALPHA / RANK * change
    found = []
    for prompt in prompts:
        turns = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start = tokenizer.encode(text, add_special_tokens=False)
        logs = {}
        for label in TASK.labels:
            tail = [*tokenizer.encode(label, add_special_tokens=False), tokenizer.convert_tokens_to_ids("<|im_end|>")]
            with torch.no_grad():
                logits = model(torch.tensor([start + tail])).logits[0].float()
            at = torch.log_softmax(logits, dim=-1)[len(start) - 1 : -1]
            logs[label] = float(sum(at[place, token] for place, token in enumerate(tail)))
        found.append(logs)
    return found


@pytest.mark.parametrize("adapter", [None, "shop"])
def test_label_probabilities_are_those_of_transformers_in_float32(models, tmp_path, adapter):
    import torch

    teacher = build_teacher("batch", VLLMOfflineConfig(**section(models, tmp_path, adapter=adapter)))
    prompter = Prompter(TASK, teacher.answer)
    prompts = [prompter(row) for row in rows(6).iter_rows(named=True)]
    requests = [teacher.compile(prompt, sample=0) for prompt in prompts]

    async def ask():
        await teacher.open()
        try:
            first = await asyncio.gather(*map(teacher.ask, requests))
            # Now the prefix cache holds the whole prompts, labels and all.
            return first, await asyncio.gather(*map(teacher.ask, requests))
        finally:
            await teacher.close()

    first, again = asyncio.run(ask())
    expected = reference(models, prompts, adapter=adapter)
    for replies in (first, again):
        for reply, logs in zip(replies, expected, strict=True):
            assert json.loads(reply.body)["logprobs"] == pytest.approx(logs, abs=1e-3)
            probs = torch.softmax(torch.tensor(list(logs.values())), dim=0).tolist()
            assert teacher.read(reply).probs == pytest.approx(dict(zip(logs, probs, strict=True)), abs=1e-3)


def test_offline_answers_fit_the_schema(models, tmp_path):
    settings = {"lane": "json", "samples": 2, "temperature": 1.0, "probs": "distribution", "max_tokens": 200}
    teacher = build_teacher("batch", VLLMOfflineConfig(**section(models, tmp_path, **settings)))
    votes = label([teacher], tmp_path, 10)
    assert votes["outcome"].to_list() == ["labeled"] * 10
    assert set(votes["probs_source"]) == {"samples"}


def label(teachers, folder, count, **settings):
    votes = [votes_frame([])]
    with Ledger(folder / "ledger.sqlite") as ledger:
        run = LabelingRun(task=TASK, teachers=teachers, ledger=ledger, config=LabelingConfig(**settings))
        run.run([rows(count)], on_votes=votes.append)
    return pl.concat(votes).sort("teacher", "row_id")


def test_a_run_outlives_its_server(models, tmp_path):
    """Two teachers, the model and an adapter of it, on one server that is killed once while it answers."""
    configs = {
        "base": VLLMTeacherConfig(**section(models, tmp_path, max_tokens=200)),
        "tuned": VLLMTeacherConfig(**section(models, tmp_path, max_tokens=200, adapter="shop")),
    }
    teachers = build_teachers(configs)
    fleet = teachers[0].fleet
    pids: list[int] = []

    def kill_when_it_answers():
        while not (fleet.servers and fleet.servers[0].up):
            if over.wait(0.2):
                return
        if not over.wait(5) and (pid := fleet.servers[0].pid) is not None:
            pids.append(pid)
            os.kill(pid, signal.SIGKILL)

    over = threading.Event()
    killer = threading.Thread(target=kill_when_it_answers)
    killer.start()
    try:
        votes = label(teachers, tmp_path, 40, concurrency=2)
    finally:
        over.set()
        killer.join()
    assert len(pids) == 1, "the run was over before its server could be killed"
    assert votes["outcome"].to_list() == ["labeled"] * 80
    said = (tmp_path / "vllm.log").read_text()
    assert "ended with signal SIGKILL; starting it again" in said
    by_teacher = {name: table["label"].to_list() for (name,), table in votes.group_by("teacher")}
    assert by_teacher["base"] != by_teacher["tuned"]
    assert not Path(f"/proc/{pids[0]}").exists()
