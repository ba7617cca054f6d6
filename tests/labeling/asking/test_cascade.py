"""Thresholds of a cascade: the test behind one, the walk over them, and whether the promise holds on clustered rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from distill.labeling.asking.cascade import (
    Judged,
    candidates,
    choose_threshold,
    effective_rows,
    error_correlation,
    least_share,
    p_value,
    sureness,
)
from distill.labeling.asking.cascade_votes import answers_of, judged_rows, kept_rows, standing_votes
from distill.labeling.cascade_config import CascadeConfig
from distill.labeling.errors import DataError
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame


def judged_of(sure: Any, wrong: Any, group: Any) -> Judged:
    wrong = np.asarray(wrong, dtype=bool)
    return Judged(np.asarray(sure, dtype=float), wrong, np.ones(len(wrong), dtype=bool), np.asarray(group))


def test_the_test_is_clopper_and_pearsons() -> None:
    # No error in 59 where 5% are permitted: 0.95^59 = 0.0485; in 58 it is 0.0510, so 59 is the least at 5%.
    assert p_value(0, 59, target=0.95) == pytest.approx(0.95**59)
    assert p_value(0, 59, target=0.95) < 0.05 < p_value(0, 58, target=0.95)
    # One or none in 10 at 20%: 0.8^10 + 10 * 0.2 * 0.8^9.
    assert p_value(1, 10, target=0.8) == pytest.approx(0.8**10 + 2 * 0.8**9)
    assert p_value(10, 10, target=0.8) == 1.0 and p_value(0, 0, target=0.8) == 1.0
    # The end of the interval is the target that the same trials just show.
    assert p_value(3, 90, target=least_share(3, 90, level=0.05)) == pytest.approx(0.05)
    assert least_share(0, 59, level=0.05) == pytest.approx(0.05 ** (1 / 59))


def test_errors_that_come_together_and_errors_that_do_not() -> None:
    group = np.repeat(np.arange(10), 4)
    # Whole groups wrong: all the spread is between groups. The half group for luck draws every value towards 1.
    assert error_correlation(judged_of(np.ones(40), group < 3, group)) == pytest.approx(1.0)
    # One wrong in every group: less spread between groups than chance gives, which counts as none: 1/2 / (10 + 1/2).
    assert error_correlation(judged_of(np.ones(40), np.arange(40) % 4 == 0, group)) == pytest.approx(0.5 / 10.5)
    # No error tells nothing; in groups of one row there is nothing to tell.
    assert error_correlation(judged_of(np.ones(40), np.zeros(40), group)) == 1.0
    assert error_correlation(judged_of(np.ones(40), np.zeros(40), np.arange(40))) == 0.0
    # Groups of 2: both wrong, one wrong, none wrong, none wrong. Shares 1, .5, 0, 0 around 3/8:
    # MSB = 2 (.390625 + .015625 + 2 * .140625) / 3 = .458333, MSW = 2 * .25 / 4 = .125, m0 = 2.
    expected = (2 * (0.458333 - 0.125) / (0.458333 + 0.125) + 0.5) / 2.5
    four = judged_of(np.ones(8), [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    assert error_correlation(four) == pytest.approx(expected, abs=1e-5)


def test_what_rows_in_groups_are_worth() -> None:
    sizes = np.full(1000, 8.0)
    many = (1.959964 / 1.962341) ** 2  # t at 999 degrees of freedom
    assert effective_rows(sizes, 0.0) == pytest.approx(8000 * many, rel=1e-4)
    # Design effect 1 + 7 * 0.3 = 3.1.
    assert effective_rows(sizes, 0.3) == pytest.approx(8000 / 3.1 * many, rel=1e-4)
    # Wholly together: each group is one trial. Ten groups: t at 9 degrees of freedom is 2.262157.
    assert effective_rows(np.full(10, 8.0), 1.0) == pytest.approx(10 * (1.959964 / 2.262157) ** 2, rel=1e-4)
    assert effective_rows(np.full(4, 100.0), 0.0) == 0.0


def test_the_walk_ends_at_the_first_threshold_that_is_not_shown_to_do() -> None:
    # 1,000 rows, each a group: sure .9 (400 rows, 4 wrong), .8 (300, 30 wrong), .7 (300, none wrong).
    sure = np.repeat([0.9, 0.8, 0.7], [400, 300, 300])
    wrong = np.zeros(1000, dtype=bool)
    wrong[:4] = wrong[400:430] = True
    choice = choose_threshold(judged_of(sure, wrong, np.arange(1000)), target=0.95, confidence=0.95)
    assert choice.threshold == 0.9 and choice.rows_needed is None
    assert [step.threshold for step in choice.steps] == [0.9, 0.8, 0.7]
    first, second, third = choice.steps
    assert (first.rows, first.right, first.passed) == (400, 0.99, True)
    assert second.p_value is not None and second.p_value > 0.05 and not second.passed
    # 34 of 1,000 wrong would do by itself, yet it is past the end of the walk.
    assert third.right == pytest.approx(0.966) and third.at_least is not None and third.at_least > 0.95
    assert third.p_value is None and not third.passed


def test_no_threshold_and_how_many_rows_would_do() -> None:
    # 40 right of 40: not enough, since it takes 59 and a little more for the groups that are few.
    few = judged_of(np.full(40, 0.9), np.zeros(40), np.arange(40))
    choice = choose_threshold(few, target=0.95, confidence=0.95)
    assert choice.threshold is None and choice.steps[0].p_value is None
    assert choice.rows_needed is not None and 60 <= choice.rows_needed <= 200
    assert (
        choose_threshold(
            judged_of(np.full(200, 0.9), np.arange(200) % 5 == 0, np.arange(200)), target=0.95, confidence=0.95
        ).rows_needed
        is None
    )  # a fifth wrong: no number of rows shows 95%
    nothing = choose_threshold(judged_of([], [], np.empty(0, dtype=np.int64)), target=0.95, confidence=0.95)
    assert (nothing.threshold, nothing.steps, nothing.rows_needed) == (None, (), None)


def test_luck_on_the_rows_judged_is_bad_luck_on_the_others() -> None:
    rows = judged_of(np.full(200, 0.9), np.arange(200) < 4, np.arange(200))
    assert choose_threshold(rows, target=0.95, confidence=0.95).threshold == 0.9
    # Half of all rows were judged: 200 count as 100, and 2 errors in 100 show less.
    assert choose_threshold(rows, target=0.95, confidence=0.95, judged_share=0.5).threshold is None


def test_candidates_are_few_values_that_occur() -> None:
    values = np.random.default_rng(0).uniform(size=5000)
    found = candidates(values)
    assert len(found) == 40 and set(found) <= set(values) and found[-1] == values.min()
    assert list(candidates(np.array([0.5, 0.9, 0.9]))) == [0.9, 0.5]


def test_sureness_three_ways() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert sureness(probs, by="confidence") == pytest.approx([0.7, 1.0, 1 / 3])
    assert sureness(probs, by="margin") == pytest.approx([0.5, 1.0, 0.0])
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert sureness(probs, by="entropy") == pytest.approx([1 - entropy / math.log(3), 1.0, 0.0])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_promise_holds_where_errors_come_in_clusters(correlation: float) -> None:
    """At the edge, 5.01% wrong whatever the sureness, every threshold taken is a miss: 5% of draws may take one.

    With 150 draws the share seen has a standard deviation of 1.8 points where the truth is 5%.
    """
    from scipy.special import ndtr  # type: ignore[import-untyped]

    taken = {True: 0, False: 0}
    for number in range(150):
        random = np.random.default_rng([17, number])
        group = np.repeat(np.arange(30), random.integers(1, 30, 30))
        shared, own = random.normal(size=30)[group], random.normal(size=len(group))
        wrong = ndtr(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own) < 0.0501
        sure = np.round(random.uniform(size=len(group)), 1)
        for clustered in (True, False):
            rows = judged_of(sure, wrong, group if clustered else np.arange(len(group)))
            taken[clustered] += choose_threshold(rows, target=0.95, confidence=0.95).threshold is not None
    assert taken[True] <= 0.05 * 150 + 2 * 2.7
    if correlation:
        assert taken[False] > 0.12 * 150  # as if rows were independent: what the groups are for


def test_it_finds_what_is_there() -> None:
    random = np.random.default_rng(5)
    group = np.repeat(np.arange(100), 8)
    sure = random.uniform(size=800)
    wrong = random.uniform(size=800) < 0.2 * (1 - sure)
    choice = choose_threshold(judged_of(sure, wrong, group), target=0.95, confidence=0.95)
    # Wrong among kept is 0.1 (1 - threshold) on average: 5% at 0.5. With 800 rows a good part of that is shown.
    assert choice.threshold is not None and 0.5 <= choice.threshold < 0.85
    assert choice.taken is not None and choice.taken.p_value is not None and choice.taken.p_value <= 0.05


# Votes


def vote(row_id: str, label: str | None, *, teacher: str = "cheap", **more: Any) -> Vote:
    return Vote(row_id, teacher, teacher, "labeled" if label else "unsent", label=label, **more)


def test_answers_are_means_over_samples_and_a_bare_label_says_nothing(task: Task) -> None:
    probs = [0.6, 0.3, 0.1, 0.0]
    votes = votes_frame(
        [
            vote("stated", "exact", probs=probs, probs_source="verbal"),
            vote("bare", "exact"),
            *(vote("thrice", label, sample=n) for n, label in enumerate(["exact", "irrelevant", "irrelevant"])),
            vote("silent", None),
        ]
    )
    found = answers_of(votes, task=task, by="confidence")
    assert found["row_id"].to_list() == ["stated", "bare", "thrice"]
    assert found["label"].to_list() == ["exact", "exact", "irrelevant"]
    assert found["sureness"].to_list() == [0.6, None, pytest.approx(2 / 3)]
    assert kept_rows(found, 0.6).to_list() == ["stated", "thrice"]
    assert kept_rows(found, None).to_list() == []
    assert answers_of(votes.filter(pl.col("outcome") == "unsent"), task=task, by="margin").is_empty()


def test_what_counts_as_wrong(task: Task) -> None:
    cheap = pl.DataFrame(
        {
            "row_id": ["a", "b", "c", "d"],
            "label": ["exact", "exact", "complement", "exact"],
            "sureness": [0.9, 0.8, 0.7, None],
        }
    )
    truth = pl.DataFrame(
        {
            "row_id": ["a", "b", "c", "d", "e"],
            "group": ["q", "p", "q", "q", "q"],
            "truth": ["exact", "complement", "exact", "exact", None],
        }
    )
    config = CascadeConfig(order=("cheap", "strong"))
    found = judged_rows(cheap, truth, task=task, config=config)
    # d says nothing of how sure it is, e has no truth.
    assert found.wrong.tolist() == [False, True, True] and found.counts.all()
    assert found.group[0] == found.group[2] != found.group[1]
    precise = config.model_copy(update={"measure": "positive_precision"})
    found = judged_rows(cheap, truth, task=task, config=precise)
    # c is no positive answer.
    assert found.counts.tolist() == [True, True, False] and found.wrong.tolist() == [False, True, False]
    with pytest.raises(DataError, match=r"teachers\.cheap\.probs: confidence.*labeling\.samples of 2 or more"):
        judged_rows(cheap.with_columns(sureness=pl.lit(None, pl.Float64)), truth, task=task, config=config)


def test_a_later_label_takes_the_place_of_an_earlier_one() -> None:
    votes = votes_frame(
        [
            vote("kept", "exact"),
            vote("kept", None, teacher="strong", cause="cascade"),
            vote("sent", "exact"),
            vote("sent", "complement", teacher="strong"),
            vote("failed", "exact"),
            vote("failed", None, teacher="strong", cause="timeout"),
        ]
    )
    standing = standing_votes(votes, ("cheap", "strong"))
    said = standing.filter(pl.col("outcome") == "labeled").select("row_id", "teacher").rows()
    assert said == [("kept", "cheap"), ("sent", "strong"), ("failed", "cheap")]
    assert standing.columns == votes.columns and set(standing["row_id"]) == {"kept", "sent", "failed"}
