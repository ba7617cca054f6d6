"""Where a text stands in another one: character offsets that hold in any script.

Offsets count characters (code points) of the text as the rows table has it. What is compared are forms: Unicode NFKC,
case folded, runs of white space as one. A character of the form knows which characters of the text it came from: a
letter with its combining marks, the jamo of a syllable, and an emoji with its modifiers stay together, so no span ends
within one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_JOINER = "\u200d"


class Place(NamedTuple):
    """Characters ``start`` to ``end`` (exclusive)."""

    start: int
    end: int


def plain_text(text: str) -> str:
    """A text as answers keep it: Unicode NFC, runs of white space as one space, none around it. Case stays.

    Control characters, and halves of surrogate pairs, which no table can hold, count as white space.
    """
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def folded(text: str) -> str:
    """A text without what does not change it: compatibility forms (NFKC), case, runs of white space.

    Two texts say the same where this is the same; "note book" and "notebook" do not.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def places_of(part: str, text: str) -> list[Place]:
    """Where a part stands in a text, the best first.

    Looked for as it is; then by form; then without any white space, on both sides, since a part may be spaced otherwise
    ("newbalance" in "new balance 574"). The first of these that finds anything decides. Of its places, those that begin
    and end where words do come first; else as they stand in the text.
    """
    if not part.strip():
        return []
    exact = list(_exact(part.strip(), text))
    found = exact or _by_form(part, text, spaces=True) or _by_form(part, text, spaces=False)
    return sorted(found, key=lambda place: (not _is_whole(text, place), place.start))


def first_free(places: Sequence[Place], taken: Sequence[Place]) -> Place | None:
    """The first of some places that overlaps none that is taken."""
    return next(
        (one for one in places if not any(one.start < other.end and other.start < one.end for other in taken)), None
    )


def near_place(part: str, text: str) -> Place | None:
    """The run of words of a text that a part is a corrected spelling of; None where there is none, or several.

    One edit is borne from four characters on, two from eight: an insertion, deletion, change, or swap of neighbours
    (Damerau's). Of several runs the nearest counts, where it is alone in that.
    """
    wanted = folded(part)
    most = 2 if len(wanted) >= 8 else 1 if len(wanted) >= 4 else 0
    words = [Place(start, end) for start, end in _words(text)]
    count = len(wanted.split())
    best: list[tuple[int, Place]] = []
    for size in {max(1, count - 1), count, count + 1}:
        for first in range(len(words) - size + 1):
            place = Place(words[first].start, words[first + size - 1].end)
            edits = _edits(wanted, folded(text[place.start : place.end]), most=most)
            if edits <= most:
                best.append((edits, place))
    best.sort()
    if not best or (len(best) > 1 and best[1][0] == best[0][0]):
        return None
    return best[0][1]


def _exact(part: str, text: str) -> Iterator[Place]:
    start = text.find(part)
    while start >= 0:
        if _at_edge(text, start) and _at_edge(text, start + len(part)):
            yield Place(start, start + len(part))
        start = text.find(part, start + 1)


def _at_edge(text: str, at: int) -> bool:
    """Whether a cluster of characters begins here."""
    return at in (0, len(text)) or not _goes_on(text, at)


def _goes_on(text: str, at: int) -> bool:
    """Whether the character at a place belongs to the one before it."""
    here, before = text[at], text[at - 1]
    if unicodedata.combining(here) or here == _JOINER or before == _JOINER:
        return True
    code = ord(here)
    jamo = 0x1160 <= code <= 0x11FF and 0x1100 <= ord(before) <= 0x11FF
    dressed = 0xFE00 <= code <= 0xFE0F or 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F
    return jamo or dressed


class _Form(NamedTuple):
    """A form, and for each of its characters the cluster of the text that it came from."""

    text: str
    starts: list[int]
    ends: list[int]


def _form(text: str, *, spaces: bool) -> _Form:
    letters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    while at < len(text):
        end = at + 1
        while end < len(text) and _goes_on(text, end):
            end += 1
        if text[at].isspace():
            if spaces and letters and letters[-1] != " ":
                letters.append(" ")
                starts.append(at)
                ends.append(end)
        else:
            for letter in unicodedata.normalize("NFKC", text[at:end]).casefold():
                letters.append(letter)
                starts.append(at)
                ends.append(end)
        at = end
    return _Form("".join(letters), starts, ends)


def _by_form(part: str, text: str, *, spaces: bool) -> list[Place]:
    wanted, form = _form(part.strip(), spaces=spaces).text, _form(text, spaces=spaces)
    found = []
    start = form.text.find(wanted) if wanted else -1
    while start >= 0:
        last = start + len(wanted) - 1
        begins = start == 0 or form.starts[start - 1] != form.starts[start]
        closes = last + 1 == len(form.text) or form.starts[last + 1] != form.starts[last]
        if begins and closes:
            found.append(Place(form.starts[start], form.ends[last]))
        start = form.text.find(wanted, start + 1)
    return found


def _is_whole(text: str, place: Place) -> bool:
    before = place.start == 0 or not text[place.start - 1].isalnum()
    after = place.end == len(text) or not text[place.end].isalnum()
    return before and after


def _words(text: str) -> Iterator[tuple[int, int]]:
    start = None
    for at, character in enumerate(text):
        if character.isspace():
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(text)


def _edits(one: str, other: str, *, most: int) -> int:
    """Damerau's distance (optimal string alignment); anything beyond ``most`` where it is more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    two_before: list[int] = []
    before = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        now = [row]
        for column, right in enumerate(other, start=1):
            cost = min(now[-1] + 1, before[column] + 1, before[column - 1] + (left != right))
            if row > 1 and column > 1 and left == other[column - 2] and one[row - 2] == right:
                cost = min(cost, two_before[column - 2] + 1)
            now.append(cost)
        two_before, before = before, now
    return before[-1]
