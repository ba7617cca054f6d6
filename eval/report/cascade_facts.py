"""How a cascade went, for the run report: what was kept, what that is worth, what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, estimate, ratio_estimates, undefined
from distill.eval.intervals import Size as Evidence
from distill.eval.metrics import Floats
from distill.labeling.asking.cascade_votes import answers_of
from distill.labeling.cascade_config import SurenessBy
from distill.labeling.task import Task


class CascadePoint(Frozen):
    """What one threshold would do, as the calibration rows tell it."""

    threshold: float
    sent: float = Field(description="share of rows that the strong teacher would be asked about")
    rows: int = Field(description="calibration rows kept that count towards the target")
    right: float | None = Field(description="share of these that are right")
    at_least: float | None = Field(description="what that share is at least, with the confidence wanted")
    lost: float | None = Field(description="of all rows, the share kept and wrong")
    passed: bool = Field(description="whether it was shown to do")


class Spent(Frozen):
    """What asking took, and what asking the strong teacher about every row would have taken."""

    cascade: float | None = Field(description="None where it is not known")
    all_strong: float | None = Field(description="likewise; from its answers to the calibration rows")


class CascadeFacts(Frozen):
    """Who answered what, and what it is worth."""

    cheap: str
    strong: str
    measure: str
    target: float
    confidence: float
    by: SurenessBy
    threshold: float | None = Field(description="None where no threshold was shown to do, or none was set")
    stopped: str | None = Field(description="why it ended early")
    rows_needed: int | None = Field(description="calibration rows that would probably be enough")
    calibration: int = Field(description="rows on which both were asked")
    calibration_groups: int
    judged: int = Field(description="of those, rows that could be compared")
    correlation: float = Field(description="how much errors of one group go together, 0 to 1")
    rows: int
    kept: int = Field(description="rows whose answer of the cheap teacher stands")
    asked_cheap: int = Field(description="answers asked of the cheap teacher")
    asked_strong: int
    asked_all: int = Field(description="answers of the strong teacher if it were asked about every row")
    in_calibration: Estimate = Field(description="right among kept, on the rows that the threshold was set on")
    same_label: Estimate = Field(description="the strong teacher's own label, over all calibration rows")
    held_out: Estimate = Field(description="right by gold among the kept answers, on rows outside of calibration")
    against_strong: Estimate = Field(description="accuracy by gold, cascade minus strong alone, on calibration rows")
    tokens: Spent
    usd: Spent
    curve: list[CascadePoint]


def cascade_facts(
    stage: Mapping[str, Any] | None,
    votes: pl.DataFrame | None,
    rows: pl.DataFrame,
    *,
    task: Task,
    config: EvalConfig,
    seed: int,
) -> CascadeFacts | None:
    """Computes what the report says of a cascade.

    Args:
        stage: Facts of the cascade, as the labeling stage kept them; None without one.
        votes: The votes table.
        rows: The rows table, with ``gold`` where people or the author gave it.
        task: For the labels.
        config: Resamples and level.
        seed: Of the resamples.
    """
    if stage is None or votes is None:
        return None
    cheap, strong = stage["order"]
    own = {name: votes.filter(pl.col("teacher") == name) for name in (cheap, strong)}
    table = _answers(stage, own, rows, task)
    lines = {name: int((part["outcome"] != "unsent").sum()) for name, part in own.items()}
    drawn = table["drawn"].to_numpy()
    estimates = _estimates(table, task, stage["measure"], config, seed)
    return CascadeFacts(
        **{
            name: stage[name]
            for name in ("measure", "target", "confidence", "by", "threshold", "stopped", "rows_needed")
        },
        **{name: stage[name] for name in ("judged", "rows", "kept")},
        cheap=cheap,
        strong=strong,
        correlation=stage["correlation"] or 0.0,
        calibration=int(drawn.sum()),
        calibration_groups=table.filter(pl.Series(drawn))["group"].n_unique(),
        asked_cheap=lines[cheap],
        asked_strong=lines[strong],
        asked_all=len(own[strong]),
        **estimates,
        tokens=_spent(own, strong, pl.col("input_tokens") + pl.col("output_tokens"), stage["calibration"]),
        usd=_spent(own, strong, pl.col("cost_usd"), stage["calibration"]),
        curve=[_point(step, stage["judged"], len(stage["calibration"]), stage["rows"]) for step in stage["steps"]],
    )


def _answers(stage: Mapping[str, Any], own: Mapping[str, pl.DataFrame], rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """A line a row that the cheap teacher labeled: both labels, gold, whether it was drawn, whether it is sure."""
    cheap, strong = (answers_of(own[name], task=task, by=stage["by"]) for name in stage["order"])
    table = rows.select("row_id", "group", "gold").join(cheap.rename({"label": "cheap"}), on="row_id")
    table = table.join(strong.select("row_id", strong="label"), on="row_id", how="left", maintain_order="left")
    threshold = stage["threshold"]
    sure = pl.lit(False) if threshold is None else (pl.col("sureness") >= threshold).fill_null(False)
    return table.with_columns(drawn=pl.col("row_id").is_in(stage["calibration"]), sure=sure)


def _estimates(table: pl.DataFrame, task: Task, measure: str, config: EvalConfig, seed: int) -> dict[str, Estimate]:
    """Shares with intervals over groups, each on the rows that it can be told of."""
    if table.is_empty():
        nothing = undefined("no row was answered", level=config.level)
        return dict.fromkeys(("in_calibration", "same_label", "held_out", "against_strong"), nothing)
    both = pl.col("drawn") & pl.col("strong").is_not_null()
    right = pl.col("cheap") == pl.col("gold")
    truth = pl.col("strong") if measure == "agreement" else pl.col("gold")
    counts = pl.col("cheap") == task.positive if measure == "positive_precision" else pl.lit(True)
    final = pl.when("sure").then("cheap").otherwise("strong")
    judged = pl.col("drawn") & pl.col("sure") & truth.is_not_null() & counts
    flags = table.select(
        in_calibration=judged & (pl.col("cheap") == truth),
        in_calibration_of=judged,
        same_label=both & (final == pl.col("strong")),
        same_label_of=both,
        held_out=~pl.col("drawn") & pl.col("sure") & right & counts,
        held_out_of=~pl.col("drawn") & pl.col("sure") & pl.col("gold").is_not_null() & counts,
        change=(final == pl.col("gold")).cast(pl.Float64) - (pl.col("strong") == pl.col("gold")).cast(pl.Float64),
        change_of=both & pl.col("gold").is_not_null(),
    ).with_columns(pl.all().cast(pl.Float64).fill_null(0.0))
    resamples = Resamples.of(table["group"].to_numpy(), count=config.bootstrap, seed=seed)
    names = ["in_calibration", "same_label", "held_out"]
    above = flags.select(names).to_numpy()
    below = flags.select(f"{name}_of" for name in names).to_numpy()
    found = dict(zip(names, ratio_estimates(above, below, resamples, level=config.level), strict=True))
    change, of = flags["change"].to_numpy() * flags["change_of"].to_numpy(), flags["change_of"].to_numpy()
    return {**found, "against_strong": _mean_change(change, of, resamples, level=config.level)}


def _mean_change(change: Floats, of: Floats, resamples: Resamples, *, level: float) -> Estimate:
    """A mean difference on the same rows: no proportion, so that 0 is nothing special."""
    drawn = resamples.sums(np.stack([change, of], axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = drawn[:, 0] / drawn[:, 1]
    size = Evidence(int(of.sum()), len(np.unique(resamples.codes[of > 0])))
    return estimate(float(change.sum() / of.sum()) if of.any() else float("nan"), draws, size, level=level)


def _spent(own: Mapping[str, pl.DataFrame], strong: str, what: pl.Expr, calibration: list[str]) -> Spent:
    """What was bought, and what the strong teacher would take for every line at what it took for those drawn.

    Rows it was sent later are those that the other found hard, and may be longer: they tell nothing of the rest.
    """
    answered = [
        part.filter(~pl.col("outcome").is_in(["failed", "unsent"])).select("row_id", what=what) for part in own.values()
    ]
    if any(part["what"].has_nulls() for part in answered):
        return Spent(cascade=None, all_strong=None)
    drawn = answered[list(own).index(strong)].filter(pl.col("row_id").is_in(calibration))["what"].mean()
    return Spent(
        cascade=float(sum(part["what"].sum() for part in answered)),
        all_strong=float(drawn) * len(own[strong]) if isinstance(drawn, int | float) else None,
    )


def _point(step: Mapping[str, Any], judged: int, calibration: int, rows: int) -> CascadePoint:
    right, kept = step["right"], step["kept"]
    # Rows drawn are asked of both whatever the threshold.
    drawn = calibration / rows if rows else 1.0
    return CascadePoint(
        threshold=step["threshold"],
        sent=1.0 - kept * (1.0 - drawn),
        rows=step["rows"],
        right=right,
        at_least=step["at_least"],
        lost=None if right is None or not judged else (1.0 - right) * step["rows"] / judged * (1.0 - drawn),
        passed=step["passed"],
    )
