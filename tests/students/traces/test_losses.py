import math

import pytest
import torch

from distill.students.traces.losses import agreement, clause_cross_entropy, contrast, unlikeness

SCORES = [[2.0, -1.0], [0.5, 0.0], [-3.0, 4.0]]
CITED = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
STATES = [[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]]
OTHERS = [[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]]
WEIGHT = [1.0, 0.5, 0.0]


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_clause_cross_entropy_is_the_plain_formula() -> None:
    # sum_i w_i * mean_c -(y log s + (1 - y) log(1 - s)) / B, in plain Python.
    expected = 0.0
    for scores, cited, weight in zip(SCORES, CITED, WEIGHT, strict=True):
        chances = [1 / (1 + math.exp(-score)) for score in scores]
        losses = [-math.log(p if y else 1 - p) for p, y in zip(chances, cited, strict=True)]
        expected += weight * sum(losses) / 2 / 3
    found = clause_cross_entropy(torch.tensor(SCORES), torch.tensor(CITED), weight=torch.tensor(WEIGHT))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_row_without_citations_pulls_at_nothing() -> None:
    scores = torch.tensor(SCORES, requires_grad=True)
    clause_cross_entropy(scores, torch.tensor(CITED), weight=torch.tensor(WEIGHT)).backward()
    assert scores.grad is not None
    assert scores.grad[2].abs().max() == 0.0
    assert scores.grad[:2].abs().min() > 0.0


def test_contrast_is_the_plain_formula() -> None:
    # Row 2 has weight 0: it is not asked, and rows 0 and 1 are not compared with its other.
    expected = 0.0
    for row in (0, 1):
        exponentials = [math.exp(_cosine(STATES[row], OTHERS[other]) / 0.5) for other in (0, 1)]
        expected += WEIGHT[row] * -math.log(exponentials[row] / sum(exponentials)) / 3
    states, others, weight = map(torch.tensor, (STATES, OTHERS, WEIGHT))
    assert float(contrast(states, others, weight=weight, temperature=0.5)) == pytest.approx(expected, rel=1e-5)


def test_contrast_of_nothing_known_is_zero_with_a_gradient() -> None:
    states = torch.tensor(STATES, requires_grad=True)
    found = contrast(states, torch.tensor(OTHERS), weight=torch.zeros(3), temperature=0.1)
    found.backward()
    assert found.item() == 0.0
    assert states.grad is not None
    assert states.grad.abs().max() == 0.0


def test_unlikeness_is_the_plain_formula() -> None:
    expected = sum(WEIGHT[i] * (1 - _cosine(STATES[i], OTHERS[i])) for i in range(3)) / 3
    states, others, weight = map(torch.tensor, (STATES, OTHERS, WEIGHT))
    assert float(unlikeness(states, others, weight=weight)) == pytest.approx(expected, rel=1e-6)


def test_agreement_is_the_plain_formula_and_moves_one_side_only() -> None:
    def shares(scores: list[float]) -> list[float]:
        total = sum(map(math.exp, scores))
        return [math.exp(score) / total for score in scores]

    expected = 0.0
    for said, told, weight in zip(SCORES, OTHERS, WEIGHT, strict=True):
        pairs = zip(shares(told), shares(said), strict=True)
        expected += weight * sum(p * math.log(p / q) for p, q in pairs) / 3
    logits, told_logits = (torch.tensor(part, requires_grad=True) for part in (SCORES, OTHERS))
    found = agreement(logits, told_logits, weight=torch.tensor(WEIGHT))
    assert found.item() == pytest.approx(expected, rel=1e-6)
    found.backward()
    assert logits.grad is not None
    assert told_logits.grad is None
