"""A cascade through the engine: who is asked about what, what is paid twice (nothing), and what stops it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.asking.cascade_run import CascadeFacts, calibration_rows
from distill.labeling.asking.label_rows import LabelingFacts, label_rows
from distill.labeling.errors import DataError, TeacherTimeoutError, UsageError, WrongKeyError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.rows.canaries import CANARY_PREFIX
from distill.labeling.task import Task
from distill.labeling.teacher import Request
from distill.labeling.vote import votes_frame

Run = Callable[..., tuple[pl.DataFrame, LabelingFacts]]
HARD = 4  # every fourth row


def make_rows(count: int = 1200, *, gold: bool = False) -> pl.DataFrame:
    """Groups of four rows; ``item0``, ``item4`` … are hard: the cheap teacher is unsure there, and wrong."""
    rows = pl.DataFrame({"row_id": [f"r{at}" for at in range(count)]})
    return rows.with_columns(
        group=pl.concat_str([pl.lit("q"), pl.int_range(pl.len()) // 4]),
        split=pl.Series(["audit" if at % 8 < 4 else "pool" for at in range(count)]),
        gold=pl.Series(["exact" if gold and at % 8 < 4 else None for at in range(count)], dtype=pl.String),
        query=pl.concat_str([pl.lit("query "), pl.int_range(pl.len()) // 4]),
        title=pl.Series([f"{'hard' if at % HARD == 0 else 'easy'} {at}" for at in range(count)]),
    )


@pytest.fixture
def cheap(make_teacher: Any) -> Any:
    """Says exact and is 95% sure; on hard rows irrelevant and 40%."""

    class Cheap(make_teacher):  # type: ignore[misc]
        def _step(self, request: Request) -> Any:
            text = json.loads(request.body)["messages"][1][1]
            for word, steps in self.scripts.items():
                if f"{word}\n" in text and steps:
                    return steps.pop(0)
            label, sure = ("irrelevant", 0.4) if "hard" in text else ("exact", 0.95)
            return json.dumps({"label": label, "confidence": sure})

    teacher = Cheap("cheap", family="small")
    teacher.model = "small"
    return teacher


@pytest.fixture
def strong(make_teacher: Any) -> Any:
    teacher = make_teacher("strong", family="large")
    teacher.model = "large"
    return teacher


@pytest.fixture
def run(task: Task, tmp_path: Path) -> Run:
    def ask(rows: pl.DataFrame, *teachers: Any, cascade: Any = None, **settings: Any) -> Any:
        cascade = {"order": ("cheap", "strong"), **(cascade or {})}
        config = LabelingConfig(**{"concurrency": 4, "cascade": cascade, **settings})
        asked = AskedRows(rows.lazy(), task=task, config=config, seed=7)
        parts = [votes_frame([])]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            facts = label_rows(asked, teachers=teachers, ledger=ledger, on_votes=parts.append)
        return pl.concat(parts).sort("row_id", "teacher", "sample"), facts

    return ask


def cascade_of(facts: LabelingFacts) -> CascadeFacts:
    assert facts.cascade is not None
    return facts.cascade


def test_only_the_unsure_rows_go_on(cheap: Any, strong: Any, run: Run) -> None:
    rows = make_rows()
    votes, facts = run(rows, cheap, strong)
    found = cascade_of(facts)
    assert found.choice is not None and found.choice.threshold == 0.95
    # 200 calibration rows in whole groups of four; of the other 1,000 every fourth is hard.
    assert (len(found.calibration), found.judged, found.rows, found.kept) == (200, 200, 1200, 750)
    assert votes.group_by("row_id").len()["len"].to_list() == [2] * 1200
    ends = dict(
        votes.group_by("teacher", "outcome").len().select(pl.concat_str("teacher", "outcome"), "len").iter_rows()
    )
    assert ends == {"cheaplabeled": 1200, "stronglabeled": 450, "strongunsent": 750}
    spared = votes.filter(pl.col("outcome") == "unsent")
    assert set(spared["cause"]) == {"cascade"} and spared["reason"].unique().to_list() == ["cheap was sure"]
    assert not spared.join(rows.filter(pl.col("title").str.contains("hard")), on="row_id", how="semi").height
    assert facts.result.requests_sent == 1650 and facts.result.cost_usd == 0.25 * 1650
    assert facts.result.teachers["strong"].outcomes == facts.outcomes["strong"] == {"labeled": 450, "unsent": 750}
    assert facts.to_dict()["cascade"]["threshold"] == 0.95


def test_run_again_pays_nothing_and_says_the_same(cheap: Any, strong: Any, run: Run) -> None:
    first, _ = run(make_rows(), cheap, strong)
    votes, facts = run(make_rows().sample(fraction=1.0, shuffle=True, seed=3), cheap, strong)
    assert facts.result.requests_sent == 0
    decisive = ["row_id", "teacher", "outcome", "cause", "label", "probs"]
    assert votes.select(decisive).equals(first.select(decisive))


def test_a_cheap_teacher_that_is_surely_wrong_is_not_asked_on(cheap: Any, strong: Any, run: Run) -> None:
    strong.always = '{"label": "substitute"}'
    votes, facts = run(make_rows(), cheap, strong)
    found = cascade_of(facts)
    assert found.choice is not None and found.choice.threshold is None and found.kept == 0
    assert dict(facts.outcomes["cheap"]) == {"labeled": 200, "unsent": 1000}
    assert dict(facts.outcomes["strong"]) == {"labeled": 1200}
    left = votes.filter(pl.col("outcome") == "unsent")
    assert set(left["cause"]) == {"cascade"} and "strong answers every row" in left["reason"][0]


def test_gold_measures_need_gold_and_take_it_from_train_and_audit(
    cheap: Any, strong: Any, run: Run, task: Task
) -> None:
    with pytest.raises(DataError, match=r"labeling\.cascade\.measure: got accuracy, and no row"):
        run(make_rows(), cheap, strong, cascade={"measure": "accuracy"})
    rows = make_rows(gold=True)
    strong.always = '{"label": "substitute"}'  # of no account: gold decides
    _, facts = run(rows, cheap, strong, cascade={"measure": "accuracy"})
    found = cascade_of(facts)
    assert found.choice is not None and found.choice.threshold == 0.95
    drawn = rows.filter(pl.col("row_id").is_in(found.calibration))
    assert set(drawn["split"]) == {"audit"} and len(drawn) == 200
    config = LabelingConfig(cascade={"order": ("cheap", "strong"), "calibration": 50})  # type: ignore[arg-type]
    assert config.cascade is not None
    asked = AskedRows(rows.lazy(), task=task, config=config, seed=7)
    # 13 groups of four: the first 12 are not 50 rows yet.
    drawn = calibration_rows(asked, config.cascade)
    assert len(drawn) == 52 and drawn["group"].n_unique() == 13


def test_a_bare_label_says_not_how_sure_it_is_but_several_samples_do(make_teacher: Any, strong: Any, run: Run) -> None:
    bare = make_teacher("cheap")
    with pytest.raises(DataError, match="gives bare labels and never says how sure it is"):
        run(make_rows(), bare, strong)
    assert sum(bare.asked.values()) == 200  # found out on the calibration rows
    # Without any error nobody knows how errors would come together: 100 groups show 95%, 50 do not.
    found = cascade_of(run(make_rows(), bare, strong, samples=2)[1])
    assert found.choice is not None and found.choice.threshold is None and found.choice.rows_needed is not None
    votes, facts = run(make_rows(), bare, strong, samples=2, cascade={"calibration": 400})
    found = cascade_of(facts)
    assert found.choice is not None and found.choice.threshold == 1.0 and found.kept == 800
    assert len(votes) == 4800 and len(votes.filter(pl.col("cause") == "cascade")) == 1600


def test_a_row_without_a_cheap_answer_goes_on(cheap: Any, strong: Any, run: Run) -> None:
    rows = make_rows()
    drawn = set(cascade_of(run(rows, cheap, strong)[1]).calibration)
    # None of these has been asked of the strong teacher yet.
    at = next(at for at in range(1, 1200) if f"r{at}" not in drawn and at % HARD)
    cheap.model, cheap.scripts = "other", {f"easy {at}": [TeacherTimeoutError("no answer")]}
    votes, _ = run(rows, cheap, strong, retries=0)
    ends = dict(votes.filter(pl.col("row_id") == f"r{at}").select("teacher", "outcome").iter_rows())
    assert ends == {"cheap": "failed", "strong": "labeled"}


@pytest.mark.parametrize("broken", ["cheap", "strong"])
def test_a_teacher_that_is_stopped_ends_it_and_the_same_command_goes_on(
    cheap: Any, strong: Any, run: Run, broken: str
) -> None:
    teachers = {"cheap": cheap, "strong": strong}
    works = teachers[broken]._step
    teachers[broken]._step = lambda request: WrongKeyError("401")
    votes, facts = run(make_rows(), cheap, strong)
    found = cascade_of(facts)
    assert found.stopped is not None and found.stopped.startswith(f"{broken}: ") and found.choice is None
    assert len(votes) == 2400
    # Nobody was asked beyond the calibration rows, and none of the rest counts as spared.
    assert facts.result.requests_sent <= 400
    assert set(votes["cause"].drop_nulls()) == {"wrong_key"}
    teachers[broken]._step = works
    votes, facts = run(make_rows(), cheap, strong)
    assert cascade_of(facts).stopped is None and cascade_of(facts).kept == 750


def test_one_budget_for_all_parts(cheap: Any, strong: Any, run: Run) -> None:
    # 400 answers for the calibration rows, 1,000 of the cheap teacher, 250 of the strong one: $412.50.
    votes, facts = run(make_rows(), cheap, strong, budget_usd=200.0)
    assert facts.result.stopped == "budget" and facts.result.cost_usd <= 200.0 + 0.25 * 4
    found = cascade_of(facts)
    assert found.stopped is not None and found.choice is not None and len(votes) == 2400
    assert "budget" in set(votes["cause"].drop_nulls())
    _, facts = run(make_rows(), cheap, strong)
    assert facts.result.requests_sent <= 1650 - 800 + 4  # what was bought is not bought again
    # A teacher's own budget is one, too.
    strong.model, strong.budget_usd = "newer", 75.0  # 300 of its 450 answers
    _, facts = run(make_rows(), cheap, strong)
    assert facts.result.teachers["strong"].cost_usd <= 75.0 + 0.25 * 4 and facts.result.stopped == "budget"


def test_canaries_go_to_who_is_asked_about_their_row(cheap: Any, strong: Any, run: Run) -> None:
    votes, facts = run(make_rows(), cheap, strong, canaries={"share": 0.05})
    assert not votes["row_id"].str.starts_with(CANARY_PREFIX).any() and len(votes) == 2400
    assert facts.canaries is not None
    asked = dict(facts.canaries.group_by("teacher").len().iter_rows())
    assert asked["cheap"] == 60 and 0 < asked["strong"] < 60
    assert facts.canaries["plain_label"].null_count() == 0


def test_sharers_take_what_their_row_got(cheap: Any, strong: Any, run: Run) -> None:
    base = make_rows(800)
    twins = base.with_columns(row_id=pl.concat_str([pl.lit("t"), "row_id"]), query=pl.col("query").str.to_uppercase())
    votes, facts = run(pl.concat([base, twins]), cheap, strong, near_duplicates="share", near_duplicate_audit=0.0)
    assert len(votes) == 3200 and facts.shared == 800
    found = cascade_of(facts)
    spared = votes.filter((pl.col("teacher") == "strong") & (pl.col("cause") == "cascade"))
    assert found.rows == 1600 and found.kept == len(spared) == 900  # (800 - 200) * 3/4, twice


def test_both_teachers_have_to_be_there(cheap: Any, make_teacher: Any, run: Run) -> None:
    with pytest.raises(UsageError, match=r"labeling\.cascade\.order: got \['cheap', 'strong'\]"):
        run(make_rows(), cheap, make_teacher("another"))
