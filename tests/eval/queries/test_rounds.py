"""When rounds of several parts are over, what is said of a part without labels, and how rounds are told."""

from __future__ import annotations

import pytest

from distill.eval.config import EvalConfig
from distill.eval.intervals import Estimate
from distill.eval.label_free import LabelFreeEstimate
from distill.eval.ladder import LadderRow
from distill.eval.queries.answers import PartAnswers, answered_right
from distill.eval.queries.claims import Predictor, Settings, check_gains, paired_gain
from distill.eval.queries.evaluation import measure_part
from distill.eval.queries.facts import Check, TeacherClaim
from distill.eval.queries.label_free import estimate_part
from distill.eval.queries.metrics import PairedClaim
from distill.eval.queries.report_words import check_claim_said
from distill.eval.queries.rounds import PartRound, PartsWatch
from distill.eval.queries.rounds_words import claims_table, no_part_gained_said, part_table, rounds_table, stories
from distill.eval.queries.tallies import Measured
from distill.eval.rounds import RoundFacts, RoundsFacts
from distill.eval.rounds_plots import part_plot
from distill.labeling.task import Task

SPELLING = Task(labels=(), inputs=("query",), kind="text", type="spelling", part="spelling")
EXPANSION = Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, part="expansion")
ROWS = [f"r{number}" for number in range(40)]
SETTINGS = Settings(EvalConfig(bootstrap=200), 7, {row: row for row in ROWS})


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, rows=100, groups=50)


GAINED, STILL = estimate(0.04, 0.01, 0.07), estimate(0.02, -0.01, 0.05)


def test_rounds_go_on_while_any_part_gains_over_its_own_round() -> None:
    watch = PartsWatch(patience=2)
    assert not watch.over(1, {"spelling": GAINED, "brand": STILL})
    assert watch.since == {"spelling": 1}  # brand is still compared with round 0
    assert not watch.over(2, {"spelling": STILL, "brand": STILL})
    assert not watch.over(3, {"spelling": STILL, "brand": GAINED}) and watch.since == {"spelling": 1, "brand": 3}
    assert not watch.over(4, {"spelling": estimate(-0.1, -0.2, -0.05), "brand": STILL})
    assert watch.over(5, {"spelling": None, "brand": STILL})


def test_agreement_expectation_and_gap_by_hand() -> None:
    # It says as the labels in 30 of 40 rows, and is sure of 0.75 everywhere: what it expects is what happens.
    merged = PartAnswers(dict.fromkeys(ROWS, "lamp"))
    said = PartAnswers(
        {row: "lamp" if place % 4 else "lmap" for place, row in enumerate(ROWS)}, dict.fromkeys(ROWS, 0.75)
    )
    gold = PartAnswers(dict.fromkeys(ROWS[:20], "lmap"))
    given = {"merged": merged, "gold": gold, "settings": SETTINGS}
    found = estimate_part(SPELLING, said, **given, set_right_by="teachers")
    assert found.agreement is not None and found.agreement.value == 0.75
    assert found.expected is not None and found.expected.value == 0.75
    assert found.gap is not None and found.gap.value == pytest.approx(0.0) and found.believable
    # People say lmap of the 20 they know, as it does of 5 of them: it expects 0.5 more than it keeps.
    found = estimate_part(SPELLING, said, **given, set_right_by="people")
    assert found.gap is not None and found.gap.value == pytest.approx(0.5) and found.gap.rows == 20
    assert found.believable is False
    found = estimate_part(SPELLING, said, **given, set_right_by=None)
    assert found.expected is None and found.agreement is not None and "no expectation" in found.notes[-1]


def test_a_list_is_as_right_as_its_texts_are_given() -> None:
    assert answered_right(EXPANSION, ["a", "b"], ["b", "c", "d"]) == 0.5
    assert answered_right(EXPANSION, [], []) == 1.0 and answered_right(EXPANSION, [], ["a"]) == 0.0
    assert answered_right(SPELLING, "Lamp", "lamp") == 1.0


def passing(name: str, kind: str, *, right: int, of: int) -> Predictor:
    """Who changes the first ``of`` queries, of which ``right`` pass the check."""
    said = dict.fromkeys(ROWS, "lamp")
    passes = {row: float(place < right) for place, row in enumerate(ROWS[:of])}
    return Predictor(name, kind, PartAnswers(said), {"keeps": passes})  # type: ignore[arg-type]


def test_a_check_is_a_paired_claim_where_it_speaks_of_enough_queries() -> None:
    measured = Measured(SPELLING, dict.fromkeys(ROWS, "lmap"), PartAnswers(dict.fromkeys(ROWS, "lamp")))
    teacher = passing("model", "teacher", right=10, of=40)

    def claims(student: Predictor) -> list[TeacherClaim]:
        part = measure_part(
            measured, [student], truth_source="teacher", merged=None, settings=SETTINGS, teachers=[teacher]
        )
        return part.check_claims

    # 27 of 30 against 10 of 40.
    (one,) = claims(passing("small", "encoder", right=27, of=30))
    assert (one.claim.metric, one.claim.student, one.claim.teacher) == ("keeps", 0.9, 0.25) and one.claim.holds
    assert check_claim_said(one).startswith("small is shown to pass more often than model: keeps, 90.0% and 25.0%; ")
    # 3 of 3 pass, and nothing could be doubted by resampling them.
    assert claims(passing("small", "encoder", right=3, of=3)) == []
    gains = check_gains(
        passing("now", "encoder", right=27, of=30), passing("then", "encoder", right=15, of=30), SETTINGS
    )
    assert gains["keeps"].value == pytest.approx(0.4) and gains["keeps"].low is not None and gains["keeps"].low > 0


