"""Commands for the people beside the models: ``label-next`` and ``agreement``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer


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
    from distill.eval.annotation_files import AnnotationFormat
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
