"""A training job as a folder: what one or several processes need in order to train the same student."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from distill.labeling.errors import StudentError
from distill.students.config import StudentConfig
from distill.students.training_set import TrainingSet

_CONFIG: TypeAdapter[StudentConfig] = TypeAdapter(StudentConfig)


@dataclass(frozen=True)
class FitProgress:
    """How far a training is.

    Attributes:
        epoch: Epoch under way, from 1.
        epochs: Epochs in all.
        step: Steps done.
        total_steps: Steps in all, if it does not stop early.
        rows_per_s: Training rows a second since the start.
        loss: Mean loss since the last report of one; None before the first.
        validation_loss: After the last whole epoch; None without validation rows.
        seconds_left: At the present rate.
    """

    epoch: int
    epochs: int
    step: int
    total_steps: int
    rows_per_s: float
    loss: float | None
    validation_loss: float | None
    seconds_left: float


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training rows: its mean loss, and the loss on the validation rows where there are any."""

    epoch: int
    loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class JobResult:
    """What the training wrote down.

    Attributes:
        parameters: Parameters of the network.
        steps: Steps done.
        best_epoch: Epoch whose weights were kept, from 1.
        precision: ``fp32`` or ``bf16``, as it was trained.
        history: One record an epoch.
        facts: What the objective counted in the training rows; see :attr:`Objective.facts`.
    """

    parameters: int
    steps: int
    best_epoch: int
    precision: str
    history: tuple[EpochRecord, ...]
    facts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A folder with ``job.json``, ``train.parquet``, ``validation.parquet``; then ``student/`` and ``result.json``.

    Attributes:
        folder: Where it lies.
        config: What to train.
        labels: The task's labels, in order.
        inputs: Input columns, the query first.
        seed: Seed of the head, the order and the dropout.
    """

    folder: Path
    config: StudentConfig
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    seed: int

    @property
    def student_folder(self) -> Path:
        """Where the trained network is written."""
        return self.folder / "student"

    def write(self, training: TrainingSet) -> None:
        """Writes the job's inputs."""
        self.folder.mkdir(parents=True)
        training.train.write_parquet(self.folder / "train.parquet")
        training.validation.write_parquet(self.folder / "validation.parquet")
        spec = {
            "config": self.config.model_dump(mode="json"),
            "labels": self.labels,
            "inputs": self.inputs,
            "seed": self.seed,
        }
        (self.folder / "job.json").write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Reads ``job.json``.

        Raises:
            StudentError: It is not a job folder.
        """
        try:
            spec = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: no training job ({error}); give the folder of a job.json") from error
        config = _CONFIG.validate_python(spec["config"])
        return cls(folder, config, tuple(spec["labels"]), tuple(spec["inputs"]), spec["seed"])

    def rows(self) -> TrainingSet:
        """Reads the rows back."""
        return TrainingSet(
            pl.read_parquet(self.folder / "train.parquet"), pl.read_parquet(self.folder / "validation.parquet")
        )

    def write_result(self, result: JobResult) -> None:
        """Written last: a job with a result is a finished one."""
        (self.folder / "result.json").write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")

    def read_result(self) -> JobResult:
        """Reads what :meth:`write_result` wrote."""
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        found["history"] = tuple(EpochRecord(**record) for record in found["history"])
        return JobResult(**found)
