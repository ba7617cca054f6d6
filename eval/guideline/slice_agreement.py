"""How often judges agree on each part of the rows: by language, category, or any other column."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.guideline.clauses import Units
from distill.eval.intervals import Estimate, ratio_estimates


class SliceAgreement(Frozen):
    """Agreement on the rows that have one value of a column."""

    column: str
    value: str
    rows: int = Field(description="rows that two judges labeled")
    conflicts: int = Field(description="disagreeing pairs of judges")
    agreement: Estimate = Field(description="share of pairs of judges that agree")


def slice_agreement(units: Units, rows: pl.DataFrame, *, config: EvalConfig) -> list[SliceAgreement]:
    """Agreement by value of each column of ``config.slices`` that the rows have, values with most rows first.

    Args:
        units: From :func:`distill.eval.guideline.clauses.pair_units`.
        rows: The rows table.
        config: Which columns, how many values of each, and the level.
    """
    found: list[SliceAgreement] = []
    for column in config.slices:
        if column not in rows.columns:
            continue
        value = pl.col(column).cast(pl.String).fill_null("(none)").alias("_value")
        of_row = rows.select("row_id", value)
        of_unit = units.frame.select("row_id").join(of_row, on="row_id", how="left", maintain_order="left")
        counts = of_unit.group_by("_value").agg(pl.col("row_id").n_unique()).sort("row_id", "_value", descending=True)
        counts = counts.head(config.slice_values)
        names = of_unit["_value"].to_numpy()
        inside = np.stack([names == name for name in counts["_value"]], axis=1).astype(float)
        agreed = inside * (~units.conflict)[:, None]
        estimates = ratio_estimates(agreed, inside, units.resamples, level=units.level)
        for k, (name, number) in enumerate(counts.iter_rows()):
            conflicts = int((inside[:, k] - agreed[:, k]).sum())
            found.append(
                SliceAgreement(column=column, value=name, rows=number, conflicts=conflicts, agreement=estimates[k])
            )
    return found
