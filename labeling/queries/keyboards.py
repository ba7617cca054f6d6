"""Keyboards: which keys lie side by side, and what is typed when the wrong layout is switched on.

Three layouts on the same keys: QWERTY, Russian ЙЦУКЕН and the Korean two-set (2-beolsik) layout. Keys have places as on
an ISO board (each row is shifted against the one above by 1/4 or 1/2 of a key), and two are neighbours where their
centres are less than 1.3 keys apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

from distill.labeling.queries.hangul import composed, keystrokes

_NEAR = 1.3
_ROW_SHIFTS = (0.5, 0.75, 1.25)
_LAYOUTS = {
    "en": ("qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,."),
    "ru": ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    "ko": ("ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔ", "ㅁㄴㅇㄹㅎㅗㅓㅏㅣ", "ㅋㅌㅊㅍㅠㅜㅡ"),
}
_SHIFTED = {"ㅃ": "ㅂ", "ㅉ": "ㅈ", "ㄸ": "ㄷ", "ㄲ": "ㄱ", "ㅆ": "ㅅ", "ㅒ": "ㅐ", "ㅖ": "ㅔ"}
_LATIN_SHIFTED = {"ㅃ": "Q", "ㅉ": "W", "ㄸ": "E", "ㄲ": "R", "ㅆ": "T", "ㅒ": "O", "ㅖ": "P"}
_RUSSIAN_YO = "ё"

ALPHABETS: Mapping[str, str] = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "ko": "".join(_LAYOUTS["ko"]) + "".join(_SHIFTED),
}
"""Letters that a slip may put in, by layout; Hangul as keys."""


@cache
def layout_of(letter: str) -> str | None:
    """The layout that types a letter (``en``, ``ru``, ``ko``); None for all else, which no slip is modelled for."""
    return next((name for name, letters in ALPHABETS.items() if letter in letters), None)


@cache
def neighbours(letter: str) -> str:
    """Letters whose keys lie beside a letter's key, in order.

    Hangul with shift (ㄲ) has beside it what the keys there give with shift, and itself without.
    """
    name, plain = layout_of(letter), _SHIFTED.get(letter, letter)
    if name is None or letter == _RUSSIAN_YO:
        return ""
    places = _places(name)
    near = {other for other, place in places.items() if 0 < math.dist(place, places[plain]) < _NEAR}
    with_shift = {base: key for key, base in _SHIFTED.items()}
    if letter in _SHIFTED:
        near = {with_shift[other] for other in near if other in with_shift} | {plain}
    elif letter in with_shift:
        near |= {with_shift[letter]}
    return "".join(sorted(near & set(ALPHABETS[name])))


@cache
def _places(layout: str) -> dict[str, tuple[float, float]]:
    rows = zip(_LAYOUTS[layout], _ROW_SHIFTS, range(3), strict=True)
    return {key: (column + shift, row) for keys, shift, row in rows for column, key in enumerate(keys)}


def wrong_layouts(text: str) -> list[str]:
    """What a text becomes when it is typed with another layout: ``привет`` → ``ghbdtn``, ``dkssud`` → ``안녕``.

    Only texts all of whose letters are of one layout have any; the result is casefolded.
    """
    keys = keystrokes(text)
    names = {layout_of(letter) for letter in keys if letter.isalpha()}
    name = names.pop() if len(names) == 1 else None
    if name is None:
        return []
    others = ["en"] if name != "en" else ["ru", "ko"]
    return [composed(keys.translate(_table(name, other))) for other in others]


@cache
def _table(typed: str, meant: str) -> dict[int, str]:
    table = {}
    for from_row, to_row in zip(_LAYOUTS[typed], _LAYOUTS[meant], strict=True):
        # Rows differ in length: Hangul has no letters beside P and L.
        table.update({ord(one): other for one, other in zip(from_row, to_row, strict=False)})
    if typed == "ko":
        table.update({ord(shifted): letter.casefold() for shifted, letter in _LATIN_SHIFTED.items()})
    return table
