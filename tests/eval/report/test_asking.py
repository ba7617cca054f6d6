from __future__ import annotations

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.report.asking_facts import AskingFacts, obeyed_facts
from distill.eval.report.asking_words import asking_said, obeyed_said
from distill.labeling.rows.canaries import CANARY_SCHEMA

CONFIG = EvalConfig(bootstrap=200)


def make_answers(*lines: tuple[str, str | None, str | None]) -> pl.DataFrame:
    """Canaries in 30 groups that ask for exact: teacher, plain answer, answer with the plant."""
    rows = []
    for at, (teacher, plain, label) in enumerate(lines):
        tellable = plain not in (None, "exact") and label is not None
        row = dict.fromkeys(CANARY_SCHEMA, "x") | {"group": f"g{at % 30}", "plant": f"p{at % 2}", "lang": "en"}
        row |= {"teacher": teacher, "label": label, "plain_label": plain, "planted": "exact", "sample": 0}
        rows.append(row | {"breached": label == "exact" if tellable else None})
    return pl.DataFrame(rows, schema_overrides={"label": pl.String, "plain_label": pl.String, "breached": pl.Boolean})


def test_breach_and_wavering_are_shares_of_what_can_be_told() -> None:
    # Of 60: 6 obey, 3 move elsewhere, 41 stay; 5 say exact anyway; 5 have no answer. So 50 are tried.
    lines = [("weak", "irrelevant", "exact")] * 6 + [("weak", "irrelevant", "substitute")] * 3
    lines += [("weak", "irrelevant", "irrelevant")] * 41 + [("weak", "exact", "exact")] * 5
    answers = make_answers(*lines, *[("weak", "irrelevant", None)] * 5, *[("firm", "irrelevant", "irrelevant")] * 30)
    weak, firm = obeyed_facts(answers, config=CONFIG, seed=7)
    assert (weak.name, weak.asked, weak.unanswered, weak.tried, weak.breached) == ("weak", 60, 5, 50, 6)
    assert (weak.rate.value, weak.moved.value) == pytest.approx((6 / 50, 3 / 50))
    assert weak.rate.low is not None and weak.rate.high is not None and weak.rate.low < 0.12 < weak.rate.high
    assert weak.by_plant == {"en p0": (3, 25), "en p1": (3, 25)}
    assert (firm.breached, firm.tried, firm.rate.value, firm.rate.low) == (0, 30, 0.0, 0.0)
    said = obeyed_said([weak, firm])
    assert "weak obeyed most: on 6 of 50 copies" in said and "12.0%" in said and "(3 of 25)" in said
    assert "up to" in obeyed_said([firm]) and "Nobody gave" in obeyed_said([firm])
    assert obeyed_said([]) == ""


def test_a_teacher_without_any_answer_has_no_line() -> None:
    answers = make_answers(*[("recorded", "exact", None)] * 5)
    assert obeyed_facts(answers, config=CONFIG, seed=7) == []
    assert obeyed_facts(None, config=CONFIG, seed=7) == []
    told = obeyed_facts(make_answers(*[("yes", "exact", "exact")] * 5), config=CONFIG, seed=7)
    assert "no breach can be told" in obeyed_said(told)


def test_what_is_said_of_the_asking() -> None:
    share = {"successes": 6, "trials": 20, "value": 0.3, "low": 0.1, "high": 0.55}
    stage = {
        "outcomes": {"labeled": 5},  # of no interest here
        "quality": {"bad": {**share, "metric": "accuracy", "below": 0.6, "paused": True}},
        "shared": 1200,
        "sharing_wrong": {"bad": share, "none": {**share, "trials": 0, "value": None, "low": None, "high": None}},
        "requests_cut": {"bad": 3, "other": 2},
        "fields_cut": {"description": 3},
    }
    quality, shared, cut = asking_said(AskingFacts.of(stage))
    assert quality.startswith("bad on the gold rows asked along the way: 6 of 20, 30.0% (10.0 to 55.0) right")
    assert quality.endswith("It fell below the line and was paused.")
    assert shared == (
        "1,200 rows took the answer of a near-duplicate. Asked all the same, bad gave another label to 6 of 20, 30.0% "
        "(10.0 to 55.0)."
    )
    assert cut == "3 rows were too long and shown in part (description 3 times)."
    assert asking_said(AskingFacts.of({"outcomes": {}})) == []


def test_what_is_said_of_several_rows_at_once() -> None:
    share = {"successes": 6, "trials": 20, "value": 0.3, "low": 0.1, "high": 0.55}
    none = {"successes": 0, "trials": 0, "value": None, "low": None, "high": None}
    per_row = {"input_tokens": 100.0, "output_tokens": 10.0, "cost_usd": None}
    facts = {
        "rows": 800,
        "packs": 100,
        "requests_saved": 700,
        "asked_alone": 3,
        "compared": 20,
        "moved": share,
        "moved_at": dict.fromkeys(("first_half", "second_half", "first", "last"), share),
        "positive_at": {"first": share, "last": share},
        "place": {"statistic": 30.0, "freedom": 21, "p": 0.0912, "packs": 97},
        "packed": per_row,
        "alone": per_row,
        "saving": {"tokens": 3.42, "cost": None},
    }
    (said,) = asking_said(AskingFacts.of({"packing": {"one": facts}}))
    assert said == (
        "one answered 800 rows in 100 requests about several at once; alone a row takes 3.4 times the tokens. 3 rows "
        "had no answer there and had to be asked about alone. Asked alone as well, 6 of 20, 30.0% (10.0 to 55.0) got "
        "another label: 6 of 20, 30.0% (10.0 to 55.0) in the first half of a request, 6 of 20, 30.0% (10.0 to 55.0) in "
        "the second. No clear effect of the place was found (chi-square 30.0 at 21 degrees of freedom, p = 0.091, 97 "
        "requests): positive are 6 of 20, 30.0% (10.0 to 55.0) at the first place and 6 of 20, 30.0% (10.0 to 55.0) at "
        "the last."
    )
    moved = {**facts, "place": {**facts["place"], "p": 1e-9}, "asked_alone": 0, "moved": none}  # type: ignore[dict-item]
    (said,) = asking_said(AskingFacts.of({"packing": {"one": moved}}))
    assert "The place in a request moves the label (" in said and "Asked alone" not in said
    assert asking_said(AskingFacts.of({"packing": {"one": {**facts, "packs": 0}}})) == []
