import itertools
from collections import Counter

import numpy as np
import pytest

from distill.students.training.grouped_batches import GroupedBatches

# 40 queries of 1 to 12 rows, their rows apart.
GROUPS = np.random.default_rng(0).permutation(np.repeat(np.arange(40), np.arange(40) % 12 + 1))


def _batches(**settings: int) -> GroupedBatches:
    return GroupedBatches(GROUPS, **({"batch_size": 16, "rows_together": 4, "seed": 1} | settings))


@pytest.mark.parametrize(("batch_size", "rows_together"), [(16, 4), (2, 8), (1000, 8), (7, 3)])
def test_every_row_once_in_as_many_batches_as_promised(batch_size: int, rows_together: int) -> None:
    batches = _batches(batch_size=batch_size, rows_together=rows_together)
    for epoch in range(3):
        batches.epoch = epoch
        found = list(batches)
        assert len(found) == len(batches) == -(-len(GROUPS) // batch_size)
        assert sorted(row for batch in found for row, _ in batch) == list(range(len(GROUPS)))
        # A list goes to the emptiest batch: none can be a list ahead of another.
        assert max(map(len, found)) - min(map(len, found)) <= rows_together
        assert {factor for batch in found for _, factor in batch} == {1.0}


def test_rows_of_a_query_come_together() -> None:
    shared = sum(len(batch) - len(set(GROUPS[batch])) for batch in _batches().global_batches())
    # 264 rows; lists of 4 are cut from each query: a query of n rows has ceil(n / 4) lists.
    sizes = Counter(GROUPS.tolist())
    assert shared >= len(GROUPS) - sum(-(-size // 4) for size in sizes.values())


def test_epochs_and_seeds_differ_and_the_same_ones_agree() -> None:
    first, again, other = _batches(), _batches(), _batches(seed=2)
    assert list(first) == list(again)
    assert list(first) != list(other)
    again.epoch = 1
    assert list(first) != list(again)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_batch_by_whole_lists(processes: int) -> None:
    shares = [list(_batches(processes=processes, process=number)) for number in range(processes)]
    rng = np.random.default_rng(3)
    values = rng.normal(size=len(GROUPS))
    for lists, whole, *parts in zip(_batches()._batches(), list(_batches()), *shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        real = [[row for row, factor in part if factor > 0] for part in parts]
        assert sorted(itertools.chain(*real)) == sorted(row for row, _ in whole)
        # The mean over processes of sum(factor * value) / rows is the mean over the whole batch.
        means = [sum(factor * values[row] for row, factor in part) / len(part) for part in parts]
        assert np.mean(means) == pytest.approx(np.mean([values[row] for row, _ in whole]))
        for together in lists:
            assert sum(bool(set(together.tolist()) & set(rows)) for rows in real) == 1
