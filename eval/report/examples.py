"""Rows worth reading: where the best student is wrong and sure, or right and unsure, with what every judge said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.scored import collapse_votes

if TYPE_CHECKING:
    from distill.eval.report.facts import RunReport


class Voice(Frozen):
    """What one judge said of a row."""

    judge: str
    label: str
    clauses: list[str]
    trace: str | None


class Example(Frozen):
    """One row with its truth, its prediction and its votes."""

    row_id: str
    split: str
    inputs: dict[str, str]
    truth: str | None
    predicted: str | None
    confidence: float | None
    verdict: str = Field(
        description="'wrong' or 'right'; 'differs' or 'same' where the truth is merged labels; 'no truth' without one"
    )
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
    if student is not None and student in report.predictions:
        chosen = _by_mistakes(report, report.predictions[student], split)
    elif report.labels is not None and "confidence" in report.labels.columns:
        given = report.labels.filter(pl.col("label").is_not_null()).select("row_id", _sure="confidence")
        chosen = report.rows.join(given, on="row_id").sort(["_sure", "row_id"])
        chosen = chosen.with_columns(_label=pl.lit(None, dtype=pl.String), _verdict=pl.lit("no truth"))
    else:
        return []
    return _with_voices(chosen.head(report.config.examples), report)


def _by_mistakes(report: RunReport, predictions: pl.DataFrame, split: str) -> pl.DataFrame:
    missed, met = ("differs", "same") if report.against_teachers else ("wrong", "right")
    said = predictions.select("row_id", _label="label", _sure=_confidence(predictions))
    table = report.rows.filter(pl.col("split") == split).join(said, on="row_id", how="inner")
    right = pl.when(pl.col("_label") == pl.col("gold")).then(pl.lit(met)).otherwise(pl.lit(missed))
    table = table.with_columns(_verdict=pl.when(pl.col("gold").is_null()).then(pl.lit("no truth")).otherwise(right))
    wrong = table.filter(pl.col("_verdict") == missed).sort(["_sure", "row_id"], descending=[True, False])
    return pl.concat([wrong, table.filter(pl.col("_verdict") != missed).sort(["_sure", "row_id"])])


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
            truth=None if report.against_teachers else row["gold"],
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
