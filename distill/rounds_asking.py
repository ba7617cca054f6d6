"""Asking in rounds: each asks about a few rows in a folder of its own, and its votes join those of earlier rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from distill.label_stage import label
from distill.labeling.asking.label_rows import LabelingFacts
from distill.labeling.errors import BudgetError
from distill.labeling.vote import part_place
from distill.recipe import Recipe
from distill.run_folder import RunFolder, path_digest
from distill.session import Ended, Session
from distill.stages import write_table
from distill.teachers.config import section_of

ASKED, RECHECKED = "asked", "recheck"
"""Folders inside a round's: what every teacher was asked, and what a stronger one was asked again."""
CONTROL = "control"
"""The folder inside a round's of the same round on random rows, which it is compared to."""


@dataclass
class Purse:
    """What may be spent: by this command (``labeling.budget_usd`` and the teachers' own), and by all rounds together.

    Attributes:
        recipe: The recipe.
        paid_usd: What this command paid so far.
        paid_by: The same by teachers' section.
    """

    recipe: Recipe
    paid_usd: float = 0.0
    paid_by: dict[str, float] = field(default_factory=dict)

    def sections(self, teachers: Sequence[str], *, most_usd: float | None) -> dict[str, Any]:
        """The sections ``teachers`` and ``labeling`` for some teachers, with what is left to spend.

        Args:
            teachers: Names of sections.
            most_usd: A further limit; None is none.
        """
        asked = {}
        for name in teachers:
            config = self.recipe.teachers[name]
            own = getattr(config, "budget_usd", None)
            left = None if own is None else max(0.0, own - self.paid_by.get(name, 0.0))
            asked[name] = config if own is None else config.model_copy(update={"budget_usd": left})
        limits = [] if most_usd is None else [max(0.0, most_usd)]
        if (budget := self.recipe.labeling.budget_usd) is not None:
            limits.append(max(0.0, budget - self.paid_usd))
        labeling = self.recipe.labeling.model_copy(update={"budget_usd": min(limits, default=None)})
        return {"teachers": asked, "labeling": labeling}

    def pay(self, session: Session) -> None:
        """Takes in what a labeling stage paid, where it was done by this command."""
        record = session.folder.stage("label")
        if "label" not in session.done or record is None:
            return
        self.paid_usd += float(record.facts.get("cost_usd") or 0.0)
        bought = pl.read_parquet(session.folder.votes).filter(~pl.col("from_ledger"))
        for teacher, cost in bought.group_by("teacher").agg(pl.col("cost_usd").sum()).iter_rows():
            section = section_of(teacher, self.recipe.teachers) or teacher
            self.paid_by[section] = self.paid_by.get(section, 0.0) + cost


def ask(session: Session, purse: Purse, *, most_usd: float | None = None) -> None:
    """Asks the session's teachers about the rows in its folder, which hold nothing but what is to be asked.

    Args:
        session: Of the folder; its recipe's teachers are those that are asked.
        purse: What may be spent.
        most_usd: What this asking and those before it in this folder may cost; None is no limit.

    Raises:
        BudgetError: The budget is spent; what was answered is kept.
    """
    folder = session.folder
    # What an earlier try bought is paid for already, and free now; the limit is for both.
    before = cost_of(pl.read_parquet(folder.votes)) or 0.0 if folder.votes.exists() else 0.0
    left = None if most_usd is None else most_usd - before
    session.recipe = session.recipe.model_copy(update=purse.sections(list(session.recipe.teachers), most_usd=left))
    bound_by_rounds = left is not None and session.recipe.labeling.budget_usd == max(0.0, left)
    try:
        label(session)
    except BudgetError as error:
        if not bound_by_rounds:
            raise
        assert session.recipe.rounds is not None
        raise BudgetError(
            f"rounds.budget_usd: ${session.recipe.rounds.budget_usd:,.4f} do not bear the rows of this round "
            f"({error}); raise it, or ask about fewer rows (rounds.first, rounds.rows, labeling.splits)"
        ) from error
    finally:
        purse.pay(session)


def write_asked_rows(folder: RunFolder, rows: pl.DataFrame, row_ids: pl.Series) -> None:
    """Writes the rows that are to be asked, in the order of the table."""
    write_table(rows.filter(pl.col("row_id").is_in(row_ids.implode())), folder.rows)


