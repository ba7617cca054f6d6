"""The torch side of an encoder for queries: a trunk that is run once, and a head for each part of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.students.queries.span_head import WordMarks

TRUNK_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LETTER_IDS, LETTER_PIECES = "letter_ids", "letter_pieces"
READING_PIECES, READING_NUMBERS = "reading_pieces", "reading_numbers"
HEAD_INPUTS = (LETTER_IDS, LETTER_PIECES, READING_PIECES, READING_NUMBERS)
_LETTER_WIDTH = 64
_TAGGER_WIDTH = 192
_TAGGER_LAYERS = 3
_KERNEL = 5
_SURE = 5.0
"""First score of what is right almost everywhere (a letter stays, a piece is in no span), so that the first steps are
not spent on learning how rare the rest is."""
_FIRST_SCALE = 20.0
_NONE = -1e4
"""Score of a reading that is not there; finite, so that half precision and INT8 hold it."""
_PRETRAINED = (".turn.weight", ".turn.bias", ".options")


class QueryModel(nn.Module):
    """Runs the trunk, and every head on what it says.

    Args:
        trunk: An encoder of transformers; a pooler that it has is taken off.
        heads: By part: :class:`Marks`, :class:`LetterTagger`, :class:`ReadingChooser` and
            :class:`~distill.students.queries.span_head.WordMarks` read the pieces' states, :class:`NamedOptions` their
            mean.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if getattr(trunk, "pooler", None) is not None:
            # Nothing reads it, and a distributed wrapper waits for the gradient of every parameter.
            trunk.pooler = None  # type: ignore[assignment]
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)

    def get_input_embeddings(self) -> Any:
        """The trunk's token embeddings."""
        find: Any = self.trunk.get_input_embeddings
        return find()

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Scores by part; shapes as the heads give them."""
        states = self.trunk(**{name: batch[name] for name in TRUNK_INPUTS if name in batch}).last_hidden_state
        pooled = mean_state(states, batch["attention_mask"])
        found = {}
        for name, head in self.heads.items():
            if isinstance(head, LetterTagger):
                found[name] = head(states, batch[LETTER_IDS], batch[LETTER_PIECES])
            elif isinstance(head, WordMarks):
                found[name] = head(states, *(batch[name] for name in head.reads))
            elif isinstance(head, ReadingChooser):
                found[name] = head(states, batch[READING_PIECES], batch[READING_NUMBERS])
            else:
                found[name] = head(states if isinstance(head, Marks) else pooled)
        return found


def is_new(name: str) -> bool:
    """Whether a parameter of a :class:`QueryModel` begins from nothing; others from what the base knows."""
    return name.startswith("heads.") and not name.endswith(_PRETRAINED)


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """``[B, D]``: mean of ``[B, T, D]`` over the tokens of a mask ``[B, T]``."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


class Marks(nn.Module):
    """Scores of the marks of every piece: ``[B, T, D]`` to ``[B, T, 1 + 2 * types]``."""

    def __init__(self, width: int, types: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1 + 2 * types)
        with torch.no_grad():
            self.score.bias.zero_()
            self.score.bias[0] = _SURE / 2

    def forward(self, states: Tensor) -> Tensor:
        """See the class."""
        scores: Tensor = self.score(self.dropout(states))
        return scores


class NamedOptions(nn.Module):
    """Scores options by how near the text is to each: ``[B, D]`` to ``[B, options]``.

    ``exp(s) * cos(W x, e_k) + b_k``. It begins from the options' own words: ``e_k`` is what the trunk makes of option
    k's name before training, and W the identity. So a trunk that places like texts near each other knows something of
    an option that few training rows have. W and ``e`` are pretrained in this way, and learn at the trunk's rate.

    Args:
        names: ``[options, D]``, the names' states.
        dropout: On ``x``.
    """

    def __init__(self, names: Tensor, *, dropout: float) -> None:
        super().__init__()
        width = names.shape[1]
        self.dropout = nn.Dropout(dropout)
        self.turn = nn.Linear(width, width)
        self.options = nn.Parameter(names.clone())
        # A row of one number, since FSDP cannot cut a scalar; students that were saved before hold one.
        self.scale = nn.Parameter(torch.tensor([_FIRST_SCALE]).log())
        self.register_load_state_dict_pre_hook(_scale_in_row)
        self.bias = nn.Parameter(torch.zeros(len(names)))
        with torch.no_grad():
            nn.init.eye_(self.turn.weight)
            self.turn.bias.zero_()

    def forward(self, state: Tensor) -> Tensor:
        """See the class."""
        turned = nn.functional.normalize(self.turn(self.dropout(state)), dim=-1)
        options = nn.functional.normalize(self.options, dim=-1)
        return self.scale.exp() * (turned @ options.T) + self.bias


