"""Tells how far a training is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill.students.job import FitProgress

VALIDATION_LOSS = "eval_validation_loss"
"""The Trainer's name for the loss on the validation rows."""


class Reporter(TrainerCallback):
    """Reports progress after every step to a function that may be slow to draw: at most ten times a second."""

    def __init__(self, report: Callable[[FitProgress], None], *, rows: int, epochs: int) -> None:
        self._report = report
        self._rows = rows
        self._epochs = epochs
        self._started = self._last = 0.0
        self._first_step, self._first_epoch = 0, 0.0
        self._loss: float | None = None
        self._validation_loss: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock; a resumed training has steps behind it that took no time."""
        self._started = time.perf_counter()
        self._first_step, self._first_epoch = state.global_step, float(state.epoch or 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Takes the newest losses."""
        self._loss = (logs or {}).get("loss", self._loss)
        self._validation_loss = (logs or {}).get(VALIDATION_LOSS, self._validation_loss)

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
                rows_per_s=(epoch - self._first_epoch) * self._rows / elapsed,
                loss=self._loss,
                validation_loss=self._validation_loss,
                seconds_left=elapsed / (state.global_step - self._first_step) * (state.max_steps - state.global_step),
            )
        )
