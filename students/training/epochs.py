"""What is told and kept at the end of epochs: which one it is, their losses, and the best one's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill.labeling.errors import StudentError
from distill.students.job import EpochRecord
from distill.students.training.batches import Batches
from distill.students.training.checkpoints import ends_epoch
from distill.students.training.objective import Objective
from distill.students.training.reporter import VALIDATION_LOSS


class EpochCounter(TrainerCallback):
    """Tells the sampler and the objective which epoch it is.

    Args:
        batches: The sampler.
        objective: What is minimised.
    """

    def __init__(self, batches: Batches, objective: Objective) -> None:
        self._batches = batches
        self._objective = objective

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts from 0."""
        self._batches.epoch = self._objective.epoch = int(state.epoch or 0.0)


class BestEpoch(TrainerCallback):
    """Keeps the history, stops early, and puts the best epoch's weights back at the end.

    Without validation rows the last epoch is the best one.

    Attributes:
        history: One record for every whole epoch.
        best_epoch: From 1; 0 before the first.
        weights: Of the best epoch, on the CPU; None without validation rows.
        weights_of: Copies a model's weights to the CPU.
    """

    def __init__(self, *, patience: int | None) -> None:
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        self.weights: dict[str, Tensor] | None = None
        self.weights_of: Callable[[nn.Module], dict[str, Tensor]] = _weights_of
        self._patience = patience
        self._best_loss = math.inf
        self._loss_sum = 0.0
        self._loss_steps = 0
        self._logged_step = 0

    def state_dict(self) -> dict[str, Any]:
        """All that it knows, for a checkpoint."""
        return {
            "history": [tuple(asdict(record).values()) for record in self.history],
            "best": (self.best_epoch, self._best_loss, self.weights),
            "running": (self._loss_sum, self._loss_steps, self._logged_step),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        self.history = [EpochRecord(*record) for record in state["history"]]
        self.best_epoch, self._best_loss, self.weights = state["best"]
        self._loss_sum, self._loss_steps, self._logged_step = state["running"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Has the epoch's last losses logged before the epoch is written down."""
        control.should_log = control.should_log or ends_epoch(state)

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
        steps = state.global_step - self._logged_step
        self._loss_sum, self._loss_steps = self._loss_sum + loss * steps, self._loss_steps + steps
        self._logged_step = state.global_step

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Writes the epoch down; its validation loss follows in :meth:`on_evaluate`."""
        mean = self._loss_sum / self._loss_steps if self._loss_steps else math.nan
        self.history.append(EpochRecord(len(self.history) + 1, mean, None))
        self._loss_sum, self._loss_steps = 0.0, 0
        self.best_epoch = len(self.history) if self.weights is None else self.best_epoch

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
        loss = metrics[VALIDATION_LOSS]
        self.history[-1] = EpochRecord(record.epoch, record.loss, loss)
        if loss < self._best_loss:
            self._best_loss, self.best_epoch = loss, record.epoch
            self.weights = self.weights_of(model)
        elif self._patience is not None and record.epoch - self.best_epoch >= self._patience:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Puts the best epoch's weights back."""
        if self.weights is not None and self.weights_of is _weights_of:
            model.load_state_dict(self.weights)


def _weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
