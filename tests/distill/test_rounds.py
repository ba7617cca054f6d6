"""Rounds of distillation: what is asked, when they end, and that an interrupted run ends in what a whole one gives."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import distill
from distill.recipe import load_recipe
from distill.rounds_asking import added_up
from distill.session import Session
from tests.distill.conftest import LABELS, shop_rows, write_recipe

DCN = {"type": "dcn", "epochs": 1, "buckets": 256, "hidden": [8], "validation": 0.0}
CHOOSE = {"uncertainty": 0.5, "diversity": 0.25, "random": 0.25}
ROUNDS: dict[str, Any] = {"count": 3, "rows": 12, "first": 16, "until_no_gain": False, "choose": CHOOSE}
QUERIES = 32
"""Rows: 32 queries of four listings; 64 of pool and train may be chosen, 64 of test and audit are held out."""


def record(folder: Path, rows: pl.DataFrame) -> dict[str, Any]:
    """Replies of a cheap judge that errs on every fifth row, and of a strong one that does not err."""
    for name, errs in (("cheap", 5), ("strong", 0)):
        lines = []
        for at, (row_id, label) in enumerate(rows.select("row_id", "label").iter_rows()):
            said = LABELS[(LABELS.index(label) + 1) % 4] if errs and at % errs == 0 else label
            lines.append(json.dumps({"row_id": row_id, "reply": json.dumps({"label": said, "confidence": 0.9})}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {name: {"type": "recorded", "path": f"{name}.jsonl", "family": name} for name in ("cheap", "strong")}


@pytest.fixture
def rounds_shop(shop: Path) -> Callable[..., Path]:
    rows = shop_rows(queries=QUERIES)
    rows.write_csv(shop / "rows.csv")
    teachers = record(shop, rows)

    def write(*, gold: bool = True, **sections: Any) -> Path:
        data = {"rows": "rows.csv", "id": "row_id", "gold": "label", "split": "split"}
        if not gold:
            rows.with_columns(hidden="label").drop("label").write_csv(shop / "rows.csv")
            del data["gold"]
        given = {
            "data": data,
            "teachers": {"cheap": teachers["cheap"]},
            "labeling": {"splits": ["pool", "train", "audit", "test"]},
            "students": {"people": {**DCN, "train_on": "human"}, "small": {**DCN, "train_on": "labels"}},
            "rounds": ROUNDS,
            **sections,
        }
        if given["teachers"] == "both":
            given["teachers"] = teachers
        if not gold:
            given["students"] = {"small": {**DCN, "train_on": "labels"}}
        return write_recipe(shop, **given)

    return write


def decisive(folder: Path) -> dict[str, Any]:
    """What a run decided, without what it took."""
    votes = pl.read_parquet(folder / "votes.parquet").drop("latency_s", "from_ledger")
    told = json.loads((folder / "rounds.json").read_text())
    for one in told["rounds"]:
        for row in [*one["students"], *([one["control"]["student"]] if one["control"] else [])]:
            row["pairs_per_s"] = row["train_s"] = None
    return {
        "votes": votes.write_ndjson(),
        "labels": pl.read_parquet(folder / "labels.parquet").write_ndjson(),
        "student": (folder / "students/small/model.safetensors").read_bytes(),
        "predictions": pl.read_parquet(folder / "predictions/small.parquet").write_ndjson(),
        "evaluations": (folder / "evaluations.json").read_text(),
        "rounds": told,
    }


def test_every_round_asks_about_other_rows_and_the_run_folder_is_the_last_round(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path
) -> None:
    called = cli("run", rounds_shop(), "--out", "run")
    assert called.code == 0, called.err
    votes = pl.read_parquet(shop / "run/votes.parquet")
    assert votes["row_id"].is_unique().all()
    # 64 held-out rows are asked whole in round 0, with 16 drawn ones; then 12 a round.
    assert dict(votes.group_by("round").len().iter_rows()) == {0: 80, 1: 12, 2: 12}
    run = distill.Run(shop / "run")
    told = run.rounds
    assert told is not None and [one.rows_in_all for one in told.rounds] == [16, 28, 40]
    assert told.rounds[1].asked == {"uncertainty": 6, "diversity": 3, "random": 3}
    assert told.stop == "the count of 3 rounds is reached (rounds.count)"
    assert [row.full_name for row in run.ladder.rows if row.is_student] == [
        *("people, round 0", "small, round 0", "small, round 1", "small, round 2")
    ]
    assert run.ladder.rows[2].gain_over == "round 0" and run.ladder.rows[2].gain is not None
    assert run.students == ["people", "small"]
    model = "students/{}/model.safetensors"
    # Nothing is copied, and who learns from people alone is trained once.
    assert os.path.samefile(shop / "run" / model.format("small"), shop / "run/rounds/02" / model.format("small"))
    assert os.path.samefile(shop / "run" / model.format("people"), shop / "run/rounds/00" / model.format("people"))
    assert not os.path.samefile(shop / "run" / model.format("small"), shop / "run/rounds/00" / model.format("small"))
    assert set(run.reports) == {"run report"} and "Rounds" in called.out
    report = json.loads((shop / "run/report.json").read_text())
    assert [row["name"] for row in report["ladder"]["rows"] if row["kind"] == "dcn"] == ["people", "small"]
    assert report["rounds"]["stop"] == told.stop
    assert run.student("small").predict(run.rows.head(2)).height == 2
    again = cli("run", rounds_shop(), "--out", "run")
    assert again.code == 0 and again.err.count("unchanged, kept") > 20 and "train:small …" not in again.err
    assert "why" not in again.err and "ended because the count" in cli("ladder", "run").out


def test_an_interrupted_run_ends_in_what_a_whole_one_gives(
    rounds_shop: Callable[..., Path], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recheck = {"recheck": {"teacher": "strong", "rows": 4}, "control": True, "count": 2}
    recipe = load_recipe(rounds_shop(teachers="both", rounds={**ROUNDS, **recheck}))
    monkeypatch.setenv("DISTILL_LEDGER", str(shop / "whole.sqlite"))
    distill.run(recipe, out=shop / "whole", until="eval")
    whole = decisive(shop / "whole")
    stage, left = Session.stage, 0

    def breaking(self: Session, key: str, *, work: Any, **given: Any) -> None:
        def broken() -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            ended = work()
            if left == 1 and key in ("label", "choose"):  # killed when files are there and the record is not
                raise KeyboardInterrupt
            return ended

        stage(self, key, work=broken, **given)

    monkeypatch.setattr(Session, "stage", breaking)
    monkeypatch.setenv("DISTILL_LEDGER", str(shop / "broken.sqlite"))
    stops = 0
    while True:
        left = 7
        try:
            distill.run(recipe, out=shop / "broken", until="eval")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    assert decisive(shop / "broken") == whole


def test_a_spent_budget_ends_a_round_halfway_and_the_same_command_goes_on(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path, fault_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny", "probe": False}
    teacher |= {"price": {"input_usd_per_mtok": 1e4, "output_usd_per_mtok": 1e4}}
    sections: dict[str, Any] = {"teachers": {"one": teacher}, "students": {"small": {**DCN, "train_on": "labels"}}}
    labeling = {"splits": ["pool", "test"], "concurrency": 1}
    rounds = {**ROUNDS, "count": 2, "first": 8, "rows": 6}
    path = rounds_shop(**sections, labeling=labeling, rounds=rounds)
    monkeypatch.setenv("DISTILL_LEDGER", str(shop / "whole.sqlite"))
    assert cli("eval", path, "--out", "whole").code == 0
    # 32 held-out rows, 8 drawn, 6 chosen.
    assert len(fault_server.requests) == 46
    cost = pl.read_parquet(shop / "whole/votes.parquet")["cost_usd"].sum()
    fault_server.requests.clear()
    monkeypatch.setenv("DISTILL_LEDGER", str(shop / "halves.sqlite"))
    # Round 0 and a part of round 1; what a command may spend is for all of its rounds together.
    path = rounds_shop(**sections, labeling={**labeling, "budget_usd": cost * 43 / 46}, rounds=rounds)
    called = cli("eval", path, "--out", "halves")
    assert called.code == 3 and "labeling.budget_usd" in called.err and "round 1: label" in called.err
    assert 40 < len(fault_server.requests) < 46
    assert cli("eval", path, "--out", "halves").code == 0
    assert len(fault_server.requests) == 46
    assert decisive(shop / "halves") == decisive(shop / "whole")


def test_the_budget_of_all_rounds_makes_the_last_one_smaller_and_ends_the_run(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path, fault_server: Any
) -> None:
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny", "probe": False}
    teacher |= {"price": {"input_usd_per_mtok": 1e4, "output_usd_per_mtok": 1e4}}
    sections: dict[str, Any] = {"teachers": {"one": teacher}, "students": {"small": {**DCN, "train_on": "labels"}}}
    sections["labeling"] = {"splits": ["pool", "test"]}
    rounds = {**ROUNDS, "count": 5, "first": 8, "rows": 6}
    assert cli("label", rounds_shop(**sections, rounds=rounds), "--out", "first").code == 0
    a_row = pl.read_parquet(shop / "first/votes.parquet")["cost_usd"].mean()
    # 40 rows of round 0, 6 of round 1, and 3.5 rows' worth is left: round 2 asks about 3.
    path = rounds_shop(**sections, rounds={**rounds, "budget_usd": a_row * 49.5})
    assert cli("eval", path, "--out", "run").code == 0
    told = distill.Run(shop / "run").rounds
    assert told is not None and [sum(one.asked.values()) for one in told.rounds] == [8, 6, 3]
    assert "the budget is spent" in told.stop and "rounds.budget_usd" in told.stop
    path = rounds_shop(**sections, rounds={**rounds, "budget_usd": a_row * 20})
    called = cli("eval", path, "--out", "too_little", "--set", "ledger=other.sqlite")
    assert called.code == 3 and "rounds.budget_usd: $" in called.err and "rounds.first" in called.err
    sent = len(fault_server.requests)
    # What was bought counts: the same command buys no second budget.
    assert cli("eval", path, "--out", "too_little", "--set", "ledger=other.sqlite").code == 3
    assert len(fault_server.requests) - sent <= 1


def test_a_stronger_teacher_overrules_labels_that_others_contradict(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path
) -> None:
    rounds = {**ROUNDS, "first": 48, "rows": 4, "recheck": {"teacher": "strong", "rows": 10}}
    called = cli("eval", rounds_shop(teachers="both", rounds=rounds), "--out", "run")
    assert called.code == 0, called.err
    votes, labels = pl.read_parquet(shop / "run/votes.parquet"), pl.read_parquet(shop / "run/labels.parquet")
    strong = votes.filter(pl.col("teacher") == "strong")
    assert 0 < len(strong) <= 20 and strong["row_id"].is_unique().all() and set(strong["round"]) <= {1, 2}
    held = shop_rows(queries=QUERIES).filter(pl.col("split").is_in(["test", "audit"]))
    assert strong.join(held, on="row_id").is_empty()
    both = strong.join(labels, on="row_id", suffix="_merged")
    assert (both["label"] == both["label_merged"]).all()
    cheap = votes.filter(pl.col("teacher") == "cheap").join(labels, on="row_id", suffix="_merged")
    rest = cheap.join(strong, on="row_id", how="anti")
    assert (rest["label"] == rest["label_merged"]).all()
    told = distill.Run(shop / "run").rounds
    assert told is not None
    found = [one.recheck for one in told.rounds if one.recheck]
    changed = both.join(cheap.select("row_id", first="label"), on="row_id").filter(pl.col("first") != pl.col("label"))
    assert sum(one.asked for one in found) == len(strong) and sum(one.changed for one in found) == len(changed)
    # The strong judge never errs, so that every change is for the better.
    assert len(changed) > 0
    assert sum(one.right_after - one.right_before for one in found) <= len(changed)
    assert all(one.right_after == one.gold_rows for one in found)


def test_without_gold_gain_is_in_agreement_with_labels_that_stand(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path
) -> None:
    path = rounds_shop(gold=False, rounds={**ROUNDS, "until_no_gain": True, "patience": 9})
    called = cli("run", path, "--out", "run", "--set", "aggregate.type=dawid_skene")
    assert called.code == 0, called.err
    told = distill.Run(shop / "run").rounds
    assert told is not None and told.truth_source == "teacher" and len(told.rounds) == 3
    assert "agreement with the merged labels of the first round" in called.out
    held = pl.read_parquet(shop / "run/rows.parquet").filter(pl.col("split").is_in(["test", "audit"]))
    sides = [
        pl.read_parquet(shop / "run/rounds" / number / "labels.parquet").join(held, on="row_id", how="semi")
        for number in ("00", "02")
    ]
    assert len(sides[0]) == 64 and sides[0].equals(sides[1])


def test_rounds_end_when_no_gain_is_shown(rounds_shop: Callable[..., Path], cli: Any, shop: Path) -> None:
    # Test rows of four labels in turn and a student of one epoch: nothing is learned, nothing is gained.
    path = rounds_shop(rounds={**ROUNDS, "count": 4, "until_no_gain": True})
    called = cli("eval", path, "--out", "run")
    assert called.code == 0, called.err
    told = distill.Run(shop / "run").rounds
    assert told is not None and len(told.rounds) == 2
    gain = told.rounds[1].gain_since
    assert gain is not None and gain.low is not None and gain.low <= 0
    assert "small" in told.stop and "since round 0" in told.stop
    # With more patience the same run goes on from there.
    path = rounds_shop(rounds={**ROUNDS, "count": 4, "until_no_gain": True, "patience": 3})
    called = cli("eval", path, "--out", "run")
    assert called.code == 0 and re.search(r"round 1: train:small +unchanged, kept", called.err)
    assert len(distill.Run(shop / "run").rounds.rounds) == 4  # type: ignore[union-attr]


def test_what_failed_in_a_round_is_retried_and_its_rows_stay(
    rounds_shop: Callable[..., Path], cli: Any, shop: Path, fault_server: Any
) -> None:
    fault_server.on("shoe 2 number 0", "length")
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny", "probe": False}
    students = {"small": {**DCN, "train_on": "labels"}}
    given: dict[str, Any] = {"students": students, "labeling": {"splits": ["pool", "test"], "reasks": 0}}
    rounds = {**ROUNDS, "count": 2}
    path = rounds_shop(teachers={"one": {**teacher, "max_tokens": 50}}, rounds=rounds, **given)
    assert cli("eval", path, "--out", "run").code == 0
    before = pl.read_parquet(shop / "run/votes.parquet")
    assert len(before.filter(pl.col("outcome") == "invalid")) == 1
    assert len((shop / "run/failures.jsonl").read_text().splitlines()) == 1
    fault_server.requests.clear()
    fault_server.on("shoe 2 number 0", "ok")
    path = rounds_shop(teachers={"one": {**teacher, "max_tokens": 500}}, rounds=rounds, **given)
    called = cli("eval", path, "--out", "run", "--retry-failed")
    assert called.code == 0, called.err
    after = pl.read_parquet(shop / "run/votes.parquet")
    assert len(fault_server.requests) == 1 and set(after["outcome"]) == {"labeled"}
    assert after.select("row_id", "round").equals(before.select("row_id", "round"))


def test_a_run_until_an_early_stage_is_one_round(rounds_shop: Callable[..., Path], cli: Any, shop: Path) -> None:
    called = cli("label", rounds_shop(), "--out", "run")
    assert called.code == 0 and "ends within the first round" in called.err
    assert len(pl.read_parquet(shop / "run/votes.parquet")) == 80
    assert not (shop / "run/rounds/01").exists() and not (shop / "run/labels.parquet").exists()


def test_a_plan_counts_the_first_round_and_at_most_all(rounds_shop: Callable[..., Path], cli: Any) -> None:
    rounds = {**ROUNDS, "control": True, "recheck": {"teacher": "strong", "rows": 4}}
    path = rounds_shop(teachers="both", rounds=rounds)
    told = {plan["teacher"]: plan for plan in json.loads(cli("plan", path, "--json").out)["teachers"]}
    # 64 held out and 16 drawn; then 2 rounds of 12 chosen and 12 random rows, of which 48 are left to choose from.
    assert (told["cheap"]["to_send_least"], told["cheap"]["to_send"]) == (80, 128)
    assert (told["strong"]["to_send_least"], told["strong"]["to_send"]) == (0, 8)
    said = cli("plan", path).out
    assert "at most 3 rounds" in said and "80–128" in said


@pytest.mark.parametrize(
    ("rounds", "more", "said"),
    [
        ({"recheck": {"teacher": "stron"}}, {}, "rounds.recheck.teacher: got 'stron'"),
        ({"recheck": {"teacher": "cheap"}}, {"teachers": "cheap"}, "is the only teacher"),
        ({"student": "smal"}, {}, "rounds.student: got 'smal'; give the name of a student; did you mean 'small'?"),
        ({"student": "people"}, {}, "people learns from people alone"),
        ({"choose": {"random": 0}}, {}, "shares are numbers of at least 0"),
        ({"choose": {"doubt": 1}}, {}, "rounds.choose"),
        ({"rows": 5}, {"labeling": {"cascade": {"order": ["cheap", "strong"]}}}, "leave one of the two out"),
        ({"rows": 5}, {"labeling": {"splits": ["test"]}}, "rows are chosen from splits pool and train"),
        ({"rows": 5}, {"students": {"people": {**DCN, "train_on": "human"}}}, "no student that learns from labels"),
        (
            {"recheck": {"teacher": "strong"}},
            {"students": {"small": {**DCN, "train_on": "strong"}}},
            "students.small.train_on: strong answers a few doubted rows",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(
    rounds_shop: Callable[..., Path], cli: Any, rounds: Any, more: Any, said: str
) -> None:
    path = rounds_shop(rounds=rounds, **{"teachers": "both", **more}) if more.get("teachers") != "cheap" else None
    called = cli("check", path or rounds_shop(rounds=rounds))
    assert called.code == 2 and said in called.err, called.err
    assert "recipe.yaml:" in called.err


def test_a_budget_that_sees_no_price_is_refused(rounds_shop: Callable[..., Path], cli: Any) -> None:
    teacher = {"type": "openai", "base_url": "http://localhost:1", "model": "tiny", "family": "tiny"}
    called = cli("check", rounds_shop(teachers={"one": teacher}, rounds={"budget_usd": 1}))
    assert called.code == 2 and "rounds.budget_usd: cannot see what one costs" in called.err


def test_facts_of_several_labelings_add_up() -> None:
    first = {"outcomes": {"labeled": 3}, "causes": {}, "stopped": {}, "requests_sent": 3, "cost_usd": 0.5, "shared": 2}
    second = {"outcomes": {"labeled": 1, "failed": 1}, "causes": {"timeout": 1}, "stopped": {"a": "down"}}
    total = added_up([first, {**second, "requests_sent": 2, "cost_usd": 0.25, "quality": {"a": 1}}])
    assert total["outcomes"] == {"labeled": 4, "failed": 1} and total["causes"] == {"timeout": 1}
    assert (total["requests_sent"], total["cost_usd"], total["shared"]) == (5, 0.75, 2)
    assert total["quality"] == {"a": 1}
    assert total["stopped"] == {"a": "down"}
