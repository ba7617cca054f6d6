"""Rounds of tasks whose answers are no single label: each part gains by itself, with and without gold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import distill
from distill.recipe import load_recipe
from distill.rounds_ladder import all_votes
from distill.session import Session

SPLITS = ["pool", "pool", "train", "test", "audit"]
KINDS = ["shoe", "hose", "lamp"]
SLIPS = {"shoe": "sheo", "hose": "hsoe", "lamp": "lmap"}
ROUNDS: dict[str, Any] = {"count": 3, "rows": 6, "first": 9, "until_no_gain": False}
QUERIES = 50
"""Of them 30 of pool and train may be chosen; 10 test and 10 audit queries are held out."""


def reply(number: int) -> dict[str, Any]:
    """A judge that mends every slip, and names every fifth brand wrongly as none."""
    kind = KINDS[number % 3]
    brand = "acme" if number % 2 else None
    return {"corrected": f"{'acme ' if brand else ''}{kind} {number}", "brand": brand if number % 5 else None}


def queries(*, gold: bool) -> list[dict[str, Any]]:
    rows = []
    for number in range(QUERIES):
        kind, brand = KINDS[number % 3], number % 2
        written = SLIPS[kind] if number % 4 == 0 else kind
        row = {
            "id": f"q{number}",
            "query": f"{'acme ' if brand else ''}{written} {number}",
            "split": SPLITS[number % 5],
        }
        # Of the brand nobody ever gives gold.
        row |= {"meant": reply(number)["corrected"]} if gold and row["split"] == "test" else {}
        rows.append(row)
    return rows


@pytest.fixture
def shop(letters_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a recipe of two parts, whose queries a recorded judge answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    replies = [{"id": f"q{number}", "reply": json.dumps(reply(number))} for number in range(QUERIES)]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    student = {"type": "encoder", "base": str(letters_base), "train_on": "labels", "epochs": 1, "max_length": 32}

    def write(*, gold: bool = True, **sections: Any) -> Path:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, queries(gold=gold))))
        data: dict[str, Any] = {"rows": "rows.jsonl", "id": "id", "split": "split"}
        written = {
            "version": 1,
            "name": "queries",
            "data": data | ({"gold": {"spelling": "meant"}} if gold else {}),
            "task": {"type": "query_understanding", "parts": ["spelling", "brand"], "inputs": ["query"]},
            "teachers": {"model": {"type": "recorded", "path": "replies.jsonl", "id": "id", "family": "llm"}},
            "labeling": {"splits": ["pool", "train", "audit", "test"]},
            "students": {"small": {**student, "threads": 1}},
            "eval": {"bootstrap": 100},
            "rounds": ROUNDS,
            **sections,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(written, indent=1))  # JSON is YAML
        return path

    return write


def decisive(folder: Path) -> dict[str, Any]:
    """What a run decided, without what it took."""
    votes = pl.read_parquet(folder / "votes.parquet").drop("latency_s", "from_ledger")
    told = json.loads((folder / "rounds.json").read_text())
    for one in told["rounds"]:
        for row in one["students"]:
            row["pairs_per_s"] = row["train_s"] = None
    return {
        "votes": votes.write_ndjson(),
        "labels": pl.read_parquet(folder / "labels.parquet").write_ndjson(),
        "student": (folder / "students/small/parts.safetensors").read_bytes(),
        "predictions": pl.read_parquet(folder / "predictions/small.parquet").write_ndjson(),
        "evaluations": (folder / "evaluations.json").read_text(),
        "rounds": told,
    }


def test_rounds_tell_of_each_part_with_and_without_gold(shop: Callable[..., Path], cli: Any, tmp_path: Path) -> None:
    called = cli("run", shop(), "--out", "run")
    assert called.code == 0, called.err
    run = distill.Run(tmp_path / "run")
    # 20 held-out queries and 9 drawn, then 6 a round; two lines a query, one a part, in the task's order.
    assert dict(run.votes.group_by("round").len().iter_rows()) == {0: 58, 1: 12, 2: 12}
    assert run.votes["part"].to_list() == ["spelling", "brand"] * 41
    told = run.rounds
    assert told is not None and [one.rows_in_all for one in told.rounds] == [9, 15, 21]
    assert [row.full_name for row in run.ladder.rows if row.is_student] == [
        f"{part} · small, round {number}" for number in range(3) for part in ("spelling", "brand")
    ]
    last = told.rounds[2]
    assert [own.part for own in last.parts] == [row.part for row in last.students] == ["spelling", "brand"]
    spelling, brand = last.students
    # Gold measures spelling; nobody gave brands, so that the merged labels of round 0 stand for them.
    assert (spelling.truth_source, brand.truth_source) == ("human", "teacher") and told.truth_source is None
    assert all(row.gain is not None and row.gain_over == "round 1" for row in last.students)
    own = last.parts[0]
    assert own.right is not None and last.parts[1].right is None
    assert [one.claim.teacher for one in own.claims] == [1.0] and not last.parts[1].claims
    # The share of the 10 test queries with the same answer as in the round before, and as the labels have it.
    before, now = (
        pl.read_parquet(tmp_path / f"run/rounds/0{number}/predictions/small.parquet").filter(part="spelling")
        for number in (1, 2)
    )
    same = (before["text"].str.to_lowercase() == now["text"].str.to_lowercase()).mean()
    assert own.same_as_before is not None and own.same_as_before.value == pytest.approx(same)
    meant = pl.DataFrame(
        {"row_id": [f"q{n}" for n in range(3, 50, 5)], "meant": [reply(n)["corrected"] for n in range(3, 50, 5)]}
    )
    right = now.join(meant, on="row_id").select((pl.col("text") == pl.col("meant")).mean()).item()
    assert own.right.value == pytest.approx(right)
    assert spelling.estimate is not None and spelling.estimate.agreement is not None
    assert spelling.estimate.agreement.value == pytest.approx(right)  # the judge mends every slip
    held = [
        pl.read_parquet(tmp_path / "run/rounds" / number / "labels.parquet").join(meant, on="row_id", how="semi")
        for number in ("00", "02")
    ]
    assert len(held[0]) == 20 and held[0].equals(held[1])
    page = (tmp_path / "run/report.html").read_text()
    assert "Round by round" in page and "says as merged" in page and "Rounds" in called.out
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert [row["round"] for row in report["ladder"]["rows"] if row["kind"] == "encoder"] == [2, 2]
    assert "says as merged" in (tmp_path / "run/report.md").read_text()
    again = cli("run", shop(), "--out", "run")
    assert again.code == 0 and "train:small …" not in again.err and again.err.count("unchanged, kept") > 15


def test_an_interrupted_run_ends_in_what_a_whole_one_gives(
    shop: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = {**ROUNDS, "count": 2, "choose": {"diversity": 0.5, "random": 0.5}, "control": True}
    recipe = load_recipe(shop(rounds=rounds))
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "whole.sqlite"))
    distill.run(recipe, out=tmp_path / "whole", until="eval")
    whole = decisive(tmp_path / "whole")
    assert [own["over_random"] is not None for own in whole["rounds"]["rounds"][1]["parts"]] == [True, True]
    stage, left = Session.stage, 0

    def breaking(self: Session, key: str, *, work: Any, **given: Any) -> None:
        def broken() -> Any:
            nonlocal left
            left -= 1
            ended = work()
            if left == 0:  # killed when files are there and the record is not
                raise KeyboardInterrupt
            return ended

        stage(self, key, work=broken, **given)

    monkeypatch.setattr(Session, "stage", breaking)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "broken.sqlite"))
    stops = 0
    while True:
        left = 5
        try:
            distill.run(recipe, out=tmp_path / "broken", until="eval")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    assert decisive(tmp_path / "broken") == whole


def test_rounds_end_when_no_part_is_shown_to_gain(shop: Callable[..., Path], cli: Any, tmp_path: Path) -> None:
    # A network of one narrow layer and one epoch learns neither part: nothing is gained.
    called = cli("eval", shop(gold=False, rounds={**ROUNDS, "until_no_gain": True}), "--out", "run")
    assert called.code == 0, called.err
    told = distill.Run(tmp_path / "run").rounds
    assert told is not None and len(told.rounds) == 2 and told.truth_source == "teacher"
    assert told.stop.startswith("no part of small is shown to have gained: spelling ")
    assert "; brand " in told.stop and "since round 0" in told.stop


def test_the_budget_of_all_rounds_counts_each_answer_once(
    shop: Callable[..., Path], cli: Any, tmp_path: Path, fault_server: Any
) -> None:
    fault_server.answer = lambda request: json.dumps({"trace": "t", "confidence": 0.9, **reply(1), "brand": []})
    teacher = {"type": "openai", "base_url": fault_server.base_url, "model": "tiny", "family": "tiny", "probe": False}
    teacher |= {"price": {"input_usd_per_mtok": 1e4, "output_usd_per_mtok": 1e4}}
    given: dict[str, Any] = {"teachers": {"one": teacher}, "labeling": {"splits": ["pool", "test"]}}
    rounds = {**ROUNDS, "count": 5, "first": 4, "rows": 4}
    assert cli("label", shop(**given, rounds=rounds), "--out", "first").code == 0
    votes = pl.read_parquet(tmp_path / "first/votes.parquet")
    assert len(votes) == 28 and len(fault_server.requests) == 14  # 10 held-out queries and 4 drawn, of two parts
    a_row = votes["cost_usd"].sum() / 14
    # 14 rows of round 0, 4 of round 1, and 2.5 rows' worth is left: round 2 asks about 2.
    called = cli("eval", shop(**given, rounds={**rounds, "budget_usd": a_row * 20.5}), "--out", "run")
    assert called.code == 0, called.err
    told = distill.Run(tmp_path / "run").rounds
    assert told is not None and [sum(one.asked.values()) for one in told.rounds] == [4, 4, 2]
    assert "the budget is spent" in told.stop
    assert told.rounds[-1].cost_in_all_usd == pytest.approx(a_row * 20, rel=0.05)
    tables = [tmp_path / "run/rounds" / number / "votes.parquet" for number in ("00", "02")]
    assert all_votes(tables)["cost_usd"].sum() == pytest.approx(pl.read_parquet(tables[1])["cost_usd"].sum())


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"choose": {"uncertainty": 0.5, "random": 0.5}}, "rounds.choose.uncertainty: reads a distribution over"),
        ({"choose": {"disagreement": 1}}, "rounds.choose.disagreement: reads a distribution over"),
        ({"recheck": {"teacher": "model"}}, "rounds.recheck: doubts single labels"),
    ],
)
def test_what_reads_one_label_is_refused_with_its_line(
    shop: Callable[..., Path], cli: Any, rounds: Any, said: str
) -> None:
    called = cli("check", shop(rounds=rounds))
    assert called.code == 2 and said in called.err and "recipe.yaml:" in called.err, called.err


def test_a_plan_counts_the_first_round_and_at_most_all(shop: Callable[..., Path], cli: Any) -> None:
    told = json.loads(cli("plan", shop(), "--json").out)["teachers"][0]
    # 20 held out and 9 drawn; then 2 rounds of 6.
    assert (told["to_send_least"], told["to_send"]) == (29, 41)


def test_one_category_of_a_tree_goes_by_the_rounds_of_single_labels(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    paths = ["Shoes > Low", "Shoes > High", "Garden"]
    rows = [
        {"id": f"q{n}", "query": f"thing {n}", "split": SPLITS[n % 5], "gold": paths[n % 3]} for n in range(QUERIES)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # The cheap judge errs on every seventh query, the strong one never.
    for name, errs in (("cheap", 7), ("strong", QUERIES)):
        said = [paths[(n + (n % errs == errs - 1)) % 3] for n in range(QUERIES)]
        replies = [{"id": f"q{n}", "reply": json.dumps({"label": path})} for n, path in enumerate(said)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, replies)))
    teachers = {
        name: {"type": "recorded", "path": f"{name}.jsonl", "id": "id", "family": name} for name in ("cheap", "strong")
    }
    student = {"type": "dcn", "train_on": "labels", "epochs": 1, "buckets": 256, "hidden": [8], "validation": 0.0}
    rounds = {"choose": {"uncertainty": 0.5, "random": 0.5}, "recheck": {"teacher": "strong", "rows": 4}, "count": 2}
    recipe = {
        "version": 1,
        "name": "category",
        "data": {"rows": "rows.jsonl", "id": "id", "split": "split", "gold": "gold"},
        "task": {"type": "category", "several": False, "inputs": ["query"], "categories": paths},
        "teachers": teachers,
        "labeling": {"splits": ["pool", "train", "test"]},
        "students": {"small": student},
        "eval": {"bootstrap": 100},
        "rounds": {**ROUNDS, **rounds},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    called = cli("run", "recipe.yaml", "--out", "run")
    assert called.code == 0, called.err
    told = distill.Run("run").rounds
    assert told is not None and not told.by_part and [one.rows_in_all for one in told.rounds] == [9, 15]
    assert told.rounds[1].asked == {"uncertainty": 3, "random": 3} and told.deciding[1].gain is not None
    assert Path("run/report.html").exists()  # though no label is positive
