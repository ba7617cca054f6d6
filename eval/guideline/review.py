"""The guideline review: where judges disagree, which clauses are behind it, and what to settle first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.agreement import PairAgreement, judge_agreement
from distill.eval.chance_corrected import Reliability, panel_reliability
from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.guideline.advice import Advice, advise
from distill.eval.guideline.attributed_clauses import attribute_clauses
from distill.eval.guideline.clauses import (
    Cause,
    ClauseAccount,
    Collision,
    Units,
    account_clauses,
    find_causes,
    find_collisions,
    pair_units,
)
from distill.eval.guideline.clusters import Theme, find_themes
from distill.eval.guideline.diagnosis import cause_counts, diagnose
from distill.eval.guideline.history import GuidelineHistory
from distill.eval.guideline.slice_agreement import SliceAgreement, slice_agreement
from distill.eval.intervals import Estimate, ratio_estimates, undefined
from distill.eval.scored import label_indices, said_in_full
from distill.labeling.errors import DataError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

MOST_ROWS = 2000
"""Rows with disagreement that a review holds, most telling first; counts are of all of them."""


class Judge(Frozen):
    """One judge: a teacher, a person, a student."""

    name: str
    family: str
    rows: int = Field(description="rows labeled")
    citing: float = Field(description="share of them with at least one clause cited")
    attributed: float = Field(0.0, description="share of them whose clauses were read off the reason, as a guess")
    tracing: float = Field(description="share of them with a reason in words")
    agreement: Estimate = Field(description="share of its comparisons with other judges that agree")


class Lean(Frozen):
    """On the border of two labels, which of two judges gives which."""

    first: str
    second: str
    first_takes_left: int = Field(description="rows where the first judge gives the left label, the second the right")
    second_takes_left: int


class Boundary(Frozen):
    """Two labels that judges take for each other."""

    left: str
    right: str
    conflicts: int
    share: Estimate = Field(description="of all disagreement")
    leans: list[Lean]


class Said(Frozen):
    """What one judge said of a row."""

    judge: str
    label: str
    confidence: float | None
    clauses: list[str]
    attributed: bool = Field(False, description="whether the clauses were read off the trace rather than cited")
    trace: str | None


class TellingRow(Frozen):
    """A row on which judges disagree, with both sides."""

    row_id: str
    group: str
    inputs: dict[str, str]
    said: list[Said]
    merged: str | None = Field(description="the merged label, where labels were given")
    gold: str | None
    cause: int | None = Field(description="position of the cause in the review's list that its disagreement went to")
    weight: float = Field(description="how telling: disagreeing pairs of judges, each by how sure both are")
    likely: str = Field("unclear", description="what is likely behind it, see distill.eval.guideline.diagnosis")
    evidence: str = Field("", description="why that is thought")


class Review(Frozen):
    """Everything that the review report shows. JSON by ``model_dump_json``, back by ``model_validate_json``."""

    guideline_version: str | None
    labels: tuple[str, ...]
    ordered: bool
    inputs: tuple[str, ...]
    rows: int = Field(description="rows that at least two judges labeled")
    groups: int
    rows_apart: int = Field(description="rows on which any two judges disagree")
    units: int = Field(description="rows by pair of judges")
    conflicts: int = Field(description="of those, how many disagree")
    citable: int = Field(description="of those, how many are between judges who both cite clauses")
    agreement: Estimate = Field(description="share of units that agree")
    reliability: Reliability = Field(description="agreement of all judges together, beyond chance")
    likely: dict[str, int] = Field(description="contested rows by what is likely behind them")
    judges: list[Judge]
    pairs: list[PairAgreement]
    boundaries: list[Boundary]
    clauses: list[ClauseAccount]
    collisions: list[Collision]
    causes: list[Cause]
    unexplained: int = Field(description="citable conflicts that no cause took")
    themes: list[Theme] = Field(
        default_factory=list, description="contested rows that are alike, see distill.eval.guideline.clusters"
    )
    slices: list[SliceAgreement] = Field(
        default_factory=list, description="agreement by value of the columns of eval.slices"
    )
    history: GuidelineHistory | None = Field(None, description="earlier versions of the guideline, where given")
    never_cited: list[str]
    uncovered: Estimate = Field(description="share of rows for which a judge who cites clauses elsewhere cites none")
    uncovered_row_ids: list[str]
    telling: list[TellingRow]
    advice: list[Advice]


def review(
    votes: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    task: Task,
    guideline: Guideline | None = None,
    labels: pl.DataFrame | None = None,
    config: EvalConfig | None = None,
    seed: int = 0,
) -> Review:
    """Accounts for the disagreement of judges.

    Args:
        votes: The votes table. Judges without clauses or traces take part in agreement only.
        rows: The rows table.
        task: What was asked.
        guideline: Its clauses are accounted for; the task's own by default.
        labels: Merged labels, shown beside the rows.
        config: Resamples and level.
        seed: Of the resamples.

    Raises:
        DataError: No row was labeled by two judges, or a label is outside the set.
    """
    config, guideline = config or EvalConfig(), guideline or task.guideline
    said = _said(votes, rows, guideline)
    clauses = guideline.clauses if guideline else ()
    units = pair_units(said, ids=tuple(clause.id for clause in clauses), labels=task.labels, config=config, seed=seed)
    if units.frame.is_empty():
        raise DataError(
            f"review: no row was labeled by two judges ({said['teacher'].n_unique()} judges, {len(said)} labels); "
            "give the votes of at least two judges on the same rows"
        )
    label_indices(said["label"], task, "votes")
    accounts = account_clauses(units, said, clauses)
    causes = find_causes(units, accounts)
    uncovered_ids, uncovered = _uncovered(said, config, seed)
    diagnosed = diagnose(votes, rows, task=task)
    apart = units.frame.filter(pl.Series(units.conflict))["row_id"].n_unique()
    one = np.ones((len(units.conflict), 1))
    telling = _telling(_Sides(said, units, causes, diagnosed), rows, task=task, labels=labels)
    found = Review(
        guideline_version=guideline.version if guideline else None,
        labels=task.labels,
        ordered=task.ordered,
        inputs=task.inputs,
        rows=units.frame["row_id"].n_unique(),
        groups=units.resamples.groups,
        rows_apart=apart,
        units=len(units.conflict),
        conflicts=int(units.conflict.sum()),
        citable=int((units.conflict & units.citing).sum()),
        agreement=ratio_estimates((~units.conflict)[:, None].astype(float), one, units.resamples, level=config.level)[
            0
        ],
        reliability=panel_reliability(votes, rows, task=task, config=config, seed=seed),
        likely=cause_counts(diagnosed),
        judges=_judges(said, units),
        pairs=judge_agreement(votes, rows, task=task, config=config, seed=seed),
        boundaries=_boundaries(units),
        clauses=accounts,
        collisions=find_collisions(units),
        causes=causes,
        unexplained=int((units.conflict & units.citing).sum()) - sum(cause.conflicts for cause in causes),
        themes=find_themes(telling, causes, labels=task.labels, config=config, seed=seed),
        slices=slice_agreement(units, rows, config=config),
        never_cited=[account.id for account in accounts if not account.citations],
        uncovered=uncovered,
        uncovered_row_ids=uncovered_ids,
        telling=telling,
        advice=[],
    )
    return found.model_copy(update={"advice": advise(found)})


def _said(votes: pl.DataFrame, rows: pl.DataFrame, guideline: Guideline | None) -> pl.DataFrame:
    said = said_in_full(votes, rows)
    if guideline is None:
        return said.with_columns(attributed=pl.lit(False))
    return attribute_clauses(said, rows, guideline=guideline)


def _judges(said: pl.DataFrame, units: Units) -> list[Judge]:
    found = []
    agree = (~units.conflict).astype(float)
    sides = units.frame
    for name in sorted(said["teacher"].unique()):
        own = said.filter(pl.col("teacher") == name)
        takes_part = ((sides["first"] == name) | (sides["second"] == name)).to_numpy().astype(float)
        estimate = ratio_estimates(
            (agree * takes_part)[:, None], takes_part[:, None], units.resamples, level=units.level
        )[0]
        cites = ((own["clauses"].list.len().fill_null(0) > 0) & ~own["attributed"]).mean()
        traces = own["trace"].fill_null("").ne("").mean()
        found.append(
            Judge(
                name=name,
                family=own["family"][0],
                rows=len(own),
                agreement=estimate,
                citing=_real(cites),
                attributed=_real(own["attributed"].mean()),
                tracing=_real(traces),
            )
        )
    return found


def _boundaries(units: Units) -> list[Boundary]:
    order = {label: i for i, label in enumerate(units.labels)}
    pairs = list(combinations(units.labels, 2))
    left = units.frame["label_first"].to_numpy()
    right = units.frame["label_second"].to_numpy()
    at = {pair: ((left == pair[0]) & (right == pair[1])) | ((left == pair[1]) & (right == pair[0])) for pair in pairs}
    pairs = [pair for pair in pairs if at[pair].any()]
    if not pairs:
        return []
    on = np.stack([at[pair] for pair in pairs], axis=1).astype(float)
    every = np.repeat(units.conflict[:, None].astype(float), len(pairs), axis=1)
    shares = ratio_estimates(on, every, units.resamples, level=units.level)
    found = []
    for pair, share in zip(pairs, shares, strict=True):
        lines = units.frame.filter(pl.Series(at[pair])).select(
            "first", "second", forth=pl.col("label_first") == pair[0]
        )
        leans = [
            Lean(first=first, second=second, first_takes_left=forth, second_takes_left=total - forth)
            for first, second, forth, total in lines.group_by("first", "second", maintain_order=True)
            .agg(pl.col("forth").sum(), pl.len())
            .iter_rows()
        ]
        leans.sort(key=lambda lean: (-(lean.first_takes_left + lean.second_takes_left), lean.first, lean.second))
        found.append(Boundary(left=pair[0], right=pair[1], conflicts=len(lines), share=share, leans=leans))
    return sorted(found, key=lambda boundary: (-boundary.conflicts, order[boundary.left], order[boundary.right]))


def _uncovered(said: pl.DataFrame, config: EvalConfig, seed: int) -> tuple[list[str], Estimate]:
    from distill.eval.intervals import Resamples

    cites = (pl.col("clauses").list.len().fill_null(0) > 0) & ~pl.col("attributed")
    citers = said.filter(cites.any().over("teacher"))
    if citers.is_empty():
        return [], undefined("no judge cites clauses", level=config.level)
    by_row = citers.with_columns(cites.alias("cites")).group_by("row_id", "group").agg(pl.col("cites").any())
    by_row = by_row.sort("row_id")
    resamples = Resamples.of(by_row["group"].to_numpy(), count=config.bootstrap, seed=seed)
    bare = (~by_row["cites"]).to_numpy().astype(float)[:, None]
    share = ratio_estimates(bare, np.ones_like(bare), resamples, level=config.level)[0]
    return by_row.filter(~pl.col("cites"))["row_id"].to_list(), share


@dataclass(frozen=True)
class _Sides:
    said: pl.DataFrame
    units: Units
    causes: list[Cause]
    diagnosed: pl.DataFrame


def _telling(sides: _Sides, rows: pl.DataFrame, *, task: Task, labels: pl.DataFrame | None) -> list[TellingRow]:
    """Rows apart, those on which surer judges disagree first."""
    sure: dict[tuple[str, str], float | None] = {}
    voices: dict[str, list[Said]] = {}
    for vote in sides.said.sort("teacher").iter_rows(named=True):
        confidence = _confidence(vote, task)
        sure[vote["row_id"], vote["teacher"]] = confidence
        voices.setdefault(vote["row_id"], []).append(
            Said(
                judge=vote["teacher"],
                label=vote["label"],
                confidence=confidence,
                clauses=vote["clauses"] or [],
                attributed=vote["attributed"],
                trace=vote["trace"],
            )
        )
    weight: dict[str, float] = defaultdict(float)
    for unit in sides.units.frame.filter(pl.Series(sides.units.conflict)).iter_rows(named=True):
        both = [sure[unit["row_id"], unit[side]] for side in ("first", "second")]
        weight[unit["row_id"]] += min(0.5 if one is None else one for one in both)
    cause_of: dict[str, int] = {}
    for index, cause in enumerate(sides.causes):
        for row_id in cause.row_ids:
            cause_of.setdefault(row_id, index)
    merged = dict(labels.select("row_id", "label").iter_rows()) if labels is not None else {}
    chosen = [row_id for row_id, _ in sorted(weight.items(), key=lambda item: (-item[1], item[0]))[:MOST_ROWS]]
    likely = {row_id: rest for row_id, *rest in sides.diagnosed.select("row_id", "cause", "evidence").iter_rows()}
    wanted = rows.filter(pl.col("row_id").is_in(chosen))
    by_id = {row["row_id"]: row for row in wanted.iter_rows(named=True)}
    return [
        TellingRow(
            row_id=row_id,
            group=by_id[row_id]["group"],
            said=voices[row_id],
            merged=merged.get(row_id),
            inputs={name: str(by_id[row_id].get(name) or "") for name in task.inputs},
            gold=by_id[row_id].get("gold"),
            cause=cause_of.get(row_id),
            weight=round(weight[row_id], 4),
            likely=likely.get(row_id, ["unclear", ""])[0],
            evidence=likely.get(row_id, ["unclear", ""])[1],
        )
        for row_id in chosen
    ]


def _confidence(vote: dict[str, object], task: Task) -> float | None:
    probs = vote["probs"]
    if not isinstance(probs, list) or len(probs) != len(task.labels):
        return None
    return float(probs[task.labels.index(str(vote["label"]))])


def _real(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
