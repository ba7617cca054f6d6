import threading

import numpy as np
import pytest
import torch

from distill.students.network import Output
from distill.students.scoring import ahead, like_lengths, score


def test_batches_hold_like_lengths_and_no_more_tokens_than_allowed() -> None:
    # Sorted: 2 2 3 | 5 5 | 9. Three of 3 are 9 <= 10, a fourth row of 5 would make 20; two of 5 are 10; 9 is alone.
    found = like_lengths([5, 2, 9, 2, 3, 5], rows=None, tokens=10)
    assert [batch.tolist() for batch in found] == [[1, 3, 4], [0, 5], [2]]


def test_a_row_longer_than_the_budget_is_alone() -> None:
    assert [batch.tolist() for batch in like_lengths([30, 1, 30], rows=None, tokens=10)] == [[1], [0], [2]]


def test_a_number_of_rows_is_kept_to() -> None:
    assert [batch.tolist() for batch in like_lengths([3, 1, 2], rows=2, tokens=1)] == [[1, 2], [0]]
    assert like_lengths([], rows=None, tokens=1) == like_lengths([], rows=2, tokens=1) == []


class _Lengths:
    """Scores a row by its length and one more; two batches have to be under way at once for it to answer."""

    model = torch.nn.Identity()
    batches_in_threads = True

    def __init__(self, at_once: int) -> None:
        self.met = threading.Barrier(at_once)

    def size(self, example: dict[str, int]) -> int:
        return example["length"]

    def collate(self, examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        return {"lengths": torch.tensor([example["length"] for example in examples])}

    def forward(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Output:
        self.met.wait(10)
        return Output(torch.stack([batch["lengths"], batch["lengths"] + 1], dim=1))


@pytest.mark.parametrize("threads", [1, 2])
def test_scores_are_in_the_order_of_the_examples(threads: int) -> None:
    lengths = [4, 1, 3, 2]
    examples = [{"length": length} for length in lengths]
    network = _Lengths(at_once=threads)
    found = score(network, examples, device=torch.device("cpu"), rows=2, bf16=False, threads=threads)  # type: ignore[arg-type]
    assert found["labels"].tolist() == [[length, length + 1] for length in lengths]
    assert found["labels"].dtype == np.float32


@pytest.mark.parametrize("threads", [1, None])
def test_one_is_made_ahead_and_no_more(threads: int | None) -> None:
    taken = []

    def items() -> object:
        for number in range(5):
            taken.append(number)
            yield number

    made = ahead(items(), str, threads=threads)  # type: ignore[arg-type]
    assert next(made) == "0"
    assert taken == ([0] if threads == 1 else [0, 1])
    assert list(made) == ["1", "2", "3", "4"]


def test_what_fails_ahead_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(ahead(["1", "x", "2"], int, threads=None))
