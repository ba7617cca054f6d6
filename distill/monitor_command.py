"""The command ``monitor``: today's rows against those that a run or a student knows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from distill.eval.drift.config import MonitorConfig
    from distill.monitor import Monitored


def monitor(  # noqa: PLR0913 (a command has this many options)
    known: Annotated[Path, typer.Argument(metavar="RUN|STUDENT", help="a run folder, or a student's folder")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="the rows of today: csv, jsonl or parquet")],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT|ROWS", help="what they are held against: a split of the RUN (test), all, or a file"
        ),
    ] = None,
    student: Annotated[str | None, typer.Option(metavar="NAME", help="of a RUN; the best one")] = None,
    other_student: Annotated[
        str | None, typer.Option("--other-student", metavar="NAME", help="of a RUN: how often the two disagree")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="when a row was seen: cuts ROWS in two at --since")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="rows before it are the reference, the others are today's")
    ] = None,
    gold: Annotated[str | None, typer.Option(metavar="COLUMN", help="people's labels of some of ROWS")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="where the file has another name")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", metavar="COLUMN", help="a further column to compare; may be repeated")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.4, help="how often a false alarm may come")] = 0.05,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html|.md", help="write the report there")] = None,
    fail_on: Annotated[
        str | None, typer.Option("--fail-on", metavar="moved", help="exit with 1 where anything moved, for cron")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Say whether today's rows still look like those that a student was made and measured on."""
    if fail_on not in (None, "moved"):
        raise typer.BadParameter(f"got {fail_on!r}; there is only: moved", param_hint="--fail-on")
    if out is not None and out.suffix not in (".html", ".md"):
        raise typer.BadParameter(f"got {out}; give a name that ends in .html or .md", param_hint="--out")
    config = _config(
        rows=str(rows),
        reference=reference or "test",
        student=student,
        other_student=other_student,
        time=time,
        since=since,
        gold=gold,
        alpha=alpha,
    )
    problems = (out or Path(f"{rows.stem or 'rows'}.jsonl")).with_suffix("")
    problems = problems.with_name(f"{problems.name}_problems.jsonl")
    done = _compared(known, config, columns=columns or (), slices=slices or (), problems=problems)
    from distill.eval.drift.report import drift_markdown, write_drift_report

    for note in done.report.notes:
        print(f"monitor: {note}", file=sys.stderr)
    if out is not None:
        written = write_drift_report(out, done.report, name=known.name)
        print(written, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(done.report.model_dump_json(indent=1))
    elif out is None:
        print(drift_markdown(done.report))
    else:
        for one in done.report.verdicts:
            print(one.said)
    if fail_on == "moved" and done.report.moved:
        raise typer.Exit(1)


def _config(**values: Any) -> MonitorConfig:
    from pydantic import ValidationError

    from distill.eval.drift.config import MonitorConfig
    from distill.labeling.errors import UsageError

    try:
        return MonitorConfig(**values)
    except ValidationError as error:
        raise UsageError(f"monitor: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _compared(
    known: Path, config: MonitorConfig, *, columns: Sequence[str], slices: Sequence[str], problems: Path
) -> Monitored:
    from distill.labeling.errors import UsageError
    from distill.monitor import monitor_run, monitor_student
    from distill.predict import renamed
    from distill.recipe import load_recipe
    from distill.run_folder import MANIFEST
    from distill.runs import Run

    mapped = dict(renamed(pair) for pair in columns)
    if (known / MANIFEST).is_file():
        run = Run(known)
        # What the run itself watched may be long gone, and is not what is asked about.
        recipe = load_recipe(run.folder.recipe, ["monitor=null"])
        if mapped and recipe.data is not None:
            data = recipe.data.model_copy(update={"columns": {**recipe.data.columns, **mapped}})
            recipe = recipe.model_copy(update={"data": data})
        return monitor_run(run, config, problems=problems, recipe=recipe, slices=slices)
    if config.student or config.other_student:
        raise UsageError(f"monitor: --student goes with a run's folder; {known} is none")
    return monitor_student(known, config, problems=problems, columns=mapped, slices=slices)
