import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.job import TRAIN, Job
from distill.students.network import Example
from distill.students.train import new_network, read_examples
from distill.students.training import example_store
from distill.students.training.example_store import ExampleStore, reading_key, shared_store, write_store
from distill.students.training.objective import Objective, objective_for
from distill.students.training_set import TrainingSet, training_set


class Lengths:
    """A network that only knows how long an example is."""

    reading = "lengths"

    def size(self, example: Example) -> int:
        return len(example["ids"])


def _example(number: int) -> Example:
    return {
        "ids": list(range(number)),
        "wide": [number, 70_000],
        "slots": [np.arange(number % 3), np.array([7], dtype=np.int64)],
        "dense": np.array([number / 2, 1.0], dtype=np.float32),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and bool(np.array_equal(a, b))
    if isinstance(a, list) and a and isinstance(a[0], np.ndarray):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def test_examples_come_back_as_they_were(tmp_path: Path) -> None:
    examples = [_example(number) for number in range(10)]
    store = write_store(tmp_path / "s", [examples[:4], examples[4:9], examples[9:]], network=Lengths())  # type: ignore[arg-type]
    assert len(store) == 10
    assert all(_same(store[number], example) for number, example in enumerate(examples))
    assert _same(store[-1], examples[9])
    assert [len(found["ids"]) for found in store[2:9:3]] == [2, 5, 8]
    assert store.sizes.tolist() == list(range(10))
    assert np.concatenate(list(store.values("wide"))).tolist() == [n for i in range(10) for n in (i, 70_000)]
    with pytest.raises(IndexError, match="example 10 of 10"):
        store[10]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="text: cannot be kept on disk"):
        write_store(tmp_path / "s", [[{"ids": [1], "text": "a"}]], network=Lengths())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_written_once_and_the_least_used_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def chunks() -> Iterator[Sequence[Example]]:
        reads.append(1)
        yield [_example(3)]

    for key in ("a", "a", "b"):
        shared_store(tmp_path, key, chunks(), network=Lengths())  # type: ignore[arg-type]
    assert len(reads) == 2
    os.utime(tmp_path / "b", (1, 1))
    monkeypatch.setattr(example_store, "_MOST_BYTES", 1)
    kept = shared_store(tmp_path, "a", chunks(), network=Lengths())  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a"]
    assert _same(kept[0], _example(3))


def _training(rows: pl.DataFrame, task: Task) -> TrainingSet:
    return training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.25)


@pytest.mark.parametrize("kind", ["dcn", "encoder"])
def test_stored_examples_are_what_the_network_reads(
    kind: str, rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.students.train.CHUNK_ROWS", 10)
    config = DcnConfig(train_on=("human",)) if kind == "dcn" else EncoderConfig(base=str(tiny_base))
    job = Job(tmp_path / "job", config, labels=task.labels, inputs=task.inputs, seed=0, store=tmp_path / "store")
    job.write(_training(rows, task))
    network = new_network(config, labels=task.labels, inputs=task.inputs, rows=pl.LazyFrame())
    found = read_examples(job, TRAIN, network=network, objective=objective_for(config, task=task))
    assert isinstance(found.examples, ExampleStore)
    whole = network.read(_training(rows, task).train)
    assert len(whole) == len(found) == 36
    assert all(_same(a, b) for a, b in zip(found.examples, whole, strict=True))
    assert found.examples.sizes.tolist() == [network.size(example) for example in whole]
    # The same rows for another loss or seed are not read again; another length is another reading.
    monkeypatch.setattr(network, "read", lambda table: pytest.fail("read again"))
    again = read_examples(job, TRAIN, network=network, objective=objective_for(config, task=task))
    assert len(again) == 36


def test_a_key_follows_what_is_read_with(tiny_base: Path, task: Task) -> None:
    def key(rows: str = "rows", **settings: Any) -> str | None:
        config = EncoderConfig(base=str(tiny_base), **settings)
        return reading_key(new_network(config, labels=task.labels, inputs=task.inputs, rows=pl.LazyFrame()), [rows])

    assert key() == key(lr=1e-2)
    assert len({key(), key("others"), key(max_length=32), key(match_tokens=False)}) == 4
    assert reading_key(object(), ["rows"]) is None  # type: ignore[arg-type]


def test_only_an_objective_that_asks_for_texts_gets_them(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    config = DcnConfig(train_on=("human",), label_smoothing=0.3, confidence_weight=True)
    job = Job(tmp_path / "job", config, labels=task.labels, inputs=task.inputs, seed=0)
    job.write(_training(rows, task))
    network = new_network(config, labels=task.labels, inputs=task.inputs, rows=pl.LazyFrame())
    seen: dict[bool, list[str]] = {}
    targets = []

    class Watching(Objective):
        def __init__(self, texts: bool) -> None:
            self.columns_need_texts = texts

        def read(self, network: Any, table: pl.DataFrame) -> Sequence[Example]:
            targets.extend(table["target"].to_list())
            return [{"slots": [np.array([1])], "dense": np.zeros(1, np.float32)}] * table.height

        def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
            seen[self.columns_need_texts] = table.columns
            return {"weight": table["weight"].to_numpy()}

        def loss(self, *_: Any) -> Any: ...

    for texts in (True, False):
        examples = read_examples(job, TRAIN, network=network, objective=Watching(texts))
    assert set(seen[True]) - set(seen[False]) == {"query", "title", "brand", "trace"}
    # 0.7 of the label, and a tenth for each of three labels; weights are scaled back to mean 1.
    assert sorted(targets[0]) == pytest.approx([0.1, 0.1, 0.8])
    assert examples.columns["weight"].mean() == pytest.approx(1.0)
