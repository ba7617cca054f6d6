from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.answers.parsing import Answer, AnswerError, parse_answer
from distill.labeling.errors import DistillError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart"
TASK = Task(
    labels=("exact", "substitute", "complement", "irrelevant"),
    inputs=("query", "title"),
    positive="exact",
    ordered=True,
    guideline=Guideline.load(QUICKSTART / "guideline.md"),
)
FORMAT = AnswerFormat(trace=True, clauses=True, probs="distribution")


def parse(text: str, task: Task = TASK) -> Answer:
    return parse_answer(text, task=task, answer=FORMAT)


def labels(*names: str) -> Task:
    return Task(labels=names, inputs=("query",))


def test_a_whole_answer():
    answer = parse(
        '{"trace": "Same kind.", "label": "substitute", "clauses": ["S1", "E2", "S1", "Z9"], '
        '"probs": {"exact": 1, "substitute": 2, "complement": 0, "irrelevant": 1}}'
    )
    assert answer == Answer(
        label="substitute",
        probs=[0.25, 0.5, 0.0, 0.25],  # 1, 2, 0, 1 over their sum, 4
        probs_source="verbal",
        trace="Same kind.",
        clauses=["S1", "E2"],
        unknown_clauses=["Z9"],
    )


@pytest.mark.parametrize("name", ["careful", "literal", "quick"])
def test_every_recorded_reply_of_the_quickstart_parses(name):
    lines = (QUICKSTART / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [parse(json.loads(line)["reply"]) for line in lines]
    assert len(answers) == 1920
    assert all(answer.label in TASK.labels for answer in answers)
    assert all(not answer.unknown_clauses for answer in answers)
    assert all((answer.trace is not None) == (name == "careful") for answer in answers)
    assert all((answer.probs is None) == (name == "quick") for answer in answers)
    assert all(answer.probs is None or sum(answer.probs) == pytest.approx(1) for answer in answers)


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "exact"}',
        ' \n{"label": "exact"}\n',
        '```json\n{"label": "exact"}\n```',
        'Here is my answer:\n{"label": "exact"}\nI hope that this helps.',
        'A {curly} remark, then {"label": "exact"} {.}',
        '{"label": "exact",}',
        '{"label": "exact", "clauses": ["E1", ],\n}',
        '{"Label": "exact"}',
        '{"label": " Exact."}',
        '{"label": "EXACT"}',
        '[{"label": "exact"}]',
        '{"label": "exact", "trace": "line\nbreak"}',
        '{"label": "exact"}\n{"label": "exact"}',
        "exact",
        " Exact. ",
        "**exact**",
        '"exact"',
        "`exact`",
        "Label: exact",
        "**Final answer:** exact",
        '<think>Either {"label": "substitute"} or not.</think>\n\n{"label": "exact"}',
        'Thinking that the template opened, {"label": "substitute"}?</think>{"label": "exact"}',
        "<think>hm</think>exact",
    ],
)
def test_forms_that_are_taken(text):
    assert parse(text).label == "exact"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got ''"),
        (
            "The product suits the shopper; exact or not, who knows.",
            "expected one JSON object with trace, label, clauses",
        ),
        (
            '{"label": "great match"}',
            "label: got 'great match'; expected one of exact, substitute, complement, irrelev",
        ),
        ('{"label": ""}', "label: got ''"),
        ('{"label": ["exact"]}', "label: got"),
        ('{"label": {"a": 1}}', "label: got"),
        ('{"label": 1e999}', "label: got"),
        ('{"answer": "exact"}', "label: missing, got the fields"),
        ('{"label": "exa', "answer: expected one JSON object"),
        ("{'label': 'exact'}", "answer: expected one JSON object"),
        ("<think>I have not finished", "answer: expected one JSON object"),
        ('{"label": "exact"} or {"label": "substitute"}', "got 2 that differ"),
        ('{"probs": {"exact": 0}}', "label: missing"),
        ("null", "answer: expected one JSON object"),
        ("[" * 100_000, "answer: expected one JSON object"),
        ('{"a":' * 100_000, "answer: expected one JSON object"),
        ("9" * 5000, "answer: expected one JSON object"),
    ],
)
def test_forms_that_are_not(text, words):
    with pytest.raises(AnswerError) as caught:
        parse(text)
    assert words in caught.value.reason
    assert len(caught.value.reason) < 400
    assert isinstance(caught.value, DistillError)


@pytest.mark.parametrize(
    "text",
    ['{"label": null}', '{"label": "abstain"}', '{"label": "Cannot tell."}', '{"label": "cannot_tell"}', "ABSTAIN"],
)
def test_abstentions(text):
    answer = parse(text)
    assert answer.label is None
    assert answer.probs is None


def test_an_abstention_states_no_distribution():
    assert parse('{"label": null, "probs": {"exact": 1}}').probs is None


def test_a_label_that_is_called_abstain_is_a_label():
    assert parse('{"label": "abstain"}', labels("abstain", "act")).label == "abstain"


