from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.labeling.queries.hangul import composed, keystrokes
from distill.labeling.queries.keyboards import ALPHABETS, neighbours, wrong_layouts
from distill.labeling.queries.transliteration import romanised, sound_key


def test_every_syllable_is_typed_and_composed_back():
    syllables = [chr(code) for code in range(0xAC00, 0xD7A4)]
    assert [composed(keystrokes(syllable)) for syllable in syllables] == syllables


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=2, max_size=6))
def test_syllables_in_a_row_do_not_run_into_one_another(text):
    assert composed(keystrokes(text)) == text


def test_keys_of_compounds_and_what_is_not_hangul():
    # ㄺ and ㅘ are two keys each, ㄲ is one with shift
    assert keystrokes("닭과 까 x1") == "ㄷㅏㄹㄱㄱㅗㅏ ㄲㅏ x1"
    assert composed("ㅇㅏㄴㅕㅇ") == "아녕"  # 안녕 without its third key
    assert composed("ㄱㄱㅏ") == "ㄱ가"


def test_neighbours_lie_beside_one_another():
    assert neighbours("s") == "adewxz"
    assert set(neighbours("ㄱ")) == set("ㄷㅅㄹㅇㄲ")  # shift is a slip too
    assert neighbours("7") == ""
    for alphabet in ALPHABETS.values():
        for letter in alphabet:
            assert all(letter in neighbours(other) for other in neighbours(letter)), letter


def test_wrong_layouts():
    assert wrong_layouts("привет") == ["ghbdtn"]
    assert wrong_layouts("안녕") == ["dkssud"]
    assert "안녕" in wrong_layouts("dkssud") and "привет" in wrong_layouts("ghbdtn")
    assert wrong_layouts("lg 냉장고") == []  # letters of two layouts
    assert wrong_layouts("12") == []


def test_romanised():
    assert romanised("Молоко щука") == "moloko shchuka"
    assert romanised("삼성 Café") == "samseong cafe"


@pytest.mark.parametrize(
    ("name", "by_ear"),
    [("nike", "나이키"), ("adidas", "아디다스"), ("adidas", "адидас"), ("samsung", "삼성"), ("samsung", "самсунг"),
     ("philips", "필립스"), ("huggies", "хаггис"), ("nivea", "нивея")],
)  # fmt: skip
def test_names_by_ear_have_the_key_of_the_name(name, by_ear):
    assert sound_key(by_ear) == sound_key(name)


def test_other_names_have_other_keys():
    assert len({sound_key(name) for name in ("adidas", "samsung", "philips", "huggies", "starbucks", "dewalt")}) == 6
