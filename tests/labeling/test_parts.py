"""A request that asks several parts: one vote a part, counts and costs that add up, and trees asked level by level."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from distill.labeling.answers.parsing import Answer
from distill.labeling.engine.engine import LabelingRun
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.option_tree import SeveralWalk, start_walk, tree_of
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task, TaskConfig
from distill.labeling.teacher import AnswerFormat, Completion, Reply
from distill.labeling.vote import PartVote, Vote, stored_columns, votes_frame

PARTS = {"type": "query_understanding", "inputs": ["query"], "parts": ["spelling", "brand"]}
TASK = Task.from_config(TaskConfig.model_validate(PARTS))
GOOD = {"corrected": "nike shoe", "brand": ["nkie"]}
BAD = {"corrected": "nike shoe", "brand": ["puma"]}
ROWS = pl.DataFrame({"row_id": ["r0", "r1"], "query": ["nkie shoe", "nkie boot"]})


class Answering:
    """Answers each prompt in turn from a list, the last one for ever."""

    name, family, answer, max_concurrency = "t", "f", AnswerFormat(), 1

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def compile(self, prompt: Any, *, sample: int) -> Any:
        from distill.labeling.teacher import Request

        return Request("here", json.dumps([prompt.user, prompt.turns]).encode(), sample, prompt.row_id)

    def read(self, reply: Reply) -> Completion:
        return Completion(reply.body, input_tokens=101, output_tokens=10)

    async def ask(self, request: Any) -> Reply:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Reply(json.dumps(answer), cost_usd=0.5)

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def ask(tmp_path: Any) -> Callable[..., tuple[pl.DataFrame, Any]]:
    def run(*answers: Any, rows: pl.DataFrame = ROWS, task: Task = TASK, **settings: Any) -> tuple[pl.DataFrame, Any]:
        parts = [votes_frame([])]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            config = LabelingConfig(concurrency=1, **settings)
            engine = LabelingRun(task=task, teachers=[Answering(*answers)], ledger=ledger, config=config)
            result = engine.run([rows], on_votes=parts.append)
        return pl.concat(parts), result

    return run


def test_a_request_becomes_one_vote_a_part_with_its_share(ask: Any) -> None:
    votes, result = ask(GOOD)
    assert votes.select("row_id", "part", "outcome").sort("row_id", maintain_order=True).rows() == [
        ("r0", "spelling", "labeled"),
        ("r0", "brand", "labeled"),
        ("r1", "spelling", "labeled"),
        ("r1", "brand", "labeled"),
    ]
    one = votes.filter(pl.col("row_id") == "r0")
    assert one["key"].n_unique() == 1 and one["cost_usd"].to_list() == [0.25, 0.25]
    assert sorted(one["input_tokens"]) == [50, 51] and one["output_tokens"].sum() == 10
    assert one["text"].to_list() == ["nike shoe", None]
    assert one["spans"].to_list()[1] == [{"start": 0, "end": 4, "text": "nkie", "type": "brand", "link": None}]
    assert result.requests_sent == 2 and result.cost_usd == pytest.approx(votes["cost_usd"].sum())
    again, result = ask(GOOD)
    assert result.requests_sent == 0 and again["from_ledger"].all()


def test_a_part_that_does_not_fit_is_asked_again_and_then_stands_alone(ask: Any) -> None:
    votes, result = ask(BAD, GOOD, rows=ROWS.head(1))
    assert result.requests_sent == 2 and votes["outcome"].to_list() == ["labeled", "labeled"]
    votes, _ = ask(BAD, rows=ROWS.tail(1), reasks=1)
    assert votes.select("part", "outcome", "cause").rows() == [
        ("spelling", "labeled", None),
        ("brand", "invalid", "not_in_input"),
    ]
    assert votes["cost_usd"].sum() == pytest.approx(1.0)  # two requests of half a dollar


def test_what_ends_a_request_ends_every_part(ask: Any) -> None:
    votes, result = ask("no answer at all", rows=ROWS.head(1), reasks=0)
    assert votes.select("part", "outcome", "cause").rows() == [
        ("spelling", "invalid", "misfit"),
        ("brand", "invalid", "misfit"),
    ]
    assert result.outcomes.total() == 1  # a request; lines are a part each
    votes, _ = ask({"label": None}, rows=ROWS.tail(1))
    assert votes["outcome"].to_list() == ["abstained", "abstained"]


def test_a_table_has_the_columns_of_its_task_alone() -> None:
    relevance = Task(labels=("a", "b"), inputs=("query",))
    added = {"part", "labels", "text", "texts", "spans", "confidence"}
    assert not added & set(stored_columns(relevance))
    assert added & set(stored_columns(TASK)) == {"part", "text", "spans", "confidence"}
    frame = votes_frame([Vote("r", "t", "f", "labeled", cost_usd=1.0, parts=(PartVote("a"), PartVote("b", text="x")))])
    assert frame.select("part", "text", "cost_usd").rows() == [("a", None, 0.5), ("b", "x", 0.5)]


def walk(most: int) -> SeveralWalk:
    labels = ["A > x", "A > y", "B > z", "B > w", "C"]
    given = {"type": "category", "inputs": ["query"], "categories": labels, "most_options": most}
    task = Task.from_config(TaskConfig.model_validate(given))
    teacher: Any = Answering()
    tree = tree_of(teacher, task)
    assert tree is not None
    found = start_walk(tree, Prompter(task, AnswerFormat())({"row_id": "r", "query": "q"}))
    assert isinstance(found, SeveralWalk)
    return found


def test_every_branch_named_is_followed_level_by_level() -> None:
    asked = walk(3)
    assert list(asked.prompt.options) == ["A > …", "B > …", "C"]
    assert asked.prompt.schema["properties"]["category"]["items"]["enum"] == ["A > …", "B > …", "C"]
    assert "`A > x`" not in asked.prompt.system  # a question names its own options
    assert asked.take(Answer(None, labels=["B > …", "A > …"], confidence=0.9), clipped=False)
    assert list(asked.prompt.options) == ["B > z", "B > w"]
    assert asked.take(Answer(None, labels=["B > w"], confidence=0.6), clipped=False)
    assert not asked.take(Answer(None, labels=["A > x"], confidence=0.8), clipped=False)
    assert (asked.answer.labels, asked.answer.confidence) == (["A > x", "B > w"], 0.6)


def test_naming_nothing_is_an_answer_and_an_abstention_is_none() -> None:
    asked = walk(3)
    assert not asked.take(Answer(None, labels=[]), clipped=False)
    assert asked.answer.labels == []
    asked = walk(3)
    assert not asked.take(Answer(None), clipped=False) and asked.answer.abstains


def test_a_task_that_fits_one_question_has_no_tree() -> None:
    task = Task(labels=("a", "b"), inputs=("query",), type="category", several=True, most_options=2)
    teacher: Any = Answering()
    assert tree_of(teacher, task) is None and tree_of(teacher, replace(task, labels=("a", "b", "c"))) is not None
