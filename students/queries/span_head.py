"""The torch side of spans that are marked on words: what a word looks like, and what the trunk makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.students.queries.span_words import NAME_GOES_ON, PADDING, WORD_LETTERS

WORD_INPUTS = ("word_first", "word_last", "word_letters", "word_names")
_LETTER_WIDTH = 48
_SPELLING_WIDTH = 128
_WORD_WIDTH = 256
_LETTERS_AROUND = 2
_WORDS_AROUND = 1
_MOSTLY_OUTSIDE = 2.5
"""First score of being in no span, which most words are in, so that the first steps are not spent on learning that."""


class WordMarks(nn.Module):
    """Scores of the marks of every word: pieces' states ``[B, T, D]`` to ``[B, W, 1 + 2 * types]``.

    A word is the mean state of its pieces, beside what a convolution over its letters found (Ma & Hovy 2016,
    https://arxiv.org/abs/1603.01354): names that a tokenizer knows only in pieces are told by their letters. A layer
    of convolution over words lets each see the words beside it.

    Args:
        width: Of the trunk's states.
        types: How many there are.
        letters: Rows of the letters' embedding; 0 is padding.
        names: Whether each word comes with what a list of names says of it.
        dropout: On the states, the spelling, and the words.
    """

    def __init__(self, width: int, types: int, *, letters: int, names: bool, dropout: float) -> None:
        super().__init__()
        self.reads = WORD_INPUTS if names else WORD_INPUTS[:-1]
        self.letters = nn.Embedding(letters, _LETTER_WIDTH, padding_idx=PADDING)
        # Convolutions written as products: INT8 exports quantise products, and CPUs are no slower at them.
        self.spelling = nn.Linear((2 * _LETTERS_AROUND + 1) * _LETTER_WIDTH, _SPELLING_WIDTH)
        self.joined = nn.Linear(width + _SPELLING_WIDTH, _WORD_WIDTH)
        self.names = nn.Embedding(1 + NAME_GOES_ON, _WORD_WIDTH) if names else None
        self.norm = nn.LayerNorm(_WORD_WIDTH)
        self.around = nn.Linear((2 * _WORDS_AROUND + 1) * _WORD_WIDTH, _WORD_WIDTH)
        self.score = nn.Linear(_WORD_WIDTH, 1 + 2 * types)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.score.bias.zero_()
            self.score.bias[0] = _MOSTLY_OUTSIDE

    def forward(
        self, states: Tensor, first: Tensor, last: Tensor, letters: Tensor, names: Tensor | None = None
    ) -> Tensor:
        """See the class.

        Args:
            states: ``[B, T, D]``.
            first: ``[B, W]``, the first piece of each word; -1 for none.
            last: ``[B, W]``, its last one.
            letters: ``[B, W, L]``; words of padding alone are padding.
            names: ``[B, W]``, whether a name of the list begins or goes on at each word; with a list.
        """
        piece = torch.arange(states.shape[1], device=states.device)
        own = ((piece >= first.unsqueeze(-1)) & (piece <= last.unsqueeze(-1))).to(states.dtype)
        read = own @ self.dropout(states) / own.sum(dim=-1, keepdim=True).clamp(min=1.0)
        words = self.joined(torch.cat([read, self.dropout(self._spelled(letters))], dim=-1))
        if self.names is not None:
            words = words + self.names(names).to(words.dtype)
        real = (letters[..., :1] != PADDING).to(words.dtype)
        seen = self.around(_beside(self.norm(words) * real, reach=_WORDS_AROUND))
        scores: Tensor = self.score(self.dropout(nn.functional.gelu(words + nn.functional.gelu(seen))))
        return scores

    def _spelled(self, letters: Tensor) -> Tensor:
        """``[B, W, S]``: the greatest response of every pattern of letters in each word."""
        flat = letters.reshape(-1, WORD_LETTERS)
        seen = nn.functional.gelu(self.spelling(_beside(self.letters(flat), reach=_LETTERS_AROUND)))
        seen = seen.masked_fill((flat == PADDING).unsqueeze(-1), 0.0)
        return seen.amax(dim=1).reshape(*letters.shape[:2], _SPELLING_WIDTH)


def _beside(hidden: Tensor, *, reach: int) -> Tensor:
    """``[B, N, H]`` to ``[B, N, (2 * reach + 1) * H]``: each with those beside it, zeros beyond the ends."""
    length = hidden.shape[1]
    padded = nn.functional.pad(hidden, (0, 0, reach, reach))
    return torch.cat([padded[:, shift : shift + length] for shift in range(2 * reach + 1)], dim=-1)
