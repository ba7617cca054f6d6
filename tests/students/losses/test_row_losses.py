"""Each loss against its formula in plain numpy, in float64, row by row."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.students.losses import distributions as losses
from distill.students.losses import noise as noise_losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=2.0, size=(5, 4))
TARGET = RANDOM.dirichlet(np.ones(4), size=5)
TARGET[4] = [0.0, 1.0, 0.0, 0.0]
MEMORY = RANDOM.dirichlet(np.ones(4), size=5)
CONFUSION = RANDOM.dirichlet(np.ones(4) * 2, size=(5, 4))


def _softmax(row: np.ndarray) -> np.ndarray:
    exponentials = np.exp(row - row.max())
    result: np.ndarray = exponentials / exponentials.sum()
    return result


def _entropy_terms(t: np.ndarray) -> float:
    return float(sum(share * np.log(share) for share in t if share > 0))


def _softened(z: np.ndarray, t: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    soft = t ** (1 / temperature)
    return _softmax(z / temperature), soft / soft.sum()


def _soft_ce(z: np.ndarray, t: np.ndarray, temperature: float = 1.0) -> float:
    p, t = _softened(z, t, temperature)
    return float(temperature**2 * -(t * np.log(p)).sum())


def _forward_kl(z: np.ndarray, t: np.ndarray, temperature: float) -> float:
    p, t = _softened(z, t, temperature)
    return float(temperature**2 * (_entropy_terms(t) - (t * np.log(p)).sum()))


def _reverse_kl(z: np.ndarray, t: np.ndarray, temperature: float) -> float:
    p, t = _softened(z, t, temperature)
    return float(temperature**2 * (p * (np.log(p) - np.log(np.maximum(t, 1e-4)))).sum())


def _jsd(z: np.ndarray, t: np.ndarray, temperature: float, beta: float) -> float:
    p, t = _softened(z, t, temperature)
    m = beta * t + (1 - beta) * p
    of_teacher = _entropy_terms(t) - (t * np.log(m)).sum()
    return float(temperature**2 * (beta * of_teacher + (1 - beta) * (p * np.log(p / m)).sum()))


def _gce(z: np.ndarray, t: np.ndarray, q: float) -> float:
    return float((t * (1 - _softmax(z) ** q) / q).sum())


def _sce(z: np.ndarray, t: np.ndarray, alpha: float, beta: float, log_zero: float) -> float:
    logs = np.array([max(np.log(share), log_zero) if share > 0 else log_zero for share in t])
    return float(alpha * _soft_ce(z, t) - beta * (_softmax(z) * logs).sum())


def _cumulated(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.cumsum(_softmax(z))[:-1] - np.cumsum(t)[:-1]
    return result


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], float]]] = {
    "soft_ce": (losses.soft_cross_entropy_rows, _soft_ce),
    "soft_ce T 2": (
        lambda z, t: losses.soft_cross_entropy_rows(z, t, temperature=2.0),
        lambda z, t: _soft_ce(z, t, 2.0),
    ),
    "hard_ce": (losses.hard_cross_entropy_rows, lambda z, t: float(-np.log(_softmax(z)[t.argmax()]))),
    "forward_kl": (lambda z, t: losses.forward_kl_rows(z, t, temperature=3.0), lambda z, t: _forward_kl(z, t, 3.0)),
    "reverse_kl": (lambda z, t: losses.reverse_kl_rows(z, t, temperature=0.5), lambda z, t: _reverse_kl(z, t, 0.5)),
    "jsd": (
        lambda z, t: losses.jsd_rows(z, t, beta=0.3, temperature=2.0),
        lambda z, t: _jsd(z, t, temperature=2.0, beta=0.3),
    ),
    "gce": (
        lambda z, t: noise_losses.generalised_cross_entropy_rows(z, t, q=0.7),
        lambda z, t: _gce(z, t, 0.7),
    ),
    "sce": (
        lambda z, t: noise_losses.symmetric_cross_entropy_rows(z, t, alpha=0.5, beta=2.0, log_zero=-3.0),
        lambda z, t: _sce(z, t, 0.5, 2.0, -3.0),
    ),
    "rps": (losses.rps_rows, lambda z, t: float((_cumulated(z, t) ** 2).sum() / 3)),
    "emd 1": (lambda z, t: losses.emd_rows(z, t, power=1), lambda z, t: float(np.abs(_cumulated(z, t)).sum())),
    "emd 2": (lambda z, t: losses.emd_rows(z, t, power=2), lambda z, t: float((_cumulated(z, t) ** 2).sum())),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_is_its_formula(name: str) -> None:
    loss, reference = CASES[name]
    found = loss(torch.tensor(LOGITS), torch.tensor(TARGET))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([reference(z, t) for z, t in zip(LOGITS, TARGET, strict=True)], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_of_the_formula(name: str) -> None:
    loss, reference = CASES[name]
    logits = torch.tensor(LOGITS[:1], requires_grad=True)
    loss(logits, torch.tensor(TARGET[:1])).sum().backward()
    assert logits.grad is not None
    step = 1e-5 * np.eye(4)
    slope = [(reference(LOGITS[0] + d, TARGET[0]) - reference(LOGITS[0] - d, TARGET[0])) / 2e-5 for d in step]
    assert logits.grad[0].tolist() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_finite_where_student_and_label_are_certain_and_disagree(name: str) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0, 0.0]], requires_grad=True)
    CASES[name][0](logits, torch.tensor([[0.0, 1.0, 0.0, 0.0]])).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("name", ["forward_kl", "jsd", "rps", "emd 1", "emd 2"])
def test_divergences_are_zero_at_the_target(name: str) -> None:
    found = CASES[name][0](torch.tensor(np.log(TARGET[:4])), torch.tensor(TARGET[:4]))
    assert found.tolist() == pytest.approx([0.0] * 4, abs=1e-5)


def test_early_learning_is_its_formula() -> None:
    found = noise_losses.early_learning_rows(
        torch.tensor(LOGITS), torch.tensor(TARGET), torch.tensor(MEMORY).float(), strength=3.0
    )
    expected = [
        _soft_ce(z, t) + 3.0 * np.log(1 - (_softmax(z) * m).sum())
        for z, t, m in zip(LOGITS, TARGET, MEMORY, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_early_learning_pulls_towards_what_was_remembered() -> None:
    # Label says 1, memory says 0: beside plain cross-entropy the step raises logit 0.
    logits = torch.zeros(1, 3, requires_grad=True)
    target, remembered = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.9, 0.05, 0.05]])
    noise_losses.early_learning_rows(logits, target, remembered).sum().backward()
    assert logits.grad is not None
    plain = torch.full((1, 3), 1 / 3) - target
    assert logits.grad[0, 0] < plain[0, 0]


def test_forward_correction_is_its_formula() -> None:
    found = noise_losses.corrected_cross_entropy_rows(
        torch.tensor(LOGITS), torch.tensor(TARGET), torch.tensor(CONFUSION).float()
    )
    expected = [
        -(t * np.log(_softmax(z) @ confusion)).sum() for z, t, confusion in zip(LOGITS, TARGET, CONFUSION, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_forward_correction_by_no_confusion_is_cross_entropy() -> None:
    identity = torch.eye(4).expand(5, 4, 4)
    logits, target = torch.tensor(LOGITS), torch.tensor(TARGET)
    found = noise_losses.corrected_cross_entropy_rows(logits, target, identity)
    assert found.tolist() == pytest.approx(losses.soft_cross_entropy_rows(logits, target).tolist(), rel=1e-5)


def test_the_best_answer_under_forward_correction_is_the_truth() -> None:
    # True share of label 0 is 0.9; a source that is right 4 times in 5 says it 0.9 * 0.8 + 0.1 * 0.2 = 0.74 of times.
    confusion = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]])
    logits = torch.tensor([[np.log(9.0), 0.0]], dtype=torch.float32, requires_grad=True)
    noise_losses.corrected_cross_entropy_rows(logits, torch.tensor([[0.74, 0.26]]), confusion).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_generalised_cross_entropy_pulls_as_cross_entropy_times_belief_to_the_q() -> None:
    # d/dz (1 - p^q) / q = p^q * d/dz -log p.
    target = torch.tensor([[0.0, 1.0, 0.0]])
    gradients = []
    for loss in (lambda z, t: noise_losses.generalised_cross_entropy_rows(z, t, q=0.5), losses.soft_cross_entropy_rows):
        logits = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True)
        loss(logits, target).sum().backward()
        gradients.append(logits.grad)
    belief = torch.tensor([2.0, 0.0, 1.0]).softmax(0)[1]
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.allclose(gradients[0], belief.sqrt() * gradients[1], atol=1e-6)


def test_a_temperature_keeps_the_size_of_gradients() -> None:
    # For logits near 0 the gradient at T is T² * (p_T - t_T) / T, about (z - log-odds of t) / K at any T.
    sizes = []
    for temperature in (10.0, 20.0):
        logits = torch.tensor([[0.1, -0.1]], requires_grad=True)
        losses.forward_kl_rows(logits, torch.tensor([[0.4, 0.6]]), temperature=temperature).sum().backward()
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
