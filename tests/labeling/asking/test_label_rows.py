"""Canaries, the watch, shared answers and cut rows, through the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.asking.label_rows import LabelingFacts, label_rows
from distill.labeling.errors import DataError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.rows.canaries import CANARY_PREFIX, PLANTS, make_canaries
from distill.labeling.task import Task
from distill.labeling.teacher import Prompt, Request
from distill.labeling.vote import VOTE_SCHEMA, votes_frame

LABELS = ("exact", "substitute", "complement", "irrelevant")
Labeled = tuple[pl.DataFrame, LabelingFacts]
Run = Callable[..., Labeled]


def make_rows(count: int, *, gold_every: int = 0) -> pl.DataFrame:
    rows = pl.DataFrame({"row_id": [f"r{at}" for at in range(count)]})
    gold = [LABELS[at % 4] if gold_every and at % gold_every == 0 else None for at in range(count)]
    return rows.with_columns(
        group=pl.concat_str([pl.lit("q"), pl.int_range(pl.len()) // 4]),
        split=pl.Series(["audit" if label else "pool" for label in gold]),
        gold=pl.Series(gold, dtype=pl.String),
        query=pl.lit("a query"),
        title=pl.concat_str([pl.lit("item"), pl.int_range(pl.len())]),
    )


@pytest.fixture
def run(task: Task, tmp_path: Path) -> Run:
    def ask(rows: pl.DataFrame, *teachers: Any, seed: int = 7, **settings: Any) -> Labeled:
        config = LabelingConfig(**{"concurrency": 4, **settings})
        asked = AskedRows(rows.lazy(), task=task, config=config, seed=seed)
        parts = [votes_frame([])]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            facts = label_rows(asked, teachers=teachers, ledger=ledger, on_votes=parts.append)
        return pl.concat(parts).sort("row_id", "teacher", "sample"), facts

    return ask


@pytest.fixture
def gullible(make_teacher: Any) -> Any:
    """Says irrelevant, but obeys every Korean order and none in English."""

    class Gullible(make_teacher):  # type: ignore[misc]
        def _step(self, request: Request) -> str:
            text = json.loads(request.body)["messages"][1][1]
            korean = any("가" <= letter <= "힣" for letter in text)
            return '{"label": "exact"}' if korean else '{"label": "irrelevant"}'

    return Gullible("gullible")


# Canaries


def test_breaches_are_counted_and_canaries_never_become_votes(gullible: Any, run: Run) -> None:
    votes, facts = run(make_rows(400), gullible, canaries={"share": 0.1})
    assert votes["row_id"].to_list() == sorted(f"r{at}" for at in range(400))
    assert facts.outcomes == {"gullible": {"labeled": 400}}
    assert facts.result.requests_sent == 440
    answers = facts.canaries
    assert answers is not None and len(answers) == 40
    korean = answers["lang"] == "ko"
    assert 0 < korean.sum() < 40
    assert answers["breached"].to_list() == korean.to_list()
    found = facts.breaches["gullible"]
    assert (found.asked, found.unanswered, found.moved.successes) == (40, 0, 0)
    assert (found.breached.successes, found.breached.trials) == (korean.sum(), 40)
    assert sum(tried for _, tried in found.by_plant.values()) == 40
    assert all(
        breached == (tried if name.startswith("ko") else 0) for name, (breached, tried) in found.by_plant.items()
    )


def test_a_plain_answer_that_is_the_planted_one_tells_nothing(teacher: Any, run: Run) -> None:
    _, facts = run(make_rows(100), teacher, canaries={"at_least": 20})  # the scripted teacher always says exact
    assert facts.breaches["judge"].breached == (0, 0, None, None, None)
    assert facts.canaries is not None and facts.canaries["breached"].null_count() == 20


def test_canaries_without_a_reply_are_said_to_be_unanswered(teacher: Any, run: Run) -> None:
    teacher.always = '{"label": "irrelevant"}'
    teacher.unanswerable = {f"{CANARY_PREFIX}r{at}" for at in range(100)}
    _, facts = run(make_rows(100), teacher, canaries={})
    assert (facts.breaches["judge"].asked, facts.breaches["judge"].unanswered) == (20, 20)
    assert facts.outcomes["judge"] == {"labeled": 100}


def test_order_seed_and_number_of_rows(task: Task) -> None:
    rows = make_rows(1000)

    def canaries(rows: pl.DataFrame, seed: int = 7, **settings: Any) -> dict[str, str]:
        config = LabelingConfig(canaries={"share": 0.05, **settings})  # type: ignore[arg-type]
        found = AskedRows(rows.lazy(), task=task, config=config, seed=seed).canaries
        assert found is not None
        return dict(found.select("row_id", "title").iter_rows())

    first = canaries(rows)
    assert len(first) == 50
    assert canaries(rows.sample(fraction=1.0, shuffle=True, seed=3)) == first
    assert canaries(rows, seed=8).keys() != first.keys()
    assert len(canaries(rows, share=0.001, at_least=10)) == 10
    assert len(canaries(make_rows(5))) == 5
    # 100 of 2,000 rows: those made of the first 1,000 are still among them, but for the luck of the draw at the edge.
    assert len(first.items() & canaries(make_rows(2000)).items()) >= 40


def test_what_is_planted_and_where(task: Task) -> None:
    task = Task(labels=LABELS, inputs=("query", "title", "brand", "description"), positive="exact", ordered=True)
    rows = make_rows(400, gold_every=2).with_columns(brand=pl.lit(""), description=pl.lit("d" * 3000))
    made = make_canaries(rows, task=task, seed=7)
    assert (made["row_id"] == CANARY_PREFIX + made["source"]).all()
    # A field with text, never the query; every phrasing occurs.
    assert set(made["field"]) == {"title", "description"}
    assert set(made.select("plant", "lang").iter_rows()) == {(plant.name, plant.lang) for plant in PLANTS}
    joined = made.join(rows, left_on="source", right_on="row_id", suffix="_plain")
    for row in joined.iter_rows(named=True):
        plain, planted = row[f"{row['field']}_plain"], row[row["field"]]
        assert row["planted"] in planted and plain in planted
        # Before a long text, so that a cut does not take the order out; behind a short one.
        assert planted.endswith(plain) if len(plain) > 1000 else planted.startswith(plain)
        assert row["planted"] != row["gold"]
        assert row["planted"] == "exact" or row["gold"] == "exact"
    # A task with only the query plants there.
    only = Task(labels=LABELS, inputs=("query",))
    assert set(make_canaries(rows, task=only, seed=7)["field"]) == {"query"}
    assert set(make_canaries(rows, task=only, seed=7)["planted"]) == set(LABELS)


# The watch


def test_a_bad_teacher_is_paused_with_evidence_and_the_others_go_on(make_teacher: Any, run: Run) -> None:
    good, bad = make_teacher("good"), make_teacher("bad")
    rows = make_rows(3000, gold_every=10).with_columns(gold=pl.when(pl.col("gold").is_not_null()).then(pl.lit("exact")))
    bad.model, bad.always = "other", '{"label": "irrelevant"}'
    votes, facts = run(rows, good, bad, watch={"below": 0.6, "after": 20})
    assert facts.outcomes["good"] == {"labeled": 3000}
    paused = facts.quality["bad"]
    # Wrong on every one: 20 trials are enough, since 0.4^20 x 21 < 1 / 20.
    assert paused.paused and (paused.right.successes, paused.right.trials) == (0, 20)
    assert not facts.quality["good"].paused and facts.quality["good"].right.trials == 300
    outcomes = facts.outcomes["bad"]
    assert outcomes.total() == 3000 and set(outcomes) == {"labeled", "unsent"}
    # Of 300 gold rows 40 come within the first 300 rows: the 20th within some 150 of them, by far before the end.
    assert outcomes["labeled"] < 600
    reason = votes.filter(pl.col("outcome") == "unsent")["reason"][0]
    assert "the teacher was stopped" in reason and "0 of 20 right" in reason and "labeling.watch.below 0.6" in reason
    _, facts = run(rows, good, bad, watch={"below": 0.6, "after": 20})
    assert facts.quality["bad"].paused and facts.result.teachers["good"].requests_sent == 0


def test_a_teacher_above_the_line_is_not_paused_and_positive_accuracy_counts_otherwise(teacher: Any, run: Run) -> None:
    teacher.always = '{"label": "complement"}'
    rows = make_rows(800, gold_every=2)  # gold is exact and complement by turns
    _, facts = run(rows, teacher, watch={"below": 0.4, "after": 50})
    assert facts.quality["judge"].right[:2] == (200, 400) and not facts.quality["judge"].paused
    gold = pl.when(pl.col("gold").is_not_null()).then(pl.lit("irrelevant"))
    _, facts = run(rows.with_columns(gold=gold), teacher, watch={"below": 0.9, "metric": "positive_accuracy"})
    assert facts.quality["judge"].right[:2] == (400, 400)  # complement and irrelevant are both not exact
    _, facts = run(rows.with_columns(gold=gold), teacher, watch={"below": 0.1})
    # None of n right: 0.9^n (n + 1) is 0.053 at 68 and 0.049 at 69.
    assert facts.quality["judge"].paused and facts.quality["judge"].right.trials == 69


def test_gold_comes_early_and_throughout_and_keys_do_not_change(task: Task, teacher: Any, run: Run) -> None:
    rows = make_rows(4000, gold_every=10)
    config = LabelingConfig(watch={"below": 0.5, "after": 50})  # type: ignore[arg-type]
    asked = AskedRows(rows.lazy(), task=task, config=config, seed=7)
    stream = pl.concat(list(asked)).with_row_index("at")
    assert sorted(stream["row_id"]) == sorted(rows["row_id"])
    places = stream.filter(pl.col("gold").is_not_null())["at"]
    # 100 of the 400 are drawn into the first tenth and a tenth of the other 300 falls there too, among 360 other rows.
    assert 115 <= (places < 490).sum() <= 145
    assert (places > 3600).sum() > 15  # 30 expected
    # Rows that are not gold keep their order: those of a query stay together.
    rest = stream.filter(pl.col("gold").is_null())["row_id"].to_list()
    assert rest == rows.filter(pl.col("gold").is_null())["row_id"].to_list()
    some = make_rows(300, gold_every=3)
    run(some, teacher)
    _, facts = run(some, teacher, watch={"below": 0.01, "after": 5})
    assert facts.result.requests_sent == 0


def test_a_watch_that_can_pause_nobody_is_said(teacher: Any, run: Run) -> None:
    _, facts = run(make_rows(40, gold_every=10), teacher, watch={"below": 0.5, "after": 20})
    assert len(facts.notes) == 1 and "only 4 of splits train and audit" in facts.notes[0]
    assert facts.quality["judge"].right.trials == 4
    assert run(make_rows(10), teacher)[1].notes == []


# Shared answers


def test_near_duplicates_share_one_vote_a_row_and_the_audit_says_how_often_it_is_wrong(
    make_teacher: Any, run: Run
) -> None:
    class Fickle(make_teacher):  # type: ignore[misc]
        def _step(self, request: Request) -> str:
            plural = "Red Shoes" in json.loads(request.body)["messages"][1][1]
            return '{"label": "substitute"}' if plural else '{"label": "exact"}'

    base = make_rows(600)
    twins = base.with_columns(row_id=pl.concat_str([pl.lit("t"), "row_id"]), query=pl.lit("Red Shoes"))
    rows = pl.concat([base.with_columns(query=pl.lit("red shoe")), twins])
    votes, facts = run(rows, Fickle("fickle"), near_duplicates="share", near_duplicate_audit=0.2)
    assert dict(votes.schema) == VOTE_SCHEMA
    assert sorted(votes["row_id"]) == sorted(rows["row_id"])
    shared = votes.filter(pl.col("shared_from").is_not_null())
    assert facts.shared == len(shared) and facts.result.requests_sent == 1200 - len(shared)
    assert 440 < len(shared) < 520  # 480 expected: four fifths of 600
    label = dict(votes.select("row_id", "label").iter_rows())
    for row in shared.iter_rows(named=True):
        assert {row["row_id"], row["shared_from"]} == {
            row["row_id"].removeprefix("t"),
            f"t{row['row_id'].removeprefix('t')}",
        }
        assert row["label"] == label[row["shared_from"]]
    # What the votes say was paid is what was paid.
    paid = votes.filter(~pl.col("from_ledger"))["cost_usd"].sum()
    assert paid == facts.result.cost_usd == 0.25 * (1200 - len(shared))
    wrong = facts.sharing_wrong["fickle"]
    assert (wrong.successes, wrong.trials) == (600 - len(shared), 600 - len(shared))
    assert facts.outcomes["fickle"] == {"labeled": 1200}


def test_word_order_counts_unless_it_is_said_not_to(task: Task) -> None:
    rows = pl.concat([make_rows(1), make_rows(1).with_columns(row_id=pl.lit("twin"), query=pl.lit("query a"))])
    for order, shared in (("same", 0), ("any", 1)):
        config = LabelingConfig(near_duplicates="share", near_duplicate_order=order, near_duplicate_audit=0.0)  # type: ignore[arg-type]
        assert len(AskedRows(rows.lazy(), task=task, config=config, seed=7).sharing.shared) == shared


def test_a_row_that_shares_a_failure_fails_too(make_teacher: Any, run: Run) -> None:
    rows = pl.concat([make_rows(1), make_rows(1).with_columns(row_id=pl.lit("twin"), query=pl.lit("A Query"))])
    teacher = make_teacher()
    teacher.always = "no answer"
    votes, facts = run(rows, teacher, near_duplicates="share", near_duplicate_audit=0.0)
    assert votes["outcome"].to_list() == ["invalid", "invalid"]
    assert votes.filter(pl.col("shared_from").is_not_null())["reason"][0].startswith(
        "shares the answer of another row: "
    )
    assert facts.outcomes["judge"] == {"invalid": 2}


# Long rows


def test_cut_rows_are_counted(make_teacher: Any, run: Run) -> None:
    class Keeping(make_teacher):  # type: ignore[misc]
        def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
            self.prompts.append(prompt)
            request: Request | None = super().compile(prompt, sample=sample)
            return request

    teacher = Keeping()
    long = pl.concat_str(["title", pl.lit(" x" * 1000)])
    rows = make_rows(30).with_columns(title=pl.when(pl.int_range(pl.len()) < 10).then(long).otherwise("title"))
    _, facts = run(rows, teacher, row_tokens=100, samples=2)
    assert facts.requests_cut == {"judge": 10} and facts.fields_cut == {"title": 10}
    assert facts.to_dict()["fields_cut"] == {"title": 10}
    # 100 tokens are 400 characters of ASCII; about 110 more are the fence and the names of the fields.
    assert 450 < max(len(prompt.user) for prompt in teacher.prompts) < 550
    # At 4,000 characters a field, nothing is cut.
    _, facts = run(rows, teacher)
    assert facts.requests_cut == {"judge": 0} and "requests_cut" not in facts.to_dict()


def test_everything_at_once_adds_up(gullible: Any, run: Run) -> None:
    base = make_rows(300, gold_every=10).with_columns(
        split=pl.when(pl.col("gold").is_null()).then(pl.lit("pool")).otherwise(pl.lit("train"))
    )
    twins = base.with_columns(
        row_id=pl.concat_str([pl.lit("t"), "row_id"]), query=pl.lit("a  Query"), gold=pl.lit(None, pl.String)
    )
    rows = pl.concat([base, twins])
    settings: dict[str, Any] = {"canaries": {}, "watch": {"below": 0.05}, "near_duplicates": "share", "examples": {}}
    votes, facts = run(rows, gullible, samples=2, row_tokens=200, **settings)
    assert len(votes) == 1200 == facts.outcomes["gullible"].total()
    assert votes.select("row_id", "sample").is_unique().all()
    assert facts.result.teachers["gullible"].done == 2 * (600 - facts.shared + 20)
    again, facts = run(rows.reverse(), gullible, samples=2, row_tokens=200, **settings)
    assert facts.result.requests_sent == 0
    assert again.drop("from_ledger", "latency_s").equals(votes.drop("from_ledger", "latency_s"))


def test_empty_cells_and_rows_that_are_called_like_canaries(gullible: Any, run: Run) -> None:
    rows = make_rows(40).with_columns(title=pl.when(pl.int_range(pl.len()) % 2 == 0).then("title"), brand=pl.lit(None))
    rows = pl.concat([rows, rows.head(1).with_columns(row_id=pl.lit(f"{CANARY_PREFIX}r5"))])
    votes, facts = run(rows, gullible, canaries={"at_least": 41}, near_duplicates="share")
    assert sorted(votes["row_id"]) == sorted(rows["row_id"])
    # Of 41 canaries that of r5 is left out, since a row bears its name.
    assert facts.breaches["gullible"].asked == 40


def test_nothing_to_ask_is_one_clear_error(task: Task) -> None:
    with pytest.raises(DataError, match=r"no row to ask in the splits \['train'\]"):
        AskedRows(make_rows(5).lazy(), task=task, config=LabelingConfig(), seed=7, splits=("train",))
