"""Trains a student: from rows with targets to a folder that predicts."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.calibration import fit_temperature
from distill.students.config import CausalConfig, StudentConfig
from distill.students.job import EpochRecord, FitProgress, Job, JobResult
from distill.students.student import Calibration, Student, StudentInfo, load_student
from distill.students.train import ERROR_FILE, PROGRESS_MARK, train
from distill.students.training_set import TrainingSet, one_hot

_FEWEST_ROWS_TO_CALIBRATE = 20
_REPORTED_STDERR = 2000


@dataclass(frozen=True)
class FitResult:
    """A trained student.

    Attributes:
        path: Its folder, for :func:`distill.students.student.load_student`.
        parameters: Parameters of the network.
        rows: Rows that it learned from.
        steps: Steps done.
        seconds: From the call to the saved folder, calibration included.
        best_epoch: Epoch whose weights were kept, from 1.
        precision: ``fp32`` or ``bf16``, as it was trained.
        calibration: How its probabilities were set right.
        history: One record an epoch.
        facts: What was counted in the training rows: of a causal student, the traces learned and those left out.
    """

    path: Path
    parameters: int
    rows: int
    steps: int
    seconds: float
    best_epoch: int
    precision: str
    calibration: Calibration
    history: tuple[EpochRecord, ...]
    facts: dict[str, int]


def fit_student(
    config: StudentConfig,
    training: TrainingSet,
    *,
    task: Task,
    out: Path,
    seed: int,
    calibration: pl.DataFrame | None = None,
    on_progress: Callable[[FitProgress], None] | None = None,
) -> FitResult:
    """Trains, calibrates and saves a student.

    The same arguments give the same bytes of weights on the same machine with the same number of threads. The folder
    appears whole or not at all; one that is there is replaced.

    Args:
        config: What to train.
        training: From :func:`distill.students.training_set.training_set`.
        task: What the labels and inputs are.
        out: Folder to write.
        seed: Seed of the head, the order of rows and the dropout.
        calibration: Rows with ``gold`` that no student learns from (split ``audit``); where there are fewer than
            twenty, the validation rows are used, and with as few of those the temperature stays 1.
        on_progress: Called during the training, at most ten times a second.

    Raises:
        StudentError: There is nothing to learn from, the base cannot be loaded, or the loss is not a number.
    """
    started = time.perf_counter()
    if training.train.is_empty():
        raise StudentError("training: no rows to learn from; see train_on and validation in the student's section")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _job_folder(out) as folder:
        job = Job(folder, config, labels=task.labels, inputs=task.inputs, seed=seed)
        job.write(training)
        if isinstance(config, CausalConfig) and config.teacher_logprobs is not None:
            from distill.students.causal_teacher import make_missing

            make_missing(job, config.teacher_logprobs)
        result = train(job, on_progress=on_progress) if config.devices == 1 else _torchrun(job, on_progress)
        info = _info(job, task=task, training=training, result=result)
        info.write(job.student_folder)
        info = replace(info, calibration=_calibrate(load_student(job.student_folder), calibration, training, task))
        info.write(job.student_folder)
        if out.exists():
            shutil.rmtree(out)
        job.student_folder.replace(out)
    return FitResult(
        path=out,
        parameters=result.parameters,
        rows=training.train.height,
        steps=result.steps,
        seconds=time.perf_counter() - started,
        best_epoch=result.best_epoch,
        precision=result.precision,
        calibration=info.calibration,
        history=result.history,
        facts=result.facts,
    )


@contextmanager
def _job_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, so that moving the student there is one rename; gone afterwards."""
    folder = out.with_name(f".{out.name}.job")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _info(job: Job, *, task: Task, training: TrainingSet, result: JobResult) -> StudentInfo:
    packages = ("distill", "torch", "transformers", "polars")
    return StudentInfo(
        type=job.config.type,
        labels=task.labels,
        inputs=task.inputs,
        positive=task.positive,
        ordered=task.ordered,
        max_length=getattr(job.config, "max_length", None),
        precision=result.precision,
        parameters=result.parameters,
        seed=job.seed,
        trained_on=job.config.train_on,
        rows=training.counts,
        config=job.config.model_dump(mode="json"),
        facts=result.facts,
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )


def _calibrate(student: Student, gold: pl.DataFrame | None, training: TrainingSet, task: Task) -> Calibration:
    if gold is not None:
        gold = gold.filter(pl.col("gold").is_in(list(task.labels)))
    if gold is not None and gold.height >= _FEWEST_ROWS_TO_CALIBRATE:
        rows, source = gold.with_columns(target=one_hot(pl.col("gold"), labels=task.labels)), "audit gold"
    elif training.validation.height >= _FEWEST_ROWS_TO_CALIBRATE:
        rows, source = training.validation, "validation"
    else:
        return Calibration()
    weight = rows["weight"].to_numpy() if "weight" in rows.columns else None
    target = np.array(rows["target"].to_list())
    return Calibration(fit_temperature(student.logits(rows), target, weight=weight), source, rows.height)


def _torchrun(job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
    """Trains in as many processes as the job has devices, on this machine."""
    import torch

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={job.config.devices}"]
    command += ["-m", "distill.students.train", str(job.folder.resolve())]
    threads = max(1, (job.config.threads or torch.get_num_threads()) // job.config.devices)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if on_progress is not None and line.startswith(PROGRESS_MARK):
                    on_progress(FitProgress(**json.loads(line.removeprefix(PROGRESS_MARK))))
            status = process.wait()
        finally:
            _stop(process)
        if status != 0:
            raise StudentError(_why(job, status, errors))
    return job.read_result()


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends torchrun, which ends its workers; matters when the caller is interrupted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _why(job: Job, status: int, errors: IO[str]) -> str:
    message = job.folder / ERROR_FILE
    if message.is_file():
        return message.read_text(encoding="utf-8")
    errors.seek(0)
    return (
        f"training: torchrun with {job.config.devices} processes ended with status {status}; "
        f"set devices: 1 to see where it fails; last words: {errors.read()[-_REPORTED_STDERR:].strip()}"
    )
