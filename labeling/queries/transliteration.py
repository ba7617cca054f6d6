"""Brand names across scripts: Cyrillic and Hangul in Latin letters, and a key under which spellings by ear agree.

Russian follows BGN/PCGN without its signs; Korean the Revised Romanization letter by letter, without its sound changes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from distill.labeling.queries.hangul import LEADS, TAILS, VOWELS, is_syllable


def _table(letters: Sequence[str], latin: str) -> dict[str, str]:
    """Latin by letter; ``_`` stands for nothing."""
    return {letter: part.replace("_", "") for letter, part in zip(letters, latin.split(), strict=True)}


_RUSSIAN = _table(
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "a b v g d e e zh z i i k l m n o p r s t u f kh ts ch sh shch _ y _ e yu ya",
)
_LEADS = tuple(_table(LEADS, "g kk n d tt r m b pp s ss _ j jj ch k t p h").values())
_VOWELS = tuple(_table(VOWELS, "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i").values())
_TAILS = tuple(_table(TAILS, "_ k k k n n n t l k m l l l p l m p p t t ng t t k t p t").values())
_FIRST_SYLLABLE = 0xAC00
# What ears confuse and scripts cannot tell apart, longest first.
_FOLDS = (
    *(("shch", "s"), ("sch", "s"), ("sh", "s"), ("ch", "s"), ("kh", "h"), ("gh", "g"), ("ph", "p"), ("th", "t")),
    *(("ck", "k"), ("x", "ks"), ("qu", "kv"), ("c", "k"), ("q", "k"), ("f", "p"), ("v", "b"), ("w", "b")),
    *(("zh", "j"), ("z", "j"), ("r", "l")),
)
_VOWEL_RUN = re.compile("[aeiouy]+")
_REPEATED = re.compile(r"(.)\1+")


def romanised(text: str) -> str:
    """A casefolded text with Cyrillic and Hangul in Latin letters, without accents; other scripts stay."""
    letters = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        if is_syllable(character):
            lead_vowel, tail = divmod(ord(character) - _FIRST_SYLLABLE, len(TAILS))
            lead, vowel = divmod(lead_vowel, len(VOWELS))
            letters += [_LEADS[lead], _VOWELS[vowel], _TAILS[tail]]
        elif character in _RUSSIAN:
            letters.append(_RUSSIAN[character])
        else:
            plain = unicodedata.normalize("NFD", character)
            letters.append("".join(mark for mark in plain if not unicodedata.combining(mark)))
    return "".join(letters)


def sound_key(text: str) -> str:
    """A key that a name and its spelling by ear in another script mostly share.

    Consonants that are confused count as one (``f`` and ``p``, ``v`` and ``b``, ``r`` and ``l``), each run of vowels as
    one vowel, doubled letters as one; the filler vowel 으, with which Hangul parts consonants, falls out. Both ``nike``
    and ``나이키`` give ``naka``. Many other words may share a short key: take a match for a hint, and only where it
    is the only one.
    """
    key = romanised(text).replace("seu", "s").replace("teu", "t").replace("keu", "k").replace("deu", "d")
    key = re.sub(r"[^\w]|_", "", key.replace("geu", "g").replace("peu", "p").replace("heu", "h"))
    for sound, folded in _FOLDS:
        key = key.replace(sound, folded)
    return _REPEATED.sub(r"\1", _VOWEL_RUN.sub("a", key))
