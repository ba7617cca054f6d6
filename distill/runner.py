"""Runs a recipe: each stage in turn, skipped where nothing that it reads has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from distill import stages
from distill.label_stage import label
from distill.labeling.errors import UsageError
from distill.monitor_stage import watch
from distill.progress import Progress, SilentProgress
from distill.recipe import Recipe, load_recipe, require_sections
from distill.rounds import run_rounds
from distill.run_folder import RunFolder
from distill.runs import Run
from distill.session import Session
from distill.train_stage import train

StageName = Literal["data", "label", "aggregate", "train", "eval", "monitor", "report"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)

_WORK: Mapping[StageName, Callable[[Session], None]] = {
    "data": stages.read_rows,
    "label": label,
    "aggregate": stages.merge_votes,
    "train": train,
    "eval": stages.measure,
    "monitor": watch,
    "report": stages.write_reports,
}
_NEEDS: Mapping[StageName, tuple[str, ...]] = {
    "label": ("teachers",),
    "aggregate": ("teachers",),
    "train": ("students",),
    "monitor": ("monitor",),
}


def run(
    recipe: Recipe | Path | str,
    *,
    out: Path | str | None = None,
    limit: int | None = None,
    until: StageName = "report",
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Run:
    """Runs a recipe, or goes on where an earlier run of it stopped.

    A stage is skipped when nothing that it reads has changed and its files are still what it wrote, so the same
    command after Ctrl-C, kill -9 or a spent budget ends in what an uninterrupted run would have given.

    Args:
        recipe: A recipe, its file, or the name of one that ships.
        out: The run folder; ``runs/<name>`` where none is given.
        limit: Use about this many rows: whole groups, from every split.
        until: The last stage to run.
        overrides: ``a.b=value`` each; only with a file or a name.
        progress: Where to show progress; nowhere by default.
        retry_failed: Ask teachers only about what stands in the run's ``failures.jsonl``, and keep every other vote,
            also where the recipe's teachers or ``labeling`` changed since (a higher ``max_tokens``, another server).

    Returns:
        The run, with its tables, ladder and reports.

    Raises:
        UsageError: The recipe, the data or the run folder cannot be used as they are.
        BudgetError: The budget is spent; what was paid for is kept.
        DistillError: As the stages raise it.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise UsageError("overrides: apply to a recipe file; this recipe is read already, use recipe.model_copy")
    if limit is not None and limit < 1:
        raise UsageError(f"limit: got {limit}; give the number of rows to use, at least 1")
    require_sections(recipe, ("data", "task", *_NEEDS.get(until, ())), stage=until)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / recipe.name)
    with folder.locked(recipe.name):
        session = Session(recipe, folder, progress or SilentProgress(), limit, retry_failed)
        session.start()
        if recipe.rounds is not None and until != "data":
            stages.read_rows(session)
            run_rounds(session, until=until)
        else:
            folder.rounds.unlink(missing_ok=True)  # of a recipe that had some
            for name in STAGE_NAMES[: STAGE_NAMES.index(until) + 1]:
                _WORK[name](session)
        session.finish()
    return Run(folder.path)
