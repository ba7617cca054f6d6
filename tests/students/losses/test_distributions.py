import math

import pytest
import torch

from distill.students.losses.distributions import hard_cross_entropy_rows, mean_over_rows, soft_cross_entropy


def _reference(logits: list[list[float]], target: list[list[float]], weight: list[float]) -> float:
    """sum_i w_i * -sum_k t_ik (z_ik - log sum_j exp z_ij) / B, in plain Python."""
    total = 0.0
    for scores, shares, w in zip(logits, target, weight, strict=True):
        normaliser = math.log(sum(math.exp(z) for z in scores))
        total += w * -sum(t * (z - normaliser) for t, z in zip(shares, scores, strict=True))
    return total / len(logits)


LOGITS = [[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]]
TARGET = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]]
WEIGHT = [1.0, 0.5, 2.0]


def test_soft_cross_entropy_is_the_plain_formula() -> None:
    found = soft_cross_entropy(torch.tensor(LOGITS), torch.tensor(TARGET), weight=torch.tensor(WEIGHT))
    assert float(found) == pytest.approx(_reference(LOGITS, TARGET, WEIGHT), rel=1e-6)


def test_without_weights_they_are_ones() -> None:
    found = soft_cross_entropy(torch.tensor(LOGITS), torch.tensor(TARGET))
    assert float(found) == pytest.approx(_reference(LOGITS, TARGET, [1.0, 1.0, 1.0]), rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_their_number() -> None:
    # -sum_k t_k log(1/3) = log 3 whatever the target, since the shares sum to one.
    found = soft_cross_entropy(torch.zeros(1, 3), torch.tensor([[0.2, 0.5, 0.3]]))
    assert float(found) == pytest.approx(math.log(3))


def test_rows_of_weight_zero_add_nothing_but_count() -> None:
    padded = soft_cross_entropy(torch.tensor(LOGITS), torch.tensor(TARGET), weight=torch.tensor([1.0, 1.0, 0.0]))
    two = soft_cross_entropy(torch.tensor(LOGITS[:2]), torch.tensor(TARGET[:2]))
    assert float(padded) == pytest.approx(float(two) * 2 / 3, rel=1e-6)


def test_equal_parts_of_a_batch_have_its_loss_as_their_mean() -> None:
    torch.manual_seed(0)
    logits, weight = torch.randn(8, 4), torch.rand(8)
    target = torch.rand(8, 4)
    target /= target.sum(dim=1, keepdim=True)
    whole = soft_cross_entropy(logits, target, weight=weight)
    parts = [soft_cross_entropy(logits[i::2], target[i::2], weight=weight[i::2]) for i in range(2)]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2, rel=1e-6)


def test_hard_cross_entropy_is_torch_cross_entropy_to_the_top_label() -> None:
    found = mean_over_rows(hard_cross_entropy_rows(torch.tensor(LOGITS), torch.tensor(TARGET)))
    expected = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor([0, 1, 1]))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_gradient_is_that_of_the_divergence() -> None:
    # d/dz -sum t log softmax(z) = softmax(z) - t: the entropy of the target is a constant.
    logits = torch.tensor([LOGITS[0]], requires_grad=True)
    soft_cross_entropy(logits, torch.tensor([TARGET[0]])).backward()
    assert logits.grad is not None
    expected = torch.tensor([LOGITS[0]]).softmax(dim=1) - torch.tensor([TARGET[0]])
    assert torch.allclose(logits.grad, expected, atol=1e-6)
