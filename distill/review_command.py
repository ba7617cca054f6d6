"""The command ``review``: of a run folder, or of a file with annotations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def review(  # noqa: PLR0913 (a command has this many options)
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="a run folder, or annotations as csv, tsv, jsonl or parquet")
    ],
    out: Annotated[Path | None, typer.Option(help="the HTML file; review.html in the run folder, or here")] = None,
    decisions: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="what people decided on the page: counts as gold")
    ] = None,
    guideline: Annotated[Path | None, typer.Option(help="of a FILE: its clauses are accounted for")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B|A>B", help="of a FILE: the labels; with > they are grades, best first")
    ] = None,
    edits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="of a RUN: edits to try, a YAML list of clause, text, why")
    ] = None,
    propose: Annotated[
        str | None, typer.Option(metavar="TEACHER", help="of a RUN: have this teacher propose edits, for you to read")
    ] = None,
    history: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="an earlier text of the guideline: what changed since; oldest first"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="PART=COLUMN",
            help="of a FILE: which column is row_id, judge, label, group; "
            "several judge=COLUMN where each annotator has a column",
        ),
    ] = None,
) -> None:
    """Write the guideline review: where judges disagree, which clause is to blame, what a person should decide."""
    if not source.exists():
        raise typer.BadParameter(f"{source}: no such run folder or file", param_hint="RUN|FILE")
    of_file = {"--guideline": guideline, "--labels": labels, "--column": columns}
    of_run = {"--edits": edits, "--propose": propose}
    for option, value in (of_file if source.is_dir() else of_run).items():
        if value:
            kind, other = ("a run folder", "a file") if source.is_dir() else ("a file", "a run folder")
            raise typer.BadParameter(f"goes with {other}; {source} is {kind}", param_hint=option)
    if source.is_dir():
        from distill.runs import Run

        written = Run(source).write_review(
            out, decisions=decisions or (), edits=edits, propose=propose, history=history or ()
        )
    else:
        from distill.annotations import AnnotationColumns, read_annotations
        from distill.review_files import review_annotations

        table = read_annotations(
            source, columns=AnnotationColumns.parse(columns or ()), labels=labels, guideline=guideline
        )
        for note in table.notes:
            print(f"{source}: {note}", file=sys.stderr)
        written = review_annotations(
            table, out or Path(f"{source.stem}_review.html"), decisions=decisions or (), history=history or ()
        )
    for path in written:
        print(path)
