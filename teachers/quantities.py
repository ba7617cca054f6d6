"""Numbers with units in queries and listings, brought to one unit a kind: 500 ml, 0.5 L and 500밀리 are the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from distill.teachers.rules_text import normalised

# Factors to millilitre, gram, millimetre, gigabyte, watt, milliampere-hour and piece. US customary units.
_UNITS: dict[str, dict[float, str]] = {
    "volume": {
        1: "ml mls cc milliliter milliliters millilitre millilitres 밀리리터 밀리",
        10: "cl",
        100: "dl",
        1000: "l ltr liter liters litre litres 리터",
        29.5735: "fl_oz floz fluid_ounce fluid_ounces",
        946.353: "qt quart quarts 쿼트",
        3785.41: "gal gallon gallons 갤런",
    },
    "mass": {
        0.001: "mg 밀리그램",
        1: "g gr gram grams gramme grammes 그램",
        1000: "kg kgs kilo kilos kilogram kilograms 킬로그램 킬로 키로",
        28.3495: "oz ounce ounces 온스",
        453.592: "lb lbs pound pounds 파운드",
    },
    "length": {
        1: "mm millimeter millimeters millimetre millimetres 밀리미터",
        10: "cm centimeter centimeters centimetre centimetres 센티미터 센치미터 센티 센치",
        1000: "m meter meters metre metres 미터",
        25.4: 'in inch inches " ″ 인치',
        304.8: "ft foot feet 피트",
        914.4: "yd yard yards",
    },
    "storage": {0.001: "mb 메가", 1: "gb 기가", 1024: "tb 테라"},
    "power": {1: "w watt watts 와트", 1000: "kw kilowatt kilowatts"},
    "charge": {1: "mah", 1000: "ah"},
    "count": {
        1: "pack packs pk ct count counts pc pcs piece pieces capsule capsules tablet tablets sheet sheets bags pod "
        "pods 개입 개 팩 입 매 장 정 캡슐 포 봉지 봉 켤레 병 통 롤 구",
    },
}
_KNOWN = {
    unit.replace("_", " "): (dimension, factor)
    for dimension, units in _UNITS.items()
    for factor, names in units.items()
    for unit in names.split()
}
_UNIT = "|".join(re.escape(unit).replace(r"\ ", r"\s*") for unit in sorted(_KNOWN, key=lambda u: (-len(u), u)))
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?"
# Not inside a word or number; a Latin unit ends with its word, a Korean one may be followed by a particle.
_QUANTITY = re.compile(rf"(?<![\w.,])({_NUMBER})\s*-?\s*({_UNIT})(?![a-z])")
_AFTER_TIMES = re.compile(r"\s*[x×*]\s*(\d{1,3})(?![\w.,])")
_BEFORE_TIMES = re.compile(r"(?<![\w.,])(\d{1,3})\s*[x×*]\s*$")
_SIDES = re.compile(rf"(?<![\w.,])(?:(?:{_NUMBER})\s*[x×*]\s*)+$")
_RANGE_FROM = re.compile(rf"(?<![\w.,])({_NUMBER})\s*[-–~]\s*$")
_SET_OF = re.compile(r"\b(?:pack|set|box|case|lot)\s+of\s+(\d{1,4})\b")
_NETWORK = re.compile(r"[2-6]g")
_SO_MANY_IN_ONE = re.compile(r"\b\d+[ -]in[ -](?:\d+|one)\b")


class Quantity(NamedTuple):
    """A quantity in the unit of its kind: ml, g, mm, GB, W, mAh or pieces.

    Attributes:
        dimension: The kind.
        amount: How much; of a range its lower end.
        most: The upper end of a range; of anything else the same.
    """

    dimension: str
    amount: float
    most: float

    def meets(self, wanted: Quantity, *, tolerance: float) -> bool:
        """Whether it is what is wanted, within a relative difference: two ranges that touch are."""
        if self.dimension != wanted.dimension:
            return False
        return self.amount <= wanted.most * (1 + tolerance) and wanted.amount * (1 - tolerance) <= self.most


def quantities(text: str, dimensions: Collection[str] | None = None) -> list[Quantity]:
    """Finds the quantities of a text, in order.

    ``6 x 330 ml`` and ``330 ml x 6`` give 330 ml and, as one more, 1980 ml; ``60 x 48 in`` gives both lengths, and
    ``66-120 in`` a range. Left out: ``4g`` and its like written together (a network), and ``2 in 1``.

    Args:
        text: As it stands; it is normalised here.
        dimensions: Only these kinds; all by default.
    """
    return [
        found
        for found in _found(_SO_MANY_IN_ONE.sub(" ", normalised(text)))
        if dimensions is None or found.dimension in dimensions
    ]


def _found(text: str) -> Iterator[Quantity]:
    for match in _QUANTITY.finditer(text):
        number, unit = match.group(1), re.sub(r"\s+", " ", match.group(2))
        if _NETWORK.fullmatch(match.group()):
            continue
        dimension, factor = _KNOWN.get(unit) or _KNOWN[unit.replace(" ", "")]
        amount, before = _value(number) * factor, text[: match.start()]
        lowest = _RANGE_FROM.search(before)
        least = min(amount, _value(lowest.group(1)) * factor) if lowest else amount
        yield Quantity(dimension, least, amount)
        if dimension == "length":
            yield from _other_sides(before, factor)
        elif times := _AFTER_TIMES.match(text, match.end()) or _BEFORE_TIMES.search(before):
            yield Quantity(dimension, amount * int(times.group(1)), amount * int(times.group(1)))
    for match in _SET_OF.finditer(text):
        yield Quantity("count", float(match.group(1)), float(match.group(1)))


def _other_sides(before: str, factor: float) -> Iterator[Quantity]:
    """The sides of ``12 x 60 x 48 in`` that have no unit of their own."""
    if sides := _SIDES.search(before):
        for number in re.findall(_NUMBER, sides.group()):
            yield Quantity("length", _value(number) * factor, _value(number) * factor)


def _value(number: str) -> float:
    """A number with its comma: of thousands where three digits follow, else of decimals."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        return float(number.replace(",", ""))
    return float(number.replace(",", "."))
