"""Cross-entropy from hidden states to sparse teacher distributions, without the logits of the whole batch.

For a vocabulary of 151,936 the logits of 8,192 tokens take 4.6 GiB in float32, and a plain loss keeps two or three
copies. Here the product with the output embedding is taken a chunk of tokens at a time, and the chunk's gradients of
the hidden states and of the embedding are computed while its logits are there; they are never computed twice. (The
same order of work as Liger's fused linear cross-entropy, Hsu et al. 2024, for targets that are a few shares a token.)
For hard labels alone :func:`torch.nn.functional.linear_cross_entropy` (torch 2.13) does the same; it takes soft targets
only as a dense ``[T, V]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.labeling.errors import StudentError

if TYPE_CHECKING:
    from distill.students.logprobs.store import TokenDistributions

IGNORED = -100
"""A hard label that is none."""
_CHUNK_BYTES = {"cpu": 64 << 20}
_CHUNK_BYTES_OF_GPU = 512 << 20
"""Logits of a chunk in float32: on a GPU some 880 tokens of a vocabulary of 151,936, enough to keep its multipliers
busy; on a CPU the size hardly matters for speed."""
_GRADIENT_ROWS = 16384
"""Rows of the embedding whose gradient is added at once, so that no second matrix of its size is made."""


@dataclass(frozen=True)
class TokenTargets:
    """What is to be learned at each of ``T`` tokens.

    Attributes:
        offsets: ``[T + 1]`` int64 on the CPU, where each token's entries begin and the last one's end.
        ids: ``[E]`` int64, token numbers, distinct within a token.
        shares: ``[E]`` float, the teacher's estimated probabilities.
        soft_weight: ``[T]`` float, weight of the cross-entropy to the shares; 0 for none.
        labels: ``[T]`` int64, hard labels; :data:`IGNORED` for none.
        hard_weight: ``[T]`` float, weight of the cross-entropy to the label; 0 for none.
    """

    offsets: Tensor
    ids: Tensor
    shares: Tensor
    soft_weight: Tensor
    labels: Tensor
    hard_weight: Tensor

    @classmethod
    def of(cls, found: Sequence[TokenDistributions], *, soft_weight: float = 1.0) -> TokenTargets:
        """Joins what was read of several sequences, one behind the other, without hard labels."""
        counts = np.concatenate([np.diff(item.offsets) for item in found])
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        size = len(counts)
        return cls(
            offsets=offsets,
            ids=torch.from_numpy(np.concatenate([item.ids for item in found])),
            shares=torch.from_numpy(np.concatenate([item.shares for item in found])),
            soft_weight=torch.full((size,), soft_weight),
            labels=torch.full((size,), IGNORED),
            hard_weight=torch.zeros(size),
        )

    def to(self, device: torch.device) -> TokenTargets:
        """Moves everything but the offsets, by which chunks are cut."""
        moved = (self.ids, self.shares, self.soft_weight, self.labels, self.hard_weight)
        return TokenTargets(self.offsets, *(value.to(device, non_blocking=True) for value in moved))


class SparseLoss(NamedTuple):
    """A loss with its parts.

    Attributes:
        loss: Scalar float32 (float64 for float64 hidden states) with a gradient.
        soft: Scalar, the part that comes from the teacher's shares; without a gradient.
        hard: Scalar, the part that comes from the labels; without a gradient.
    """

    loss: Tensor
    soft: Tensor
    hard: Tensor


def sparse_cross_entropy(
    hidden: Tensor,
    embedding: Tensor,
    targets: TokenTargets,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    normalizer: float | None = None,
    chunk_tokens: int | None = None,
) -> SparseLoss:
    """Cross-entropy to the teacher's shares and to hard labels, in one pass.

    ``sum_t [ a_t T² * -sum_i s_ti log softmax(z_t / T)_i  +  b_t * -log softmax(z_t)_{y_t} ] / normalizer``, with
    logits ``z_t = W h_t + bias``, shares ``s``, soft weights ``a`` and hard weights ``b``.

    * Temperature: ``T`` divides the student's logits in the soft part only; the shares must have been drawn at the same
      ``T``. The soft part has the factor T², which keeps its gradients of one size (Hinton et al. 2015).
    * Normalisation: by the number of tokens whose soft or hard weight is above 0, or by ``normalizer``: give that of
      the whole batch where it is cut in parts for accumulation or over processes.
    * Padding: tokens with both weights 0 are left out before the product; they cost nothing and get no gradient. A
      label of :data:`IGNORED` counts as hard weight 0, no entries as soft weight 0.
    * It differs from the Kullback-Leibler divergence by the teacher's entropy, which is not stored: the gradients are
      equal. Shares that are unbiased make value and gradient unbiased, both being linear in them.
    * Precision: logits and softmax in float32 (float64 for float64 states); the products take the type of the hidden
      states, or autocast's where it is on, and the embedding's gradient is summed in float32 over the chunks.
    * The gradients are computed with the loss, so there is no second derivative, and one backward pass a call.

    Args:
        hidden: ``[T, D]``.
        embedding: ``[V, D]``, the weight of the output layer; may be tied to the input's.
        targets: What to learn.
        bias: ``[V]`` of the output layer.
        temperature: See above.
        normalizer: See above.
        chunk_tokens: Tokens whose logits are there at once; as many as 512 MiB hold where not given (on a CPU
            64 MiB). It changes the result by rounding alone.

    Raises:
        StudentError: Shapes do not fit, or an id is outside the vocabulary.
    """
    _refuse_misfits(hidden, embedding, targets)
    plan = _Plan.of(targets.to(hidden.device), temperature=temperature)
    count = max(1, len(plan.kept))
    chunk = chunk_tokens or _chunk_tokens(hidden.device.type, len(embedding))
    loss, soft, hard = _SparseCrossEntropy.apply(hidden[plan.kept], embedding, bias, plan, chunk)
    scale = 1.0 / (count if normalizer is None else normalizer)
    return SparseLoss(loss * scale, soft * scale, hard * scale)


def _chunk_tokens(device: str, vocabulary: int) -> int:
    tokens = _CHUNK_BYTES.get(device, _CHUNK_BYTES_OF_GPU) // (4 * vocabulary)
    return tokens // 128 * 128 or max(1, tokens)


class _Plan(NamedTuple):
    """The tokens that are learned from, and their entries; every weight is already that of the formula."""

    kept: Tensor
    offsets: list[int]
    rows: Tensor
    ids: Tensor
    weights: Tensor
    soft_mass: Tensor
    labels: Tensor
    hard_weight: Tensor
    temperature: float

    @classmethod
    def of(cls, targets: TokenTargets, *, temperature: float) -> _Plan:
        device = targets.ids.device
        counts = (targets.offsets[1:] - targets.offsets[:-1]).to(device)
        size = len(counts)
        dtype = torch.float64 if targets.shares.dtype == torch.float64 else torch.float32
        hard = torch.where(targets.labels != IGNORED, targets.hard_weight, 0.0).to(dtype)
        soft = torch.where(counts > 0, targets.soft_weight, 0.0).to(dtype)
        kept = ((hard != 0) | (soft != 0)).nonzero().squeeze(1)
        place = torch.full((size,), -1, device=device)
        place[kept] = torch.arange(len(kept), device=device)
        token = torch.repeat_interleave(torch.arange(size, device=device), counts)
        wanted = soft[token] != 0
        token, ids = token[wanted], targets.ids[wanted]
        weights = soft[token] * targets.shares[wanted].to(dtype)
        rows = place[token]
        mass = torch.zeros(len(kept), dtype=dtype, device=device).index_add_(0, rows, weights)
        held = torch.zeros(len(kept) + 1, dtype=torch.int64, device=device)
        held[1:] = torch.bincount(rows, minlength=len(kept)).cumsum(0)
        labels = targets.labels[kept].clamp(min=0)
        return cls(kept, held.tolist(), rows, ids, weights, mass, labels, hard[kept], temperature)


class _SparseCrossEntropy(torch.autograd.Function):
    """The sums over tokens, before they are normalised; gradients are computed with them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embedding: Tensor, bias: Tensor | None, plan: _Plan, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            matrix, states = embedding.detach().to(dtype), hidden.detach().to(dtype)
            grad_hidden = torch.empty_like(hidden) if wanted[0] else None
            grad_embedding = torch.zeros(embedding.shape, dtype=exact, device=hidden.device) if wanted[1] else None
            grad_bias = (
                torch.zeros(bias.shape, dtype=exact, device=hidden.device) if wanted[2] and bias is not None else None
            )
            sums = torch.zeros(2, dtype=exact, device=hidden.device)
            for first in range(0, len(states), chunk):
                last = min(first + chunk, len(states))
                part = states[first:last]
                logits = _product(part, matrix.T, exact)
                if bias is not None:
                    logits += bias.detach()
                gradient = _chunk(logits, plan, slice(first, last), sums, any(wanted))
                if gradient is None:
                    continue
                if grad_bias is not None:
                    grad_bias += gradient.sum(dim=0)
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[first:last] = gradient @ matrix
                if grad_embedding is not None:
                    for row in range(0, len(matrix), _GRADIENT_ROWS):
                        rows = slice(row, row + _GRADIENT_ROWS)
                        _add_product(grad_embedding[rows], gradient[:, rows].T, part)
                del logits, gradient
        grad_embedding = None if grad_embedding is None else grad_embedding.to(embedding.dtype)
        grad_bias = None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
        ctx.gradients = (grad_hidden, grad_embedding, grad_bias)
        soft, hard = sums.unbind()
        ctx.mark_non_differentiable(soft, hard)
        return soft + hard, soft, hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _soft: Tensor, _hard: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("sparse_cross_entropy: backward was called twice; compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if value is None else value.mul_(grad_loss) for value in gradients), None, None


def _chunk(logits: Tensor, plan: _Plan, tokens: slice, sums: Tensor, differentiate: bool) -> Tensor | None:
    """Adds a chunk's loss to ``sums`` (soft, hard) and turns its logits into their gradient, in place.

    With ``p`` the softmax at the temperature: ``d/dz = T (m p - s) + b (softmax(z) - y)``, where ``m`` is the sum of
    the weighted shares ``s``.
    """
    entries = slice(plan.offsets[tokens.start], plan.offsets[tokens.stop])
    rows, ids, weights = plan.rows[entries] - tokens.start, plan.ids[entries], plan.weights[entries].to(logits.dtype)
    mass, hard = plan.soft_mass[tokens].to(logits.dtype), plan.hard_weight[tokens].to(logits.dtype)
    labels, heat = plan.labels[tokens], plan.temperature
    places = rows * logits.shape[1] + ids
    # Relative to the highest logit, so that small losses are not the difference of large numbers.
    logits -= logits.amax(dim=1, keepdim=True)
    at_label = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    at_entries = logits.view(-1)[places] / heat
    if heat == 1.0:
        sizes = cool_sizes = logits.exp_().sum(dim=1)
        gradient = logits.mul_(((mass + hard) / sizes).unsqueeze(1)) if differentiate else None
    else:
        cool = torch.exp(logits / heat)
        cool_sizes, sizes = cool.sum(dim=1), logits.exp_().sum(dim=1)
        gradient = None
        if differentiate:
            gradient = cool.mul_((heat * mass / cool_sizes).unsqueeze(1))
            gradient += logits.mul_((hard / sizes).unsqueeze(1))
    sums[0] += heat**2 * ((mass * cool_sizes.log()).sum() - (weights * at_entries).sum())
    sums[1] += (hard * (sizes.log() - at_label)).sum()
    if gradient is not None:
        # Ids are distinct within a token, so no place is added to twice and the sum has one order on every device.
        gradient.view(-1).index_add_(0, places, weights, alpha=-heat)
        gradient.scatter_add_(1, labels.unsqueeze(1), -hard.unsqueeze(1))
    return gradient


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """A product in a wider type: kept as it was summed on a GPU that can, else rounded to the factors' type between."""
    if left.dtype != dtype and left.is_cuda and left.dtype in (torch.float16, torch.bfloat16) and _WIDE_PRODUCTS:
        return torch.mm(left, right, out_dtype=dtype)
    return torch.mm(left, right).to(dtype)


_WIDE_PRODUCTS = "dtype" in torch.ops.aten.mm.overloads()
"""Whether this torch can give a bfloat16 product in float32 (2.8 can)."""


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds a product to a sum in a wider type, without rounding it to the factors' type first: over many chunks that
    would pull the sum to one side."""
    if left.dtype != total.dtype and left.is_cuda and left.dtype in (torch.float16, torch.bfloat16) and _WIDE_PRODUCTS:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))


def _refuse_misfits(hidden: Tensor, embedding: Tensor, targets: TokenTargets) -> None:
    if hidden.dim() != 2 or embedding.dim() != 2 or hidden.shape[1] != embedding.shape[1]:
        raise StudentError(
            f"sparse_cross_entropy: hidden [T, D] and embedding [V, D], got {list(hidden.shape)} and "
            f"{list(embedding.shape)}; flatten the batch and give the output layer's weight"
        )
    sizes = {len(targets.soft_weight), len(targets.labels), len(targets.hard_weight), len(targets.offsets) - 1}
    if sizes != {len(hidden)}:
        raise StudentError(
            f"sparse_cross_entropy: targets of {sorted(sizes)} tokens for {len(hidden)} hidden states; give one a token"
        )
    highest = max(int(values.max()) if len(values) else 0 for values in (targets.ids, targets.labels))
    if highest >= len(embedding):
        raise StudentError(
            f"sparse_cross_entropy: token {highest:,} for an embedding of {len(embedding):,}; the teacher's vocabulary "
            "must fit in the student's"
        )
