"""Where a text stands in another one, in any script."""

from __future__ import annotations

import unicodedata

import pytest

from distill.labeling.answers.locating import folded, near_place, places_of, plain_text

DECOMPOSED = unicodedata.normalize("NFD", "나이키 운동화")  # every syllable is two or three jamo


@pytest.mark.parametrize(
    ("part", "text", "found"),
    [
        ("nike", "red nike shoe", [(4, 8)]),
        ("Nike", "NIKE shoe nike", [(0, 4), (10, 14)]),
        ("나이키", "나이키운동화 나이키", [(7, 10), (0, 3)]),  # the one that is a word of its own comes first
        ("나이키", DECOMPOSED, [(0, 6)]),  # 나, 이, 키: two jamo each
        ("café", "cafe\u0301 filter", [(0, 5)]),
        ("cafe", "cafe\u0301 filter", []),  # not within a letter and its accent
        ("ёлка", "Ёлка искусственная", [(0, 4)]),
        ("STRASSE", "straße 5", [(0, 6)]),  # ß folds to ss
        ("ナイキ", "ﾅｲｷ シューズ", [(0, 3)]),  # half-width forms
        ("new balance", "newbalance 574", [(0, 10)]),
        ("newbalance", "New  Balance 574", [(0, 12)]),
        ("👟", "red 👟 shoe", [(4, 5)]),
        ("👩", "👩\u200d👧 shirt", []),  # a family is one sign
        ("on", "onion on cloud", [(6, 8), (0, 2), (3, 5)]),
        (" ", "a b", []),
    ],
)
def test_places_are_characters_of_the_text(part: str, text: str, found: list[tuple[int, int]]) -> None:
    assert [tuple(place) for place in places_of(part, text)] == found


@pytest.mark.parametrize(
    ("part", "text", "found"),
    [
        ("Brindlewood", "brindlewod hazelnut coffee", (0, 10)),  # one letter left out
        ("Strydera", "strydra velo 4", (0, 7)),
        ("adidas", "aiddas shoes", (0, 6)),  # two neighbours swapped are one edit
        ("nike", "bike rack", (0, 4)),  # one edit from four letters on: nearness alone cannot tell
        ("lg", "lq tv", None),  # none below
        ("adidas", "adidsa adiads", None),  # two as near
        ("sony", "red shoe", None),
    ],
)
def test_a_near_miss_is_found_where_it_is_the_only_one(part: str, text: str, found: tuple[int, int] | None) -> None:
    place = near_place(part, text)
    assert (None if place is None else tuple(place)) == found


def test_spacing_between_words_is_part_of_what_a_text_says() -> None:
    assert plain_text("  Cafe\u0301  Noir ") == "Café Noir"
    assert folded("Note  Book") == folded("note book") != folded("notebook")
