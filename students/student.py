"""A trained student: loads its folder, predicts calibrated distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.students.calibration import calibrated
from distill.students.network import CLAUSES, LABELS, Network
from distill.students.onnx_network import EXPORT_FILE, OnnxNetwork
from distill.students.queries.part_answers import Answer
from distill.students.queries.part_predictions import predictions_of
from distill.students.student_info import StudentInfo, task_of_info
from distill.students.surroundings import quiet, threads_set
from distill.students.text import PairTemplate
from distill.students.traces.clauses import name_clauses
from distill.students.wide import WidePart

_CHUNK_ROWS = 2048
"""Rows read, tokenised and sorted by length together, while those before them are scored."""
_REASONED_TOGETHER = 64
"""Rows whose traces are written together."""


class Student:
    """Predicts; made by :func:`load_student`.

    Attributes:
        path: Its folder.
        info: What it is and how it was made.
        task: What it was trained for.
        network: What scores the rows.
        wide: The linear model whose scores are mixed into the network's; None without one.
    """

    def __init__(self, path: Path, info: StudentInfo, network: Network, *, wide: WidePart | None = None) -> None:
        import torch

        self.path = path
        self.info = info
        self.task = task_of_info(path, info)
        self.network = network
        self.wide = wide
        on_gpu = torch.cuda.is_available() and not isinstance(network, OnnxNetwork)
        self._device = torch.device("cuda" if on_gpu else "cpu")
        network.model.to(self._device).eval()

    @property
    def parameters(self) -> int:
        """Of the network, and of the linear model and the sentence encoder beside it."""
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
        network: Any = self.network
        contents: list[str] = network.contents(rows, traces=traces)
        return contents

    def predict(
        self,
        rows: pl.DataFrame | pl.LazyFrame,
        *,
        batch_size: int | None = None,
        precision: str = "auto",
        threads: int | None = None,
        traces: bool = False,
    ) -> pl.DataFrame:
        """Labels rows. Where a table does not fit in memory, see :func:`distill.predict.predict_file`.

        Args:
            rows: ``row_id`` and the task's inputs; a missing value counts as empty.
            batch_size: Rows scored at once; by default as many as suit their length and the hardware. In fp32 it
                changes no probability by more than rounding; an INT8 export scales its numbers by those of the whole
                batch, so that there the third digit may change.
            precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware computes in it. In bf16
                probabilities are good to about two digits.
            threads: CPU threads; as many as torch would take where not given.
            traces: Have a causal student write its reasoning, many times slower. One trained with ``traces:
                before_label`` labels in the light of it.

        Returns:
            ``row_id`` str, ``label`` str, ``probs`` List[f64] in the order of the task's labels, ``confidence`` f64
            (the highest of ``probs``); one line a row, in their order. Where the student was trained to abstain,
            ``abstained`` bool too: the label is given all the same, as the best guess. From a student that learned
            which clauses of the guideline its teachers cited, ``clauses`` List[str], those behind the label, the most
            probable first and never none, and ``clause_probs`` List[f64], how probable each is; see
            :func:`distill.students.traces.clauses.name_clauses`. With ``traces``, ``trace`` str.

            Where answers are no single label, a line a row and part, with the columns of
            :func:`distill.students.queries.part_predictions.prediction_schema`: those of the labels table.
            ``confidence`` is the calibrated probability that the answer is right.

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
        if self.info.parts is not None:
            infos = self.info.parts
            thresholds = {name: [part.threshold] for name, part in infos.items()}
            found = self.part_answers(table, thresholds, batch_size=batch_size, precision=precision, threads=threads)
            answers = {name: by_threshold[0] for name, by_threshold in found.items()}
            row_ids = table["row_id"].cast(pl.String).to_list()
            return predictions_of(self.task, row_ids, answers, infos, writes=self.info.type == "causal")
        if traces:
            return self._reasoned(table, batch_size=batch_size, precision=precision, threads=threads)
        scores = self._scores(table, batch_size=batch_size, precision=precision, threads=threads)
        return _predictions(self, table["row_id"].cast(pl.String).to_list(), scores)

    def part_answers(
        self,
        rows: pl.DataFrame,
        thresholds: Mapping[str, Sequence[float]],
        *,
        batch_size: int | None = None,
        precision: str = "auto",
        threads: int | None = None,
    ) -> dict[str, list[list[Answer]]]:
        """Answers to parts of a task whose answers are no single label, by threshold, before calibration, in one pass.

        Args:
            rows: The task's inputs.
            thresholds: To answer each part by; parts that are not there are not answered.
            batch_size: As for :meth:`predict`.
            precision: Likewise.
            threads: Likewise.
        """
        from distill.students.queries.part_predictions import Running, answers_to
        from distill.students.train import computes_in_bf16

        network: Any = self.network
        if self.info.type == "causal":
            return self._written_answers(rows, thresholds, batch_size=batch_size, precision=precision, threads=threads)
        reader: Any = network.reader if isinstance(network, OnnxNetwork) else network
        with quiet(), threads_set(threads):
            running = Running(self._device, batch_size, computes_in_bf16(network, precision), threads)
            return answers_to(network, reader, rows, thresholds=thresholds, running=running)

    def _written_answers(
        self,
        rows: pl.DataFrame,
        thresholds: Mapping[str, Sequence[float]],
        *,
        batch_size: int | None,
        precision: str,
        threads: int | None,
    ) -> dict[str, list[list[Answer]]]:
        """Answers of a causal student, which has no thresholds: the same by each."""
        import torch

        from distill.students.train import computes_in_bf16

        network: Any = self.network
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=computes_in_bf16(network, precision))
        parts: list[dict[str, list[Answer]]] = []
        with quiet(), threads_set(threads), torch.inference_mode(), autocast:
            for start in range(0, rows.height, _CHUNK_ROWS):
                parts.append(network.answers(rows[start : start + _CHUNK_ROWS], batch_size=batch_size))
        return {
            name: [[answer for part in parts for answer in part[name]] for _ in tried]
            for name, tried in thresholds.items()
        }

    def logits(
        self, rows: pl.DataFrame, *, batch_size: int | None = None, precision: str = "auto", threads: int | None = None
    ) -> np.ndarray:
        """Scores before calibration, ``[N, K]`` float32; arguments as for :meth:`predict`.

        Raises:
            StudentError: Its answers are no single label; :meth:`part_answers` gives them before calibration.
        """
        if self.info.parts is not None:
            raise StudentError(f"{self.path}: logits: its answers are no single label; use part_answers")
        return self._scores(rows, batch_size=batch_size, precision=precision, threads=threads)[LABELS]

    def clause_scores(
        self, rows: pl.DataFrame, *, batch_size: int | None = None, precision: str = "auto", threads: int | None = None
    ) -> np.ndarray:
        """Scores of the clauses of ``info.traces``, ``[N, C]`` float32, of which the logistic function is the chance
        that a teacher cites each; arguments as for :meth:`predict`.

        Raises:
            StudentError: The student has not learned any.
        """
        if not self._names_clauses:
            raise StudentError(f"{self.path}: it has not learned clauses; train it with traces: {{clauses: 1.0}}")
        return self._scores(rows, batch_size=batch_size, precision=precision, threads=threads)[CLAUSES]

    @property
    def _names_clauses(self) -> bool:
        return self.info.traces is not None and bool(self.info.traces.clauses)

    def _scores(
        self, rows: pl.DataFrame, *, batch_size: int | None, precision: str, threads: int | None
    ) -> dict[str, np.ndarray]:
        """Scores of the labels, and of the clauses where the student names them, by name."""
        from distill.students.scoring import ahead, score
        from distill.students.train import computes_in_bf16

        widths = {LABELS: len(self.task.labels)}
        if self.info.traces is not None and self.info.traces.clauses:
            widths[CLAUSES] = len(self.info.traces.clauses)
        chunks = [rows[start : start + _CHUNK_ROWS] for start in range(0, rows.height, _CHUNK_ROWS)]
        parts = [{name: np.zeros((0, width), dtype=np.float32) for name, width in widths.items()}]
        with quiet(), threads_set(threads):
            bf16 = computes_in_bf16(self.network, precision)
            read = ahead(chunks, self.network.read, threads=threads if len(rows) > _CHUNK_ROWS else 1)
            for chunk, examples in zip(chunks, read, strict=True):
                found = score(self.network, examples, device=self._device, rows=batch_size, bf16=bf16, threads=threads)
                found[LABELS] = self._mixed(found[LABELS], chunk, precision)
                parts.append(found)
        return {name: np.concatenate([part[name] for part in parts]) for name in widths}

    def _mixed(self, logits: np.ndarray, rows: pl.DataFrame, precision: str) -> np.ndarray:
        """The network's scores with those of the linear model, where there is one."""
        from distill.students.train import computes_in_bf16

        wide = self.wide
        if wide is None or wide.share == 0.0:
            return logits
        bf16 = wide.similarity is not None and computes_in_bf16(wide.similarity, precision)
        return wide.mixed(logits, wide.logits(rows, bf16=bf16))

    def _reasoned(
        self, table: pl.DataFrame, *, batch_size: int | None, precision: str, threads: int | None
    ) -> pl.DataFrame:
        """Predictions of rows whose traces are written first."""
        import torch

        from distill.students.causal.reasoning import reason
        from distill.students.train import computes_in_bf16

        network: Any = self.network
        bf16 = computes_in_bf16(network, precision)
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16)
        nothing = {LABELS: np.zeros((0, len(self.task.labels)))}
        parts = [_predictions(self, [], nothing).with_columns(trace=pl.lit("").cast(pl.String))]
        with quiet(), threads_set(threads), torch.inference_mode(), autocast:
            for start in range(0, table.height, _CHUNK_ROWS):
                chunk = table[start : start + _CHUNK_ROWS]
                mixed = partial(self._mixed, rows=chunk, precision=precision)
                logits, traces = reason(network, chunk, batch_size=batch_size or _REASONED_TOGETHER, mixed=mixed)
                predicted = _predictions(self, chunk["row_id"].cast(pl.String).to_list(), {LABELS: logits})
                parts.append(predicted.with_columns(trace=pl.Series(traces, dtype=pl.String)))
        return pl.concat(parts)


