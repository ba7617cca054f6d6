import numpy as np
import polars as pl
import pytest

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.confident_learning import confident_joint, label_issues, out_of_fold_probs
from distill.students.training_set import TrainingSet, training_set

# Rows given label 0 have a mean P(0) of (0.9 + 0.8 + 0.1 + 0.4) / 4 = 0.55, those given 1 a mean P(1) of
# (0.9 + 0.7 + 0.2) / 3 = 0.6. At least that: rows 0 and 1 of label 0, row 2 (0.9) and row 3 (0.6) of label 1; of those
# given 1, rows 4 and 5 of label 1 and row 6 (0.8) of label 0.
GIVEN = np.array([0, 0, 0, 0, 1, 1, 1])
PROBS = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])


def test_confident_joint_counts_by_the_labels_own_mean() -> None:
    assert confident_joint(GIVEN, PROBS) == pytest.approx(np.array([[2.0, 2.0], [1.0, 2.0]]))


def test_unsure_rows_share_what_the_sure_ones_say() -> None:
    probs = PROBS.copy()
    probs[3] = [0.46, 0.54]  # mean P(0) is 0.565 now; 0.54 is below the 0.6 of label 1: sure of nothing
    # Label 0 is given four times, three of them surely: 2 and 1 become 8/3 and 4/3.
    assert confident_joint(GIVEN, probs) == pytest.approx(np.array([[8 / 3, 4 / 3], [1.0, 2.0]]))


def test_issues_are_the_most_contradicted_so_many() -> None:
    assert np.flatnonzero(label_issues(GIVEN, PROBS, most=0.9)).tolist() == [2, 3, 6]
    # Margins are 0.8, 0.2 and 0.6; 0.3 of seven rows is two.
    assert np.flatnonzero(label_issues(GIVEN, PROBS, most=0.3)).tolist() == [2, 6]


def test_a_label_keeps_a_row_and_a_label_never_given_needs_none() -> None:
    probs = np.column_stack([PROBS, np.zeros(7)])
    found = label_issues(GIVEN, probs, most=0.9)
    assert np.flatnonzero(found).tolist() == [2, 3, 6]
    given, probs = np.array([0, 0, 1]), np.array([[0.3, 0.7], [0.4, 0.6], [0.2, 0.8]])
    # Label 0 (mean 0.35) and 1 (0.8): row 1 is surely 0, row 2 surely 1, row 0 neither.
    assert not label_issues(given, probs, most=0.9).any()


def _noisy(rows: pl.DataFrame, task: Task) -> tuple[TrainingSet, set[str]]:
    """The rule's own labels, but every ninth row says irrelevant for exact and the other way round."""
    known = rows.filter(pl.col("gold").is_not_null() & (pl.col("split") != "test"))
    wrong = {"exact": "irrelevant", "irrelevant": "exact", "substitute": "irrelevant"}
    said = [wrong[gold] if number % 9 == 0 else gold for number, gold in enumerate(known["gold"])]
    probs = [[float(name == label) for label in task.labels] for name in said]
    labels = pl.DataFrame({"row_id": known["row_id"], "label": said, "probs": probs})
    training = training_set(rows, train_on="labels", labels=labels, votes=None, task=task)
    return training, set(known["row_id"].gather_every(9))


def test_the_model_of_other_groups_finds_planted_mistakes(rows: pl.DataFrame, task: Task) -> None:
    training, planted = _noisy(rows, task)
    probs = out_of_fold_probs(training.train, inputs=task.inputs, folds=4, seed=0)
    assert probs.sum(axis=1) == pytest.approx(np.ones(training.train.height))
    given = np.array(training.train["target"].to_list()).argmax(axis=1)
    found = set(training.train["row_id"].to_numpy()[label_issues(given, probs, most=0.3)])
    # 8 of 64 rows are wrong: found at random, an eighth of the issues would be.
    assert len(found & planted) >= 6
    assert len(found & planted) / len(found) > 0.5


def test_one_group_cannot_be_judged_by_others(rows: pl.DataFrame, task: Task) -> None:
    training, _ = _noisy(rows, task)
    with pytest.raises(StudentError, match="got 1 group"):
        out_of_fold_probs(training.train.head(4), inputs=task.inputs, folds=4, seed=0)
