"""A killed training goes on from its last checkpoint and ends with the bytes of one that was not."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import distill
from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig, StudentConfig
from distill.students.fit import FitResult, fit_student
from distill.students.student import load_student
from distill.students.training.checkpoints import newest_checkpoint, read_ours, seal, write_ours
from distill.students.training.trainer import DistributionTrainer
from distill.students.training_set import TrainingSet, training_set

# Trains what the arguments say, and kills itself with SIGKILL before the given step.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import polars as pl
from pydantic import TypeAdapter
from distill.labeling.task import Task
from distill.students.training import trainer
from distill.students.config import StudentConfig
from distill.students.fit import fit_student
from distill.students.training_set import training_set

given = json.loads(sys.argv[1])
step = trainer.DistributionTrainer.training_step

def dies(self, *args, **options):
    if self.state.global_step == given["dies_at"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **options)

trainer.DistributionTrainer.training_step = dies
config = TypeAdapter(StudentConfig).validate_python(given["config"])
task = Task(labels=tuple(given["labels"]), inputs=tuple(given["inputs"]), positive="exact", ordered=True)
rows = pl.read_parquet(given["rows"])
training = training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.25)
fit_student(config, training, task=task, out=Path(given["out"]), seed=3)
"""


def _set(rows: pl.DataFrame, task: Task) -> TrainingSet:
    return training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.25)


def _weights(result: FitResult) -> str:
    return hashlib.sha256((result.path / "model.safetensors").read_bytes()).hexdigest()


def _killed(config: StudentConfig, rows: pl.DataFrame, task: Task, *, out: Path, dies_at: int) -> None:
    table = out.with_name("rows.parquet")
    rows.write_parquet(table)
    given = {
        "config": config.model_dump(mode="json"),
        "labels": task.labels,
        "inputs": task.inputs,
        "rows": str(table),
        "out": str(out),
        "dies_at": dies_at,
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(distill.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(given)], env=environment, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()[-2000:]


def _config(kind: str, base: Path) -> StudentConfig:
    shared: dict[str, Any] = {
        "train_on": ("human",),
        "validation": 0.25,
        "early_stopping": 3,
        "batch_size": 8,
        "checkpoint": {"every_steps": 4},
        "threads": 1,
    }
    if kind == "dcn":
        return DcnConfig(epochs=4, lr=3e-2, buckets=64, embedding_dim=4, hidden=(8,), dropout=0.3, **shared)
    return EncoderConfig(base=str(base), epochs=3, lr=1e-2, dropout=0.1, precision="fp32", **shared)


@pytest.mark.parametrize(("kind", "dies_at", "resumed_at"), [("dcn", 14, 12), ("encoder", 11, 8)])
def test_a_killed_training_ends_like_one_that_was_not(
    kind: str, dies_at: int, resumed_at: int, rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path
) -> None:
    # 36 rows in batches of 8 are five steps an epoch: step 12 is in the middle of the third, step 8 of the second.
    config = _config(kind, tiny_base)
    whole = fit_student(config, _set(rows, task), task=task, out=tmp_path / "whole", seed=3)
    _killed(config, rows, task, out=tmp_path / "killed", dies_at=dies_at)
    assert not (tmp_path / "killed").exists()
    resumed = fit_student(config, _set(rows, task), task=task, out=tmp_path / "killed", seed=3)
    assert (whole.resumed_at, resumed.resumed_at) == (0, resumed_at)
    assert _weights(resumed) == _weights(whole)
    assert (resumed.history, resumed.best_epoch, resumed.steps) == (whole.history, whole.best_epoch, whole.steps)
    assert load_student(resumed.path).info == load_student(whole.path).info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "rows.parquet", "whole"]


def test_ctrl_c_keeps_the_checkpoint_and_another_recipe_does_not_take_it_up(
    rows: pl.DataFrame, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config("dcn", tmp_path)
    step = DistributionTrainer.training_step

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 14:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DistributionTrainer, "training_step", interrupted)
        fit_student(config, _set(rows, task), task=task, out=tmp_path / "s", seed=3)
    assert newest_checkpoint(tmp_path / ".s.job" / "checkpoints") is not None
    changed = config.model_copy(update={"lr": 1e-2})
    assert fit_student(changed, _set(rows, task), task=task, out=tmp_path / "s", seed=3).resumed_at == 0
    assert not (tmp_path / ".s.job").exists()


@pytest.mark.parametrize(
    ("error", "resumed_at"),
    # A lost peer is gone the next time; what distill refuses it would refuse again.
    [(RuntimeError("Connection closed by peer"), 12), (StudentError("training: the loss is nan"), 0)],
)
def test_a_training_that_lost_another_process_goes_on(
    error: Exception,
    resumed_at: int,
    rows: pl.DataFrame,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = _config("dcn", tmp_path)
    step = DistributionTrainer.training_step

    def fails(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 14:
            raise error
        return step(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(DistributionTrainer, "training_step", fails)
        fit_student(config, _set(rows, task), task=task, out=tmp_path / "s", seed=3)
    assert (tmp_path / ".s.job").exists() is (resumed_at > 0)
    assert fit_student(config, _set(rows, task), task=task, out=tmp_path / "s", seed=3).resumed_at == resumed_at
    assert not (tmp_path / ".s.job").exists()


def test_only_a_whole_checkpoint_is_taken_up(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (8, 12, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert newest_checkpoint(tmp_path) is None
    state = {"rows": torch.arange(3)}
    write_ours(tmp_path / "checkpoint-12", best={"epoch": 1}, objective=state, process=0)
    seal(tmp_path / "checkpoint-12")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-12"]
    # One that was cut off by a kill has no marker yet.
    (tmp_path / "checkpoint-16").mkdir()
    found = newest_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-12"
    best, objective = read_ours(found, process=0)
    assert best == {"epoch": 1}
    assert objective["rows"].tolist() == [0, 1, 2]
