"""Settings of Hugging Face's Trainer that a student's ``trainer:`` section hands through, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

PASSED_ON = frozenset(
    {
        *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "optim", "optim_args"),
        *("lr_scheduler_type", "lr_scheduler_kwargs"),
        *("gradient_accumulation_steps", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("fsdp", "fsdp_config", "deepspeed"),
        *("ddp_backend", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_find_unused_parameters", "ddp_timeout"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "tf32"),
        *("logging_steps", "per_device_eval_batch_size", "report_to"),
    }
)
"""Names that :class:`transformers.TrainingArguments` takes as they stand in the recipe."""

SET_ELSEWHERE = {
    "bf16": "set precision: bf16 of the student",
    "data_seed": "the recipe's seed decides it",
    "eval_steps": "validation rows are scored after every epoch; set validation of the student",
    "eval_strategy": "validation rows are scored after every epoch; set validation of the student",
    "fp16": "set precision of the student; float16 is not offered",
    "label_smoothing_factor": "set label_smoothing of the student",
    "learning_rate": "set lr of the student",
    "load_best_model_at_end": "the best epoch is kept wherever there are validation rows",
    "logging_dir": "logs lie beside the student, in NAME.tensorboard",
    "max_steps": "set epochs of the student",
    "num_train_epochs": "set epochs of the student",
    "output_dir": "students lie in the run folder",
    "per_device_train_batch_size": "set batch_size of the student, which counts the rows of all devices",
    "push_to_hub": "upload the student's folder after the run",
    "resume_from_checkpoint": "the same command resumes by itself; set checkpoint of the student",
    "save_steps": "set checkpoint of the student",
    "save_strategy": "set checkpoint of the student",
    "save_total_limit": "one checkpoint is kept, and none after success",
    "seed": "the recipe's seed decides it",
    "train_sampling_strategy": "batches are of like lengths already",
    "warmup_ratio": "set warmup of the student",
    "warmup_steps": "set warmup of the student, a share of all steps",
    "weight_decay": "set weight_decay of the student",
}
"""Names that distill gives values itself, and what to do instead."""

REPORTS = ("none", "tensorboard")


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuses names that are not handed through, all at once.

    Raises:
        ValueError: A name is unknown, or distill sets it itself; or a value is one that would change what is learned.
    """
    problems = []
    for name in options:
        if name in SET_ELSEWHERE:
            problems.append(f"{name}: distill sets it; {SET_ELSEWHERE[name]}")
        elif name not in PASSED_ON:
            near = get_close_matches(name, [*PASSED_ON, *SET_ELSEWHERE], n=1)
            told = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(PASSED_ON))}"
            problems.append(f"{name}: not a setting that is handed to the Trainer; {told}")
    steps = options.get("gradient_accumulation_steps", 1)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        problems.append(f"gradient_accumulation_steps: must be a whole number of at least 1, got {steps!r}")
    report = options.get("report_to", "none")
    if report not in REPORTS:
        problems.append(f"report_to: must be one of {', '.join(REPORTS)}, got {report!r}")
    if options.get("fsdp") and options.get("deepspeed"):
        problems.append("fsdp, deepspeed: both shard the model; set one of them")
    if problems:
        raise ValueError("; ".join(problems))
