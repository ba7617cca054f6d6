"""Trains the student of a job folder, in this process or in each of those that torchrun starts.

``torchrun --nproc_per_node=2 -m distill.students.train JOB`` does what :func:`distill.students.fit.fit_student` does
where more than one device is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from distill.labeling.errors import DistillError
from distill.labeling.task import Task
from distill.students.config import CausalConfig, DcnConfig, EncoderConfig, StudentConfig
from distill.students.job import TRAIN, VALIDATION, FitProgress, Job, JobResult, table_digest
from distill.students.network import Example, Network
from distill.students.surroundings import environment_kept, quiet, seeded, threads_set
from distill.students.training.example_store import CHUNK_ROWS, ExampleStore, reading_key, shared_store
from distill.students.training.objective import Objective, objective_for
from distill.students.training_set import smooth, weigh

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from distill.students.similarity import Similarity
    from distill.students.training.batches import Examples
    from distill.students.training.vocabulary_cut import VocabularyCut

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
    with quiet(), environment_kept(), threads_set(_own_threads(job.config.threads)), seeded(job.seed):
        try:
            return _train(job, on_progress)
        finally:
            if job.config.trainer.get("deepspeed"):
                from distill.students.sharding import forget_deepspeed

                forget_deepspeed()


def _own_threads(threads: int | None) -> int | None:
    """This process's share of the training's CPU threads on this machine."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return threads if threads is None else max(1, threads // beside)


def new_network(
    config: StudentConfig,
    *,
    labels: tuple[str, ...],
    inputs: tuple[str, ...],
    rows: pl.LazyFrame,
    task: Task | None = None,
) -> Network:
    """An untrained student (the encoder: pretrained, with a new head), drawn from torch's global generator.

    Args:
        config: What to train.
        labels: The task's labels.
        inputs: Input columns, the query first.
        rows: Training rows, from which a base made on the spot learns its vocabulary.
        task: Where answers are no single label, what is answered; the heads' vocabulary comes from the rows then.
    """
    if isinstance(config, CausalConfig) and task is not None and not task.closed:
        from distill.students.causal.answers import CausalAnswers

        return CausalAnswers.for_task(config, task=task, rows=rows)
    if isinstance(config, CausalConfig):
        from distill.students.causal.network import CausalNetwork

        return CausalNetwork.from_base(config, labels=labels, inputs=inputs, rows=rows)
    if isinstance(config, EncoderConfig) and task is not None and not task.closed:
        from distill.students.queries.encoder import QueryNetwork

        return QueryNetwork.from_base(config, task=task, rows=rows)
    if isinstance(config, EncoderConfig):
        from distill.students.encoder import EncoderNetwork

        return EncoderNetwork.from_base(config, labels=labels, inputs=inputs)
    from distill.students.dcn_network import DcnNetwork

    return DcnNetwork(config, labels=len(labels), inputs=inputs)


