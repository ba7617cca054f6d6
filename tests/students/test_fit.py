import dataclasses
import hashlib
import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.fit import FitResult, fit_student
from distill.students.job import FitProgress
from distill.students.student import load_student
from distill.students.training_set import TrainingSet, training_set

DCN = DcnConfig(train_on=("human",), epochs=15, lr=1e-2, batch_size=8, buckets=512, embedding_dim=4, hidden=(16,))


def _encoder(base: Path, **settings: Any) -> EncoderConfig:
    defaults: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "batch_size": 8, "precision": "fp32", "threads": 1}
    return EncoderConfig(train_on=("human",), base=str(base), **(defaults | settings))


def _set(rows: pl.DataFrame, task: Task, validation: float = 0.0) -> TrainingSet:
    return training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=validation)


def _weights(result: FitResult) -> str:
    return hashlib.sha256((result.path / "model.safetensors").read_bytes()).hexdigest()


def _accuracy(result: FitResult, rows: pl.DataFrame) -> float:
    test = rows.filter(pl.col("split") == "test")
    return float((load_student(result.path).predict(test)["label"] == test["gold"]).mean() or 0.0)


def test_dcn_learns_the_rule(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    result = fit_student(DCN, _set(rows, task), task=task, out=tmp_path / "dcn", seed=1)
    # Two of four titles are exact: the majority label is right half the time.
    assert _accuracy(result, rows) >= 0.9
    assert result.rows == 48
    assert result.steps == 15 * 6
    assert [record.epoch for record in result.history] == list(range(1, 16))
    assert result.history[-1].loss < result.history[0].loss / 2
    assert result.best_epoch == 15
    student = load_student(result.path)
    assert student.wide is not None
    shapes = [tensor.numel() for tensor in student.network.model.parameters()]
    assert result.parameters == student.parameters == sum(shapes) + student.wide.parameters


def test_default_dcn_has_about_1_3_million_parameters(rows: pl.DataFrame, tmp_path: Path) -> None:
    inputs = ("query", "title", "brand", "category", "attributes", "description")
    task = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=inputs)
    full = rows.with_columns(pl.lit("").alias(name) for name in inputs[3:])
    one_step = DcnConfig(epochs=1, batch_size=64)
    training = training_set(full, train_on="human", labels=None, votes=None, task=task)
    assert 1.2e6 < fit_student(one_step, training, task=task, out=tmp_path / "s", seed=0).parameters < 1.4e6


def test_encoder_learns_the_rule_from_match_tokens(
    rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path
) -> None:
    config = _encoder(tiny_base, epochs=20, lr=3e-3, head_lr_factor=5.0)
    assert _accuracy(fit_student(config, _set(rows, task), task=task, out=tmp_path / "e", seed=1), rows) >= 0.9


@pytest.mark.parametrize("kind", ["dcn", "encoder"])
def test_same_seed_same_bytes(kind: str, rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path) -> None:
    config = DCN.model_copy(update={"epochs": 2}) if kind == "dcn" else _encoder(tiny_base, dropout=0.1)
    found = []
    for number, seed in enumerate((3, 3, 4)):
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        result = fit_student(config, _set(rows, task), task=task, out=tmp_path / str(number), seed=seed)
        found.append(_weights(result))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_training_leaves_nothing_behind(
    rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    def state() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
            dict(os.environ),
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            logging.getLogger("accelerate").level,
            torch.are_deterministic_algorithms_enabled(),
        )

    before = state()
    capfd.readouterr()
    result = fit_student(
        _encoder(tiny_base, threads=torch.get_num_threads() + 1),
        _set(rows, task),
        task=task,
        out=tmp_path / "e",
        seed=1,
    )
    load_student(result.path).predict(rows.head(4))
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_progress_counts_to_the_end(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    seen: list[FitProgress] = []
    config = DCN.model_copy(update={"epochs": 2})
    fit_student(config, _set(rows, task, 0.25), task=task, out=tmp_path / "s", seed=1, on_progress=seen.append)
    # A quarter of the twelve groups is held out: 36 rows are left, five batches of eight an epoch.
    assert (seen[-1].step, seen[-1].total_steps, seen[-1].epoch, seen[-1].epochs) == (10, 10, 2, 2)
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)
    assert seen[-1].seconds_left == 0.0
    assert seen[-1].rows_per_s > 0
    assert seen[-1].loss is not None
    assert seen[-1].validation_loss is not None


