"""A softmax over paths, and what each level of a mistake costs."""

import math

import pytest
import torch

from distill.students.queries.tree_softmax import NOTHING, TreeSoftmax

LABELS = ("A > x", "A > y", "B", "C > z > w")


def test_a_path_costs_the_mean_of_its_levels() -> None:
    options = TreeSoftmax(LABELS, nothing=False)
    scores = torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log()
    assert options.log_probs(scores).exp()[0].tolist() == pytest.approx([4 / 8, 2 / 8, 1 / 8, 1 / 8])
    # A has 6/8. C, C > z and C > z > w all have 1/8.
    expected = [
        (math.log(6 / 8) + math.log(4 / 8)) / 2,
        (math.log(6 / 8) + math.log(2 / 8)) / 2,
        math.log(1 / 8),
        math.log(1 / 8),
    ]
    assert options.path_log_probs(scores)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_mistake_within_a_branch_costs_less_than_one_across() -> None:
    options = TreeSoftmax(("A > x", "A > y", "B > z"), nothing=False)
    within, across = torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0]])
    assert options.path_log_probs(within)[0, 0] > options.path_log_probs(across)[0, 0]
    assert options.log_probs(within)[0, 0] == options.log_probs(across)[0, 0]


def test_plain_labels_are_one_softmax() -> None:
    options = TreeSoftmax(("b", "a"), nothing=False)
    scores = torch.tensor([[1.0, 3.0]])
    assert torch.allclose(options.path_log_probs(scores), scores.log_softmax(dim=-1))


def test_a_label_above_others_stands_for_itself_alone_and_none_may_be_right() -> None:
    options = TreeSoftmax(("A", "A > x"), nothing=True)
    assert options.options == ("A", "A > x", NOTHING)
    # A third each; the branch A has two of them.
    found = options.path_log_probs(torch.zeros(1, 3))[0].tolist()
    assert found == pytest.approx([math.log(1 / 3), (math.log(2 / 3) + math.log(1 / 3)) / 2, math.log(1 / 3)])


def test_far_scores_neither_overflow_nor_lose_their_gradient() -> None:
    options = TreeSoftmax(LABELS, nothing=True)
    scores = torch.tensor([[300.0, -300.0, -300.0, -300.0, -300.0]], requires_grad=True)
    found = options.path_log_probs(scores)
    found[0, 2].backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(found).all()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-1.0, 0.0, 1.0, 0.0, 0.0])


def test_heads_begin_from_the_last_part_and_the_whole_of_a_path() -> None:
    assert TreeSoftmax(LABELS, nothing=True).names[3:] == (("w", "C, z, w"), ("", ""))
