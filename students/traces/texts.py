"""Traces as a network reads them: behind the row, or alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.encoder import EncoderNetwork

NO_TOKEN = -1
"""Fills a line of token ids up."""
_TEXTS_AT_ONCE = 64


def token_ids(network: EncoderNetwork, traces: Sequence[str | None], *, most: int) -> np.ndarray:
    """Token ids of every trace and the separator after it, ``[N, L]`` int32 with ``L <= most``.

    A line is filled up with :data:`NO_TOKEN`; one without a trace is nothing else. A trace that spells a special token
    out gets its letters.
    """
    tokenizer = network.tokenizer
    end = [number for number in (tokenizer.sep_token_id, tokenizer.eos_token_id) if number is not None][:1]
    found: list[list[int]] = [[]] * len(traces)
    written = [number for number, trace in enumerate(traces) if trace and trace.strip()]
    if written:
        encoded = tokenizer(
            [traces[number] for number in written],
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=True,
            max_length=most - len(end),
            verbose=False,
        )["input_ids"]
        for number, ids in zip(written, encoded, strict=True):
            found[number] = [*ids, *end]
    lines = np.full((len(traces), max([1, *map(len, found)])), NO_TOKEN, dtype=np.int32)
    for line, ids in zip(lines, found, strict=True):
        line[: len(ids)] = ids
    return lines


def embeddings(network: EncoderNetwork, ids: np.ndarray) -> np.ndarray:
    """What the network's base makes of traces, ``[N, D]`` float32: the mean over their tokens, less the mean over all.

    Pretrained encoders put all texts into a narrow cone; without its axis, cosines tell texts apart (Mu & Viswanath
    2018, https://arxiv.org/abs/1702.01417). Lines without a trace are zero and do not count.

    Args:
        network: Its base is run as it is, without a gradient.
        ids: From :func:`token_ids`.
    """
    import torch

    base: Any = network.model.base_model
    known = np.flatnonzero((ids != NO_TOKEN).any(axis=1))
    states = np.zeros((len(ids), base.config.hidden_size), dtype=np.float32)
    training = network.model.training
    network.model.eval().to(device := _device())
    with torch.no_grad():
        for start in range(0, len(known), _TEXTS_AT_ONCE):
            part = known[start : start + _TEXTS_AT_ONCE]
            lines = torch.from_numpy(ids[part].astype(np.int64)).to(device)
            lines = lines[:, : int((lines != NO_TOKEN).sum(dim=1).max())]
            mask = (lines != NO_TOKEN).long()
            hidden = base(input_ids=lines.clamp(min=0), attention_mask=mask).last_hidden_state.float()
            states[part] = ((hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu().numpy()
    network.model.train(training).cpu()
    if len(known):
        states[known] -= states[known].mean(axis=0)
    return states


def _device() -> Any:
    """This process's own accelerator: the Trainer has not moved the network there yet."""
    import torch

    number = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


def with_traces(batch: Mapping[str, Tensor], ids: Tensor, *, pad: int, longest: int) -> dict[str, Tensor]:
    """The batch and, as further lines of the same batch, its rows with their traces behind them.

    Args:
        batch: ``[B, T]`` each: ``input_ids``, ``attention_mask``, and what else the tokenizer gives; padded on either
            side.
        ids: ``[B, L]`` from :func:`token_ids`.
        pad: The token that pads; some networks count positions by it.
        longest: Tokens that the network can read; a trace is cut to the room that the batch's longest row leaves.

    Returns:
        ``[2B, T + L]`` each; the first ``B`` lines are the rows as they were, with more padding.
    """
    import torch

    mask = batch["attention_mask"]
    width = mask.shape[1]
    used = int((ids != NO_TOKEN).sum(dim=1).max()) if len(ids) else 0
    ids = ids[:, : max(0, min(used, longest - width))].to(batch["input_ids"])
    place = torch.arange(width, device=mask.device)
    last = torch.where(mask.bool(), place, 0).amax(dim=1, keepdim=True)
    where = last + 1 + torch.arange(ids.shape[1], device=mask.device)
    known = ids != NO_TOKEN
    found = {}
    for name, values in batch.items():
        padded = torch.nn.functional.pad(values, (0, ids.shape[1]), value=pad if name == "input_ids" else 0)
        neighbour = values.gather(1, last).expand(-1, ids.shape[1])
        added = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}.get(name, neighbour)
        filled = torch.where(known, added.to(values), padded.gather(1, where))
        found[name] = torch.cat([padded, padded.scatter(1, where, filled)])
    return found
