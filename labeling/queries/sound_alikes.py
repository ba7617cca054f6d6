"""Spellings that sound alike, by which words are misspelled in English, Russian and Korean.

Each rule rewrites a run of letters; Hangul is in keys (:mod:`distill.labeling.queries.hangul`). English: the classes
that lists of common misspellings show (doubled letters are a rate of their own). Russian: unstressed vowels, voiced
and voiceless ends, the soft sign, жи/ши. Korean: ㅐ/ㅔ and ㅙ/ㅚ/ㅞ, which most speakers no longer tell apart; plain,
tense and aspirated consonants; vowels of loan words (초콜릿/초콜렛, 주스/쥬스, 텔레비전/텔레비젼).
"""

from __future__ import annotations

from functools import cache

from distill.labeling.queries.hangul import keystrokes

_PAIRS = """
a:e e:a e:i i:e a:o o:u u:o i:y y:ie y:i ie:ei ei:ie ai:a ea:e ea:ee ee:ea ee:ie ou:o oo:u au:a au:o eu:u ui:i
ph:f f:ph c:k k:c c:s s:c ck:k k:ck qu:kw x:ks s:z z:s g:j j:g gh:g wh:w h: sc:s kn:n wr:r
er:or or:er er:ar ar:er er:re le:el el:le al:el tion:sion sion:tion ant:ent ent:ant ance:ence ence:ance able:ible
ible:able our:or or:our ey:y ch:tch tch:ch ght:t
о:а а:о е:и и:е я:е е:я э:е е:ё ё:е ы:и и:ы й:и тся:ться ться:тся г:в б:п п:б д:т т:д з:с с:з ж:ш ш:ж
жи:жы ши:шы чк:чьк ь: ъ:ь щ:ш сч:щ тс:ц
ㅐ:ㅔ ㅔ:ㅐ ㅒ:ㅖ ㅖ:ㅒ ㅖ:ㅔ ㅗㅐ:ㅗㅣ ㅗㅣ:ㅗㅐ ㅗㅣ:ㅜㅔ ㅜㅔ:ㅗㅣ ㅗㅐ:ㅜㅔ ㅜㅔ:ㅗㅐ ㅡㅣ:ㅣ ㅡㅣ:ㅔ
ㄱ:ㄲ ㄲ:ㄱ ㄷ:ㄸ ㄸ:ㄷ ㅂ:ㅃ ㅃ:ㅂ ㅅ:ㅆ ㅆ:ㅅ ㅈ:ㅉ ㅉ:ㅈ ㄱ:ㅋ ㅋ:ㄱ ㄷ:ㅌ ㅌ:ㄷ ㅂ:ㅍ ㅍ:ㅂ ㅈ:ㅊ ㅊ:ㅈ
ㅣ:ㅔ ㅔ:ㅣ ㅓ:ㅕ ㅕ:ㅓ ㅜ:ㅠ ㅠ:ㅜ ㅏ:ㅑ ㅗ:ㅛ ㅓ:ㅗ ㅗ:ㅓ ㅏ:ㅓ
"""


@cache
def sound_alikes() -> dict[str, tuple[tuple[str, str], ...]]:
    """Rules by the first letter of what they rewrite: pairs of what is meant and what is written."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for pair in _PAIRS.split():
        meant, written = map(keystrokes, pair.split(":"))
        rules.setdefault(meant[0], []).append((meant, written))
    return {first: tuple(found) for first, found in rules.items()}