def join_votes(
    session: Session, *, number: int, before: Path | None, asked: Sequence[Path], beside: Path | None = None
) -> None:
    """The votes so far: those before, and those of this round, which carry its number; in the order of the rows.

    Args:
        session: Of the round's folder.
        number: Of the round.
        before: Votes of the rounds before; None in the first.
        asked: Tables of this round's votes, that are there or not.
        beside: A further one, of which those votes are taken that are on rows of the others.
    """
    beside = beside if beside and beside.exists() else None
    there = [path for path in asked if path.exists()]
    folder = session.folder

    def work() -> Ended:
        row_ids = pl.read_parquet(folder.rows, columns=["row_id"]).with_row_index("_row")
        new = [pl.read_parquet(path).with_columns(round=pl.lit(number, dtype=pl.Int32)) for path in there]
        votes = pl.concat([*([pl.read_parquet(before)] if before else []), *new], how="diagonal_relaxed")
        if beside is not None:
            more = pl.read_parquet(beside).join(votes.select("row_id").unique(), on="row_id", how="semi")
            more = more.with_columns(round=pl.lit(number, dtype=pl.Int32))
            new, votes = [*new, more], pl.concat([votes, more], how="diagonal_relaxed")
        names = list(session.recipe.teachers)
        place = pl.col("teacher").replace_strict(names, range(len(names)), default=len(names))
        votes = votes.join(row_ids, on="row_id").with_columns(_teacher=place)
        parts = [part_place(session.task)] if "part" in votes.columns else []
        votes = votes.sort("_row", "_teacher", "teacher", "sample", *parts).drop("_row", "_teacher")
        write_table(votes, folder.votes)
        added = sum(len(part) for part in new)
        return Ended(f"{added:,} votes of this round, {len(votes):,} in all")

    session.stage(
        "votes",
        reads=[number, [path and path_digest(path) for path in (before, beside, *there)]],
        outputs=[folder.votes],
        work=work,
    )


def join_labeling(session: Session, votes: Path, asked: Sequence[RunFolder], *, beside: Sequence[RunFolder]) -> None:
    """The labeling stage of the whole run: its votes, what failed in any round, and the facts of all added up.

    Args:
        session: The run's.
        votes: The votes of the last round.
        asked: Folders that teachers were asked in, in order.
        beside: Those of the control, whose requests and cost count and whose votes make no label.
    """
    from distill.run_folder import link_file

    folder = session.folder
    there = [one for one in asked if one.votes.exists()]
    canaries = next((one.canaries for one in there if one.canaries.exists()), None)

    def work() -> Ended:
        link_file(votes, folder.votes)
        folder.failures.write_bytes(b"".join(one.failures.read_bytes() for one in there if one.failures.exists()))
        if canaries is None:
            folder.canaries.unlink(missing_ok=True)
        else:
            link_file(canaries, folder.canaries)
        facts = added_up([record.facts for one in there if (record := one.stage("label"))])
        other = added_up([record.facts for one in beside if (record := one.stage("label"))])
        facts |= {name: facts[name] + other[name] for name in ("requests_sent", "ledger_hits", "cost_usd")}
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in facts["outcomes"].items())
        said += f"; {facts['requests_sent']:,} requests sent, {facts['ledger_hits']:,} answers from the ledger"
        return Ended(said, facts=facts)

    session.stage(
        "label",
        reads=[path_digest(votes), [path_digest(one.failures) for one in there if one.failures.exists()]],
        outputs=[folder.votes, folder.failures, *([folder.canaries] if canaries else [])],
        work=work,
    )


_COUNTS = ("requests_sent", "ledger_hits", "cost_usd", "unpriced", "elapsed_s", "shared")
_COUNTS_BY = ("outcomes", "causes", "requests_cut", "fields_cut")


def added_up(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of several labelings as if of one; what only one of them can tell (canaries, gold rows) is the first's."""
    total: dict[str, Any] = {"outcomes": {}, "causes": {}, "stopped": {}, **dict.fromkeys(_COUNTS, 0)}
    for facts in found:
        for name, value in facts.items():
            if name in _COUNTS:
                total[name] += value
            elif name in _COUNTS_BY:
                counts = total.setdefault(name, {})
                for kind, count in value.items():
                    counts[kind] = counts.get(kind, 0) + count
            elif name == "stopped":
                total[name] |= value
            elif name in LabelingFacts.NAMES:
                total.setdefault(name, value)
    total["elapsed_s"] = round(total["elapsed_s"], 3)
    # As where one labeling tells it: what was not asked for is left out.
    return {name: value for name, value in total.items() if name != "shared" or value}


def cost_of(votes: pl.DataFrame) -> float | None:
    """What answers cost when they were bought; None where a price is not known. A shared answer is bought once."""
    answered = ~pl.col("outcome").is_in(["failed", "unsent"]) & pl.col("shared_from").is_null()
    bought = votes.filter(answered)["cost_usd"]
    return None if bought.null_count() else float(bought.sum())
