"""Trains the student of a job folder, in this process or in each of those that torchrun starts.

``torchrun --nproc_per_node=2 -m distill.students.train JOB`` does what :func:`distill.students.fit.fit_student` does
where more than one device is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from distill.labeling.errors import DistillError
from distill.students.config import CausalConfig, DcnConfig, EncoderConfig, StudentConfig
from distill.students.job import FitProgress, Job, JobResult
from distill.students.network import Network
from distill.students.objective import Objective, objective_for
from distill.students.surroundings import environment_kept, quiet, seeded, threads_set
from distill.students.training_set import smooth, weigh_by_confidence

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from distill.students.batches import Examples

PROGRESS_MARK = "@progress "
"""Starts a line of standard output that carries a :class:`FitProgress` as JSON."""
ERROR_FILE = "error.txt"
"""Where a failed process of torchrun leaves the message for the one that started it."""


def train(job: Job, *, on_progress: Callable[[FitProgress], None] | None = None) -> JobResult:
    """Trains the job's student and writes it and the result into the job folder, from the first process only.

    Threads, random states, environment and log levels are as before afterwards.

    Raises:
        StudentError: The base cannot be loaded, or the loss is not a number.
    """
    with quiet(), environment_kept(), threads_set(job.config.threads), seeded(job.seed):
        return _train(job, on_progress)


def new_network(
    config: StudentConfig, *, labels: tuple[str, ...], inputs: tuple[str, ...], rows: pl.DataFrame
) -> Network:
    """An untrained student (the encoder: pretrained, with a new head), drawn from torch's global generator.

    Args:
        config: What to train.
        labels: The task's labels.
        inputs: Input columns, the query first.
        rows: Training rows, from which a base made on the spot learns its vocabulary.
    """
    if isinstance(config, CausalConfig):
        from distill.students.causal import CausalNetwork

        return CausalNetwork.from_base(config, labels=labels, inputs=inputs, texts=rows)
    if isinstance(config, EncoderConfig):
        from distill.students.encoder import EncoderNetwork

        return EncoderNetwork.from_base(config, labels=labels, inputs=inputs)
    from distill.students.dcn_network import DcnNetwork

    return DcnNetwork(config, labels=len(labels), inputs=inputs)


def computes_in_bf16(network: Network, precision: str) -> bool:
    """Whether to autocast: asked for, or ``auto`` on hardware that multiplies bfloat16 natively."""
    import torch

    if precision != "auto" or not network.bf16_speeds_up:
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _train(job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
    from distill.students.trainer import BestEpoch, DistributionTrainer, Reporter, training_arguments

    config = job.config
    rows = job.rows()
    network = new_network(config, labels=job.labels, inputs=job.inputs, rows=rows.train)
    objective = objective_for(config)
    train_examples = _examples(network, rows.train, config, objective)
    facts = dict(objective.facts)
    validation = None if rows.validation.is_empty() else _examples(network, rows.validation, config, objective)
    network.prepare(train_examples.examples)
    bf16 = computes_in_bf16(network, "fp32" if isinstance(config, DcnConfig) else config.precision)
    steps = config.epochs * -(-len(train_examples) // config.batch_size)
    arguments = training_arguments(
        config, folder=job.folder / "trainer", steps=steps, validate=validation is not None, seed=job.seed, bf16=bf16
    )
    best = BestEpoch(patience=config.early_stopping)
    callbacks: list[TrainerCallback] = [best]
    if on_progress is not None:
        callbacks.append(Reporter(on_progress, rows=len(train_examples), epochs=config.epochs))
    trainer = DistributionTrainer(
        network,
        config=config,
        objective=objective,
        arguments=arguments,
        train=train_examples,
        validation=validation,
        callbacks=callbacks,
    )
    trainer.train()
    network.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).cpu()
    result = JobResult(
        parameters=sum(parameter.numel() for parameter in network.model.parameters()),
        steps=trainer.state.global_step,
        best_epoch=best.best_epoch,
        precision="bf16" if bf16 else "fp32",
        history=tuple(best.history),
        facts=facts,
    )
    if trainer.is_world_process_zero():
        network.save(job.student_folder)
        job.write_result(result)
    return result


def _examples(network: Network, table: pl.DataFrame, config: StudentConfig, objective: Objective) -> Examples:
    from distill.students.batches import Examples

    table = smooth(table, share=config.label_smoothing)
    table = weigh_by_confidence(table) if config.confidence_weight else table
    return Examples(objective.read(network, table), objective.columns(table))


def main(arguments: list[str] | None = None) -> int:
    """What ``python -m distill.students.train JOB`` does; progress goes to standard output, one JSON a line."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: torchrun --nproc_per_node=N -m distill.students.train JOB_FOLDER", file=sys.stderr)
        return 2
    folder = Path(given[0])
    first = int(os.environ.get("RANK", "0")) == 0
    try:
        with _process_group():
            train(Job.read(folder), on_progress=_print_progress if first else None)
    except DistillError as error:
        if first:
            (folder / ERROR_FILE).write_text(str(error), encoding="utf-8")
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _print_progress(progress: FitProgress) -> None:
    print(PROGRESS_MARK + json.dumps(asdict(progress)), flush=True)


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Takes the group down that the Trainer sets up under torchrun, so that no process waits for a gone one."""
    import torch.distributed as distributed

    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
