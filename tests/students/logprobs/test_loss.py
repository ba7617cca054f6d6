"""The chunked loss against the plain one: dense logits, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.labeling.errors import StudentError
from distill.students.logprobs import loss as sparse_loss
from distill.students.logprobs.loss import IGNORED, TokenTargets, sparse_cross_entropy

TOKENS, WIDTH, VOCABULARY = 23, 6, 37


def random_targets(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> TokenTargets:
    """0 to 4 entries a token; weights of 0, ignored labels and tokens with nothing to learn among them."""
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 5, (TOKENS,), generator=random)
    ids = torch.cat([torch.randperm(VOCABULARY, generator=random)[:count].sort().values for count in counts])
    shares = torch.cat([torch.rand(int(count), generator=random, dtype=dtype).softmax(0) for count in counts])
    labels = torch.randint(0, VOCABULARY, (TOKENS,), generator=random)
    labels[::5] = IGNORED
    soft, hard = (torch.rand(TOKENS, generator=random, dtype=dtype) for _ in range(2))
    soft[::4], hard[::3] = 0.0, 0.0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return TokenTargets(offsets, ids, shares, soft, labels, hard)


def plain(hidden: Tensor, embedding: Tensor, targets: TokenTargets, bias: Tensor | None, heat: float) -> Tensor:
    """The formula of the docstring, token by token, on the logits of the whole batch."""
    logits = hidden @ embedding.T + (0 if bias is None else bias)
    total, count = logits.new_zeros(()), 0
    for token in range(len(hidden)):
        begin, end = int(targets.offsets[token]), int(targets.offsets[token + 1])
        soft = float(targets.soft_weight[token]) if end > begin else 0.0
        hard = float(targets.hard_weight[token]) if targets.labels[token] != IGNORED else 0.0
        cool = (logits[token] / heat).log_softmax(-1)
        total = total - soft * heat**2 * (targets.shares[begin:end] * cool[targets.ids[begin:end]]).sum()
        total = total - hard * logits[token].log_softmax(-1)[max(0, int(targets.labels[token]))]
        count += soft > 0 or hard > 0
    return total / count


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("heat", [1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(
    heat: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding's gradient too is added in parts: of 16 rows here, so that the last of 37 is a short one."""
    monkeypatch.setattr(sparse_loss, "_GRADIENT_ROWS", 16)
    targets = random_targets()
    ours = leaves((TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    found = sparse_cross_entropy(ours[0], ours[1], targets, bias=ours[2], temperature=heat, chunk_tokens=chunk)
    expected = plain(theirs[0], theirs[1], targets, theirs[2], heat)
    # Scaled, as accumulation over steps does.
    (found.loss / 3).backward()
    (expected / 3).backward()
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.soft + found.hard, found.loss.detach())
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, right.grad)


def test_tied_embedding_gets_both_gradients() -> None:
    targets = random_targets(2)
    numbers = torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(3))
    (mine,) = leaves((VOCABULARY, WIDTH))
    right = mine.detach().clone().requires_grad_()
    sparse_cross_entropy(mine[numbers].tanh(), mine, targets, chunk_tokens=5).loss.backward()
    plain(right[numbers].tanh(), right, targets, None, 1.0).backward()
    torch.testing.assert_close(mine.grad, right.grad)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_as_its_digits(autocast: bool) -> None:
    """bf16 keeps 8 bits: against the exact gradient of the same rounded numbers, 2% of its size is ample for one
    product of rounded factors."""
    targets = random_targets(4, dtype=torch.float32)
    exact = [value.detach().bfloat16() for value in leaves((TOKENS, WIDTH), (VOCABULARY, WIDTH))]
    given = [value.float() if autocast else value.clone() for value in exact]
    ours = [value.requires_grad_() for value in given]
    theirs = [value.double().requires_grad_() for value in exact]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = sparse_cross_entropy(ours[0], ours[1], targets, chunk_tokens=1).loss
    found.backward()
    expected = plain(theirs[0], theirs[1], targets, None, 1.0)
    expected.backward()
    assert found.dtype == torch.float32
    assert abs(found.item() - expected.item()) < 0.01 * expected.item()
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.grad is not None and right.grad is not None and mine.grad.dtype == mine.dtype
        assert float((mine.grad.double() - right.grad).norm() / right.grad.norm()) < 0.02


