"""What a model wrote, read as an answer that is no single label: several labels, spans, a text, a list, or parts.

Texts are kept in Unicode NFC, runs of white space as one space, none around them; case stays. ``null`` and ``[]`` under
an answer's own field say that there is none, which is an answer; under the field ``label``, which every kind takes,
``null`` says that the teacher cannot tell, and so does ``"abstain"`` anywhere. Of an object ``parts`` (what a labeling
function's mapping becomes) a part that is left out is one that the teacher cannot tell; elsewhere it is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from distill.labeling.answers.locating import Place, first_free, folded, near_place, places_of, plain_text
from distill.labeling.answers.parsing import (
    ABSTENTIONS,
    MISSING,
    TRAILING_COMMA,
    Answer,
    AnswerError,
    cite,
    confidence_of,
    label_form,
    match_label,
    objects_in,
    shown,
    split_thinking,
    trace_of,
)
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

MAX_TEXT_CHARS = 500
"""A longer answer is no query any more."""

_GENERIC = ("label", "answer")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "spelling": ("corrected", "spelling", "corrected_query", "correction"),
    "brand": ("brand", "brands"),
    "category": ("category", "categories"),
    "expansion": ("expansions", "expansion", "rewrites"),
}
_BY_COLUMN = {"spans": ("spans", "entities"), "text": ("text",), "texts": ("texts",), "labels": ("labels",)}
_NONE = frozenset({"", "none", "null", "no brand", "n/a", "-"})


def parse_kind(text: str, *, task: Task, source: str) -> Answer:
    """Reads a model's text where the answer is no single label.

    Taken: a JSON object, also within prose, a code fence or after ``<think>…</think>``; see the module for empty
    answers and abstentions. A span may be given as text or with offsets; it is looked for in the input, see
    :func:`read_spans`.

    Args:
        text: What the model wrote.
        task: What was asked.
        source: The input that spans and texts are of, as the rows table has it.

    Raises:
        AnswerError: There is no JSON object, or the answer does not fit. Where the task has parts, what is wrong with
            one of them stands in its place instead.
    """
    found, thought = _object(text, task)
    if found is None:
        return Answer(label=None, trace=thought)
    if task.parts:
        parts: dict[str, Answer | AnswerError] = {}
        told = found.get("parts")
        if "label" in found and found["label"] is None:
            return Answer(label=None, trace=trace_of(found) or thought)
        for part in task.parts:
            try:
                if isinstance(told, Mapping) and not any(name in told for name in field_names(part)):
                    parts[str(part.part)] = Answer(label=None)
                    continue
                found = _named(told) if isinstance(told, Mapping) else found
                parts[str(part.part)] = _answer(found, part, source)
            except AnswerError as error:
                parts[str(part.part)] = error
        result = Answer(label=None, parts=parts)
    else:
        result = _answer(found, task, source)
    result.trace = trace_of(found) or thought
    if "clauses" in found:
        cite(result, found["clauses"], task)
    return result


def answer_of_shares(shares: Mapping[str, float], *, task: Task) -> Answer:
    """The answer of a teacher that gives a probability to each of several labels: those more likely than not.

    Raises:
        AnswerError: The task is of another kind, or names other labels.
    """
    if task.answer_column != "labels":
        raise AnswerError(f"probabilities: got {shown(dict(shares))}; expected {expected(task)}")
    unknown = [label for label in shares if label not in task.labels]
    if unknown:
        raise AnswerError(f"labels: got {shown(unknown)}, which are not of the set")
    return Answer(label=None, labels=[label for label in task.labels if shares.get(label, 0.0) > 0.5])


def field_names(task: Task) -> tuple[str, ...]:
    """Fields under which an answer is looked for, the asked one first."""
    own = _NAMES.get(task.type or "", ())
    if task.part is not None:
        return (*own, task.part)
    return (*own, *_BY_COLUMN.get(task.answer_column, ()), *_GENERIC)


def expected(task: Task) -> str:
    """What should have been written, in words."""
    if task.parts:
        return "one JSON object with " + ", ".join(part.field for part in task.parts)
    says = {
        "label": "one category of the list",
        "labels": "a list of labels of the set, empty for none",
        "spans": f"a list of parts of {task.source}, copied as they stand there, empty for none",
        "text": "a text",
        "texts": "a list of texts",
    }
    return f"{task.field}: {says[task.answer_column]}"


def _object(text: str, task: Task) -> tuple[Mapping[str, Any] | None, str | None]:
    """The answer's object and what was thought before it; None for an abstention in a word."""
    try:
        whole = from_json(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict):
        return _named(whole), None
    thought, rest = split_thinking(text)
    found = [_named(one) for one in list(objects_in(rest)) or list(objects_in(TRAILING_COMMA.sub("", rest)))]
    names = {name for single in task.singles for name in field_names(single)}
    answers = [one for one in found if names & one.keys()]
    if any(
        {name: one.get(name) for name in names} != {name: answers[0].get(name) for name in names} for one in answers
    ):
        raise AnswerError(f"answer: expected one JSON object, got {len(answers)} that differ")
    if answers:
        return answers[-1], thought
    if label_form(rest) in ABSTENTIONS:
        return None, thought
    raise AnswerError(f"answer: expected {expected(task)}, as JSON; got {shown(text)}")


