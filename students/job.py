"""A training job as a folder: what one or several processes need in order to train the same student."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from distill.labeling.brands import BrandList
from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import StudentConfig
from distill.students.queries.asked_task import read_brands, task_of, write_brands
from distill.students.training_set import TrainingSet

TRAIN, VALIDATION = "train", "validation"
_HASHED_ROWS = 65_536
_CHANGES_NO_WEIGHT = {"checkpoint"}
"""Settings of a student that a resumed training may have otherwise."""
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
        resumed_at: Step of the checkpoint that the training went on from; 0 where it began anew.
        facts: What the objective counted in the training rows; see :attr:`Objective.facts`.
    """

    parameters: int
    steps: int
    best_epoch: int
    precision: str
    history: tuple[EpochRecord, ...]
    resumed_at: int = 0
    facts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A folder with ``job.json``, ``train.parquet``, ``validation.parquet``; then ``student/`` and ``result.json``.

    While it trains, ``checkpoints/`` and ``examples/`` (the tokenised rows) are in it too.

    Attributes:
        folder: Where it lies.
        config: What to train.
        labels: The task's labels, in order.
        inputs: Input columns, the query first.
        seed: Seed of the head, the order and the dropout.
        positive: The task's positive label, where it has one.
        ordered: Whether the labels are grades.
        logs: Where TensorBoard's logs go.
        store: Where tokenised rows are kept for other trainings; None for inside the job folder.
        asked: The task where its answers are no single label, see
            :func:`distill.students.queries.asked_task.record_of`.
        brands: Its list of brands, where it has one.
    """

    folder: Path
    config: StudentConfig
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    seed: int
    positive: str | None = None
    ordered: bool = False
    logs: Path | None = None
    store: Path | None = None
    asked: dict[str, Any] | None = None
    brands: BrandList | None = None

    @property
    def task(self) -> Task:
        """What the training needs of the task."""
        if self.asked is not None:
            return task_of(self.asked, inputs=self.inputs, brands=self.brands)
        return Task(labels=self.labels, inputs=self.inputs, positive=self.positive, ordered=self.ordered)

    @property
    def checkpoints(self) -> Path:
        """Where the Trainer saves the training."""
        return self.folder / "checkpoints"

    @property
    def student_folder(self) -> Path:
        """Where the trained network is written."""
        return self.folder / "student"

    def fingerprint(self, training: TrainingSet, *, processes: int) -> str:
        """Digest of all that the weights follow from: a checkpoint of another fingerprint is never gone on from.

        Args:
            training: The rows.
            processes: In how many processes they are trained on.
        """
        digest = hashlib.blake2b(digest_size=16)
        packages = [f"{name} {version(name)}" for name in ("distill", "torch", "transformers", "accelerate")]
        settings = self.config.model_dump(mode="json", exclude=_CHANGES_NO_WEIGHT)
        base = _base_digest(getattr(self.config, "base", None))
        said = [settings, base, self.labels, self.inputs, self.seed, processes, packages]
        said += [self.asked] if self.asked is not None else []
        said += [self.brands.basis] if self.brands is not None else []
        digest.update(json.dumps(said, sort_keys=True).encode())
        for table in (training.train, training.validation):
            digest.update(table_digest(table).encode())
        return digest.hexdigest()

    def write(self, training: TrainingSet, *, fingerprint: str = "") -> None:
        """Writes the job's inputs, ``job.json`` last, so that a folder with one is whole.

        Args:
            training: Rows to learn from and to validate on.
            fingerprint: From :meth:`fingerprint`, by which a later call tells whether it is the same training.
        """
        self.folder.mkdir(parents=True)
        training.train.write_parquet(self.folder / "train.parquet")
        training.validation.write_parquet(self.folder / "validation.parquet")
        write_brands(self.task, self.folder)
        spec = {
            "config": self.config.model_dump(mode="json"),
            "labels": self.labels,
            "inputs": self.inputs,
            "seed": self.seed,
            "positive": self.positive,
            "ordered": self.ordered,
            "logs": None if self.logs is None else str(self.logs.resolve()),
            "store": None if self.store is None else str(self.store.resolve()),
            "fingerprint": fingerprint,
            **({"asked": self.asked} if self.asked is not None else {}),
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
        logs, store = (None if spec.get(name) is None else Path(spec[name]) for name in ("logs", "store"))
        return cls(
            folder,
            config,
            tuple(spec["labels"]),
            tuple(spec["inputs"]),
            spec["seed"],
            positive=spec.get("positive"),
            ordered=spec.get("ordered", False),
            logs=logs,
            store=store,
            asked=spec.get("asked"),
            brands=read_brands(folder),
        )

    def is_under_way(self, fingerprint: str) -> bool:
        """Whether the folder holds this job, begun and not ended."""
        try:
            found = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(fingerprint) and found.get("fingerprint") == fingerprint

    def scan(self, part: str) -> pl.LazyFrame:
        """The rows of ``train`` or ``validation``, not yet in memory."""
        return pl.scan_parquet(self.folder / f"{part}.parquet")

    def stretches(self, part: str, *, rows: int) -> Iterator[pl.DataFrame]:
        """The rows of ``train`` or ``validation``, at most so many at a time."""
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        with pq.ParquetFile(self.folder / f"{part}.parquet") as reader:
            for batch in reader.iter_batches(batch_size=rows):
                yield pl.DataFrame(pl.from_arrow(batch))

    def rows(self) -> TrainingSet:
        """All rows, in memory; see :meth:`scan` and :meth:`stretches` for a million of them."""
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


def table_digest(table: pl.DataFrame) -> str:
    """Digest of a table's columns, types and values."""
    digest = hashlib.blake2b(repr(table.schema).encode(), digest_size=16)
    for start in range(0, table.height, _HASHED_ROWS):
        digest.update(table[start : start + _HASHED_ROWS].hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()


def _base_digest(base: str | None) -> list[Any]:
    """Names, sizes and times of the base's files, where it is a folder."""
    folder = Path(base) if base else None
    if folder is None or not folder.is_dir():
        return [base]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
