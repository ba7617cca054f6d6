"""Corrections as edits of letters."""

import pytest

from distill.students.queries.letters import DELETE, KEEP, Alphabet, changes, edited, edits_to, letters_of


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mechanical keybaord", "mechanical keyboard"),
        ("보조베터리 10000", "보조배터리 10000"),
        ("운동화 나이키", "운동화나이키"),
        ("мабильный тилефон", "мобильный телефон"),
        ("😀👍🏽 shoos", "😀👍🏽 shoes"),
        ("note book", "notebook"),
        ("iphonecase", "iphone case"),
        ("café shoos", "café shoes"),
        ("x", "a whole other query"),
        ("", "lamp"),
    ],
)
def test_edits_lead_to_the_correction(typed: str, meant: str) -> None:
    letters = letters_of(typed).letters
    assert edited(letters, edits_to(letters, meant)) == meant


def test_a_slip_in_a_syllable_is_an_edit_of_one_jamo() -> None:
    # 베 is ᄇ and ᅦ, 배 is ᄇ and ᅢ: the vowel alone is another one.
    letters = letters_of("베").letters
    assert edits_to(letters, "배").replace == [KEEP, KEEP, "ᅢ"]


def test_letters_know_where_they_came_from() -> None:
    # The spaces around are no letters, two inside are one; a syllable's jamo all come from the syllable.
    found = letters_of("  a  베")
    assert found.letters == ["a", " ", "ᄇ", "ᅦ"]
    assert found.origins == [2, 3, 5, 5]


def test_case_stays_as_it_was_typed() -> None:
    letters = letters_of("Nikon camra").letters
    assert edited(letters, edits_to(letters, "nikon camera")) == "Nikon camera"
    assert not changes("Nikon  Camera", "nikon camera")


def test_words_are_joined_by_a_letter_that_goes_and_split_by_one_that_comes() -> None:
    assert edits_to("a b", "ab").replace == [KEEP, KEEP, DELETE, KEEP]
    assert edits_to("ab", "a b").append == [KEEP, " ", KEEP]


def test_an_alphabet_numbers_what_it_has_seen_and_nothing_else() -> None:
    alphabet = Alphabet.of([("lmap", ["lamp"]), ("chair", ["chair"]), ("rde", ["red", "rode"])])
    assert alphabet.replace[0] == alphabet.append[0] == KEEP
    letters = letters_of("lmap").letters
    numbers = alphabet.numbers(edits_to(letters, "lamp"))
    assert numbers is not None
    assert [alphabet.replace[number] for number in numbers[0]] == edits_to(letters, "lamp").replace
    assert alphabet.numbers(edits_to(letters, "lzap")) is None
    # Padding, the start and what is not known have the first three rows of an embedding.
    assert alphabet.ids(["A", "Ω"]) == [Alphabet.START, 3 + alphabet.letters.index("a"), Alphabet.OTHER]


def test_a_correction_that_writes_too_much_at_once_is_no_edit() -> None:
    # Five letters behind one place; four is the most.
    assert Alphabet.of([("ab", ["aXYZVWb"])]).append == (KEEP,)
