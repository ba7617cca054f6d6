"""Reasoning traces: how long they may be, and what can be wrong with one.

A trace is kept beside its vote and never read to find the label. It is what a student may learn to write and a person
reads to understand a label, so what is wrong with it is noted with it. The checks are plain functions of texts; they
aim to be right where they speak, and miss much that they do not look for: a trace without a problem is no proof.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from distill.labeling.answers.parsing import Answer
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, TraceOrder
from distill.labeling.vote import Vote

TraceProblem = Literal[
    "empty",
    "too_short",
    "too_long",
    "contradicts_label",
    "unknown_clause",
    "repeats_listing",
    "label_first",
    "answer_in_view",
    "given",
]
"""What can be wrong with a trace.

``empty``: nothing in it. ``too_short``: too few words to give a reason. ``too_long``: beyond its budget, and cut.
``contradicts_label``: it concludes another label in so many words, or denies the one given. ``unknown_clause``: it, or
the answer, cites a clause that the guideline does not have. ``repeats_listing``: most of it is copied from the row.
``label_first``: it states the label before any reason. ``answer_in_view``: it was written after the label, and explains
it. ``given``: the label was not the teacher's but shown to it.
"""

UNFIT: frozenset[str] = frozenset({"empty", "contradicts_label", "given"})
"""Traces with one of these never stand beside a merged label."""

CHARS_PER_TOKEN = 5
"""Characters that a token of a trace is taken to be at most: English runs at 4 to 4.5, other scripts lower."""

_WORDS_PER_TOKEN = 0.75
_COPIED_RUN = 4
_MOST_COPIED = 0.8
_LEAST_WORDS_TO_COPY = 6
_LEAST_WORDS, _LEAST_CHARS = 4, 20

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)|[。！？]")
_SENTENCES = re.compile(r"(?<=[.!?…;])\s+|(?<=[。！？])|\n+")
_CITED = re.compile(r"\b([A-Z]{1,3})\d{1,3}\b")

_FILLER = (
    r"(?:(?:an?|the|clearly|still|only|just|merely|therefore|thus|best|most|likely|probably|rather|instead|actually|"
    r"considered|judged|rated|labell?ed|called|counted|as|at|quite|really|truly|strictly|entirely|fully|be|it|this)\s+)*"
)
_MARKS = r"[\"'`*“”‘’]*"
# A label that is an adjective of something else ("the exact model", "exact size") is followed by that thing.
_ENDS = (
    r"(?=\s*(?:$|[.,;:!?)\]—–]|(?:match|label|product|item|result|listing|under|per|because|since|here|overall|but|"
    r"rather|not|and|for)\b))"
)
_THING = r"(?:it|this|that|the\s+(?:item|product|listing|result|label|answer|verdict))"
_LEADS = (
    r"(?:so|therefore|thus|hence|overall|making\s+(?:it|this)|makes?\s+(?:it|this)|but|"
    r"i(?:[’']d|\s+would)?\s+(?:call|label|rate|judge)|"
    + _THING
    + r"(?:\s+(?:is|remains|stays|counts\s+as|qualifies\s+as|would\s+be|must\s+be)|[’']s))"
)
_DENIALS = (
    r"(?:not|never|cannot|can’t|can't|\w+n[’']t|rather\s+than|instead\s+of|short\s+of|far\s+from|fails\s+to\s+be)"
)
# Of what a label is said in such a sentence is not what the judge concludes: somebody else's word, a mere thought, or
# another thing than the item.
_NOT_CONCLUDED = re.compile(
    r"\b(?:notes?|instruct\w*|ask(?:s|ed|ing)?|tell(?:s|ing)?|told|demand\w*|claim\w*|says?|said|review\w*|graders?|"
    r"raters?|sellers?|if|unless|otherwise|were|could|might|may|almost|nearly|whether|close\s+to|closest)\b",
    re.IGNORECASE,
)


class CutTrace(NamedTuple):
    """A trace within its budget.

    Attributes:
        text: What is kept.
        cut: Whether it was longer.
    """

    text: str
    cut: bool


def keep_trace(
    vote: Vote, answer: Answer, completion: Completion, *, task: Task, asked: AnswerFormat, prompt: Prompt
) -> None:
    """Puts an answer's trace into its vote: cut to its budget, with when it was written and what is wrong with it.

    What the model thought before it answered, where the provider returns that, is the trace of an answer without one;
    it came before the label, whatever was asked for.

    Args:
        vote: What it goes with; its label is set.
        answer: The answer, read.
        completion: What it was read from.
        task: What was asked.
        asked: What the teacher was asked to write.
        prompt: The question.
    """
    trace = answer.trace or completion.reasoning or ""
    order: TraceOrder = asked.trace_order if answer.trace else "before"
    kept = cut_trace(trace, asked.trace_tokens if asked.trace else None)
    problems = trace_problems(
        trace,
        label=prompt.known_label or vote.label,
        task=task,
        values=prompt.values,
        order=order,
        unknown_clauses=answer.unknown_clauses,
    )
    vote.trace, vote.trace_order = kept.text, order
    vote.trace_problems = [*problems, "too_long"] if kept.cut else problems


def trace_words(tokens: int) -> int:
    """The budget as a model is told it: English words, three for four tokens."""
    return max(10, round(tokens * _WORDS_PER_TOKEN / 10) * 10)


def trace_chars(tokens: int) -> int:
    """The budget as a schema and :func:`cut_trace` hold to it: more characters than the words told take."""
    return tokens * CHARS_PER_TOKEN


def cut_trace(trace: str, tokens: int | None) -> CutTrace:
    """Cuts a trace to its budget, at the end of a sentence where there is one in its second half, else after a word.

    A trace that a schema's ``maxLength`` ended in mid-sentence counts as cut, too.

    Args:
        trace: As written.
        tokens: The budget; None is none.
    """
    if tokens is None or len(trace) < (most := trace_chars(tokens)) - 1:
        return CutTrace(trace, False)
    if len(trace) <= most and _SENTENCE_END.search(trace[-3:]):
        return CutTrace(trace, False)
    shown = trace[:most]
    ends = [found.end() for found in _SENTENCE_END.finditer(shown) if found.end() >= most // 2]
    if ends:
        return CutTrace(shown[: ends[-1]].rstrip(), True)
    words = shown.rsplit(maxsplit=1)[0] if " " in shown else shown
    return CutTrace(words[: most - 1].rstrip() + "…", True)


def trace_problems(
    trace: str,
    *,
    label: str | None,
    task: Task,
    values: Mapping[str, str],
    order: TraceOrder = "before",
    unknown_clauses: Collection[str] = (),
) -> list[str]:
    """Says what is wrong with a trace.

    Args:
        trace: The whole trace, before any cut: what it concludes is often at its end.
        label: The label that it goes with; None where the teacher cannot tell.
        task: What was asked.
        values: The row's inputs, as the teacher saw them.
        order: When it was written.
        unknown_clauses: Ids that the answer cited and the guideline does not have.

    Returns:
        Names of :data:`TraceProblem`, each once; empty where nothing was found. Length is :func:`cut_trace`'s.
    """
    if not trace.strip():
        return ["empty"]
    found = {
        "too_short": is_too_short(trace),
        "contradicts_label": label is not None and contradicts(trace, label, task.labels),
        "unknown_clause": bool(unknown_clauses and task.guideline) or bool(unknown_clauses_in(trace, task, values)),
        "repeats_listing": copied_share(trace, values) >= _MOST_COPIED,
        "label_first": order == "before" and task.closed and states_label_first(trace, task.labels),
        "answer_in_view": order == "after",
        "given": order == "given",
    }
    return [name for name, is_so in found.items() if is_so]


def is_too_short(trace: str) -> bool:
    """Whether it has fewer than four words and fewer than twenty characters: a name, no reason."""
    text = trace.strip()
    return len(text) < _LEAST_CHARS and len(_WORD.findall(text)) < _LEAST_WORDS


def contradicts(trace: str, label: str, labels: tuple[str, ...]) -> bool:
    """Whether a trace concludes another label than its own in so many words, or denies its own and concludes none.

    The last conclusion counts: "not exact, so it is a substitute" concludes ``substitute``. Mentions in sentences that
    tell of somebody else's word ("the note asks for exact") or of a mere thought ("if it were cordless") do not.

    Args:
        trace: The reasoning.
        label: The label that it was given with.
        labels: The label set.
    """
    phrases = _phrases(labels)
    if phrases.any_label.search(trace) is None:
        return False
    concluded, denied = None, set()
    for sentence in _SENTENCES.split(trace):
        if phrases.any_label.search(sentence) is None or _NOT_CONCLUDED.search(sentence):
            continue
        denied |= {phrases.label_of(found["label"]) for found in phrases.denial.finditer(sentence)}
        for found in phrases.conclusion.finditer(sentence):
            concluded = phrases.label_of(found[found.lastindex or 0])
    if first := phrases.first.match(trace):
        concluded = concluded or phrases.label_of(first["label"])
    return concluded != label if concluded is not None else label in denied


def states_label_first(trace: str, labels: tuple[str, ...]) -> bool:
    """Whether a trace begins with a label: "Exact: …", "This is a substitute because …"."""
    return _phrases(labels).first.match(trace) is not None


def unknown_clauses_in(trace: str, task: Task, values: Mapping[str, str]) -> list[str]:
    """Ids in a trace that look like the guideline's and are not there, each once.

    Only ids with letters that the guideline's own have; one that stands in the row is a model's name.

    Args:
        trace: The reasoning.
        task: Whose guideline knows the ids; without one there is nothing to find.
        values: The row's inputs by name.
    """
    if task.guideline is None or not any(character.isdigit() for character in trace):
        return []
    known = task.guideline.by_id
    letters = {identity.rstrip("0123456789") for identity in known}
    cited = dict.fromkeys(found[0] for found in _CITED.finditer(trace) if found[1] in letters and found[0] not in known)
    if not cited:
        return []
    row = " ".join(values.values()).casefold()
    return [identity for identity in cited if identity.casefold() not in row]


def copied_share(trace: str, values: Mapping[str, str]) -> float:
    """Share of a trace's words that stand in runs of four or more words copied from one of the row's inputs.

    0 for a trace of fewer than six words: naming the product takes as many.
    """
    words = _words(trace)
    if len(words) < _LEAST_WORDS_TO_COPY:
        return 0.0
    runs = {run for value in values.values() for run in _runs(_words(value))}
    copied = [False] * len(words)
    for start, run in enumerate(_runs(words)):
        if run in runs:
            copied[start : start + _COPIED_RUN] = [True] * _COPIED_RUN
    return sum(copied) / len(words)


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_COPIED_RUN)), strict=False)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


class _Phrases(NamedTuple):
    """How a trace says a label, for one set of labels."""

    any_label: re.Pattern[str]
    conclusion: re.Pattern[str]
    denial: re.Pattern[str]
    first: re.Pattern[str]
    by_form: Mapping[str, str]

    def label_of(self, said: str) -> str:
        """The label that was said."""
        return self.by_form[_form(said)]


@lru_cache(maxsize=64)
def _phrases(labels: tuple[str, ...]) -> _Phrases:
    """Patterns of a label set. Words can conclude by themselves; a grade such as ``3`` only after "label"."""
    by_form = {_form(label): label for label in labels}
    every = _one_of(labels)
    words = _one_of(tuple(label for label in labels if sum(map(str.isalpha, label)) >= 3)) or "(?!)"
    named = rf"\b(?:label|answer|verdict)\s*(?:is|=|:|should\s+be)\s*{_MARKS}(?P<label>{every}){_MARKS}{_ENDS}"
    led = rf"\b{_LEADS}\s+{_FILLER}{_MARKS}(?P<label>{words}){_MARKS}{_ENDS}"
    last = rf"[,;:—–]\s*{_MARKS}(?P<label>{words}){_MARKS}(?:\s+match)?\s*[.!]?\s*$"
    # A group's name may stand only once in a pattern; of these groups one takes part in a match.
    conclusion = "|".join(part.replace("?P<label>", "") for part in (named, led, last))
    return _Phrases(
        any_label=re.compile(every, re.IGNORECASE),
        conclusion=re.compile(conclusion, re.IGNORECASE),
        denial=re.compile(rf"\b{_DENIALS}\s+{_FILLER}{_MARKS}(?P<label>{words}){_MARKS}{_ENDS}", re.IGNORECASE),
        first=re.compile(
            rf"\W*(?:{_THING}\s+(?:is|would\s+be)\s+{_FILLER})?{_MARKS}(?P<label>{words}){_MARKS}(?:\s+match)?"
            rf"\s*(?:[:.,—–]|-\s|because\b|since\b|as\b)",
            re.IGNORECASE,
        ),
        by_form=by_form,
    )


def _one_of(labels: tuple[str, ...]) -> str:
    """A pattern of any of these labels, the longest first, however their words are joined."""
    forms = sorted(map(_form, labels), key=len, reverse=True)
    joined = (r"[\s_-]+".join(map(re.escape, form.split(" "))) for form in forms)
    return "|".join(rf"(?<!\w){form}(?!\w)" for form in joined)


def _form(label: str) -> str:
    return " ".join(re.split(r"[\s_-]+", label.casefold().strip()))
