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
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import DistillError, StudentError
from distill.labeling.task import Task
from distill.students.abstention import Abstention, fit_abstention
from distill.students.calibration import FEWEST_ROWS, Calibration, fit_calibration
from distill.students.config import CausalConfig, EncoderConfig, StudentConfig
from distill.students.job import EpochRecord, FitProgress, Job, JobResult
from distill.students.model_card import write_card
from distill.students.queries.asked_task import brands_of, record_of, write_brands
from distill.students.queries.part_fit import first_infos, fit_parts
from distill.students.queries.parts_info import PartInfo
from distill.students.student import Student, load_student
from distill.students.student_info import FORMAT_VERSION, PARTS_FORMAT_VERSION, StudentInfo
from distill.students.traces.clauses import TracesInfo
from distill.students.traces.fit import traces_info, with_threshold
from distill.students.traces.rows import fit_traces
from distill.students.train import ERROR_FILE, PROGRESS_MARK, train
from distill.students.training_set import TrainingSet, one_hot
from distill.students.weak_labels import PRUNED_FILE, prepare_weak_labels
from distill.students.wide import WidePart, best_share, fit_wide
from distill.students.world import current_world

_REPORTED_STDERR = 2000
_OF_QUERIES = ("weights", "synthetic", "corrector", "over_correction", "spans", "answer_tokens")
"""Settings that the file of a student of one label a row does not name."""


@dataclass(frozen=True)
class FitResult:
    """A trained student.

    Attributes:
        path: Its folder, for :func:`distill.students.student.load_student`.
        parameters: Of the network, and of the linear model and the sentence encoder beside it.
        rows: Rows that it learned from.
        steps: Steps done.
        seconds: From the call to the saved folder, calibration included.
        best_epoch: Epoch whose weights were kept, from 1.
        precision: ``fp32`` or ``bf16``, as it was trained.
        calibration: How its probabilities were set right.
        abstention: Which rows it answers; None where it answers all.
        history: One record an epoch.
        pruned: Rows that ``prune`` left out; they are in ``pruned.parquet`` of the folder.
        resumed_at: Step of the checkpoint that the training went on from; 0 where it began anew.
        facts: What was counted in the training rows: of a causal student, the traces learned and those left out.
        traces: What it learned from its teachers' reasoning; None where it learned from labels alone.
        parts: Threshold and calibration of each part, where answers are no single label; None elsewhere.
    """

    path: Path
    parameters: int
    rows: int
    steps: int
    seconds: float
    best_epoch: int
    precision: str
    calibration: Calibration
    abstention: Abstention | None
    history: tuple[EpochRecord, ...]
    pruned: int = 0
    resumed_at: int = 0
    facts: dict[str, int] = field(default_factory=dict)
    traces: TracesInfo | None = None
    parts: dict[str, PartInfo] | None = None


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
    appears whole or not at all; one that is there is replaced. A training that was killed goes on from its last
    checkpoint when it is called with the same arguments again, and ends with the same bytes.

    Beside ``out`` lie ``.NAME.job`` while it trains, and ``NAME.tensorboard`` where TensorBoard is asked for. Where
    ``$DISTILL_STORE`` names a folder, tokenised rows are kept there for other trainings, else in the job.

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
    config, training, pruned = prepare_weak_labels(config, training, task=task, seed=seed)
    traces = None
    if isinstance(config, EncoderConfig) and config.traces is not None:
        training, counts = fit_traces(training, task)
        traces = traces_info(config.traces, training, counts=counts, task=task)
    job = _job(config, task=task, out=out, seed=seed)
    with _begun(job, training):
        if isinstance(config, CausalConfig) and config.teacher_logprobs is not None:
            from distill.students.causal.teacher import make_missing

            make_missing(job, config.teacher_logprobs)
        result = _trained(job, on_progress)
        info = replace(_info(job, task=task, training=training, result=result), traces=traces)
        info.write(job.student_folder)
        write_brands(task, job.student_folder)
        student = load_student(job.student_folder)
        info = _set_right(student, config, calibration, training)
        info = replace(info, traces=with_threshold(student, training))
        info.write(job.student_folder)
        if pruned is not None:
            pruned.write_parquet(job.student_folder / PRUNED_FILE)
        write_card(job.student_folder, info, name=out.name)
        if out.exists():
            shutil.rmtree(out)
        job.student_folder.replace(out)
    return FitResult(
        path=out,
        parameters=info.parameters,
        rows=training.train.height,
        steps=result.steps,
        seconds=time.perf_counter() - started,
        best_epoch=result.best_epoch,
        precision=result.precision,
        calibration=info.calibration,
        abstention=info.abstention,
        history=result.history,
        pruned=0 if pruned is None else pruned.height,
        resumed_at=result.resumed_at,
        facts=result.facts,
        traces=info.traces,
        parts=info.parts,
    )


