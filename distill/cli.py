"""The command line. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done; 1 a run failed; 2 the recipe or the command cannot be used as it is; 3 the budget is spent;
130 interrupted. Every heavy import happens inside the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from distill.command_options import JsonOption, LimitOption, RecipeArgument, SetOption
from distill.monitor_command import monitor
from distill.people_commands import agreement, label_next
from distill.review_command import review
from distill.run_commands import STAGE_COMMANDS, print_rounds, run, stage_command
from distill.serving_commands import export, serve
from distill.terminal import print_table

app = typer.Typer(
    name="distill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turns large-model judgments into small, fast, trustworthy models for product search.",
    epilog="Start with: distill run quickstart",
)
ledger_app = typer.Typer(no_args_is_help=True, help="Look after the ledger: every answer ever paid for.")
app.add_typer(ledger_app, name="ledger")

LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", help="its file; $DISTILL_LEDGER or .distill/ledger.sqlite")
]

_DISK_WORDS = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS))


def main() -> None:
    """Entry point of the ``distill`` command."""
    from distill.students.world import together

    # Threads of a matrix product that spin while they wait keep the core from whoever they wait for. Where anything
    # else runs beside it, training with two threads was 5 to 8 times slower for that. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    together(_command)


def _command() -> None:
    from distill.labeling.errors import DistillError

    try:
        app(standalone_mode=True)
    except DistillError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        # polars and arrow wrap the system's words in exceptions of their own.
        if not any(words in str(error) for words in _DISK_WORDS):
            raise
        print(f"error: cannot write: {error}; make room and run the same command again: it goes on", file=sys.stderr)
        sys.exit(1)


@app.command(epilog="Example: distill init shop && cd shop && distill check recipe.yaml")
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="made where it is missing")]) -> None:
    """Copy a starter recipe, guideline and sample rows into DIR."""
    from distill.starter import copy_starter

    for path in copy_starter(folder):
        print(path)


@app.command(epilog="Example: distill recipes copy quickstart my.yaml")
def recipes(
    action: Annotated[str, typer.Argument(help="list, show or copy")] = "list",
    name: Annotated[str | None, typer.Argument(help="which recipe")] = None,
    to: Annotated[Path | None, typer.Argument(help="where to copy it")] = None,
) -> None:
    """List, show or copy the recipes that ship."""
    from distill.starter import copy_recipe, describe_recipes, show_recipe

    if action == "list":
        for line in describe_recipes():
            print(line)
    elif action == "show":
        print(show_recipe(name), end="")
    elif action == "copy":
        for path in copy_recipe(name, to):
            print(path)
    else:
        raise typer.BadParameter(f"got {action!r}; one of list, show, copy", param_hint="ACTION")


@app.command(epilog="Example: distill check recipes/quickstart.yaml --set seed=8")
def check(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Check a recipe: keys, types, files, names. No network, nothing is run."""
    from distill.recipe import load_recipe

    checked = load_recipe(recipe, overrides or ())
    teachers, students = ", ".join(checked.teachers) or "none", ", ".join(checked.students) or "none"
    print(f"{recipe}: fine. Teachers: {teachers}. Students: {students}.")


