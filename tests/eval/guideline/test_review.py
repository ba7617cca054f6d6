from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.guideline.review import Review, review
from distill.labeling.errors import DataError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

LABELS = ("exact", "substitute", "complement", "irrelevant")
CONFIG = EvalConfig(bootstrap=200)
GUIDELINE = Guideline.parse("""
version: 3
- **E1 Kind.** The same kind of thing.
- **E2 Silence.** Where the listing is silent, decide.
- **S1 Off.** One constraint fails.
- **I1 Other.** Another need.
- **X1 Unused.** Nobody needs this.
""")


@pytest.fixture
def judged() -> Task:
    return Task(labels=LABELS, inputs=("query", "title"), positive="exact", ordered=True, guideline=GUIDELINE)


def test_a_small_case_counted_by_hand(make_rows, make_votes, judged):
    rows = make_rows(["exact", None, None, None])
    votes = make_votes(
        ("r000", "a", "exact", ["E1", "E2"]),
        ("r000", "b", "substitute", ["E2", "S1"]),  # split on E2; E1 collides with S1
        ("r001", "a", "exact", ["E1"]),
        ("r001", "b", "substitute", ["S1"]),  # E1 collides with S1
        ("r002", "a", "exact", ["E1"]),
        ("r002", "b", "exact", ["E1"]),
        ("r003", "a", "irrelevant", []),  # nobody cites a clause here
        ("r003", "b", "substitute", []),
        ("r000", "c", "exact"),  # c never cites
        ("r001", "c", None),  # and abstains here, which is no label
    )
    found = review(votes, rows, task=judged, config=CONFIG)
    assert (found.rows, found.rows_apart, found.units, found.conflicts, found.citable) == (4, 3, 6, 4, 2)
    assert found.agreement.value == pytest.approx(2 / 6)
    by_id = {account.id: account for account in found.clauses}
    assert (by_id["E1"].met, by_id["E1"].conflicts, by_id["E1"].splits) == (3, 2, 0)
    assert (by_id["E2"].met, by_id["E2"].conflicts, by_id["E2"].splits) == (1, 1, 1)
    assert by_id["E2"].citations == {"a": 1, "b": 1}
    assert by_id["E2"].labels == {"exact": 1, "substitute": 1}
    assert by_id["E1"].rate.value == pytest.approx(2 / 3)
    assert by_id["E2"].share.value == pytest.approx(1 / 2)
    # E2: 1 conflict in 1 unit; elsewhere 1 in 2, drawn towards 2 in 3 by 20 units: (1 + 40/3) / 22 = 43/66
    assert by_id["E2"].excess.value == pytest.approx((1 - 43 / 66) / 2)
    assert found.never_cited == ["I1", "X1"]
    assert found.uncovered_row_ids == ["r003"]
    assert found.uncovered.value == pytest.approx(1 / 4)
    borders = {(border.left, border.right): border for border in found.boundaries}
    assert borders["exact", "substitute"].conflicts == 3
    assert borders["substitute", "irrelevant"].conflicts == 1
    lean = borders["substitute", "irrelevant"].leans[0]
    assert (lean.first, lean.first_takes_left, lean.second_takes_left) == ("a", 0, 1)
    judges = {judge.name: judge for judge in found.judges}
    assert judges["c"].citing == 0.0 and judges["a"].citing == 0.75
    assert judges["c"].agreement.value == pytest.approx(1 / 2)


def test_telling_rows_hold_both_sides_surest_first(make_rows, make_votes, judged):
    def distribution(label, sure):
        return [sure if name == label else (1 - sure) / 3 for name in LABELS]

    votes = pl.concat(
        [
            make_votes(("r000", "a", "exact"), probs=distribution("exact", 0.6), trace="kind holds"),
            make_votes(("r000", "b", "substitute"), probs=distribution("substitute", 0.9)),
            make_votes(("r001", "a", "exact"), probs=distribution("exact", 0.9)),
            make_votes(("r001", "b", "substitute"), probs=distribution("substitute", 0.9)),
        ]
    )
    labels = pl.DataFrame({"row_id": ["r001"], "label": ["exact"]})
    found = review(votes, make_rows(["exact", None]), task=judged, labels=labels, config=CONFIG)
    assert [(row.row_id, row.weight, row.merged, row.gold) for row in found.telling] == [
        ("r001", 0.9, "exact", None),  # both .9 sure
        ("r000", 0.6, None, "exact"),  # the less sure of the two is .6 sure
    ]
    assert found.telling[1].said[0].trace == "kind holds"
    assert found.telling[1].inputs == {"query": "query 0", "title": "title 0"}


def planted(seed, *, ambiguous, rows=240, judges=3):
    """Votes under a guideline of eight clauses, one of which judges read in two ways half of the time.

    Each row is decided by one clause and, as in real citations, carries E1 as well; other rows see slips of 3%.
    """
    rng = np.random.default_rng(seed)
    ids = [f"E{i}" for i in range(2, 8)]
    said = []
    for row in range(rows):
        clause = ids[row % len(ids)]
        label = ["exact", "substitute"][rng.integers(2)]
        for judge in range(judges):
            given = label
            flips = 0.5 if clause == ambiguous else 0.03
            if rng.random() < flips:
                given = "substitute" if label == "exact" else "exact"
            said.append(
                (f"r{row:03d}", f"judge{judge}", given, ["E1", clause] + (["S1"] if given == "substitute" else []))
            )
    return said