def _scale_in_row(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    if f"{prefix}scale" in state:
        state[f"{prefix}scale"] = state[f"{prefix}scale"].reshape(1)


class LetterTagger(nn.Module):
    """Scores an edit at every letter: what becomes of it, and what is put behind it.

    A letter is its own embedding and the state of the piece that it is in; layers of convolution let it see its
    neighbours. ``[B, T, D]`` with letters ``[B, N]`` to ``[B, N, replace + append]``.

    Args:
        width: Of the trunk's states.
        letters: Rows of the embedding; 0 is padding.
        replace: How many replacements there are.
        append: How many texts may be put behind a letter.
        dropout: On the trunk's states and after every layer.
    """

    def __init__(self, width: int, *, letters: int, replace: int, append: int, dropout: float) -> None:
        super().__init__()
        self.replace = replace
        self.letters = nn.Embedding(letters, _LETTER_WIDTH, padding_idx=0)
        self.joined = nn.Linear(width + _LETTER_WIDTH, _TAGGER_WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(_TAGGER_WIDTH) for _ in range(_TAGGER_LAYERS))
        # A convolution written as a product: INT8 exports quantise products, and CPUs are no slower at them.
        self.layers = nn.ModuleList(nn.Linear(_KERNEL * _TAGGER_WIDTH, _TAGGER_WIDTH) for _ in range(_TAGGER_LAYERS))
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(_TAGGER_WIDTH, replace + append)
        with torch.no_grad():
            self.score.bias.zero_()
            self.score.bias[0] = self.score.bias[replace] = _SURE

    def forward(self, states: Tensor, letter_ids: Tensor, letter_pieces: Tensor) -> Tensor:
        """See the class; ``letter_pieces`` ``[B, N]`` says which piece each letter is in."""
        at = letter_pieces.unsqueeze(-1).expand(-1, -1, states.shape[-1])
        pieces = self.dropout(states.gather(1, at))
        hidden = self.joined(torch.cat([pieces, self.letters(letter_ids).to(pieces.dtype)], dim=-1))
        # Padding is nothing to a convolution, as the text's end is, so that a row does not depend on its batch.
        real = (letter_ids != 0).unsqueeze(-1).to(hidden.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            seen = layer(_neighbours(norm(hidden) * real))
            hidden = hidden + self.dropout(nn.functional.gelu(seen))
        scores: Tensor = self.score(hidden)
        return scores


class ReadingChooser(nn.Module):
    """Scores what a query may have meant, itself first: ``[B, T, D]`` to ``[B, readings]``.

    ``w · n_k + f(typed_k, written_k, n_k)``: the numbers that are known of reading k, and a layer over the mean state
    of the pieces that it would change, that of the pieces that it would put there, and the numbers. ``w`` is what was
    fitted before, the corrector's own decision at first, and f begins as nothing.

    Args:
        width: Of the trunk's states.
        first: ``w`` at the beginning, of each number.
        dropout: On the states and the layer.
    """

    def __init__(self, width: int, first: Sequence[float], *, dropout: float) -> None:
        super().__init__()
        self.plain = nn.Linear(len(first), 1, bias=False)
        self.joined = nn.Linear(2 * width + len(first), _TAGGER_WIDTH)
        self.score = nn.Linear(_TAGGER_WIDTH, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.plain.weight.copy_(torch.tensor([first]))
            self.score.weight.zero_()

    def forward(self, states: Tensor, pieces: Tensor, numbers: Tensor) -> Tensor:
        """See the class.

        Args:
            states: Of the pieces.
            pieces: ``[B, T, 2 * readings]``, 1 where a piece is typed in the place of a reading's changes, and then 1
                where it is what the reading writes; 0 elsewhere.
            numbers: ``[B, readings, F]``; the first says whether there is such a reading.
        """
        share = pieces / pieces.sum(dim=1, keepdim=True).clamp(min=1.0)
        means = self.dropout(share.transpose(1, 2).to(states.dtype) @ states)
        typed, written = means.chunk(2, dim=1)
        joined = self.joined(torch.cat([typed, written, numbers.to(states.dtype)], dim=-1))
        further = self.score(self.dropout(nn.functional.gelu(joined)))
        scores: Tensor = (self.plain(numbers) + further).squeeze(-1)
        return scores.masked_fill(numbers[..., 0] == 0, _NONE)


def _neighbours(hidden: Tensor) -> Tensor:
    """``[B, N, W]`` to ``[B, N, kernel * W]``: each letter with those beside it, and nothing beyond the text's ends."""
    reach = _KERNEL // 2
    length = hidden.shape[1]
    padded = nn.functional.pad(hidden, (0, 0, reach, reach))
    return torch.cat([padded[:, shift : shift + length] for shift in range(_KERNEL)], dim=-1)
