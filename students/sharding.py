"""Models that are cut over several processes: which parts are cut apart, and what DeepSpeed is told.

FSDP and ZeRO are Hugging Face's and DeepSpeed's; here is only what they would get wrong of a student if left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.labeling.errors import MissingDependencyError, StudentError

SHARDS = ("fsdp", "deepspeed")
"""Settings of the Trainer that cut a model over processes."""


def shards(options: Mapping[str, Any]) -> bool:
    """Whether a student's ``trainer`` section has its model cut over processes."""
    return any(options.get(name) for name in SHARDS)


def require_shards(options: Mapping[str, Any]) -> None:
    """Refuses what could only be passed over or fail in the middle of a training.

    Raises:
        StudentError: There is no GPU, or one process alone.
        MissingDependencyError: DeepSpeed is asked for and not installed.
    """
    asked = next((name for name in SHARDS if options.get(name)), None)
    if asked is None:
        return
    if asked == "deepspeed" and find_spec("deepspeed") is None:
        raise MissingDependencyError(
            "deepspeed", needed_for="trainer.deepspeed", install="pip install 'distill[deepspeed]'"
        )
    if not torch.cuda.is_available():
        # accelerate passes over both on CPUs without a word.
        raise StudentError(f"trainer.{asked}: shards a model over GPUs, and there is none here; leave it out")
    if "WORLD_SIZE" not in os.environ:
        raise StudentError(
            f"trainer.{asked}: shards a model over processes, and this is one alone; set devices: 2 or more, or auto"
        )


def deepspeed_settings(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration, with what the Trainer knows better left to it.

    Batch sizes, accumulation, clipping and precision are the student's, unless they are said here. ZeRO-3 gathers the
    weights in the end, without which there is no student.

    Args:
        given: A mapping, or the path of a JSON file.

    Raises:
        StudentError: The file cannot be read.
    """
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(
                f"trainer.deepspeed: {given}: cannot be read ({error}); give a JSON file or its content"
            ) from error
    if not isinstance(given, Mapping):
        raise StudentError(f"trainer.deepspeed: got {given!r}; give the settings by name, or a JSON file of them")
    of_trainer = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    settings = dict.fromkeys((*of_trainer, "gradient_clipping"), "auto") | dict(given)
    settings["bf16"] = {"enabled": "auto"} | dict(settings.get("bf16", {}))
    zero = dict(settings.get("zero_optimization", {}))
    if zero.get("stage") == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    settings["zero_optimization"] = zero
    return settings


def forget_deepspeed() -> None:
    """Has models that are loaded from now on be loaded whole: transformers would go on cutting them with ZeRO-3."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def layers_to_shard(model: nn.Module) -> list[str]:
    """Names of the classes whose every module FSDP gathers on its own; what is in none of them is gathered at once.

    Those that the architecture names, but for one that holds the token embeddings: accelerate 1.15 cuts these a second
    time, which torch refuses, so that FSDP2 fails on BERT, RoBERTa and ModernBERT. A model inside ours is found too.

    Args:
        model: A model of transformers, or a module that holds one. Of another there are none.
    """
    pretrained = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if pretrained is None:
        return []
    embeddings = pretrained.get_input_embeddings()
    named = set(pretrained._no_split_modules or ())
    found = {type(part).__name__ for part in pretrained.modules() if type(part).__name__ in named}
    holders = {type(part).__name__ for part in pretrained.modules() if any(own is embeddings for own in part.modules())}
    return sorted(found - holders)
