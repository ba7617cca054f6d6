import numpy as np
import pytest
import torch

from distill.students.losses.pairs import listwise_rows, margin_mse_rows

GRADE = [0.9, 0.2, 0.5, 0.4, 0.7]
WANTED = [1.0, 0.0, 0.3, 0.8, 0.1]
GROUP = [0, 0, 0, 1, 1]
WEIGHT = [1.0, 2.0, 0.5, 1.0, 1.0]


def _tensors(*, weight: list[float] = WEIGHT, group: list[int] = GROUP) -> tuple[torch.Tensor, ...]:
    return torch.tensor(GRADE), torch.tensor(WANTED), torch.tensor(group), torch.tensor(weight)


def test_margin_mse_is_the_plain_formula() -> None:
    expected = []
    for i, group in enumerate(GROUP):
        others = [j for j, other in enumerate(GROUP) if other == group and j != i]
        errors = [WEIGHT[j] * ((GRADE[i] - GRADE[j]) - (WANTED[i] - WANTED[j])) ** 2 for j in others]
        expected.append(sum(errors) / sum(WEIGHT[j] for j in others))
    assert margin_mse_rows(*_tensors()).tolist() == pytest.approx(expected, rel=1e-5)


def test_listwise_is_the_plain_formula() -> None:
    expected = []
    for group in GROUP:
        rows = [j for j, other in enumerate(GROUP) if other == group]
        weight = np.array([WEIGHT[j] for j in rows])
        given = weight * np.exp(np.array([GRADE[j] for j in rows]) / 0.25)
        wanted = weight * np.exp(np.array([WANTED[j] for j in rows]) / 0.25)
        given, wanted = given / given.sum(), wanted / wanted.sum()
        expected.append(float((wanted * np.log(wanted / given)).sum()))
    assert listwise_rows(*_tensors(), scale=0.25).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [margin_mse_rows, listwise_rows])
def test_a_shift_of_a_querys_grades_costs_nothing(loss: object) -> None:
    _, wanted, group, weight = _tensors()
    shifted = wanted + torch.tensor([0.1, 0.1, 0.1, -0.3, -0.3])
    assert loss(shifted, wanted, group, weight).tolist() == pytest.approx([0.0] * 5, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("loss", [margin_mse_rows, listwise_rows])
def test_rows_that_fill_up_and_rows_alone_change_nothing(loss: object) -> None:
    plain = loss(*_tensors())  # type: ignore[operator]
    filled = [torch.cat([part, part[:1]]) for part in _tensors()]
    filled[3][-1] = 0.0
    assert loss(*filled)[:5].tolist() == pytest.approx(plain.tolist(), rel=1e-5)  # type: ignore[operator]
    grade = torch.tensor(GRADE, requires_grad=True)
    alone = loss(grade, *_tensors(group=[0, 1, 2, 3, 4])[1:])  # type: ignore[operator]
    alone.sum().backward()
    assert alone.tolist() == pytest.approx([0.0] * 5, abs=1e-6)
    assert grade.grad is not None and grade.grad.tolist() == pytest.approx([0.0] * 5, abs=1e-6)
