import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.students.training.batches import Examples, LengthGroupedBatches


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 90), batch_size=st.integers(1, 16), epoch=st.integers(0, 3))
def test_every_row_is_drawn_once_an_epoch(rows: int, batch_size: int, epoch: int) -> None:
    batches = LengthGroupedBatches(list(range(rows)), batch_size=batch_size, seed=3)
    batches.epoch = epoch
    drawn = [row for batch in batches for row, _ in batch]
    assert sorted(drawn) == list(range(rows))
    assert len(list(batches)) == len(batches)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 60), batch_size=st.integers(1, 12), processes=st.integers(1, 4))
def test_processes_share_the_batches_of_one(rows: int, batch_size: int, processes: int) -> None:
    sizes = list(np.random.default_rng(0).integers(1, 50, size=rows))
    shares = [
        list(LengthGroupedBatches(sizes, batch_size=batch_size, seed=1, processes=processes, process=process))
        for process in range(processes)
    ]
    values = np.random.default_rng(1).normal(size=rows)
    for whole, *parts in zip(LengthGroupedBatches(sizes, batch_size=batch_size, seed=1), *shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert sorted(row for part in parts for row, factor in part if factor > 0) == sorted(row for row, _ in whole)
        # The mean over processes of the mean over their rows is the mean over the batch.
        means = [sum(factor * values[row] for row, factor in part) / len(part) for part in parts]
        assert np.mean(means) == pytest.approx(np.mean([values[row] for row, _ in whole]))


def test_order_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[tuple[int, float]]]:
        batches = LengthGroupedBatches([1] * 40, batch_size=8, seed=seed)
        batches.epoch = epoch
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_like_lengths_share_a_batch() -> None:
    sizes = [int(size) for size in np.random.default_rng(0).integers(1, 100, size=256)]
    grouped = LengthGroupedBatches(sizes, batch_size=32, seed=0)
    padded = sum(max(sizes[row] for row, _ in batch) * len(batch) for batch in grouped)
    shuffled = np.random.default_rng(0).permutation(sizes).reshape(-1, 32)
    assert padded < 1.2 * sum(sizes)
    assert shuffled.max(axis=1).sum() * 32 > 1.8 * sum(sizes)


def test_a_factor_multiplies_the_weight() -> None:
    examples = Examples(
        [{"x": 1}, {"x": 2}],
        {
            "target": np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32),
            "weight": np.array([0.5, 2.0], dtype=np.float32),
        },
    )
    assert examples[1]["weight"] == 2.0
    assert examples[(1, 0.25)]["weight"] == 0.5
    assert examples[(0, 0.0)]["example"] == {"x": 1}
