"""What each teacher was asked and what it took, and what the merged labels rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.report.merging_facts import GoldUsed, StudentVoted, merged_with
from distill.labeling.asking.cascade_votes import CASCADE_CAUSE
from distill.labeling.task import Task
from distill.labeling.vote import OUTCOMES


class Reason(Frozen):
    """Why lines ended without a label, and how many."""

    outcome: str
    reason: str
    count: int


class TeacherFacts(Frozen):
    """What one teacher was asked, how it ended, and what it took."""

    name: str
    family: str
    asked: int = Field(description="rows times samples")
    spared: int = Field(0, description="of those unsent, lines that another teacher of a cascade answers")
    outcomes: dict[str, int] = Field(description="adds up to asked")
    reasons: list[Reason]
    input_tokens: int | None = Field(description="as counted by the provider; None where it never said")
    output_tokens: int | None
    cost_usd: float | None = Field(description="of the answers whose price is known; None where none is")
    priced: int = Field(description="answers whose price is known")
    answered: int = Field(description="answers that came back, labeled or not")
    paid_usd: float | None = Field(description="of that, what this run paid: the rest was in the ledger")
    from_ledger: int
    latency_p50_s: float | None
    latency_p95_s: float | None
    citing: float = Field(description="share of labels with a clause cited")
    tracing: float = Field(description="share of labels with a reason in words")
    traces: int = Field(description="reasons in words, with a label or for one that was given")
    traces_checked: bool = Field(description="whether any was checked; those of an older run were not")
    trace_problems: dict[str, int] = Field(description="what is wrong with reasons, and with how many")
    probs_sources: dict[str, int]


class LabelFacts(Frozen):
    """The merged labels."""

    rows: int
    counts: dict[str, int]
    ties: int
    mean_confidence: float | None
    mean_votes: float | None
    mean_n_eff: float | None = Field(description="independent votes that the votes on a row are worth")
    method: str | None = Field(None, description="how votes were merged; what 'auto' stood for")
    warning: str | None = Field(None, description="why that method does not suit the panel; None where it does")
    gold: GoldUsed | None = Field(None, description="people's labels that calibrated them")
    student: StudentVoted | None = Field(None, description="a student that voted too")


def teacher_facts(votes: pl.DataFrame) -> list[TeacherFacts]:
    """What each teacher was asked and what it took, in order of first appearance."""
    found = []
    for name in votes["teacher"].unique(maintain_order=True):
        own = votes.filter(pl.col("teacher") == name)
        answered = own.filter(~pl.col("outcome").is_in(["failed", "unsent"]))
        labeled = own.filter(pl.col("outcome") == "labeled")
        counts = dict(own["outcome"].value_counts().iter_rows())
        priced = answered.filter(pl.col("cost_usd").is_not_null())
        bare = own.filter(~pl.col("outcome").is_in(["labeled", "explained"])).with_columns(
            pl.col("reason").fill_null("no reason noted")
        )
        reasons = (
            bare.group_by("outcome", "reason").len().sort(["len", "outcome", "reason"], descending=[True, False, False])
        )
        found.append(
            TeacherFacts(
                name=name,
                family=own["family"][0],
                asked=len(own),
                spared=int((own["cause"] == CASCADE_CAUSE).sum()) if "cause" in own.columns else 0,
                outcomes={outcome: counts.get(outcome, 0) for outcome in OUTCOMES},
                reasons=[Reason(outcome=o, reason=r, count=n) for o, r, n in reasons.head(8).iter_rows()],
                input_tokens=_total(answered["input_tokens"]),
                output_tokens=_total(answered["output_tokens"]),
                cost_usd=_total(priced["cost_usd"]),
                priced=len(priced),
                answered=len(answered),
                paid_usd=float(priced.filter(~pl.col("from_ledger"))["cost_usd"].sum()) if len(priced) else None,
                from_ledger=int(own["from_ledger"].sum()),
                latency_p50_s=_quantile(answered["latency_s"], 0.5),
                latency_p95_s=_quantile(answered["latency_s"], 0.95),
                citing=_mean(labeled["clauses"].list.len().fill_null(0) > 0) or 0.0,
                tracing=_mean(labeled["trace"].fill_null("") != "") or 0.0,
                **_trace_facts(own),
                probs_sources=dict(labeled["probs_source"].value_counts(sort=True).iter_rows()),
            )
        )
    return found


def _trace_facts(votes: pl.DataFrame) -> dict[str, Any]:
    traces = int((votes["trace"].fill_null("") != "").sum())
    if "trace_problems" not in votes.columns:
        return {"traces": traces, "traces_checked": False, "trace_problems": {}}
    checked = votes["trace_problems"].drop_nulls()
    found = checked.explode(empty_as_null=True).drop_nulls().value_counts()
    counts = found.sort("count", "trace_problems", descending=[True, False])
    return {"traces": traces, "traces_checked": len(checked) > 0, "trace_problems": dict(counts.iter_rows())}


def label_facts(labels: pl.DataFrame, task: Task, *, merging: Mapping[str, Any]) -> LabelFacts:
    """Counts of the merged labels, and how much evidence they carry."""
    given = labels.filter(pl.col("label").is_not_null())
    counts = dict(given["label"].value_counts().iter_rows())
    has = set(labels.columns)
    return LabelFacts(
        rows=len(given),
        counts={label: counts.get(label, 0) for label in task.labels},
        ties=int(given["tie"].sum()) if "tie" in has else 0,
        mean_confidence=_mean(given["confidence"]) if "confidence" in has else None,
        mean_votes=_mean(given["votes"]) if "votes" in has else None,
        mean_n_eff=_mean(given["n_eff"]) if "n_eff" in has else None,
        method=merging.get("method"),
        warning=merging.get("warning"),
        gold=merged_with(merging, GoldUsed, "gold"),
        student=merged_with(merging, StudentVoted, "student"),
    )


def _total(column: pl.Series) -> Any:
    return column.sum() if column.is_not_null().any() else None


def _mean(column: pl.Series) -> float | None:
    mean = column.cast(pl.Float64).mean()
    return float(mean) if isinstance(mean, int | float) else None


def _quantile(column: pl.Series, share: float) -> float | None:
    found = column.quantile(share, "linear")
    return None if found is None else float(found)
