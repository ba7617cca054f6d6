"""Labels that people gave outside the rows' own gold column: decisions on the review's page, and annotators' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.errors import DataError
from distill.run_folder import path_digest
from distill.session import Session
from distill.stages import write_table

CHANCE = "chance"
"""Column of the rows table: with which probability a row of its split was drawn to get its label, see
:func:`distill.eval.drawn_rows.drawn_sample`. Null for rows without a label and for those that had one anyway."""


class TakenLabels(NamedTuple):
    """What came of people's labels.

    Attributes:
        said: A clause for the stage's line, empty without any.
        facts: Counts, for the stage's record.
    """

    said: str
    facts: dict[str, Any]


def files_of_people(session: Session) -> list[list[str]]:
    """Digests of the files that people's labels are in, for the stage's fingerprint."""
    config = session.recipe.data
    assert config is not None
    return [[path_digest(Path(file)) for file in files] for files in (config.decisions, config.annotations)]


def take_labels_of_people(session: Session) -> TakenLabels:
    """Puts people's labels into ``rows.parquet``, and every annotator's own into ``annotations.parquet``.

    A decision comes before annotators' labels, these before the gold column. A row of split ``pool`` that gets a label
    goes to split ``train``. ``chance`` is of the newest draw of each split: the rows of earlier draws had their labels
    when it was made, as those of the gold column had.

    Raises:
        DataError: A file cannot be read, or holds a label outside the set; or the rows have a ``chance`` of their own.
    """
    from distill.eval.guideline.adjudication import read_decisions
    from distill.eval.people.annotator_labels import read_annotations_of, settle_labels

    config, folder, task = session.recipe.data, session.folder, session.task
    assert config is not None
    folder.annotations.unlink(missing_ok=True)
    if not config.decisions and not config.annotations:
        return TakenLabels("", {})
    decided = read_decisions([Path(file) for file in config.decisions], task=task).select("row_id", _decided="label")
    annotations = read_annotations_of([Path(file) for file in config.annotations], task=task)
    settled = settle_labels(annotations, task=task)
    annotated = settled.gold.select("row_id", _annotated="label", _chance="chance", _draw=pl.col("draw").fill_null(1))
    known = pl.scan_parquet(folder.rows)
    if config.annotations and CHANCE in known.collect_schema().names():
        raise DataError(
            f"data.annotations: the rows have a column {CHANCE!r} of their own; rename it, data.columns: "
            f"{{row_{CHANCE}: {CHANCE}}}"
        )
    for table in (decided, annotated):
        known = known.join(table.lazy(), on="row_id", how="left", maintain_order="left")
    found = known.select(
        decided=pl.col("_decided").is_not_null().sum(),
        annotated=pl.col("_annotated").is_not_null().sum(),
        replaced=(pl.col("_annotated") != pl.col("gold")).sum(),
    ).collect()
    counts = {name: int(found[name].item()) for name in found.columns}
    write_table(_with_labels(known, chances=bool(config.annotations)), folder.rows)
    said = _decisions_said(counts["decided"], len(decided)) if config.decisions else ""
    if not config.annotations:
        return TakenLabels(said, {})
    write_table(annotations, folder.annotations)
    if config.gold_source == "author" and config.gold is not None:
        session.progress.warn(
            "data.annotations: labels by annotators stand beside the author's, and figures will name the author; "
            "give data.gold_source: human where people's labels decide"
        )
    lost = len(annotated) - counts["annotated"]
    said += f"; {settled.said()}"
    said += f", {counts['replaced']:,} of them in place of another gold label" if counts["replaced"] else ""
    said += f", {lost:,} are of rows that are not there" if lost else ""
    facts = {"rows": counts["annotated"], "several": settled.several, "median": settled.median, "open": settled.open}
    facts |= {"replaced": counts["replaced"], "not_there": lost}
    return TakenLabels(said, {"annotations": {**facts, "annotators": list(settled.annotators)}})


def _decisions_said(used: int, given: int) -> str:
    lost = f", {given - used:,} decisions are of rows that are not there" if given > used else ""
    return f"; {used:,} decided by people{lost}"


def _with_labels(known: pl.LazyFrame, *, chances: bool) -> pl.LazyFrame:
    label = pl.coalesce("_decided", "_annotated")
    newest = pl.col("_draw") == pl.col("_draw").max().over("split")
    rows = known.with_columns(
        gold=pl.coalesce(label, "gold"),
        split=pl.when(label.is_not_null() & (pl.col("split") == "pool"))
        .then(pl.lit("train"))
        .otherwise(pl.col("split")),
        _chance=pl.when(pl.col("gold").is_null() & newest).then("_chance"),
    )
    rows = rows.rename({"_chance": CHANCE}) if chances else rows.drop("_chance")
    return rows.drop("_decided", "_annotated", "_draw")