@app.command(epilog="Example: distill plan recipe.yaml --probe 50")
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    limit: LimitOption = None,
    probe: Annotated[
        int, typer.Option(metavar="N", min=0, help="send N requests a teacher first; their answers are kept")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say what would be asked, what the ledger already holds, and cost and time with an interval."""
    from distill.plan import make_plan
    from distill.recipe import load_recipe

    planned = make_plan(load_recipe(recipe, overrides or ()), limit=limit, probe_requests=probe)
    print(json.dumps(planned.to_dict(), indent=1) if as_json else planned.to_text())


app.command(epilog="Example: distill run recipes/quickstart.yaml --out runs/first")(run)
for _stage in STAGE_COMMANDS:
    app.command(name=_stage, epilog=f"Example: distill {_stage} recipe.yaml --out runs/mine")(stage_command(_stage))
app.command(
    epilog="Example: distill review runs/quickstart. Or: distill review annotations.csv --guideline guideline.md "
    "--labels 'exact > substitute > irrelevant'. Or: distill review ratings.csv --column judge=rater_1 "
    "--column judge=rater_2 --column group=query"
)(review)


@app.command(epilog="Example: distill predict runs/quickstart/students/merged new.csv --out predicted.parquet")
def predict(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="a student's folder")],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="csv, jsonl or parquet with the student's input columns")
    ],
    out: Annotated[Path | None, typer.Option(help="parquet, csv or jsonl; without it, JSON lines on stdout")] = None,
    id_columns: Annotated[
        list[str] | None, typer.Option("--id", help="column that names a row; may be repeated")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="where the file has another name")
    ] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="have a causal student write its reasoning; many times slower")
    ] = False,
) -> None:
    """Label rows with a student: a label, a probability per label, and its confidence."""
    from distill.predict import predict_file

    done = predict_file(student, rows, out=out, id_columns=id_columns or (), columns=columns or (), traces=traces)
    if out is not None:
        print(out)
    print(done.sentence(), file=sys.stderr)


app.command(epilog="Example: distill export runs/quickstart/students/merged --to int8 --out served/merged")(export)
app.command(epilog="Example: distill serve runs/quickstart/students/merged --port 8080")(serve)


app.command(name="label-next", epilog="Example: distill label-next runs/quickstart --rows 200 --out to_label.csv")(
    label_next
)
app.command(epilog="Example: distill agreement votes.parquet --people kim,lee,park --labels 'exact > substitute'")(
    agreement
)
app.command(epilog="Example: distill monitor runs/quickstart last_week.csv --out monday.html --fail-on moved")(monitor)


@app.command(epilog="Example: distill ladder runs/a runs/b")
def ladder(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, in the order to compare")],
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown tables")] = False,
) -> None:
    """Compare students over runs: quality with its interval and truth source, size, speed.

    Below it: what the best student of each run, and students of one name, gain over the first run's, paired over the
    test rows that both have.
    """
    from distill.runs import Run, joined_ladder

    joined = joined_ladder(runs)
    if as_json:
        print(joined.model_dump_json(indent=1))
    elif as_markdown:
        print(joined.to_markdown())
    else:
        print_table(joined.to_rich())
        if joined.differences:
            print_table(joined.differences_to_rich())
        for path in runs:
            print_rounds(Run(path), named=len(runs) > 1)


@ledger_app.command("stats")
def ledger_stats(ledger: LedgerOption = None, as_json: JsonOption = False) -> None:
    """Say what the ledger holds, by teacher."""
    from distill.ledger_commands import stats

    print(stats(ledger, as_json=as_json))


@ledger_app.command("export")
def ledger_export(to: Annotated[Path, typer.Argument(metavar="FILE")], ledger: LedgerOption = None) -> None:
    """Write every reply as JSON lines."""
    from distill.ledger_commands import export

    print(export(ledger, to))


@ledger_app.command("import")
def ledger_import(source: Annotated[Path, typer.Argument(metavar="FILE")], ledger: LedgerOption = None) -> None:
    """Take in replies that another ledger exported; those already held are left as they are."""
    from distill.ledger_commands import import_

    print(import_(ledger, source))


@ledger_app.command("prune")
def ledger_prune(
    older_than_days: Annotated[float, typer.Option(min=0, help="forget replies bought longer ago than this")],
    ledger: LedgerOption = None,
) -> None:
    """Forget old replies. Asking for them again costs again."""
    from distill.ledger_commands import prune

    print(prune(ledger, older_than_days=older_than_days))


@app.command(epilog="Example: distill doctor recipe.yaml --teacher local")
def doctor(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="also reach its servers")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="ask this teacher of RECIPE one question and show what came of it"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ask also where the ledger has the answer")] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, what is reachable, and which accelerator there is."""
    from distill.doctor import examine
    from distill.recipe import load_recipe

    if teacher is not None:
        from distill.ask_one import ask_one

        if recipe is None:
            raise typer.BadParameter("needs a RECIPE that has the teacher", param_hint="--teacher")
        answer = ask_one(load_recipe(recipe, overrides or ()), teacher, fresh=fresh)
        print(json.dumps(answer.to_dict(), indent=1, ensure_ascii=False) if as_json else answer.to_text())
        if not answer.answered:
            raise typer.Exit(1)
        return
    if fresh:
        raise typer.BadParameter("goes with --teacher", param_hint="--fresh")
    report = examine(load_recipe(recipe, overrides or ()) if recipe else None)
    print(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text())
    if not report.healthy:
        raise typer.Exit(1)


@app.command(epilog="Example: distill schema > distill.schema.json")
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from distill.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("distill"))