def load_student(path: Path | str) -> Student:
    """Loads a student's folder.

    Raises:
        StudentError: It is no student, or not whole.
    """
    folder = Path(path)
    info = StudentInfo.read(folder)
    with quiet():
        return Student(folder, info, _load_network(folder, info), wide=WidePart.load(folder))


def _load_network(folder: Path, info: StudentInfo) -> Network:
    if (folder / EXPORT_FILE).is_file():
        return OnnxNetwork.from_folder(folder, info)
    if info.type == "dcn":
        from distill.students.dcn_network import DcnNetwork

        return DcnNetwork.from_folder(folder)
    if info.type == "encoder" and info.asked is not None:
        from distill.students.queries.encoder import QueryNetwork

        return QueryNetwork.from_folder(folder, task=task_of_info(folder, info), max_length=info.max_length or 512)
    if info.type == "encoder":
        from distill.students.encoder import EncoderNetwork
        from distill.students.heads import HEADS_FILE

        if info.traces is not None and info.traces.clauses and not (folder / HEADS_FILE).exists():
            raise StudentError(f"{folder}: {HEADS_FILE} is gone, which names clauses; copy it there or train again")
        return EncoderNetwork.from_folder(
            folder,
            template=PairTemplate(info.inputs),
            max_length=info.max_length or 512,
            match_tokens=bool(info.config.get("match_tokens")) and len(info.inputs) > 1,
        )
    if info.type == "causal":
        from distill.students.causal.network import CausalNetwork
        from distill.students.config import CausalConfig

        config = CausalConfig.model_validate(info.config)
        if info.asked is not None:
            from distill.students.causal.answers import CausalAnswers

            return CausalAnswers.saved(folder, config, task=task_of_info(folder, info))
        return CausalNetwork.from_folder(folder, config, labels=info.labels, inputs=info.inputs)
    raise StudentError(f"{folder}: unknown type of student {info.type!r}; upgrade distill")


def _predictions(student: Student, row_ids: list[str], scores: Mapping[str, np.ndarray]) -> pl.DataFrame:
    labels, abstention, traces = student.task.labels, student.info.abstention, student.info.traces
    found = calibrated(scores[LABELS], student.info.calibration)
    predictions = pl.DataFrame(
        {
            "row_id": row_ids,
            "label": [labels[number] for number in found.argmax(axis=1)],
            "probs": found.tolist(),
            "confidence": found.max(axis=1).tolist(),
        },
        schema={"row_id": pl.String, "label": pl.String, "probs": pl.List(pl.Float64), "confidence": pl.Float64},
    )
    further = []
    if abstention is not None:
        further.append(pl.Series("abstained", abstention.abstains(scores[LABELS]), dtype=pl.Boolean))
    if traces is not None and CLAUSES in scores:
        named = name_clauses(scores[CLAUSES], predictions["label"].to_list(), traces)
        further.append(pl.Series("clauses", named.clauses, dtype=pl.List(pl.String)))
        further.append(pl.Series("clause_probs", named.probs, dtype=pl.List(pl.Float64)))
    return predictions.with_columns(further)
