"""Hugging Face data sets as batches of rows, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.source import BATCH_ROWS, Batches, RawBatch, Wanted, require_columns

_ADDRESS = re.compile(r"^hf://(?P<name>[^/:\s]+/[^/:\s]+)(?::(?P<config>[^/\s]+))?(?:/(?P<split>[^\s]+))?$")
SPLIT_COLUMN = "split"
"""Where a set of several splits is read whole and has no column of this name, it holds the split's name."""


@dataclass(frozen=True)
class HubAddress:
    """``hf://owner/set:config/split``, taken apart."""

    name: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Reads the address.

        Raises:
            DataError: It does not have that form.
        """
        found = _ADDRESS.match(text)
        if not found:
            raise DataError(f"data.rows: {text!r} is no data set; write hf://owner/set, hf://owner/set:config/split")
        return cls(found["name"], found["config"], found["split"])


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_hub(address: str, wanted: Wanted) -> Batches:
    """Streams a data set of the Hugging Face hub.

    Raises:
        DataError: The address is wrong, the set cannot be reached or opened, or a wanted column is missing.
    """
    import datasets

    place = HubAddress.parse(address)
    try:
        found = datasets.load_dataset(place.name, place.config, split=place.split, streaming=True)
    except Exception as error:
        raise DataError(
            f"{address}: cannot be opened ({type(error).__name__}: {_first_line(error)}); check owner, set, config and "
            "split, the network, and HF_TOKEN for a private set"
        ) from error
    yield from read_dataset(found, wanted, source=address)


def read_saved(path: Path, wanted: Wanted) -> Batches:
    """Reads a folder written by ``save_to_disk``, memory-mapped."""
    import datasets

    yield from read_dataset(datasets.load_from_disk(str(path)), wanted, source=str(path))


def read_dataset(found: Any, wanted: Wanted, *, source: str) -> Batches:
    """Reads a data set that is open: one split, or several one after another.

    Args:
        found: A ``Dataset``, ``IterableDataset``, or a dict of either by split.
        wanted: The columns to take.
        source: What to call it in messages.

    Raises:
        DataError: A wanted column is missing, or rows cannot be fetched.
    """
    splits = found.items() if isinstance(found, dict) else [("", found)]
    for split, part in splits:
        name = f"{source}/{split}" if split else source
        number = 0
        for frame in _frames(part, name, wanted, split):
            yield RawBatch(name, "row", range(number + 1, number + 1 + frame.height), frame)
            number += frame.height


def _frames(part: Any, source: str, wanted: Wanted, split: str) -> Iterator[pl.DataFrame]:
    from datasets import Dataset

    adds_split = bool(split) and SPLIT_COLUMN in wanted and SPLIT_COLUMN not in (part.column_names or ())
    taken = [name for name in wanted if not (adds_split and name == SPLIT_COLUMN)]
    if part.column_names is not None:
        require_columns(source, part.column_names, {name: wanted[name] for name in taken})
        # A view of some columns keeps images and audio undecoded, which the table has no use for.
        part = part.select_columns(taken)
    arrow = part.with_format("arrow")
    batches: Iterable[Any] = arrow.iter(batch_size=BATCH_ROWS)
    try:
        for table in batches:
            frame = pl.DataFrame(pl.from_arrow(table))
            require_columns(source, frame.columns, {name: wanted[name] for name in taken})
            frame = _class_names(frame.select(taken), part)
            yield frame.with_columns(pl.lit(split).alias(SPLIT_COLUMN)) if adds_split else frame
    except (OSError, ConnectionError) as error:
        kind = "Dataset" if isinstance(part, Dataset) else "stream"
        raise DataError(f"{source}: the {kind} broke off ({_first_line(error)}); run the same command again") from error


def _class_names(frame: pl.DataFrame, part: Any) -> pl.DataFrame:
    """Writes class labels by name: the numbers that the set stores mean nothing outside it."""
    from datasets import ClassLabel

    for name, feature in (part.features or {}).items():
        if isinstance(feature, ClassLabel) and name in frame.columns and feature.names:
            names = pl.Series(feature.names, dtype=pl.String)
            codes = frame[name].cast(pl.Int64)
            known = codes.is_between(0, len(names) - 1)
            frame = frame.with_columns(names.gather(codes.set(~known.fill_null(False), None)).alias(name))
    return frame


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
