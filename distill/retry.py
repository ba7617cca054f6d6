"""Asking again only what failed: rows that are labeled stay as they are, whatever has changed in the recipe since."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from distill.labeling.errors import RunFolderError
from distill.labeling.teacher import Prompt, Request, Teacher
from distill.run_folder import RunFolder

_KEY = ("row_id", "teacher", "sample")


def failures_to_retry(folder: RunFolder, *, question: str) -> pl.DataFrame:
    """Reads what failed: ``row_id``, ``teacher`` and ``sample`` of every line of ``failures.jsonl``.

    Args:
        folder: The run.
        question: Fingerprint of the rows and of what is asked of them, as the recipe has them now.

    Raises:
        RunFolderError: There are no votes yet, they answer another question, or the file cannot be read.
    """
    record = folder.stage("label")
    if record is None or not folder.votes.exists() or not folder.failures.exists():
        raise RunFolderError(
            f"{folder.path}: nothing to retry, no teacher was asked here yet; leave --retry-failed out"
        )
    if record.facts.get("question") != question:
        raise RunFolderError(
            f"{folder.path}: the rows, the guideline or the task changed since its votes were asked for, and the new "
            "votes would answer another question than those kept; leave --retry-failed out to ask every row"
        )
    if (record.facts.get("cascade") or {}).get("stopped"):
        raise RunFolderError(
            f"{folder.path}: the cascade ended before it was known which rows go to whom, so that rows never asked "
            "about are among those that failed; leave --retry-failed out: the ledger holds what was answered"
        )
    if folder.failures.stat().st_size == 0:
        return pl.DataFrame(schema={"row_id": pl.String, "teacher": pl.String, "sample": pl.Int32})
    try:
        found = pl.read_ndjson(folder.failures, schema_overrides={"row_id": pl.String}).select(_KEY)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunFolderError(f"{folder.failures}: cannot be read ({error}); leave --retry-failed out") from None
    return found.with_columns(pl.col("sample").cast(pl.Int32)).unique(_KEY)


def only_failed(teachers: Sequence[Teacher], failures: pl.DataFrame) -> list[Teacher]:
    """The teachers that failed on something, each made to see nothing but that.

    Raises:
        RunFolderError: None of them is in the recipe any more.
    """
    wanted = {
        str(name): set(part.select("row_id", "sample").iter_rows())
        for (name,), part in failures.partition_by("teacher", as_dict=True).items()
    }
    found = [only_these(one, wanted[one.name]) for one in teachers if one.name in wanted]
    if not found:
        raise RunFolderError(
            f"--retry-failed: the recipe no longer has the teachers that failed ({', '.join(sorted(wanted))}); leave "
            "--retry-failed out"
        )
    return found


def only_these(teacher: Teacher, wanted: set[Any], *, live: bool = False) -> Teacher:
    """A teacher that has nothing to say on rows that it is not to be asked about.

    Args:
        teacher: Who is asked.
        wanted: ``(row_id, sample)`` of what it is asked about.
        live: Whether it is asked live also where it would go by batch jobs.
    """
    return cast(Teacher, _OnlyThese(teacher, wanted, live=live))


def merged_votes(kept: Path, parts: Path, failures: pl.DataFrame) -> pl.LazyFrame:
    """The votes that there were, with those on failed rows replaced by the new ones, where there is one.

    Args:
        kept: Table of the votes that there were.
        parts: Folder with the tables of new ones.
        failures: The rows that were asked again.
    """
    fresh = pl.scan_parquet(parts / "*.parquet").join(failures.lazy(), on=_KEY, how="semi")
    old = pl.scan_parquet(kept).join(fresh.select(_KEY), on=_KEY, how="anti")
    return pl.concat([old, fresh], how="diagonal_relaxed")


class _OnlyThese:
    """A teacher that gives no request for rows that are not wanted; in all else it is the teacher given."""

    def __init__(self, teacher: Teacher, wanted: set[Any], *, live: bool = False) -> None:
        self._teacher = teacher
        self._wanted = wanted
        if live:
            self.batches = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        """As the teacher's own, for rows that are wanted."""
        return self._teacher.compile(prompt, sample=sample) if (prompt.row_id, sample) in self._wanted else None
