"""Finds the files that ``data.rows`` means and reads each in its format."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.data_config import DataConfig, as_names
from distill.labeling.rows.hub import is_saved_dataset, read_hub, read_saved
from distill.labeling.rows.source import BATCH_ROWS, Batches, RawBatch, Wanted, require_columns
from distill.labeling.rows.text import read_csv, read_json

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def read_source(config: DataConfig, wanted: Wanted) -> Batches:
    """Reads all of ``data.rows`` in order.

    Raises:
        DataError: Something does not exist, cannot be opened, or lacks a wanted column.
    """
    for place in as_names(config.rows):
        if place.startswith("hf://"):
            yield from read_hub(place, wanted)
        elif is_saved_dataset(Path(place)):
            yield from read_saved(Path(place), wanted)
        else:
            for path in find_files(place, config.format):
                yield from _read_file(path, config, wanted)


def find_files(place: str, file_format: str = "auto") -> list[Path]:
    """The files of a path, a folder (with the folders in it) or a glob, sorted.

    Hidden files and those that begin with an underscore are left out, as are files of other kinds in a folder.

    Raises:
        DataError: There is none.
    """
    path = Path(place)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [item for item in path.rglob("*") if item.is_file() and not _is_hidden(item.relative_to(path))]
        if file_format == "auto":
            found = [item for item in found if format_of(item)]
        if not found:
            raise DataError(f"{place}: no data in this folder; it needs files that end in {', '.join(_FORMATS)}")
        return sorted(found)
    if glob.has_magic(place):
        found = [Path(item) for item in glob.glob(place, recursive=True) if Path(item).is_file()]
        if not found:
            raise DataError(f"{place}: no file matches this pattern; check data.rows")
        return sorted(found)
    raise DataError(f"{place}: no such file or folder{_hint(path)}; check data.rows")


def format_of(path: Path) -> str | None:
    """Format by the file's ending, looking under that of a compressor; None where it says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def frame_batches(frame: pl.DataFrame | pl.LazyFrame, wanted: Wanted, *, source: str) -> Batches:
    """Cuts a polars table into batches; a lazy one is run in streaming mode.

    Args:
        frame: The rows.
        wanted: Columns by name, with the recipe's keys that want them.
        source: What the frame is called in messages.

    Raises:
        DataError: A wanted column is missing.
    """
    require_columns(source, frame.collect_schema().names(), wanted)
    parts = _slices(frame) if isinstance(frame, pl.DataFrame) else _streamed(frame.select(list(wanted)))
    number = 0
    for part in parts:
        yield RawBatch(source, "row", range(number + 1, number + 1 + part.height), part.select(list(wanted)))
        number += part.height


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield from (part for part in frame.iter_slices(BATCH_ROWS) if part.height)


def _streamed(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    for part in frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, lazy=True):
        # A chunk is a lower bound of what comes at once.
        yield from _slices(part)


def _read_file(path: Path, config: DataConfig, wanted: Wanted) -> Batches:
    file_format = config.format if config.format != "auto" else format_of(path)
    if file_format is None:
        raise DataError(f"{path}: its ending does not say what it is; set data.format to csv, tsv, jsonl or parquet")
    try:
        if file_format == "parquet":
            yield from frame_batches(pl.scan_parquet(path, glob=False), wanted, source=str(path))
        elif file_format == "jsonl":
            yield from read_json(path, wanted, encoding=config.encoding)
        else:
            separator = "\t" if file_format == "tsv" else None
            yield from read_csv(path, wanted, encoding=config.encoding, separator=separator)
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as {file_format} ({reason}); is the file whole?") from error


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent})"
    close = difflib.get_close_matches(path.name, [item.name for item in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
