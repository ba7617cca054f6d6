from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.fit import fit_student
from distill.students.losses.config import ForwardCorrection, LossName
from distill.students.student import load_student
from distill.students.training_set import TrainingSet, training_set, weigh
from distill.students.weak_labels import PRUNED_FILE, confusion_of, prepare_weak_labels


def _labels(rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Merged labels of every row: the rule's by the number of the title, but exact is never told from substitute."""
    return rows.select(
        "row_id",
        label=pl.lit("exact"),
        probs=pl.when(pl.col("row_id").str.ends_with("-2"))
        .then(pl.lit([0.0, 0.1, 0.9]))
        .otherwise(pl.lit([0.6, 0.4, 0.0])),
        confidence=pl.lit(0.5),
        n_eff=pl.when(pl.col("row_id").str.ends_with("-2")).then(2.0).otherwise(1.0),
    )


def _set(rows: pl.DataFrame, task: Task, *train_on: str, validation: float = 0.0) -> TrainingSet:
    return training_set(
        rows, train_on=train_on, labels=_labels(rows, task), votes=None, task=task, validation_share=validation
    )


def test_paired_rows_are_those_with_gold_of_split_train(rows: pl.DataFrame, task: Task) -> None:
    training = _set(rows, task, "human", "labels")
    gold = rows.filter(pl.col("split") == "train")
    # People give the targets of these rows; what the labels say of them is kept beside it.
    assert training.paired["row_id"].to_list() == gold["row_id"].to_list()
    assert training.paired["gold"].to_list() == gold["gold"].to_list()
    assert set(training.paired["source"]) == {"labels"}
    assert training.paired["target"].to_list()[2] == [0.0, 0.1, 0.9]
    assert _set(rows, task, "human").paired.is_empty()


def test_paired_rows_are_not_of_held_out_groups(rows: pl.DataFrame, task: Task) -> None:
    training = _set(rows, task, "labels", validation=0.5)
    held_out = set(training.validation["row_id"])
    assert held_out
    assert not held_out & set(training.paired["row_id"])


def test_confusion_is_what_the_source_says_of_each_label(rows: pl.DataFrame, task: Task) -> None:
    paired = _set(rows, task, "labels").paired
    # 12 queries: 24 exact and 12 substitutes of which 0.6 / 0.4 is said, 12 irrelevant of which 0.1 / 0.9.
    found = confusion_of(paired, "labels", task=task, shrinkage=0.0)
    assert found.tolist() == [
        pytest.approx([0.6, 0.4, 0.0]),
        pytest.approx([0.6, 0.4, 0.0]),
        pytest.approx([0.0, 0.1, 0.9]),
    ]
    # Right are 24 * 0.6 + 12 * 0.4 + 12 * 0.9 = 30 of 48: a = 31 / 50, and (1 - a) / 2 = 0.19 beside it.
    shrunk = confusion_of(paired, "labels", task=task, shrinkage=12.0)
    assert shrunk[1].tolist() == pytest.approx([(7.2 + 12 * 0.19) / 24, (4.8 + 12 * 0.62) / 24, 12 * 0.19 / 24])


def test_a_label_without_gold_has_even_confusions(rows: pl.DataFrame, task: Task) -> None:
    paired = _set(rows, task, "labels").paired.filter(pl.col("gold") != "irrelevant")
    found = confusion_of(paired, "labels", task=task, shrinkage=0.0)
    # Right are 24 * 0.6 + 12 * 0.4 = 19.2 of 36: a = 20.2 / 38.
    right = 20.2 / 38
    assert found[2].tolist() == pytest.approx([(1 - right) / 2, (1 - right) / 2, right])


def test_confusions_need_rows_with_both(rows: pl.DataFrame, task: Task) -> None:
    without = rows.with_columns(gold=pl.lit(None, dtype=pl.String))
    config = DcnConfig.model_validate({"loss": "forward_correction"})
    with pytest.raises(StudentError, match=r"gold and a label of 'labels'.*give loss\.matrices"):
        prepare_weak_labels(config, _set(without, task, "labels"), task=task, seed=0)


def test_estimated_matrices_stand_in_the_section(rows: pl.DataFrame, task: Task) -> None:
    config = DcnConfig.model_validate({"train_on": ["human", "labels"], "loss": "forward_correction"})
    prepared = prepare_weak_labels(config, _set(rows, task, "human", "labels"), task=task, seed=0)
    assert isinstance(prepared.config.loss, ForwardCorrection)
    assert prepared.config.loss.matrices is not None
    assert list(prepared.config.loss.matrices) == ["labels"]
    assert prepared.pruned is None


def test_weights_by_effective_votes_and_people(rows: pl.DataFrame, task: Task) -> None:
    table = _set(rows, task, "human", "labels").train
    found = weigh(table, n_eff=True, human_weight=3.0)
    # People's rows have no n_eff and count as the best labels, 2 votes, three times: 6. Labels have 2 or 1.
    raw = [6.0 if source == "human" else n_eff for source, n_eff in zip(table["source"], table["n_eff"], strict=True)]
    mean = sum(raw) / len(raw)
    assert found["weight"].to_list() == pytest.approx([value / mean for value in raw])


def test_weights_by_confidence_take_the_labels_own(rows: pl.DataFrame, task: Task) -> None:
    table = _set(rows, task, "human", "labels").train
    found = weigh(table, confidence=True)["weight"]
    people = (table["source"] == "human").to_numpy()
    # People's rows at confidence 1, labels at 0.5.
    mean = people.mean() + 0.5 * (1 - people.mean())
    assert found.to_numpy() == pytest.approx(np.where(people, 1.0, 0.5) / mean)
    assert 0 < people.sum() < len(people)


LOSSES: list[Any] = [*get_args(LossName), {"type": "gce", "small_loss": {"drop": 0.3}}]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_student_learns_with_each_loss(loss: Any, rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    settings = {"epochs": 15, "lr": 1e-2, "batch_size": 8, "buckets": 512, "embedding_dim": 4, "hidden": [16]}
    # The gold of the other splits beside people's: half of the rows are titles that match exactly.
    known = rows.filter(pl.col("gold").is_not_null())
    probs = [[float(name == label) for label in task.labels] for name in known["gold"]]
    labels = known.select("row_id", label="gold", probs=pl.Series(probs))
    config = DcnConfig.model_validate(settings | {"train_on": ["labels"], "loss": loss})
    training = training_set(rows, train_on="labels", labels=labels, votes=None, task=task)
    result = fit_student(config, training, task=task, out=tmp_path / "s", seed=1)
    test = rows.filter(pl.col("split") == "test")
    assert float((load_student(result.path).predict(test)["label"] == test["gold"]).mean() or 0.0) >= 0.75


def test_pruned_rows_are_told_and_kept(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    rows = rows.with_columns(split=pl.col("split").replace("audit", "pool"))
    known = rows.filter(pl.col("gold").is_not_null())
    said = ["irrelevant" if number % 9 == 0 else gold for number, gold in enumerate(known["gold"])]
    probs = [[float(name == label) for label in task.labels] for name in said]
    labels = pl.DataFrame({"row_id": known["row_id"], "label": said, "probs": probs})
    training = training_set(rows, train_on=["human", "labels"], labels=labels, votes=None, task=task)
    training = TrainingSet(training.train.with_columns(source=pl.lit("labels")), training.validation)
    one = {"epochs": 1, "buckets": 64, "prune": {"folds": 3, "most": 0.1}}
    result = fit_student(DcnConfig.model_validate(one), training, task=task, out=tmp_path / "s", seed=1)
    pruned = pl.read_parquet(result.path / PRUNED_FILE)
    assert 0 < result.pruned == pruned.height <= 6
    assert result.rows == training.train.height - pruned.height
    assert pruned.columns == ["row_id", "group", "source", "label", "suspected", "probs"]
    assert (pruned["label"] != pruned["suspected"]).all()


def test_peoples_rows_are_never_pruned(rows: pl.DataFrame, task: Task) -> None:
    training = _set(rows, task, "human", "labels")
    config = DcnConfig.model_validate({"train_on": ["human", "labels"], "prune": {"most": 0.9}})
    prepared = prepare_weak_labels(config, training, task=task, seed=0)
    assert prepared.pruned is not None
    assert prepared.training.counts["human"] == training.counts["human"]
    assert set(prepared.pruned["source"]) <= {"labels"}
    assert prepared.training.train["weight"].mean() == pytest.approx(1.0)
