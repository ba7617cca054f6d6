from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.report.panel_facts import panel_facts
from distill.eval.report.panel_words import label_table, panel_said, panel_table


def votes_of(task, said: dict[tuple[str, str], np.ndarray]) -> pl.DataFrame:
    """Votes by (teacher, family); -1 without one."""
    return pl.concat(
        pl.DataFrame(
            {
                "row_id": [f"r{row}" for row in np.flatnonzero(codes >= 0)],
                "teacher": teacher,
                "family": family,
                "label": [task.labels[code] for code in codes[codes >= 0]],
                "outcome": "labeled",
            }
        )
        for (teacher, family), codes in said.items()
    )


@pytest.fixture
def panel(task):
    """Two families that copy each other's mistakes, one that errs on its own; 600 rows."""
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 600)

    def seen(right: float) -> np.ndarray:
        return np.where(rng.random(600) < right, truth, rng.integers(0, 4, 600))

    shared = seen(0.75)
    copies = [np.where(rng.random(600) < 0.9, shared, seen(0.75)) for _ in range(2)]
    return truth, {("a", "a"): copies[0], ("b", "b"): copies[1], ("c", "c"): seen(0.75), ("d", "d"): seen(0.75)}


def test_what_a_panel_is_worth_by_label_and_by_family(task, panel):
    truth, said = panel
    gold = pl.DataFrame({"row_id": [f"r{row}" for row in range(600)], "gold": [task.labels[code] for code in truth]})
    found = panel_facts(votes_of(task, said), task=task, gold=gold)
    assert (found.teachers, found.families, found.votes, found.source) == (4, 4, 4.0, "gold")
    # one of six pairs errs together: far from 4 votes, and more than 1
    assert 2.0 < found.n_eff < 3.9
    assert [one.label for one in found.by_label] == list(task.labels) and sum(one.rows for one in found.by_label) == 600
    gains = {one.family: one.n_eff_gain for one in found.gains}
    assert not found.pilots and min(gains["c"], gains["d"]) > max(gains["a"], gains["b"])
    lines = panel_said(found)
    assert "4 families" in lines[0] and "by labels of people" in lines[-1]
    assert len(panel_table(found)[1]) == 4 and len(label_table(found)[1]) == 4


def test_a_family_on_trial_is_named_to_be_added(task):
    rng = np.random.default_rng(0)
    truth, few = rng.integers(0, 4, 600), np.arange(600) < 120
    tried = {(name, name): np.where(rng.random(600) < 0.75, truth, rng.integers(0, 4, 600)) for name in "abcd"}
    tried["d", "d"] = np.where(few, tried["d", "d"], -1)
    # e guesses: its errors are its own, and it is of no use
    tried["e", "e"] = np.where(few, rng.integers(0, 4, 600), -1)
    found = panel_facts(votes_of(task, tried), task=task)
    assert found.pilots and [one.family for one in found.gains] == ["d", "e"]
    assert found.gains[0].rows == 120 and found.gains[0].expected_gain > 0 > found.gains[1].expected_gain
    assert "add d next (tried on 120 rows)" in panel_said(found)[1]


def test_one_family_one_teacher_and_functions(task, panel):
    _, said = panel
    alike = {(teacher, "one"): codes for (teacher, _), codes in said.items()}
    found = panel_facts(votes_of(task, alike), task=task)
    assert found.families == 1 and found.gains == [] and found.one_more is None
    assert panel_said(found)[0].startswith("All 4 teachers are of one family")
    votes = votes_of(task, said)
    assert panel_facts(votes, task=task, leave_out=["b", "c", "d"]) is None
    assert panel_said(None) == []
