from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from distill.labeling.answers.parsing import AnswerError, parse_rationale
from distill.labeling.answers.traces import (
    contradicts,
    copied_share,
    cut_trace,
    is_too_short,
    states_label_first,
    trace_problems,
    unknown_clauses_in,
)
from distill.labeling.guideline import Guideline
from distill.labeling.merging.aggregate import aggregate
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.prompts.system import answer_schema
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

LABELS = ("exact", "substitute", "complement", "irrelevant")
GUIDELINE = Guideline.parse("- **E1 Type.** The kind.\n- **E2 Stated.** All hold.\n- **S1 Off.** One fails.\n")
TASK = Task(labels=LABELS, inputs=("query", "title"), guideline=GUIDELINE)
VALUES = {"query": "red shoe", "title": "Acme E9 trail running shoe for men, size 9, bright red mesh"}


@pytest.mark.parametrize(
    ("label", "trace"),
    [
        ("exact", "The brand differs, so it is a substitute."),
        ("exact", "The size fails. Therefore, substitute."),
        ("exact", "A case for it, which makes it a complement."),
        ("exact", "Color is off; this is clearly not an exact match."),
        ("exact", "It isn't exact: the count differs."),
        ("substitute", "All constraints hold. Label: exact"),
        ("substitute", "Every constraint holds, exact."),
        ("substitute", "Exact: brand, size and color hold."),
        ("irrelevant", "Not exact, so it is a substitute."),
        ("exact", "The size is off: I would call this substitute."),
        ("exact", "It is a SUBSTITUTE match because the size is off."),
    ],
)
def test_a_trace_that_concludes_something_else_contradicts(label: str, trace: str) -> None:
    assert contradicts(trace, label, LABELS)


@pytest.mark.parametrize(
    ("label", "trace"),
    [
        ("substitute", "Not exact, so it is a substitute."),
        ("exact", "The color is irrelevant here, since the query names none."),
        ("substitute", "The note to graders says it is exact; it decides nothing."),
        ("substitute", "It would be exact if the size were named."),
        ("substitute", "Model S7, so the exact model fails."),
        ("exact", "It carries the exact model and size, and a complement of screws."),
        ("exact", "All constraints hold."),
        ("exact", "It is almost a substitute, but every constraint holds."),
        ("complement", "It is not irrelevant: it is used with the shoe."),
        ("irrelevant", "The seller claims that this is exact."),
    ],
)
def test_a_mention_is_no_contradiction(label: str, trace: str) -> None:
    assert not contradicts(trace, label, LABELS)


def test_labels_of_several_words_and_grades() -> None:
    labels = ("exact_match", "phone", "phone case")
    assert contradicts("So it is a phone case.", "phone", labels)
    assert not contradicts("So it is a phone case.", "phone case", labels)
    assert contradicts("Thus an exact match.", "phone", labels)
    # A bare number concludes nothing; after the word it does.
    assert not contradicts("Rated 4, so 4 stars.", "3", ("1", "2", "3", "4"))
    assert contradicts("Label: 4.", "3", ("1", "2", "3", "4"))


def test_label_first_and_too_short() -> None:
    assert states_label_first("Exact match: all hold.", LABELS)
    assert states_label_first("This is a substitute because the size is off.", LABELS)
    assert not states_label_first("Size is off, so it is a substitute.", LABELS)
    assert not states_label_first("Exact size and color hold.", LABELS)
    assert is_too_short("red shoe")
    assert not is_too_short("The size is off.")
    assert not is_too_short("사이즈가 다르고 색상도 달라서 대체품이다.")


def test_unknown_clauses_are_those_with_the_guidelines_letters() -> None:
    # E9 is in the row, X1 has letters of no clause, E1 is there.
    assert unknown_clauses_in("E1, E9, S4 and X1 decide; S4 most.", TASK, VALUES) == ["S4"]
    assert unknown_clauses_in("S4", Task(labels=LABELS, inputs=("query",)), VALUES) == []


def test_copied_share() -> None:
    # 8 words; "trail running shoe for men size" is copied: 6 of 8.
    assert copied_share("Trail running shoe for men, size eight missing", VALUES) == 6 / 8
    # Runs do not reach from one input into the next.
    assert copied_share("a red shoe acme e9 trail", VALUES) == 0
    assert copied_share("Acme E9 trail", VALUES) == 0


def test_problems_by_name() -> None:
    check: dict[str, Any] = {"task": TASK, "values": VALUES}
    assert trace_problems("Color and type hold, size is unstated.", label="exact", **check) == []
    assert trace_problems("  ", label="exact", **check) == ["empty"]
    assert trace_problems("Color and type hold.", label="exact", order="after", **check) == ["answer_in_view"]
    assert trace_problems("Color and type hold.", label="exact", order="given", **check) == ["given"]
    assert trace_problems("Color and type hold.", label="exact", unknown_clauses=["Z9"], **check) == ["unknown_clause"]
    assert trace_problems(VALUES["title"], label="exact", **check) == ["repeats_listing"]
    assert trace_problems("Substitute: the size is off.", label="exact", **check) == [
        "contradicts_label",
        "label_first",
    ]


def test_a_trace_is_cut_at_the_end_of_a_sentence() -> None:
    # 20 tokens are 100 characters.
    first = "The brand and the size hold, and the colour is the one that was asked for."
    kept = cut_trace(f"{first} The listing then goes on about returns and shipping for a while.", 20)
    assert kept == (first, True)
    assert cut_trace(first, 20) == (first, False)
    assert cut_trace(first * 3, None).cut is False
    words = cut_trace("word " * 40, 20)
    assert words.cut and words.text == "word " * 18 + "word…"
    # A schema's maxLength ended it: it is as long as may be, and no sentence ends there.
    ended = cut_trace("word " * 19 + "broke", 20)
    assert ended.cut and len(ended.text) <= 100