def test_two_who_answered_no_row_in_common_have_no_gain() -> None:
    measured = Measured(SPELLING, {"r0": "lmap", "r1": "lmap"}, PartAnswers({"r0": "lamp", "r1": "lamp"}))
    one, other = (Predictor(row, "encoder", PartAnswers({row: "lamp"})) for row in ("r0", "r1"))
    assert paired_gain(one, other, measured, SETTINGS).value is None


def line(number: int, part: str, metric: str, value: float, gain: Estimate | None) -> tuple[LadderRow, PartRound]:
    agreement = estimate(value + 0.1, value, value + 0.2)
    row = {
        "name": "small",
        "kind": "encoder",
        "part": part,
        "trained_on": "labels",
        "metric": metric,
        "quality": estimate(value, value - 0.05, value + 0.05),
        "others": {},
        "truth_source": "human",
        "gain": gain,
        "round": number,
        "changed": "6 rows: 6 random",
        "estimate": LabelFreeEstimate(agreement=agreement, expected=agreement, believable=False),
    }
    claim = PairedClaim(
        metric=metric,
        student=value,
        teacher=0.5,
        difference=value - 0.5,
        lower=value - 0.55,
        p_value=0.04,
        margin=0.0,
        level=0.95,
        groups=50,
    )
    own = PartRound(
        student="small",
        part=part,
        same_as_before=agreement if gain else None,
        gain_since=gain,
        since=0 if gain else None,
        checks=[Check(name="keeps", passed=agreement)],
        check_gains={"keeps": STILL} if gain else {},
        claims=[TeacherClaim(student="small", teacher="model", claim=claim)],
    )
    return LadderRow.model_validate(row), own


@pytest.fixture
def told() -> RoundsFacts:
    rounds = []
    for number in range(2):
        gain = STILL if number else None
        lines = [line(number, "brand", "span_f1", 0.5 + 0.1 * number, gain)]
        lines.append(line(number, "expansion", "ndcg", 0.4, gain))
        rounds.append(
            RoundFacts(
                number=number,
                asked={"random": 6},
                cost_usd=1.0,
                cost_in_all_usd=1.0 + number,
                rows_in_all=6 * (number + 1),
                students=[row for row, _ in lines],
                parts=[own for _, own in lines],
            )
        )
    return RoundsFacts(student="small", stop="the count is reached", rounds=rounds)


def test_a_part_is_told_over_its_rounds(told: RoundsFacts) -> None:
    brand, expansion = stories(told)
    columns, lines = part_table(brand)
    assert columns == [
        *("round", "span F1", "gain", "says as merged", "gain in that", "expects", "as the round before"),
        *("keeps", "gain in that"),
    ]
    assert lines[1] == [
        *(1, "60.0% (55.0 to 65.0)", "+2.0 (−1.0 to +5.0)", "70.0% (60.0 to 80.0)", "–", "70.0% refuted"),
        *("70.0% (60.0 to 80.0)", "70.0% (60.0 to 80.0) of 100", "+2.0 (−1.0 to +5.0)"),
    ]
    claims = claims_table(brand, "small")
    assert claims is not None and claims[0] == ["round", "model, span F1"]
    assert claims[1] == [[0, "+0.000 (at least −0.050)"], [1, "+0.100 (at least +0.050, shown)"]]
    assert rounds_table(told)[1][1] == [1, "6 rows: 6 random", "12", "$1.00", "$2.00"]
    assert told.by_part and len(told.to_rich().rows) == 4
    said = told.lines()
    assert said[0] == "2 rounds; ended because the count is reached."
    assert any(one.startswith("brand: small is shown to be better than model: 60.0% and 50.0%") for one in said)
    assert any(one.startswith("brand: keeps: 70.0% (60.0 to 80.0) of 100, 60.0% after the first") for one in said)
    # What a list has in common with another list says little, and is not drawn.
    assert str(part_plot(told, brand, width=400)).count("hollow") == 2
    assert str(part_plot(told, expansion, width=400)).count("hollow") == 0
    begun = told.model_copy(update={"rounds": told.rounds[:1]})
    assert part_plot(begun, stories(begun)[0], width=400) is None


def test_the_end_names_every_part(told: RoundsFacts) -> None:
    assert no_part_gained_said(told.rounds[1], "small") == (
        "no part of small is shown to have gained: brand +2.0 (−1.0 to +5.0) points since round 0; "
        "expansion +0.020 (−0.010 to +0.050) since round 0"
    )
