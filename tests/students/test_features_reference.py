"""What students read of a row, beside the plainest way of writing it down: the fast one must give the same numbers."""

import random
import zlib
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from distill.students.features import hash_rows, slot_names
from distill.students.matching import match_features, match_words, normalise, words
from distill.students.wide import wide_features

INPUTS = ["query", "title", "description"]


def _trigrams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _likeness(word: str, fields: list[str]) -> float:
    if any(word in normalise(field) for field in fields):
        return 1.0
    others = {other for field in fields for other in words(normalise(field))}
    return max((_jaccard(_trigrams(word), _trigrams(other)) for other in others), default=0.0)


def _features_of_matches(query: str, fields: list[str]) -> list[float]:
    asked = list(dict.fromkeys(words(normalise(query))))
    count, wanted = max(1, len(asked)), _trigrams(normalise(query))
    found = {word: [word in normalise(field) for field in fields] for word in asked}
    numbers = []
    for place, field in enumerate(fields):
        numbers += [
            sum(word in words(normalise(field)) for word in asked) / count,
            sum(found[word][place] for word in asked) / count,
            len(wanted & _trigrams(normalise(field))) / max(1, len(wanted)),
        ]
    missing = [word for word in asked if not any(found[word])]
    likeness = [_likeness(word, fields) for word in asked] or [0.0]
    low = sorted(likeness)
    numbers += [len(missing) / count, low[0], low[min(1, len(low) - 1)], sum(low) / len(low), likeness[0], likeness[-1]]
    digits = sum(word[0].isdigit() for word in asked)
    return [*numbers, digits / count, sum(word[0].isdigit() for word in missing) / count]


def _text_slots(text: str) -> list[list[str]]:
    found = words(normalise(text))
    pieces = {piece for word in found for piece in _trigrams(word)}
    return [list(dict.fromkeys([*found, *map(" ".join, pairwise(found))]))[:128], sorted(pieces)[:128]]


def _match_slots(query: str, fields: list[str]) -> list[list[str]]:
    matches = match_words(query, fields)
    last = words(normalise(fields[0]))[-3:]
    places: list[str] = []
    for match in matches:
        held = [column for column, part in zip(INPUTS[1:], match.part, strict=True) if part]
        if held:
            places += ["in " + " ".join(held), *(f"{match.word} in {column}" for column in held)]
        else:
            near = sum(match.likeness >= edge for edge in (0.05, 0.2, 0.3, 0.45, 0.6))
            places += [f"likeness {near}", f"{'number' if match.word[0].isdigit() else 'word'} missing"]
    return [
        [match.word for match in matches if any(match.part)],
        [match.word for match in matches if not any(match.part)],
        places[:128],
        [f"{match.word}|{word}" for match in matches for word in last][:128],
    ]


def _bucket(feature: str, slot: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "surrogatepass"), zlib.crc32(slot.encode())) % 4096


def _rows() -> pl.DataFrame:
    draw = random.Random(0)
    some = [f"{a}{b}{c}{draw.choice(['', 's', '12', 'er'])}" for a in "bdlm" for b in "aei" for c in ("mp", "nd", "d2")]
    odd = ["", "Ｒｅｄ ｌａｍｐ", "빨간 램프 6인용", "café 12.5in", "x" * 90, "<b>red</b> lamps!", "red red red lamp"]
    rows = [[query, title, ""] for query in odd for title in odd]
    rows += [[" ".join(draw.choices(some, k=count)) for count in (3, 8, 400)] for _ in range(30)]
    return pl.DataFrame(rows, schema=dict.fromkeys(INPUTS, pl.String), orient="row")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return _rows()


def test_match_features_are_those_of_the_plain_way(rows: pl.DataFrame) -> None:
    for query, *fields in rows.iter_rows():
        assert list(match_features(query, fields)) == _features_of_matches(query, fields), (query, fields)
        for match in match_words(query, fields):
            assert match.likeness == _likeness(match.word, fields)


def test_buckets_are_those_of_the_plain_way(rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer together than there are rows, so that stretches are put together too.
    monkeypatch.setattr("distill.students.features._TOGETHER", 50)
    hashed, names = hash_rows(rows, inputs=INPUTS, buckets=4096), slot_names(INPUTS)
    for slots, (query, *fields) in zip(hashed.slots, rows.iter_rows(), strict=True):
        texts = (query, *(field[:2000] for field in fields))
        expected = [slot for text in texts for slot in _text_slots(text)] + _match_slots(query, list(texts[1:]))
        for name, features in zip(names, expected, strict=True):
            assert slots[names.index(name)].tolist() == [_bucket(feature, name) for feature in features], name


def test_half_a_surrogate_pair_is_hashed_alone(rows: pl.DataFrame) -> None:
    from distill.students.features import _hash

    found = _hash(["lamp", "\ud800"], zlib.crc32(b"query:words"), 4096)
    assert found.tolist() == [_bucket("lamp", "query:words"), _bucket("\ud800", "query:words")]
    assert found.dtype == np.int64


def test_stretches_of_rows_give_the_linear_model_the_same(rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = wide_features(rows, INPUTS)
    monkeypatch.setattr("distill.students.wide._TOGETHER", 7)
    np.testing.assert_array_equal(wide_features(rows, INPUTS), whole)
    assert whole.tolist() == [_features_of_matches(query, fields) for query, *fields in _cut(rows)]
    assert wide_features(rows.clear(), INPUTS).shape == (0, whole.shape[1])


def _cut(rows: pl.DataFrame) -> list[list[str]]:
    return [[text[:2000] for text in row] for row in rows.iter_rows()]
