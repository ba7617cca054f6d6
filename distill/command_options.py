"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
