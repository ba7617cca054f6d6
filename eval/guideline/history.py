"""Versions of a guideline: what each changed, clause by clause, and which votes that made stale."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import polars as pl
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.labeling.guideline import Guideline


class ClauseChange(Frozen):
    """What became of one clause."""

    id: str
    kind: Literal["added", "removed", "changed"]
    before: str = Field(description="title and text; empty where it was added")
    after: str = Field(description="title and text; empty where it was removed")


class VersionStep(Frozen):
    """From one version to the next."""

    old: str
    new: str
    changes: list[ClauseChange]
    around: bool = Field(description="whether text outside the clauses changed, beyond the version itself")
    growth: float = Field(description="share by which the text got longer; below zero, shorter")


class GuidelineHistory(Frozen):
    """Versions up to the one in force, and the votes that rest on earlier ones."""

    steps: list[VersionStep] = Field(description="oldest first; the last leads to the guideline in force")
    votes: int = Field(description="labels given by judges who were shown some version")
    current: int = Field(description="of those, under the version in force")
    stale: int = Field(description="of those, under an earlier version of this history")
    unknown: int = Field(description="of those, under a version that is not in this history")
    touched: int = Field(description="stale ones that cite a clause which has changed since, or is gone")
    touched_rows: int = Field(description="rows that those are on")
    stale_usd: float | None = Field(description="what the stale ones cost when they were asked; None without a price")
    touched_usd: float | None = Field(description="what those of them that cite a changed clause cost")
    note: str = Field("", description="what to beware of")


def clause_changes(old: Guideline, new: Guideline) -> list[ClauseChange]:
    """Clauses that differ, in the order of the new text, those that are gone last. White space does not count."""
    before = {clause.id: f"{clause.title}. {clause.text}" for clause in old.clauses}
    after = {clause.id: f"{clause.title}. {clause.text}" for clause in new.clauses}
    found = [
        ClauseChange(id=name, kind="changed" if name in before else "added", before=before.get(name, ""), after=text)
        for name, text in after.items()
        if _words(before.get(name, "")) != _words(text)
    ]
    gone = [name for name in before if name not in after]
    return found + [ClauseChange(id=name, kind="removed", before=before[name], after="") for name in gone]


def guideline_history(votes: pl.DataFrame, versions: Sequence[Guideline]) -> GuidelineHistory:
    """Compares versions, and counts the votes that rest on those no longer in force.

    A vote knows the version that its judge was shown (``guideline_version``), not its text: where two texts carry one
    version, their votes cannot be told apart, and ``note`` says so.

    Args:
        votes: The votes table.
        versions: Oldest first; the last is in force.
    """
    now, by_version = versions[-1], {guideline.version: guideline for guideline in versions[:-1]}
    by_version.pop(now.version, None)
    moved = {name: {change.id for change in clause_changes(old, now)} for name, old in by_version.items()}
    shown = votes.filter((pl.col("outcome") == "labeled") & pl.col("guideline_version").is_not_null())
    stale = shown.filter(pl.col("guideline_version").is_in(list(moved)))
    rests = [
        bool(moved[version] & set(cited or ()))
        for version, cited in stale.select("guideline_version", "clauses").iter_rows()
    ]
    touched = stale.filter(pl.Series(rests, dtype=pl.Boolean))
    current = shown.filter(pl.col("guideline_version") == now.version).height
    alike = sorted({old.version for old in versions[:-1] if old.version == now.version})
    return GuidelineHistory(
        steps=[_step(old, new) for old, new in pairwise(versions)],
        votes=len(shown),
        current=current,
        stale=len(stale),
        unknown=len(shown) - current - len(stale),
        touched=len(touched),
        touched_rows=touched["row_id"].n_unique(),
        stale_usd=_cost(stale),
        touched_usd=_cost(touched),
        note=(
            f"an earlier text carries the version in force, {alike[0]}: votes under it count as current; give each "
            "text a version of its own"
            if alike
            else ""
        ),
    )


def _step(old: Guideline, new: Guideline) -> VersionStep:
    return VersionStep(
        old=old.version,
        new=new.version,
        changes=clause_changes(old, new),
        around=_around(old) != _around(new),
        growth=len(new.text) / len(old.text) - 1.0,
    )


def _around(guideline: Guideline) -> str:
    """The words outside clauses, without the line that names the version."""
    words = _words(guideline.text.replace(f"version: {guideline.version}", "", 1))
    for clause in guideline.clauses:
        title = f" {clause.title}" if clause.title else ""
        words = words.replace(_words(f"- **{clause.id}{title}.** {clause.text}"), "", 1)
    return _words(words)


def _words(text: str) -> str:
    return " ".join(text.split())


def _cost(votes: pl.DataFrame) -> float | None:
    known = votes["cost_usd"].drop_nulls() if "cost_usd" in votes.columns else pl.Series([], dtype=pl.Float64)
    return float(known.sum()) if len(known) else None