def test_chunks_are_summed_in_float32() -> None:
    """1,000 times the same token, one a chunk: a sum kept in bf16 stands still once it is 256 times what is added."""
    size = 1000
    hidden = torch.ones(size, 2, dtype=torch.bfloat16)
    embedding = torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    labels, ones = torch.zeros(size, dtype=torch.int64), torch.ones(size)
    targets = TokenTargets(torch.zeros(size + 1, dtype=torch.int64), none, none.float(), 0 * ones, labels, ones)
    sparse_cross_entropy(hidden, embedding, targets, chunk_tokens=1, normalizer=1.0).loss.backward()
    assert embedding.grad is not None
    # softmax of four zeros: 1/4 each, so d/dW = 1000 (1/4 - y) h.
    expected = size * torch.tensor([[-0.75] * 2, *[[0.25] * 2] * 3])
    torch.testing.assert_close(embedding.grad.float(), expected, rtol=0.01, atol=0.0)


def test_padding_and_chunks_change_nothing_but_cost() -> None:
    """A token without weight has no gradient, whatever its states hold; parts normalised by the whole add up to it."""
    targets = replace(random_targets(5), soft_weight=torch.zeros(TOKENS), hard_weight=torch.ones(TOKENS))
    hidden, embedding = leaves((TOKENS, WIDTH), (VOCABULARY, WIDTH))
    with torch.no_grad():
        hidden[::5] = float("nan")
    loss = sparse_cross_entropy(hidden, embedding, targets).loss
    loss.backward()
    assert hidden.grad is not None and torch.isfinite(loss)
    assert hidden.grad[::5].abs().max() == 0 and (hidden.grad[1:5].abs().sum(1) > 0).all()
    kept = TOKENS - len(range(0, TOKENS, 5))
    halves = [
        TokenTargets(
            targets.offsets,
            targets.ids,
            targets.shares,
            targets.soft_weight,
            targets.labels,
            ((torch.arange(TOKENS) < 11) == early).double(),
        )
        for early in (True, False)
    ]
    parts = [sparse_cross_entropy(hidden, embedding, half, normalizer=kept).loss for half in halves]
    torch.testing.assert_close(parts[0] + parts[1], loss)


def test_nothing_to_learn_costs_nothing() -> None:
    hidden, embedding = leaves((TOKENS, WIDTH), (VOCABULARY, WIDTH))
    nothing = replace(random_targets(), soft_weight=torch.zeros(TOKENS), hard_weight=torch.zeros(TOKENS))
    loss = sparse_cross_entropy(hidden, embedding, nothing).loss
    loss.backward()
    assert loss.item() == 0.0 and hidden.grad is not None and float(hidden.grad.abs().max()) == 0.0


def test_logits_of_a_chunk_are_the_largest_that_is_made() -> None:
    """64 tokens in chunks of 8 over 5,000 words: no tensor on the way has as many numbers as 9 tokens' logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for value in made if isinstance(made, tuple | list) else (made,):
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel())
            return made

    hidden, embedding = leaves((64, 4), (5000, 4), dtype=torch.float32)
    labels = torch.arange(64)
    none = torch.zeros(0, dtype=torch.int64)
    targets = TokenTargets(
        torch.zeros(65, dtype=torch.int64), none, none.float(), torch.zeros(64), labels, torch.ones(64)
    )
    with Watch():
        sparse_cross_entropy(hidden, embedding, targets, chunk_tokens=8).loss.backward()
    assert largest == 8 * 5000


def test_misuse_is_told() -> None:
    hidden, embedding = leaves((TOKENS, WIDTH), (VOCABULARY, WIDTH))
    targets = random_targets()
    with pytest.raises(StudentError, match="flatten the batch"):
        sparse_cross_entropy(hidden[None], embedding, targets)
    with pytest.raises(StudentError, match="for 22 hidden states"):
        sparse_cross_entropy(hidden[1:], embedding, targets)
    with pytest.raises(StudentError, match="must fit in the student's"):
        sparse_cross_entropy(hidden, embedding[:20], targets)
    loss = sparse_cross_entropy(hidden, embedding, targets).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        loss.backward()
