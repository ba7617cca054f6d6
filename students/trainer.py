"""Hugging Face's Trainer with soft targets, batches of like length, and the best epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distill.labeling.errors import StudentError
from distill.students.batches import Examples, LengthGroupedBatches
from distill.students.config import StudentConfig
from distill.students.grouped_batches import GroupedBatches
from distill.students.job import EpochRecord, FitProgress
from distill.students.network import Example, Network
from distill.students.objective import Objective

_REPORTS_A_TRAINING = 100
_VALIDATION = "eval_validation_loss"


def training_arguments(
    config: StudentConfig, *, folder: Path, steps: int, validate: bool, seed: int, bf16: bool
) -> TrainingArguments:
    """Arguments of a training: no checkpoints, no reports, nothing printed.

    Args:
        config: What to train.
        folder: Trainer wants one; nothing is written there.
        steps: Steps of the whole training.
        validate: Whether there are rows to validate on after every epoch.
        seed: Seed of everything drawn.
        bf16: Whether to autocast to bfloat16.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=max(1, config.batch_size // config.devices),
        per_device_eval_batch_size=64,
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
        logging_steps=max(1, steps // _REPORTS_A_TRAINING),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["target", "weight"],
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        log_level="critical",
        log_level_replica="critical",
    )
    if arguments.n_gpu > 1:
        # One process with several visible GPUs would be wrapped in DataParallel, which is slower than one of them.
        arguments._n_gpu = 1
    return arguments


class DistributionTrainer(Trainer):
    """Trains a network on target distributions.

    Args:
        network: What to train.
        config: How.
        objective: What is minimised.
        arguments: From :func:`training_arguments`.
        train: Examples with targets.
        validation: Held-out examples; None or empty for none.
        callbacks: Called as the Trainer does.
    """

    def __init__(
        self,
        network: Network,
        *,
        config: StudentConfig,
        objective: Objective,
        arguments: TrainingArguments,
        train: Examples,
        validation: Examples | None,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._network = network
        self._config = config
        self._objective = objective
        self._train = train
        shape = {
            "batch_size": config.batch_size,
            "seed": arguments.seed,
            "processes": arguments.world_size,
            "process": arguments.process_index,
        }
        self.batches: LengthGroupedBatches | GroupedBatches
        if objective.rows_together > 1:
            self.batches = GroupedBatches(train.columns["group"], rows_together=objective.rows_together, **shape)
        else:
            self.batches = LengthGroupedBatches([network.size(example) for example in train.examples], **shape)
        super().__init__(
            model=network.model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=self._collate,
            compute_metrics=_validation_loss,
            callbacks=[_EpochCounter(self.batches, objective), *callbacks],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches are already this process's share, so accelerate must not divide them again."""
        return DataLoader(self._train, batch_sampler=self.batches, collate_fn=self._collate)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW in up to four groups: head or not, decayed (matrices) or not (biases and norms)."""
        if self.optimizer is None:
            settings = self.args
            factor = getattr(self._config, "head_lr_factor", 1.0)
            groups: dict[tuple[bool, bool], list[Tensor]] = {}
            for name, parameter in self._network.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((self._network.is_head(name), parameter.ndim > 1), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": settings.learning_rate * (factor if head else 1.0),
                        "weight_decay": settings.weight_decay if decayed else 0.0,
                    }
                    for (head, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
                ],
                betas=(settings.adam_beta1, settings.adam_beta2),
                eps=settings.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of the objective; normalised by rows, as :mod:`distill.students.losses` declares."""
        columns = {name: inputs[name] for name in self._train.columns}
        batch = {name: value for name, value in inputs.items() if name not in columns}
        loss, logits = self._objective.loss(self._network, model, batch, columns)
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss

    def _collate(self, items: Sequence[Example]) -> dict[str, Tensor]:
        batch = self._network.collate([item["example"] for item in items])
        for name in self._train.columns:
            batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
        return batch


def _validation_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Soft cross-entropy over all held-out rows, their weights normalised to sum to one."""
    target, weight = (np.asarray(part) for part in prediction.label_ids)
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    per_row = -(target * log_probs).sum(axis=-1)
    return {"validation_loss": float((weight * per_row).sum() / weight.sum())}


class _EpochCounter(TrainerCallback):
    """Tells the sampler and the objective which epoch it is."""

    def __init__(self, batches: LengthGroupedBatches | GroupedBatches, objective: Objective) -> None:
        self._batches = batches
        self._objective = objective

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._batches.epoch = self._objective.epoch = round(state.epoch or 0.0)


class BestEpoch(TrainerCallback):
    """Keeps the history, stops early, and puts the best epoch's weights back at the end.

    Without validation rows the last epoch is the best one.

    Attributes:
        history: One record for every whole epoch.
        best_epoch: From 1; 0 before the first.
    """

    def __init__(self, *, patience: int | None) -> None:
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        self._patience = patience
        self._best_loss = math.inf
        self._best_weights: dict[str, Tensor] | None = None
        self._losses: list[float] = []
        self._before = 0.0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Stops a training whose loss is no longer a number."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise StudentError(
                f"training: the loss is {loss} at step {state.global_step} of {state.max_steps}; lower students' lr "
                f"(now {args.learning_rate:g}), or set precision: fp32"
            )
        self._losses.append(loss)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Writes the epoch down; its validation loss follows in :meth:`on_evaluate`."""
        control.should_log = True
        mean = sum(self._losses) / len(self._losses) if self._losses else math.nan
        self.history.append(EpochRecord(len(self.history) + 1, mean, None))
        self._losses = []
        self.best_epoch = len(self.history) if self._best_weights is None else self.best_epoch

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Compares the epoch with the best so far."""
        record = self.history[-1]
        loss = metrics[_VALIDATION]
        self.history[-1] = EpochRecord(record.epoch, record.loss, loss)
        if loss < self._best_loss:
            self._best_loss, self.best_epoch = loss, record.epoch
            self._best_weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        elif self._patience is not None and record.epoch - self.best_epoch >= self._patience:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Puts the best epoch's weights back."""
        if self._best_weights is not None:
            model.load_state_dict(self._best_weights)


class Reporter(TrainerCallback):
    """Reports progress after every step to a function that may be slow to draw: at most ten times a second."""

    def __init__(self, report: Callable[[FitProgress], None], *, rows: int, epochs: int) -> None:
        self._report = report
        self._rows = rows
        self._epochs = epochs
        self._started = self._last = 0.0
        self._loss: float | None = None
        self._validation_loss: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Takes the newest losses."""
        self._loss = (logs or {}).get("loss", self._loss)
        self._validation_loss = (logs or {}).get(_VALIDATION, self._validation_loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Reports a step."""
        now = time.perf_counter()
        if now - self._last < 0.1 and state.global_step < state.max_steps:
            return
        self._last = now
        elapsed = max(now - self._started, 1e-9)
        epoch = float(state.epoch or 0.0)
        self._report(
            FitProgress(
                epoch=min(self._epochs, math.ceil(epoch) or 1),
                epochs=self._epochs,
                step=state.global_step,
                total_steps=state.max_steps,
                rows_per_s=epoch * self._rows / elapsed,
                loss=self._loss,
                validation_loss=self._validation_loss,
                seconds_left=elapsed / state.global_step * (state.max_steps - state.global_step),
            )
        )
