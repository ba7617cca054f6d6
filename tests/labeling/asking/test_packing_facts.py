"""What asking about several rows at once did, counted; and through the engine, with teachers that mind the place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.asking.label_rows import LabelingFacts, label_rows
from distill.labeling.asking.packing_facts import PlaceTest, packing_facts, place_test
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import Request
from distill.labeling.vote import votes_frame

LABELS = ("exact", "substitute", "complement", "irrelevant")
Run = Callable[..., tuple[pl.DataFrame, LabelingFacts]]


def table_of(packs: list[list[str | None]]) -> pl.DataFrame:
    """Votes on packs, each given as the labels by place."""
    lines = [(key, at, len(pack), label) for key, pack in enumerate(packs) for at, label in enumerate(pack)]
    schema = {"key": pl.UInt64, "position": pl.UInt8, "asked_with": pl.UInt8, "label": pl.Enum(LABELS)}
    return pl.DataFrame(lines, schema=schema, orient="row")


# The test of places


def test_place_test_by_hand() -> None:
    # 30 pairs: exact first in 20, last in 6, and 4 with two of a kind, which tell nothing. Each telling pair is a
    # McNemar pair: (20 - 6)^2 / 26 = 7.538 at one degree of freedom, p = 0.0060.
    packs: list[list[str | None]] = [["exact", "irrelevant"]] * 20 + [["irrelevant", "exact"]] * 6
    found = place_test(table_of([*packs, *[["exact", "exact"]] * 4]), LABELS)
    assert found is not None and (found.freedom, found.packs) == (1, 30)
    assert (found.statistic, found.p) == pytest.approx((7.538, 0.0060), abs=1e-3)
    assert place_test(table_of(packs[:19]), LABELS) is None
    assert place_test(table_of([["exact", "exact"]] * 30), LABELS) is None


def test_place_test_holds_its_level_where_queries_differ_and_sizes_too() -> None:
    # Queries of their own taste, and larger packs with more that is irrelevant: the place is a draw all the same.
    rng = np.random.default_rng(3)

    def trial(biased: bool) -> PlaceTest | None:
        packs: list[list[str | None]] = []
        for _ in range(60):
            size = int(rng.integers(2, 6))
            shares = rng.dirichlet(np.array([1.0, 1.0, 0.5, size]) / 2)
            labels: list[str | None] = [LABELS[kind] for kind in rng.choice(4, size, p=shares)]
            if biased and rng.random() < 0.5:
                labels[0] = "exact"
            packs.append(labels)
        return place_test(table_of(packs), LABELS)

    below = [found.p < 0.05 for _ in range(400) if (found := trial(False))]
    assert 0.02 < np.mean(below) < 0.08  # 5%, give or take three standard errors of 1.1 points
    found_out = [found.p < 0.05 for _ in range(40) if (found := trial(True))]
    assert np.mean(found_out) > 0.9


def test_facts_by_hand(task: Task) -> None:
    packed = table_of(
        [["exact", "irrelevant", "exact"], ["exact", None, "exact"], ["substitute", "exact", "irrelevant"]]
    )
    # Asked both ways: place, pack, label together and alone, tokens in, out and cost together, and the same alone.
    lines = [
        (0, 3, "exact", "exact", 20, 4, 0.1, 50, 4, 0.2),
        (1, 3, "irrelevant", "exact", 20, 4, 0.1, 50, 4, 0.2),
        (2, 3, "exact", "irrelevant", 20, 4, 0.1, 60, 4, 0.3),
        (2, 3, None, "exact", 20, 4, None, 50, 8, 0.2),
        (0, 1, "exact", "exact", 50, 4, 0.2, 50, 4, 0.2),  # had to be asked alone: counts for the bill only
    ]
    names = ["position", "asked_with", "label", "label_alone", "input_tokens", "output_tokens", "cost_usd"]
    names += ["input_tokens_alone", "output_tokens_alone", "cost_usd_alone"]
    both = pl.DataFrame(lines, schema=names, orient="row")
    found = packing_facts(packed, both, task=task, asked_alone=1)
    assert (found.rows, found.packs, found.requests_saved, found.asked_alone, found.compared) == (9, 3, 6, 1, 5)
    assert found.moved[:2] == (2, 3)
    # The middle of three belongs to neither half.
    counts = {name: share[:2] for name, share in found.moved_at.items()}
    assert counts == {"first_half": (0, 1), "second_half": (1, 1), "first": (0, 1), "last": (1, 1)}
    # The pack with a row that has no label is left out, so that first and last are of the same two.
    assert {name: share[:2] for name, share in found.positive_at.items()} == {"first": (1, 2), "last": (1, 2)}
    assert found.place is None  # three packs tell nothing
    assert found.packed == (26.0, 4.0, pytest.approx(0.125)) and found.alone == (52.0, 4.8, pytest.approx(0.225))
    assert found.saving == {"tokens": pytest.approx(56.8 / 30), "cost": pytest.approx(1.8)}
    assert json.loads(json.dumps(found.to_dict()))["requests_saved"] == 6


# Through the engine


def make_rows(count: int, *, each: int) -> pl.DataFrame:
    rows = pl.DataFrame({"row_id": [f"r{at}" for at in range(count)]})
    return rows.with_columns(
        group=pl.concat_str([pl.lit("q"), pl.int_range(pl.len()) // each]),
        query=pl.concat_str([pl.lit("query "), pl.int_range(pl.len()) // each]),
        split=pl.lit("pool"),
        gold=pl.lit(None, pl.String),
        title=pl.concat_str([pl.lit("item"), pl.int_range(pl.len())]),
    )


@pytest.fixture
def run(task: Task, tmp_path: Path) -> Run:
    def ask(rows: pl.DataFrame, *teachers: Any, seed: int = 7, **settings: Any) -> tuple[pl.DataFrame, LabelingFacts]:
        config = LabelingConfig(**{"concurrency": 4, **settings})
        asked = AskedRows(rows.lazy(), task=task, config=config, seed=seed)
        parts = [votes_frame([])]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            facts = label_rows(asked, teachers=teachers, ledger=ledger, on_votes=parts.append)
        return pl.concat(parts).sort("row_id", "teacher", "sample"), facts

    return ask


@pytest.fixture
def hasty(make_teacher: Any) -> Any:
    class Hasty(make_teacher):  # type: ignore[misc]
        """Finds what comes first exact; alone, one row in two, by its number."""

        packs = True

        def _step(self, request: Request) -> str:
            user = json.loads(request.body)["messages"][1][1]
            titles = re.findall(r"title: \D*(\d+)", user)
            labels = ["exact" if int(number) % 2 else "irrelevant" for number in titles]
            if "\nItem 1" not in f"\n{user}":
                return json.dumps({"label": labels[0]})
            labels[0] = "exact"
            return json.dumps({"answers": [{"item": at, "label": one} for at, one in enumerate(labels, start=1)]})

    return Hasty("hasty")


def test_a_teacher_that_minds_the_place_is_found_out(hasty: Any, teacher: Any, run: Run) -> None:
    teacher.model = "other"  # asked row by row: it has nothing to check
    votes, facts = run(make_rows(800, each=8), hasty, teacher, rows_per_request={"most": 8, "check": 0.25})
    assert votes["row_id"].n_unique() == 800 and len(votes) == 1600
    assert facts.outcomes == {"hasty": {"labeled": 800}, "judge": {"labeled": 800}}
    assert list(facts.packing) == ["hasty"]
    found = facts.packing["hasty"]
    assert (found.rows, found.packs, found.requests_saved, found.compared) == (800, 100, 700, 200)
    assert facts.result.teachers["hasty"].requests_sent == 100 + 200
    assert facts.result.teachers["judge"].requests_sent == 800
    # It is moved at the first place alone, and there where the row's number is even.
    moved = found.moved_at
    assert moved["second_half"].successes == moved["last"].successes == 0
    assert found.moved.successes == moved["first"].successes > 5
    assert found.positive_at["first"][:2] == (100, 100) and found.positive_at["last"].successes < 70
    assert found.place is not None and found.place.p < 1e-6
    assert found.packed.input_tokens is not None and found.packed.input_tokens == pytest.approx(10 / 8, abs=0.2)
    assert found.alone == (10.0, 2.0, 0.25)
    assert found.saving["cost"] == pytest.approx(8, rel=0.01)
    # Nothing of it is asked again, also not where it is looked for with another share.
    sent = sum(hasty.asked.values())
    run(make_rows(800, each=8), hasty, rows_per_request={"most": 8, "check": 0.25})
    run(make_rows(800, each=8), hasty, rows_per_request={"most": 8, "check": 0.1})
    assert sum(hasty.asked.values()) == sent


def test_a_teacher_that_does_not_mind_is_not_accused(hasty: Any, run: Run) -> None:
    step = hasty._step

    def fair(request: Request) -> str:
        answer = json.loads(step(request))
        for one in answer.get("answers", ()):
            number = re.findall(r"title: \D*(\d+)", json.loads(request.body)["messages"][1][1])[one["item"] - 1]
            one["label"] = "exact" if int(number) % 2 else "irrelevant"
        return json.dumps(answer)

    hasty._step = fair
    _, facts = run(make_rows(800, each=8), hasty, rows_per_request=8)
    found = facts.packing["hasty"]
    assert found.compared == 40 and found.moved.successes == 0  # 5% of 800
    assert found.place is not None and found.place.p > 0.01


def test_no_check_where_none_is_wanted_and_never_of_rows_without_company(hasty: Any, run: Run, task: Task) -> None:
    _, facts = run(make_rows(80, each=8), hasty, rows_per_request={"check": 0, "check_at_least": 0})
    assert facts.result.requests_sent == 10 and facts.packing["hasty"].moved.value is None
    config = LabelingConfig(rows_per_request=4)
    lonely = pl.concat([make_rows(40, each=1), make_rows(6, each=6).with_columns(row_id="a" + pl.col("row_id"))])
    lonely = lonely.with_columns(query=pl.col("row_id").str.head(1) + pl.col("query"))
    asked = AskedRows(lonely.lazy(), task=task, config=config, seed=7)
    assert asked.checked is not None and set(asked.checked["source"]) == {f"ar{at}" for at in range(6)}
    assert (asked.height, asked.checks) == (52, 6)


def test_canaries_and_gold_rows_have_company(hasty: Any, run: Run) -> None:
    rows = make_rows(400, each=8).with_columns(
        gold=pl.when(pl.int_range(pl.len()) % 8 < 4).then(pl.lit("exact")), split=pl.lit("audit")
    )
    settings = {"canaries": {"share": 0.1}, "watch": {"below": 0.01, "after": 20}}
    votes, facts = run(rows, hasty, rows_per_request={"check": 0, "check_at_least": 0}, **settings)
    assert facts.canaries is not None and len(facts.canaries) == 40
    assert votes["row_id"].n_unique() == len(votes) == 400
    # 50 queries of 4 gold rows, which come early, and 4 others: 100 requests, and some more for 40 canaries, which are
    # never asked about beside the row that they are made of.
    assert 100 <= facts.result.requests_sent <= 145
    assert (votes["asked_with"] > 1).mean() > 0.8
