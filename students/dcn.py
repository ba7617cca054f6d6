"""Deep & cross network v2 on hashed text features (Wang et al. 2021, https://arxiv.org/abs/2008.13535)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.students.ordered_head import OrderedHead


class CrossLayer(nn.Module):
    """One full-rank cross layer: ``x_{l+1} = x_0 * (W x_l + b) + x_l``, ``*`` by element.

    Each layer raises the highest degree of the feature interactions by one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, current: Tensor) -> Tensor:
        """Crosses ``current`` with the network's input ``first``, both ``[B, width]``."""
        return first * self.linear(current) + current


class DeepCrossNetwork(nn.Module):
    """Hashed features in, logits out; cross and deep part in parallel.

    Each slot is the mean of its features' embeddings; one table serves all slots, since features are hashed together
    with their slot.

    Args:
        buckets: Rows of the embedding table.
        slots: Slots of hashed features.
        dense: Numbers besides them.
        labels: Logits to give.
        embedding_dim: Width of an embedding.
        cross_layers: Cross layers.
        hidden: Widths of the deep part.
        dropout: Share of the deep part's units dropped in training.
        ordered: Whether the labels share one score, see :class:`distill.students.ordered_head.OrderedHead`.
    """

    def __init__(  # noqa: PLR0913 (the shape of a network is this many numbers)
        self,
        *,
        buckets: int,
        slots: int,
        dense: int,
        labels: int,
        embedding_dim: int,
        cross_layers: int,
        hidden: Sequence[int],
        dropout: float,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(buckets, embedding_dim, mode="mean")
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dense_mean: Tensor
        self.dense_scale: Tensor
        self.register_buffer("dense_mean", torch.zeros(dense))
        self.register_buffer("dense_scale", torch.ones(dense))
        width = slots * embedding_dim + dense
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(cross_layers))
        layers: list[nn.Module] = []
        for size_in, size_out in zip([width, *hidden], hidden, strict=False):
            layers += [nn.Linear(size_in, size_out), nn.ReLU(), nn.Dropout(dropout)]
        self.deep = nn.Sequential(*layers)
        state = width + (hidden[-1] if hidden else width)
        self.head = OrderedHead(state, labels) if ordered else nn.Linear(state, labels)

    def standardise(self, dense: Tensor) -> None:
        """Sets the mean and scale of the numbers from the training rows, ``[N, dense]``.

        Not by batch normalisation: the same rows then score the same whatever they share a batch or a process with.
        """
        self.dense_mean.copy_(dense.mean(dim=0))
        self.dense_scale.copy_(1.0 / dense.std(dim=0, correction=0).clamp(min=0.05))

    def forward(self, ids: Tensor, mask: Tensor, dense: Tensor) -> Tensor:
        """Scores rows.

        Args:
            ids: ``[B, slots, M]`` int64.
            mask: ``[B, slots, M]`` float32; the mean of a slot is over its ones, and 0 where it has none.
            dense: ``[B, dense]`` float32.

        Returns:
            Logits, ``[B, labels]`` float32.
        """
        pooled = self._padded_means(ids, mask) if torch.jit.is_tracing() else self._means(ids, mask)
        first = torch.cat([pooled.flatten(1), ((dense - self.dense_mean) * self.dense_scale).clamp(-5.0, 5.0)], dim=1)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        return self.head(torch.cat([crossed, self.deep(first)], dim=1))

    def _means(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean embedding of each slot, ``[B, slots, D]``, without a look at the padding: most slots are short."""
        lengths = mask.sum(dim=2, dtype=torch.int64).flatten()
        found: Tensor = self.embedding(ids[mask.bool()], lengths.cumsum(0) - lengths)
        return found.unflatten(0, ids.shape[:2])

    def _padded_means(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The same in operations that ONNX knows."""
        embedded = (nn.functional.embedding(ids, self.embedding.weight) * mask.unsqueeze(-1)).sum(dim=2)
        return embedded / mask.sum(dim=2, keepdim=True).clamp(min=1.0)
