"""Has a teacher of a run write better texts for the clauses that judges disagree over, for a person to read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.eval.guideline.edit_proposal import clauses_to_edit, proposal_prompt, read_proposal
from distill.eval.guideline.edit_trial import ClauseEdit, TrialLimits, refuse_edit
from distill.eval.guideline.review import review
from distill.eval.page import write_whole
from distill.labeling.errors import DataError, UsageError
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.task import Task
from distill.runs import Run

if TYPE_CHECKING:
    from distill.labeling.teacher import Prompt, Teacher

_ROOM = 4
"""A clause may be as long as so many answers about a row."""


def propose_edits(run: Run, teacher: str, *, most: int = 3) -> list[ClauseEdit]:
    """Asks one of the run's teachers for a new text of each of the clauses behind most disagreement.

    Answers are kept in the run's ledger, so that asking again for the same review costs nothing.

    Args:
        run: Its votes, rows, guideline and teachers.
        teacher: Name of the teacher that writes.
        most: Clauses to ask about, at most.

    Raises:
        UsageError: The run has no such teacher, it cannot write, or there is no guideline.
        DataError: No clause is behind the disagreement, or a reply holds no edit.
        TeacherError: The teacher did not answer.
    """
    from distill.stages import build_teachers, ledger_path

    recipe = run.recipe
    assert recipe.task is not None, "a run's recipe has a task"
    task = Task.from_config(recipe.task)
    if task.guideline is None:
        raise UsageError(
            f"{run.path}: its task has no guideline whose clauses could be edited; give task.guideline and run it"
        )
    if teacher not in recipe.teachers or recipe.teachers[teacher].type not in ("openai", "gemini"):
        able = [name for name, config in recipe.teachers.items() if config.type in ("openai", "gemini")]
        raise UsageError(
            f"--propose {teacher}: an edit is written by a teacher of type openai or gemini of the run; "
            + (f"it has {', '.join(able)}" if able else "it has none")
        )
    writer = next(each for each in build_teachers(recipe) if each.name == teacher)
    found = review(run.votes, run.rows, task=task, config=recipe.eval, seed=recipe.seed)
    clauses = clauses_to_edit(found, most=most)
    if not clauses:
        raise DataError(f"{run.path}: no clause stands out behind the disagreement; there is nothing to rewrite")
    prompts = [replace(proposal_prompt(found, task.guideline, clause), items=_ROOM) for clause in clauses]
    with Ledger(ledger_path(recipe.ledger)) as ledger:
        texts = asyncio.run(_ask(writer, prompts, ledger))
    return [read_proposal(text, clause) for text, clause in zip(texts, clauses, strict=True)]


def write_proposals(path: Path, run: Run, edits: list[ClauseEdit], *, teacher: str) -> Path:
    """Writes edits as the YAML that ``--edits`` reads, with the old text and what a trial would say against each.

    Raises:
        DataError: An edit cannot stand in the guideline.
    """
    import yaml

    assert run.recipe.task is not None
    guideline = Task.from_config(run.recipe.task).guideline
    assert guideline is not None, "edits were proposed for its clauses"
    parts = [f"# Proposed by {teacher}; read them before: distill review {run.path} --edits {path}\n"]
    for edit in edits:
        try:
            against = refuse_edit(edit, guideline, TrialLimits())
        except DataError as error:
            against = str(error)
        note = f"# A trial would refuse this: {' '.join(against.split())}\n" if against else ""
        item = yaml.safe_dump([edit.model_dump()], allow_unicode=True, sort_keys=False, width=100)
        parts.append(f"# {edit.clause} now: {guideline.by_id[edit.clause].text}\n{note}{item}")
    return write_whole(path, "\n".join(parts))


async def _ask(teacher: Teacher, prompts: list[Prompt], ledger: Ledger) -> list[str]:
    compiled = [teacher.compile(prompt, sample=0) for prompt in prompts]
    requests = [request for request in compiled if request is not None]
    assert len(requests) == len(prompts), "a model asks about any prompt"
    held = ledger.get_many([request.key for request in requests])
    texts = []
    await teacher.open()
    try:
        for request in requests:
            if (reply := held.get(request.key)) is None:
                answer = await teacher.ask(request)
                source = Source(request.endpoint, request.model, teacher.name)
                reply = await asyncio.wrap_future(ledger.put(request.key, answer, source=source))
            texts.append(teacher.read(reply).text)
    finally:
        await teacher.close()
    return texts
