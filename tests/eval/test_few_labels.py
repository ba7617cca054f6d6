from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate
from distill.eval.few_labels import FewLabels, measure_few_labels, partly_labeled
from distill.labeling.errors import DataError

LABELS = ("exact", "substitute", "complement", "irrelevant")
QUICK = EvalConfig(bootstrap=200)


def _world(make_rows, *, seed: int, share: float, count: int = 600):
    """Rows whose gold is known for a part, two students, merged labels, and the gold of all."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])
    known = rng.random(count) < share
    rows = make_rows(
        [LABELS[label] if told else None for label, told in zip(gold, known, strict=True)],
        group=[f"g{row // 4:03d}" for row in range(count)],
    )
    said = {}
    for name, skill in (("weak", 0.6), ("strong", 1.6), ("merged", 2.5)):
        scores = rng.normal(size=(count, 4))
        scores[np.arange(count), gold] += skill
        probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        said[name] = pl.DataFrame(
            {
                "row_id": rows["row_id"],
                "label": [LABELS[label] for label in probs.argmax(axis=1)],
                "probs": probs.tolist(),
            }
        )
    return rows, said, gold


def _measure(rows, said, task, **changes) -> FewLabels:
    students = {name: said[name] for name in ("weak", "strong")}
    settings = {"task": task, "truth_source": "human", "labels": said["merged"], "config": QUICK} | changes
    return measure_few_labels(students, rows, compare=[("strong", "weak")], **settings)


def test_only_a_part_with_enough_gold_calls_for_it(make_rows):
    assert not partly_labeled(make_rows(["exact"] * 20))
    assert not partly_labeled(make_rows([None] * 20))
    assert not partly_labeled(make_rows(["exact"] * 9 + [None] * 11))  # below ten
    assert not partly_labeled(make_rows(["exact"] * 10 + [None] * 10, group=["a"] * 10 + ["b"] * 10))
    assert partly_labeled(make_rows(["exact"] * 10 + [None] * 10))
    assert not partly_labeled(make_rows(["exact"] * 10 + [None] * 10, split=["train"] * 20))


def test_guesses_make_labels_go_further_and_stay_on_the_truth(make_rows, task):
    rows, said, gold = _world(make_rows, seed=0, share=0.2)
    found = _measure(rows, said, task)
    assert (found.rows, found.labeled, found.drawn) == (600, rows["gold"].count(), False)
    codes = np.array([LABELS.index(label) for label in said["strong"]["label"]])
    for metric, truth in (("accuracy", codes == gold), ("positive_accuracy", (codes == 0) == (gold == 0))):
        one = found.quality["strong"][metric]
        assert one.estimate.low < truth.mean() < one.estimate.high
        assert one.estimate.high - one.estimate.low < one.labels_alone.high - one.labels_alone.low
        assert one.as_good_as == round(one.worth * found.labeled) > found.labeled
    assert found.metric == "positive_accuracy"
    assert found.prevalence.estimate.low < (gold == 0).mean() < found.prevalence.estimate.high
    assert found.prevalence.worth > 2  # the merged label is right on most rows
    assert FewLabels.model_validate_json(found.model_dump_json()) == found


def test_labels_alone_are_the_plain_share(make_rows, task):
    rows, said, _ = _world(make_rows, seed=1, share=0.2)
    found = _measure(rows, said, task)
    plain = evaluate(said["weak"], rows, task=task, truth_source="human", config=QUICK)
    for metric in ("accuracy", "positive_accuracy"):
        alone = found.quality["weak"][metric].labels_alone
        assert alone.value == pytest.approx(plain.metrics[metric].value)


def test_weights_give_the_weighted_share(make_rows, task):
    rows, said, _ = _world(make_rows, seed=2, share=0.3)
    rows = rows.with_columns(weight=pl.Series(np.random.default_rng(2).integers(1, 9, 600).astype(float)))
    found = _measure(rows, said, task).quality["strong"]["accuracy"]
    weighted = evaluate(said["strong"], rows, task=task, truth_source="human", config=QUICK).metrics["accuracy"]
    assert found.labels_alone.value == pytest.approx(weighted.value)
    even = _measure(rows, said, task, config=EvalConfig(weighted=False)).quality["strong"]["accuracy"]
    assert even.labels_alone.value != pytest.approx(weighted.value)


def test_where_two_say_the_same_there_is_no_difference_whoever_is_right(make_rows, task):
    rows, said, gold = _world(make_rows, seed=3, share=0.3)
    (found,) = _measure(rows, said, task).differences
    assert (found.better, found.than, found.metric) == ("strong", "weak", "positive_accuracy")
    sides = [(said[name]["label"] == "exact").to_numpy() == (gold == 0) for name in ("strong", "weak")]
    truth = sides[0].mean() - sides[1].mean()
    assert found.found.estimate.low < truth < found.found.estimate.high
    twice = measure_few_labels(
        {"a": said["weak"], "b": said["weak"]}, rows, task=task, truth_source="human", compare=[("a", "b")]
    )
    same = twice.differences[0].found.estimate
    assert same.value == 0.0 and same.low < 0.0 < same.high  # nothing seen is not nothing there


def test_precision_is_of_the_first_rows_of_each_query(make_rows, task):
    # three queries of five rows, the first exact in two of them; ten labels in all
    gold = ["exact", "irrelevant", None, None, "irrelevant"] * 2 + ["irrelevant"] * 5
    rows = make_rows(gold, group=["a"] * 5 + ["b"] * 5 + ["c"] * 5)
    probs = [[0.9 - 0.1 * (row % 5), 0.1 * (row % 5), 0.1, 0.0] for row in range(15)]
    table = pl.DataFrame({"row_id": rows["row_id"], "label": "exact", "probs": probs})
    many = pl.concat(
        [rows.with_columns(row_id=pl.col("row_id") + str(n), group=pl.col("group") + str(n)) for n in range(5)]
    )
    said = pl.concat([table.with_columns(row_id=pl.col("row_id") + str(n)) for n in range(5)])
    found = measure_few_labels({"s": said}, many, task=task, truth_source="human", config=QUICK).quality["s"]
    assert found["precision@1"].labels_alone.value == pytest.approx(2 / 3)
    assert found["precision@1"].labeled == 15  # one a query
    # of the first five of a and b three are labeled, one of them exact; of c five, none
    assert found["precision@5"].labels_alone.value == pytest.approx(2 / 11)
    assert "precision@10" not in found


def test_rows_drawn_on_purpose_count_by_their_chance(make_rows, task):
    """Doubtful rows are drawn five times as often: the plain share is off, the one by chance is not."""
    rows, said, _ = _world(make_rows, seed=4, share=1.0, count=2000)
    right = (said["weak"]["label"] == rows["gold"]).to_numpy()
    sure = said["weak"]["probs"].list.max().to_numpy()
    chance = np.where(sure < np.median(sure), 0.5, 0.1)
    values, naive = [], []
    for seed in range(30):
        drawn = pl.Series(np.random.default_rng(seed).random(2000) < chance)
        part = rows.with_columns(
            gold=pl.when(drawn).then(pl.col("gold")), chance=pl.when(drawn).then(pl.Series(chance))
        )
        found = measure_few_labels({"weak": said["weak"]}, part, task=task, truth_source="human", config=QUICK)
        assert found.drawn
        values.append(found.quality["weak"]["accuracy"].estimate.value)
        naive.append(right[drawn.to_numpy()].mean())
    error = np.std(values) / np.sqrt(30)
    assert np.mean(values) == pytest.approx(right.mean(), abs=3 * error)
    assert abs(np.mean(naive) - right.mean()) > 6 * error
    # the plain evaluation undoes the draw too, by weight
    plain = evaluate(said["weak"], part, task=task, truth_source="human", config=QUICK).metrics["accuracy"].value
    assert plain == pytest.approx(found.quality["weak"]["accuracy"].labels_alone.value)


def test_gold_without_a_chance_was_labeled_for_certain(make_rows, task):
    rows, said, _ = _world(make_rows, seed=5, share=0.5)
    some = rows.with_columns(chance=pl.when(pl.col("gold").is_not_null() & (pl.col("row_id") < "r300")).then(0.25))
    whole = rows.with_columns(chance=pl.when(pl.col("row_id") < "r300").then(0.25).otherwise(1.0))
    assert _measure(some, said, task) == _measure(whole, said, task)
    with pytest.raises(DataError, match="chance"):
        _measure(rows.with_columns(chance=pl.lit(0.0)), said, task)


def test_a_predictor_without_probabilities_has_the_merged_labels_for_a_guess(make_rows, task):
    rows, said, _ = _world(make_rows, seed=6, share=0.2)
    bare = {"s": said["strong"].drop("probs")}
    found = measure_few_labels(bare, rows, task=task, truth_source="human", labels=said["merged"]).quality["s"]
    assert found["accuracy"].worth > 1.2
    assert not any(name.startswith("precision") for name in found)  # nothing to rank by
    alone = measure_few_labels(bare, rows, task=task, truth_source="human").quality["s"]["accuracy"]
    assert alone.worth == pytest.approx(1.0, abs=0.05)  # strata alone, and nothing to guess by
