from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate, paired_difference
from distill.eval.few_labels import measure_few_labels
from distill.eval.intervals import Estimate
from distill.eval.label_free import LabelFreeEstimate
from distill.eval.ladder import Ladder, Rung, build_ladder, ladder_cells, merge_ladders, with_few_labels
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


def _with_costs(rungs, task, **changes):
    made, rows = rungs
    first = dataclasses.replace(made[1], cost_usd=2.0)
    second = dataclasses.replace(made[2], cost_usd=10.0, **changes)
    return build_ladder([made[0], first, second], rows, task=task, config=EvalConfig(bootstrap=100)).rows[2]


def test_a_point_costs_what_was_paid_beyond_the_rung_compared_with(rungs, task):
    line = _with_costs(rungs, task)
    assert line.gain.low > 0
    assert line.cost_per_point == pytest.approx((10.0 - 2.0) / (100 * line.gain.value))
    assert _with_costs(rungs, task, kind="dcn").cost_per_point == line.cost_per_point


def test_no_cost_per_point_where_there_is_no_gain_or_no_price(rungs, task):
    made, rows = rungs
    config = EvalConfig(bootstrap=100)

    def line(first_cost, second_cost, *, second=made[2], trained_on="labels"):
        pair = [
            dataclasses.replace(made[1], cost_usd=first_cost, trained_on=trained_on),
            dataclasses.replace(second, name="second", cost_usd=second_cost),
        ]
        return build_ladder(pair, rows, task=task, config=config).rows[1]

    assert line(2.0, None).cost_per_point is None
    assert line(None, 10.0).cost_per_point is None  # what the other's labels cost is not known
    assert line(10.0, 10.0).cost_per_point is None  # nothing was paid beyond it
    assert line(2.0, 10.0, second=made[1]).cost_per_point is None  # no gain
    people = line(None, 10.0, trained_on="human")  # people's labels are in no cost
    assert people.cost_per_point == pytest.approx(10.0 / (100 * people.gain.value))


def test_a_rung_may_name_whom_it_is_compared_with(rungs, task):
    made, rows = rungs
    config = EvalConfig(bootstrap=100)
    third = dataclasses.replace(made[2], name="third", gain_over="large|")
    ladder = build_ladder([*made, third], rows, task=task, config=config)
    assert (ladder.rows[-1].gain_over, ladder.rows[-1].gain.value) == ("large|", 0.0)
    assert "first student of the same kind" in ladder.caption()
    fourth = dataclasses.replace(third, name="fourth", gain_over="small")
    named = build_ladder([*made, third, fourth], rows, task=task, config=config)
    assert "Gains: large| over small, third over large|, fourth over small." in named.caption()
    with pytest.raises(DataError, match="compared with 'nobody'; give a student before it: small, large"):
        build_ladder([*made, dataclasses.replace(third, gain_over="nobody")], rows, task=task, config=config)


def test_estimates_have_columns_of_their_own_and_are_called_no_accuracy(rungs, task):
    made, rows = rungs
    plain = build_ladder(made, rows, task=task, config=EvalConfig(bootstrap=100))
    assert not {"agrees with teachers", "labels cost", "cost per point"} & set(ladder_cells(plain)[0])
    sure = Estimate(value=0.7, low=0.6, high=0.8, rows=120, groups=30)
    said = LabelFreeEstimate(agreement=sure, expected=sure, believable=False)
    told = [made[1], dataclasses.replace(made[2], estimate=said, cost_usd=10.0)]
    first = dataclasses.replace(told[0], trained_on="human")
    columns, lines = ladder_cells(build_ladder([first, told[1]], rows, task=task, config=EvalConfig(bootstrap=100)))
    line = dict(zip(columns, lines[1], strict=True))
    assert (line["agrees with teachers"], line["expects of itself"]) == ("70.0%", "70.0% refuted")
    assert line["labels cost"] == "$10.00" and line["cost per point"].startswith("$")
    assert dict(zip(columns, lines[0], strict=True))["agrees with teachers"] == "–"


def test_a_few_labels_stand_beside_the_plain_quality(rungs, task):
    made, rows = rungs
    part = rows.with_columns(gold=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.col("gold")))
    config = EvalConfig(bootstrap=100)
    told = [
        dataclasses.replace(
            one, evaluation=evaluate(one.predictions, part, task=task, truth_source="human", config=config)
        )
        for one in made[1:]
    ]
    ladder = build_ladder(told, part, task=task, config=config)
    few = measure_few_labels(
        {one.name: one.predictions for one in told},
        part,
        task=task,
        truth_source="human",
        compare=[("large|", "small")],
        config=config,
    )
    both = with_few_labels(ladder, few)
    assert both.rows[1].powered == few.quality["large|"]["positive_accuracy"]
    assert both.rows[1].powered_gain == few.differences[0].found and both.rows[0].powered_gain is None
    columns, lines = ladder_cells(both)
    cell = dict(zip(columns, lines[1], strict=True))["with guesses for the rest"]
    assert cell.endswith(f"as {both.rows[1].powered.as_good_as} labels")
    assert Ladder.model_validate_json(both.model_dump_json()) == both