def test_a_clause_made_ambiguous_is_named_first_in_twenty_of_twenty(make_rows, make_votes):
    text = "\n".join(f"- **E{i} Rule {i}.** Text." for i in range(1, 8)) + "\n- **S1 Off.** Text."
    task = Task(labels=LABELS, inputs=("query", "title"), positive="exact", guideline=Guideline.parse(text))
    rows = make_rows([None] * 240, group=[f"g{i // 6}" for i in range(240)])
    named = 0
    for seed in range(20):
        clause = f"E{2 + seed % 6}"
        found = review(make_votes(*planted(seed, ambiguous=clause)), rows, task=task, config=EvalConfig(bootstrap=100))
        named += found.causes[0].clauses == (clause,)
        assert found.clauses[0].id in (clause, "S1")
        # E1 stands beside every disagreement and explains none
        assert next(account for account in found.clauses if account.id == "E1").share.value == 1.0
        assert all(cause.clauses != ("E1",) for cause in found.causes)
    assert named == 20


def test_causes_share_nothing_and_add_up(quickstart_rows, quickstart_votes, quickstart_task):
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=CONFIG)
    assert sum(cause.conflicts for cause in found.causes) + found.unexplained == found.citable
    assert sum(cause.share.value for cause in found.causes) == pytest.approx(1 - found.unexplained / found.citable)
    assert [cause.conflicts for cause in found.causes] == sorted((c.conflicts for c in found.causes), reverse=True)
    assert sum(border.conflicts for border in found.boundaries) == found.conflicts
    for cause in found.causes:
        assert sum(cause.boundaries.values()) == cause.conflicts
        assert cause.share.low <= cause.share.value <= cause.share.high
    assert Review.model_validate_json(found.model_dump_json()) == found


def test_the_quickstart_review_finds_the_silent_listing_clause(quickstart_rows, quickstart_votes, quickstart_task):
    """E4 ("decide whether a shopper would take it to hold") is ambiguous on purpose, against E3 and E9."""
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=CONFIG)
    first = found.causes[0]
    assert first.clauses == ("E4",)
    assert first.share.low > 0.4
    assert {"E3", "E9"} <= set(first.against)
    assert first.sides["careful exact, literal substitute"] > 0.9 * first.conflicts
    assert found.advice[0].clauses == ("E4",)
    assert "Silent listing" in found.advice[0].title and "exact" in found.advice[0].title
    # quick cites nothing, and is told to
    assert any("quick cite clauses" in advice.title for advice in found.advice)


def test_without_clauses_the_rest_of_the_review_stands(make_rows, make_votes, task):
    votes = make_votes(("r000", "a", "exact"), ("r000", "b", "substitute"))
    found = review(votes, make_rows([None]), task=task, config=CONFIG)
    assert (found.clauses, found.causes, found.collisions, found.guideline_version) == ([], [], [], None)
    assert found.uncovered.value is None
    assert found.boundaries[0].conflicts == 1
    assert found.advice[0].title == "Nothing stands out"


def test_a_guideline_whose_clauses_nobody_cites(make_rows, make_votes, judged):
    votes = make_votes(("r000", "a", "exact"), ("r000", "b", "substitute"))
    found = review(votes, make_rows([None]), task=judged, config=CONFIG)
    assert found.never_cited == ["E1", "E2", "S1", "I1", "X1"]
    assert all(account.rate.value is None for account in found.clauses)


def test_judges_who_always_agree(make_rows, make_votes, judged):
    votes = make_votes(("r000", "a", "exact", ["E1"]), ("r000", "b", "exact", ["E1"]))
    found = review(votes, make_rows([None]), task=judged, config=CONFIG)
    assert (found.conflicts, found.agreement.value, found.telling, found.causes) == (0, 1.0, [], [])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([("r000", "a", "exact"), ("r001", "b", "exact")], r"no row was labeled by two judges \(2 judges, 2 labels\)"),
        ([("r000", "a", "exact"), ("r000", "b", "nope")], "votes hold the label 'nope'"),
    ],
)
def test_votes_that_cannot_be_reviewed_are_one_clear_error(make_rows, make_votes, task, said, message):
    with pytest.raises(DataError, match=message):
        review(make_votes(*said), make_rows([None, None]), task=task, config=CONFIG)


def test_clauses_that_say_a_label_do_not_take_the_conflicts_of_one_that_decides(make_rows, make_votes):
    """E3 says exact and S1 substitute, so they meet head-on in all ten conflicts; six of them are over X1."""
    text = "- **E3 Unstated.** Text.\n- **S1 Off.** Text.\n- **X1 Vague.** Text.\n"
    task = Task(labels=LABELS, inputs=("query", "title"), positive="exact", guideline=Guideline.parse(text))
    said = []
    for i in range(100):
        vague = ["X1"] if i < 12 else []
        apart = i < 6 or 12 <= i < 16
        label, own = ("exact", "E3") if i % 2 else ("substitute", "S1")
        other, others = ("substitute", "S1") if i % 2 else ("exact", "E3")
        said.append((f"r{i:03d}", "a", label, [*vague, own]))
        said.append((f"r{i:03d}", "b", other if apart else label, [*vague, others if apart else own]))
    found = review(make_votes(*said), make_rows([None] * 100), task=task, config=CONFIG)
    assert [(cause.clauses, cause.conflicts) for cause in found.causes] == [(("X1",), 6), (("E3", "S1"), 4)]
