"""Reads the answers to several rows out of one completion."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from distill.labeling.answers.parsing import TRAILING_COMMA, split_thinking
from distill.labeling.teacher import Completion, Reply

_MAX_FAILURES = 64
_NUMBER_CHARS = 12
_BESIDES = ("trace", "clauses", "confidence", "probs")
_NUMBER_BEFORE = re.compile(r'"(\d+)"\s*:\s*\Z')
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def answers_of(completion: Completion, count: int) -> tuple[Completion | None, ...]:
    """Takes a completion about several rows apart.

    Answers are told apart by the number that they state, never by their order. A row has none where its number is
    missing, or stands on two answers with different labels. Of a text that was cut off, the answers that are whole are
    taken. Nothing is taken from an answer that was withheld or declined.

    Args:
        completion: What came back.
        count: Rows asked about.

    Returns:
        ``[count]``: a completion for each row, in the order of the rows, as if it had been asked about alone; None
        where there is none. Tokens are the row's share of them, which add up to the whole.
    """
    if completion.parts is not None:
        if len(completion.parts) != count:
            return (None,) * count
        return tuple(_with_tokens(part, completion, place, count) for place, part in enumerate(completion.parts))
    if completion.finish in ("filtered", "refused"):
        return (None,) * count
    samples = [_texts(text, count) for text in (completion.text, *completion.others)]
    answers: list[Completion | None] = []
    for place in range(count):
        texts = [sample[place] for sample in samples if place in sample]
        one = Completion(texts[0], others=tuple(texts[1:])) if texts else None
        answers.append(one and _with_tokens(one, completion, place, count))
    return tuple(answers)


def share_of(total: int | None, place: int, count: int) -> int | None:
    """A row's share of tokens; the shares of all rows add up to the total."""
    return None if total is None else total * (place + 1) // count - total * place // count


def _with_tokens(part: Completion, whole: Completion, place: int, count: int) -> Completion:
    read, written = part.input_tokens, part.output_tokens
    return replace(
        part,
        input_tokens=share_of(whole.input_tokens, place, count) if read is None else read,
        output_tokens=share_of(whole.output_tokens, place, count) if written is None else written,
    )


def _texts(text: str, count: int) -> dict[int, str]:
    """The answers in a text, by place, each as the text that a model asked about that row alone would have written."""
    found: dict[int, dict[str, Any]] = {}
    torn: set[int] = set()
    for number, answer in _stated(split_thinking(text)[1]):
        place = _place(number, count)
        if place is None or not isinstance(answer, dict):
            continue
        fields = {name: value for name, value in answer.items() if name != "item"}
        if _said(found.setdefault(place, fields)) != _said(fields):
            torn.add(place)
    return {place: _ENCODE(fields) for place, fields in found.items() if place not in torn}


def _said(fields: dict[str, Any]) -> Any:
    """What an answer says: its label; where it has none, all but the reasoning."""
    if "label" in fields:
        return fields["label"]
    return {name: value for name, value in fields.items() if name not in _BESIDES}


class _Object(dict[str, Any]):
    """An object of a text, which may give a name twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_Object)


def _stated(text: str) -> list[tuple[Any, Any]]:
    """The answers that stand in a text, with the numbers that they state.

    Prose, a code fence or a trailing comma do no harm. Of a text that was cut off the object around the answers cannot
    be read; those that are whole then stand for themselves, each behind its number.
    """
    objects = _objects(text) or _objects(TRAILING_COMMA.sub("", text))
    whole = [pair for _, found in objects if "answers" in found for pair in _pairs(found["answers"])]
    return whole or [pair for number, found in objects for pair in _pairs(found, number)]


def _objects(text: str) -> list[tuple[str | None, _Object]]:
    """The JSON objects in a text, those within another one left to it; with the number that each stands behind."""
    objects = []
    start, failures = text.find("{"), 0
    while start >= 0 and failures < _MAX_FAILURES:
        try:
            found, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end, failures = start + 1, failures + 1
        else:
            before = _NUMBER_BEFORE.search(text, max(0, start - _NUMBER_CHARS), start)
            objects.append((before and before[1], found))
        start = text.find("{", end)
    return objects


def _pairs(found: Any, number: str | None = None) -> list[tuple[Any, Any]]:
    """Numbers and answers: of an object by number, of a list of answers that state theirs, or of a single answer."""
    if isinstance(found, list):
        return [(one.get("item"), one) for one in found if isinstance(one, dict)]
    if not isinstance(found, _Object):
        return []
    if "item" in found:
        return [(found["item"], found)]
    return [(number, found)] if number is not None else list(found.pairs)


def _place(number: Any, count: int) -> int | None:
    """The place that a stated number stands for; None where it is no number of an item."""
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = float(number)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return number - 1 if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= count else None


class Pieces(NamedTuple):
    """A reply about several rows, read: as a ``whole``, and the answer to each row as :func:`answers_of` gives it."""

    whole: Completion
    answers: tuple[Completion | None, ...]


class PackReader:
    """Reads replies about several rows, each once: the rows of one come one after the other.

    Args:
        read: Reads a reply, as :meth:`~distill.labeling.teacher.Teacher.read` does.
    """

    def __init__(self, read: Callable[[Reply], Completion]) -> None:
        self._read = read
        self._body: str | None = None
        self._pieces: Pieces | None = None

    def __call__(self, reply: Reply, count: int, *, bought: bool) -> Pieces:
        """Takes a reply about so many rows apart.

        Args:
            reply: What came back.
            count: Rows asked about.
            bought: Whether it was bought in this run: the completion that came with it is then as good.

        Raises:
            BadReplyError: As ``read``.
        """
        if self._pieces is None or self._body is not reply.body or len(self._pieces.answers) != count:
            whole = (reply.completion if bought else None) or self._read(reply)
            self._body, self._pieces = reply.body, Pieces(whole, answers_of(whole, count))
        return self._pieces
