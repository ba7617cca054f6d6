"""Checkpoints of a training: when they are due, which is the newest whole one, what of ours is in them.

The Trainer writes weights, optimizer, schedule and random states; beside them lie the best epoch and the state of the
objective. A checkpoint is whole when its marker is there, which is written last: a process that is killed while it
writes leaves one that is not taken up.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill.students.config import Checkpoint

_WHOLE = "distill_whole"
_BEST = "distill_best.pt"
_PREFIX = "checkpoint-"
_STEPS_BETWEEN_CLOCKS = 10
"""With several processes the first one's clock decides, and telling the others costs a message."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step; None where there is none."""
    found = [path.parent for path in folder.glob(f"{_PREFIX}*/{_WHOLE}")]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Step after which it was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def write_ours(checkpoint: Path, *, best: dict[str, Any], objective: dict[str, Any], process: int) -> None:
    """Adds what the Trainer knows nothing of; objectives may have seen other rows in every process."""
    if process == 0:
        torch.save(best, checkpoint / _BEST)
    torch.save(objective, checkpoint / f"distill_objective_{process}.pt")


def read_ours(checkpoint: Path, *, process: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best epoch's state and the objective's, as :func:`write_ours` was given them."""
    # Our own files in a hidden folder beside the student; an objective's state is of any type.
    best = torch.load(checkpoint / _BEST, map_location="cpu", weights_only=False)
    return best, torch.load(checkpoint / f"distill_objective_{process}.pt", map_location="cpu", weights_only=False)


def seal(checkpoint: Path) -> None:
    """Marks a checkpoint as whole and removes the older ones."""
    (checkpoint / _WHOLE).touch()
    for other in checkpoint.parent.glob(f"{_PREFIX}*"):
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


class CheckpointClock(TrainerCallback):
    """Asks for checkpoints. One that falls on the end of an epoch waits for its validation.

    Args:
        due: When.
    """

    def __init__(self, due: Checkpoint) -> None:
        self._due = due
        self._last_time = time.monotonic()
        self._waits = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock."""
        self._last_time = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Saves now, or at the end of the epoch where this is its last step."""
        if not self._is_due(args, state):
            return
        if ends_epoch(state):
            self._waits = True
        else:
            # What was logged so far goes into the checkpoint: a resumed training starts counting anew.
            control.should_log = control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Saves what waited; the Trainer validates before it saves."""
        control.should_save = control.should_save or (self._waits and state.global_step < state.max_steps)
        self._waits = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A training that stops here has nothing to go on with."""
        if control.should_training_stop:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Winds the clock."""
        self._last_time = time.monotonic()

    def _is_due(self, args: TrainingArguments, state: TrainerState) -> bool:
        if self._due.every_steps is not None:
            return state.global_step % self._due.every_steps == 0
        assert self._due.every_s is not None
        due = time.monotonic() - self._last_time >= self._due.every_s
        if args.world_size == 1:
            return due
        if state.global_step % _STEPS_BETWEEN_CLOCKS:
            return False
        told = torch.tensor(int(due), device=args.device)
        distributed.broadcast(told, src=0)
        return bool(told.item())


def ends_epoch(state: TrainerState) -> bool:
    """Whether the step just done is the last of its epoch; the Trainer's ``epoch`` is then a whole number exactly."""
    epoch = float(state.epoch or 0.0)
    return epoch == int(epoch)
