"""Parts of a query that no typo may touch and no correction may change: numbers, units, model numbers, brands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from distill.labeling.queries.query_words import has_digit, words

FindSpans: TypeAlias = Callable[[str], Iterable[tuple[int, int]]]
"""Finds spans of a text: pairs of start and end (exclusive)."""

_UNITS = (
    "mm|cm|m|km|in|inch|inches|ft|feet|foot|yd|yards?|oz|ounces?|lb|lbs|pounds?|g|gr|gram|grams|kg|mg|ml|l|liters?|"
    "litres?|gal|gallons?|qt|quarts?|pt|pints?|w|watts?|v|volts?|a|amps?|mah|hz|gb|tb|mb|btu|hp|psi|ct|pk|pcs|packs?|"
    "мм|см|м|кг|г|гр|мл|л|шт|вт|в|개|개입|매|매입|봉|팩|병|박스|세트|인용|호|인치|센치|그램|리터|미터|단|구|입"
)
_NUMBER_UNIT = re.compile(rf"(?<!\w)\d[\d.,/⁄x*×-]*\s*(?:(?:{_UNITS})(?!\w)|[\"'”’°%])", re.IGNORECASE)
# Letters that a hyphen or slash ties to a number: wd-40, rp-1274/b. Longer ones are words: 12-gauge, 3-tier.
_MODEL = re.compile(r"(?<!\w)(?:[^\W\d_]{1,3}[-/.])*\w*\d\w*(?:[-/.](?:\w*\d\w*|[^\W\d_]{1,3}(?!\w)))*")


def protected_spans(query: str, find_brands: FindSpans | None = None) -> list[tuple[int, int]]:
    """Words with a digit, numbers with their units, and brands where they can be found; sorted, without overlap.

    Args:
        query: The text.
        find_brands: For instance ``BrandDictionary(...).spans``.
    """
    spans = [(word.start, word.end) for word in words(query) if has_digit(word.text)]
    spans += [match.span() for match in _MODEL.finditer(query)]
    spans += [match.span() for match in _NUMBER_UNIT.finditer(query)]
    if find_brands is not None:
        spans += list(find_brands(query))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
