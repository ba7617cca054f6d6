"""Words that spans are marked on: their places, pieces and letters, and what a head makes of them."""

import numpy as np
import pytest
import torch

from distill.students.queries.bio import Marked, marked_places, marks_of, spans_of
from distill.students.queries.span_head import WordMarks
from distill.students.queries.span_words import (
    BEGIN,
    END,
    OTHER,
    PADDING,
    WORD_LETTERS,
    WordReader,
    word_places,
    words_fit,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kellogg's corn  flakes", ["kellogg's", "corn", "flakes"]),
        ("coca-cola 1.5l", ["coca", "-", "cola", "1", ".", "5l"]),
        ("dr. brown", ["dr", ".", "brown"]),
        ("나이키 nike운동화", ["나", "이", "키", "nike", "운", "동", "화"]),
        ("молоко Простоквашино", ["молоко", "Простоквашино"]),
        ("cafe\u0301 ☕", ["cafe\u0301", "☕"]),
        (" \t", []),
    ],
)
def test_words_are_runs_of_letters_and_every_other_sign(text: str, words: list[str]) -> None:
    assert [text[place.start : place.end] for place in word_places(text)] == words


def test_spans_within_words_are_noticed() -> None:
    texts = [("acme lamp", [(0, 4)]), ("acmelamp", [(0, 4)]), ("lamp", [])]
    assert words_fit(texts, least=0.5)
    assert not words_fit(texts, least=0.51)
    assert words_fit([("lamp", [])], least=1.0)


def test_a_word_knows_its_pieces_and_letters() -> None:
    reader = WordReader(["a", "c"])
    # [CLS] ac ##me - lamp [SEP]; the text was cut before "x".
    found = reader.read("acme-lamp x", starts=[-1, 0, 2, 4, 5, -1], ends=[-1, 2, 4, 5, 9, -1])
    assert found["word_starts"] == [0, 4, 5, 10]
    assert found["word_ends"] == [4, 5, 9, 11]
    assert found["word_first"] == [1, 3, 4, -1]
    assert found["word_last"] == [2, 3, 4, -1]
    letters = np.array(found["word_letters"]).reshape(4, WORD_LETTERS)
    assert letters[0].tolist() == [BEGIN, 4, 5, OTHER, OTHER, END, *[PADDING] * (WORD_LETTERS - 6)]
    assert reader.size == 6


def test_long_words_keep_their_end_and_texts_without_words_are_outside() -> None:
    reader = WordReader(["a"])
    assert reader.spelled("a" * 50) == [BEGIN, *[4] * (WORD_LETTERS - 2), END]
    nothing = reader.read("  ", starts=[-1, -1], ends=[-1, -1])
    starts, ends = marked_places(nothing)
    assert marks_of([], starts=starts, ends=ends, types=1).tolist() == [[1, 0, 0]]
    assert spans_of([1], "  ", starts=starts, ends=ends) == []


def test_a_span_comes_back_from_words() -> None:
    text = "lamp coca-cola"
    example = WordReader([]).read(text, starts=[-1, 0, 5, -1], ends=[-1, 4, 14, -1])
    starts, ends = marked_places(example)
    marks = marks_of([Marked(5, 14, 0)], starts=starts, ends=ends, types=1)
    assert marks.argmax(axis=1).tolist() == [0, 1, 2, 2]
    assert spans_of(marks.argmax(axis=1).tolist(), text, starts=starts, ends=ends) == [Marked(5, 14, 0)]


def test_a_word_is_scored_alike_whatever_stands_beside_its_row() -> None:
    torch.manual_seed(0)
    head = WordMarks(8, 1, letters=6, names=False, dropout=0.0).eval()
    states = torch.randn(2, 5, 8)
    letters = torch.tensor([WordReader(["a", "c"]).spelled(word) for word in ("ac", "ca", "a")])
    first = torch.tensor([[1, 2, 4], [1, -1, -1]])
    last = torch.tensor([[1, 3, 4], [2, -1, -1]])
    spelled = torch.stack(
        [letters, torch.stack([letters[1], torch.zeros_like(letters[1]), torch.zeros_like(letters[1])])]
    )
    both = head(states, first, last, spelled)
    assert both.shape == (2, 3, 3)
    alone = head(states[1:, :4], first[1:, :1], last[1:, :1], spelled[1:, :1])
    assert torch.allclose(both[1, :1], alone[0], atol=1e-6)
    # The second word of the first row is the mean of pieces 2 and 3: exchanging them changes nothing.
    turned = states.clone()
    turned[0, [2, 3]] = states[0, [3, 2]]
    assert torch.allclose(both, head(turned, first, last, spelled), atol=1e-6)
    # Its letters are of account.
    assert not torch.allclose(both[0], head(states, first, last, spelled.flip(1))[0], atol=1e-3)


def test_names_of_a_list_are_told_of_words() -> None:
    reader = WordReader([], find_names=lambda text: [(5, 14), (18, 22)])
    #                    lamp coca - cola by acme
    found = reader.read("lamp coca-cola by acme", starts=[-1], ends=[-1])
    assert found["word_names"] == [0, 1, 2, 2, 0, 1]
    assert reader.read(" ", starts=[-1], ends=[-1])["word_names"] == [0]
    torch.manual_seed(0)
    head = WordMarks(8, 1, letters=reader.size, names=True, dropout=0.0).eval()
    assert head.reads[-1] == "word_names"
    places = torch.full((1, 2), -1)
    letters = torch.tensor([[reader.spelled("a"), reader.spelled("b")]])
    plain, named = (
        head(torch.zeros(1, 3, 8), places, places, letters, torch.tensor([own])) for own in ([0, 0], [1, 0])
    )
    assert not torch.allclose(plain, named)
