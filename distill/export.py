"""Exports a student for serving, and measures what that cost before anyone relies on it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError, UsageError
from distill.labeling.rows.data_config import RESERVED_COLUMNS
from distill.students.export import INT8_SCHEMES, Int8Scheme, write_int8, write_onnx, write_similarity
from distill.students.onnx_network import EXPORT_FILE, MODEL_FILE, ExportedModel
from distill.students.similarity import SIMILARITY_FOLDER
from distill.students.student import Student, load_student

if TYPE_CHECKING:
    from distill.eval.intervals import Estimate
    from distill.eval.scored import TruthSource

Form = Literal["safetensors", "onnx", "int8"]
FORMS: tuple[Form, ...] = ("safetensors", "onnx", "int8")
FORMAT_VERSION = 1
_WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx")
_SAME_MODEL = 1e-3
"""An fp32 export whose probabilities differ by more was not written right."""


class CheckRows(NamedTuple):
    """Rows that an export is measured on.

    Attributes:
        table: As :func:`distill.read_rows` returns them.
        source: Where they are from, for people.
        truth_source: Who gave their gold labels.
    """

    table: pl.DataFrame
    source: str
    truth_source: TruthSource


@dataclass(frozen=True)
class ExportCheck:
    """An export beside the student that it was made from, on the same rows.

    Attributes:
        rows: How many.
        source: Which.
        max_abs_difference: Of any label's probability.
        mean_abs_difference: The same, on average.
        flips: Share of rows whose label changed; of rows and parts, where answers are no single label. Without gold it
            bounds what accuracy can have been lost.
        metric: ``auc`` (positive label or not) or ``accuracy``; None without gold.
        original: The student's, with its interval by group.
        exported: The export's.
        difference: The export's less the student's, paired; its interval is by group.
        truth_source: Who gave the gold labels.
    """

    rows: int
    source: str
    max_abs_difference: float
    mean_abs_difference: float
    flips: float
    metric: str | None = None
    original: Estimate | None = None
    exported: Estimate | None = None
    difference: Estimate | None = None
    truth_source: str | None = None

    @property
    def lost(self) -> float:
        """Points of quality lost: measured where there is gold, else the most that can have been lost."""
        if self.difference is not None and self.difference.value is not None:
            return -100.0 * self.difference.value
        return 100.0 * self.flips

    def sentence(self) -> str:
        """One line for a person."""
        said = (
            f"on {self.rows:,} rows ({self.source}) probabilities differ by {self.mean_abs_difference:.4f}, at most "
            f"{self.max_abs_difference:.4f}; {self.flips:.2%} of the labels change"
        )
        if self.difference is None or self.original is None or self.exported is None:
            return f"{said}; no gold labels to measure quality with"
        change = self.difference
        between = "" if change.low is None else f" ({100 * change.low:+.2f} to {100 * (change.high or 0):+.2f})"
        return (
            f"{said}; {self.metric} against {self.truth_source} labels {self.original.value:.4f} before, "
            f"{self.exported.value:.4f} after: {100 * (change.value or 0):+.2f} points{between}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in found.items()}


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        path: Its folder, for :func:`distill.load_student`.
        form: What was written.
        bytes: Size of the model file.
        model: How to run it; None for safetensors.
        check: What it cost; None for safetensors, which are the same weights.
    """

    path: Path
    form: Form
    bytes: int
    model: ExportedModel | None = None
    check: ExportCheck | None = None

    def sentence(self) -> str:
        """One line for a person."""
        said = f"{self.form}, {self.bytes / 1e6:,.1f} MB"
        if self.model is not None and self.model.kept_fp32 is not None:
            said += f" (fp32 is kept for {self.model.kept_fp32})"
        return said if self.check is None else f"{said}; {self.check.sentence()}"


