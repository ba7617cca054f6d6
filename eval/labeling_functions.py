"""What labeling functions cover, how far they overlap and conflict, and how often they are right.

The measures are those of Snorkel's ``LFAnalysis`` (Ratner et al. 2017, arXiv:1711.10160), over the functions given:

- *polarity*: the labels that a function gives;
- *coverage*: the share of the rows that it labels;
- *overlap*: the share of the rows that it labels and another function labels too;
- *conflict*: the share of the rows that it labels and another function labels differently;
- *accuracy*: of the rows with gold that it labels, the share that it labels right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, ratio_estimates, undefined
from distill.eval.scored import collapse_votes
from distill.labeling.errors import DataError

_WANTED = ("row_id", "teacher", "outcome", "label")


class FunctionFacts(Frozen):
    """What one labeling function did."""

    name: str
    family: str
    rows: int = Field(description="rows that it was asked about")
    polarity: tuple[str, ...] = Field(description="labels that it gave, the commonest first")
    labeled: int = Field(description="rows that it labeled")
    overlapping: int = Field(description="of those, labeled by another function too")
    conflicting: int = Field(description="of those, labeled otherwise by another function")
    failed: int = Field(description="rows on which it raised, or gave what is no label")
    accuracy: Estimate = Field(description="of the rows with gold that it labeled, the share that it labeled right")

    @property
    def coverage(self) -> float:
        """Share of the rows that it labeled."""
        return self.labeled / self.rows

    @property
    def overlap(self) -> float:
        """Share of the rows that it labeled and another too."""
        return self.overlapping / self.rows

    @property
    def conflict(self) -> float:
        """Share of the rows that it labeled and another otherwise."""
        return self.conflicting / self.rows


def analyze_functions(
    votes: pl.DataFrame,
    rows: pl.DataFrame | None = None,
    *,
    functions: Sequence[str] | None = None,
    config: EvalConfig | None = None,
    seed: int = 0,
) -> list[FunctionFacts]:
    """Measures labeling functions, in the order of the votes.

    Args:
        votes: The votes table.
        rows: The rows table, for ``gold`` and ``group``; without it nothing is said of accuracy.
        functions: Names of teachers; all of ``votes`` by default. Overlap and conflict are among these.
        config: Resamples and level of the intervals.
        seed: Of the resamples.

    Raises:
        DataError: A column is missing, or a function has no votes.
    """
    if missing := [name for name in _WANTED if name not in votes.columns]:
        raise DataError(f"votes: the columns {missing} are missing, got {votes.columns}; give the votes table")
    known = votes["teacher"].unique(maintain_order=True).to_list()
    names = known if functions is None else [name for name in known if name in set(functions)]
    if strangers := sorted(set(functions or ()) - set(known)):
        raise DataError(f"votes: no votes of {', '.join(strangers)}; there are {', '.join(known)}")
    if not names:
        return []
    own = votes.filter(pl.col("teacher").is_in(names))
    asked = own.group_by("teacher").agg(
        pl.col("row_id").n_unique().alias("rows"),
        pl.col("row_id").filter(pl.col("outcome").is_in(["failed", "invalid"])).n_unique().alias("failed"),
    )
    counts = {name: (rows, failed) for name, rows, failed in asked.iter_rows()}
    said = _with_neighbours(collapse_votes(own))
    truth = _accuracies(said, rows, names, config=config or EvalConfig(), seed=seed)
    families = dict(own.select("teacher", "family").iter_rows()) if "family" in own.columns else {}
    return [
        _facts(name, said.filter(pl.col("teacher") == name), families.get(name) or name, counts[name], truth[name])
        for name in names
    ]


def analysis_table(facts: Sequence[FunctionFacts]) -> pl.DataFrame:
    """The measures as a table, a line a function."""
    return pl.DataFrame(
        [
            {
                "function": one.name,
                "family": one.family,
                "rows": one.rows,
                "polarity": list(one.polarity),
                "coverage": one.coverage,
                "overlap": one.overlap,
                "conflict": one.conflict,
                "failed": one.failed,
                "gold": one.accuracy.rows,
                "accuracy": one.accuracy.value,
                "low": one.accuracy.low,
                "high": one.accuracy.high,
            }
            for one in facts
        ],
        schema={
            "function": pl.String,
            "family": pl.String,
            "rows": pl.Int64,
            "polarity": pl.List(pl.String),
            "coverage": pl.Float64,
            "overlap": pl.Float64,
            "conflict": pl.Float64,
            "failed": pl.Int64,
            "gold": pl.Int64,
            "accuracy": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
        },
    )


def _with_neighbours(said: pl.DataFrame) -> pl.DataFrame:
    """Answers, with how many functions labeled the row and how many gave this label."""
    return said.with_columns(
        pl.len().over("row_id").alias("_labeled_by"), pl.len().over("row_id", "label").alias("_given_by")
    )


def _facts(name: str, own: pl.DataFrame, family: str, counts: tuple[int, int], accuracy: Estimate) -> FunctionFacts:
    polarity = own["label"].value_counts().sort(["count", "label"], descending=[True, False])["label"]
    return FunctionFacts(
        name=name,
        family=family,
        rows=counts[0],
        polarity=tuple(polarity),
        labeled=len(own),
        overlapping=int((own["_labeled_by"] > 1).sum()),
        conflicting=int((own["_labeled_by"] > own["_given_by"]).sum()),
        failed=counts[1],
        accuracy=accuracy,
    )


def _accuracies(
    said: pl.DataFrame, rows: pl.DataFrame | None, names: Sequence[str], *, config: EvalConfig, seed: int
) -> dict[str, Estimate]:
    """How often each is right where gold is known, all on the same resamples of groups."""
    known = None
    if rows is not None and "gold" in rows.columns:
        known = rows.filter(pl.col("gold").is_not_null())
    if known is None or known.is_empty():
        return {name: undefined("no gold labels", level=config.level) for name in names}
    group = "group" if "group" in known.columns else "row_id"
    known = known.select("row_id", "gold", pl.col(group).alias("group"))
    judged = said.join(known, on="row_id")
    if judged.is_empty():
        return {name: undefined("it labeled no row that has gold", level=config.level) for name in names}
    voter = judged["teacher"].to_numpy()
    of_function = np.stack([voter == name for name in names], axis=1).astype(float)
    right = (judged["label"] == judged["gold"]).to_numpy().astype(float)[:, None] * of_function
    resamples = Resamples.of(judged["group"].to_numpy(), count=config.bootstrap, seed=seed)
    found = dict(zip(names, ratio_estimates(right, of_function, resamples, level=config.level), strict=True))
    return {
        name: estimate if estimate.rows else undefined("it labeled no row that has gold", level=config.level)
        for name, estimate in found.items()
    }
