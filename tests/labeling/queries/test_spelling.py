from __future__ import annotations

import math
import unicodedata

import pytest

from distill.labeling.queries.letter_model import LetterModel
from distill.labeling.queries.query_words import Word, search_terms, words
from distill.labeling.queries.spelling import Change, SpellingCorrector, SpellingOptions
from distill.labeling.queries.word_counts import NearWords, WordCounts, other_number

# Each title differs from the next, since equal ones count once.
TITLES = [
    *(f"Delta kitchen faucet {n}" for n in range(20)),
    *(f"Bosch washing machine {n} kg" for n in range(20)),
    *(f"Garden hose {n} ft with hose reel" for n in range(12)),
    *(f"Host stand for restaurant {n}" for n in range(6)),
    *(f"Ceramic floor tile {n} in" for n in range(12)),
    *(f"Light bulb {n} watt" for n in range(12)),
    *(f"Briggs Stratton mower {n}" for n in range(6)),
    *(f"삼성 드럼 세탁기 {n}kg" for n in range(12)),
    *(f"무선 이어폰 케이스 {n}" for n in range(12)),
    *(f"Молоко Простоквашино {n} л" for n in range(12)),
    *(f"Стиральный порошок {n} кг" for n in range(12)),
]


@pytest.fixture(scope="module")
def corrector():
    return SpellingCorrector(WordCounts.of(TITLES))


def test_words_keep_their_places_and_are_normalised():
    assert words("L’Oréal  ＡＢＣ-1/2") == [
        Word("l'oréal", 0, 7),
        Word("abc", 9, 12),
        Word("1", 13, 14),
        Word("2", 15, 16),
    ]
    assert words(unicodedata.normalize("NFD", "세탁기 é"))[0].text == "세탁기"
    assert words("세탁ㄱ")[0].text == "세탁ㄱ"


def test_search_terms_by_script():
    assert search_terms("Men's Running shoes") == ["men", "running", "shoe"]
    assert search_terms("무선이어폰") == ["무선", "선이", "이어", "어폰"]
    assert search_terms("라면5봉") == ["라면", "5", "봉"]
    assert search_terms("красные ботинки") == ["красные", "ботинки"]


def test_letter_model_by_hand():
    # Of the one word "a": whatever the context, a letter seen once of one kind. Shortest context: two letters (a and
    # the end) of two kinds: (1 + 2/40) / 4 = 0.2625. Then (1 + 0.2625) / 2 = 0.63125, (1 + 0.63125) / 2 = 0.815625.
    assert LetterModel(["a"]).log_prob("a") == pytest.approx(2 * math.log(0.815625))


def test_language_model_by_hand():
    counts = WordCounts.of(["red hose", "red tile", "red hose", "hose"])  # three titles, one twice
    # red 2, hose 2, tile 1: N = 5, one seen once, so P(hose) = 2/6. After red: hose 1, tile 1, two kinds: trust 2/4.
    assert math.exp(counts.log_prob("hose", "red")) == pytest.approx(0.5 * 0.5 + 0.5 * 2 / 6)
    # An unseen plural has a fifth of it; an unseen word next to nothing.
    assert counts.log_prob("hoses", "red") - counts.log_prob("hose", "red") == pytest.approx(math.log(0.2))
    assert counts.log_prob("hosz", "red") < counts.log_prob("hoses", "red") - 3


def test_numbers_are_one_word_of_the_context():
    counts = WordCounts.of([f"{n} volt drill" for n in range(5)])
    assert counts.log_prob("volt", "777") == counts.log_prob("volt", "3")
    assert "3" not in counts.words


def test_plurals_are_only_taken_for_such_where_they_may_be():
    assert other_number("faucets") == "faucet" and other_number("faucet") == "faucets"
    assert other_number("glass") is None and other_number("bus") is None and other_number("плиты") is None


def test_near_words_within_two_edits():
    near = NearWords(["faucet", "facet", "fauna", "세탁기", "closet"])
    assert set(near.near("faucwt")) >= {"faucet"}
    assert "closet" not in set(near.near("faucwt"))
    assert list(near.near("세탁긔")) == ["세탁기"]  # one key in Hangul, though a whole syllable differs
    assert "facet" not in set(near.near("faucwt", edits=1))


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("kitchen faucwt", "kitchen faucet"),
        ("Kitchen  FAUCWT, 3/4 in", "Kitchen  faucet, 3/4 in"),  # what is right stays as written
        ("garden host 50", "garden host 50"),  # a word of the catalogue: see below
        ("restaurant host stand", "restaurant host stand"),
        ("briggsstratton mower", "briggs stratton mower"),
        ("fau cet", "faucet"),
        ("세탁긔", "세탁기"),
        ("무선 이어펀 케이스", "무선 이어폰 케이스"),
        ("малако", "молоко"),
        ("vjkjrj", "молоко"),  # the Latin layout was on
        ("dltkrrl", "dltkrrl"),  # no word in any layout
        ("kitchen faucets", "kitchen faucets"),  # the catalogue has the singular alone
        ("phifer screen", "phifer screen"),  # a brand that the catalogue has not
        ("ge12v bulb 60 wat", "ge12v bulb 60 wat"),  # too short to tell
        ("", ""),
        ("!!", "!!"),
    ],
)
def test_corrections(corrector, query, meant):
    assert corrector(query) == meant


def test_known_words_may_be_changed_where_they_are_allowed_to():
    bold = SpellingCorrector(WordCounts.of(TITLES), options=SpellingOptions(margin=1, known_margin=1))
    assert bold("garden host 50") == "garden hose 50"
    assert bold("restaurant host stand") == "restaurant host stand"


def test_changes_say_what_was_replaced_and_how_sure_it_is(corrector):
    correction = corrector.correct("kitchen faucwt")
    assert correction.changes == (Change(8, 14, "faucet"),)
    assert correction.log_odds > 5
    untouched = corrector.correct("kitchen faucet")
    assert untouched.changes == () and untouched.log_odds < 0


def test_brands_stay_and_margins_hold_back():
    counts = WordCounts.of(TITLES)
    assert SpellingCorrector(counts)("ceramik tile") == "ceramic tile"
    kept = SpellingCorrector(counts, find_brands=lambda query: [(0, 7)])
    assert kept("ceramik tile") == "ceramik tile"
    careful = SpellingCorrector(counts, options=SpellingOptions(margin=50))
    assert careful("ceramik tile") == "ceramik tile"
    assert careful.correct("ceramik tile").log_odds > 2  # it saw the change, and was not sure enough
