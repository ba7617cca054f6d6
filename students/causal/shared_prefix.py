"""Reads what sequences of a batch begin with once.

Prompts of a task begin alike: with the system's turn, the instruction and the labels. Of a row that is asked twice
(:mod:`distill.students.causal.objective`) both prompts are alike up to the last line. A decoder's states follow from
nothing that comes later, so what is alike is read once, and each sequence goes on from its keys and values. It is the
same computation as reading each sequence whole, in training too: the gradients meet at the shared part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_SHARED_TOKENS = 16
"""A shorter beginning is not worth a pass of its own."""


def can_share(decoder: Any) -> bool:
    """Whether the decoder's layers all keep plain keys and values, and use them while it trains.

    Checkpointed layers are run again without their cache, and sliding windows and recurrent layers keep other states.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    checkpointed = decoder.training and any(
        getattr(module, "gradient_checkpointing", False) for module in decoder.modules()
    )
    layers = DynamicCache(config=decoder.config).layers
    return not checkpointed and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def states_at(decoder: Any, input_ids: Tensor, attention_mask: Tensor, at: Tensor, *, row: Tensor) -> Tensor | None:
    """Last hidden states ``[P, D]`` at some positions; None where too little is shared to gain by it.

    Args:
        decoder: A Hugging Face decoder for which :func:`can_share` holds.
        input_ids: ``[S, L]``, padded on the right.
        attention_mask: ``[S, L]``, 0 for padding.
        at: ``[P]``, positions in the flattened ``[S * L]``; at least one in every sequence.
        row: ``[S]``, the row of each sequence. Sequence ``i`` is the first of row ``i``; further ones follow.
    """
    import torch

    length = input_ids.shape[1]
    sequence, place = at // length, at % length
    # A position whose state is wanted is not read with others.
    first = torch.full_like(row, length).scatter_reduce(0, sequence, place, "amin")
    common = int(torch.minimum(_alike(input_ids, input_ids[:1]).min(), first.min()))
    if len(row) < 2 or common < FEWEST_SHARED_TOKENS:
        return None
    cache = _read_once(decoder, input_ids[:1, :common], lines=int(row.max()) + 1)
    begins = torch.full_like(first, common)
    mask = attention_mask[:, :common]
    if len(row) > int(row.max()) + 1:
        begins, mask = _read_rows(
            decoder, cache, input_ids, torch.minimum(_alike(input_ids, input_ids[row]), first), row=row, common=common
        )
    left = attention_mask.sum(dim=1) - begins
    step = torch.arange(int(left.max()), device=at.device)
    position = begins[:, None] + step
    states = decoder(
        input_ids=input_ids.gather(1, position.clamp(max=length - 1)),
        attention_mask=torch.cat([mask, (step < left[:, None]).to(mask)], dim=1),
        position_ids=position.clamp(max=length - 1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    found: Tensor = states[sequence, place - begins[sequence]]
    return found


def _alike(input_ids: Tensor, others: Tensor) -> Tensor:
    """How many tokens each sequence begins with like the other one, ``[S]``."""
    return (input_ids == others).long().cumprod(dim=1).sum(dim=1)


def _read_once(decoder: Any, input_ids: Tensor, *, lines: int) -> Any:
    """Keys and values of one sequence, for so many lines."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=decoder.config)
    decoder(input_ids=input_ids, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys, layer.values = (states.expand(lines, -1, -1, -1) for states in (layer.keys, layer.values))
    return cache


def _read_rows(
    decoder: Any, cache: Any, input_ids: Tensor, alike: Tensor, *, row: Tensor, common: int
) -> tuple[Tensor, Tensor]:
    """Reads on what all sequences of each row begin with, and hands its keys and values to each of them.

    Returns:
        Where each sequence goes on, ``[S]``, and which of the keys are of tokens, ``[S, K]``.
    """
    import torch

    rows = int(row.max()) + 1
    ends = torch.full((rows,), input_ids.shape[1], device=row.device).scatter_reduce(0, row, alike, "amin")
    width = int(ends.max())
    step = torch.arange(width, device=row.device)
    mask = (step < ends[:, None]).long()
    decoder(
        input_ids=input_ids[:rows, common:width],
        attention_mask=mask,
        position_ids=step[common:].expand(rows, -1),
        past_key_values=cache,
        use_cache=True,
    )
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[row], layer.values[row]
    return ends[row], mask[row]
