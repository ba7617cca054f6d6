import math

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.people import match_people, share_targets, targets_for
from distill.students.training_set import training_set


@pytest.fixture(scope="module")
def strict(task: Task) -> tuple[pl.DataFrame, pl.DataFrame]:
    """2,000 rows of 200 groups with people's labels on half of them, and a teacher that is e² times stricter.

    The teacher states ``softmax(z - (2, 0, 0))`` where people's labels are drawn from ``softmax(z)``.
    """
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2000, 3)) * 1.5
    truth, stated = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (scores, scores - np.array([2.0, 0, 0])))
    drawn = (rng.random((2000, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    rows = pl.DataFrame(
        {
            "row_id": [str(n) for n in range(2000)],
            "group": [f"g{n // 10}" for n in range(2000)],
            "split": ["train" if n % 20 < 10 else "test" for n in range(2000)],
            "gold": [task.labels[place] for place in drawn],
        }
    )
    labels = pl.DataFrame(
        {
            "row_id": rows["row_id"],
            "label": [task.labels[place] for place in stated.argmax(axis=1)],
            "probs": stated.tolist(),
            "confidence": stated.max(axis=1),
            "tie": [False] * 2000,
        }
    )
    return rows, labels


def test_a_strict_teacher_is_brought_to_what_people_say(strict: tuple[pl.DataFrame, pl.DataFrame], task: Task) -> None:
    rows, labels = strict
    found, fitted = match_people(labels, rows, task=task)
    assert (fitted.method, fitted.source, fitted.rows) == ("vector", "train gold", 1000)
    assert found.columns == labels.columns
    assert found["row_id"].to_list() == labels["row_id"].to_list()
    probs = np.array(found["probs"].to_list())
    assert probs.sum(axis=1) == pytest.approx(np.ones(2000))
    assert found["label"].to_list() == [task.labels[place] for place in probs.argmax(axis=1)]
    assert found["confidence"].to_list() == pytest.approx(probs.max(axis=1).tolist())
    # The test rows' gold was not looked at, and fits there too: people call a share exact that the teacher does not.
    test = rows["split"].to_numpy() == "test"
    exact = (rows["gold"] == "exact").to_numpy()[test].mean()
    assert np.array(labels["probs"].to_list())[test, 0].mean() < exact - 0.15
    assert probs[test, 0].mean() == pytest.approx(exact, abs=0.05)


def test_only_the_gold_of_split_train_is_looked_at(strict: tuple[pl.DataFrame, pl.DataFrame], task: Task) -> None:
    rows, labels = strict
    blind = rows.with_columns(gold=pl.when(pl.col("split") == "train").then(pl.col("gold")))
    assert match_people(labels, blind, task=task)[0].equals(match_people(labels, rows, task=task)[0])


def test_few_labels_of_people_map_nothing(strict: tuple[pl.DataFrame, pl.DataFrame], task: Task) -> None:
    rows, labels = strict
    found, fitted = match_people(labels, rows.head(19), task=task)
    assert found.equals(labels)
    assert fitted.source == "none"


def test_a_row_without_a_merged_label_stays_without(strict: tuple[pl.DataFrame, pl.DataFrame], task: Task) -> None:
    rows, labels = strict
    missing = pl.col("row_id") == "5"
    gap = labels.with_columns(
        pl.when(~missing).then(pl.col(name)).alias(name) for name in ("label", "probs", "confidence")
    )
    found, _ = match_people(gap, rows, task=task)
    assert found.filter(missing).row(0) == ("5", None, None, None, False)
    assert found["probs"].null_count() == 1


def test_the_target_of_a_row_with_both_is_their_mean(rows: pl.DataFrame, task: Task) -> None:
    labels = rows.filter(pl.col("row_id") != "0-1").select(
        "row_id", label=pl.lit("substitute"), probs=pl.lit([0.2, 0.7, 0.1])
    )
    both = training_set(rows, train_on=["human", "labels"], labels=labels, votes=None, task=task)
    shared = share_targets(both, labels, human_share=0.25).train
    # 0-0 is exact: .25 × (1, 0, 0) + .75 × (.2, .7, .1); 0-1 has no merged label; 16-0 is of the pool, without gold.
    targets = dict(zip(shared["row_id"], shared["target"].to_list(), strict=True))
    assert targets["0-0"] == pytest.approx([0.4, 0.525, 0.075])
    assert targets["0-1"] == [0.0, 1.0, 0.0]
    assert targets["16-0"] == [0.2, 0.7, 0.1]
    assert shared.drop("target").equals(both.train.drop("target"))
    assert share_targets(both, labels, human_share=1.0) is both


def test_a_section_puts_them_together(strict: tuple[pl.DataFrame, pl.DataFrame], task: Task) -> None:
    rows, labels = strict
    full = rows.with_columns(pl.lit(1.0).alias("weight"), *(pl.lit("x").alias(name) for name in task.inputs))
    config = DcnConfig(train_on=("human", "labels"), match_people=True, human_share=0.5)
    found = targets_for(config, full, labels=labels, votes=None, task=task, seed=0).train
    matched = match_people(labels, rows, task=task)[0].filter(pl.col("row_id") == "0")["probs"].to_list()[0]
    one_hot = [float(label == rows["gold"][0]) for label in task.labels]
    assert found["target"].to_list()[0] == pytest.approx([(a + b) / 2 for a, b in zip(one_hot, matched, strict=True)])
    assert math.isclose(sum(found["target"].to_list()[0]), 1.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_on": "human", "match_people": True}, "add labels to it"),
        ({"train_on": "labels", "human_share": 0.5}, r"human_share needs train_on: \[human, labels\]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DcnConfig.model_validate(settings)
