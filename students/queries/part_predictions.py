"""Answers of a query encoder to rows: all parts in one pass over them, and the table that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.merging.merge_answers import ANSWER_LABEL_SCHEMA
from distill.labeling.task import Task
from distill.students.network import Example, Output
from distill.students.queries.asked_task import part_name
from distill.students.queries.part_answers import Answer, answers_of
from distill.students.queries.parts_info import PartInfo
from distill.students.scoring import ahead, in_batches

if TYPE_CHECKING:
    import torch

    from distill.students.network import Network
    from distill.students.queries.encoder import QueryNetwork

_CHUNK_ROWS = 2048


class Running(NamedTuple):
    """How rows are scored.

    Attributes:
        device: Where the network is.
        rows: Rows scored at once; None for as many as suit their length.
        bf16: Whether to autocast.
        threads: CPU threads; None for all.
    """

    device: torch.device
    rows: int | None
    bf16: bool
    threads: int | None


def answers_to(
    network: Network,
    reader: QueryNetwork,
    rows: pl.DataFrame,
    *,
    thresholds: Mapping[str, Sequence[float]],
    running: Running,
) -> dict[str, list[list[Answer]]]:
    """Answers by part and threshold, in the order of the rows; rows are scored once.

    Args:
        network: What scores: the student's own network, or its export.
        reader: Its own network, without weights for an export.
        rows: With the task's inputs.
        thresholds: Of each part to answer; further ones cost little.
        running: How.
    """
    threads = running.threads
    found: dict[str, list[list[Answer]]] = {name: [[] for _ in tried] for name, tried in thresholds.items()}
    chunks = (rows[start : start + _CHUNK_ROWS] for start in range(0, rows.height, _CHUNK_ROWS))
    sources = rows[reader.task.source].cast(pl.String).fill_null("").to_list()
    start = 0
    for examples in ahead(chunks, network.read, threads=threads if rows.height > _CHUNK_ROWS else 1):
        own = sources[start : start + len(examples)]
        start += len(examples)
        answered = _answered(network, reader, examples, sources=own, thresholds=thresholds, running=running)
        for name, by_threshold in answered.items():
            for place, answers in enumerate(by_threshold):
                found[name][place] += answers
    return found


def _answered(
    network: Network,
    reader: QueryNetwork,
    examples: Sequence[Example],
    *,
    sources: Sequence[str],
    thresholds: Mapping[str, Sequence[float]],
    running: Running,
) -> dict[str, list[list[Answer]]]:
    def answered(output: Output, part: np.ndarray) -> dict[str, list[list[Answer]]]:
        own, texts = [examples[number] for number in part], [sources[number] for number in part]
        scores = {name: tensor.float().cpu() for name, tensor in reader.scores(output).items()}
        return {
            name: [
                answers_of(reader, name, scores[name], examples=own, sources=texts, threshold=threshold)
                for threshold in tried
            ]
            for name, tried in thresholds.items()
        }

    answers: dict[str, list[list[Any]]] = {
        name: [[None] * len(examples) for _ in tried] for name, tried in thresholds.items()
    }
    for part, of_batch in in_batches(network, examples, answered, **running._asdict()):
        for name, by_threshold in of_batch.items():
            for place, batch_answers in enumerate(by_threshold):
                for number, answer in zip(part, batch_answers, strict=True):
                    answers[name][place][number] = answer
    return answers


def prediction_schema(task: Task, *, writes: bool = False) -> dict[str, pl.DataType]:
    """Columns of predictions, those of ``ANSWER_LABEL_SCHEMA`` (:mod:`distill.labeling.merging.merge_answers`) that are
    filled.

    Args:
        task: With parts, ``part`` is there; ``label`` and ``probs`` always are.
        writes: Of a student that writes its answers, ``outcome`` is there: one that does not fit is ``invalid``.
    """
    answers = {single.answer_column for single in task.singles}
    kept = {"row_id", "label", "probs", "confidence", *answers}
    kept |= {"part"} if task.parts else set()
    kept |= {"support"} if answers & {"labels", "texts", "spans"} else set()
    kept |= {"candidates"} if answers & {"labels", "text", "texts"} else set()
    schema = {name: dtype for name, dtype in ANSWER_LABEL_SCHEMA.items() if name in kept}
    return {**schema, "outcome": pl.String()} if writes else schema


def predictions_of(
    task: Task,
    row_ids: Sequence[str],
    answers: Mapping[str, Sequence[Answer]],
    infos: Mapping[str, PartInfo],
    *,
    writes: bool = False,
) -> pl.DataFrame:
    """A line a row and part, rows in their order and parts in the task's.

    Args:
        task: What was answered.
        row_ids: ``[n]``.
        answers: By part, ``[n]``: the answers at the part's own threshold.
        infos: By part, what makes an answer's probability its confidence.
        writes: Whether the student writes its answers, so that one may be ``invalid``.

    Returns:
        The columns of :func:`prediction_schema`; an answer that is none has confidence 0.
    """
    schema = prediction_schema(task, writes=writes)
    lines: list[list[dict[str, Any]]] = [[] for _ in row_ids]
    for single in task.singles:
        name, column = part_name(single), single.answer_column
        own = answers[name]
        confidences = infos[name].confidence(np.array([answer.probability for answer in own]))
        for row, (answer, confidence) in enumerate(zip(own, confidences, strict=True)):
            value = answer.value
            if column == "spans" and value is not None:
                value = [span._asdict() for span in value]
            line = {"row_id": row_ids[row], "part": single.part, column: value}
            line["confidence"] = float(confidence) if value is not None else 0.0
            line |= {"probs": answer.probs, "support": answer.support, "outcome": answer.outcome}
            line["candidates"] = answer.candidates and [
                {"text": text, "share": share} for text, share in answer.candidates
            ]
            lines[row].append(line)
    flat = [{name: line.get(name) for name in schema} for own in lines for line in own]
    return pl.DataFrame(flat, schema=schema)
