"""Match features as tokens: tells an encoder where in the listing the query's words were found.

A small encoder with some hundred rows does not learn to compare words across segments (docs/log.md). So each feature
is cut into seven steps, and each step of each feature is a token of its own, put before the listing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from distill.students.matching import match_feature_names, match_features

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STEPS = 7
_KEPT = ("part", "likeness", "lowest", "mean")
"""The other features bring little beside these, and every token costs time in every layer."""
_MAX_CHARACTERS = 2000


class MatchTokens:
    """Writes the match features of a row as tokens.

    Args:
        inputs: The query's column, then the listing's.
        tokenizer: Knows the tokens already, or learns them by :meth:`teach`.
    """

    def __init__(self, inputs: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        names = match_feature_names(inputs)
        self._tokenizer = tokenizer
        self._kept = [number for number, name in enumerate(names) if name.rpartition(".")[2] in _KEPT]
        self._tokens = [[f"[match:{names[number]}={step}]" for step in range(_STEPS)] for number in self._kept]
        self._ids: list[list[int]] = []
        self._look_up()

    def __len__(self) -> int:
        """Tokens that a row gets."""
        return len(self._kept)

    def teach(self, model: PreTrainedModel) -> None:
        """Adds the tokens to the tokenizer and their embeddings to the model.

        Steps of a feature start on a line, ``0.7 * base + 0.7 * position * direction`` with normal ``base`` and
        ``direction`` and positions from -1.5 to 1.5, at the spread of the embeddings that are there: what is learned
        of one step then says something of its neighbours. Draws from torch's global generator.
        """
        import torch

        known = self._tokenizer.get_vocab()
        added = [token for steps in self._tokens for token in steps]
        self._tokenizer.add_tokens(added, special_tokens=True)
        self._look_up()
        old = cast("nn.Embedding", model.get_input_embeddings())
        spread = float(old.weight.detach().std())
        size = max(len(self._tokenizer), old.num_embeddings)
        weight = model.resize_token_embeddings(size, mean_resizing=False).weight
        position = torch.linspace(-1.5, 1.5, _STEPS).unsqueeze(1)
        with torch.no_grad():
            for tokens, ids in zip(self._tokens, self._ids, strict=True):
                base, direction = torch.randn(2, 1, weight.shape[1])
                if tokens[0] not in known:
                    weight[ids] = 0.7 * spread * (base + position * direction)

    def ids(self, query: str, listing: Sequence[str]) -> list[int]:
        """The row's tokens, one a feature, in a fixed order."""
        fields = [text[:_MAX_CHARACTERS] for text in listing]
        query = query[:_MAX_CHARACTERS]
        numbers = match_features(query, fields)
        return [steps[_step(numbers[number])] for number, steps in zip(self._kept, self._ids, strict=True)]

    def _look_up(self) -> None:
        self._ids = [cast("list[int]", self._tokenizer.convert_tokens_to_ids(steps)) for steps in self._tokens]


def _step(share: float) -> int:
    """0 for none, 6 for all, and fifths between."""
    if share <= 0.0:
        return 0
    return _STEPS - 1 if share >= 1.0 else 1 + int(share * (_STEPS - 2))
