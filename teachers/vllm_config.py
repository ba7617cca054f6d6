"""The sections of models that vLLM runs on this machine: behind servers that we start, or as an offline engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distill.labeling.teacher import AnswerFormat
from distill.teachers.lane_config import LaneConfig
from distill.teachers.model_config import ModelTeacherConfig

_FLAG = re.compile(r"[a-z][a-z0-9_]*")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$", re.IGNORECASE)
# What has a setting of its own, or is decided for every server anew.
_OWN_SETTINGS = {
    "model": "model",
    "revision": "revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "max_model_len": "max_model_len",
    "tensor_parallel_size": "tensor_parallel",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "lora_modules": "lora",
    "enable_lora": "lora",
}
_DECIDED_HERE = ("host", "port", "uds", "served_model_name", "api_key", "config", "data_parallel_size")


class VLLMEngineConfig(ModelTeacherConfig):
    """What a server and the offline engine have in common: the model, how it is loaded, who has vLLM."""

    model: str = Field(min_length=1, description="a folder of a model, or its name on the Hugging Face hub")
    revision: str | None = Field(None, min_length=1, description="branch, tag or commit of a model on the hub")
    lora: dict[str, str] = Field(
        default_factory=dict, description="LoRA adapters by name: {shop: folder or name on the hub}"
    )
    adapter: str | None = Field(None, description="the adapter of `lora` that answers; without it the model itself")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of weights and activations; float32 where label probabilities are to be exact"
    )
    quantization: str | None = Field(None, min_length=1, description="how weights are quantised: awq, gptq, fp8, …")
    max_model_len: int | None = Field(
        None, ge=1, description="most tokens of a prompt and its answer together; the model's own limit by default"
    )
    tensor_parallel: int = Field(1, ge=1, description="how many GPUs one copy of the model is spread over")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of a GPU's memory that vLLM takes; its own default where not given"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="further engine flags of vLLM, with underscores: {enforce_eager: true}"
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="variables set on top of this process's environment, which it gets as it is"
    )
    python: str | None = Field(
        None, min_length=1, description="the interpreter that has vllm; by default $DISTILL_VLLM_PYTHON, else this one"
    )
    endpoint: str | None = Field(
        None,
        min_length=1,
        description="who answers, as the ledger knows it; by default from the model's name or contents, adapter, dtype "
        "and every flag that can change an answer",
    )
    log: Path | None = Field(
        None, description="file that it writes to; .distill/logs/vllm-<teacher>-<number>.log by default"
    )
    start_timeout_s: float = Field(
        1200.0, gt=0, description="seconds until it is up, loading and a first download included"
    )
    restarts: int = Field(
        5, ge=0, description="how often in a row it is started again after it died, before the teacher is given up"
    )

    @property
    def served_name(self) -> str:
        """What requests call the model: the adapter, the folder's last part, or the name on the hub."""
        if self.adapter is not None:
            return self.adapter
        path = Path(self.model)
        return path.resolve().name if path.is_dir() else self.model

    @field_validator("env", mode="before")
    @classmethod
    def _env_is_text(cls, value: object) -> object:
        """YAML reads ``OMP_NUM_THREADS: 1`` as a number."""
        if not isinstance(value, dict):
            return value
        return {key: str(item) if isinstance(item, int | float) else item for key, item in value.items()}

    @field_validator("env")
    @classmethod
    def _env_holds_no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name or "=" in name or "\0" in name + value[name]:
                raise ValueError(f"{name!r} is no name of a variable, or its value holds a null character")
            if _SECRET_NAME.search(name):
                raise ValueError(f"{name} may be a secret; export it instead: the environment is handed on as it is")
        return value

    @field_validator("args")
    @classmethod
    def _args_are_flags(cls, value: dict[str, Any]) -> dict[str, Any]:
        for flag in value:
            if not _FLAG.fullmatch(flag):
                raise ValueError(f"{flag!r} is no flag; write it without dashes, such as max_num_seqs")
            if flag in _OWN_SETTINGS:
                raise ValueError(f"{flag} has a setting of its own: {_OWN_SETTINGS[flag]}")
            if flag in _DECIDED_HERE:
                raise ValueError(f"may not set {flag}, which is decided when it starts")
        return value

    @model_validator(mode="after")
    def _adapter_is_there(self) -> VLLMEngineConfig:
        if self.adapter is not None and self.adapter not in self.lora:
            raise ValueError(f"adapter: got {self.adapter!r}, lora has {', '.join(self.lora) or 'none'}")
        return self


class VLLMTeacherConfig(LaneConfig, VLLMEngineConfig):
    """A model behind vLLM servers that are started for the run and stopped after it."""

    type: Literal["vllm"] = Field("vllm", description="vLLM servers, started for the run and stopped after it")
    servers: Literal["auto"] | int = Field(
        "auto",
        description="how many; auto is one for every tensor_parallel GPUs that CUDA_VISIBLE_DEVICES or nvidia-smi "
        "shows, and one where there are none",
    )
    timeout_s: float = Field(300.0, gt=0, description="seconds to wait for a whole answer")
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of the request, such as {top_p: 0.9}; null takes a field out"
    )

    @field_validator("servers")
    @classmethod
    def _at_least_one(cls, value: Literal["auto"] | int) -> Literal["auto"] | int:
        if value != "auto" and value < 1:
            raise ValueError("must be auto, or 1 or more")
        return value

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_question(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in ("messages", "model", "stream", "n") if name in value]:
            raise ValueError(f"may not set {', '.join(taken)}")
        return value


class VLLMOfflineConfig(VLLMEngineConfig):
    """vLLM's offline engine in a process of its own: for pure batches, and for exact label probabilities."""

    type: Literal["vllm_offline"] = Field("vllm_offline", description="vLLM's offline engine, without a server")
    lane: Literal["auto", "logprobs", "json"] = Field(
        "auto",
        description="logprobs: the probability of every label, read off the model, no text written; json: an answer "
        "with whatever is asked for; auto: json where traces or probs are asked for, else logprobs",
    )
    samples: int = Field(
        1, ge=1, le=64, description="answers drawn at one request, json lane; their shares are the distribution"
    )
    batch_size: int = Field(256, ge=1, description="the most rows handed to the engine at a time")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="switches of the chat template; the logprobs lane sets enable_thinking: false unless told",
    )

    @property
    def settled_lane(self) -> Literal["logprobs", "json"]:
        """``lane``, or what auto comes to."""
        if self.lane == "auto":
            return (
                "json" if self.traces or self.rationale_for or self.probs != "none" or self.samples > 1 else "logprobs"
            )
        return self.lane

    @property
    def answer(self) -> AnswerFormat:
        """What it is asked to write."""
        return AnswerFormat(clauses=False, form="label") if self.settled_lane == "logprobs" else super().answer

    @model_validator(mode="after")
    def _lanes_fit(self) -> VLLMOfflineConfig:
        if self.settled_lane == "logprobs" and (
            self.traces or self.rationale_for or self.probs != "none" or self.samples > 1
        ):
            raise ValueError(
                "the logprobs lane writes no text: leave traces, probs and samples out, or take lane: json"
            )
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples at temperature 0 are all alike; give temperature")
        return self
