"""Sections of vLLM teachers, the command that they come to, and the endpoint by which the ledger knows them."""

from __future__ import annotations

import json
import shutil

import pytest
from pydantic import TypeAdapter, ValidationError

from distill.labeling.teacher import AnswerFormat
from distill.teachers.config import TeacherConfig, VLLMOfflineConfig, VLLMTeacherConfig
from distill.teachers.vllm_command import environment, server_command, visible_devices
from distill.teachers.vllm_identity import endpoint_of_engine, folder_hash

ADAPTER: TypeAdapter[TeacherConfig] = TypeAdapter(TeacherConfig)
SERVED = {"type": "vllm", "model": "org/m", "family": "f"}
OFFLINE = {"type": "vllm_offline", "model": "org/m", "family": "f"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": "shop"}, "adapter: got 'shop', lora has none"),
        ({"args": {"--max-num-seqs": 4}}, "without dashes"),
        ({"args": {"dtype": "auto"}}, "has a setting of its own: dtype"),
        ({"args": {"port": 1}}, "may not set port"),
        ({"args": {"api_key": "hunter2"}}, "may not set api_key"),
        ({"env": {"HF_TOKEN": "hunter2"}}, "export it instead"),
        ({"env": {"A=B": "1"}}, "no name of a variable"),
        ({"servers": 0}, "auto, or 1 or more"),
        ({"extra_body": {"n": 2}}, "may not set n"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"base_url": "http://h/v1"}, "base_url"),
        ({"budget_usd": 5}, "give price"),
    ],
)
def test_wrong_sections_of_servers(changes, words):
    with pytest.raises(ValidationError) as caught:
        VLLMTeacherConfig(**{**SERVED, **changes})
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lane": "logprobs", "traces": True}, "writes no text"),
        ({"lane": "logprobs", "probs": "confidence"}, "writes no text"),
        ({"samples": 3}, "all alike"),
        ({"servers": 2}, "servers"),
    ],
)
def test_wrong_sections_of_the_offline_engine(changes, words):
    with pytest.raises(ValidationError, match=words):
        VLLMOfflineConfig(**{**OFFLINE, **changes})


def test_which_lane_auto_comes_to():
    assert VLLMOfflineConfig(**OFFLINE).answer == AnswerFormat(clauses=False, form="label")
    for json_lane in ({"traces": True}, {"probs": "distribution"}, {"samples": 2, "temperature": 1}, {"lane": "json"}):
        assert VLLMOfflineConfig(**OFFLINE, **json_lane).answer.form == "json"


def test_type_decides():
    assert isinstance(ADAPTER.validate_python(SERVED), VLLMTeacherConfig)
    assert isinstance(ADAPTER.validate_python(OFFLINE), VLLMOfflineConfig)
    assert VLLMTeacherConfig(**SERVED, env={"OMP_NUM_THREADS": 1}).env == {"OMP_NUM_THREADS": "1"}


def test_the_command(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 20}))
    config = VLLMTeacherConfig(
        **SERVED,
        python="/opt/python",
        dtype="float32",
        revision="v2",
        tensor_parallel=2,
        lora={"shop": str(tmp_path / "adapter")},
        args={"enforce_eager": True, "enable_prefix_caching": False, "block_size": 32, "hf_overrides": {"a": 1}},
    )
    command = server_command(config, port=7, names=["m", "mark"])
    assert command[:3] == ["/opt/python", "-m", "vllm.entrypoints.openai.api_server"]
    said = " ".join(command)
    for words in (
        "--model org/m --dtype float32 --revision v2 --tensor-parallel-size 2",
        '--structured-outputs-config {"backend": "xgrammar", "disable_any_whitespace": true}',
        "--enable-lora --max-loras 1 --max-lora-rank 32",  # the least that vLLM knows and that holds 20
        '--enforce-eager --no-enable-prefix-caching --block-size 32 --hf-overrides {"a": 1}',
        "--served-model-name m mark --host 127.0.0.1 --port 7",
        f"--lora-modules shop={tmp_path / 'adapter'}",
    ):
        assert words in said
    # What the recipe says wins over our own.
    other = VLLMTeacherConfig(**SERVED, args={"structured_outputs_config": {"backend": "guidance"}})
    assert '{"backend": "guidance"}' in server_command(other, port=7, names=["m"])


def test_the_environment(monkeypatch):
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = VLLMTeacherConfig(**SERVED, env={"A": "b"})
    found = environment(config, devices=["2", "3"])
    assert (found["A"], found["CUDA_VISIBLE_DEVICES"], found["PATH"]) == ("b", "2,3", environment(config)["PATH"])
    assert found["DO_NOT_TRACK"] == "0"  # a user's own
    assert found["VLLM_NO_USAGE_STATS"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in environment(config)


@pytest.mark.parametrize(
    ("value", "devices"), [("0,2", ["0", "2"]), ("GPU-5f, 1", ["GPU-5f", "1"]), ("", []), ("-1", [])]
)
def test_which_gpus_may_be_seen(monkeypatch, value, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_devices(VLLMTeacherConfig(**SERVED)) == devices
    assert visible_devices(VLLMTeacherConfig(**SERVED, env={"CUDA_VISIBLE_DEVICES": "7"})) == ["7"]


def endpoint(**changes):
    return endpoint_of_engine(VLLMTeacherConfig(**{**SERVED, **changes}), scheme="vllm")


def test_the_endpoint_holds_what_can_change_an_answer_and_nothing_else():
    plain = endpoint()
    assert plain == "vllm:org/m?dtype=auto"
    loras = {"a": "org/a", "b": "org/b"}
    changing = [
        {"revision": "v2"},
        {"dtype": "float32"},
        {"quantization": "fp8"},
        {"lora": loras, "adapter": "a"},
        {"lora": loras, "adapter": "b"},
        {"args": {"rope_scaling": {"factor": 2}}},
        {"args": {"chat_template": "t.jinja"}},
    ]
    assert len({plain, *(endpoint(**change) for change in changing)}) == len(changing) + 1
    for same in (
        {"servers": 4, "tensor_parallel": 2, "gpu_memory_utilization": 0.5, "max_model_len": 100},
        {"args": {"enforce_eager": True, "max_num_seqs": 8}},
        {"env": {"A": "b"}, "python": "/p", "timeout_s": 1, "restarts": 0},
        {"lora": loras},
    ):
        assert endpoint(**same) == plain
    assert endpoint(endpoint="mine", dtype="float32") == "mine"


def test_a_folder_is_known_by_what_is_in_it_and_not_by_where_it_lies(tmp_path):
    one = tmp_path / "here" / "shop"
    one.mkdir(parents=True)
    (one / "config.json").write_text("{}")
    weights = bytearray(3_000_000)  # more than the 64 pieces of 16 KiB that are read
    (one / "model.safetensors").write_bytes(weights)
    first = folder_hash(one)
    assert endpoint(model=str(one)) == f"vllm:shop#{first}?dtype=auto"
    assert VLLMTeacherConfig(**{**SERVED, "model": str(one)}).served_name == "shop"
    other = tmp_path / "there" / "shop"
    shutil.copytree(one, other)
    (other / "README.md").write_text("a card")
    (other / "checkpoint-5").mkdir()
    assert endpoint(model=str(other)) == endpoint(model=str(one))
    weights[-1] = 1
    (other / "model.safetensors").write_bytes(weights)
    assert folder_hash(other) != first
    (one / "config.json").write_text('{"a": 1}')
    assert folder_hash(one) != first