def _job(config: StudentConfig, *, task: Task, out: Path, seed: int) -> Job:
    store = os.environ.get("DISTILL_STORE")
    return Job(
        out.with_name(f".{out.name}.job"),
        config,
        labels=task.labels,
        inputs=task.inputs,
        seed=seed,
        positive=task.positive,
        ordered=task.ordered,
        asked=record_of(task),
        brands=brands_of(task),
        logs=out.with_name(f"{out.name}.tensorboard"),
        store=Path(store) if store else None,
    )


@contextmanager
def _begun(job: Job, training: TrainingSet) -> Iterator[None]:
    """The job's folder, beside the student so that moving that there is one rename; gone when the training is over.

    A folder that a killed process left is taken up where it holds this very job, and replaced where it does not. One
    whose training was cut off stays if there is a checkpoint in it: by Ctrl-C, by memory or a device that gave out, by
    another process or machine that was lost. What distill itself refuses it would refuse again, and nothing stays.
    """
    fingerprint = job.fingerprint(training, processes=processes_of(job.config))
    if job.is_under_way(fingerprint):
        shutil.rmtree(job.student_folder, ignore_errors=True)
    else:
        shutil.rmtree(job.folder, ignore_errors=True)
        if job.logs is not None:
            shutil.rmtree(job.logs, ignore_errors=True)
        job.write(training, fingerprint=fingerprint)
    try:
        yield
    except BaseException as error:
        from distill.students.training.checkpoints import newest_checkpoint

        refused = isinstance(error, DistillError) and not isinstance(error, _ProcessLostError)
        if refused or newest_checkpoint(job.checkpoints) is None:
            shutil.rmtree(job.folder, ignore_errors=True)
        raise
    shutil.rmtree(job.folder, ignore_errors=True)


def processes_of(config: StudentConfig) -> int:
    """How many processes train: what ``devices`` says, and for ``auto`` as many as there are GPUs, or one.

    Inside a torchrun its processes train, whatever is said.
    """
    world = current_world()
    if world is not None:
        return world.processes
    if config.devices != "auto":
        return config.devices
    import torch

    return max(1, torch.cuda.device_count())


def _info(job: Job, *, task: Task, training: TrainingSet, result: JobResult) -> StudentInfo:
    packages = ("distill", "torch", "transformers", "polars")
    settings = job.config.model_dump(mode="json")
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
        groups=training.group_counts,
        config={name: value for name, value in settings.items() if name not in _OF_QUERIES or value is not None},
        asked=job.asked,
        parts=None if job.asked is None else first_infos(task, result.facts),
        format_version=FORMAT_VERSION if job.asked is None else PARTS_FORMAT_VERSION,
        facts=result.facts,
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )


class _HeldOut(NamedTuple):
    """Rows that the student has not learned from, with targets, and where these are from."""

    rows: pl.DataFrame
    source: str

    @property
    def enough(self) -> bool:
        """Whether they say anything."""
        return self.rows.height >= FEWEST_ROWS

    @property
    def target(self) -> np.ndarray:
        """``[N, K]``."""
        return np.array(self.rows["target"].to_list())

    @property
    def weight(self) -> np.ndarray | None:
        """``[N]``; None where rows weigh the same."""
        return self.rows["weight"].to_numpy() if "weight" in self.rows.columns else None


