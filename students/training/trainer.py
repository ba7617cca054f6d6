"""Hugging Face's Trainer with soft targets, batches of like length, whole checkpoints, and the best epoch kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from distill.labeling.errors import MissingDependencyError, StudentError
from distill.students.config import StudentConfig
from distill.students.network import Example, Network
from distill.students.quick_dropout import QuickDropout
from distill.students.sharding import deepspeed_settings, layers_to_shard, require_shards, shards
from distill.students.training.batches import Batches, Examples, LengthGroupedBatches, MicroBatches, TokenBudgetBatches
from distill.students.training.checkpoints import read_ours, seal, write_ours
from distill.students.training.epochs import BestEpoch, EpochCounter
from distill.students.training.grouped_batches import GroupedBatches
from distill.students.training.objective import Objective
from distill.students.training.vocabulary_cut import VocabularyCut

_REPORTS_A_TRAINING = 100


def training_arguments(
    config: StudentConfig, *, folder: Path, steps: int, validate: bool, seed: int, bf16: bool
) -> TrainingArguments:
    """Arguments of a training: nothing printed, checkpoints only where :class:`CheckpointClock` asks for them.

    Args:
        config: What to train; its ``trainer`` section goes over the settings here.
        folder: Where checkpoints go.
        steps: Steps of the whole training.
        validate: Whether there are rows to validate on after every epoch.
        seed: Seed of everything drawn.
        bf16: Whether to autocast to bfloat16.

    Raises:
        StudentError: A value of the ``trainer`` section is refused.
        MissingDependencyError: TensorBoard is asked for and not installed.
    """
    settings: dict[str, Any] = {
        "per_device_eval_batch_size": 64,
        "logging_steps": max(1, steps // _REPORTS_A_TRAINING),
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        **config.trainer,
    }
    _require_reports(settings["report_to"])
    require_shards(config.trainer)
    if settings.get("deepspeed"):
        settings["deepspeed"] = deepspeed_settings(settings["deepspeed"])
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.lr,
            weight_decay=config.weight_decay,
            warmup_steps=math.ceil(config.warmup * steps),
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
            eval_strategy="epoch" if validate else "no",
            save_strategy="no",
            logging_strategy="steps",
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["target", "weight"],
            log_level="critical",
            log_level_replica="critical",
            **settings,
        )
    except (TypeError, ValueError, ImportError) as error:
        raise StudentError(f"trainer: {error}; correct the student's trainer section") from error
    if arguments.n_gpu > 1:
        # One process with several visible GPUs would be wrapped in DataParallel, which is slower than one of them.
        arguments._n_gpu = 1
    return arguments


def _require_reports(report_to: str) -> None:
    if report_to == "tensorboard" and find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "tensorboard", needed_for="trainer.report_to: tensorboard", install="pip install 'distill[tensorboard]'"
        )


@dataclass(frozen=True)
class Material:
    """What a training is of.

    Attributes:
        config: The student's section.
        objective: What is minimised.
        train: Examples with targets.
        validation: Held-out examples; none of them where nothing is held out.
        batches: This process's share of each step, from :func:`batches_of`.
        vocabulary: Renumbers the tokens, where the embeddings were cut.
    """

    config: StudentConfig
    objective: Objective
    train: Examples
    validation: Examples
    batches: Batches
    vocabulary: VocabularyCut | None = None


class DistributionTrainer(Trainer):
    """Trains a network on target distributions.

    Args:
        network: What to train.
        material: On what, and to what end.
        arguments: From :func:`training_arguments`.
        best: Keeps the best epoch.
        callbacks: Called as the Trainer does, after ``best``.
    """

    def __init__(
        self,
        network: Network,
        *,
        material: Material,
        arguments: TrainingArguments,
        best: BestEpoch,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._network = network
        self._config = material.config
        self._objective = material.objective
        self._train = material.train
        self._best = best
        self._vocabulary = material.vocabulary
        self.batches = material.batches
        self._sharded = shards(self._config.trainer)
        if self._sharded:
            best.weights_of = self._gathered
        if arguments.fsdp_plugin_args is not None:
            arguments.fsdp_plugin_args.setdefault("transformer_cls_names_to_wrap", layers_to_shard(network.model))
        super().__init__(
            # Shards are cut in place. The network's own model stays whole, for the gathered weights in the end: heads,
            # the cut vocabulary and adapters are parts of it that others hold on to.
            model=deepcopy(network.model) if self._sharded else network.model,
            args=arguments,
            train_dataset=material.train,
            eval_dataset=material.validation if len(material.validation) else None,
            data_collator=self._collate,
            compute_metrics=partial(_validation_loss, material.objective),
            callbacks=[EpochCounter(material.batches, material.objective), best, *callbacks],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches are already this process's share, so accelerate must not divide them again."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self._train,
            batch_sampler=self.batches,
            collate_fn=self._collate,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, or what ``optim`` names, in up to four groups: head or not, decayed (matrices) or not (the rest)."""
        if self.optimizer is None:
            settings = self.args
            betas = (settings.adam_beta1, settings.adam_beta2)
            kind: Any = torch.optim.AdamW
            options: dict[str, Any] = {"betas": betas, "eps": settings.adam_epsilon, "fused": True}
            if "optim" in self._config.trainer:
                kind, options = self.get_optimizer_cls_and_kwargs(settings)
            self.optimizer = kind(self._parameter_groups(model or self.model), **options)
        return self.optimizer

    def _parameter_groups(self, model: Any) -> list[dict[str, Any]]:
        factor = getattr(self._config, "head_lr_factor", 1.0)
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # FSDP and torch.compile put their own names between ours.
                plain = name.replace("_fsdp_wrapped_module.", "").replace("_orig_mod.", "")
                groups.setdefault((self._network.is_head(plain), parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.args.learning_rate * (factor if head else 1.0),
                "weight_decay": self.args.weight_decay if decayed else 0.0,
            }
            for (head, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of the objective; normalised by rows, as :mod:`distill.students.losses.distributions` declares."""
        columns = {name: inputs[name] for name in self._train.columns}
        batch = {name: value for name, value in inputs.items() if name not in columns}
        with self._dropout():
            loss, logits = self._objective.loss(self._network, model, batch, columns)
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """With DeepSpeed the Trainer rounds all numbers to the model's; targets and weights keep their digits."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        if self.is_deepspeed_enabled:
            prepared |= {name: inputs[name].to(self.args.device) for name in self._train.columns}
        return prepared

    def _dropout(self) -> AbstractContextManager[object]:
        """How dropout is drawn: quickly where torch's own way is slow and nothing stands in the way."""
        plain = self.args.gradient_checkpointing or self.args.torch_compile or self.args.device.type != "cpu"
        return nullcontext() if plain else QuickDropout()

    def resume(self, checkpoint: Path) -> None:
        """Trains on from a checkpoint, as if nothing had happened."""
        best, objective = read_ours(checkpoint, process=self.args.process_index)
        self._best.load_state_dict(best)
        self._objective.load_state_dict(objective)
        self.train(resume_from_checkpoint=str(checkpoint))

    def trained_model(self) -> nn.Module:
        """The model of the best epoch, on the CPU and out of every wrapper; where it was sharded, in the first process.

        Raises:
            RuntimeError: The gathered weights are not whole.
        """
        if not self._sharded:
            return cast("nn.Module", self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).cpu())
        # Not "or": the other processes' best weights are there and empty, and all have to gather or none.
        weights = self._gathered(self.model_wrapped) if self._best.weights is None else self._best.weights
        if self.is_world_process_zero():
            self._network.model.load_state_dict(weights)
        return self._network.model

    def _gathered(self, model: nn.Module) -> dict[str, Tensor]:
        """Weights put together from the processes' shards; in the first process, the others have none."""
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        if not self.is_world_process_zero():
            return {}
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        write_ours(
            checkpoint,
            best=self._best.state_dict(),
            objective=self._objective.state_dict(),
            process=self.args.process_index,
        )
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            seal(checkpoint)

    def _collate(self, items: Sequence[Example]) -> dict[str, Tensor]:
        batch = self._network.collate([item["example"] for item in items])
        if self._vocabulary is not None:
            batch = self._vocabulary.renumber(batch)
        for name in self._train.columns:
            batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
        return batch


def batches_of(
    sizes: np.ndarray,
    *,
    config: StudentConfig,
    seed: int,
    groups: np.ndarray | None = None,
    rows_together: int = 1,
    processes: int = 1,
    process: int = 0,
) -> Batches:
    """The order of a training: rows or tokens a step as the section says, each in as many parts as are accumulated.

    Args:
        sizes: Length of every row.
        config: The student's section.
        seed: Seed of the order.
        groups: The query of every row as a number, where the loss compares rows of a query; such batches hold
            ``batch_size`` rows.
        rows_together: Rows of a query that stay together.
        processes: How many processes train together.
        process: Which of them this is.
    """
    parts: int = config.trainer.get("gradient_accumulation_steps", 1)
    tokens: int | None = getattr(config, "batch_tokens", None)

    def share(number: int) -> Batches:
        of = {"seed": seed, "processes": processes * parts, "process": process * parts + number}
        if groups is not None:
            return GroupedBatches(groups, rows_together=rows_together, batch_size=config.batch_size, **of)
        if tokens is not None:
            return TokenBudgetBatches(sizes, batch_tokens=tokens, epochs=config.epochs, **of)
        return LengthGroupedBatches(sizes, batch_size=config.batch_size, **of)

    return share(0) if parts == 1 else MicroBatches([share(number) for number in range(parts)])


def _validation_loss(objective: Objective, prediction: EvalPrediction) -> dict[str, float]:
    target, weight = (np.asarray(part) for part in prediction.label_ids)
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    return {"validation_loss": objective.validation_loss(logits, target, weight)}
