"""A softmax at every branch."""

import math

import pytest
import torch

from distill.students.path_softmax import NOTHING, PathSoftmax

LABELS = ("A > x", "A > y", "B", "C > z > w")


def test_a_label_is_as_probable_as_its_path() -> None:
    options = PathSoftmax(LABELS, nothing=False)
    scores = torch.zeros(1, len(options.nodes))
    scores[0, options.nodes.index("A")] = math.log(2.0)
    scores[0, options.nodes.index("A > x")] = math.log(3.0)
    # First level: A, B and C as 2 : 1 : 1; within A as 3 : 1; C has one way down.
    assert options.log_probs(scores).exp()[0].tolist() == pytest.approx([0.5 * 0.75, 0.5 * 0.25, 0.25, 0.25])


def test_plain_labels_are_one_softmax() -> None:
    options = PathSoftmax(("b", "a"), nothing=False)
    scores = torch.tensor([[1.0, 3.0]])
    assert torch.allclose(options.log_probs(scores), scores.log_softmax(dim=-1))


def test_a_label_above_others_stands_for_itself_alone_and_none_may_be_right() -> None:
    options = PathSoftmax(("A", "A > x"), nothing=True)
    assert options.options == ("A", "A > x", NOTHING)
    # Two ways from the top, and two from A.
    assert options.log_probs(torch.zeros(2, len(options.nodes))).exp()[1].tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_far_scores_do_not_overflow() -> None:
    options = PathSoftmax(LABELS, nothing=True)
    scores = torch.full((1, len(options.nodes)), -300.0)
    scores[0, 0] = 300.0
    scores.requires_grad_()
    found = options.log_probs(scores)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(found).all()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    assert float(found.exp().sum()) == pytest.approx(1.0)


def test_heads_begin_from_the_last_part_of_a_path() -> None:
    options = PathSoftmax(LABELS, nothing=True)
    assert dict(zip(options.nodes, options.names, strict=True))["C > z > w"] == "w"
    assert options.names[-1] == ""
