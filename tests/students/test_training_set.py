import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame
from distill.students.training_set import smooth, training_set, weigh

_KNOWN = ["confidence", "n_eff", "trace", "clauses"]


def _labels(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("row_id", label=pl.lit("substitute"), probs=pl.lit([0.2, 0.7, 0.1], dtype=pl.List(pl.Float64)))


def _votes(*votes: Vote) -> pl.DataFrame:
    return votes_frame(votes)


def test_human_is_the_gold_of_split_train_only(rows: pl.DataFrame, task: Task) -> None:
    found = training_set(rows, train_on="human", labels=None, votes=None, task=task).train
    gold = rows.filter(pl.col("split") == "train")
    assert found["row_id"].to_list() == gold["row_id"].to_list()
    assert found["target"].to_list() == [[float(name == label) for label in task.labels] for name in gold["gold"]]
    assert found.columns == ["row_id", "group", "query", "title", "brand", "target", "weight", "source", *_KNOWN]
    assert set(found["source"]) == {"human"}


def test_labels_are_those_of_every_split_but_test_and_the_judged_audit(rows: pl.DataFrame, task: Task) -> None:
    found = training_set(rows, train_on="labels", labels=_labels(rows), votes=None, task=task).train
    assert set(found["row_id"]) == set(rows.filter(pl.col("split").is_in(["train", "pool"]))["row_id"])
    assert found["target"].to_list()[0] == [0.2, 0.7, 0.1]


def test_a_teachers_samples_are_averaged_and_bare_labels_are_one_hot(rows: pl.DataFrame, task: Task) -> None:
    votes = _votes(
        Vote("0-0", "quick", "f", "labeled", label="exact", probs=[0.6, 0.3, 0.1], probs_source="verbal"),
        Vote("0-0", "quick", "f", "labeled", sample=1, label="substitute"),
        Vote("0-1", "quick", "f", "labeled", label="irrelevant"),
        Vote("0-2", "quick", "f", "failed", reason="down"),
        Vote("0-3", "other", "f", "labeled", label="exact"),
        Vote("20-0", "quick", "f", "labeled", label="exact"),
    )
    found = training_set(rows, train_on="quick", labels=None, votes=votes, task=task).train
    assert found["row_id"].to_list() == ["0-0", "0-1"]
    # ([0.6, 0.3, 0.1] + [0, 1, 0]) / 2
    assert found["target"].to_list()[0] == pytest.approx([0.3, 0.65, 0.05])
    assert found["target"].to_list()[1] == [0.0, 0.0, 1.0]


def test_the_first_source_with_a_target_wins(rows: pl.DataFrame, task: Task) -> None:
    found = training_set(rows, train_on=["human", "labels"], labels=_labels(rows), votes=None, task=task)
    assert found.counts == {"human": 48, "labels": 16}
    by_split = rows.join(found.train.select("row_id", "source"), on="row_id")
    assert set(by_split.filter(pl.col("split") == "train")["source"]) == {"human"}
    assert set(by_split.filter(pl.col("split") == "pool")["source"]) == {"labels"}
    other_way = training_set(rows, train_on=["labels", "human"], labels=_labels(rows), votes=None, task=task)
    assert other_way.counts == {"labels": 64}


def test_a_judged_group_of_audit_is_kept_for_calibrating(rows: pl.DataFrame, task: Task) -> None:
    # Four audit groups of four rows. The gold of one is taken away whole, that of another but for one row.
    unjudged = (pl.col("group") == "g12") | ((pl.col("group") == "g13") & (pl.col("row_id") != "13-0"))
    fewer = rows.with_columns(gold=pl.when(unjudged).then(None).otherwise(pl.col("gold")))
    found = training_set(fewer, train_on="labels", labels=_labels(rows), votes=None, task=task).train
    assert set(found["group"]) == {f"g{n}" for n in range(20)} - {"g13", "g14", "g15"}


def test_weights_keep_their_proportions_and_have_mean_one(rows: pl.DataFrame, task: Task) -> None:
    weighted = rows.with_columns(weight=pl.when(pl.col("row_id") == "0-0").then(5.0).otherwise(1.0))
    found = training_set(weighted, train_on="human", labels=None, votes=None, task=task).train
    assert found["weight"].mean() == pytest.approx(1.0)
    assert found["weight"][0] / found["weight"][1] == pytest.approx(5.0)


def test_rows_of_weight_zero_are_left_out(rows: pl.DataFrame, task: Task) -> None:
    found = training_set(
        rows.with_columns(weight=pl.when(pl.col("group") == "g0").then(0.0).otherwise(1.0)),
        train_on="human", labels=None, votes=None, task=task,
    ).train  # fmt: skip
    assert "g0" not in set(found["group"])


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.01, 0.89), seed=st.integers(0, 50))
def test_no_group_is_on_both_sides_of_the_validation_split(
    rows: pl.DataFrame, task: Task, share: float, seed: int
) -> None:
    found = training_set(
        rows, train_on="labels", labels=_labels(rows), votes=None, task=task, validation_share=share, seed=seed
    )
    train, validation = set(found.train["group"]), set(found.validation["group"])
    assert not train & validation
    assert len(train | validation) == 16
    assert train and validation
    assert abs(len(validation) - share * 16) <= 1


