"""Reads the answers to several rows out of one completion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic_core import from_json

from distill.labeling.parsing import json_objects, split_thinking
from distill.labeling.teacher import Completion, Reply

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
    for answer in _stated(text):
        place = _place(answer.get("item"), count)
        if place is None:
            continue
        fields = {name: value for name, value in answer.items() if name != "item"}
        if found.setdefault(place, fields).get("label") != fields.get("label"):
            torn.add(place)
    return {place: _ENCODE(fields) for place, fields in found.items() if place not in torn}


def _stated(text: str) -> Iterator[dict[str, Any]]:
    try:
        whole = from_json(text)
    except ValueError:
        whole = None
    for found in _lists(whole) if whole is not None else _objects(text):
        yield from (answer for answer in found if isinstance(answer, dict))


def _objects(text: str) -> Iterator[Sequence[Any]]:
    """From a text that is not JSON as a whole: prose around it, a fence, a trailing comma, cut off before its end."""
    objects = json_objects(split_thinking(text)[1])
    lists = [found for one in objects for found in _lists(one) if "answers" in one]
    # Cut off within the list, the object around it cannot be read, and its members stand for themselves.
    return iter(lists or [[one for one in objects if "item" in one]])


def _lists(whole: Any) -> Iterator[Sequence[Any]]:
    answers = whole.get("answers") if isinstance(whole, dict) else whole
    if isinstance(answers, list):
        yield answers
    elif isinstance(answers, dict):  # by number
        yield [{"item": number, **one} for number, one in answers.items() if isinstance(one, dict)]
    elif isinstance(whole, dict) and "item" in whole:
        yield [whole]


def _place(item: Any, count: int) -> int | None:
    """The place that a stated number stands for; None where it is no number of an item."""
    if isinstance(item, str) and item.isascii() and item.isdigit():
        item = float(item)
    if isinstance(item, float) and item.is_integer():
        item = int(item)
    return item - 1 if isinstance(item, int) and not isinstance(item, bool) and 1 <= item <= count else None


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