def export_student(
    student: Path, out: Path, *, form: Form = "onnx", rows: CheckRows | None = None, tolerance: float = 0.5
) -> Exported:
    """Writes a student for serving, if it is as good as the student.

    The folder is itself a student: ``load_student``, ``distill predict`` and ``distill serve`` take it, and ONNX
    Runtime alone can run the model in it. It appears whole or not at all; an earlier export there is replaced.

    Args:
        student: The student's folder.
        out: Folder to write.
        form: ``onnx`` for fp32, ``int8``, or ``safetensors`` for a copy of what the folder holds.
        rows: What to measure it on; not needed for safetensors.
        tolerance: Points (hundredths) of quality that may be lost: AUC where the task has a positive label, else
            accuracy. Without gold labels, the share of changed labels in percent, which bounds it.

    Raises:
        MissingDependencyError: The extra ``export`` is not installed.
        StudentError: There is no student, it cannot be exported, or the export loses more than the tolerance; nothing
            is written then.
        UsageError: ``out`` is in use for something else, or there are no rows to measure on.
    """
    loaded = load_student(student)
    if (student / EXPORT_FILE).is_file():
        raise StudentError(f"{student}: is an export already; give the student's own folder")
    with _whole_folder(out, student) as draft:
        if form == "safetensors":
            shutil.copytree(student, draft, dirs_exist_ok=True)
            size = sum(path.stat().st_size for path in draft.glob("*.safetensors"))
            return Exported(out, form, size)
        if loaded.info.type not in INT8_SCHEMES:
            raise StudentError(
                f"{student}: a student of type {loaded.info.type!r} is not exported to ONNX; serve it as it is"
            )
        if rows is None or rows.table.is_empty():
            raise UsageError(
                "export: no rows to measure it on; give some, best with gold labels: --rows FILE --gold COLUMN"
            )
        _copy_all_but_weights(student, draft)
        return _write(loaded, draft, out, form=form, rows=rows, tolerance=tolerance)


def _write(student: Student, draft: Path, out: Path, *, form: Form, rows: CheckRows, tolerance: float) -> Exported:
    before = student.predict(rows.table, precision="fp32")
    whole = draft / "fp32.onnx"
    model = write_onnx(student.network, whole, inputs=student.task.inputs)
    tried: list[dict[str, Any]] = []
    candidates: Sequence[Int8Scheme | None] = INT8_SCHEMES[student.info.type] if form == "int8" else (None,)
    best: tuple[ExportCheck, ExportedModel, bytes] | None = None
    for scheme, beside in zip(candidates, INT8_SCHEMES["encoder"], strict=False):
        target = draft / MODEL_FILE
        if scheme is None:
            shutil.copyfile(whole, target)
            written = model
        else:
            written = write_int8(whole, target, exported=model, scheme=scheme)
        if student.wide is not None and student.wide.similarity is not None:
            of_texts = None if scheme is None else beside
            write_similarity(student.wide.similarity, draft / SIMILARITY_FOLDER, scheme=of_texts)
        _write_facts(draft, written, None, tried)
        check = _check(student, load_student(draft), before, rows)
        tried.append({"kept_fp32": written.kept_fp32, "bytes": target.stat().st_size, "lost": round(check.lost, 4)})
        if best is None or check.lost < best[0].lost:
            best = (check, written, target.read_bytes())
        if check.lost <= tolerance:
            break
    assert best is not None
    check, written, data = best
    if form == "onnx" and check.max_abs_difference > _SAME_MODEL:
        raise StudentError(f"export: the ONNX model is not the student: {check.sentence()}; please report it")
    if check.lost > tolerance:
        raise StudentError(
            f"export: {form} loses {check.lost:.2f} points, allowed are {tolerance:g}: {check.sentence()}; nothing was "
            "written: raise --tolerance, or export --to onnx"
        )
    (draft / MODEL_FILE).write_bytes(data)
    whole.unlink()
    _write_facts(draft, written, check, tried)
    return Exported(out, form, len(data), written, check)


def _check(student: Student, exported: Student, before: pl.DataFrame, rows: CheckRows) -> ExportCheck:
    after = exported.predict(rows.table)
    if student.info.parts is not None:
        return _check_parts(before, after, rows)
    first, second = (np.array(table["probs"].to_list()) for table in (before, after))
    gap = np.abs(first - second)
    check = ExportCheck(
        rows=len(before),
        source=rows.source,
        max_abs_difference=float(gap.max()),
        mean_abs_difference=float(gap.mean()),
        flips=int((before["label"] != after["label"]).sum()) / len(before),
    )
    known = rows.table.filter(pl.col("gold").is_in(list(student.task.labels)))
    return check if known.is_empty() else replace(check, **_quality(student, before, after, known, rows.truth_source))


def _check_parts(before: pl.DataFrame, after: pl.DataFrame, rows: CheckRows) -> ExportCheck:
    """Where answers are no single label: how far the confidences of answers that stay differ, and how many change."""
    columns = [name for name in ("label", "labels", "text", "texts", "spans") if name in before.columns]
    same = np.array(
        [one == other for one, other in zip(before[columns].rows(), after[columns].rows(), strict=True)], dtype=bool
    )
    gap = np.abs((before["confidence"] - after["confidence"]).to_numpy())[same]
    return ExportCheck(
        rows=len(rows.table),
        source=rows.source,
        max_abs_difference=float(gap.max(initial=0.0)),
        mean_abs_difference=float(gap.mean()) if len(gap) else 0.0,
        flips=float(1.0 - same.mean()),
    )


