"""Commands for the people beside the models: ``label-next`` and ``agreement``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from distill.terminal import wide_console

if TYPE_CHECKING:
    from distill.eval.people.agreement import PeopleAgreement

_PIPE_COLUMNS = 160
_MOST_LINES = 30
"""Lines of the table of single annotators that a terminal shows; ``--json`` has all."""


def label_next(  # noqa: PLR0913 (a command has this many options)
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder with a trained student")],
    rows: Annotated[int, typer.Option(min=1, help="how many rows to hand out")] = 200,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="whose quality is estimated; the ladder's best, or `labels` for merged labels"
        ),
    ] = None,
    purpose: Annotated[
        str, typer.Option("--for", metavar="WHAT", help="accuracy of the student, or prevalence of the positive label")
    ] = "accuracy",
    split: Annotated[str, typer.Option(help="rows of this split")] = "test",
    form: Annotated[str, typer.Option("--format", help="csv, label_studio or argilla")] = "csv",
    out: Annotated[Path | None, typer.Option(help="the file; <run>_to_label here")] = None,
    explore: Annotated[
        float, typer.Option(min=0.01, max=1, help="share of the draw that ignores the student's doubts; 1 for random")
    ] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write rows for people to label next, so that an estimate's interval shrinks most, without what models said."""
    from distill.eval.people.annotation_files import AnnotationFormat
    from distill.label_next import LabelNext, Purpose, write_label_next
    from distill.runs import Run

    for option, value, choices in (
        ("--for", purpose, get_args(Purpose)),
        ("--format", form, get_args(AnnotationFormat)),
    ):
        if value not in choices:
            raise typer.BadParameter(f"got {value!r}; one of {', '.join(choices)}", param_hint=option)
    asked = LabelNext(
        rows=rows,
        student=student,
        purpose=cast("Purpose", purpose),
        split=split,
        form=cast("AnnotationFormat", form),
        explore=explore,
        out=out,
        force=force,
    )
    written = write_label_next(Run(run), asked)
    if as_json:
        print(json.dumps(written.to_dict(), indent=1))
    else:
        for path in written.files:
            print(path)
    print(written.sentence(), file=sys.stderr)


def agreement(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="a run folder, or judgments as csv, tsv, jsonl or parquet")
    ],
    annotators: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="labels by people (csv, Label Studio, Argilla); may be repeated"),
    ] = None,
    people: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="of a FILE: which judges are people; `all` where everyone is")
    ] = None,
    epsilon: Annotated[
        float, typer.Option(min=0, max=1, help="what an annotator costs more: 0.2 experts, 0.15 trained, 0.1 a crowd")
    ] = 0.2,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B|A>B", help="of a FILE: the labels; with > they are grades, best first")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="PART=COLUMN", help="of a FILE: which column is what, as for review"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Say how far people agree, and whether a model may stand in for one of them."""
    from distill.agreement import agreement_of_run, agreement_of_table

    if not source.exists():
        raise typer.BadParameter(f"{source}: no such run folder or file", param_hint="RUN|FILE")
    if source.is_dir():
        from distill.runs import Run

        for option, value in {"--people": people, "--labels": labels, "--column": columns}.items():
            if value:
                raise typer.BadParameter(f"goes with a file; {source} is a run folder", param_hint=option)
        found = agreement_of_run(Run(source), annotators or (), epsilon=epsilon)
    else:
        from distill.annotations import AnnotationColumns, read_annotations

        table = read_annotations(source, columns=AnnotationColumns.parse(columns or ()), labels=labels)
        for note in table.notes:
            print(f"{source}: {note}", file=sys.stderr)
        found = agreement_of_table(table, people=people, files=annotators or (), epsilon=epsilon)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    _print_agreement(found)


def _print_agreement(found: PeopleAgreement) -> None:
    from rich.markup import escape
    from rich.table import Table

    from distill.eval.people.words import people_said

    said = people_said(found)
    assert said is not None
    console = wide_console(_PIPE_COLUMNS)
    for line in (*said.lede, *said.verdicts):
        console.print(escape(line), highlight=False)
    against = said.against if said.against is not None and len(said.against.lines) <= _MOST_LINES else None
    for part in (said.coefficients, said.tests, against, said.pairs):
        if part is not None:
            table = Table(title=escape(part.title), title_justify="left", pad_edge=False)
            for number, column in enumerate(part.columns):
                table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
            for cells in part.lines:
                table.add_row(*(escape(cell) for cell in cells))
            console.print(table)
