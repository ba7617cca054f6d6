from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval import metrics
from distill.eval.config import EvalConfig
from distill.eval.evaluation import Evaluation, evaluate, paired_difference, primary_metric
from distill.eval.intervals import Resamples
from distill.eval.scored import collapse_votes, predictions_from_votes, rows_with_merged_truth, score_rows
from distill.labeling.errors import DataError
from distill.labeling.task import Task

LABELS = ("exact", "substitute", "complement", "irrelevant")


def predictions(*said):
    """``(label, confidence)`` for r000, r001 …; the rest of the mass is spread evenly."""
    probs = []
    for label, sure in said:
        line = [(1 - sure) / 3] * 4
        line[LABELS.index(label)] = sure
        probs.append(line)
    return pl.DataFrame(
        {"row_id": [f"r{i:03d}" for i in range(len(said))], "label": [label for label, _ in said], "probs": probs}
    )


def noisy(rows, *, skill, seed):
    rng = np.random.default_rng(seed)
    gold = np.array([LABELS.index(label) for label in rows["gold"]])
    scores = rng.normal(size=(len(gold), 4))
    scores[np.arange(len(gold)), gold] += skill
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = [LABELS[i] for i in probs.argmax(1)]
    return pl.DataFrame({"row_id": rows["row_id"], "label": labels, "probs": probs.tolist()})


