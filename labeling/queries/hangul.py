"""Hangul as it is typed: syllables to keystrokes of the two-set (2-beolsik) keyboard and back.

By the arithmetic of the Unicode Standard, section 3.12: a syllable is ``U+AC00 + (lead · 21 + vowel) · 28 + tail``. On
the two-set keyboard compound vowels (ㅘ = ㅗ ㅏ) and compound tails (ㄳ = ㄱ ㅅ) are two keys; doubled consonants (ㄲ)
are one, with shift. A typo is a slip between keys, not between syllables: 안녕 is
ㅇㅏㄴㄴㅕㅇ, and without its third key 아녕.
"""

from __future__ import annotations

import re
from functools import lru_cache

LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
TAILS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
_FIRST, _LAST = 0xAC00, 0xD7A3
_COMPOUND_VOWELS = {"ㅘ": "ㅗㅏ", "ㅙ": "ㅗㅐ", "ㅚ": "ㅗㅣ", "ㅝ": "ㅜㅓ", "ㅞ": "ㅜㅔ", "ㅟ": "ㅜㅣ", "ㅢ": "ㅡㅣ"}
_COMPOUND_TAILS = {
    **{"ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ"},
    **{"ㄽ": "ㄹㅅ", "ㄾ": "ㄹㅌ", "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ"},
}
_KEYS = {**_COMPOUND_VOWELS, **_COMPOUND_TAILS}
_JAMO_OF_KEYS = {keys: jamo for jamo, keys in _KEYS.items()}
_VOWEL_KEYS = "".join(vowel for vowel in VOWELS if vowel not in _COMPOUND_VOWELS)
_TAIL_KEYS = "".join(tail for tail in TAILS if tail and tail not in _COMPOUND_TAILS)
# A consonant before a vowel opens the next syllable, so that it is no tail: what an input method does.
_SYLLABLE = re.compile(
    rf"([{LEADS}])({'|'.join(_COMPOUND_VOWELS.values())}|[{_VOWEL_KEYS}])"
    rf"((?:{'|'.join(_COMPOUND_TAILS.values())}|[{_TAIL_KEYS}])(?![{_VOWEL_KEYS}]))?"
)


def is_syllable(character: str) -> bool:
    """Whether a character is a composed Hangul syllable."""
    return _FIRST <= ord(character) <= _LAST


@lru_cache(maxsize=65_536)
def keystrokes(text: str) -> str:
    """A text as the keys that type it, one character a key; what is not Hangul stays.

    ``keystrokes("닭갈비") == "ㄷㅏㄹㄱㄱㅏㄹㅂㅣ"``.
    """
    return "".join(map(_keys, text))


def composed(keys: str) -> str:
    """What an input method makes of keys: syllables where they form some, single letters where they do not."""
    return _SYLLABLE.sub(_syllable, keys)


def _keys(character: str) -> str:
    if not is_syllable(character):
        return _KEYS.get(character, character)
    lead_vowel, tail = divmod(ord(character) - _FIRST, len(TAILS))
    lead, vowel = divmod(lead_vowel, len(VOWELS))
    return LEADS[lead] + "".join(_KEYS.get(jamo, jamo) for jamo in (VOWELS[vowel], TAILS[tail]))


def _syllable(match: re.Match[str]) -> str:
    vowel, tail = (_JAMO_OF_KEYS.get(keys, keys) for keys in (match[2], match[3] or ""))
    place = (LEADS.index(match[1]) * len(VOWELS) + VOWELS.index(vowel)) * len(TAILS) + TAILS.index(tail)
    return chr(_FIRST + place)
