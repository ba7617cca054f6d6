"""The list of rows that cannot be used, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from distill.labeling.errors import DataError

_LISTED_OF_A_KIND = 100_000
_SHOWN_CHARS = 500

Place = tuple[str, str, int]
"""Source, what it counts (``line`` or ``row``), and the number of the row, from 1."""


class ProblemLog:
    """Counts problems and writes each as a line of JSON.

    A line holds ``source``, ``line`` (or ``row``, where the source has no lines), ``row_id`` where one is known,
    ``kind``, ``detail``, ``used`` (whether the row is in the table nevertheless) and ``row``, its cells as found,
    shortened. Of each kind the first 100,000 are listed, and all are counted. The file is written only if there
    is something to list; an older one is removed.

    Attributes:
        path: The file.
        problems: Problems so far, by kind.
        unusable: Rows lost so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: Counter[str] = Counter()
        self.unusable = 0
        self._lost: Counter[str] = Counter()
        self._stream: IO[str] | None = None

    def __enter__(self) -> ProblemLog:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def add(
        self,
        kind: str,
        place: Place,
        *,
        detail: str,
        row: Mapping[str, object] | str,
        row_id: str | None = None,
        usable: bool = False,
    ) -> None:
        """Counts and lists one problem.

        Args:
            kind: What is wrong, in one word.
            place: Where the row stands.
            detail: What is wrong, in words.
            row: Its cells, or its text where it has none.
            row_id: Its id, where one is known.
            usable: Whether the row is kept.
        """
        self.problems[kind] += 1
        if not usable:
            self._lost[kind] += 1
            self.unusable += 1
        if self.problems[kind] > _LISTED_OF_A_KIND:
            return
        source, unit, number = place
        line = {"source": source, unit: number, "row_id": row_id, "kind": kind, "detail": detail, "used": usable}
        cells = row if isinstance(row, str) else {name: _shortened(value) for name, value in row.items()}
        if self._stream is None:
            self._stream = self.path.open("w", encoding="utf-8")
        self._stream.write(json.dumps({**line, "row": cells}, ensure_ascii=False, default=str) + "\n")

    def flush(self) -> None:
        """Makes what was listed readable by others."""
        if self._stream:
            self._stream.flush()

    def raise_if_too_bad(self, source: str, *, read: int, most: float) -> None:
        """Stops where too much was lost.

        Args:
            source: What was read, for the message.
            read: Rows read in all.
            most: Share of them that may be lost (``data.max_bad_fraction``).

        Raises:
            DataError: More than ``most`` of the rows read cannot be used, or none can.
        """
        if not self.unusable or (self.unusable <= most * read and self.unusable < read):
            return
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._lost.most_common())
        raise DataError(
            f"{source}: {self.unusable:,} of {read:,} rows cannot be used ({kinds}), more than the {most:.0%} that "
            f"data.max_bad_fraction allows; they are listed in {self.path}"
        )


def _shortened(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
