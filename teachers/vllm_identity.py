"""Who answers, as the ledger knows it: what of a vLLM engine can change an answer, and nothing that cannot."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from distill.teachers.vllm_config import VLLMEngineConfig

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SETTINGS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_PIECES = 64
_PIECE_BYTES = 16 * 1024

# Flags that decide how fast and in how much memory. Every other one is taken to change answers: a flag that is not
# listed costs asking again at worst, one that is listed wrongly would serve answers of another model.
_ONLY_SPEED = """
enforce_eager block_size swap_space cpu_offload_gb kv_cache_memory_bytes num_gpu_blocks_override max_num_seqs
max_num_batched_tokens max_num_partial_prefills max_long_partial_prefills long_prefill_token_threshold
enable_chunked_prefill enable_prefix_caching prefix_caching_hash_algo scheduling_policy async_scheduling
pipeline_parallel_size distributed_executor_backend max_parallel_loading_workers disable_custom_all_reduce
enable_expert_parallel api_server_count max_loras max_cpu_loras max_lora_rank fully_sharded_loras max_logprobs
load_format download_dir safetensors_load_strategy compilation_config optimization_level disable_log_stats
disable_log_requests enable_log_requests disable_uvicorn_access_log uvicorn_log_level max_log_len
disable_frontend_multiprocessing tokenizer_pool_size
""".split()  # noqa: SIM905 - thirty short lines otherwise


def endpoint_of_engine(config: VLLMEngineConfig, *, scheme: str) -> str:
    """The endpoint in a request's key, the same wherever the model's folder lies and whichever ports are free.

    Args:
        config: The teacher's section.
        scheme: What stands first: ``vllm``.

    Returns:
        Such as ``vllm:Qwen/Qwen3-8B@main+shop#5e1f…?dtype=bfloat16``. A model or adapter that is a folder stands with a
        hash of what is in it, so that one trained again at the same place is another one.
    """
    if config.endpoint is not None:
        return config.endpoint
    who = _named(config.model)
    if config.revision is not None:
        who += f"@{config.revision}"
    if config.adapter is not None:
        who += f"+{config.adapter}={_named(config.lora[config.adapter])}"
    flags = {name: value for name, value in config.args.items() if name not in _ONLY_SPEED}
    flags |= {"dtype": config.dtype} | ({"quantization": config.quantization} if config.quantization else {})
    said = "&".join(f"{name}={_said(value)}" for name, value in sorted(flags.items()))
    return f"{scheme}:{who}?{said}"


def folder_hash(folder: Path) -> str:
    """Twelve hex digits that change with a model's settings or weights.

    Settings are read whole. Of each file of weights the size and 64 pieces of 16 KiB, evenly spread, are read:
    training moves every weight, so that no hour is spent on hashing a hundred gigabytes. Other files (cards, states of
    optimisers, checkpoints in folders) do not count.

    Args:
        folder: The model's or adapter's folder.
    """
    state = hashlib.blake2b(digest_size=6, person=b"distill-model-1")
    for path in sorted(folder.iterdir()):
        if path.suffix in (*_WEIGHTS, *_SETTINGS) and path.is_file():
            size = path.stat().st_size
            state.update(f"{path.name}\0{size}\0".encode())
            for piece in _pieces(path, size, whole=path.suffix in _SETTINGS):
                state.update(piece)
    return state.hexdigest()


def _pieces(path: Path, size: int, *, whole: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        if whole or size <= _PIECES * _PIECE_BYTES:
            yield file.read()
            return
        for number in range(_PIECES):
            file.seek((size - _PIECE_BYTES) * number // (_PIECES - 1))
            yield file.read(_PIECE_BYTES)


def _named(model: str) -> str:
    folder = Path(model)
    if folder.is_dir() and os.access(folder, os.R_OK):
        return f"{folder.resolve().name}#{folder_hash(folder)}"
    return model


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
