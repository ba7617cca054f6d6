"""Commands that run a recipe: ``run``, and one for each stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill.command_options import JsonOption, LimitOption, OutOption, RecipeArgument, RetryOption, SetOption
from distill.terminal import print_table

if TYPE_CHECKING:
    from distill.runner import StageName
    from distill.runs import Run

STAGE_COMMANDS: dict[StageName, str] = {
    "label": "Ask the teachers, as far as votes.parquet.",
    "aggregate": "Merge the votes, as far as labels.parquet.",
    "train": "Train the students and predict the test rows.",
    "eval": "Measure students, teachers and labels, as far as the ladder.",
    "report": "Write the run report and the guideline review.",
}
"""Stages that have a command of their own, with its help."""


def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    limit: LimitOption = None,
    retry_failed: RetryOption = False,
    until: Annotated[
        str, typer.Option(help="last stage: data, label, aggregate, train, eval, monitor or report")
    ] = "report",
    as_json: JsonOption = False,
) -> None:
    """Run a recipe, or go on where an earlier run of it stopped."""
    from distill.runner import STAGE_NAMES

    if until not in STAGE_NAMES:
        raise typer.BadParameter(f"got {until!r}; one of {', '.join(STAGE_NAMES)}", param_hint="--until")
    _run(recipe, overrides, out=out, limit=limit, until=until, retry_failed=retry_failed, as_json=as_json)


def stage_command(name: StageName) -> Callable[..., None]:
    """Makes the command that runs a recipe as far as one of :data:`STAGE_COMMANDS`."""

    def command(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        out: OutOption = None,
        limit: LimitOption = None,
        retry_failed: RetryOption = False,
        as_json: JsonOption = False,
    ) -> None:
        _run(recipe, overrides, out=out, limit=limit, until=name, retry_failed=retry_failed, as_json=as_json)

    command.__doc__ = f"{STAGE_COMMANDS[name]}\n\nStages before it run where something that they read has changed."
    return command


def _run(
    recipe: str,
    overrides: list[str] | None,
    *,
    out: Path | None,
    limit: int | None,
    until: StageName,
    retry_failed: bool,
    as_json: bool,
) -> None:
    from distill.progress import TerminalProgress
    from distill.runner import run as run_recipe

    try:
        with TerminalProgress(sys.stderr) as progress:
            finished = run_recipe(
                recipe,
                out=out,
                limit=limit,
                until=until,
                overrides=overrides or (),
                progress=progress,
                retry_failed=retry_failed,
            )
    except KeyboardInterrupt:
        print("interrupted: what was answered is kept; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(finished.to_dict(), indent=1, default=str))
        return
    if until != "data":
        _print_functions(finished)
    if finished.has_ladder and until in ("eval", "report"):
        print_table(finished.ladder.to_rich())
        print_rounds(finished)
    for name, path in finished.reports.items() if until == "report" else ():
        print(f"{name:<18} {path}")
    print(f"{'run folder':<18} {finished.path}")


def _print_functions(run: Run) -> None:
    """What the run's labeling functions cover; nothing where it has none."""
    from rich.table import Table

    from distill.eval.report.function_words import COLUMNS, function_cells

    if not (facts := run.function_facts):
        return
    table = Table(title="labeling functions")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 2 else "right")
    for one in facts:
        table.add_row(*function_cells(one))
    print_table(table)


def print_rounds(run: Run, *, named: bool = False) -> None:
    """What each round asked, cost and gained, and why they ended; nothing where the run has none."""
    if (rounds := run.rounds) is None:
        return
    table = rounds.to_rich()
    table.title = f"Rounds of {run.path}" if named else table.title
    print_table(table)
    for line in rounds.lines():
        print(line)
