"""Tries proposed edits of a guideline: the run's own teachers asked again under the old text and the new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from distill.eval.guideline.edit_trial import (
    ClauseEdit,
    EditTrial,
    TrialLimits,
    TrialVotes,
    Tried,
    judge_edit,
    refuse_edit,
    trial_rows,
)
from distill.labeling.errors import DataError, UsageError
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import Teacher
from distill.runs import Run

_EDITS = TypeAdapter(list[ClauseEdit])
_READ_THE_GUIDELINE = frozenset({"openai", "gemini", "vllm", "vllm_offline"})
_AGAIN = 1
"""The sample under which the old text is asked again: a fresh answer, not the one that the rows were chosen by."""


def read_edits(path: Path) -> list[ClauseEdit]:
    """Reads edits: a YAML or JSON list of ``clause``, ``text`` and, for the readers, ``why``.

    Raises:
        UsageError: The file cannot be read, or an entry is wrong.
    """
    import yaml

    try:
        return _EDITS.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: no edits can be read ({error}); write a list of clause, text, why") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path}: {told}; write a list of clause, text, why") from error


def try_edits(run: Run, edits: Sequence[ClauseEdit], *, rows: int = 200, limits: TrialLimits | None = None) -> Tried:
    """Tries edits on a run's rows, with the run's teachers, ledger and votes.

    The votes of the run choose the rows; on these the teachers are asked again under the old text, and under the new.
    Teachers that cannot answer anew (recorded replies, functions, classifiers) take no part.

    Args:
        run: Its votes, rows and recipe are used.
        edits: What to try; each against the guideline in force.
        rows: Affected and settled rows, so many of each at most.
        limits: What an edit may break.

    Raises:
        UsageError: There is no guideline, or fewer than two teachers can be asked again.
        DataError: An edit names a clause that is not there.
    """
    from distill.stages import build_teachers, ledger_path

    recipe = run.recipe
    assert recipe.task is not None, "a run's recipe has a task"
    task, limits = Task.from_config(recipe.task), limits or TrialLimits()
    if task.guideline is None:
        raise UsageError(
            f"{run.path}: its task has no guideline whose clauses could be edited; give task.guideline and run it"
        )
    refused = {edit.clause: why for edit in edits if (why := refuse_edit(edit, task.guideline, limits))}
    wanted = [edit for edit in edits if edit.clause not in refused]
    if not wanted:
        return Tried(trials=[], refused=refused)
    anew = {name for name, config in recipe.teachers.items() if config.type in _READ_THE_GUIDELINE}
    teachers = [teacher for teacher in build_teachers(recipe) if teacher.name in anew]
    if len(teachers) < 2:
        raise UsageError(
            f"{run.path}: {len(teachers)} of its teachers can be asked again, a trial compares two or more; recorded "
            "replies and functions answer the same whatever the guideline says"
        )
    trials: list[EditTrial] = []
    with Ledger(ledger_path(recipe.ledger)) as ledger:
        for edit in wanted:
            asking = _Asking(run, task, teachers, ledger)
            try:
                trials.append(_try_one(asking, edit, rows=rows, limits=limits))
            except DataError as error:
                refused[edit.clause] = str(error)
    return Tried(trials=trials, refused=refused)


@dataclass(frozen=True)
class _Asking:
    run: Run
    task: Task
    teachers: list[Teacher]
    ledger: Ledger


def _try_one(asking: _Asking, edit: ClauseEdit, *, rows: int, limits: TrialLimits) -> EditTrial:
    assert asking.task.guideline is not None
    names = [teacher.name for teacher in asking.teachers]
    first = asking.run.votes.filter(pl.col("teacher").is_in(names))
    recipe = asking.run.recipe
    affected, settled = trial_rows(first, asking.run.rows, clause=edit.clause, most=rows, seed=recipe.seed)
    if affected.is_empty():
        raise DataError(
            f"no row on which {', '.join(names)} differ cites the clause, so nothing shows what an edit does; edit a "
            "clause that the review names, or ask more rows first"
        )
    both = pl.concat([affected, settled])
    changed = replace(asking.task, guideline=asking.task.guideline.with_clause(edit.clause, edit.text))
    old = _asked(asking, asking.task, both, samples=_AGAIN + 1).filter(pl.col("sample") == _AGAIN)
    new = _asked(asking, changed, both, samples=1)
    votes = TrialVotes(first, old, new)
    return judge_edit(edit, asking.task.guideline, votes, affected, settled, limits=limits, config=recipe.eval)


def _asked(asking: _Asking, task: Task, rows: pl.DataFrame, *, samples: int) -> pl.DataFrame:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.asking.label_rows import label_rows
    from distill.labeling.vote import votes_frame

    recipe = asking.run.recipe
    plain = {"canaries": None, "watch": None, "cascade": None, "near_duplicates": "ask", "samples": samples}
    settings = recipe.labeling.model_copy(update={**plain, "rows_per_request": None})
    parts = [votes_frame([])]
    asked = AskedRows(rows.lazy(), task=task, config=settings, seed=recipe.seed)
    label_rows(asked, teachers=asking.teachers, ledger=asking.ledger, on_votes=parts.append)
    return pl.concat(parts)
