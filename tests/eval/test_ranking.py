from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate
from distill.eval.intervals import Resamples
from distill.eval.ranking import Judged, gains_of, ndcg, precision, rank_estimates
from distill.labeling.task import Task

LABELS = ("exact", "substitute", "complement", "irrelevant")
QUICK = EvalConfig(bootstrap=200)


def test_gains_follow_the_grades(task):
    assert gains_of(task).tolist() == [7.0, 3.0, 1.0, 0.0]  # 2^3 - 1, 2^2 - 1, 2^1 - 1, 2^0 - 1
    brands = Task(labels=("other", "match"), inputs=("query",), positive="match")
    assert gains_of(brands).tolist() == [0.0, 1.0]


def test_ndcg_by_hand():
    # found in the order 3, 7, 0: 3 / log2(2) + 7 / log2(3) = 3 + 4.4165; best is 7 + 3 / log2(3) = 8.8928
    scores, gains = np.array([0.5, 0.9, 0.1]), np.array([7.0, 3.0, 0.0])
    assert ndcg(scores, gains, k=5) == pytest.approx((3 + 7 / np.log2(3)) / (7 + 3 / np.log2(3)))
    assert ndcg(scores, gains, k=1) == pytest.approx(3 / 7)
    assert ndcg(gains, gains, k=3) == 1.0
    assert np.isnan(ndcg(scores, np.zeros(3), k=3))


def test_ndcg_is_that_of_scikit_learn():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        # rounded, so that there are ties, which scikit-learn averages too
        scores, gains = rng.random(12).round(1), rng.choice([0.0, 1.0, 3.0, 7.0], 12)
        for k in (1, 5, 10):
            expected = ndcg_score(gains[None], scores[None], k=k)
            assert ndcg(scores, gains, k=k) == pytest.approx(expected)


def test_ties_share_their_places():
    # the two of score 1 hold places 1 and 2; one of them is positive, so each place is worth a half
    scores, positive = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0])
    assert precision(scores, positive, k=1) == 0.5
    assert precision(scores, positive, k=2) == 0.5
    assert precision(-scores, positive, k=1) == 1.0


def _judged(gold, group, scores):
    probs = np.stack([scores, 1 - scores, np.zeros(len(gold)), np.zeros(len(gold))], axis=1)
    return Judged(np.array(gold), probs, np.array(group), np.ones(len(gold)))


def test_queries_count_once_and_only_where_they_have_the_rows(task):
    # query 0: first is exact; query 1: first is not; query 2 has one row and is in nothing
    judged = _judged([0, 3, 3, 0, 3, 0], [0, 0, 1, 1, 1, 2], np.array([0.9, 0.1, 0.9, 0.5, 0.1, 0.9]))
    resamples = Resamples.of(np.array([f"q{group}" for group in judged.group]), count=200, seed=0)
    found = rank_estimates(judged, task=task, resamples=resamples, level=0.95)
    assert set(found) == {"ndcg@1", "precision@1"}  # no two queries with five rows
    assert found["precision@1"].value == 0.5
    assert (found["precision@1"].rows, found["precision@1"].groups) == (2, 2)
    # a query of twice the weight counts twice
    heavy = judged._replace(weight=np.array([2.0, 2, 1, 1, 1, 1]))
    again = rank_estimates(heavy, task=task, resamples=resamples, level=0.95)
    assert again["precision@1"].value == pytest.approx(2 / 3)


def test_labels_without_order_or_match_have_no_ranking():
    colours = Task(labels=("red", "blue"), inputs=("query",))
    judged = Judged(np.array([0, 1, 0, 1]), np.full((4, 2), 0.5), np.array([0, 0, 1, 1]), np.ones(4))
    resamples = Resamples.of(np.array(["a", "a", "b", "b"]), count=100, seed=0)
    assert rank_estimates(judged, task=colours, resamples=resamples, level=0.95) == {}


def test_evaluate_ranks_by_query_with_an_interval(make_rows, task):
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 4, 120)
    rows = make_rows([LABELS[i] for i in gold], group=[f"g{i // 6}" for i in range(120)])
    probs = np.eye(4)[gold] * 0.4 + rng.dirichlet(np.ones(4), 120) * 0.6
    table = pl.DataFrame(
        {"row_id": rows["row_id"], "label": [LABELS[i] for i in probs.argmax(1)], "probs": probs.tolist()}
    )
    found = evaluate(table, rows, task=task, truth_source="author", config=QUICK).metrics
    gains, by_query = gains_of(task), []
    for start in range(0, 120, 6):
        at = slice(start, start + 6)
        by_query.append(ndcg(probs[at] @ gains, gains[gold[at]], k=5))
    ndcg_5 = found["ndcg@5"]
    assert ndcg_5.value == pytest.approx(np.mean(by_query))
    assert ndcg_5.groups == 20 and ndcg_5.low < ndcg_5.value < ndcg_5.high
    assert "ndcg@10" not in found  # no query has ten rows
    # rows drawn one by one leave a part of each query, whose order says little
    drawn = rows.with_columns(chance=pl.lit(0.5))
    assert "ndcg@5" not in evaluate(table, drawn, task=task, truth_source="author", config=QUICK).metrics