def _held_out(student: Student, gold: pl.DataFrame | None, training: TrainingSet) -> _HeldOut:
    if gold is not None:
        known = gold.filter(pl.col("gold").is_in(list(student.task.labels)))
        if known.height >= FEWEST_ROWS:
            return _HeldOut(
                known.with_columns(target=one_hot(pl.col("gold"), labels=student.task.labels)), "audit gold"
            )
    return _HeldOut(training.validation, "validation")


def _widened(student: Student, config: StudentConfig, training: TrainingSet, held_out: _HeldOut) -> Student:
    """The student with a linear model beside its network, where its section and task have one."""
    section = config.wide
    if section is None or student.info.parts is not None or len(student.task.inputs) < 2:
        return student
    part = fit_wide(section, training.train, inputs=student.task.inputs, seed=student.info.seed)
    if section.share is None and held_out.enough:
        rows, weight = held_out.rows, held_out.weight
        share = best_share(
            student.logits(rows),
            part.logits(rows),
            held_out.target,
            group=rows["group"].to_numpy(),
            weight=np.ones(rows.height) if weight is None else weight,
        )
        part = replace(part, share=share)
    if part.share == 0.0:  # nothing to keep, nor a sentence encoder to carry
        return Student(student.path, replace(student.info, wide_share=0.0), student.network)
    part.save(student.path)
    parameters = student.info.parameters + part.parameters
    info = replace(student.info, format_version=PARTS_FORMAT_VERSION, wide_share=part.share, parameters=parameters)
    # Read back, since the sentence encoder is kept in half precision.
    return Student(student.path, info, student.network, wide=WidePart.load(student.path))


def _set_right(
    student: Student, config: StudentConfig, gold: pl.DataFrame | None, training: TrainingSet
) -> StudentInfo:
    """Widens and calibrates, and finds the threshold to abstain by, on rows that the student has not learned from."""
    if student.info.parts is not None:
        return replace(student.info, parts=fit_parts(student, config, gold, training))
    held_out = _held_out(student, gold, training)
    student = _widened(student, config, training, held_out)
    calibration, abstention = Calibration(method="none"), None
    if held_out.enough:
        logits, target, group = student.logits(held_out.rows), held_out.target, held_out.rows["group"].to_numpy()
        calibration = fit_calibration(
            logits,
            target,
            group=group,
            source=held_out.source,
            weight=held_out.weight,
            keep_labels=config.abstain is not None,
        )
    if config.abstain is not None:
        abstention = Abstention(risk=config.abstain.risk, confidence=config.abstain.confidence)
        if held_out.source == "audit gold":
            abstention = fit_abstention(
                logits,
                target.argmax(axis=1),
                group=group,
                risk=config.abstain.risk,
                confidence=config.abstain.confidence,
                source=held_out.source,
            )
    return replace(student.info, calibration=calibration, abstention=abstention)


def _trained(job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
    world = current_world()
    if world is not None:
        return world.train(job, on_progress)
    return train(job, on_progress=on_progress) if processes_of(job.config) == 1 else _torchrun(job, on_progress)


def _torchrun(job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
    """Trains in as many processes as the job has devices, on this machine."""
    import torch

    processes = processes_of(job.config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "distill.students.train", str(job.folder.resolve())]
    threads = max(1, (job.config.threads or torch.get_num_threads()) // processes)
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
            raise _why(job, status, errors)
    return job.read_result()


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends torchrun, which ends its workers; matters when the caller is interrupted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


class _ProcessLostError(StudentError):
    """A process ended without a word of ours: killed, or out of memory."""


def _why(job: Job, status: int, errors: IO[str]) -> StudentError:
    message = job.folder / ERROR_FILE
    if message.is_file():
        return StudentError(message.read_text(encoding="utf-8"))
    errors.seek(0)
    return _ProcessLostError(
        f"training: torchrun with {processes_of(job.config)} processes ended with status {status}; run the same again "
        "to go on from the last checkpoint, or set devices: 1 to see where it fails; last words: "
        f"{errors.read()[-_REPORTED_STDERR:].strip()}"
    )
