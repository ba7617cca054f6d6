"""Merging of open answers beside a plain reference, which goes by docs/answers.md a row and a character at a time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import polars as pl
import pytest

from distill.labeling.answers.locating import folded, plain_text
from distill.labeling.category_tree import path_of
from distill.labeling.list_columns import list_column
from distill.labeling.merging import answer_votes
from distill.labeling.merging.merge_answers import ANSWER_LABEL_SCHEMA, merge_answers
from distill.labeling.spans import SPANS_DTYPE, SpanAnswer
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame

Line = dict[str, Any]


def merged_plainly(votes: list[Vote], task: Task, *, by_family: bool) -> dict[str, Line]:
    """Answer, confidence, support, candidates, tie and trace of every row."""
    column = task.answer_column
    heard = [vote for vote in votes if vote.outcome == "labeled" and getattr(vote, column) is not None]
    stated = [vote.confidence for vote in heard if vote.confidence is not None]
    usual = sum(stated) / len(stated) if stated else 1.0
    rows: dict[str, list[Vote]] = {vote.row_id: [] for vote in votes}
    for vote in heard:
        rows[vote.row_id].append(vote)
    often = Counter(label for vote in heard for label in getattr(vote, column)) if column == "labels" else Counter()
    pairs = []
    for own in rows.values():
        first: dict[str, Vote] = {}
        for vote in own:
            first.setdefault(vote.family, vote)
        for one, other in combinations(first.values(), 2):
            pairs.append(alike(getattr(one, column), getattr(other, column), column))
    prior = sum(pairs) / len(pairs) if pairs else 2 / 3
    found = {}
    for row, own in rows.items():
        if not own:
            found[row] = {column: None, "confidence": 0.0, "n_eff": 0.0, "votes": 0, "tie": False, "trace": None}
            continue
        weights = weights_of(own, by_family=by_family)
        sure = [usual if vote.confidence is None else vote.confidence for vote in own]
        line = RULES[column]([getattr(vote, column) for vote in own], weights, sure, task, often)
        shares: Counter[str] = Counter()
        for vote, weight in zip(own, weights, strict=True):
            shares[vote.family] += weight  # type: ignore[assignment]
        n_eff = 1 / (0.4 + 0.6 * sum(share**2 for share in shares.values()))
        confidence = (n_eff * line.pop("agreement") + 0.25 * prior) / (n_eff + 0.25)  # k = (1 - 2/3) / (2 * 2/3)
        told = told_of(own, sure, line[column], column)
        found[row] = line | {"confidence": confidence, "n_eff": n_eff, "votes": len(own), "trace": told}
    return found


def weights_of(votes: list[Vote], *, by_family: bool) -> list[float]:
    samples = Counter(vote.teacher for vote in votes)
    if not by_family:
        return [1 / (len(samples) * samples[vote.teacher]) for vote in votes]
    families = {vote.family: {other.teacher for other in votes if other.family == vote.family} for vote in votes}
    return [1 / (len(families) * len(families[vote.family]) * samples[vote.teacher]) for vote in votes]


def alike(one: Any, other: Any, column: str) -> float:
    if column == "text":
        return float(folded(one) == folded(other))
    if column == "texts":
        left, right = {folded(text) for text in one}, {folded(text) for text in other}
        return len(left & right) / len(left | right) if left | right else 1.0
    if column == "labels":
        return float(set(one) == set(other))
    return float({span[:2] + span[3:4] for span in one} == {span[:2] + span[3:4] for span in other})


def told_of(votes: list[Vote], sure: list[float], answer: Any, column: str) -> str | None:
    told = [
        (bool(vote.trace_problems), -certainty, at, vote.trace)
        for at, (vote, certainty) in enumerate(zip(votes, sure, strict=True))
        if vote.trace and not {"empty", "given", "contradicts_label"} & set(vote.trace_problems or ())
        if alike(getattr(vote, column), answer, column) == 1
    ]
    return min(told)[3] if told else None


def spelled(texts: list[str]) -> str:
    return min(texts, key=lambda text: (-texts.count(text), text))


def plain_text_vote(answers: Any, weights: Any, sure: Any, task: Task, often: Any) -> Line:
    loud: dict[str, float] = {}
    for text, weight, certainty in zip(answers, weights, sure, strict=True):
        loud[folded(text)] = loud.get(folded(text), 0.0) + weight * certainty
    units = list if task.type == "spelling" else str.split
    cost = {one: sum(loud[other] * distance(units(one), units(other)) for other in loud) for one in loud}
    best = max(loud, key=lambda form: round(loud[form], 9))
    if loud[best] <= sum(loud.values()) / 2 + 1e-9:
        best = min(loud, key=lambda form: (round(cost[form], 9), -loud[form], form))
    ranked = sorted(loud, key=lambda form: (-round(loud[form], 9), form != best, form))
    shown = {form: spelled([text.strip() for text in answers if folded(text) == form]) for form in loud}
    tie = any(form != best and loud[form] >= loud[best] - 1e-9 for form in loud)
    candidates = [(shown[form], loud[form]) for form in ranked]
    return {"text": shown[best], "agreement": loud[best], "tie": tie, "support": None, "candidates": candidates}


def distance(one: Any, other: Any) -> float:
    table = [[max(row, column) for column in range(len(other) + 1)] for row in range(len(one) + 1)]
    for row in range(1, len(one) + 1):
        for column in range(1, len(other) + 1):
            swapped = table[row - 1][column - 1] + (one[row - 1] != other[column - 1])
            table[row][column] = min(table[row - 1][column] + 1, table[row][column - 1] + 1, swapped)
    return table[-1][-1] / max(len(one), len(other), 1)


def plain_list_vote(answers: Any, weights: Any, sure: Any, task: Task, often: Any) -> Line:
    loud = [weight * certainty for weight, certainty in zip(weights, sure, strict=True)]
    forms = [list(dict.fromkeys(folded(text) for text in texts)) for texts in answers]
    every = {form for own in forms for form in own}
    behind = {form: sum(w for w, own in zip(loud, forms, strict=True) if form in own) for form in every}
    score = {
        form: sum(w / (61 + own.index(form)) for w, own in zip(loud, forms, strict=True) if form in own)
        for form in every
    }
    ranked = sorted(every, key=lambda form: (-round(score[form], 12), -round(behind[form], 9), form))
    shown = {
        form: spelled([plain_text(text) for texts in answers for text in texts if folded(text) == form])
        for form in every
    }
    candidates = [(shown[form], behind[form]) for form in ranked]
    nothing = sum(w for w, own in zip(loud, forms, strict=True) if not own)
    kept = ranked[: task.most] if nothing <= 0.5 + 1e-9 else []
    support = [behind[form] for form in kept]
    tie = len(kept) > 0 and len(ranked) > 1 and abs(score[ranked[0]] - score[ranked[1]]) < 1e-12
    agreement = sum(support) / len(kept) if kept else nothing
    return {
        "texts": [shown[form] for form in kept],
        "agreement": agreement,
        "tie": tie,
        "support": support,
        "candidates": candidates,
    }


def plain_label_vote(answers: Any, weights: Any, sure: Any, task: Task, often: Any) -> Line:
    mass = dict.fromkeys(task.labels, 0.0)
    nodes: dict[str, float] = {}
    nothing = 0.0
    for named, weight, certainty in zip(answers, weights, sure, strict=True):
        loud = weight * certainty
        nothing += 0.0 if named else loud
        for label in task.labels:
            mass[label] += loud * max((share_of(label, one, task) for one in named), default=0.0)
        for node in {node for label in named for node in path_of(label)} if task.tree else ():
            nodes[node] = nodes.get(node, 0.0) + loud
    given = {label for label in task.labels if any(share_of(label, one, task) for named in answers for one in named)}
    order = {label: at for at, label in enumerate(task.labels)}
    ranked = sorted(given, key=lambda label: (-round(mass[label], 9), -often[label], order[label]))
    kept = [label for label in ranked if mass[label] > 0.5 + 1e-9]
    tie = any(abs(mass[label] - 0.5) <= 1e-9 for label in given)
    for node in sorted(nodes, key=lambda name: (-name.count(">"), name)):
        below = [label for label in ranked if node in path_of(label)]
        if nodes[node] > 0.5 + 1e-9 and below and not set(below) & set(kept):
            kept, tie = [*kept, below[0]], True
    if not kept and ranked:
        first = mass[ranked[0]]
        if first > nothing + 1e-9:
            kept = ranked[:1]
            tie = tie or (len(ranked) > 1 and mass[ranked[1]] >= first - 1e-9)
        else:
            tie = tie or abs(first - nothing) <= 1e-9
    decided = [mass[label] if label in kept else 1 - mass[label] for label in given]
    answer = sorted(kept, key=order.__getitem__)
    return {
        "labels": answer,
        "agreement": sum(decided) / len(given) if kept else nothing,
        "tie": tie,
        "support": [mass[label] for label in answer],
        "candidates": [(label, mass[label]) for label in ranked],
    }


def share_of(label: str, named: str, task: Task) -> float:
    if task.tree is None or named in task.labels:
        return float(label == named)
    below = [one for one in task.labels if named in path_of(one)]
    return 1 / len(below) if label in below else 0.0


def plain_span_vote(answers: Any, weights: Any, sure: Any, task: Task, often: Any) -> Line:
    end = max((span.end for spans in answers for span in spans), default=0)
    marks: list[dict[str | None, float]] = [{None: 0.0} for _ in range(end)]
    begins = [0.0] * end
    for spans, weight, certainty in zip(answers, weights, sure, strict=True):
        loud = weight * certainty if spans else weight
        given: dict[int, str] = {}
        for span in spans:
            given |= dict.fromkeys(range(span.start, span.end), span.type)
            begins[span.start] += loud
        for at in range(end):
            marks[at][given.get(at)] = marks[at].get(given.get(at), 0.0) + loud
            marks[at][None] += weight * (1 - certainty) if spans and certainty < 1 else 0.0
    winners = [max(at, key=lambda mark: (round(at[mark], 9), mark is None, mark or "")) for at in marks]
    found: list[list[Any]] = []
    for at, mark in enumerate(winners):
        goes_on = found and found[-1][1] == at and found[-1][2] == mark and begins[at] <= marks[at][mark] / 2 + 1e-9
        if mark is not None and goes_on:
            found[-1][1] = at + 1
        elif mark is not None:
            found.append([at, at + 1, mark])
    marked = [at[winner] for at, winner in zip(marks, winners, strict=True) if at[None] < 1 - 1e-9]
    tie = any(sum(w >= at[winner] - 1e-9 for w in at.values()) > 1 for at, winner in zip(marks, winners, strict=True))
    agreement = sum(marked) / len(marked) if marked else 1.0
    if not any(answers):
        agreement = sum(weight * certainty for weight, certainty in zip(weights, sure, strict=True))
    return {
        "spans": [SpanAnswer(start, stop, QUERY[start:stop], mark) for start, stop, mark in found],
        "agreement": agreement,
        "tie": tie,
        "support": [sum(at.get(mark, 0.0) for at in marks[start:stop]) / (stop - start) for start, stop, mark in found],
        "candidates": None,
    }


RULES = {"text": plain_text_vote, "texts": plain_list_vote, "labels": plain_label_vote, "spans": plain_span_vote}

PATHS = ("A > x", "A > x > p", "A > y > p", "A > y > q", "B > z", "C")
TASKS = {
    "spelling": Task(labels=(), inputs=("query",), kind="text", type="spelling"),
    "text": Task(labels=(), inputs=("query",), kind="text", type="text"),
    "expansion": Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, most=3),
    "category": Task(labels=PATHS, inputs=("query",), type="category", several=True),
    "choice": Task(labels=("a", "b", "c", "d"), inputs=("query",), several=True),
    "spans": Task(labels=(), inputs=("query",), kind="spans", types=("brand", "color")),
}
VOTERS = (("a", "f"), ("b", "f"), ("c", "g"), ("d", "h"), ("e", "e"))
TEXTS = (
    "nike shoe",
    "Nike shoe",
    "nike  shoe",
    "nike shoes",
    "nikke shoe",
    "shoe nike",
    "ﬁne",
    "fine",
    "STRASSE",
    "straße",
)
QUERY = "red Nike shoe größe"


def answer_of(chance: random.Random, task: Task) -> dict[str, Any]:
    column = task.answer_column
    if column == "text":
        return {"text": chance.choice(TEXTS)}
    if column == "texts":
        return {"texts": chance.choices(TEXTS, k=chance.randint(0, 4))}
    if column == "labels":
        nodes = tuple(task.tree.below) if task.tree else task.labels
        return {"labels": list(dict.fromkeys(chance.choices(nodes, k=chance.choice((0, 1, 1, 2, 3)))))}
    spans, at = [], 0
    while at < 12 and chance.random() < 0.6:
        start = at + chance.randint(0, 4)
        at = start + chance.randint(1, 5)
        spans.append(SpanAnswer(start, at, QUERY[start:at], chance.choice(("brand", "brand", "color"))))
    return {"spans": spans}


def made_up(chance: random.Random, task: Task, *, rows: int) -> list[Vote]:
    """Votes of which six in ten are the answer of their row, with samples, silence, confidences and flawed traces."""
    votes = []
    confident = chance.random()
    for row in range(rows):
        usual = answer_of(chance, task)
        for teacher, family in chance.sample(VOTERS, chance.randint(1, len(VOTERS))):
            if chance.random() < 0.1:
                votes.append(Vote(f"r{row}", teacher, family, "abstained"))
            for sample in range(chance.choice((1, 1, 2))):
                more: dict[str, Any] = usual if chance.random() < 0.6 else answer_of(chance, task)
                if chance.random() < confident:
                    more = more | {"confidence": round(chance.random(), chance.choice((1, 4)))}
                trace = chance.choice((None, "", f"{teacher} says so"))
                problems = chance.choice((None, [], ["too_short"], ["given"]))
                labeled = Vote(f"r{row}", teacher, family, "labeled", sample=sample, trace=trace, **more)
                votes.append(replace(labeled, trace_problems=problems))
    if chance.random() < 0.5:
        chance.shuffle(votes)
    return votes


def known(value: Any) -> Any:
    return pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", ["family_vote", "majority"])
def test_every_column_is_that_of_the_plain_reference(name: str, method: str) -> None:
    chance, task = random.Random(f"{name} {method}"), TASKS[name]
    for _ in range(4):
        votes = made_up(chance, task, rows=25)
        wanted = merged_plainly(votes, task, by_family=method == "family_vote")
        labels = merge_answers(votes_frame(votes), task=task, method=method).labels
        assert labels["row_id"].to_list() == list(wanted)
        for line in labels.iter_rows(named=True):
            plain = wanted[line["row_id"]]
            answer = line[task.answer_column]
            if task.answer_column == "spans" and answer is not None:
                answer = [SpanAnswer(**span) for span in answer]
            assert answer == plain[task.answer_column]
            assert [line[key] for key in ("votes", "tie", "trace")] == [plain[key] for key in ("votes", "tie", "trace")]
            assert [line["confidence"], line["n_eff"]] == known([plain["confidence"], plain["n_eff"]])
            candidates = [(one["text"], one["share"]) for one in line.get("candidates") or ()]
            assert [text for text, _ in candidates] == [text for text, _ in plain.get("candidates") or ()]
            assert [share for _, share in candidates] == known([share for _, share in plain.get("candidates") or ()])
            assert (line.get("support") or []) == known(plain.get("support") or [])


def test_how_many_rows_are_taken_at_once_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(
        labels=(), inputs=("query",), kind="parts", parts=tuple(replace(one, part=name) for name, one in TASKS.items())
    )
    chance = random.Random(3)
    votes = [replace(vote, part=name) for name, one in TASKS.items() for vote in made_up(chance, one, rows=30)]
    table = votes_frame(votes)
    whole = merge_answers(table, task=task).labels
    monkeypatch.setattr(answer_votes, "_ROWS_AT_ONCE", 7)
    assert merge_answers(table, task=task).labels.equals(whole)
    # Neither does how a file was cut into pieces: the mean confidence, which votes without one get, is a sum of floats.
    pieces = pl.concat([table[:100], table[100:101], table[101:]], rechunk=False)
    assert merge_answers(pieces, task=task).labels.equals(whole)


def test_a_column_of_lists_is_what_polars_makes_of_it() -> None:
    words: list[list[str] | None] = [["a", "b"], [], None, ["c"]]
    assert list_column("x", words, pl.List(pl.String())).equals(pl.Series("x", words, pl.List(pl.String())))
    nothing = list_column("x", [None, []], pl.List(pl.Float64()))
    assert nothing.to_list() == [None, []] and nothing.dtype == pl.List(pl.Float64)
    spans = [[SpanAnswer(0, 3, "red", "color"), SpanAnswer(4, 8, "Nike", "brand", "Nike")], []]
    made = list_column("spans", spans, SPANS_DTYPE)
    assert made.dtype == SPANS_DTYPE and made.to_list() == [[span._asdict() for span in own] for own in spans]
    assert ANSWER_LABEL_SCHEMA["spans"] == SPANS_DTYPE
