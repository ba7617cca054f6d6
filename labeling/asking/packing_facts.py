"""What asking about several rows at once did: to the answers, and to the bill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.shares import Share, wilson_share
from distill.labeling.task import Task

_FEWEST_PACKS = 20


def packed_votes(votes: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """Of votes on rows that were asked about with others, what tells whether the place moves the label.

    Returns:
        ``key`` (a hash of it), ``position``, ``asked_with`` and ``label``: a few bytes a row, since all are held.
    """
    return votes.filter(pl.col("asked_with") > 1).select(
        pl.col("key").hash(),
        pl.col("position", "asked_with").cast(pl.UInt8),
        pl.col("label").cast(pl.Enum(labels), strict=False),
    )


class PlaceTest(NamedTuple):
    """Whether labels hang on the place of a row among those asked about together.

    Attributes:
        statistic: Generalised Mantel-Haenszel statistic.
        freedom: Degrees of freedom.
        p: Probability of one as large where the place moves nothing.
        packs: Requests behind it: those with a label for each of their rows.
    """

    statistic: float
    freedom: int
    p: float
    packs: int


class PerRow(NamedTuple):
    """What the answer to a row took, in the mean; None where it is not known."""

    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None


@dataclass(frozen=True)
class PackingFacts:
    """How one teacher took several rows at once.

    Attributes:
        rows: Rows × samples answered together with others.
        packs: Requests that answered them.
        asked_alone: Rows that had to be asked about alone, since the request about several did not answer them.
        moved: Of the rows that were asked alone as well, those that got another label alone; Wilson's interval.
        moved_at: The same for rows of the ``first`` and ``second_half`` of a request, and at the ``first`` and
            ``last`` place.
        positive_at: Positive labels at the ``first`` and ``last`` place of the same requests; empty where the task has
            no positive label. Rows are put in their places by a draw, so that a difference is the place's doing.
        place: Test of label by place; None where there are too few requests.
        packed: What a row took together with others, and ``alone``, for the rows asked both ways.
        alone: See ``packed``.
        compared: How many rows that were.
    """

    rows: int
    packs: int
    asked_alone: int
    moved: Share
    moved_at: dict[str, Share]
    positive_at: dict[str, Share]
    place: PlaceTest | None
    packed: PerRow
    alone: PerRow
    compared: int

    @property
    def requests_saved(self) -> int:
        """Requests that asking row by row would have taken more."""
        return self.rows - self.packs

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the saving: so many times as much is paid row by row."""
        facts = asdict(self) | {
            "moved": self.moved.to_dict(),
            "moved_at": {name: share.to_dict() for name, share in self.moved_at.items()},
            "positive_at": {name: share.to_dict() for name, share in self.positive_at.items()},
            "place": None if self.place is None else self.place._asdict(),
            "packed": self.packed._asdict(),
            "alone": self.alone._asdict(),
        }
        return {**facts, "requests_saved": self.requests_saved, "saving": self.saving}

    @property
    def saving(self) -> dict[str, float | None]:
        """How many times as much a row takes alone: ``tokens`` in and out together, and ``cost``."""
        alone, packed = (
            None if one.input_tokens is None or one.output_tokens is None else one.input_tokens + one.output_tokens
            for one in (self.alone, self.packed)
        )
        return {"tokens": _ratio(alone, packed), "cost": _ratio(self.alone.cost_usd, self.packed.cost_usd)}


def packing_facts(packed: pl.DataFrame, both: pl.DataFrame, *, task: Task, asked_alone: int) -> PackingFacts:
    """Counts what several rows at once did for one teacher.

    Args:
        packed: Its votes on rows that were asked about with others, as :func:`packed_votes` gives them.
        both: Rows that were asked both ways: ``position``, ``asked_with`` and ``label``, ``input_tokens``,
            ``output_tokens`` and ``cost_usd``, those four also with ``_alone`` at their end.
        task: For the labels and the positive one.
        asked_alone: As in :class:`PackingFacts`.
    """
    compared = both.filter(
        (pl.col("asked_with") > 1) & pl.col("label").is_not_null() & pl.col("label_alone").is_not_null()
    ).with_columns(moved=pl.col("label") != pl.col("label_alone"))
    middle = 2 * pl.col("position") + 1
    parts = {
        "first_half": middle < pl.col("asked_with"),
        "second_half": middle > pl.col("asked_with"),
        "first": pl.col("position") == 0,
        "last": pl.col("position") == pl.col("asked_with") - 1,
    }
    labeled = pl.col("label").is_not_null().all().over("key")
    whole = packed.filter((pl.len().over("key") == pl.col("asked_with")) & labeled)
    return PackingFacts(
        rows=len(packed),
        packs=packed["key"].n_unique(),
        asked_alone=asked_alone,
        moved=_moved(compared),
        moved_at={name: _moved(compared.filter(part)) for name, part in parts.items()},
        positive_at=_positive_at(whole, task.positive),
        place=place_test(whole, task.labels),
        packed=_per_row(both, ""),
        alone=_per_row(both, "_alone"),
        compared=len(both),
    )


