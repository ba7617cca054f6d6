"""Answers of every kind, merged; expected numbers are derived beside them."""

from __future__ import annotations

from typing import Any

import pytest

from distill.labeling.category_tree import CategoryTree
from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import aggregate, merge
from distill.labeling.merging.list_votes import fuse_lists
from distill.labeling.merging.merge_answers import merge_answers, task_of_votes
from distill.labeling.merging.several_votes import LabelVote
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame

PATHS = ("A > x", "A > y", "B > z")
BRAND = Task(labels=(), inputs=("query",), kind="spans", type="brand", types=("brand",))
SPELLING = Task(labels=(), inputs=("query",), kind="text", type="spelling")
EXPANSION = Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, most=3)
CATEGORY = Task(labels=PATHS, inputs=("query",), type="category", several=True)


def vote(teacher: str, row: str = "r", family: str | None = None, **answer: Any) -> Vote:
    return Vote(row, teacher, family or teacher, "labeled", **answer)


def merged(task: Task, *votes: Vote, method: str = "family_vote") -> dict[str, Any]:
    return merge_answers(votes_frame(votes), task=task, method=method).labels.to_dicts()[0]


def test_texts_of_one_family_share_one_vote() -> None:
    votes = [
        vote("a", family="f", text="nike shoe"),
        vote("b", family="f", text="Nike shoe"),
        vote("c", text="nike shoes"),
    ]
    found = merged(SPELLING, *votes, vote("d", text="nike shoes"))
    assert (found["text"], found["votes"], found["tie"]) == ("nike shoes", 4, False)
    assert found["candidates"][0] == {"text": "nike shoes", "share": pytest.approx(2 / 3)}
    # Three families of a third each, errors that correlate by 0.4: 1 / (0.4 + 0.6 * 3 / 9).
    assert found["n_eff"] == pytest.approx(1 / 0.6)
    # By teachers it is two against two.
    assert merged(SPELLING, *votes, vote("d", text="nike shoes"), method="majority")["tie"]


def test_a_stated_confidence_scales_a_vote_and_confidence_follows_the_formula() -> None:
    found = merged(SPELLING, vote("a", text="x", confidence=0.9), vote("b", text="y", confidence=0.5))
    assert found["text"] == "x"
    # p = 0.9 / 2; pi, how often the two families say the same, is 0; k = (1 - 2/3) / (4/3); n_eff = 1 / (0.4 + 0.3).
    n_eff, strength = 1 / 0.7, 0.25
    assert found["confidence"] == pytest.approx(n_eff * 0.45 / (n_eff + strength))


def test_the_trace_kept_is_that_of_the_surest_vote_that_gives_the_answer() -> None:
    votes = [
        vote("a", text="x", confidence=0.6, trace="less sure"),
        vote("b", text="x", confidence=0.9, trace="sure", clauses=["E1"]),
        vote("c", text="y", confidence=1.0, trace="other"),
        vote("d", text="x", confidence=1.0, trace="", trace_problems=["empty"]),
    ]
    found = merged(SPELLING, *votes)
    assert (found["trace"], found["trace_teacher"], found["clauses"]) == ("sure", "b", ["E1"])


def test_spans_with_their_text_and_link() -> None:
    nike, both = SpanAnswer(4, 8, "nike", "brand", "Nike"), SpanAnswer(0, 8, "red nike", "brand", "Red Nike")
    found = merged(BRAND, vote("a", spans=[nike]), vote("b", spans=[nike]), vote("c", spans=[both]))
    # Characters 0 to 3 have one vote in three, 4 to 7 three in three.
    assert found["spans"] == [nike._asdict()] and found["support"] == [pytest.approx(1.0)]
    none = merged(BRAND, vote("a", spans=[]), vote("b", spans=[]), vote("c", spans=[nike]))
    assert none["spans"] == [] and none["confidence"] > 0.5
    nobody = merged(BRAND, Vote("r", "a", "a", "abstained"))
    assert (nobody["spans"], nobody["confidence"], nobody["votes"]) == (None, 0.0, 0)


