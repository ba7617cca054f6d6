from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from distill.eval.people.alternative_annotator import alternative_annotator_test, refused_by_yekutieli
from distill.labeling.errors import DataError


def _votes(columns: dict[str, np.ndarray], labels: tuple[str, ...]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {
                "row_id": [f"r{row}" for row in np.flatnonzero(codes >= 0)],
                "teacher": name,
                "outcome": "labeled",
                "label": [labels[code] for code in codes[codes >= 0]],
            }
        )
        for name, codes in columns.items()
    )


def _noisy(truth: np.ndarray, right: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 4, len(truth)))


def _as_published(columns: dict[str, np.ndarray], candidate: str, epsilon: float) -> dict[str, tuple[float, float]]:
    """Advantage and p-value by annotator, by loops, for names: the paper's section 3 word for word."""
    from scipy.stats import ttest_1samp

    people = [name for name in columns if name != candidate]
    found = {}
    for left_out in people:
        llm, human = [], []
        for row in range(len(columns[candidate])):
            others = [columns[name][row] for name in people if name != left_out and columns[name][row] >= 0]
            if not others or columns[left_out][row] < 0 or columns[candidate][row] < 0:
                continue
            of_llm = np.mean([columns[candidate][row] == other for other in others])
            of_human = np.mean([columns[left_out][row] == other for other in others])
            llm.append(of_llm >= of_human)
            human.append(of_human >= of_llm)
        difference = np.array(human, float) - np.array(llm, float)
        found[left_out] = float(np.mean(llm)), float(ttest_1samp(difference, epsilon, alternative="less").pvalue)
    return found


def test_is_the_papers_test_where_each_row_stands_alone(task):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 120)
    columns = {name: _noisy(truth, right, rng) for name, right in (("llm", 0.8), ("a", 0.7), ("b", 0.7), ("c", 0.9))}
    columns["a"][:20] = -1
    nominal = replace(task, ordered=False)
    found = alternative_annotator_test(
        _votes(columns, task.labels), candidate="llm", annotators=["a", "b", "c"], task=nominal, epsilon=0.1
    )
    wanted = _as_published(columns, "llm", 0.1)
    for one in found.against:
        assert (one.candidate_as_good, one.p_value) == pytest.approx(wanted[one.annotator])
    assert found.against[0].rows == 100
    assert found.advantage == pytest.approx(np.mean([share for share, _ in wanted.values()]))
    assert found.winning_rate == len([one for one in found.against if one.wins]) / 3


def test_a_good_candidate_passes_and_a_random_one_does_not(task):
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 300)
    columns = {"good": _noisy(truth, 0.85, rng), "random": rng.integers(0, 4, 300)}
    columns |= {name: _noisy(truth, 0.75, rng) for name in "abc"}
    votes = _votes(columns, task.labels)
    good = alternative_annotator_test(votes, candidate="good", annotators=["a", "b", "c"], task=task)
    bad = alternative_annotator_test(votes, candidate="random", annotators=["a", "b", "c"], task=task)
    assert (good.passes, good.winning_rate) == (True, 1.0)
    assert (bad.passes, bad.winning_rate) == (False, 0.0)
    assert good.advantage > bad.advantage


def test_grades_forgive_a_near_miss(task):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 60)
    columns = {"near": truth + 1, "far": np.where(truth == 0, 3, 0), "a": truth, "b": truth}
    votes = _votes(columns, task.labels)
    scores = {
        name: alternative_annotator_test(votes, candidate=name, annotators=["a", "b"], task=task).against[0]
        for name in ("near", "far")
    }
    assert scores["near"].candidate_as_good == scores["far"].candidate_as_good == 0.0  # a is never off
    columns["a"] = np.where(truth == 0, 2, 0)
    votes = _votes(columns, task.labels)
    near = alternative_annotator_test(votes, candidate="near", annotators=["a", "b"], task=task).against[0]
    # against b, a is off by 2, 1, 2 where truth is 0, 1, 2; the candidate by 1 always
    assert near.candidate_as_good == 1.0
    assert near.annotator_as_good == pytest.approx((truth == 1).mean())


def test_rows_of_one_group_are_one_piece_of_evidence(task):
    rng = np.random.default_rng(4)
    columns = {name: np.repeat(_noisy(np.zeros(20, int), 0.8, rng), 10) for name in ("llm", "a", "b")}
    votes = _votes(columns, task.labels)
    groups = pl.DataFrame(
        {"row_id": [f"r{row}" for row in range(200)], "group": [f"g{row // 10}" for row in range(200)]}
    )
    alone = alternative_annotator_test(votes, candidate="llm", annotators=["a", "b"], task=task)
    together = alternative_annotator_test(votes, candidate="llm", annotators=["a", "b"], task=task, groups=groups)
    for one, other in zip(alone.against, together.against, strict=True):
        assert one.candidate_as_good == other.candidate_as_good
        assert other.groups == 20
        assert abs(one.p_value - 0.5) > abs(other.p_value - 0.5)


def test_yekutieli_by_hand():
    # m = 3, harmonic 11/6: bounds .05 * k / 5.5 = .00909, .01818, .02727
    assert refused_by_yekutieli({"a": 0.009, "b": 0.02, "c": 0.027}, rate=0.05) == {"a", "b", "c"}
    assert refused_by_yekutieli({"a": 0.009, "b": 0.02, "c": 0.028}, rate=0.05) == {"a"}
    assert refused_by_yekutieli({}, rate=0.05) == set()


def test_too_few_rows_give_no_verdict(task):
    codes = np.zeros(10, int)
    votes = _votes({"llm": codes, "a": codes, "b": codes}, task.labels)
    found = alternative_annotator_test(votes, candidate="llm", annotators=["a", "b"], task=task)
    assert (found.winning_rate, found.passes) == (None, False)
    assert "30 rows" in found.note


def test_needs_people(task):
    votes = _votes({"llm": np.zeros(3, int), "a": np.zeros(3, int)}, task.labels)
    with pytest.raises(DataError, match="two annotators"):
        alternative_annotator_test(votes, candidate="llm", annotators=["a"], task=task)
    with pytest.raises(DataError, match="no votes of \\['b'\\]"):
        alternative_annotator_test(votes, candidate="llm", annotators=["a", "b"], task=task)
