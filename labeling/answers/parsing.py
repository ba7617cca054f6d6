"""What a model wrote, read as an answer."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic_core import from_json

from distill.labeling.errors import DistillError
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, ProbsSource


class AnswerError(DistillError):
    """A text is not an answer to the task.

    Control flow of the engine: it asks again, and ends the row as ``invalid`` when that does not help.

    Attributes:
        reason: What is wrong and what was expected, fit to be shown to the model and to a person.
        cause: One of :data:`~distill.labeling.errors.CAUSES`.
    """

    def __init__(self, reason: str, *, cause: str = "misfit") -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


@dataclass(slots=True)
class Answer:
    """A model's answer, read.

    Attributes:
        label: One of the task's labels; None where the model says that it cannot tell.
        probs: Distribution in the order of the task's labels, summing to one; None where none was stated or what was
            stated is no distribution. It is kept as stated also where its largest value is not at ``label``.
        probs_source: ``verbal`` where ``probs`` is given, else ``none``.
        trace: The reasoning, None where there is none.
        clauses: Ids of clauses cited, as the guideline writes them, each once, in the order cited.
        unknown_clauses: Ids cited that the guideline does not have.
        labels: Where several may be right, those named, in the task's order; None for other kinds, or an abstention.
        text: Likewise a text, in the form of :func:`~distill.labeling.answers.locating.plain_text`.
        texts: Likewise texts, the best first.
        spans: Likewise spans, in the order of the input.
        confidence: Stated probability that one of those four is right.
        parts: The answer to each part of a task of several, or why it has none; None for other tasks.
    """

    label: str | None
    probs: list[float] | None = None
    probs_source: ProbsSource = "none"
    trace: str | None = None
    clauses: list[str] = field(default_factory=list)
    unknown_clauses: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    text: str | None = None
    texts: list[str] | None = None
    spans: list[SpanAnswer] | None = None
    confidence: float | None = None
    parts: dict[str, Answer | AnswerError] | None = None

    @property
    def abstains(self) -> bool:
        """Whether the model says that it cannot tell; an empty list says that there is none."""
        if self.parts is not None:
            return all(isinstance(part, Answer) and part.abstains for part in self.parts.values())
        said = (self.label, self.labels, self.text, self.texts, self.spans)
        return all(value is None for value in said)


MISSING: Any = object()
_TRACE_KEYS = ("trace", "reasoning", "reason", "explanation")
ABSTENTIONS = frozenset({"abstain", "abstained", "cannot tell", "can't tell", "cannot decide", "can't decide"})
_SPACES = re.compile(r"[\s_\-‐-―]+")
_QUOTES = " \t\r\n\"'`*“”‘’.,;:()[]{}<>"
_BARE_PREFIX = re.compile(r"^[\s*_#`\"']*(?:final\s+)?(?:label|answer)[\s*_`\"']*[:=]", re.IGNORECASE)
TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_CLAUSE_ID = re.compile(r"\b[A-Za-z]{1,3}\d{1,3}\b")
_LENIENT = json.JSONDecoder(strict=False)  # a model's line break inside a string is no reason to lose the answer
_MAX_CANDIDATES = 64
_MAX_QUOTED_CHARS = 80
_MAX_NAMED = 40


def parse_answer(text: str, *, task: Task, answer: AnswerFormat) -> Answer:
    """Reads a model's text.

    Taken: a JSON object, also within prose, a code fence or after ``<think>…</think>`` (which is the trace when the
    answer has none), with trailing commas or line breaks inside strings; a bare label as the whole text; labels
    that differ from the task's in case, spaces, hyphens or underscores. A stated ``confidence`` of c gives c to the
    label and (1 - c) / (K - 1) to each other label; where ``probs`` is stated too, it wins. Without a label, the
    most probable one is it (the first of equals). Probabilities that are no distribution are left out.

    Args:
        text: What the model wrote.
        task: What was asked.
        answer: What it was asked to write; named in the error when nothing of the kind is found.

    Raises:
        AnswerError: There is no JSON object and no bare label, or the label is not of the set.
    """
    try:
        found = from_json(text)  # as json.loads, in half the time
    except ValueError:
        found = _loaded(text)
    if isinstance(found, dict):
        return _from_object(found, None, task)
    thought, rest = split_thinking(text)
    if found := _find_object(rest):
        return _from_object(found, thought, task)
    return Answer(label=_bare_label(rest, task, answer), trace=thought)


def find_json_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a text, None where it holds none."""
    return next(reversed(list(objects_in(text))), None)


