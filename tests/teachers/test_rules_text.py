import pytest

from distill.teachers.quantities import quantities
from distill.teachers.rules_text import normalised, shared_part, tokens, word_finder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Olive oil 500 ml", [("volume", 500)]),
        ("Olive oil 0.5L", [("volume", 500)]),
        ("Olive oil 0,5 litre", [("volume", 500)]),
        ("올리브유 500밀리", [("volume", 500)]),
        ("세제 1.5리터짜리", [("volume", 1500)]),  # with a particle behind
        ("１Ｌ 생수", [("volume", 1000)]),  # full-width
        ("5-qt pot", [("volume", 5 * 946.353)]),
        ("8 fl oz", [("volume", 8 * 29.5735)]),
        ("8 oz", [("mass", 8 * 28.3495)]),
        ("1,200 g", [("mass", 1200)]),
        ('13.3" laptop', [("length", 13.3 * 25.4)]),
        ("14in sleeve", [("length", 14 * 25.4)]),
        ("2 in 1 tablet", []),
        ("4G phone", []),
        ("40 g", [("mass", 40)]),
        ("256GB", [("storage", 256)]),
        ("1 TB", [("storage", 1024)]),
        ("2-pack", [("count", 2)]),
        ("pack of 6", [("count", 6)]),
        ("물티슈 10팩", [("count", 10)]),
        ("오메가3 rtg 180캡슐", [("count", 180)]),
        ("6 x 330 ml", [("volume", 330), ("volume", 1980)]),
        ("330ml x 6", [("volume", 330), ("volume", 1980)]),
        ("60 x 48 in", [("length", 48 * 25.4), ("length", 60 * 25.4)]),
        ("model x500mlb", []),
        ("no number ml", []),
    ],
)
def test_quantities_are_brought_to_one_unit(text, found):
    assert [(one.dimension, pytest.approx(one.amount)) for one in quantities(text)] == found


def test_a_range_is_met_by_what_lies_in_it():
    (rod,) = quantities("curtain rod 66-120 in")
    assert (rod.amount, rod.most) == (pytest.approx(66 * 25.4), pytest.approx(120 * 25.4))
    (inside,), (outside,) = quantities("84 inch"), quantities("140 inch")
    assert rod.meets(inside, tolerance=0) and not rod.meets(outside, tolerance=0.02)
    (half,), (litre,) = quantities("500 ml"), quantities("0.505 l")  # 1% apart
    assert litre.meets(half, tolerance=0.02) and not litre.meets(half, tolerance=0.005)
    (grams,) = quantities("500 g")
    assert not grams.meets(half, tolerance=0.5)


def test_only_the_kinds_that_are_wanted():
    assert [one.dimension for one in quantities("2 pack 500 ml", ["count"])] == ["count"]


def test_tokens_are_of_one_kind_and_lose_their_plural():
    assert tokens(normalised("Men's Shoes 라면5봉 GLASS")) == ["men", "s", "shoe", "라면", "5", "봉", "glass"]


def test_the_share_of_the_query_that_is_there():
    assert shared_part("red shoes", "a red shoe of leather") == 1.0
    assert shared_part("red shoes", "a shoebox") == 0.0
    # 방수 and 매트리스커버 of three: written apart in the listing it is the same word.
    assert shared_part("퀸 방수 매트리스커버", "방수 매트리스 커버") == pytest.approx(2 / 3)
    assert shared_part("!!", "anything") is None


@pytest.mark.parametrize(
    ("words", "boundary", "text", "found"),
    [
        (["case"], "auto", "phone case for p5", True),
        (["case"], "auto", "showcase", False),
        (["case"], "none", "showcase", True),
        (["케이스"], "auto", "카드케이스를", True),
        (["케이스"], "word", "카드케이스를", False),
        (["STRAẞE"], "auto", "Straße 5", True),
        (["ｃａｓｅ"], "auto", "case", True),
        (["c++"], "auto", "learn c++ fast", True),
        (["screen protector"], "auto", "Screen  Protector 3x", True),
        (["a.b"], "auto", "axb", False),
    ],
)
def test_words_are_found_as_words(words, boundary, text, found):
    assert bool(word_finder(words, boundary).search(normalised(text))) is found
