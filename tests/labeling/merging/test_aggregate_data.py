"""Stated confidence against people's labels, on panels of six LLMs from four families."""

import os
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.merging.aggregate import aggregate
from distill.labeling.merging.dependence import panel_dependence

DATA = Path(os.environ.get("DISTILL_DATA", "nowhere")) / "votes"

pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.is_dir(), reason="DISTILL_DATA is not set")]


def panel_and_people(name):
    """Votes of the LLMs, and the label that most people gave where one leads."""
    votes = pl.read_parquet(DATA / name / "votes.parquet").select(
        pl.col("item").alias("row_id"), pl.col("voter").alias("teacher"), "family", pl.col("label").cast(pl.String)
    )
    counts = votes.filter(pl.col("family") == "human").group_by("row_id", "label").len()
    leading = counts.filter(pl.col("len") == pl.col("len").max().over("row_id"))
    people = leading.filter(pl.len().over("row_id") == 1).select("row_id", gold="label")
    return votes.filter(pl.col("family") != "human"), people, sorted(votes["label"].unique())


@pytest.mark.parametrize("name", ["cebab_aspects", "framing", "lgbteen", "10k_prompts"])
def test_confidence_is_nearer_to_accuracy_than_the_share_of_votes_is(name):
    votes, people, labels = panel_and_people(name)
    merged = aggregate(votes, labels=labels).join(people, on="row_id")
    accuracy = (merged["label"] == merged["gold"]).mean()
    share = merged["probs"].list.max().mean()
    assert abs(merged["confidence"].mean() - accuracy) < 0.06 and merged["confidence"].mean() < share


@pytest.mark.parametrize("name", ["cebab_aspects", "framing", "lgbteen", "10k_prompts", "wax"])
def test_error_correlation_without_labels_is_within_a_fifth_of_that_with_them(name):
    votes, people, labels = panel_and_people(name)
    unseen, seen = panel_dependence(votes, labels=labels), panel_dependence(votes, labels=labels, gold=people)
    assert (unseen.source, seen.source) == ("consensus", "gold")
    assert unseen.between == pytest.approx(seen.between, abs=0.2)
    # Six judges are far from six votes.
    assert unseen.n_eff < 3 and seen.n_eff < 3
