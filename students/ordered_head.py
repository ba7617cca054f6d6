"""A head for ordered labels: one score places a row, and thresholds between neighbouring labels place the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OrderedHead(nn.Module):
    r"""Logits of ordered labels from one score: the adjacent-categories model (Agresti 2010, section 4.1).

    .. math:: z_k = g_k \, s + c_k, \qquad s = w^\top x, \qquad g_k = \tfrac{K - 1}{2} - k

    so that the odds between neighbours, :math:`\log P(k) / P(k + 1) = s + c_k - c_{k+1}`, share one slope and have
    K - 1 thresholds of their own, as the odds of CORAL (Cao et al. 2020) and of cumulative logits do. A higher score
    makes every better label likelier against every worse one. Why not those two: their label scores are logs of
    differences of sigmoids, which no linear layer gives, whereas these are a linear layer whose weight has rank one, so
    that :func:`plain_state` writes them as one and whatever loads a classifier scores alike.

    Args:
        width: Of the state that is scored.
        labels: K, best first.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(1, width))
        nn.init.normal_(self.score, std=0.02)
        self.offset = nn.Parameter(torch.zeros(labels))
        self.grade: Tensor
        self.register_buffer("grade", (labels - 1) / 2 - torch.arange(labels, dtype=torch.float32), persistent=False)

    @property
    def weight(self) -> Tensor:
        """``[K, width]``, of rank one."""
        return self.grade.unsqueeze(1) * self.score

    def forward(self, state: Tensor) -> Tensor:
        """Scores ``[B, width]`` as ``[B, K]``."""
        return nn.functional.linear(state, self.weight, self.offset)


def put_ordered_head(model: nn.Module, *, outside: str) -> str:
    """Replaces a sequence classifier's last linear layer.

    Args:
        model: With one linear layer or more outside its encoder.
        outside: Prefix of the encoder's modules.

    Returns:
        The layer's name.
    """
    name, linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{outside}.")
    ][-1]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, OrderedHead(linear.in_features, linear.out_features))
    return name


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with every ordered head written as the linear layer that gives the same logits."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, OrderedHead):
            del state[f"{name}.score"], state[f"{name}.offset"]
            state[f"{name}.weight"] = module.weight.detach().clone()
            state[f"{name}.bias"] = module.offset.detach().clone()
    return state