@pytest.mark.parametrize(
    ("stated", "names", "expected"),
    [
        ("not-relevant", ("Not Relevant", "Relevant"), "Not Relevant"),
        ("not_relevant", ("Not Relevant", "Relevant"), "Not Relevant"),
        ("Partially  Relevant", ("partially-relevant", "x"), "partially-relevant"),
        (3, ("4", "3"), "3"),
        (3.0, ("4", "3"), "3"),
        (True, ("true", "false"), "true"),
        ("A-B", ("a-b", "a b", "A-B"), "A-B"),
        ("C++", ("C++", "C"), "C++"),
    ],
)
def test_variants_of_labels(stated, names, expected):
    assert parse(json.dumps({"label": stated}), labels(*names)).label == expected


def test_a_bare_number_is_a_label():
    assert parse("3", labels("4", "3")).label == "3"


def test_a_form_that_two_labels_share_stands_for_neither():
    with pytest.raises(AnswerError):
        parse('{"label": "A_B"}', labels("a-b", "a b"))


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ({"exact": 0.5, "substitute": 0.5}, [0.5, 0.5, 0, 0]),
        ({"Exact": "60%", "substitute": "40%"}, [0.6, 0.4, 0, 0]),
        ({"exact": 75, "irrelevant": 25}, [0.75, 0, 0, 0.25]),
        ([1, 1, 1, 1], [0.25] * 4),
        ({"exact": -0.1, "substitute": 1.1}, None),
        ({"exact": 0, "substitute": 0}, None),
        ({"exact": float("nan")}, None),
        ({"exact": float("inf")}, None),
        ({"exact": 1e308, "substitute": 1e308}, None),
        ({"exact": 10**400}, None),
        ({"exact": True}, None),
        ({"exact": None}, None),
        ({"exact": "high"}, None),
        ({"great": 1.0}, None),
        ([1, 2], None),
        ([1, 2, 3, None], None),
        ("likely", None),
        ({}, None),
    ],
)
def test_distributions(probs, expected):
    answer = parse(json.dumps({"label": "exact", "probs": probs}))
    assert answer.label == "exact"
    assert answer.probs_source == ("none" if expected is None else "verbal")
    assert answer.probs == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("confidence", "of_label"),
    [(0.7, 0.7), (1, 1.0), (0, 0.0), ("0.7", 0.7), ("70%", 0.7), (70, 0.7)]
    + [(bad, None) for bad in (-0.1, 1.5, 8, 101, float("nan"), "high", None, True, [0.7])],
)
def test_confidence_is_spread_over_the_other_labels(confidence, of_label):
    probs = parse(json.dumps({"label": "substitute", "confidence": confidence})).probs
    if of_label is None:
        assert probs is None
    else:
        other = (1 - of_label) / 3  # four labels: three others
        assert probs == pytest.approx([other, of_label, other, other])


def test_a_distribution_wins_over_a_confidence_unless_it_is_none():
    assert parse('{"label": "exact", "probs": {"exact": 1}, "confidence": 0.4}').probs == [1, 0, 0, 0]
    assert parse('{"label": "exact", "probs": {"exact": -1}, "confidence": 0.4}').probs[0] == 0.4


def test_without_a_label_the_most_probable_one_is_it():
    assert parse('{"probs": {"exact": 0.2, "complement": 0.8}}').label == "complement"
    assert parse('{"probs": [0.3, 0.3, 0.2, 0.2]}').label == "exact"  # the first of equals


@pytest.mark.parametrize("key", ["trace", "reasoning", "reason", "explanation"])
def test_names_of_the_trace(key):
    assert parse(json.dumps({key: " Because. ", "label": "exact"})).trace == "Because."


def test_traces():
    assert parse('{"trace": ["One.", "Two."], "label": "exact"}').trace == "One.\nTwo."
    assert parse('{"trace": "  ", "label": "exact"}').trace is None
    assert parse('<think> Hm. </think>{"label": "exact"}').trace == "Hm."
    assert parse('<think>Hm.</think>{"trace": "Said.", "label": "exact"}').trace == "Said."
    assert parse('{"trace": "a </think> b", "label": "exact"}').trace == "a </think> b"


@pytest.mark.parametrize(
    ("stated", "known", "unknown"),
    [
        (["e2", "S1"], ["E2", "S1"], []),
        ("E1, E2; and S1", ["E1", "E2", "S1"], []),
        (["E2 Stated constraints", "none"], ["E2"], []),
        (["E99"], [], ["E99"]),
        ([1, None, ["E1"]], ["E1"], []),
        (None, [], []),
        ({"E1": True}, [], []),
    ],
)
def test_clauses(stated, known, unknown):
    answer = parse(json.dumps({"label": "exact", "clauses": stated}))
    assert (answer.clauses, answer.unknown_clauses) == (known, unknown)


def test_clauses_without_a_guideline_are_unknown():
    assert parse('{"label": "a", "clauses": ["E1"]}', labels("a", "b")).unknown_clauses == ["E1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(TASK.labels),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
ANSWERS = st.dictionaries(
    st.sampled_from(["label", "probs", "confidence", "trace", "clauses", "Label", "x"]),
    JSON | st.dictionaries(st.sampled_from(TASK.labels), st.floats() | st.integers(), max_size=4),
)


@given(st.text() | ANSWERS.map(json.dumps))
def test_any_text_is_an_answer_or_an_answer_error(text):
    try:
        answer = parse(text)
    except AnswerError:
        return
    assert answer.label is None or answer.label in TASK.labels
    assert (answer.probs is None) == (answer.probs_source == "none")
    if answer.probs is not None:
        assert sum(answer.probs) == pytest.approx(1)
        assert min(answer.probs) >= 0
