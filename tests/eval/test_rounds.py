"""When rounds are over, and how they are told."""

from __future__ import annotations

import pytest

from distill.eval.intervals import Estimate
from distill.eval.ladder import Ladder, LadderRow
from distill.eval.rounds import (
    ControlFacts,
    GainWatch,
    RecheckFacts,
    RoundFacts,
    RoundsFacts,
    changed_said,
    no_gain_said,
    points_gained,
    rounds_cells,
    rounds_ladder,
)
from distill.eval.rounds_plots import rounds_plot


def estimate(value: float | None, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high, rows=100, groups=20)


def line(number: int, value: float, gain: Estimate | None = None, *, truth: str = "human") -> LadderRow:
    return LadderRow.model_validate(
        {
            "name": "small",
            "kind": "dcn",
            "trained_on": "labels",
            "metric": "accuracy",
            "quality": estimate(value, value - 0.05, value + 0.05),
            "others": {},
            "truth_source": truth,
            "gain": gain,
            "gain_over": f"round {number - 1}" if gain else None,
            "round": number,
            "changed": "something",
        }
    )


def one_round(
    number: int, row: LadderRow, *, usd: float | None = 1.0, control: ControlFacts | None = None
) -> RoundFacts:
    points = points_gained(row.gain)
    row = row.model_copy(update={"cost_per_point": usd / points if usd and points else None})
    return RoundFacts(
        number=number,
        asked={"uncertainty": 3, "random": 1},
        recheck=RecheckFacts(
            teacher="strong", asked=4, answered=4, changed=1, gold_rows=2, right_before=1, right_after=2
        ),
        cost_usd=usd,
        cost_in_all_usd=None if usd is None else usd * (number + 1),
        rows_in_all=4 * (number + 1),
        students=[row],
        control=control,
    )


GAINED, LOST = estimate(0.04, 0.01, 0.07), estimate(0.02, -0.01, 0.05)


def test_rounds_are_over_with_the_first_gain_whose_interval_holds_zero() -> None:
    watch = GainWatch(patience=1)
    assert not watch.over(1, GAINED) and watch.since == 1
    assert watch.over(2, LOST)


@pytest.mark.parametrize(
    "gain", [estimate(0.01, 0.0, 0.02), estimate(None, None, None), None, estimate(-0.1, -0.2, -0.05)]
)
def test_what_touches_zero_cannot_be_told_or_is_a_loss_is_no_gain(gain: Estimate | None) -> None:
    assert GainWatch(patience=1).over(1, gain)


def test_patience_compares_with_the_last_round_that_gained() -> None:
    watch = GainWatch(patience=2)
    assert not watch.over(1, LOST) and watch.since == 0
    # Two small steps together are a gain since round 0, and the count starts anew.
    assert not watch.over(2, GAINED) and (watch.since, watch.without) == (2, 0)
    assert not watch.over(3, LOST)
    assert watch.over(4, LOST) and watch.since == 2


def test_the_reason_says_what_was_found() -> None:
    said = no_gain_said("small", LOST, metric="accuracy", since=2)
    assert said == (
        "the gain of small is not shown to be one: +2.0 (−1.0 to +5.0) points since round 2, "
        "an interval that includes zero"
    )
    worse = no_gain_said("small", estimate(-0.1, -0.2, -0.05), metric="auc", since=0)
    assert worse == "small got worse: −0.100 (−0.200 to −0.050) since round 0"
    assert "cannot be told" in no_gain_said("small", None, metric="accuracy", since=0)


def test_points_are_gained_only_where_they_are_shown() -> None:
    # 4 points for $1.
    assert points_gained(GAINED) == pytest.approx(4.0)
    assert one_round(1, line(1, 0.6, GAINED)).students[0].cost_per_point == pytest.approx(0.25)
    assert (
        points_gained(LOST) is None and points_gained(None) is None and points_gained(estimate(0.1, 0.0, 0.2)) is None
    )


def test_rounds_as_cells_and_words() -> None:
    beside = ControlFacts(student=line(1, 0.55), rows=8, difference=LOST, cost_usd=0.5)
    rounds = [one_round(0, line(0, 0.5)), one_round(1, line(1, 0.54, GAINED), control=beside)]
    told = RoundsFacts(student="small", stop="the count is reached", rounds=rounds)
    columns, cells = rounds_cells(told)
    found = [dict(zip(columns, row, strict=True)) for row in cells]
    assert [one["a point"] for one in found] == ["–", "$0.25"]
    assert [one["in all"] for one in found] == ["$1.00", "$2.00"]
    assert [one["rows"] for one in found] == ["4", "8"]
    assert found[1]["gain"] == "+4.0 (+1.0 to +7.0)" and found[1]["over random"] == "+2.0 (−1.0 to +5.0)"
    said = " ".join(told.lines())
    assert "2 rounds; ended because the count is reached." in said
    assert (
        "strong was asked again about 8 doubted labels and changed 2; of 4 with a gold label 2 were right before and 4"
        in said
    )
    assert "labels by people" in said and "agreement" not in said
    assert changed_said(rounds[0]) == "4 rows: 3 uncertainty, 1 random; 4 rechecked by strong, 1 changed"


def test_against_teachers_a_gain_is_called_one_in_agreement() -> None:
    told = RoundsFacts(student="small", stop="x", rounds=[one_round(0, line(0, 0.5, truth="teacher"))])
    assert "agreement with the merged labels of the first round" in " ".join(told.lines())
    assert rounds_cells(told)[0][2] == "agreement, all labels"


def test_the_ladder_of_rounds_has_each_student_and_round_and_the_last_ones_teachers() -> None:
    teacher = line(0, 0.9).model_copy(update={"name": "strong", "kind": "teacher", "round": None})
    told = RoundsFacts(student="small", stop="x", rounds=[one_round(n, line(n, 0.5 + n / 10)) for n in range(2)])
    ladder = rounds_ladder(told, Ladder(rows=[line(1, 0.6), teacher], baseline=0.4))
    assert [row.full_name for row in ladder.rows] == ["small, round 0", "small, round 1", "strong"]
    assert ladder.baseline == 0.4 and "of the round before" in ladder.caption()


def test_the_plot_has_every_round_by_cost_or_by_rows() -> None:
    rounds = [one_round(n, line(n, 0.5 + n / 20)) for n in range(3)]
    drawn = rounds_plot(RoundsFacts(student="small", stop="x", rounds=rounds), width=600)
    assert drawn is not None and drawn.count("<circle") == 3
    assert "cost of all answers so far" in drawn and "$3.00" in drawn and "round 2: 60.0% (55.0 to 65.0)" in drawn
    unknown = [one_round(n, line(n, 0.5 + n / 20), usd=None) for n in range(3)]
    drawn = rounds_plot(RoundsFacts(student="small", stop="x", rounds=unknown), width=340)
    assert drawn is not None and "rows asked so far" in drawn
    assert rounds_plot(RoundsFacts(student="small", stop="x", rounds=rounds[:1]), width=600) is None
    still = [line(n, 0.5).model_copy(update={"quality": estimate(0.5, 0.5, 0.5)}) for n in range(2)]
    flat = [one_round(n, row) for n, row in enumerate(still)]
    assert rounds_plot(RoundsFacts(student="small", stop="x", rounds=flat), width=600) is not None
