from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.people.agreement import MOST_PAIRS, PeopleAndModels, people_agreement
from distill.eval.people.alternative_annotator import corrected_by_yekutieli, refused_by_yekutieli
from distill.eval.people.words import people_markdown, people_said
from distill.labeling.errors import DataError

CONFIG = EvalConfig(bootstrap=100)


def judged(task, columns: dict[str, np.ndarray], people: int, groups: int | None = None) -> PeopleAndModels:
    """The first ``people`` columns are people; codes of labels, -1 without a vote."""
    count = len(next(iter(columns.values())))
    votes = pl.concat(
        pl.DataFrame(
            {
                "row_id": [f"r{row}" for row in np.flatnonzero(codes >= 0)],
                "teacher": name,
                "label": [task.labels[code] for code in codes[codes >= 0]],
                "outcome": "labeled",
            }
        )
        for name, codes in columns.items()
    )
    rows = pl.DataFrame(
        {"row_id": [f"r{i}" for i in range(count)], "group": [f"g{i % (groups or count)}" for i in range(count)]}
    )
    names = tuple(columns)
    return PeopleAndModels(votes, rows, people=names[:people], candidates=names[people:], task=task)


def noisy(truth: np.ndarray, right: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 4, len(truth)))


@pytest.fixture
def panel(task):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 240)
    skills = {"kim": 0.8, "lee": 0.8, "park": 0.8, "good": 0.9, "poor": 0.3}
    return judged(task, {name: noisy(truth, right, rng) for name, right in skills.items()}, people=3)


def test_the_good_model_may_stand_in_and_the_poor_one_may_not(panel):
    found = people_agreement(panel, config=CONFIG, epsilon=0.1)
    good, poor = found.candidates
    assert good.test.passes and not poor.test.passes
    assert good.with_people.alpha.value > found.reliability.alpha.value > poor.with_people.alpha.value
    # three pairs of people, and three people by two models
    assert [pair.people for pair in found.pairs] == [2] * 3 + [1] * 6
    said = people_said(found)
    assert said.verdicts[0].startswith("good may stand in for an annotator: shown to be as good as 3 of 3")
    assert said.verdicts[1].startswith("poor may not yet stand in")
    assert "p, corrected" in said.against.columns and said.tests.lines[1][-1] == "no"
    markdown = "\n\n".join(people_markdown(said))
    assert "| people and poor |" in markdown and "AC2" in markdown


def test_corrected_p_values_refuse_what_the_procedure_refuses():
    # m = 3, 1 + 1/2 + 1/3 = 11/6: from the largest, 0.04 * 5.5 / 3, 0.02 * 5.5 / 2, and 0.01 * 5.5 / 1 is no less
    found = corrected_by_yekutieli({"a": 0.01, "b": 0.02, "c": 0.04})
    assert found == pytest.approx({"a": 0.055, "b": 0.055, "c": 0.04 * 5.5 / 3})
    given = dict(zip("abcdef", np.random.default_rng(0).uniform(0, 0.05, 6), strict=True))
    for rate in (0.01, 0.05, 0.1):
        held = {name for name, p in corrected_by_yekutieli(given).items() if p <= rate}
        assert held == refused_by_yekutieli(given, rate=rate)


def test_one_person_alone_gives_pairs_and_no_verdict(task):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)
    found = people_agreement(judged(task, {"kim": truth, "llm": noisy(truth, 0.7, rng)}, people=1), config=CONFIG)
    assert found.reliability.rows == 0 and found.candidates[0].test is None
    assert (len(found.pairs), found.pairs[0].rows) == (1, 60)
    said = people_said(found)
    assert said.lede[0].startswith("60 rows have a label by a person, none by two")
    assert said.verdicts == ["llm: no verdict, fewer than two people labeled its rows."]
    assert said.tests is None and said.against is None


def test_models_that_saw_none_of_the_rows_are_named_and_rows_of_models_alone_count_for_nothing(task):
    kim = np.array([0, 1, 2, 3, 0, -1, -1, -1])
    lee = np.array([0, 1, 2, 3, 1, -1, -1, -1])
    other = np.array([-1, -1, -1, -1, -1, 0, 1, 2])
    found = people_agreement(judged(task, {"kim": kim, "lee": lee, "far": other}, people=2), config=CONFIG)
    assert found.candidates == [] and found.notes == ["far labeled none of the rows that people labeled"]
    assert (found.rows, found.reliability.rows) == (5, 5)
    # 4 of 5 pairs agree
    assert found.reliability.agreement.value == pytest.approx(0.8)


def test_a_crowd_is_compared_in_its_busiest_pairs(task):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 40)
    crowd = {f"w{i}": np.where(rng.random(40) < 0.5, truth, -1) for i in range(12)}
    found = people_agreement(judged(task, crowd, people=12), config=CONFIG)
    assert (len(found.pairs), found.pairs_left_out) == (MOST_PAIRS, 66 - MOST_PAIRS)
    rows = [pair.rows for pair in found.pairs]
    assert rows == sorted(rows, reverse=True)


def test_nobody_is_a_person_or_someone_is_both(task):
    table = judged(task, {"a": np.zeros(4, int), "b": np.zeros(4, int)}, people=0)
    with pytest.raises(DataError, match="nobody is named as a person"):
        people_agreement(table)
    twice = PeopleAndModels(table.votes, table.rows, people=("a",), candidates=("a", "b"), task=task)
    with pytest.raises(DataError, match=r"\['a'\] stand among people and among models"):
        people_agreement(twice)
