"""Labels of several people on a row brought down to one, and with which chance the row came to be labeled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill.eval.people.annotation_files import ANNOTATION_SCHEMA, read_annotation_file
from distill.eval.wording import plural
from distill.labeling.task import Task

_SETTLED = ("alone", "agreed", "majority", "median")


@dataclass(frozen=True)
class AnnotatorLabels:
    """What people said of rows, brought together.

    Attributes:
        gold: ``row_id``, ``label``, ``chance`` (null where it is not known), ``draw``; a line for every row on which
            their labels settle one.
        several: Rows that two people or more labeled.
        median: Of those, rows without a leading label that the middle grade settled.
        open: Of those, rows without a leading label that stay without one.
        annotators: Who labeled, by name.
    """

    gold: pl.DataFrame
    several: int
    median: int
    open: int
    annotators: tuple[str, ...]

    def said(self) -> str:
        """One clause: ``187 labeled by 2 annotators``, and what came of ties."""
        parts = [f"{len(self.gold):,} labeled by {plural(len(self.annotators), 'annotator')}"]
        if self.several:
            parts.append(f"{plural(self.several, 'row')} by two or more")
        if self.median:
            parts.append(f"{plural(self.median, 'tie')} settled by the middle grade")
        if self.open:
            parts.append(f"{plural(self.open, 'tie')} left without a label")
        return ", ".join(parts)


def read_annotations_of(paths: Sequence[Path], *, task: Task) -> pl.DataFrame:
    """Every annotator's own label, a line a row and annotator.

    Whoever left the annotator's name empty is called by the file's name. Of two labels that one annotator gave a row
    the later one counts, later files after earlier ones.

    Args:
        paths: Files that :func:`distill.eval.people.annotation_files.read_annotation_file` reads.
        task: What was asked.

    Returns:
        The columns of :data:`distill.eval.people.annotation_files.ANNOTATION_SCHEMA`, ``annotator`` filled.

    Raises:
        DataError: As reading a file does.
    """
    parts = [
        read_annotation_file(path, task=task).with_columns(pl.col("annotator").fill_null(path.stem)) for path in paths
    ]
    table = pl.concat([pl.DataFrame(schema=ANNOTATION_SCHEMA), *parts])
    return table.unique(["row_id", "annotator"], keep="last", maintain_order=True)


def settle_labels(annotations: pl.DataFrame, *, task: Task) -> AnnotatorLabels:
    """One label a row: what most of its annotators said.

    Where no label leads and labels are grades, the middle one of all is taken: of ``exact``, ``substitute`` and
    ``irrelevant`` that is ``substitute``. Of an even number there may be two middle ones; where they differ, and where
    labels are names, the row is left open, since nothing but a further opinion can settle it.

    Args:
        annotations: From :func:`read_annotations_of`.
        task: The labels, and whether they are grades.
    """
    places = {label: place for place, label in enumerate(task.labels)}
    found: list[dict[str, Any]] = []
    counts = dict.fromkeys((*_SETTLED, "open"), 0)
    drawn = pl.col("chance").drop_nulls().first(), pl.col("draw").drop_nulls().first()
    for row in annotations.group_by("row_id", maintain_order=True).agg("label", *drawn).iter_rows(named=True):
        given = sorted(places[label] for label in row["label"])
        place, how = _settled(given, ordered=task.ordered)
        counts[how] += 1
        if place is not None:
            found.append({**row, "label": task.labels[place]})
    schema = {name: ANNOTATION_SCHEMA[name] for name in ("row_id", "label", "chance", "draw")}
    return AnnotatorLabels(
        gold=pl.DataFrame(found, schema=schema),
        several=sum(number for how, number in counts.items() if how != "alone"),
        median=counts["median"],
        open=counts["open"],
        annotators=tuple(sorted(annotations["annotator"].unique())),
    )


def _settled(given: list[int], *, ordered: bool) -> tuple[int | None, str]:
    """The label's place, None where nothing leads, and how it came about."""
    if len(given) == 1:
        return given[0], "alone"
    times = {place: given.count(place) for place in given}
    most = max(times.values())
    leading = [place for place, number in times.items() if number == most]
    if len(leading) == 1:
        return leading[0], "agreed" if most == len(given) else "majority"
    low, high = given[(len(given) - 1) // 2], given[len(given) // 2]
    return (low, "median") if ordered and low == high else (None, "open")
