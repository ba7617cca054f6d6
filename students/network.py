"""A network and the reader that turns rows into its inputs: what the two kinds of student have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import polars as pl

if TYPE_CHECKING:
    from torch import Tensor, nn

Example = dict[str, Any]
"""One row as a network reads it, before it is laid out in a batch with others."""
LABELS = "labels"
"""Name of the scores that every network gives, beside those of :attr:`Output.extra`."""
CLAUSES = "clauses"
"""In :attr:`Output.extra`: which clauses of the guideline stand behind the label, ``[B, C]``."""


class Output(NamedTuple):
    """What a network says of a batch.

    Attributes:
        logits: ``[B, K]`` scores of the labels.
        pooled: ``[B, D]``, the state that the scores are read from; None where a kind of student has none,
            or has not been asked for it by :meth:`distill.students.encoder.EncoderNetwork.put_on`.
        extra: Scores of further heads, by name.
    """

    logits: Tensor
    pooled: Tensor | None = None
    extra: Mapping[str, Tensor] = MappingProxyType({})


class Network(Protocol):
    """What training and prediction need of a student, whatever its kind.

    Attributes:
        model: The torch module; its parameters are what is trained.
        bf16_speeds_up: Whether autocast to bfloat16 is worth it for this kind of model.
    """

    model: nn.Module
    bf16_speeds_up: bool

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Turns rows into examples; the same row always gives the same example."""
        ...

    def size(self, example: Example) -> int:
        """Length of an example: those of like length share a batch."""
        ...

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Lays examples out as the model's keyword arguments, padded to the longest."""
        ...

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """Scores a batch; ``model`` is :attr:`model`, or that in a distributed wrapper."""
        ...

    def prepare(self, examples: Sequence[Example]) -> None:
        """Looks at the training examples once before the first step, for what is not learned by gradient."""
        ...

    def is_head(self, name: str) -> bool:
        """Whether the parameter of this name is new, so that it may learn faster than pretrained ones."""
        ...

    def save(self, folder: Path) -> None:
        """Writes everything but ``distill_student.json``."""
        ...