def test_ranked_lists_are_fused_by_reciprocal_ranks() -> None:
    fused = fuse_lists([(0.5, ["a", "b"]), (0.5, ["B", "c"])])
    # b: (1/62 + 1/61) / 2; a: 1/61 / 2; c: 1/62 / 2. Of the spellings B and b, as frequent, B is first by alphabet.
    assert [(one.text, one.support) for one in fused] == [("B", 1.0), ("a", 0.5), ("c", 0.5)]
    assert fused[0].score == pytest.approx((1 / 62 + 1 / 61) / 2)
    found = merged(EXPANSION, vote("a", texts=["a", "b"]), vote("b", texts=["B", "c"]))
    assert found["texts"] == ["B", "a", "c"] and found["support"] == [1.0, 0.5, 0.5]
    assert merged(EXPANSION, vote("a", texts=[]), vote("b", texts=[]), vote("c", texts=["x"]))["texts"] == []


def third(*named: list[str]) -> list[tuple[float, float, list[str]]]:
    return [(1 / len(named), 1.0, labels) for labels in named]


def test_each_of_several_labels_is_voted_on() -> None:
    found = LabelVote(("a", "b", "c")).merge(third(["a", "b"], ["a"], ["a", "c"]))
    assert found.labels == ["a"] and found.marginals == pytest.approx({"a": 1.0, "b": 1 / 3, "c": 1 / 3})
    # Of the three that were named: 1, and 1 - 1/3 twice.
    assert found.agreement == pytest.approx((1 + 2 / 3 + 2 / 3) / 3) and not found.tie
    on_the_line = LabelVote(("a", "b")).merge(third(["a", "b"], ["a"]))
    assert on_the_line.labels == ["a"] and on_the_line.tie
    assert LabelVote(("a", "b")).merge(third(["a"], [], [])).labels == []
    assert LabelVote(("a", "b")).merge(third(["a"], ["b"], ["b"], [])).labels == ["b"]


def test_a_vote_for_a_branch_supports_its_labels_in_part() -> None:
    tree = CategoryTree(PATHS)
    found = LabelVote(PATHS, tree=tree).merge(third(["A > x"], ["A"]))
    assert found.labels == ["A > x"] and found.marginals == pytest.approx({"A > x": 0.75, "A > y": 0.25})
    # Two agree on the branch and not on the shelf: its most probable label, as a tie.
    torn = LabelVote(PATHS, tree=tree, frequency={"A > y": 9.0}).merge(third(["A > x"], ["A > y"], ["B > z"]))
    assert torn.labels == ["A > y"] and torn.tie


def test_one_category_is_found_from_the_top() -> None:
    votes = votes_frame(
        [
            vote(f"t{at}", label=label)
            for at, label in enumerate(["A > x", "A > x", "A > y", "A > y", "B > z", "B > z", "B > z"])
        ]
    )
    assert aggregate(votes, labels=PATHS)["label"][0] == "B > z"  # 3 of 7, to 2 and 2
    found = merge(votes, labels=CategoryTree(PATHS)).labels
    assert found["label"][0] == "A > x" and found["tie"][0]  # A has 4 of 7
    branch = merge(votes_frame([vote("a", label="A"), vote("b", label="A > y")]), labels=CategoryTree(PATHS)).labels
    assert branch["label"][0] == "A > y" and branch["probs"][0].to_list() == pytest.approx([0.25, 0.75, 0])


def test_parts_are_merged_each_by_its_kind_and_found_by_what_votes_hold() -> None:
    from dataclasses import replace

    task = Task(
        labels=(), inputs=("query",), kind="parts", parts=(replace(SPELLING, part="s"), replace(BRAND, part="b"))
    )
    votes = votes_frame([vote("a", part="s", text="x"), vote("a", part="b", spans=[])])
    found = merge_answers(votes, task=task)
    assert found.labels.select("part", "text", "spans").rows() == [("s", "x", None), ("b", None, [])]
    assert found.methods == {"s": "family_vote", "b": "family_vote"} and "labels" not in found.labels.columns
    held = task_of_votes(votes)
    assert held is not None and merge_answers(votes, task=held).labels.equals(found.labels)
    assert task_of_votes(votes_frame([vote("a", label="x")])) is None


def test_methods_that_need_one_label_are_refused() -> None:
    with pytest.raises(DataError, match="dawid_skene, which merges one label a row"):
        merged(SPELLING, vote("a", text="x"), method="dawid_skene")
    with pytest.raises(DataError, match="not in the set"):
        merged(CATEGORY, vote("a", labels=["Toys"]))
