"""Examples on disk: each row is tokenised once, outside the step, and read back from a memory map.

A store is a folder of Arrow files, one a stretch of rows, uncompressed, so that a row is read where it lies; memory
does not grow with the rows. Whole numbers take the narrowest type that holds a stretch (most token ids two bytes), and
come back as what they were: a list, or an array of the same type.

A store that may serve other trainings too lies under a *key*: a digest of all that the examples follow from. Two
processes that need the same store wait for one to write it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from filelock import FileLock

from distill.students.network import Example, Network

CHUNK_ROWS = 8192
"""Rows read, tokenised and written together."""
_MOST_BYTES = 20 * 2**30
_SIZES = "sizes.npy"
_LIST, _ARRAY, _NESTED = "list", "array", "nested"


class ExampleStore(Sequence[Example]):
    """Opens a store.

    Args:
        folder: From :func:`write_store`.

    Attributes:
        sizes: ``[N]`` int32, the length of every example.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: np.ndarray = np.load(folder / _SIZES)
        self._chunks = [_Chunk(path) for path in sorted(folder.glob("*.arrow"))]
        self._starts = np.cumsum([0, *(chunk.rows for chunk in self._chunks)])

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """One example, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        chunk = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._chunks[chunk].example(number - int(self._starts[chunk]))

    def values(self, name: str) -> Iterator[np.ndarray]:
        """All numbers of one entry of the examples, a stretch of rows at a time, without their bounds."""
        return (chunk.columns[name].values for chunk in self._chunks)


def write_store(folder: Path, chunks: Iterable[Sequence[Example]], *, network: Network) -> ExampleStore:
    """Writes examples, a stretch at a time; the folder appears when it is whole.

    Args:
        folder: Where; must not be there.
        chunks: Stretches of examples, in order. Entries are numbers, lists or arrays of numbers, or lists of arrays.
        network: Says how long an example is.

    Raises:
        TypeError: An entry is of another type.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        sizes: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]
        for number, examples in enumerate(chunks):
            if examples:
                _write_chunk(partial / f"{number:06d}.arrow", examples)
                sizes.append(np.fromiter(map(network.size, examples), dtype=np.int32, count=len(examples)))
        np.save(partial / _SIZES, np.concatenate(sizes))
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExampleStore(folder)


def shared_store(root: Path, key: str, chunks: Iterable[Sequence[Example]], *, network: Network) -> ExampleStore:
    """The store of this key, written first where it is not there; the least lately used ones go above 20 GB."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / key
    with FileLock(root / f"{key}.lock"):
        found = ExampleStore(folder) if (folder / _SIZES).is_file() else write_store(folder, chunks, network=network)
        os.utime(folder)
    _prune(root, keep=folder)
    return found


def reading_key(network: Network, parts: Sequence[Any]) -> str | None:
    """Digest of all that a network's examples follow from; None where the network does not say what it reads with.

    Args:
        network: Has ``reading``, a value that JSON can write, if it says.
        parts: What else they follow from: a digest of the rows.
    """
    reading = getattr(network, "reading", None)
    if reading is None:
        return None
    text = json.dumps([_code_digest(), reading, *parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _code_digest() -> str:
    """Of the code of ``students/``: a store never outlives a change in how rows are read."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _prune(root: Path, *, keep: Path) -> None:
    """Removes stores, the least lately used first, until the rest fits; open ones stay readable on POSIX systems."""
    stores = []
    for path in root.iterdir():
        if path.is_dir() and (path / _SIZES).is_file():
            stores.append((path.stat().st_mtime, path, sum(file.stat().st_size for file in path.iterdir())))
    total = sum(size for _, _, size in stores)
    for _, path, size in sorted(stores):
        if total <= _MOST_BYTES:
            return
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def _write_chunk(path: Path, examples: Sequence[Example]) -> None:
    columns = {name: _encoded(name, [example[name] for example in examples]) for name in examples[0]}
    fields = [pa.field(name, array.type, metadata={"as": kind}) for name, (array, kind) in columns.items()]
    table = pa.Table.from_arrays([array for array, _ in columns.values()], schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=len(examples))


def _encoded(name: str, values: list[Any]) -> tuple[pa.Array, str]:
    """Values of one entry as an Arrow array, and what they were."""
    first = values[0]
    if isinstance(first, list) and first and isinstance(first[0], np.ndarray):
        inner, kind = _encoded(name, [array for arrays in values for array in arrays])
        return _ragged(inner, [len(arrays) for arrays in values]), f"{_NESTED}:{kind}"
    if isinstance(first, list):
        flat = np.array([number for numbers in values for number in numbers])
        kind = _LIST
    elif isinstance(first, np.ndarray) and first.ndim == 1:
        flat = np.concatenate(values)
        kind = f"{_ARRAY}:{first.dtype.str}"
    else:
        raise TypeError(f"example: {name}: cannot be kept on disk, got {type(first).__name__}; give lists or arrays")
    if flat.size == 0 and kind == _LIST:
        flat = flat.astype(np.int8)
    if flat.dtype.kind not in "iufb":
        raise TypeError(f"example: {name}: cannot be kept on disk, got values of {flat.dtype}; give numbers")
    return _ragged(pa.array(_narrow(flat)), [len(numbers) for numbers in values]), kind


def _ragged(values: pa.Array, lengths: Sequence[int]) -> pa.Array:
    return pa.LargeListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int64), values)


def _narrow(numbers: np.ndarray) -> np.ndarray:
    if numbers.dtype.kind not in "iu" or numbers.size == 0:
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    for narrow in (np.int8, np.int16, np.int32):
        if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
            return numbers.astype(narrow)
    return numbers


class _Column:
    """One entry of the examples of a chunk, over the memory map."""

    def __init__(self, array: Any, kind: str) -> None:
        self._offsets = array.offsets.to_numpy(zero_copy_only=True)
        self._nested = kind.startswith(_NESTED)
        if self._nested:
            self._inner = _Column(array.values, kind.removeprefix(f"{_NESTED}:"))
            self.values: np.ndarray = self._inner.values
            return
        self.values = array.values.to_numpy(zero_copy_only=array.values.type != pa.bool_())
        self._dtype = np.dtype(kind.removeprefix(f"{_ARRAY}:")) if kind.startswith(_ARRAY) else None

    def __getitem__(self, row: int) -> Any:
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        if self._nested:
            return [self._inner[number] for number in range(start, end)]
        part = self.values[start:end]
        return part.tolist() if self._dtype is None else part.astype(self._dtype)


class _Chunk:
    def __init__(self, path: Path) -> None:
        # The map lives as long as the arrays over it; memory of the operating system's cache, which it can take back.
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.rows = batch.num_rows
        self.columns = {
            field.name: _Column(batch.column(number), field.metadata[b"as"].decode())
            for number, field in enumerate(batch.schema)
        }

    def example(self, row: int) -> Example:
        return {name: column[row] for name, column in self.columns.items()}