def place_test(packed: pl.DataFrame, labels: Sequence[str]) -> PlaceTest | None:
    """Tests whether the label of a row hangs on its place among those asked about together.

    The generalised Mantel-Haenszel test of general association with each request as a stratum (Landis, Heyman and Koch
    1978). Rows were put in their places by a draw, so that within a request every order of its labels is as likely as
    any other, if the place moves nothing; whatever rows of one query have in common does not matter. For a request
    about m rows with c_l of label l, the count at place p of label l has the expectation c_l / m, and the counts have
    the covariance ``(m I - 1 1') ⊗ (m diag(c) - c c') / (m² (m - 1))``. With d the sum of differences over all requests
    and V that of covariances, ``d' V⁺ d`` is chi-squared with rank V degrees of freedom.

    Args:
        packed: As :func:`packed_votes` gives them, a line for every row of each request.
        labels: The label set.

    Returns:
        None where there are fewer than 20 requests, or only one label.
    """
    from scipy.special import chdtrc  # type: ignore[import-untyped]

    packs = packed["key"].n_unique()
    if packs < _FEWEST_PACKS or packed["label"].n_unique() < 2:
        return None
    places, kinds = max(packed["asked_with"].to_list()), len(labels)
    excess = np.zeros((places, kinds))
    covariance = np.zeros((places, kinds, places, kinds))
    codes = packed.with_columns(_label=pl.col("label").cast(pl.Enum(labels)).to_physical())
    for (size,), of_size in codes.sort("key", "position").group_by("asked_with"):
        m = int(size)
        said = np.eye(kinds)[of_size["_label"].to_numpy().reshape(-1, m)]  # [packs, m, labels]
        counts = said.sum(axis=1)
        excess[:m] += said.sum(axis=0) - counts.sum(axis=0) / m
        within = m * np.diag(counts.sum(axis=0)) - counts.T @ counts
        among = m * np.eye(m) - np.ones((m, m))
        covariance[:m, :, :m, :] += np.einsum("pq,kl->pkql", among, within) / (m * m * (m - 1))
    flat = covariance.reshape(places * kinds, places * kinds)
    freedom = int(np.linalg.matrix_rank(flat, hermitian=True))
    if not freedom:  # no request has two labels
        return None
    statistic = float(excess.ravel() @ np.linalg.pinv(flat, hermitian=True) @ excess.ravel())
    return PlaceTest(statistic, freedom, float(chdtrc(freedom, statistic)), packs)


def _moved(compared: pl.DataFrame) -> Share:
    return wilson_share(int(compared["moved"].sum()), len(compared))


def _positive_at(whole: pl.DataFrame, positive: str | None) -> dict[str, Share]:
    if positive is None:
        return {}
    found = {}
    for name, at in (("first", pl.lit(0)), ("last", pl.col("asked_with") - 1)):
        there = whole.filter(pl.col("position") == at)["label"] == positive
        found[name] = wilson_share(int(there.sum()), len(there))
    return found


def _per_row(both: pl.DataFrame, ending: str) -> PerRow:
    """Means over the rows for which both ways are known."""
    means: list[float | None] = []
    for name in PerRow._fields:
        known = both.filter(pl.col(name).is_not_null() & pl.col(f"{name}_alone").is_not_null())
        mean = known[f"{name}{ending}"].mean()
        means.append(float(mean) if isinstance(mean, int | float) else None)
    return PerRow(*means)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
