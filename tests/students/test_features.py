import subprocess
import sys
import zlib

import numpy as np
import polars as pl

from distill.students.features import MAX_FEATURES, dense_names, hash_rows, slot_names

INPUTS = ["query", "title", "brand"]
ROW = pl.DataFrame({"query": ["red lamp"], "title": ["Lamp, 빨강"], "brand": [""]})


def test_buckets_are_the_checksum_of_slot_and_feature() -> None:
    (slots,) = hash_rows(ROW, inputs=INPUTS, buckets=1000).slots
    salt = zlib.crc32(b"query:words")
    # One- and two-word features of the query.
    expected = [zlib.crc32(feature, salt) % 1000 for feature in (b"red", b"lamp", b"red lamp")]
    assert slots[slot_names(INPUTS).index("query:words")].tolist() == expected
    assert slots[slot_names(INPUTS).index("brand:words")].tolist() == []


def test_features_are_the_same_in_another_process() -> None:
    code = (
        "import polars as pl; from distill.students.features import hash_rows\n"
        "row = pl.DataFrame({'query': ['red lamp'], 'title': ['Lamp, 빨강'], 'brand': ['']})\n"
        "hashed = hash_rows(row, inputs=['query', 'title', 'brand'], buckets=1000)\n"
        "print([slot.tolist() for slot in hashed.slots[0]], hashed.dense.tolist())"
    )
    here = hash_rows(ROW, inputs=INPUTS, buckets=1000)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == f"{[slot.tolist() for slot in here.slots[0]]} {here.dense.tolist()}"


def test_shapes_follow_the_names() -> None:
    for inputs in (INPUTS, ["query"]):
        hashed = hash_rows(ROW, inputs=inputs, buckets=64)
        assert len(hashed.slots[0]) == len(slot_names(inputs))
        assert hashed.dense.shape == (1, len(dense_names(inputs)))
        assert hashed.dense.dtype == np.float32
        assert all(slot.dtype == np.int64 and (slot < 64).all() for slot in hashed.slots[0])


def test_huge_cells_and_odd_characters_are_bounded() -> None:
    odd = pl.DataFrame({"query": ["😀 \x00 lamp"], "title": ["word" + " x1y2" * 100_000], "brand": [None]})
    hashed = hash_rows(odd, inputs=INPUTS, buckets=64)
    assert max(map(len, hashed.slots[0])) <= MAX_FEATURES
    assert np.isfinite(hashed.dense).all()