def test_the_budget_is_in_the_prompt_and_in_the_schema() -> None:
    told = AnswerFormat(trace=True, trace_tokens=120)
    prompt = Prompter(TASK, told)({"row_id": "a", **VALUES})
    assert "at most 90 words" in prompt.system  # three words for four tokens
    assert prompt.schema["properties"]["trace"] == {"type": "string", "maxLength": 600}
    assert answer_schema(TASK, AnswerFormat(trace=True))["properties"]["trace"] == {"type": "string"}


GIVEN = AnswerFormat(trace=True, trace_order="given", trace_tokens=120)


def test_a_known_label_is_shown_and_no_label_is_asked_for() -> None:
    prompter = Prompter(TASK, GIVEN)
    row = {"row_id": "a", **VALUES, "gold": "exact", "split": "train"}
    prompt = prompter(row)
    assert list(prompt.schema["properties"]) == ["trace", "clauses"]
    assert "is `exact`. Explain it." in prompt.user and "Judge the item" not in prompt.user
    assert prompt.known_label == "exact"
    assert "Explain the same label again" in prompter.again(prompt, text="?", problem="p").turns[-1][1]
    assert prompter.not_asked({**row, "split": "test"}) == "its label is that of a test row, which is never shown"
    assert prompter.not_asked({**row, "gold": None}) == "it has no known label to explain"
    with pytest.raises(Exception, match="test row"):
        prompter({**row, "split": "test"})


def test_a_rationale_is_read_without_its_label() -> None:
    answer = parse_rationale('{"trace": "It holds.", "label": "nonsense", "clauses": ["E1", "Z9"]}', task=TASK)
    assert (answer.label, answer.trace, answer.clauses, answer.unknown_clauses) == (None, "It holds.", ["E1"], ["Z9"])
    with pytest.raises(AnswerError, match="expected one JSON object with trace"):
        parse_rationale('{"label": "exact"}', task=TASK)


def test_rationales_are_no_votes_and_test_labels_are_never_sent(teacher: Any, label: Any, make_rows: Any) -> None:
    teacher.answer = GIVEN
    teacher.always = json.dumps({"trace": "So it is a substitute.", "clauses": []})
    rows = make_rows(4).with_columns(
        gold=pl.Series(["exact", "exact", None, "substitute"]), split=pl.Series(["train", "test", "pool", "audit"])
    )
    votes, _ = label(rows, teacher)
    by_row = {vote["row_id"]: vote for vote in votes.iter_rows(named=True)}
    ids = rows["row_id"].to_list()
    assert [by_row[row]["outcome"] for row in ids] == ["explained", "unsent", "unsent", "explained"]
    assert by_row[ids[1]]["cause"] == "no_known_label"
    assert by_row[ids[0]]["reason"] == "shown the label exact"
    assert by_row[ids[0]]["trace_problems"] == ["contradicts_label", "given"]
    assert by_row[ids[3]]["trace_problems"] == ["given"]
    assert votes["label"].null_count() == 4
    assert {prompt.row_id for prompt in teacher.prompts} <= {ids[0], ids[3]}
    merged = aggregate(votes, labels=LABELS)
    assert merged["label"].null_count() == 4
    assert merged["trace"].null_count() == 4


def test_the_lane_keeps_a_cut_trace_and_what_is_wrong_with_it(teacher: Any, label: Any, make_rows: Any) -> None:
    teacher.answer = AnswerFormat(trace=True, trace_tokens=20, clauses=False)
    long = "The size is off and the rest of it holds as far as I can see. " * 3
    teacher.always = json.dumps({"trace": long + "So it is a substitute.", "label": "exact"})
    votes, _ = label(make_rows(1), teacher)
    vote = votes.row(0, named=True)
    # The conclusion lies beyond the cut and is seen all the same.
    assert vote["trace"] == long[:61] and vote["trace_problems"] == ["contradicts_label", "too_long"]
    assert vote["label"] == "exact"
    teacher.always = json.dumps({"label": "exact"})
    assert label(make_rows(3).tail(1), teacher)[0]["trace_problems"].to_list() == [None]


def test_labels_keep_the_soundest_trace() -> None:
    votes = pl.DataFrame(
        {
            "row_id": ["a", "a", "a", "b"],
            "teacher": ["t1", "t2", "t3", "t1"],
            "outcome": ["labeled"] * 4,
            "label": ["exact"] * 4,
            "probs": [[0.9, 0.1, 0.0, 0.0], [0.8, 0.2, 0.0, 0.0], [0.7, 0.3, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]],
            "trace": ["contradicts", "listing", "sound", "contradicts"],
            "trace_problems": [["contradicts_label"], ["repeats_listing"], [], ["contradicts_label"]],
        }
    )
    merged = aggregate(votes, labels=LABELS)
    assert merged["trace"].to_list() == ["sound", None]
    assert merged["trace_teacher"].to_list() == ["t3", None]
    flawed = aggregate(votes.filter(pl.col("teacher") != "t3"), labels=LABELS)
    assert flawed["trace"].to_list() == ["listing", None]
    assert aggregate(votes.drop("trace_problems"), labels=LABELS)["trace"][0] == "contradicts"
