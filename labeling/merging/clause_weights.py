r"""Votes weighed by whether others cite the same clauses of the guideline.

Among a row's votes that cite clauses, vote :math:`v` finds *support* in the share of its clauses that other teachers
with the same label cite, and *conflict* in the share that teachers with another label cite:

.. math:: w_v = 1 + s \, (\text{support}_v - \text{conflict}_v) \in [1 - s, 1 + s]

each a mean over the other citing teachers of that kind. A vote that cites nothing, or is the row's only one that does,
weighs 1: silence is no evidence.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from distill.labeling.merging.panel import Panel


def clause_weights(votes: pl.DataFrame, panel: Panel, *, strength: float) -> np.ndarray | None:
    """Weight of each of the panel's votes, shape (n,); None where the table has no ``clauses``.

    Args:
        votes: The table that the panel was read from.
        panel: The votes.
        strength: How far a weight may be from 1, in [0, 1).
    """
    if "clauses" not in votes.columns or not len(panel.position):
        return None
    vote = pl.DataFrame(
        {"vote": np.arange(len(panel.row)), "row": panel.row, "label": panel.label, "by": panel.teacher}
    )
    cited = (
        vote.with_columns(clause=votes["clauses"].gather(panel.position).cast(pl.List(pl.String)))
        .explode("clause")
        .drop_nulls("clause")
        .unique(["vote", "clause"], maintain_order=True)
    )
    pairs = vote.join(cited.select("vote").unique(), on="vote", how="semi")
    pairs = pairs.join(pairs, on="row", suffix="_other").filter(pl.col("by") != pl.col("by_other"))
    if not pairs.height:
        return None
    both = cited.join(cited.select("row", "clause", vote_other="vote"), on=["row", "clause"])
    shared = both.group_by("vote", "vote_other").len("shared")
    many = cited.group_by("vote").len("clauses")
    found = (
        pairs.join(shared, on=["vote", "vote_other"], how="left")
        .join(many, on="vote")
        .with_columns(share=pl.col("shared").fill_null(0) / pl.col("clauses"))
        .group_by("vote", agrees=pl.col("label") == pl.col("label_other"))
        .agg(pl.col("share").mean())
        .with_columns(signed=pl.when("agrees").then(pl.col("share")).otherwise(-pl.col("share")))
        .group_by("vote")
        .agg(pl.col("signed").sum())
        .sort("vote")
    )
    weight = np.ones(len(panel.row))
    weight[found["vote"].to_numpy()] += strength * found["signed"].to_numpy()
    return weight
