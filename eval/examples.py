"""Rows worth reading: where the best student is wrong and sure, or right and unsure, with what every judge said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from distill.eval.scored import collapse_votes

if TYPE_CHECKING:
    from distill.eval.run_facts import RunReport


class Voice(BaseModel):
    """What one judge said of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    label: str
    clauses: list[str]
    trace: str | None


class Example(BaseModel):
    """One row with its truth, its prediction and its votes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_id: str
    split: str
    inputs: dict[str, str]
    truth: str | None
    predicted: str | None
    confidence: float | None
    verdict: str = Field(description="'wrong', 'right', or 'no truth'")
    merged: str | None
    voices: list[Voice]


def hardest_rows(report: RunReport, *, student: str | None, split: str = "test") -> list[Example]:
    """The rows of a split that a student does worst on: wrong and surest first, then right and least sure.

    Without a student, the labeled rows on whose merged label least rests.

    Args:
        report: The run.
        student: Whose predictions.
        split: Rows of this split only, where a student predicts.
    """
    limit = report.config.examples
    rows = report.rows
    if student is not None and student in report.predictions:
        said = report.predictions[student]
        wanted = [column for column in ("row_id", "label", "confidence", "probs") if column in said.columns]
        table = rows.filter(pl.col("split") == split).join(
            said.select(wanted).rename({"label": "_label"}), on="row_id", how="inner"
        )
        sure = _confidence(table)
        table = table.with_columns(
            sure.alias("_sure"),
            pl.when(pl.col("gold").is_null())
            .then(pl.lit("no truth"))
            .otherwise(pl.when(pl.col("_label") == pl.col("gold")).then(pl.lit("right")).otherwise(pl.lit("wrong")))
            .alias("_verdict"),
        )
        wrong = table.filter(pl.col("_verdict") == "wrong").sort(["_sure", "row_id"], descending=[True, False])
        rest = table.filter(pl.col("_verdict") != "wrong").sort(["_sure", "row_id"])
        chosen = pl.concat([wrong, rest]).head(limit)
    elif report.labels is not None and "confidence" in report.labels.columns:
        given = report.labels.filter(pl.col("label").is_not_null()).select("row_id", _sure="confidence")
        chosen = rows.join(given, on="row_id").sort(["_sure", "row_id"]).head(limit)
        chosen = chosen.with_columns(
            pl.lit(None, dtype=pl.String).alias("_label"), pl.lit("no truth").alias("_verdict")
        )
    else:
        return []
    return _with_voices(chosen, report)


def _with_voices(chosen: pl.DataFrame, report: RunReport) -> list[Example]:
    voices: dict[str, list[Voice]] = {}
    if report.votes is not None:
        said = collapse_votes(report.votes.join(chosen.select("row_id"), on="row_id", how="semi")).sort("teacher")
        for vote in said.iter_rows(named=True):
            voice = Voice(
                judge=vote["teacher"], label=vote["label"], clauses=vote.get("clauses") or [], trace=vote.get("trace")
            )
            voices.setdefault(vote["row_id"], []).append(voice)
    merged: dict[str, Any] = {}
    if report.labels is not None:
        merged = dict(report.labels.select("row_id", "label").iter_rows())
    return [
        Example(
            row_id=row["row_id"],
            split=row["split"],
            inputs={name: str(row.get(name) or "") for name in report.task.inputs},
            truth=row["gold"],
            predicted=row["_label"],
            confidence=row["_sure"],
            verdict=row["_verdict"],
            merged=merged.get(row["row_id"]),
            voices=voices.get(row["row_id"], []),
        )
        for row in chosen.iter_rows(named=True)
    ]


def _confidence(table: pl.DataFrame) -> pl.Expr:
    if "confidence" in table.columns:
        return pl.col("confidence")
    return pl.col("probs").list.max() if "probs" in table.columns else pl.lit(None, dtype=pl.Float64)
