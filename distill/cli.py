"""The command line. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done; 1 a run failed; 2 the recipe or the command cannot be used as it is; 3 the budget is spent;
130 interrupted. Every heavy import happens inside the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill.monitor_command import monitor
from distill.people_commands import agreement, label_next
from distill.serving_commands import export, serve

if TYPE_CHECKING:
    from rich.table import Table

    from distill.runner import StageName
    from distill.runs import Run

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

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a recipe's YAML file, or the name of one that ships")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="change one value of the recipe")]
OutOption = Annotated[Path | None, typer.Option("--out", help="the run folder; runs/<name> where none is given")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="use about this many rows, in whole groups")]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="ask only what stands in failures.jsonl; keep every other vote")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", help="its file; $DISTILL_LEDGER or .distill/ledger.sqlite")
]

_PIPE_COLUMNS = 200
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


@app.command(epilog="Example: distill run recipes/quickstart.yaml --out runs/first")
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
    _run(recipe, overrides, out, limit, until=until, retry_failed=retry_failed, as_json=as_json)


def _stage_command(name: StageName, help_text: str) -> Callable[..., None]:
    def command(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        out: OutOption = None,
        limit: LimitOption = None,
        retry_failed: RetryOption = False,
        as_json: JsonOption = False,
    ) -> None:
        _run(recipe, overrides, out, limit, until=name, retry_failed=retry_failed, as_json=as_json)

    command.__doc__ = f"{help_text}\n\nStages before it run where something that they read has changed."
    return app.command(name=name, epilog=f"Example: distill {name} recipe.yaml --out runs/mine")(command)


_stage_command("label", "Ask the teachers, as far as votes.parquet.")
_stage_command("aggregate", "Merge the votes, as far as labels.parquet.")
_stage_command("train", "Train the students and predict the test rows.")
_stage_command("eval", "Measure students, teachers and labels, as far as the ladder.")
_stage_command("report", "Write the run report and the guideline review.")


@app.command(
    epilog="Example: distill review runs/quickstart. Or: distill review annotations.csv --guideline guideline.md "
    "--labels 'exact > substitute > irrelevant'. Or: distill review ratings.csv --column judge=rater_1 "
    "--column judge=rater_2 --column group=query"
)
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
        _print_table(joined.to_rich())
        if joined.differences:
            _print_table(joined.differences_to_rich())
        for path in runs:
            _print_rounds(Run(path), named=len(runs) > 1)


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


def _run(
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    limit: int | None,
    *,
    until: Any,
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
        _print_table(finished.ladder.to_rich())
        _print_rounds(finished)
    for name, path in finished.reports.items() if until == "report" else ():
        print(f"{name:<18} {path}")
    print(f"{'run folder':<18} {finished.path}")


def _print_functions(run: Run) -> None:
    """What the run's labeling functions cover; nothing where it has none."""
    from rich.table import Table

    from distill.eval.function_words import COLUMNS, function_cells

    if not (facts := run.function_facts):
        return
    table = Table(title="labeling functions")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 2 else "right")
    for one in facts:
        table.add_row(*function_cells(one))
    _print_table(table)


def _print_rounds(run: Run, *, named: bool = False) -> None:
    """What each round asked, cost and gained, and why they ended; nothing where the run has none."""
    if (rounds := run.rounds) is None:
        return
    table = rounds.to_rich()
    table.title = f"Rounds of {run.path}" if named else table.title
    _print_table(table)
    for line in rounds.lines():
        print(line)


def _print_table(table: Table) -> None:
    from rich.console import Console

    console = Console()
    # A file or a pipe has no width; a table that is folded to 80 columns helps nobody there.
    (console if console.is_terminal else Console(width=_PIPE_COLUMNS)).print(table)
