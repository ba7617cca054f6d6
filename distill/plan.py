"""What a run would ask, what the ledger already holds, and what the rest costs: before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.engine.learned_lanes import settle_as_before
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import Teacher
from distill.plan_cascade import Foreseen, foresee, from_least
from distill.plan_rounds import foresee_rounds
from distill.plan_tally import PlanTally
from distill.plan_teacher import PLAN_HEADS, TeacherPlan, notes_on_rows, plan_cells, plan_notes
from distill.recipe import Recipe, require_sections
from distill.teachers.config import section_of
from distill.teachers.model_config import ModelTeacherConfig

if TYPE_CHECKING:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.plan_probe import ProbeResult
    from distill.teachers.config import TeacherConfig


@dataclass(frozen=True)
class Plan:
    """What a run would ask of each teacher.

    Attributes:
        ledger: The ledger that was looked at.
        teachers: One entry each, in the order of the recipe.
        budget_usd: What the recipe allows to spend.
    """

    ledger: Path
    teachers: tuple[TeacherPlan, ...]
    budget_usd: float | None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ledger": str(self.ledger),
            "budget_usd": self.budget_usd,
            "teachers": [asdict(teacher) for teacher in self.teachers],
        }

    def to_text(self) -> str:
        """A table for a person."""
        lines = [PLAN_HEADS, *map(plan_cells, self.teachers)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(PLAN_HEADS))]
        table = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
        notes = [f"{teacher.teacher}: {note}" for teacher in self.teachers for note in plan_notes(teacher)]
        notes += notes_on_rows(self.teachers[0]) if self.teachers else []
        budget = "no budget is set" if self.budget_usd is None else f"the budget is ${self.budget_usd:,.2f}"
        return "\n".join([*(line.rstrip() for line in table), "", *notes, f"ledger {self.ledger}; {budget}"])


def make_plan(recipe: Recipe, *, limit: int | None = None, probe_requests: int = 0) -> Plan:
    """Reads the rows, writes every request and looks it up in the ledger. Sends nothing but the probe asked for.

    Args:
        recipe: What would be run.
        limit: As in :func:`distill.run`.
        probe_requests: How many rows each teacher is asked about first, so that cost and time can be told from the
            replies. These are in the ledger, and paid for once.

    Raises:
        UsageError: The recipe lacks rows, a task or teachers, or the rows cannot be used.
        LedgerError: The ledger cannot be read.
    """
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.rows.load import load_rows
    from distill.stages import build_teachers, ledger_path

    require_sections(recipe, ("data", "task", "teachers"), stage="plan")
    assert recipe.data is not None and recipe.task is not None
    task = Task.from_config(recipe.task)
    path = ledger_path(recipe.ledger)
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.parquet"
        load_rows(recipe.data, task=task, out=table, seed=recipe.seed, slices=recipe.eval.slices, limit=limit)
        config = recipe.labeling
        asked = AskedRows(pl.scan_parquet(table), task=task, config=config, seed=recipe.seed, splits=config.splits)
        # A plan must not leave a ledger behind where there was none.
        with Ledger(path if path.exists() or probe_requests else Path(scratch) / "empty.sqlite") as ledger:
            teachers = build_teachers(recipe)
            for teacher in teachers:
                settle_as_before(teacher, ledger)
            probes: dict[str, ProbeResult] = {}
            if probe_requests:
                paid = [teacher for teacher in teachers if isinstance(_config_of(teacher, recipe), ModelTeacherConfig)]
                probes = _probe(asked, paid, ledger=ledger, requests=probe_requests)
            foreseen = _foreseen(asked, recipe, rows=table, teachers=teachers, ledger=ledger)
            plans = tuple(
                _planned(
                    teacher, asked, recipe=recipe, ledger=ledger, probe=probes.get(teacher.name), foreseen=foreseen
                )
                for teacher in teachers
            )
    return Plan(ledger=path, teachers=plans, budget_usd=recipe.labeling.budget_usd)


def _foreseen(
    asked: AskedRows, recipe: Recipe, *, rows: Path, teachers: Sequence[Teacher], ledger: Ledger
) -> Foreseen | None:
    """Who is asked about which rows in a cascade or in rounds; None where every teacher is asked about all."""
    if recipe.rounds is not None:
        return foresee_rounds(pl.read_parquet(rows), recipe, teachers=[teacher.name for teacher in teachers])
    if recipe.labeling.cascade is None:
        return None
    with Ledger(rows.with_name("foreseen.sqlite")) as scratch:
        return foresee(asked, teachers=teachers, ledger=ledger, scratch=scratch)


def _planned(
    teacher: Teacher,
    asked: AskedRows,
    *,
    recipe: Recipe,
    ledger: Ledger,
    probe: ProbeResult | None,
    foreseen: Foreseen | None,
) -> TeacherPlan:
    """The plan of a teacher: of all that it may be asked, and beside it of what is certain, where that is less."""
    most = PlanTally(teacher, ledger, asked=asked, probe=probe)
    certain = foreseen if foreseen is not None and teacher.name in foreseen.sent else None
    least = PlanTally(teacher, ledger, asked=asked) if certain is not None else None
    for batch in asked:
        most.add(batch if foreseen is None else foreseen.possible(batch, teacher.name))
        if least is not None and certain is not None:
            least.add(certain.certain(batch, teacher.name))
    most.end()
    config = _config_of(teacher, recipe)
    if least is None or certain is None:
        return most.plan(config)
    least.end()
    return from_least(most.plan(config), least.plan(config), why=certain.why)


def _config_of(teacher: Teacher, recipe: Recipe) -> TeacherConfig:
    section = section_of(teacher.name, recipe.teachers)
    assert section is not None, "teachers are built from sections"
    return recipe.teachers[section]


def _probe(asked: AskedRows, teachers: Sequence[Teacher], *, ledger: Ledger, requests: int) -> dict[str, ProbeResult]:
    from distill.plan_probe import probe

    return probe(asked, teachers=teachers, ledger=ledger, requests=requests) if teachers else {}
