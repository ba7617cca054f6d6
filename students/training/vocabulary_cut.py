"""Trains only the embeddings of tokens that occur.

A token that is in no row has no gradient: its embedding stays as it is, but plain AdamW still reads and writes it, its
gradient and its two moments in every step. On a few thousand rows most of a vocabulary never occurs (a quarter of
MiniLM's does in CrowdFlower), and the embeddings are most of the parameters of a small or a multilingual encoder. So
the training runs on the rows of the table that occur, and the trained ones are put back afterwards.

The weights are those that the whole table would get, but for the decay of embeddings that never occur: left out here,
they stay pretrained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_INPUT = "input_ids"
_FEWEST_SAVED = 1000
"""Tokens that must not occur, or the cut is not worth its while."""


class VocabularyCut:
    """Cuts a model's token embeddings; made by :func:`cut_vocabulary`.

    Args:
        embedding: The model's table; cut in place.
        kept: Token ids that stay, ascending; those up to the padding token's are among them.
    """

    def __init__(self, embedding: nn.Embedding, kept: np.ndarray) -> None:
        self._embedding = embedding
        self._whole = embedding.weight.detach()
        self._kept = torch.from_numpy(kept)
        self._new_id = torch.full((embedding.num_embeddings,), -1, dtype=torch.int64)
        self._new_id[self._kept] = torch.arange(len(kept))
        embedding.weight = nn.Parameter(self._whole[self._kept].clone())
        embedding.num_embeddings = len(kept)

    def renumber(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with the ids of the cut table."""
        return {**batch, _INPUT: self._new_id[batch[_INPUT]]}

    def restore(self) -> None:
        """Puts the trained embeddings back into the whole table, and the table back into the model."""
        trained = self._embedding.weight.detach().to(self._whole)
        self._whole[self._kept.to(self._whole.device)] = trained
        self._embedding.weight = nn.Parameter(self._whole)
        self._embedding.num_embeddings = len(self._whole)


def cut_vocabulary(model: nn.Module, ids: Iterable[np.ndarray]) -> VocabularyCut | None:
    """Cuts the token embeddings of a pretrained model to the tokens that occur.

    Args:
        model: Of transformers, not in a wrapper yet.
        ids: Token ids of all rows, those validated on too, in any pieces.

    Returns:
        None where nothing was cut: few tokens would go, the table is shared with another layer, or the padding token
        has no low id (some models count positions by its id, so it has to keep it).
    """
    find: Any = getattr(model, "get_input_embeddings", None)
    embedding = find() if find is not None else None
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    if not isinstance(embedding, nn.Embedding) or padding is None or padding > _FEWEST_SAVED:
        return None
    holders = sum(any(own is embedding.weight for own in part._parameters.values()) for part in model.modules())
    if holders != 1 or not embedding.weight.requires_grad:
        return None
    occurs = np.zeros(embedding.num_embeddings, dtype=bool)
    occurs[: padding + 1] = True
    for piece in ids:
        occurs[piece] = True
    kept = np.flatnonzero(occurs)
    if embedding.num_embeddings - len(kept) < _FEWEST_SAVED:
        return None
    return VocabularyCut(embedding, kept)