def computes_in_bf16(network: Network | Similarity, precision: str) -> bool:
    """Whether to autocast: asked for, or ``auto`` on hardware that multiplies bfloat16 natively."""
    import torch

    if precision != "auto" or not network.bf16_speeds_up:
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _train(job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
    from distill.students.training.checkpoints import CheckpointClock, newest_checkpoint, step_of
    from distill.students.training.epochs import BestEpoch
    from distill.students.training.reporter import Reporter
    from distill.students.training.trainer import (
        DistributionTrainer,
        Material,
        batches_of,
        training_arguments,
    )

    config = job.config
    network = new_network(config, labels=job.labels, inputs=job.inputs, rows=job.scan(TRAIN), task=job.task)
    objective = objective_for(config, task=job.task)
    if objective.looks_at_all_rows:
        objective.start(network, job.rows())
    train_examples = read_examples(job, TRAIN, network=network, objective=objective)
    facts = dict(objective.facts)
    validation = read_examples(job, VALIDATION, network=network, objective=objective)
    network.prepare(train_examples.examples)
    vocabulary = _cut_vocabulary(network, objective, train_examples, validation)
    bf16 = computes_in_bf16(network, "fp32" if isinstance(config, DcnConfig) else config.precision)
    world = {"processes": int(os.environ.get("WORLD_SIZE", "1")), "process": int(os.environ.get("RANK", "0"))}
    together = objective.rows_together
    groups = train_examples.columns["group"] if together > 1 else None
    sizes = sizes_of(network, train_examples.examples)
    batches = batches_of(sizes, config=config, seed=job.seed, groups=groups, rows_together=together, **world)
    steps = config.epochs * -(-len(batches) // config.trainer.get("gradient_accumulation_steps", 1))
    if job.logs is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.logs)
    arguments = training_arguments(
        config, folder=job.checkpoints, steps=steps, validate=len(validation) > 0, seed=job.seed, bf16=bf16
    )
    best = BestEpoch(patience=config.early_stopping)
    callbacks: list[TrainerCallback] = []
    if config.checkpoint is not None:
        callbacks.append(CheckpointClock(config.checkpoint))
    if on_progress is not None:
        callbacks.append(Reporter(on_progress, rows=len(train_examples), epochs=config.epochs))
    material = Material(config, objective, train_examples, validation, batches, vocabulary)
    trainer = DistributionTrainer(network, material=material, arguments=arguments, best=best, callbacks=callbacks)
    checkpoint = newest_checkpoint(job.checkpoints)
    if checkpoint is None:
        trainer.train()
    else:
        trainer.resume(checkpoint)
    network.model = trainer.trained_model()
    if vocabulary is not None:
        vocabulary.restore()
    objective.finish(network)
    result = JobResult(
        parameters=sum(parameter.numel() for parameter in network.model.parameters()),
        steps=trainer.state.global_step,
        best_epoch=best.best_epoch,
        precision="bf16" if bf16 else "fp32",
        history=tuple(best.history),
        resumed_at=0 if checkpoint is None else step_of(checkpoint),
        facts=facts,
    )
    if trainer.is_world_process_zero():
        network.save(job.student_folder)
        job.write_result(result)
    return result


def read_examples(job: Job, part: str, *, network: Network, objective: Objective) -> Examples:
    """The examples of ``train`` or ``validation``, tokenised once and kept on disk, with the objective's numbers.

    Texts go through memory a stretch at a time. Of several processes one tokenises and the others wait.
    """
    from distill.students.training.batches import Examples

    config = job.config
    texts = {*job.inputs, "trace"}
    names = job.scan(part).collect_schema().names()
    kept = names if objective.columns_need_texts else [name for name in names if name not in texts]
    table = smooth(job.scan(part).select(kept).collect(), share=config.label_smoothing)
    if table.height and job.task.closed:  # the parts of an answer have been weighed one by one
        weights = {"confidence": config.confidence_weight, "n_eff": config.n_eff_weight}
        table = weigh(table, **weights, human_weight=config.human_weight)

    def stretches() -> Iterator[Sequence[Example]]:
        start = 0
        for rows in job.stretches(part, rows=CHUNK_ROWS):
            numbers = table[start : start + rows.height].select("target", "weight")
            yield objective.read(network, rows.with_columns(numbers))
            start += rows.height

    return Examples(_stored(job, part, network, objective, stretches), objective.columns(table))


def _stored(
    job: Job,
    part: str,
    network: Network,
    objective: Objective,
    stretches: Callable[[], Iterator[Sequence[Example]]],
) -> Sequence[Example]:
    """Examples on disk; in memory where they are of a kind that cannot be written."""
    # An objective with a way of reading of its own may read more than the inputs: its examples serve this job alone.
    reads_inputs_only = type(objective).read is Objective.read
    key = reading_key(network, [part_digest(job, part)]) if reads_inputs_only and job.store is not None else None
    try:
        if key is not None and job.store is not None:
            return shared_store(job.store, key, stretches(), network=network)
        return shared_store(job.folder / "examples", part, stretches(), network=network)
    except TypeError:
        return [example for stretch in stretches() for example in stretch]


def part_digest(job: Job, part: str) -> str:
    """Digest of the inputs of ``train`` or ``validation``, a stretch of rows at a time."""
    found = [table_digest(rows.select(job.inputs)) for rows in job.stretches(part, rows=CHUNK_ROWS)]
    return hashlib.blake2b("".join(found).encode(), digest_size=16).hexdigest()


def sizes_of(network: Network, examples: Sequence[Example]) -> np.ndarray:
    """Length of every example."""
    if isinstance(examples, ExampleStore):
        return examples.sizes
    return np.array([network.size(example) for example in examples], dtype=np.int32)


def _cut_vocabulary(network: Network, objective: Objective, *parts: Examples) -> VocabularyCut | None:
    """Cuts the embeddings where all token ids are in ``input_ids``, read by the network itself."""
    from distill.students.training.vocabulary_cut import cut_vocabulary

    own = type(objective).read is Objective.read or objective.reads_tokens_of_network
    if not own or not getattr(network, "vocabulary_can_be_cut", False):
        return None
    stores = [part.examples for part in parts if len(part)]
    if not all(isinstance(store, ExampleStore) for store in stores):
        return None
    ids = (piece for store in stores if isinstance(store, ExampleStore) for piece in store.values("input_ids"))
    return cut_vocabulary(getattr(network.model, "trunk", network.model), ids)


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
        if first and folder.is_dir():
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

    def is_up() -> bool:
        return distributed.is_available() and distributed.is_initialized()

    try:
        yield
        if is_up():
            # One that is done early would take connections down that another still uses, which aborts that one.
            distributed.barrier()
    finally:
        if is_up():
            distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
