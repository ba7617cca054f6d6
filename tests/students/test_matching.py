import pytest

from distill.students.matching import (
    jaccard,
    match_feature_names,
    match_features,
    match_words,
    normalise,
    trigrams,
    words,
)


def test_words_part_letters_from_numbers() -> None:
    assert words(normalise("K87 12.5 Inch ｗｉｄｅ, 6인용!")) == ["k", "87", "12.5", "inch", "wide", "6", "인용"]


def test_a_word_is_looked_up_in_every_field() -> None:
    red, switch, tkl = match_words("red switch TKL", ["Keyboard Red Switches", "layout: tkl"])
    assert (red.whole, red.part) == ((True, False), (True, False))
    assert (switch.whole, switch.part) == ((False, False), (True, False))
    assert (tkl.whole, tkl.part) == ((False, True), (False, True))
    assert red.likeness == switch.likeness == tkl.likeness == 1.0


def test_likeness_of_a_missing_word_is_that_of_the_closest() -> None:
    (word,) = match_words("lamb", ["a lamp", "blue"])
    # " la" "lam" of {" la", "lam", "amb", "mb "} and {" la", "lam", "amp", "mp "}: 2 of 6.
    assert word.likeness == pytest.approx(2 / 6)
    assert not any(word.part)


def test_empty_texts_match_nothing() -> None:
    assert match_words("", ["title"]) == ()
    (word,) = match_words("lamp", ["", ""])
    assert (word.part, word.likeness) == ((False, False), 0.0)
    assert match_words("lamp", [])[0].part == ()
    assert jaccard(frozenset(), frozenset()) == 0.0


def test_repeated_words_count_once() -> None:
    assert [match.word for match in match_words("new new lamp", ["lamp"])] == ["new", "lamp"]


def test_features_of_a_derived_example() -> None:
    query, fields = "red lamp 40", ["Lamp 60", "red"]
    named = dict(
        zip(
            match_feature_names(["query", "title", "brand"]),
            match_features(query, fields),
            strict=True,
        )
    )
    # Of red, lamp, 40: title has lamp, brand has red, 40 is nowhere.
    assert named["title.whole"] == named["title.part"] == pytest.approx(1 / 3)
    assert named["brand.whole"] == pytest.approx(1 / 3)
    assert named["missing"] == pytest.approx(1 / 3)
    # " 40" against " 60": trigrams {" 40", "40 "} and {" 60", "60 "} share none.
    assert named["lowest"] == named["last"] == 0.0
    assert named["second"] == named["first"] == 1.0
    assert named["mean"] == pytest.approx(2 / 3)
    assert named["numbers"] == named["numbers_missing"] == pytest.approx(1 / 3)
    # The query " red lamp 40 " has 11 trigrams; " lamp 60 " has " la" "lam" "amp" "mp " among them.
    assert len(trigrams("red lamp 40")) == 11
    assert named["title.likeness"] == pytest.approx(4 / 11)


def test_a_query_alone_has_no_match_features() -> None:
    assert match_feature_names(["query"]) == []
    assert match_features("lamp", []) == ()
