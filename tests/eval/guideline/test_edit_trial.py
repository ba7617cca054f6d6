from __future__ import annotations

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.guideline.edit_trial import (
    ClauseEdit,
    TrialLimits,
    TrialVotes,
    Tried,
    judge_edit,
    refuse_edit,
    trial_rows,
    write_trials,
)
from distill.labeling.errors import DataError
from distill.labeling.guideline import Guideline

GUIDELINE = Guideline.parse("""version: 1

# Exact

- **E1 Type.** The kind of thing that the query names,
  and nothing that merely belongs to it.
- **E2 Silence.** Where the listing is silent, decide as a shopper would.
""")
CONFIG = EvalConfig(bootstrap=200)
EDIT = ClauseEdit(clause="E2", text="Where the listing is silent, the constraint fails.")


def _votes(labels: dict[str, tuple[str, str]], cost: float | None = 0.01) -> pl.DataFrame:
    lines = [
        {"row_id": row, "teacher": teacher, "label": label, "outcome": "labeled", "clauses": ["E2"], "cost_usd": cost}
        for row, pair in labels.items()
        for teacher, label in zip("ab", pair, strict=True)
    ]
    return pl.DataFrame(lines, schema_overrides={"cost_usd": pl.Float64})


def _rows(names: list[str], gold: str | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {"row_id": names, "group": names, "gold": [gold] * len(names)}, schema_overrides={"gold": pl.String}
    )


APART, AGREED = ("exact", "substitute"), ("exact", "exact")
AFFECTED = [f"a{row}" for row in range(40)]
SETTLED = [f"s{row}" for row in range(40)]
FIRST = _votes({**dict.fromkeys(AFFECTED, APART), **dict.fromkeys(SETTLED, AGREED)})


def _tried(old_agree: int, new_agree: int, *, harmed: int = 0, noise: int = 0, gold: str | None = None):
    def said(agree: int, lost: int) -> pl.DataFrame:
        of_affected = {row: AGREED if place < agree else APART for place, row in enumerate(AFFECTED)}
        return _votes({**of_affected, **{row: APART if place < lost else AGREED for place, row in enumerate(SETTLED)}})

    votes = TrialVotes(FIRST, said(old_agree, noise), said(new_agree, harmed))
    return judge_edit(EDIT, GUIDELINE, votes, _rows(AFFECTED, gold), _rows(SETTLED), config=CONFIG)


def test_a_clause_is_replaced_and_nothing_else():
    changed = GUIDELINE.with_clause("E1", "One line\nnow.")
    assert changed.text == GUIDELINE.text.replace(
        "The kind of thing that the query names,\n  and nothing that merely belongs to it.", "One line now."
    )
    assert (changed.version, changed.by_id["E2"].text) == ("1", GUIDELINE.by_id["E2"].text)
    with pytest.raises(DataError, match="no clause 'E9'; there are E1, E2"):
        GUIDELINE.with_clause("E9", "x")
    with pytest.raises(DataError, match="the new text is empty"):
        GUIDELINE.with_clause("E2", "")


def test_edits_not_worth_asking_about():
    limits = TrialLimits()
    assert refuse_edit(EDIT, GUIDELINE, TrialLimits(growth=0.5)) is None
    assert (
        refuse_edit(ClauseEdit(clause="E2", text=GUIDELINE.by_id["E2"].text), GUIDELINE, limits) == "it changes nothing"
    )
    copied = ClauseEdit(
        clause="E2", text="The kind of thing that a query names, and nothing that merely belongs to it."
    )
    assert "what clause E1 says" in refuse_edit(copied, GUIDELINE, limits)
    long = ClauseEdit(clause="E2", text="Where the listing is silent, think of " + "many things " * 20)
    assert "lengthens the guideline" in refuse_edit(long, GUIDELINE, limits)


def test_rows_to_try_on():
    votes = pl.concat([FIRST, _votes({"b0": APART}).with_columns(clauses=pl.lit(["E1"]))])
    affected, settled = trial_rows(votes, _rows([*AFFECTED, *SETTLED, "b0", "x"]), clause="E2", most=30)
    assert (len(affected), len(settled)) == (30, 30)
    assert set(affected["row_id"]) <= set(AFFECTED)  # b0 differs over another clause
    assert set(settled["row_id"]) <= set(SETTLED)


def test_an_edit_that_settles_rows_and_harms_none_is_adopted():
    trial = _tried(4, 36, gold="exact")
    assert (trial.agreement_old.value, trial.agreement_new.value) == (0.1, 0.9)
    assert trial.gain.value == pytest.approx(0.8)
    assert trial.harm.value == 0.0
    # no harm in 40 rows still allows for some: Wilson's upper end is above 2%
    assert (trial.verdict, trial.affected_rows, trial.settled_rows) == ("undecided", 40, 40)
    assert "settled rows may be harmed" in trial.reason
    # b changed its label on 32 rows of 80 answers; all say exact now, which gold says too
    assert trial.changed.value == pytest.approx(32 / 80)
    assert trial.right.value == pytest.approx(32 / 80)
    assert trial.cost_usd == pytest.approx(2 * 160 * 0.01)
    lenient = judge_edit(
        EDIT,
        GUIDELINE,
        TrialVotes(FIRST, FIRST, _votes(dict.fromkeys([*AFFECTED, *SETTLED], AGREED))),
        _rows(AFFECTED),
        _rows(SETTLED),
        limits=TrialLimits(harm=0.1),
        config=CONFIG,
    )
    assert lenient.verdict == "adopt"


def test_luck_is_not_the_edits_doing():
    """Rows picked for disagreement agree half the time when asked again, under either text."""
    trial = _tried(20, 21)
    assert trial.gain.value == pytest.approx(1 / 40)
    assert trial.verdict == "undecided"
    # an interval of half-width h is as wide as the gain at (h / gain)² times the rows
    half = (trial.gain.high - trial.gain.low) / 2
    assert trial.more_rows == pytest.approx(40 * (half / trial.gain.value) ** 2 - 40, abs=1)


def test_harm_beyond_noise_rejects():
    trial = _tried(4, 36, harmed=20, noise=2)
    assert trial.harm.value == pytest.approx(18 / 40)
    assert (trial.verdict, "harms" in trial.reason) == ("reject", True)
    worse = _tried(30, 5)
    assert (worse.verdict, worse.reason.endswith("judges agree less")) == ("reject", True)


def test_nothing_asked_is_said():
    with pytest.raises(DataError, match="no affected row has two judges under both texts"):
        judge_edit(EDIT, GUIDELINE, TrialVotes(FIRST, FIRST[:1], FIRST), _rows(AFFECTED), _rows(SETTLED), config=CONFIG)


def test_written_as_json_and_markdown(tmp_path):
    tried = Tried(trials=[_tried(4, 36)], refused={"E1": "it changes nothing"})
    body, said = write_trials(tried, tmp_path / "edits.json")
    assert Tried.model_validate_json(body.read_text()) == tried
    text = said.read_text()
    assert "> \\- E2 Silence. Where" in text or "> - E2 Silence. Where" in text
    assert "### E1: not tried" in text