def _named(found: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).strip().lower(): value for key, value in found.items()}


def _answer(found: Mapping[str, Any], task: Task, source: str) -> Answer:
    name = next((name for name in field_names(task) if name in found), None)
    if name is None:
        raise AnswerError(f"{task.field}: missing, got the fields {shown(list(found))}; expected {expected(task)}")
    stated = found[name]
    if (stated is None and name in _GENERIC) or _says_cannot(stated, source):
        return Answer(label=None)
    result = Answer(label=None)
    column = task.answer_column
    if column == "label":
        result.label = _one_label(stated, task)
    elif column == "labels":
        result.labels = _labels(stated, task)
    elif column == "spans":
        result.spans = read_spans(stated, task=task, source=source)
    elif column == "texts":
        result.texts = _texts(stated, task, source)
    else:
        result.text = _text(stated, task, source)
    result.confidence = _confidence(found.get("confidence"), task)
    return result


def _says_cannot(stated: Any, source: str) -> bool:
    return isinstance(stated, str) and label_form(stated) in ABSTENTIONS and folded(stated) != folded(source)


def _confidence(stated: Any, task: Task) -> float | None:
    if isinstance(stated, Mapping):
        stated = next((stated[name] for name in field_names(task) if name in stated), None)
    return None if stated is None else confidence_of(stated)


def _one_label(stated: Any, task: Task) -> str | None:
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    return None if stated is None else _label(stated, task)


def _labels(stated: Any, task: Task) -> list[str]:
    given = [] if stated is None else stated if isinstance(stated, list) else [stated]
    if len(given) == 1 and isinstance(given[0], str) and given[0] not in task.labels and label_form(given[0]) in _NONE:
        return []
    found = list(dict.fromkeys(_label(one, task) for one in given))[: task.most]
    order = {label: place for place, label in enumerate(task.labels)}
    return sorted(found, key=lambda label: order.get(label, len(order)))


def _label(stated: Any, task: Task) -> str:
    label = match_label(stated, task.labels) if isinstance(stated, str) else MISSING
    if label in (MISSING, None) and isinstance(stated, str) and task.tree is not None:
        label = task.tree.find(stated) or MISSING
    if label in (MISSING, None):
        raise AnswerError(
            f"{task.field}: got {shown(stated)}, which is not of the set; copy a label as it stands there"
        )
    return str(label)


def _text(stated: Any, task: Task, source: str) -> str:
    if not isinstance(stated, str) or not plain_text(stated):
        hint = "; where nothing is to be corrected, write the input itself" if task.type == "spelling" else ""
        raise AnswerError(f"{task.field}: expected a text, got {shown(stated)}{hint}")
    return _bounded(stated, task)


def _bounded(stated: str, task: Task) -> str:
    text = plain_text(stated)
    if len(text) > MAX_TEXT_CHARS:
        raise AnswerError(f"{task.field}: got {len(text):,} characters, expected at most {MAX_TEXT_CHARS}")
    return text


def _texts(stated: Any, task: Task, source: str) -> list[str]:
    """Texts in their order, each once; of an expansion, not the query itself, which says nothing more."""
    given = [] if stated is None else stated if isinstance(stated, list) else [stated]
    if wrong := [one for one in given if not isinstance(one, str)]:
        raise AnswerError(f"{task.field}: expected a list of texts, got {shown(wrong[0])} in it")
    seen = {"", folded(source)} if task.type == "expansion" else {""}
    kept = []
    for one in given:
        if (form := folded(one)) not in seen:
            seen.add(form)
            kept.append(_bounded(one, task))
    return kept[: task.most]