def _quality(
    student: Student, before: pl.DataFrame, after: pl.DataFrame, known: pl.DataFrame, truth_source: TruthSource
) -> dict[str, Any]:
    from distill.eval.config import EvalConfig
    from distill.eval.evaluation import evaluate, paired_difference

    metric: Literal["auc", "accuracy"] = "accuracy" if student.task.positive is None else "auc"
    config = EvalConfig(metric=metric, slices=())
    scores = [
        evaluate(table, known, task=student.task, truth_source=truth_source, config=config, split=None).metrics[metric]
        for table in (before, after)
    ]
    difference = paired_difference(after, before, known, task=student.task, config=config, split=None)
    return {
        "metric": metric,
        "original": scores[0],
        "exported": scores[1],
        "difference": difference,
        "truth_source": truth_source,
    }


def _write_facts(
    folder: Path, model: ExportedModel, check: ExportCheck | None, tried: Sequence[dict[str, Any]]
) -> None:
    facts = {
        "format_version": FORMAT_VERSION,
        "model": model.to_dict(),
        "check": None if check is None else check.to_dict(),
        "tried": list(tried),
        "versions": {name: version(name) for name in ("distill", "torch", "onnx", "onnxruntime")},
    }
    (folder / EXPORT_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_all_but_weights(student: Path, draft: Path) -> None:
    for path in student.iterdir():
        if path.is_file() and path.suffix not in _WEIGHTS:
            shutil.copy2(path, draft / path.name)


@contextmanager
def _whole_folder(out: Path, student: Path) -> Iterator[Path]:
    """A folder that takes the place of ``out`` at the end, and leaves nothing behind where something goes wrong."""
    if out.resolve() == student.resolve():
        raise UsageError(f"{out}: is the student's own folder; export to another one")
    if out.exists() and not (out / EXPORT_FILE).is_file():
        raise UsageError(f"{out}: is there and holds no earlier export; give a folder that is not there yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft = Path(scratch) / "whole"
        draft.mkdir()
        yield draft
        if out.exists():
            shutil.rmtree(out)
        os.replace(draft, out)


def check_rows(
    student: Path,
    rows: Path | None = None,
    *,
    gold: str | None = None,
    columns: Sequence[str] = (),
    truth_source: TruthSource = "human",
    limit: int = 5000,
) -> CheckRows | None:
    """Rows to measure an export on: those given, else the test rows of the run that the student is part of.

    Args:
        student: The student's folder.
        rows: csv, jsonl or parquet with the student's inputs.
        gold: Column with labels.
        columns: ``input=column`` each, where the file has other names.
        truth_source: Who gave the labels.
        limit: Rows taken at most, drawn by hash of the group.

    Returns:
        None where none are given and there is no run.

    Raises:
        DataError: The rows cannot be read, or lack a column.
        UsageError: ``columns`` is of the wrong form.
    """
    from distill.api import read_rows
    from distill.predict import renamed

    if rows is not None:
        task = load_student(student).task
        data = {"gold": gold, "columns": dict(renamed(pair) for pair in columns), "split": {"test": 1.0}}
        table = read_rows(rows, task, data={key: value for key, value in data.items() if value})
        return CheckRows(_some(table, limit), rows.name, truth_source)
    found = student.resolve().parent.parent / "rows.parquet"
    if not found.is_file():
        return None
    table = pl.read_parquet(found)
    if not set(RESERVED_COLUMNS) <= set(table.columns):
        return None
    test = table.filter(pl.col("split") == "test")
    said = _gold_source(found.parent) or truth_source
    return CheckRows(_some(test if len(test) else table, limit), f"test rows of {found.parent.name}", said)


def _gold_source(run: Path) -> TruthSource | None:
    from distill.labeling.errors import DistillError
    from distill.runs import Run

    try:
        data = Run(run).recipe.data
    except DistillError:  # a run that was moved: its recipe's files are not where they were
        return None
    return None if data is None else data.gold_source


def _some(table: pl.DataFrame, limit: int) -> pl.DataFrame:
    return table if len(table) <= limit else table.sort(pl.col("group").hash(seed=0), maintain_order=True).head(limit)