def parse_rationale(text: str, *, task: Task) -> Answer:
    """Reads the explanation of a known label: a trace and the clauses cited. A label in it is not read.

    Args:
        text: What the model wrote, in the forms that :func:`parse_answer` takes.
        task: What was asked.

    Raises:
        AnswerError: There is no JSON object with a trace.
    """
    _, rest = split_thinking(text)
    found = next((one for one in objects_in(rest) if trace_of(one)), None)
    if found is None:
        raise AnswerError(f"answer: expected one JSON object with trace, got {shown(text)}")
    result = Answer(label=None, trace=trace_of(found))
    if "clauses" in found:
        cite(result, found["clauses"], task)
    return result


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)  # knows more than pydantic's: lone surrogates
    except (ValueError, RecursionError):
        return None


def _from_object(found: Mapping[str, Any], thought: str | None, task: Task) -> Answer:
    if "label" not in found and "probs" not in found:
        found = {str(key).strip().lower(): value for key, value in found.items()}
    probs = _distribution(found["probs"], task.labels) if "probs" in found else None
    stated = found.get("label", MISSING)
    if stated is MISSING:
        if probs is None:
            raise AnswerError(f"label: missing, got the fields {shown(list(found))}; {_expected(task)}")
        label: str | None = task.labels[probs.index(max(probs))]
    else:
        label = _label(stated, task)
    result = Answer(label=label, trace=trace_of(found) or thought)
    if "clauses" in found:
        cite(result, found["clauses"], task)
    if label is not None:
        if probs is None and "confidence" in found and label in task.labels:
            probs = _spread(found["confidence"], label, task.labels)
        if probs is not None:
            result.probs, result.probs_source = probs, "verbal"
    return result


def split_thinking(text: str) -> tuple[str | None, str]:
    """Splits ``<think>…</think>`` off; templates that open the thinking themselves leave only its end in the text."""
    start = text.lstrip()
    if start.startswith(("{", "```")) or ("</think>" not in text and not start.startswith("<think>")):
        return None, text
    thought, _, rest = start.removeprefix("<think>").partition("</think>")
    return thought.strip() or None, rest