def read_spans(stated: Any, *, task: Task, source: str) -> list[SpanAnswer]:
    """Reads spans and looks each up in the input.

    A span is a text, or an object with ``text``, ``start`` and ``end`` (characters), ``type`` and ``link``. Offsets
    count where that text stands there (models count badly); else the text is looked for
    (:func:`~distill.labeling.answers.locating.places_of`), at its first place that no earlier span of the answer has. A
    brand may be named otherwise than it is written in the query: any alias in the brand list is looked for, and then a
    near miss (:func:`~distill.labeling.answers.locating.near_place`).

    Args:
        stated: What was answered.
        task: Of kind ``spans``.
        source: The input.

    Returns:
        Spans in the order of the input, at most ``task.most``.

    Raises:
        AnswerError: One is no span, of no type of the task's, or is not in the input (cause ``not_in_input``).
    """
    given = [] if stated is None else stated if isinstance(stated, list) else [stated]
    if len(given) == 2 and all(isinstance(one, int) for one in given):
        given = [given]
    spans: list[SpanAnswer] = []
    for one in given[: task.most]:
        if isinstance(one, str) and label_form(one) in _NONE:
            continue
        spans.append(_span(one, task, source, spans))
    return sorted(spans)


def _span(stated: Any, task: Task, source: str, taken: Sequence[SpanAnswer]) -> SpanAnswer:
    fields = _span_fields(stated, task)
    kind = _type_of(fields.get("type"), task)
    text, link = fields.get("text"), fields.get("link")
    place = _stated_place(fields, source)
    occupied = [Place(span.start, span.end) for span in taken]
    if place is None and text:
        place = _place(text, link, task, source, occupied)
    if place is None:
        raise AnswerError(
            f"{task.field}: {shown(text or stated)} does not stand in {task.source} {shown(source)}; copy a part of it "
            "letter by letter",
            cause="not_in_input",
        )
    written = source[place.start : place.end]
    return SpanAnswer(place.start, place.end, written, kind, _link(written, text, link, task))


def _span_fields(stated: Any, task: Task) -> dict[str, Any]:
    if isinstance(stated, str):
        return {"text": stated}
    if isinstance(stated, list) and 2 <= len(stated) <= 3 and all(isinstance(one, int) for one in stated[:2]):
        return {"start": stated[0], "end": stated[1], "type": stated[2] if len(stated) == 3 else None}
    if not isinstance(stated, Mapping):
        raise AnswerError(f"{task.field}: expected {expected(task)}; got {shown(stated)} in it")
    fields = _named(stated)
    fields["text"] = next((fields[name] for name in ("text", "span", "name", "value") if fields.get(name)), None)
    fields["type"] = fields.get("type") or fields.get("label")
    fields["link"] = next((fields[name] for name in ("link", "brand", "canonical") if fields.get(name)), None)
    fields["text"] = fields["text"] or fields["link"]
    if any(not isinstance(fields[name], str | None) for name in ("text", "type", "link")):
        raise AnswerError(f"{task.field}: text, type and link are texts; got {shown(stated)}")
    return fields


def _type_of(stated: str | None, task: Task) -> str:
    if stated is None and len(task.types) == 1:
        return task.types[0]
    found = match_label(stated, task.types) if stated is not None else MISSING
    if found in (MISSING, None):
        raise AnswerError(f"{task.field}: got the type {shown(stated)}; expected one of {', '.join(task.types)}")
    return str(found)


def _stated_place(fields: Mapping[str, Any], source: str) -> Place | None:
    """The offsets stated, where the text stated stands there; without a text, where they lie within the input."""
    start, end = fields.get("start"), fields.get("end")
    if not (isinstance(start, int) and isinstance(end, int)) or not 0 <= start < end <= len(source):
        return None
    text = fields.get("text")
    written = source[start:end]
    if not written.strip() or (text and folded(written) != folded(text)):
        return None
    start += len(written) - len(written.lstrip())
    return Place(start, start + len(written.strip()))


def _place(text: str, link: str | None, task: Task, source: str, taken: Sequence[Place]) -> Place | None:
    called = [text]
    if task.brands is not None and (brand := task.brands.link(link or text) or task.brands.link(text)):
        called += [name for name in task.brands.called(brand) if name != text]
    for name in called:
        if place := first_free(places_of(name, source), taken):
            return place
    if task.type != "brand":
        return None
    near = (near_place(name, source) for name in called)
    return first_free([place for place in near if place is not None], taken)


def _link(written: str, text: str | None, link: str | None, task: Task) -> str | None:
    """The brand's name: of the list where there is one; else as stated, where it is written otherwise in the input."""
    if task.brands is not None:
        return next((name for said in (link, text, written) if said and (name := task.brands.link(said))), None)
    stated = link or text
    return plain_text(stated) if stated and folded(stated) != folded(written) else None