def test_early_stopping_keeps_the_best_epoch(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    # Validation rows whose gold is shuffled: learning the rule soon makes their loss worse.
    training = _set(rows, task, 0.25)
    turned = training.validation.with_columns(target=pl.col("target").list.reverse())
    training = dataclasses.replace(training, validation=turned)
    config = DCN.model_copy(update={"epochs": 30, "early_stopping": 2, "validation": 0.25, "wide": None})
    result = fit_student(config, training, task=task, out=tmp_path / "s", seed=1)
    losses = [record.validation_loss for record in result.history]
    assert None not in losses
    assert result.best_epoch == losses.index(min(losses)) + 1  # type: ignore[type-var]
    assert len(losses) == result.best_epoch + 2 < 30
    # The kept weights are those of that epoch: a run that ends there has the same loss (the schedule differs, so
    # the loss of the saved student on the validation rows is compared with what was recorded).
    student = load_student(result.path)
    temperature = student.info.calibration.temperature
    probs = np.array(student.predict(turned)["probs"].to_list()) ** temperature
    probs /= probs.sum(axis=1, keepdims=True)
    log_loss = -(np.array(turned["target"].to_list()) * np.log(probs)).sum(axis=1).mean()
    assert log_loss == pytest.approx(min(losses), rel=1e-3)  # type: ignore[type-var]


def test_calibration_prefers_audit_gold_then_validation(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    gold = pl.concat([rows.filter(pl.col("split") == "audit")] * 2)
    config = DCN.model_copy(update={"epochs": 3})
    both = fit_student(config, _set(rows, task, 0.5), task=task, out=tmp_path / "a", seed=1, calibration=gold)
    assert (both.calibration.source, both.calibration.rows) == ("audit gold", 32)
    few = fit_student(config, _set(rows, task, 0.5), task=task, out=tmp_path / "b", seed=1, calibration=gold.head(19))
    assert (few.calibration.source, few.calibration.rows) == ("validation", 24)
    none = fit_student(config, _set(rows, task), task=task, out=tmp_path / "c", seed=1)
    assert (none.calibration.source, none.calibration.temperature) == ("none", 1.0)
    # The temperature is the one of least log loss on that gold: none on a grid does better.
    student = load_student(both.path)
    target = np.array([[float(name == label) for label in task.labels] for name in gold["gold"]])
    scores = student.logits(gold).astype(float)

    def cost(temperature: float) -> float:
        shifted = scores / temperature
        return float(-(target * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum())

    best = min(np.geomspace(0.05, 20, 400), key=cost)
    assert both.calibration.temperature == pytest.approx(best, rel=0.02)


def test_a_student_folder_says_what_it_is(rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = fit_student(_encoder(tiny_base), _set(rows, task), task=task, out=tmp_path / "e", seed=7)
    model = AutoModelForSequenceClassification.from_pretrained(result.path)
    tokenizer = AutoTokenizer.from_pretrained(result.path)
    assert model.config.id2label == dict(enumerate(task.labels))
    assert "[match:title.part=3]" in tokenizer.get_vocab()
    info = json.loads((result.path / "distill_student.json").read_text())
    assert info["labels"] == list(task.labels)
    assert (info["seed"], info["trained_on"], info["rows"]) == (7, ["human"], {"human": 48})
    assert info["versions"]["torch"] == torch.__version__
    assert load_student(result.path).task == dataclasses.replace(task)


def test_an_older_student_is_replaced(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    out = tmp_path / "students" / "dcn"
    (out / "old").mkdir(parents=True)
    fit_student(DCN.model_copy(update={"epochs": 1}), _set(rows, task), task=task, out=out, seed=1)
    assert not (out / "old").exists()
    assert load_student(out).info.type == "dcn"


def test_a_loss_that_is_no_number_stops_the_training(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    broken = DCN.model_copy(update={"lr": 1e30, "epochs": 3})
    with pytest.raises(
        StudentError, match=r"the loss is (nan|inf) at step \d+ of 18; lower students' lr \(now 1e\+30\)"
    ):
        fit_student(broken, _set(rows, task), task=task, out=tmp_path / "s", seed=1)
    assert list(tmp_path.iterdir()) == []


def test_no_rows_is_an_error(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    training = _set(rows, task)
    empty = dataclasses.replace(training, train=training.train.clear())
    with pytest.raises(StudentError, match="no rows to learn from"):
        fit_student(DCN, empty, task=task, out=tmp_path / "s", seed=1)


def test_a_query_alone_can_be_classified(rows: pl.DataFrame, tiny_base: Path, tmp_path: Path) -> None:
    task = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query",))
    for config in (DCN.model_copy(update={"epochs": 1}), _encoder(tiny_base)):
        result = fit_student(config, _set(rows, task), task=task, out=tmp_path / config.type, seed=1)
        assert load_student(result.path).predict(rows).height == rows.height


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # 36 training rows in batches of 5 do not divide by two: the padding row must count for nothing.
    training = _set(rows, task, 0.25)
    found, seen = [], []
    for devices in (1, 2):
        config = _encoder(
            tiny_base,
            epochs=3,
            batch_size=5,
            devices=devices,
            threads=devices,
            validation=0.25,
            early_stopping=2,
            trainer={"gradient_accumulation_steps": devices},
        )
        result = fit_student(
            config, training, task=task, out=tmp_path / str(devices), seed=5, on_progress=seen.append
        )  # fmt: skip
        found.append((load_file(result.path / "model.safetensors"), result))
    (one, one_result), (two, two_result) = found
    start = load_file(tiny_base / "model.safetensors")
    moved = max(float((one[f"bert.{name}"][: len(start[name])] - start[name]).abs().max()) for name in start)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert apart < 1e-4 < 1e-3 < moved
    assert one_result.steps == two_result.steps == 24
    for a, b in zip(one_result.history, two_result.history, strict=True):
        assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-3)
    assert seen[-1].step == 24


@pytest.mark.slow
def test_an_error_in_a_process_reaches_the_caller(
    rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path
) -> None:
    config = _encoder(tiny_base, devices=2, threads=2, lr=1e30)
    with pytest.raises(StudentError, match="the loss is"):
        fit_student(config, _set(rows, task), task=task, out=tmp_path / "s", seed=1)