def _find_object(text: str) -> dict[str, Any] | None:
    """Finds the one JSON object in a text that is an answer."""
    objects = list(objects_in(text)) or list(objects_in(TRAILING_COMMA.sub("", text)))
    answers = [found for found in objects if "label" in found or "probs" in found] or objects[-1:]
    # A model may write its answer twice. Two answers that differ are none.
    labels = [found.get("label") for found in answers]
    if any(label != labels[0] for label in labels):
        raise AnswerError(f"answer: expected one JSON object, got {len(answers)} that differ, labels {shown(labels)}")
    return answers[-1] if answers else None


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, those within another one left to it."""
    start = text.find("{")
    for _ in range(_MAX_CANDIDATES):
        if start < 0:
            return
        try:
            found, end = _LENIENT.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield found
        start = text.find("{", end)


def _bare_label(text: str, task: Task, answer: AnswerFormat) -> str | None:
    for form in (text.strip(), _BARE_PREFIX.sub("", text, count=1).strip()):
        label = match_label(form, task.labels)
        if label is not MISSING:
            return label
    fields = [
        *(["trace"] if answer.trace else []),
        "label",
        *(["clauses"] if answer.clauses and task.guideline else []),
    ]
    raise AnswerError(
        f"answer: expected one JSON object with {', '.join(fields)}, got {shown(text)}; {_expected(task)}"
    )


def _label(stated: Any, task: Task) -> str | None:
    if stated is None:
        return None
    if isinstance(stated, bool):
        stated = str(stated).lower()
    elif isinstance(stated, int | float):
        stated = str(int(stated)) if stated == stated // 1 else str(stated)
    label = match_label(stated, task.labels) if isinstance(stated, str) else MISSING
    if label is MISSING and task.tree is not None and isinstance(stated, str):
        label = task.tree.find(stated) or MISSING
    if label is MISSING:
        raise AnswerError(f"label: got {shown(stated)}; {_expected(task)}")
    return label


def match_label(stated: str, labels: tuple[str, ...]) -> Any:
    """The label that a text stands for, None where it abstains, ``MISSING`` where it is neither."""
    if (label := _known(stated, labels)) is not None:
        return label
    return None if label_form(stated) in ABSTENTIONS else MISSING


def _known(stated: str, labels: tuple[str, ...]) -> str | None:
    return stated if stated in labels else _label_forms(labels).get(label_form(stated))


@lru_cache(maxsize=64)
def _label_forms(labels: tuple[str, ...]) -> dict[str, str]:
    """Labels by their normalised form. A form that two labels share stands for neither."""
    counts = Counter(map(label_form, labels))
    return {form: label for label in labels if (form := label_form(label)) and counts[form] == 1}


def label_form(text: str) -> str:
    """A label without what does not change it: quotes, case, and how its words are parted."""
    return _SPACES.sub(" ", text.strip(_QUOTES)).strip().casefold()


def _distribution(stated: Any, labels: tuple[str, ...]) -> list[float] | None:
    if isinstance(stated, Mapping):
        by_label = dict.fromkeys(labels, 0.0)
        for name, value in stated.items():
            label = _known(name, labels)
            number = number_of(value)
            if label is None or number is None:
                return None
            by_label[label] += number
        values = list(by_label.values())
    elif isinstance(stated, list) and len(stated) == len(labels):
        numbers = [number_of(value) for value in stated]
        if None in numbers:
            return None
        values = [number for number in numbers if number is not None]
    else:
        return None
    total = sum(values)
    if not math.isfinite(total) or total <= 0 or min(values) < 0:
        return None
    return [value / total for value in values]


def confidence_of(stated: Any) -> float | None:
    """A stated confidence from 0 to 1; None where it is none.

    Some models answer in percent. From 1 to 10 the scale cannot be known (percent, or out of ten): left out.
    """
    confidence = number_of(stated)
    if confidence is not None and 10 < confidence <= 100:
        confidence /= 100
    return confidence if confidence is not None and 0 <= confidence <= 1 else None


def _spread(stated: Any, label: str, labels: tuple[str, ...]) -> list[float] | None:
    confidence = confidence_of(stated)
    if confidence is None:
        return None
    other = (1 - confidence) / (len(labels) - 1)
    return [confidence if name == label else other for name in labels]


def number_of(value: Any) -> float | None:
    """A number, also as text or in percent; None where it is none."""
    if isinstance(value, float):
        return value
    if isinstance(value, bool):
        return None
    try:
        if isinstance(value, str):
            return float(value[:-1]) / 100 if value.endswith("%") else float(value)
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def trace_of(found: Mapping[str, Any]) -> str | None:
    """The reasoning in an answer; None where there is none."""
    for key in _TRACE_KEYS:
        if value := found.get(key):
            if isinstance(value, list):
                value = "\n".join(map(str, value))
            return str(value).strip() or None
    return None


def cite(result: Answer, stated: Any, task: Task) -> None:
    """Puts the clauses that are cited into an answer: known ones, and ones that the guideline does not have.

    Args:
        result: The answer; its ``clauses`` and ``unknown_clauses`` are added to, each once.
        stated: What the model wrote under ``clauses``: a text, a list of texts, or anything, which cites nothing.
        task: Whose guideline knows the ids; without one, none is known.
    """
    known = task.guideline.by_id if task.guideline else {}
    for item in [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []:
        for cited in [item] if isinstance(item, str) and item in known else _CLAUSE_ID.findall(str(item)):
            name = cited if cited in known else cited.upper()
            target = result.clauses if name in known else result.unknown_clauses
            if name not in target:
                target.append(name)


def _expected(task: Task) -> str:
    # A plain choice names all of them: what it is asked again with must not change, or it would be paid for again.
    short = task.type is None or len(task.labels) <= _MAX_NAMED
    names = task.labels if short else (*task.labels[:_MAX_NAMED], "…")
    return f"expected one of {', '.join(names)}"


def shown(value: Any) -> str:
    """A value as a message quotes it."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).split())
    return repr(text if len(text) <= _MAX_QUOTED_CHARS else text[:_MAX_QUOTED_CHARS] + "…")
