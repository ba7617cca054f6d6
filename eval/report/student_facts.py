"""What students were made of, how their probabilities were set right, and how often they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.scored import score_rows
from distill.labeling.task import Task


class CalibrationFacts(Frozen):
    """The map that was put over a student's probabilities, and what it changed on held-out groups."""

    method: str = Field(description="'none', 'temperature', 'vector' or 'isotonic'")
    source: str = Field(description="'audit gold', 'validation' (what students learn from), or 'none'")
    rows: int = Field(description="that it was fitted on")
    groups: int = Field(description="that these are in")
    tried: dict[str, float] = Field(
        description="calibration error (15 bins) of each map on groups that it was not fitted on; 'none' is before"
    )

    @property
    def before(self) -> float | None:
        """The calibration error without a map; None where too few groups were held out to tell."""
        return self.tried.get("none")

    @property
    def after(self) -> float | None:
        """The calibration error with the map that was chosen."""
        return self.tried.get(self.method)


class AbstentionFacts(Frozen):
    """The promise of a student that leaves rows unanswered."""

    risk: float = Field(description="greatest share of wrong labels wanted among the rows answered")
    confidence: float = Field(description="probability with which it is kept to")
    threshold: float | None = Field(description="least sureness of a row answered; None where none could be promised")
    rows: int = Field(description="held-out rows that it was chosen on")
    groups: int
    rows_needed: int | None = Field(
        None, description="rows that would probably be enough, where none could be promised"
    )


class TraceLearning(Frozen):
    """What became of the teachers' reasons in a student's training rows."""

    learned: int = Field(description="reasons that it learned from")
    left_out: dict[str, int] = Field(description="reasons left out, by what is wrong with them")
    clauses: int = Field(0, description="clauses that it can name")
    citations: int = Field(0, description="rows with a cited clause that it learned from")
    f1: float | None = Field(None, description="of the clauses named, on the validation rows of its threshold")


class StudentFacts(Frozen):
    """How one student was made."""

    learned: dict[str, int] = Field(description="training rows by what gave their label")
    loss: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, description="its section of the recipe")
    train_s: float | None = None
    resumed_at: int = Field(0, description="step of the checkpoint that its training went on from; 0 for the start")
    pruned: int | None = Field(
        None, description="training rows left out as mislabeled; None where none were looked for"
    )
    calibration: CalibrationFacts
    abstention: AbstentionFacts | None = None
    traces: TraceLearning | None = None
    card_href: str | None = Field(None, description="address of its model card, relative to the report")


class AnsweredFacts(Frozen):
    """How many test rows a student that abstains answers, and how many of those wrongly."""

    share: Estimate
    wrong: Estimate


def answered_facts(
    predictions: pl.DataFrame, rows: pl.DataFrame, *, task: Task, config: EvalConfig, seed: int
) -> AnsweredFacts | None:
    """Measures abstention on the test rows whose truth is known, a row counting once.

    Args:
        predictions: Of one student, with ``abstained`` where it may leave rows unanswered.
        rows: The rows table.
        task: What was asked.
        config: Resamples and level.
        seed: Of the resamples.

    Returns:
        None for a student that answers every row.

    Raises:
        DataError: No test row has a truth and a prediction.
    """
    if "abstained" not in predictions.columns:
        return None
    scored = score_rows(predictions, rows, task=task, weighted=False)
    said = scored.frame.select("row_id").join(predictions, on="row_id", how="left", maintain_order="left")
    answered = (~said["abstained"]).to_numpy().astype(float)
    wrong = answered * (scored.predicted != scored.gold)
    share, risk = ratio_estimates(
        np.stack([answered, wrong], axis=1),
        np.stack([np.ones_like(answered), answered], axis=1),
        Resamples.of(scored.group, count=config.bootstrap, seed=seed),
        level=config.level,
    )
    return AnsweredFacts(share=share, wrong=risk)


def measure_answered(
    predictions: Mapping[str, pl.DataFrame], rows: pl.DataFrame, *, task: Task, config: EvalConfig, seed: int
) -> dict[str, AnsweredFacts]:
    """The same for several students; those that answer every row are not in it."""
    known = rows.filter((pl.col("split") == "test") & pl.col("gold").is_not_null())
    if known.is_empty():
        return {}
    found = {
        name: answered_facts(table, rows, task=task, config=config, seed=seed) for name, table in predictions.items()
    }
    return {name: facts for name, facts in found.items() if facts is not None}
