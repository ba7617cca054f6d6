"""What a panel of teachers is worth: how far it errs together, label by label, and which family would add most."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.labeling.merging.dependence import Source, panel_dependence
from distill.labeling.merging.panel_advice import dependence_by_label, next_family
from distill.labeling.task import Task

_MOST_ROWS = 20_000
_FEWEST_GOLD = 100
"""Gold rows from which errors are judged by gold; fewer say less than the agreement on all rows does."""
_PILOT_SHARE = 0.5
_FEWEST_PILOT = 20
_MOST_FAMILIES = 12


class LabelWorth(Frozen):
    """The panel on the rows of one label."""

    label: str
    rows: int
    between: float | None = Field(description="error correlation between families; None with too few rows")
    n_eff: float | None = Field(description="independent votes that a row's votes are worth")


class FamilyGain(Frozen):
    """What a family brings to the others."""

    family: str
    rows: int = Field(description="rows that it labeled")
    error_correlation: float
    agreement: float
    n_eff_gain: float
    expected_gain: float = Field(description="of accuracy, as a share, by the normal approximation: for its order")


class PanelFacts(Frozen):
    """What a panel is worth."""

    teachers: int
    families: int
    votes: float = Field(description="teachers that labeled a row, on average")
    n_eff: float
    between: float
    source: Source = Field(description="what errors were judged by")
    by_label: list[LabelWorth]
    pilots: bool = Field(description="whether the gains are of families tried on a part of the rows")
    gains: list[FamilyGain] = Field(description="most worth first; empty with fewer than three families")
    one_more: float | None = Field(description="votes that one more family would add which errs as these do")


def panel_facts(
    votes: pl.DataFrame, *, task: Task, gold: pl.DataFrame | None = None, leave_out: Sequence[str] = ()
) -> PanelFacts | None:
    """Measures a panel.

    A family that labeled less than half as many rows as the busiest is taken for one on trial, and the gains are those
    of adding it. Where none is, each family's gain is what it brings to the others.

    Args:
        votes: The votes table.
        task: For the labels.
        gold: ``row_id`` and ``gold``; errors are judged by it where at least 100 labeled rows have it.
        leave_out: Teachers that are no panel, such as labeling functions, each of which knows one label.

    Returns:
        None with fewer than two teachers.
    """
    said = votes.filter((pl.col("outcome") == "labeled") & ~pl.col("teacher").is_in(list(leave_out)))
    if said["teacher"].n_unique() < 2:
        return None
    said = _sampled(said.with_columns(family=pl.coalesce("family", "teacher")))
    known = None
    if gold is not None:
        known = gold.filter(pl.col("gold").is_in(list(task.labels)))
        known = known.join(said.select("row_id").unique(), on="row_id", how="semi")
        known = known if len(known) >= _FEWEST_GOLD else None
    labels = task.labels
    found = panel_dependence(said, labels=labels, gold=known)
    lines = dependence_by_label(said, labels=labels, gold=known).iter_rows(named=True)
    pilots, gains = _gains(said, labels)
    families = found.families - len(gains if pilots else [])
    judged = said.select("row_id", "teacher").unique()
    return PanelFacts(
        teachers=found.teachers,
        families=found.families,
        votes=len(judged) / judged["row_id"].n_unique(),
        n_eff=found.n_eff,
        between=found.between,
        source=found.source,
        by_label=[LabelWorth.model_validate({k: v for k, v in line.items() if k != "source"}) for line in lines],
        pilots=pilots,
        gains=gains,
        one_more=_worth(families + 1, found.between) - _worth(families, found.between) if families > 1 else None,
    )


def _gains(said: pl.DataFrame, labels: Sequence[str]) -> tuple[bool, list[FamilyGain]]:
    rows = said.group_by("family").agg(pl.col("row_id").n_unique().alias("rows")).sort("family")
    counts = dict(rows.iter_rows())
    most = max(counts.values())
    on_trial = [name for name, count in counts.items() if _FEWEST_PILOT <= count < _PILOT_SHARE * most]
    if len(counts) < 3 or len(counts) > _MOST_FAMILIES:
        return False, []
    if on_trial and len(counts) - len(on_trial) > 1:
        found = next_family(said, labels=labels, candidates=on_trial)
    else:
        on_trial = []
        parts = [next_family(said, labels=labels, candidates=[name]) for name in counts]
        found = pl.concat(parts).sort("expected_gain", "family", descending=[True, False])
    return bool(on_trial), [FamilyGain(**line, rows=counts[line["family"]]) for line in found.iter_rows(named=True)]


def _sampled(said: pl.DataFrame) -> pl.DataFrame:
    """Votes of as many rows as tell enough, those that most families judged first: only shared rows tell anything."""
    rows = said.group_by("row_id", maintain_order=True).agg(pl.col("family").n_unique().alias("families"))
    if len(rows) <= _MOST_ROWS:
        return said
    spread = (pl.int_range(pl.len()) * 7919) % pl.len()
    kept = rows.with_columns(_spread=spread).sort("families", "_spread", descending=[True, False]).head(_MOST_ROWS)
    return said.join(kept.select("row_id"), on="row_id", how="semi", maintain_order="left")


def _worth(families: int, between: float) -> float:
    """Kish's effective votes of families of equal shares."""
    return families / (1 + (families - 1) * between)