@pytest.fixture
def many(make_rows):
    rng = np.random.default_rng(0)
    return make_rows(
        [LABELS[i] for i in rng.choice(4, 300, p=[0.5, 0.3, 0.1, 0.1])],
        group=[f"g{i // 6}" for i in range(300)],
        lang=[["en", "ko"][i // 6 % 2] for i in range(300)],
    )


def test_every_metric_of_four_rows(make_rows, task):
    rows = make_rows(["exact", "exact", "substitute", "irrelevant"])
    said = predictions(("exact", 0.7), ("substitute", 0.4), ("substitute", 0.7), ("exact", 0.4))
    found = evaluate(said, rows, task=task, truth_source="author")
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    assert value["accuracy"] == pytest.approx(0.5)
    assert value["positive_accuracy"] == pytest.approx(0.5)  # right: row 0 and row 2
    # exact 2*1/(2+2), substitute 2*1/(1+2), irrelevant 0/(1+0); complement occurs nowhere
    assert value["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    # P(exact): .7, .2 for the exact ones, .1, .4 for the rest: 3 of 4 pairs won
    assert value["auc"] == pytest.approx(0.75)
    assert value["log_loss"] == pytest.approx(-np.log([0.7, 0.2, 0.7, 0.2]).mean())
    # right: .3^2 + 3 * .1^2; wrong: .8^2 + .4^2 + 2 * .2^2
    assert value["brier"] == pytest.approx((2 * 0.12 + 2 * 0.88) / 4)
    # two rows .7 sure and right, two .4 sure and wrong
    assert value["calibration_error"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    assert value["grade_error"] == pytest.approx((0 + 1 + 0 + 3) / 4)
    assert found.confusion == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert found.gold_counts == {"exact": 2, "substitute": 1, "complement": 0, "irrelevant": 1}
    assert found.commonest == {"accuracy": 0.5, "positive_accuracy": 0.5, "auc": 0.5}
    assert [(point.coverage, point.risk) for point in found.risk_coverage][-1] == (1.0, 0.5)
    assert found.risk_coverage[9].risk == 0.0  # the surer half is right


def test_intervals_are_those_of_a_plain_bootstrap_on_the_same_resamples(many, task):
    said = noisy(many, skill=1.0, seed=1)
    config = EvalConfig(bootstrap=200, level=0.9)
    found = evaluate(said, many, task=task, truth_source="human", config=config, seed=3)
    scored = score_rows(said, many, task=task)
    resamples = Resamples.of(scored.group, count=200, seed=3)
    times = np.concatenate(list(resamples.chunks()))[:, resamples.codes]
    for name, plain in {
        "auc": lambda w: metrics.auc(scored.probs[:, 0], scored.gold == 0, weight=w),
        "macro_f1": lambda w: metrics.macro_f1(metrics.confusion(scored.gold, scored.predicted, labels=4, weight=w)),
        "log_loss": lambda w: np.average(metrics.log_losses(scored.probs, scored.gold), weights=w),
        "ranked_probability": lambda w: np.average(
            metrics.ranked_probability_scores(scored.probs, scored.gold), weights=w
        ),
        "calibration_error": lambda w: metrics.expected_calibration_error(
            metrics.binned(scored.probs.max(1), (scored.predicted == scored.gold) * 1.0, weight=w)
        ),
    }.items():
        draws = np.array([plain(line) for line in times])
        # 50 groups: t = 1.6766, times sqrt(50/49) = 1.6936. The slope of the logit is 1 / (v (1 - v)), of the log 1 / v
        reach, value = 1.6936 * draws.std(), found.metrics[name].value
        if name in ("log_loss", "calibration_error"):
            expected = value * np.exp(np.array([-1, 1]) * reach / value)
        else:
            steps = np.array([-1, 1]) * reach / (value * (1 - value))
            expected = 1 / (1 + np.exp(-(np.log(value / (1 - value)) + steps)))
        assert [found.metrics[name].low, found.metrics[name].high] == pytest.approx(expected, abs=2e-4), name


def test_written_and_read_back_it_is_the_same_and_the_same_seed_gives_the_same(many, task):
    config = EvalConfig(bootstrap=100, slices=("lang",))
    said = noisy(many, skill=1.0, seed=1)
    found = evaluate(said, many, task=task, truth_source="author", config=config)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert evaluate(said.reverse(), many.reverse(), task=task, truth_source="author", config=config) == found


def test_without_gold_there_is_no_accuracy(make_rows, task):
    rows = make_rows([None, None])
    said = predictions(("exact", 0.7), ("exact", 0.7))
    with pytest.raises(DataError, match=r"no row of split 'test' has a gold label.*agreement with merged labels"):
        evaluate(said, rows, task=task, truth_source="human")
    labels = pl.DataFrame({"row_id": ["r000", "r001"], "label": ["exact", "substitute"]})
    found = evaluate(said, rows_with_merged_truth(rows, labels), task=task, truth_source="teacher")
    assert (found.truth_source, found.metrics["accuracy"].value) == ("teacher", 0.5)


def test_unanswered_rows_are_counted_and_in_no_number(make_rows, task):
    rows = make_rows(["exact", "exact", "exact"])
    said = predictions(("exact", 0.7), ("substitute", 0.7)).with_columns(
        label=pl.Series(["exact", None], dtype=pl.String)
    )
    found = evaluate(said, rows, task=task, truth_source="human")
    assert (found.rows, found.unanswered, found.metrics["accuracy"].value) == (1, 2, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said, rows: (said.drop("label"), rows), "predictions need the columns row_id, label, lack label"),
        (lambda said, rows: (said, rows.drop("gold")), "rows need the columns .* lack gold"),
        (lambda said, rows: (pl.concat([said, said]), rows), "row 'r000' is predicted twice"),
        (lambda said, rows: (said.with_columns(label=pl.lit("nope")), rows), "predictions hold the label 'nope'"),
        (lambda said, rows: (said, rows.with_columns(gold=pl.lit("E"))), "rows hold the label 'E'"),
        (lambda said, rows: (said.with_columns(row_id=pl.lit("x")).head(1), rows), "none of the 2 rows"),
        (lambda said, rows: (said.with_columns(probs=pl.Series([[0.5, 0.5]] * 2)), rows), "probs must hold 4 numbers"),
        (
            lambda said, rows: (
                said.with_columns(probs=pl.Series([[1.0, 0.0, 0.0, 0.0], [-1.0, 2.0, 0.0, 0.0]])),
                rows,
            ),
            "probs of row 'r001'",
        ),
        (
            lambda said, rows: (said.with_columns(probs=pl.Series([[1.0, 0.0, 0.0, 0.0], [0.0] * 4])), rows),
            "no distribution",
        ),
    ],
)
def test_tables_that_do_not_fit_are_one_clear_error(make_rows, task, change, message):
    said, rows = change(predictions(("exact", 0.7), ("exact", 0.7)), make_rows(["exact", "exact"]))
    with pytest.raises(DataError, match=message):
        evaluate(said, rows, task=task, truth_source="human")


def test_bare_labels_have_no_metrics_of_probability_and_say_why(make_rows, task):
    rows = make_rows(["exact", "substitute"])
    found = evaluate(predictions(("exact", 0.7), ("exact", 0.7)).drop("probs"), rows, task=task, truth_source="human")
    assert found.metrics["accuracy"].value == 0.5
    assert (found.metrics["auc"].value, found.metrics["auc"].note) == (None, "states no probabilities")
    assert found.reliability == [] and found.risk_coverage == []


def test_auc_of_one_class_is_undefined_and_says_so(make_rows, task):
    rows = make_rows(["exact", "exact"])
    found = evaluate(predictions(("exact", 0.7), ("exact", 0.6)), rows, task=task, truth_source="human")
    assert found.metrics["auc"].value is None
    assert "both with and without the label exact" in found.metrics["auc"].note


def test_a_task_without_order_or_positive_label_has_only_what_applies(make_rows):
    task = Task(labels=LABELS, inputs=("query",))
    found = evaluate(predictions(("exact", 0.7)), make_rows(["exact"]), task=task, truth_source="human")
    assert set(found.metrics) == {"accuracy", "macro_f1", "log_loss", "brier", "calibration_error"}
    assert primary_metric(task, EvalConfig()) == "accuracy"
    assert primary_metric(task, EvalConfig(metric="macro_f1")) == "macro_f1"


def test_weight_says_how_often_a_row_counts(make_rows, task):
    rows = make_rows(["exact", "exact"], weight=[3.0, 1.0])
    said = predictions(("exact", 0.7), ("substitute", 0.7))
    assert evaluate(said, rows, task=task, truth_source="human").metrics["accuracy"].value == 0.75
    plain = evaluate(said, rows, task=task, truth_source="human", config=EvalConfig(weighted=False))
    assert plain.metrics["accuracy"].value == 0.5


def test_a_slice_is_the_metric_on_its_rows(many, task):
    said = noisy(many, skill=1.0, seed=1)
    found = evaluate(said, many, task=task, truth_source="human", config=EvalConfig(slices=("lang", "absent")))
    assert [(part.column, part.value, part.rows) for part in found.slices] == [("lang", "en", 150), ("lang", "ko", 150)]
    korean = evaluate(said, many.filter(pl.col("lang") == "ko"), task=task, truth_source="human")
    for name, estimate in found.slices[1].metrics.items():
        assert estimate.value == pytest.approx(korean.metrics[name].value), name
        assert estimate.groups == 25


def test_a_difference_is_paired(many, task):
    weak, strong = noisy(many, skill=0.8, seed=1), noisy(many, skill=1.6, seed=1)
    both = [evaluate(said, many, task=task, truth_source="human") for said in (strong, weak)]
    ours, theirs = (found.metrics["positive_accuracy"] for found in both)
    gain = paired_difference(strong, weak, many, task=task)
    assert gain.value == pytest.approx(ours.value - theirs.value)
    assert gain.low > 0
    # what is hard for both cancels out: narrower than two independent intervals put together
    assert gain.high - gain.low < np.hypot(ours.high - ours.low, theirs.high - theirs.low)
    same = paired_difference(weak, weak, many, task=task)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    back = paired_difference(weak, strong, many, task=task)
    assert back.value == pytest.approx(-gain.value)


def test_a_difference_is_on_the_rows_that_both_answered(many, task):
    weak, strong = noisy(many, skill=0.8, seed=1), noisy(many, skill=1.6, seed=2)
    assert paired_difference(strong.head(200), weak.tail(200), many, task=task).rows == 100


def test_repeats_and_rounds_come_down_to_the_answer_that_stands(make_votes):
    votes = pl.concat(
        [
            make_votes(("r0", "a", "exact"), ("r1", "a", "exact"), ("r2", "a", None)),
            make_votes(("r0", "a", "substitute"), ("r1", "a", "substitute", ["E1"]), sample=1),
            make_votes(("r0", "a", "substitute"), sample=2),
            make_votes(("r3", "a", "exact")),
            make_votes(("r3", "a", "irrelevant"), round=1),
        ]
    )
    said = collapse_votes(votes).sort("row_id")
    # r0: two of three; r1: a tie, so the earliest sample; r2: no label; r3: the later round
    assert said["label"].to_list() == ["substitute", "exact", "irrelevant"]
    assert said["row_id"].to_list() == ["r0", "r1", "r3"]
    assert predictions_from_votes(votes, "a", rows=pl.DataFrame({"row_id": ["r3"]}))["label"].to_list() == [
        "irrelevant"
    ]


def test_fifty_thousand_rows_in_bounded_time_and_memory(task):
    """A smoke test of the vectorised paths: every metric, 500 resamples; the full 2,000 take about 1.2 s."""
    rng = np.random.default_rng(0)
    count = 50_000
    probs = rng.dirichlet(np.ones(4), count)
    rows = pl.DataFrame(
        {
            "row_id": [str(i) for i in range(count)],
            "group": [str(i // 8) for i in range(count)],
            "split": "test",
            "gold": [LABELS[i] for i in rng.integers(0, 4, count)],
            "weight": 1.0,
        }
    )
    said = pl.DataFrame(
        {"row_id": rows["row_id"], "label": [LABELS[i] for i in probs.argmax(1)], "probs": probs.tolist()}
    )
    found = evaluate(said, rows, task=task, truth_source="human", config=EvalConfig(bootstrap=500))
    # predictions know nothing: one label in four, and AUC one half, both within their intervals' reach
    assert found.metrics["accuracy"].value == pytest.approx(0.25, abs=0.01)
    assert found.metrics["auc"].low < 0.5 < found.metrics["auc"].high
