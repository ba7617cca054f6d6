"""A trained student: loads its folder, predicts calibrated distributions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.calibration import softmax
from distill.students.network import Network
from distill.students.surroundings import quiet, threads_set
from distill.students.text import PairTemplate

INFO_FILE = "distill_student.json"
FORMAT_VERSION = 1
_CHUNK_ROWS = 8192
"""Rows read, tokenised and sorted by length together: what a stream holds in memory at once."""


@dataclass(frozen=True)
class Calibration:
    """How a student's probabilities were set right.

    Attributes:
        temperature: Divides the logits.
        source: ``audit gold``, ``validation``, or ``none``.
        rows: Rows that it was fitted on.
    """

    temperature: float = 1.0
    source: str = "none"
    rows: int = 0


@dataclass(frozen=True)
class StudentInfo:
    """What ``distill_student.json`` says.

    Attributes:
        type: ``dcn``, ``encoder`` or ``causal``.
        labels: The task's labels, in the order of the logits.
        inputs: Input columns, the query first.
        positive: The label that counts as a match.
        ordered: Whether labels are grades.
        max_length: Tokens of a pair; None for a student that reads no tokens.
        precision: What it was trained in.
        parameters: Parameters of the network.
        seed: Seed of the training.
        trained_on: Entries of ``train_on``.
        rows: Training rows by entry of ``train_on``.
        config: The student's section of the recipe.
        versions: Versions of what trained it.
        calibration: How its probabilities were set right.
        facts: What was counted in the training rows; see :attr:`distill.students.fit.FitResult.facts`.
        format_version: Of this file.
    """

    type: str
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    positive: str | None
    ordered: bool
    max_length: int | None
    precision: str
    parameters: int
    seed: int
    trained_on: tuple[str, ...]
    rows: dict[str, int]
    config: dict[str, Any]
    versions: dict[str, str]
    calibration: Calibration = field(default_factory=Calibration)
    facts: dict[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Writes ``distill_student.json``."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> StudentInfo:
        """Reads ``distill_student.json``.

        Raises:
            StudentError: There is none, or a newer distill wrote it.
        """
        try:
            found = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: not a student ({error}); give the folder that holds {INFO_FILE}") from error
        version = found.get("format_version", 0)
        if version > FORMAT_VERSION:
            raise StudentError(
                f"{folder}: {INFO_FILE} has format {version}, distill reads up to {FORMAT_VERSION}; upgrade distill"
            )
        found["calibration"] = Calibration(**found["calibration"])
        for name in ("labels", "inputs", "trained_on"):
            found[name] = tuple(found[name])
        return cls(**found)


class Student:
    """Predicts; made by :func:`load_student`.

    Attributes:
        path: Its folder.
        info: What it is and how it was made.
        task: What it was trained for: labels, inputs, positive label and order.
    """

    def __init__(self, path: Path, info: StudentInfo, network: Network) -> None:
        import torch

        self.path = path
        self.info = info
        self.task = Task(labels=info.labels, inputs=info.inputs, positive=info.positive, ordered=info.ordered)
        self._network = network
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.model.to(self._device).eval()

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        return self.info.parameters

    @property
    def writes_traces(self) -> bool:
        """Whether ``predict(traces=True)`` works: a causal student that learned from traces."""
        return self.info.type == "causal" and self.info.config.get("traces") != "none"

    def prompts(self, rows: pl.DataFrame, *, traces: bool = False) -> list[str]:
        """What to send, as the user's turn, to a chat server that serves this causal student (docs/causal.md).

        Args:
            rows: The task's inputs.
            traces: Ask for the trace as well.

        Raises:
            StudentError: It is no causal student.
        """
        if self.info.type != "causal":
            raise StudentError(f"{self.path}: prompts: a student of type {self.info.type} is sent none; use predict")
        network: Any = self._network
        contents: list[str] = network.contents(rows, traces=traces)
        return contents

    def predict(
        self,
        rows: pl.DataFrame | pl.LazyFrame,
        *,
        batch_size: int = 64,
        precision: str = "auto",
        threads: int | None = None,
        traces: bool = False,
    ) -> pl.DataFrame:
        """Labels rows.

        Args:
            rows: ``row_id`` and the task's inputs; a missing value counts as empty.
            batch_size: Rows scored at once. In fp32 it changes no probability by more than rounding.
            precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware computes in it. In bf16
                probabilities are good to about two digits.
            threads: CPU threads; as many as torch would take where not given.
            traces: Have a causal student write its reasoning, many times slower. One trained with ``traces:
                before_label`` labels in the light of it.

        Returns:
            ``row_id`` str, ``label`` str, ``probs`` List[f64] in the order of the task's labels, ``confidence`` f64
            (the highest of ``probs``), and with ``traces`` ``trace`` str; one line a row, in their order.

        Raises:
            StudentError: A column is missing, or traces are asked of a student that writes none.
        """
        wanted = ("row_id", *self.task.inputs)
        names = rows.collect_schema().names()
        missing = [column for column in wanted if column not in names]
        if missing:
            raise StudentError(f"{self.path}: predict: columns {missing} are missing, got {names}; add or rename them")
        if traces and not self.writes_traces:
            raise StudentError(
                f"{self.path}: predict: this student writes no traces (type {self.info.type}, traces "
                f"{self.info.config.get('traces', 'none')}); train a causal student with traces: before_label"
            )
        table = rows.lazy().select(wanted).collect()
        predict = self._reasoned_chunk if traces else self._predict_chunk
        parts = [
            predict(table[start : start + _CHUNK_ROWS], batch_size, precision, threads)
            for start in range(0, max(1, table.height), _CHUNK_ROWS)
        ]
        return pl.concat(parts)

    def predict_stream(
        self, source: Path, target: Path, *, batch_size: int = 64, precision: str = "auto", threads: int | None = None
    ) -> int:
        """Labels a parquet file of any size into another; memory does not grow with the file.

        The target appears only when it is whole.

        Args:
            source: Parquet with ``row_id`` and the task's inputs.
            target: Where predictions go; replaced if it is there.
            batch_size: As for :meth:`predict`.
            precision: As for :meth:`predict`.
            threads: As for :meth:`predict`.

        Returns:
            Rows labeled.

        Raises:
            StudentError: The source cannot be read, or a column is missing.
        """
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        wanted = ["row_id", *self.task.inputs]
        try:
            reader = pq.ParquetFile(source)
        except (OSError, pa.ArrowInvalid) as error:
            raise StudentError(f"{source}: not a parquet file ({error}); convert the rows first") from error
        missing = [column for column in wanted if column not in reader.schema_arrow.names]
        if missing:
            raise StudentError(f"{source}: columns {missing} are missing, got {reader.schema_arrow.names}")
        partial = target.with_name(target.name + ".partial")
        rows = 0
        with reader, pq.ParquetWriter(partial, _predictions(self, []).to_arrow().schema) as writer:
            for batch in reader.iter_batches(batch_size=_CHUNK_ROWS, columns=wanted):
                table = pl.DataFrame(pl.from_arrow(batch)).select(wanted)
                predicted = self._predict_chunk(table, batch_size, precision, threads)
                writer.write_table(predicted.to_arrow())
                rows += predicted.height
        partial.replace(target)
        return rows

    def logits(
        self, rows: pl.DataFrame, *, batch_size: int = 64, precision: str = "auto", threads: int | None = None
    ) -> np.ndarray:
        """Scores before calibration, ``[N, K]`` float32; arguments as for :meth:`predict`."""
        import torch

        from distill.students.train import computes_in_bf16

        with quiet(), threads_set(threads), torch.inference_mode():
            examples = self._network.read(rows)
            order = np.argsort([self._network.size(example) for example in examples], kind="stable")
            scores = np.zeros((len(examples), len(self.task.labels)), dtype=np.float32)
            bf16 = computes_in_bf16(self._network, precision)
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
                for start in range(0, len(order), batch_size):
                    part = order[start : start + batch_size]
                    batch = self._network.collate([examples[number] for number in part])
                    batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
                    scores[part] = self._network.forward(self._network.model, batch).logits.float().cpu().numpy()
        return scores

    def _predict_chunk(self, table: pl.DataFrame, batch_size: int, precision: str, threads: int | None) -> pl.DataFrame:
        if table.is_empty():
            return _predictions(self, [])
        logits = self.logits(table, batch_size=batch_size, precision=precision, threads=threads)
        probs = softmax(logits, temperature=self.info.calibration.temperature)
        return _predictions(self, table["row_id"].cast(pl.String).to_list(), probs)

    def _reasoned_chunk(
        self, table: pl.DataFrame, batch_size: int, precision: str, threads: int | None
    ) -> pl.DataFrame:
        import torch

        from distill.students.causal_reasoning import reason
        from distill.students.train import computes_in_bf16

        if table.is_empty():
            return _predictions(self, []).with_columns(trace=pl.lit("", dtype=pl.String))
        network: Any = self._network
        bf16 = computes_in_bf16(network, precision)
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16)
        with quiet(), threads_set(threads), torch.inference_mode(), autocast:
            logits, traces = reason(network, table, batch_size=batch_size)
        probs = softmax(logits, temperature=self.info.calibration.temperature)
        predicted = _predictions(self, table["row_id"].cast(pl.String).to_list(), probs)
        return predicted.with_columns(trace=pl.Series(traces, dtype=pl.String))


def load_student(path: Path | str) -> Student:
    """Loads a student's folder.

    Raises:
        StudentError: It is no student, or not whole.
    """
    folder = Path(path)
    info = StudentInfo.read(folder)
    with quiet():
        return Student(folder, info, _load_network(folder, info))


def _load_network(folder: Path, info: StudentInfo) -> Network:
    if info.type == "dcn":
        from distill.students.dcn_network import DcnNetwork

        return DcnNetwork.from_folder(folder)
    if info.type == "encoder":
        from distill.students.encoder import EncoderNetwork

        return EncoderNetwork.from_folder(
            folder,
            template=PairTemplate(info.inputs),
            max_length=info.max_length or 512,
            match_tokens=bool(info.config.get("match_tokens")) and len(info.inputs) > 1,
        )
    if info.type == "causal":
        from distill.students.causal import CausalNetwork
        from distill.students.config import CausalConfig

        config = CausalConfig.model_validate(info.config)
        return CausalNetwork.from_folder(folder, config, labels=info.labels, inputs=info.inputs)
    raise StudentError(f"{folder}: unknown type of student {info.type!r}; upgrade distill")


def _predictions(student: Student, row_ids: list[str], probs: np.ndarray | None = None) -> pl.DataFrame:
    labels = student.task.labels
    found = np.zeros((0, len(labels))) if probs is None else probs
    return pl.DataFrame(
        {
            "row_id": row_ids,
            "label": [labels[number] for number in found.argmax(axis=1)],
            "probs": found.tolist(),
            "confidence": found.max(axis=1).tolist() if len(found) else [],
        },
        schema={"row_id": pl.String, "label": pl.String, "probs": pl.List(pl.Float64), "confidence": pl.Float64},
    )
