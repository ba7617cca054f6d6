from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate, paired_difference
from distill.eval.ladder import Ladder, Rung, build_ladder, merge_ladders
from distill.labeling.errors import DataError

LABELS = ("exact", "substitute", "complement", "irrelevant")


@pytest.fixture
def rungs(make_rows, task):
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 120)
    rows = make_rows([LABELS[i] for i in gold], group=[f"g{i // 4}" for i in range(120)])
    made = []
    for name, kind, skill in (("teacher", "teacher", 9.0), ("small", "dcn", 0.5), ("large|", "encoder", 2.0)):
        scores = rng.normal(size=(120, 4))
        scores[np.arange(120), gold] += skill
        probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        said = pl.DataFrame(
            {"row_id": rows["row_id"], "label": [LABELS[i] for i in probs.argmax(1)], "probs": probs.tolist()}
        )
        found = evaluate(said, rows, task=task, truth_source="author", config=EvalConfig(bootstrap=100))
        made.append(Rung(name, kind, "labels", said, found, parameters=1_300_000, size_mb=5.2, pairs_per_s=210.0))
    return made, rows


def test_the_first_student_of_a_kind_is_compared_with_the_one_before_it(rungs, task):
    made, rows = rungs
    ladder = build_ladder(made, rows, task=task, config=EvalConfig(bootstrap=100))
    teacher, small, large = ladder.rows
    assert (teacher.gain, small.gain) == (None, None)  # a teacher is no rung to gain over
    assert large.gain_over == "small"
    expected = paired_difference(
        made[2].predictions, made[1].predictions, rows, task=task, config=EvalConfig(bootstrap=100)
    )
    assert large.gain == expected
    assert ladder.best is large  # the teacher is better and no student
    assert ladder.baseline == made[0].evaluation.commonest["positive_accuracy"]


def test_written_and_read_back_it_is_the_same(rungs, task):
    made, rows = rungs
    ladder = build_ladder(made, rows, task=task, config=EvalConfig(bootstrap=100))
    assert Ladder.model_validate_json(ladder.model_dump_json()) == ladder


def test_tables_name_metric_truth_and_interval(rungs, task):
    made, rows = rungs
    ladder = build_ladder(made, rows, task=task, config=EvalConfig(bootstrap=100))
    lines = ladder.to_markdown().splitlines()
    assert "accuracy, exact or not" in lines[0]
    quality = ladder.rows[2].quality
    expected = f"{100 * quality.value:.1f}% ({100 * quality.low:.1f} to {100 * quality.high:.1f})"
    assert lines[4].startswith("| large\\| | labels | " + expected)
    assert "author" in lines[4] and "1.3M, 5.2 MB" in lines[4] and "210 pairs/s" in lines[4]
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(ladder.to_rich())
    text = captured.get()
    assert expected in text
    assert "labels by the author of the data" in " ".join(text.split())


def test_later_students_are_compared_with_the_first_of_their_kind(rungs, task):
    made, rows = rungs
    again = [Rung(name, "encoder", "labels", made[2].predictions, made[2].evaluation) for name in ("second", "third")]
    ladder = build_ladder([*made, *again], rows, task=task, config=EvalConfig(bootstrap=100))
    assert [row.gain_over for row in ladder.rows] == [None, None, "small", "large|", "large|"]
    assert ladder.rows[-1].gain.value == 0.0


def test_against_teachers_nothing_is_called_accuracy(rungs, task):
    made, rows = rungs
    config = EvalConfig(bootstrap=100)
    found = evaluate(made[1].predictions, rows, task=task, truth_source="teacher", config=config)
    ladder = build_ladder([Rung("s", "dcn", "labels", made[1].predictions, found)], rows, task=task, config=config)
    said = ladder.to_markdown() + ladder.caption()
    assert "agreement, exact or not" in said
    assert "accuracy, exact" not in said
    assert "(agreement, not accuracy)" in said


def test_runs_stand_below_each_other(rungs, task):
    made, rows = rungs
    ladder = build_ladder(made[1:], rows, task=task, config=EvalConfig(bootstrap=100))
    both = merge_ladders({"monday": ladder, "friday": ladder})
    assert [row.full_name for row in both.rows] == [
        "monday: small",
        "monday: large|",
        "friday: small",
        "friday: large|",
    ]
    assert both.baseline == ladder.baseline
    assert merge_ladders({"a": ladder, "b": Ladder(rows=[], baseline=0.1)}).baseline is None


def test_one_name_twice_is_refused(rungs, task):
    made, rows = rungs
    with pytest.raises(DataError, match="stand on it twice"):
        build_ladder([made[1], made[1]], rows, task=task)


def test_an_empty_ladder_has_no_best_and_says_so():
    assert Ladder(rows=[]).best is None
    assert Ladder(rows=[]).caption() == "no rungs"
