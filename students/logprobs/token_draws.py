"""Draws token numbers from a teacher's next-token distributions: few numbers that stand for the whole vocabulary.

A teacher's distribution over a vocabulary of 150,000 takes 300 kB a token. ``N`` draws from it, kept as distinct
tokens with their counts, take some 40 bytes, and ``count / N`` is an unbiased estimate of every probability, so the
gradient of a cross-entropy to it is in expectation the gradient to the whole distribution (random-sampling knowledge
distillation: Anshumann et al. 2025, "Sparse Logit Sampling", ACL). The ``k`` most probable tokens, which servers give
out, are not: renormalised they put too much on the head, and the student learns too sharp a distribution.

The draws here are stratified: one from each of ``N`` equal slices of the cumulative distribution. They stay unbiased,
add up to one, and no sum over the estimate varies more than with ``N`` independent draws (proportional allocation:
Owen 2013, "Monte Carlo theory, methods and examples", section 8.4). In numbers: benchmarks/results/sparse_logprobs.md.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class TokenDraws(NamedTuple):
    """Distinct tokens drawn at each of ``n`` positions.

    Attributes:
        distinct: ``[n]`` int64, how many there are at each position.
        ids: ``[E]`` int64, their numbers; ascending within a position.
        counts: ``[E]`` int64, how often each was drawn; they sum to the number of draws at every position.
    """

    distinct: np.ndarray
    ids: np.ndarray
    counts: np.ndarray


def stratified_uniforms(key: str, *, seed: int, positions: int, draws: int) -> np.ndarray:
    """One number from each of ``draws`` equal slices of ``[0, 1)``, ascending, at every position.

    They depend on the seed and the key alone: a store that is resumed gets the bytes of one that never stopped, on
    whichever device the teacher runs.

    Returns:
        ``[positions, draws]`` float64.
    """
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    drawn = (np.arange(draws) + random.random((positions, draws))) / draws
    return np.minimum(drawn, np.nextafter(1.0, 0.0))


def draw_tokens(logits: Tensor, uniforms: np.ndarray, *, temperature: float = 1.0) -> TokenDraws:
    """Inverts the cumulative distribution of ``softmax(logits / temperature)`` at the given numbers.

    Computed in float64: summed up in float32, a hundred thousand small probabilities lose the rarest tokens.

    Args:
        logits: ``[n, V]``, any float type, on any device with float64. Log-probabilities are logits too.
        uniforms: ``[n, N]`` in ``[0, 1)``, ascending in each row.
        temperature: Of the teacher's distribution.
    """
    import torch

    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum_(dim=-1)
    cumulative /= cumulative[:, -1:].clone()
    places = torch.from_numpy(np.ascontiguousarray(uniforms)).to(logits.device)
    # The first token whose cumulative probability exceeds the number: one of probability zero is never drawn.
    ids = torch.searchsorted(cumulative, places, right=True)
    return counted(ids.cpu().numpy())


def counted(ids: np.ndarray) -> TokenDraws:
    """Counts equal neighbours of each row; ``ids`` ``[n, N]`` are ascending in each row."""
    positions, draws = ids.shape
    begins = np.ones((positions, draws), dtype=bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    places = np.flatnonzero(begins)
    counts = np.diff(places, append=positions * draws)
    return TokenDraws(begins.sum(axis=1), ids.reshape(-1)[places].astype(np.int64), counts.astype(np.int64))
