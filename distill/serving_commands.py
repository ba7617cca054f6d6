"""Commands that bring a student to where it is used: ``export`` and ``serve``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from distill.eval.scored import TruthSource


def export(  # noqa: PLR0913 (a command has this many options)
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="a student's folder")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    to: Annotated[str, typer.Option(help="onnx (fp32), int8, or safetensors")] = "onnx",
    rows: Annotated[
        Path | None, typer.Option(help="rows to measure it on; the test rows of the student's run where none are given")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="column of --rows with labels")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="where the file has another name")
    ] = None,
    truth: Annotated[str, typer.Option(help="who gave the labels: human, author or teacher")] = "human",
    tolerance: Annotated[float, typer.Option(min=0, help="points of quality that may be lost")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write a student as ONNX, in fp32 or INT8, and measure what that costs; too much, and nothing is written."""
    from distill.export import FORMS, check_rows, export_student

    if to not in FORMS:
        raise typer.BadParameter(f"got {to!r}; one of {', '.join(FORMS)}", param_hint="--to")
    if truth not in ("human", "author", "teacher"):
        raise typer.BadParameter(f"got {truth!r}; one of human, author, teacher", param_hint="--truth")
    checked = check_rows(student, rows, gold=gold, columns=columns or (), truth_source=cast("TruthSource", truth))
    done = export_student(student, out, form=to, rows=checked, tolerance=tolerance)
    if as_json:
        facts = {"path": str(done.path), "form": done.form, "bytes": done.bytes}
        print(json.dumps({**facts, "check": done.check and done.check.to_dict()}, indent=1))
    else:
        print(done.path)
    print(done.sentence(), file=sys.stderr)
