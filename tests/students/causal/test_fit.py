"""A causal student from rows to a folder that predicts."""

import itertools
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.students.calibration import calibrated
from distill.students.causal.reasoning import reason
from distill.students.config import CausalConfig
from distill.students.fit import fit_student
from distill.students.student import Student, load_student
from distill.students.training_set import TrainingSet, training_set
from distill.students.wide import mix

SETTINGS = {
    "base": "tiny",
    "tiny": {"vocabulary": 400, "hidden": 32, "layers": 2, "heads": 2},
    "train_on": "human",
    "precision": "fp32",
    "threads": 1,
    "batch_size": 8,
    "lr": 1e-2,
    "trace_tokens": 16,
}
TRACES = {
    "exact": "Acme is what was asked for.",
    "substitute": "Bolt comes near enough.",
    "irrelevant": "Nothing names its maker here.",
}


def _config(**settings):
    return CausalConfig.model_validate(SETTINGS | settings)


@pytest.fixture(scope="module")
def training(rows, task):
    """The brand tells the label here: what a layer can learn in a minute is not how words match."""
    known = rows.filter(pl.col("gold").is_not_null()).with_columns(split=pl.lit("train"))
    marked = known.with_columns(
        brand=pl.col("gold").replace_strict({"exact": "acme", "substitute": "bolt"}, default="")
    )
    made = training_set(marked, train_on="human", labels=None, votes=None, task=task, validation_share=0.2)
    label = pl.col("target").list.arg_max().replace_strict(dict(enumerate(TRACES.values())), return_dtype=pl.String)
    return TrainingSet(*(part.with_columns(trace=label) for part in (made.train, made.validation)))


@pytest.fixture(scope="module")
def reasoner(training, task, tmp_path_factory):
    config = _config(traces="before_label", epochs=24, validation=0.2)
    return fit_student(config, training, task=task, out=tmp_path_factory.mktemp("s") / "reasoner", seed=1)


def test_it_learns_to_label_to_reason_and_to_label_after_reasoning(reasoner, training, task):
    student = load_student(reasoner.path)
    unseen = training.validation
    label = unseen["target"].list.arg_max().to_list()
    gold = [task.labels[number] for number in label]
    fast, slow = student.predict(unseen), student.predict(unseen, traces=True)
    # Two of four rows are exact: the majority label is right half the time.
    assert (fast["label"] == pl.Series(gold)).mean() >= 0.9
    assert (slow["label"] == pl.Series(gold)).mean() >= 0.9
    assert (slow["trace"] == pl.Series([TRACES[name] for name in gold])).mean() >= 0.8
    assert slow.columns == [*fast.columns, "trace"]
    assert slow["probs"].list.sum().to_list() == pytest.approx([1.0] * unseen.height)


def test_prompts_for_a_server_are_those_it_learned_from(reasoner, training):
    student = load_student(reasoner.path)
    asked, asked_for_trace = student.prompts(training.validation), student.prompts(training.validation, traces=True)
    assert asked[0].endswith("\nAnswer with the letter of the label.")
    assert asked_for_trace[0].endswith("\nExplain which label fits, then answer with its letter.")
    assert len(set(asked)) == training.validation.height


def test_its_file_says_what_it_learned_from(reasoner, training):
    assert reasoner.facts == {"traces_learned": training.train.height}
    info = json.loads((reasoner.path / "distill_student.json").read_text())
    assert (info["type"], info["facts"], info["max_length"]) == ("causal", reasoner.facts, 256)
    assert reasoner.history[-1].validation_loss is not None
    assert reasoner.calibration.source == "validation" or reasoner.calibration.rows == 0


def test_traces_of_a_student_that_writes_none_are_refused(training, task, tmp_path):
    result = fit_student(_config(epochs=1), training, task=task, out=tmp_path / "plain", seed=1)
    student = load_student(result.path)
    with pytest.raises(StudentError, match=r"writes no traces .* traces: before_label"):
        student.predict(training.validation, traces=True)
    assert result.facts == {}


def test_a_linear_model_counts_at_once_and_after_a_trace(training, task, tmp_path):
    config = _config(traces="before_label", epochs=1, wide={"share": 0.5})
    path = fit_student(config, training, task=task, out=tmp_path / "both", seed=1).path
    both = load_student(path)
    few = training.validation.head(6)
    assert both.wide is not None
    alone = Student(path, replace(both.info, wide_share=None), both.network)
    linear = both.wide.logits(few)
    np.testing.assert_allclose(both.logits(few), mix(alone.logits(few), linear, 0.5), atol=1e-5)
    assert both.predict(few, traces=True)["trace"].to_list() == alone.predict(few, traces=True)["trace"].to_list()
    with torch.inference_mode():
        after = mix(reason(both.network, few, batch_size=6).logits, linear, 0.5)
    slow = np.array(both.predict(few, traces=True)["probs"].to_list())
    np.testing.assert_allclose(slow, calibrated(after, both.info.calibration), atol=1e-4)


def test_same_seed_same_bytes(training, task, tmp_path):
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        few = TrainingSet(training.train.head(16), training.validation.clear())
        config = _config(epochs=1, traces="multitask")
        result = fit_student(config, few, task=task, out=tmp_path / str(number), seed=seed)
        weights.append((result.path / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_predictions_of_a_file_carry_the_traces(reasoner, training, tmp_path):
    from distill.predict import predict_file

    training.validation.select("query", "title", "brand").head(3).write_csv(tmp_path / "new.csv")
    for out, traces in itertools.product(("p.parquet", "p.csv", "p.jsonl"), (True, False)):
        predict_file(reasoner.path, tmp_path / "new.csv", out=tmp_path / out, traces=traces)
        read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[out.split(".")[1]]
        found = read(tmp_path / out)
        assert found.height == 3
        assert ("trace" in found.columns) is traces
        if traces:
            assert set(found["trace"]) <= set(TRACES.values())


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(training, task, tmp_path):
    from safetensors.torch import load_file

    found = []
    # Every other row lacks a trace, and batches of five do not divide by two.
    part = training.train.with_row_index().with_columns(trace=pl.when(pl.col("index") % 2 == 0).then("trace"))
    few = TrainingSet(part.drop("index"), training.validation)
    for devices in (1, 2):
        config = _config(epochs=2, traces="before_label", devices=devices, threads=devices, batch_size=5, lr=1e-3)
        result = fit_student(config, few, task=task, out=tmp_path / str(devices), seed=5)
        found.append((load_file(result.path / "model.safetensors"), result))
    (one, one_result), (two, two_result) = found
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert one_result.facts == two_result.facts == {"traces_learned": 32, "traces_absent": 32}
    assert one_result.history[-1].loss == pytest.approx(two_result.history[-1].loss, rel=1e-3)
