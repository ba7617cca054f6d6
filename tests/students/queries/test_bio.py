"""Spans to marks of word pieces and back, whatever the script and the pieces."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from distill.students.queries.bio import Marked, marks_of, spans_of

TEXTS = [
    ("나이키 운동화 270", (0, 3)),
    ("молоко Простоквашино 2.5%", (7, 20)),
    ("😀👍🏽 acme лампа", (4, 8)),
    ("나이키", (0, 3)),
    ("lamp 아디다스", (5, 9)),
]


def _bytes() -> Tokenizer:
    """A piece a byte: a syllable is three pieces, an emoji four, all of the same character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _jamo() -> Tokenizer:
    """As uncased BERT: syllables come apart into jamo before they are pieces, or are one unknown word."""
    letters = "나이ᄏ운acmelp"
    words = {"[UNK]": 0} | {piece: n for n, piece in enumerate([*letters, *(f"##{x}" for x in letters)], start=1)}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.mark.parametrize("tokenizer", [_bytes(), _jamo()], ids=["bytes", "jamo"])
@pytest.mark.parametrize(("text", "place"), TEXTS)
def test_a_span_comes_back_as_it_was(tokenizer: Tokenizer, text: str, place: tuple[int, int]) -> None:
    offsets = [(-1, -1), *tokenizer.encode(text).offsets, (-1, -1)]
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    marks = marks_of([Marked(*place, 0)], starts=starts, ends=ends, types=1)
    assert spans_of(marks.argmax(axis=1).tolist(), text, starts=starts, ends=ends) == [Marked(*place, 0)]


def test_marks_are_distributions_with_the_support_behind_them() -> None:
    marks = marks_of([Marked(0, 4, 1, 0.75)], starts=[-1, 0, 2, 5, -1], ends=[-1, 2, 4, 9, -1], types=2)
    # outside, begin and inside of the first type, begin and inside of the second
    assert marks.tolist() == [
        [1, 0, 0, 0, 0],
        [0.25, 0, 0, 0.75, 0],
        [0.25, 0, 0, 0, 0.75],
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    assert np.allclose(marks.sum(axis=1), 1.0)


def test_spans_beside_each_other_stay_two_and_a_lost_begin_begins() -> None:
    places = {"starts": [0, 2, 4, 6], "ends": [2, 4, 6, 8]}
    # begin, begin, outside, inside
    assert spans_of([1, 1, 0, 2], "aabbccdd", **places) == [Marked(0, 2, 0), Marked(2, 4, 0), Marked(6, 8, 0)]
    assert spans_of([1, 2, 4, 2], "aabbccdd", **places) == [Marked(0, 4, 0), Marked(4, 6, 1), Marked(6, 8, 0)]


def test_a_span_neither_begins_nor_ends_with_white_space() -> None:
    assert spans_of([1], " acme ", starts=[0], ends=[6]) == [Marked(1, 5, 0)]
    assert spans_of([1], "  ", starts=[0], ends=[2]) == []
