"""Reads a table of annotations as people keep them, a line a judgment or a column an annotator, for the review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill.labeling.errors import DataError, UsageError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

_NAMES: dict[str, tuple[str, ...]] = {
    "row_id": ("row_id", "id", "item", "item_id", "pair_id", "doc_id", "docid"),
    "judge": ("annotator", "judge", "rater", "teacher", "voter", "worker", "annotator_id", "worker_id", "rater_id"),
    "label": ("label", "rating", "grade", "answer", "judgment", "relevance"),
    "group": ("group", "query", "query_id", "search_term"),
    "family": ("family",),
    "kind": ("kind", "judge_kind", "voter_kind"),
    "trace": ("trace", "reason", "comment", "note", "rationale", "explanation"),
    "clauses": ("clauses", "clause"),
    "gold": ("gold", "final_rating", "final_label", "adjudicated"),
}
"""Column names that are understood without being told, by what they hold; the first that is there is taken."""


PEOPLE = ("human", "person", "people", "annotator", "expert", "crowd", "worker")
"""What a ``kind`` column, or else a ``family`` column, says of judges who are people."""
_PARTS = ("row_id", "judge", "label", "group", "input")
_KINDS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class AnnotationColumns:
    """Which column holds what, where the names do not say so themselves.

    Attributes:
        row_id: Names the thing judged; a row that repeats a query and product has one id.
        judge: Who judged, in a table with a line a judgment.
        judges: Columns that each hold one annotator's labels, in a table with a line a row.
        label: The label, in a table with a line a judgment.
        group: The query: intervals resample it whole.
        inputs: What was judged, the query first; every column that is nothing else where empty.
    """

    row_id: str | None = None
    judge: str | None = None
    judges: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None
    inputs: tuple[str, ...] = ()

    @classmethod
    def parse(cls, given: Sequence[str]) -> AnnotationColumns:
        """Columns from ``part=column`` each; ``judge`` may come several times, a column an annotator then.

        Raises:
            UsageError: A part is unknown, or not written so.
        """
        found: dict[str, list[str]] = {}
        for pair in given:
            part, equals, column = (word.strip() for word in pair.partition("="))
            if not equals or not column or part not in _PARTS:
                raise UsageError(f"--column {pair}: write it as part=column; parts are {', '.join(_PARTS)}")
            found.setdefault(part, []).append(column)
        judges = found.pop("judge", [])
        single = {part: columns[-1] for part, columns in found.items() if part != "input"}
        return cls(
            **single,
            judge=judges[0] if len(judges) == 1 else None,
            judges=tuple(judges) if len(judges) > 1 else (),
            inputs=tuple(found.get("input", ())),
        )


@dataclass(frozen=True)
class Annotations:
    """A table of annotations as the rest of distill sees it.

    Attributes:
        name: Of the file.
        votes: ``row_id``, ``teacher``, ``family``, ``label``, ``outcome``, ``trace``, ``clauses``.
        rows: ``row_id``, ``group``, ``gold`` and the inputs.
        task: Labels, inputs and guideline.
        notes: What was assumed, for the reader.
        people: Judges that the table itself says are people, by :data:`PEOPLE`.
    """

    name: str
    votes: pl.DataFrame
    rows: pl.DataFrame
    task: Task
    notes: list[str] = field(default_factory=list)
    people: tuple[str, ...] = ()


def read_annotations(
    path: Path,
    *,
    columns: AnnotationColumns | None = None,
    labels: str | None = None,
    guideline: Path | None = None,
) -> Annotations:
    """Reads annotations.

    Args:
        path: csv, tsv, jsonl or parquet. A line a judgment, or a line a row with a column an annotator.
        columns: Which column holds what; names such as ``annotator``, ``label``, ``query`` are known.
        labels: The label set: ``a, b, c`` for names, ``a > b > c`` for grades, best first. Where not given: numbers are
            grades, high to low, and names stand as they come.
        guideline: Its clauses are accounted for where annotators cite them.

    Raises:
        DataError: The file cannot be read, a column cannot be found, or there are fewer than two labels.
    """
    table = _read(path)
    columns = columns or AnnotationColumns()
    notes: list[str] = []
    finder = _Finder(path, table.columns, columns, notes)
    table, row_id = _told_apart(table, finder.need("row_id"), finder.find("group"), notes)
    long = finder.wide(table) if columns.judges else table
    judge = "_judge" if columns.judges else finder.need("judge")
    label = "_label" if columns.judges else finder.need("label")
    used = {row_id, judge, label, *columns.judges}
    parts = {name: finder.find(name) for name in ("group", "family", "kind", "trace", "clauses", "gold")}
    used |= {column for name, column in parts.items() if column and name != "group"}
    inputs = columns.inputs or tuple(name for name in table.columns if name not in used)
    group = parts["group"] or row_id
    if parts["group"] is None:
        notes.append("no query column: each row is taken as a query of its own, which makes intervals narrower")
    votes = _votes(long, row_id=row_id, judge=judge, label=label, parts=parts)
    if inputs and group in inputs:
        inputs = (group, *(name for name in inputs if name != group))
    rows = _rows(table, row_id=row_id, group=group, inputs=inputs, gold=parts["gold"])
    found, grades = _labels(votes["label"], labels, path, notes)
    if strangers := sorted(set(rows["gold"].drop_nulls()) - set(found)):
        notes.append(f"gold labels that no judge gave were left out: {', '.join(strangers[:5])}")
        rows = rows.with_columns(gold=pl.when(pl.col("gold").is_in(found)).then(pl.col("gold")))
    task = Task(
        labels=found,
        inputs=inputs or ("row_id",),
        ordered=grades,
        guideline=Guideline.load(guideline) if guideline else None,
    )
    return Annotations(path.stem, votes, rows, task, notes, _people(long, judge, parts["kind"] or parts["family"]))


def _people(table: pl.DataFrame, judge: str, kind: str | None) -> tuple[str, ...]:
    if kind is None:
        return ()
    said = pl.col(kind).cast(pl.String).str.strip_chars().str.to_lowercase()
    names = table.filter(said.is_in(list(PEOPLE)))[judge].cast(pl.String).drop_nulls()
    return tuple(names.unique(maintain_order=True))


class _Finder:
    """Finds columns by what they hold, and says what it took."""

    def __init__(self, path: Path, names: list[str], given: AnnotationColumns, notes: list[str]) -> None:
        self._path = path
        self._names = names
        self._given = given
        self._notes = notes

    def find(self, what: str) -> str | None:
        asked: str | None = getattr(self._given, what, None)
        if asked is not None:
            if asked not in self._names:
                raise DataError(f"{self._path}: no column {asked!r} for the {what}; there are {self._names}")
            return asked
        by_case = {name.casefold(): name for name in self._names}
        return next((by_case[name] for name in _NAMES[what] if name in by_case), None)

    def need(self, what: str) -> str:
        found = self.find(what)
        if found is None:
            raise DataError(
                f"{self._path}: which column is the {what}? None of {', '.join(_NAMES[what])} is among {self._names}; "
                f"name it with --column {what}=COLUMN, or each annotator's column, as judge=COLUMN several times"
            )
        return found

    def wide(self, table: pl.DataFrame) -> pl.DataFrame:
        missing = [name for name in self._given.judges if name not in table.columns]
        if missing:
            raise DataError(f"{self._path}: no columns {missing}; there are {table.columns}")
        kept = [name for name in table.columns if name not in self._given.judges]
        return table.unpivot(
            on=list(self._given.judges), index=kept, variable_name="_judge", value_name="_label"
        ).select(*kept, "_judge", "_label")


def _read(path: Path) -> pl.DataFrame:
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise DataError(f"{path}: reads {', '.join(_KINDS)}; convert the annotations to one of them")
    try:
        if kind in (".csv", ".tsv"):
            return pl.read_csv(path, infer_schema=False, separator="\t" if kind == ".tsv" else ",")
        return pl.read_ndjson(path) if kind == ".jsonl" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check that it is a {kind} file") from error


def _told_apart(table: pl.DataFrame, row_id: str, group: str | None, notes: list[str]) -> tuple[pl.DataFrame, str]:
    """A product's id is no row's where it was judged for several queries: the query is put before it then."""
    if group is None or table.select(row_id, group).n_unique() == table[row_id].n_unique():
        return table, row_id
    notes.append(f"{row_id!r} repeats over different values of {group!r}: a row is named by both")
    both = pl.concat_str(pl.col(group).cast(pl.String), pl.col(row_id).cast(pl.String), separator=" | ")
    return table.with_columns(both.alias("_row")).drop(row_id), "_row"


def _votes(table: pl.DataFrame, *, row_id: str, judge: str, label: str, parts: dict[str, str | None]) -> pl.DataFrame:
    def text(name: str | None) -> pl.Expr:
        return pl.lit(None, dtype=pl.String) if name is None else pl.col(name).cast(pl.String)

    clauses = pl.lit(None, dtype=pl.List(pl.String))
    if parts["clauses"] is not None:
        is_list = isinstance(table.schema[parts["clauses"]], pl.List)
        clauses = pl.col(parts["clauses"]) if is_list else text(parts["clauses"]).str.extract_all(r"[^\s,;|]+")
    return table.select(
        row_id=text(row_id),
        teacher=text(judge),
        family=pl.coalesce(text(parts["family"]), text(judge)),
        label=_label_text(pl.col(label)),
        outcome=pl.lit("labeled"),
        trace=text(parts["trace"]),
        clauses=clauses,
    ).filter(pl.col("label").is_not_null() & (pl.col("label") != "") & pl.col("teacher").is_not_null())


def _label_text(column: pl.Expr) -> pl.Expr:
    """``4``, ``4.0`` and ``4 `` are one label."""
    words = column.cast(pl.String).str.strip_chars()
    return words.str.replace(r"^(-?\d+)\.0+$", "$1")


def _rows(table: pl.DataFrame, *, row_id: str, group: str, inputs: Sequence[str], gold: str | None) -> pl.DataFrame:
    truth = pl.lit(None, dtype=pl.String) if gold is None else _label_text(pl.col(gold))
    columns = [pl.col(name).cast(pl.String).fill_null("") for name in inputs if name not in ("row_id", "group", "gold")]
    rows = table.select(
        pl.col(row_id).cast(pl.String).alias("row_id"),
        pl.col(group).cast(pl.String).fill_null("").alias("group"),
        pl.when(truth != "").then(truth).alias("gold"),
        *columns,
    )
    return rows.unique("row_id", keep="first", maintain_order=True)


def _labels(given: pl.Series, labels: str | None, path: Path, notes: list[str]) -> tuple[tuple[str, ...], bool]:
    """The label set, and whether labels are grades."""
    found = given.unique(maintain_order=True).to_list()
    if labels is not None:
        grades = ">" in labels
        named = tuple(name.strip() for name in labels.split(">" if grades else ",") if name.strip())
        if strangers := sorted(set(found) - set(named)):
            raise DataError(f"{path}: labels outside --labels: {strangers[:5]}; add them or correct the file")
        return named, grades
    if len(found) < 2:
        raise DataError(f"{path}: {len(found)} different labels; two judges who always agree leave nothing to review")
    try:
        numeric = sorted(found, key=float, reverse=True)
    except ValueError:
        notes.append(f"labels, in the order in which they come: {', '.join(found)}; give --labels for another")
        return tuple(found), False
    notes.append(f"labels are numbers and taken as grades, best first: {', '.join(numeric)}")
    return tuple(numeric), True
