r"""What an encoder of a query task minimises: the parts' losses, over the rows of which each part is known.

.. math:: \frac{1}{B} \sum_i w_i \sum_p \lambda_p \, t_{ip} \, \ell_p(i)

with :math:`w_i` the row's weight, :math:`\lambda_p` the part's weight of the section, and :math:`t_{ip}` how hard the
row pulls in the part: 0 where nothing is known of it, so that a missing answer is never learned as "none". A batch is
of any rows, so that parts are mixed in every one. All losses are at temperature 1:

======= ==========================================================================================================
head    loss of a row
======= ==========================================================================================================
edits   ``- sum over corrections of share * sum over letters of log p(replace) + log p(append)``; with a corrector
        ``- sum over corrections of share * log p(its reading)``
spans   ``- sum over pieces and marks of target * log p``
paths   ``- sum over labels of share * mean over the path of log p``, see :mod:`distill.students.queries.tree_softmax`
labels  ``- sum over labels of share * log sigmoid(z) + (1 - share) * log sigmoid(-z)``
ranking ``- sum over texts of share * log p(text)``, over the whole vocabulary and "none"
======= ==========================================================================================================

Padding has no letters, no marks and no share, and adds nothing. The sums over letters and pieces make each loss that of
the part's whole answer, as if its pieces were independent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.labeling.task import Task
from distill.students.config import EncoderConfig
from distill.students.network import Example
from distill.students.queries.asked_task import head_kind, part_name
from distill.students.queries.part_batches import TargetMaker
from distill.students.queries.part_targets import ANSWERS
from distill.students.training.objective import Objective, StepLoss, count_known_parts, target_columns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.queries.encoder import QueryNetwork


class QueryObjective(Objective):
    """See the module.

    Args:
        config: The student's section; its ``weights`` are by part, 1 where not given.
        task: What is answered.
    """

    reads_tokens_of_network = True

    def __init__(self, config: EncoderConfig, *, task: Task) -> None:
        given = config.weights or {}
        self._task = task
        self._weights = {part_name(single): given.get(part_name(single), 1.0) for single in task.singles}
        self._kinds = {part_name(single): head_kind(single) for single in task.singles}
        self.facts: dict[str, int] = {}

    def read(self, network: Any, table: pl.DataFrame) -> Sequence[Example]:
        """The rows' examples, each with the targets of its parts."""
        maker = TargetMaker(network)
        examples: Sequence[Example] = network.read(table)
        sources = table[self._task.source].cast(pl.String).fill_null("")
        for example, source, answers in zip(examples, sources, table[ANSWERS], strict=True):
            example |= maker.targets(example, source, json.loads(answers))
        return examples

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``target`` ``[N, parts]`` and ``weight``. Counts the rows of which each part is known."""
        found = target_columns(table)
        count_known_parts(found["target"], list(self._kinds), self.facts)
        return found

    def loss(
        self, network: Any, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See the module; what is validated on is the same, with each part's loss of each row as its scores."""
        import torch

        scores = network.scores(network.forward(model, batch))
        per_part = torch.stack(
            [self._weights[name] * self._part(network, name, scores[name], batch) for name in self._kinds], dim=1
        )
        rows = (per_part * columns["target"]).sum(dim=1)
        return StepLoss((columns["weight"] * rows).sum() / len(rows), per_part)

    def validation_loss(self, logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
        """The same loss over all held-out rows, their weights normalised to sum to one."""
        return float((weight * (logits * target).sum(axis=1)).sum() / weight.sum())

    def _part(self, network: QueryNetwork, name: str, scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        kind, scores = self._kinds[name], scores.float()
        if kind == "edits" and network.vocabulary.readings is None:
            assert network.vocabulary.alphabet is not None
            replace = len(network.vocabulary.alphabet.replace)
            targets = (batch[f"{name}:{what}"] for what in ("replace", "append", "share"))
            return edit_loss(scores, *targets, letters=batch["letter_ids"] != 0, replacements=replace)
        if kind == "spans":
            return -(batch[f"{name}:marks"] * scores.log_softmax(dim=-1)).sum(dim=(1, 2))
        ids, shares = batch[f"{name}:ids"], batch[f"{name}:shares"]
        if kind == "labels":
            return label_loss(scores, ids, shares)
        log_probs = network.options(name).path_log_probs(scores) if kind == "paths" else scores.log_softmax(dim=-1)
        return -(shares * log_probs.gather(1, ids)).sum(dim=1)


def edit_loss(
    scores: Tensor, replace: Tensor, append: Tensor, share: Tensor, *, letters: Tensor, replacements: int
) -> Tensor:
    """``[B]``: what the corrections of each row cost.

    Args:
        scores: ``[B, N, R + A]``, of replacements and then of what is put behind.
        replace: ``[B, C, N]``, the replacement at every letter of each correction.
        append: ``[B, C, N]``, likewise.
        share: ``[B, C]``.
        letters: ``[B, N]``, whether there is a letter.
        replacements: R.
    """
    replaced = scores[..., :replacements].log_softmax(dim=-1).gather(2, replace.transpose(1, 2))
    appended = scores[..., replacements:].log_softmax(dim=-1).gather(2, append.transpose(1, 2))
    cost = -((replaced + appended) * letters.unsqueeze(-1)).sum(dim=1)
    return (share * cost).sum(dim=1)


def label_loss(scores: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """``[B]``: binary cross-entropy of every label, those that are not named having share 0.

    Args:
        scores: ``[B, L]``.
        ids: ``[B, most]``.
        shares: ``[B, most]``; 0 on padding.
    """
    import torch

    target = torch.zeros_like(scores).scatter_add(1, ids, shares.to(scores.dtype))
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(dim=1)