def test_the_validation_split_depends_on_the_seed_alone(rows: pl.DataFrame, task: Task) -> None:
    def held_out(table: pl.DataFrame, seed: int) -> set[str]:
        found = training_set(
            table, train_on="human", labels=None, votes=None, task=task, validation_share=0.3, seed=seed
        )
        return set(found.validation["group"])

    assert held_out(rows, 1) == held_out(rows.reverse(), 1)
    assert held_out(rows, 1) != held_out(rows, 2)


def test_confidence_weights(rows: pl.DataFrame, task: Task) -> None:
    votes = _votes(
        Vote("0-0", "quick", "f", "labeled", label="exact", probs=[0.8, 0.1, 0.1], probs_source="verbal"),
        Vote("0-1", "quick", "f", "labeled", label="exact", probs=[0.4, 0.3, 0.3], probs_source="verbal"),
    )
    found = weigh(training_set(rows, train_on="quick", labels=None, votes=votes, task=task).train, confidence=True)
    # 0.8 and 0.4, over their mean 0.6.
    assert found["weight"].to_list() == pytest.approx([4 / 3, 2 / 3])


def test_smoothing_spreads_a_share_evenly(rows: pl.DataFrame, task: Task) -> None:
    found = smooth(training_set(rows, train_on="human", labels=None, votes=None, task=task).train, share=0.3)
    # 0.7 * 1 + 0.3 / 3 and 0.3 / 3.
    assert found["target"].to_list()[0] == pytest.approx([0.8, 0.1, 0.1])


def test_nothing_left_is_one_clear_error(rows: pl.DataFrame, task: Task) -> None:
    with pytest.raises(StudentError, match=r"nothing to learn from in \['human'\].*0 gold labels in split 'train'"):
        training_set(
            rows.with_columns(gold=pl.lit(None, pl.String)), train_on="human", labels=None, votes=None, task=task
        )
    with pytest.raises(StudentError, match="'test' are never trained on"):
        only_test = rows.filter(pl.col("split") == "test")
        training_set(only_test, train_on="labels", labels=_labels(rows), votes=None, task=task)


def test_unknown_teachers_name_the_known_ones(rows: pl.DataFrame, task: Task) -> None:
    votes = _votes(Vote("0-0", "quick", "f", "labeled", label="exact"))
    with pytest.raises(StudentError, match="'qick'; name one of: human, labels, quick"):
        training_set(rows, train_on="qick", labels=None, votes=votes, task=task)
    with pytest.raises(StudentError, match="needs merged labels"):
        training_set(rows, train_on="labels", labels=None, votes=votes, task=task)


def test_labels_of_another_task_are_refused(rows: pl.DataFrame, task: Task) -> None:
    other = Task(labels=("exact", "irrelevant"), inputs=task.inputs)
    with pytest.raises(StudentError, match=r"human: labels outside the task's set .*\['substitute'\]"):
        training_set(rows, train_on="human", labels=None, votes=None, task=other)
    with pytest.raises(StudentError, match="labels outside"):
        training_set(rows, train_on="labels", labels=_labels(rows), votes=None, task=other)
    short = _labels(rows).with_columns(probs=pl.lit([0.5, 0.5], dtype=pl.List(pl.Float64)))
    with pytest.raises(StudentError, match="not 3 shares of one, first row '0-0'"):
        training_set(rows, train_on="labels", labels=short, votes=None, task=task)
