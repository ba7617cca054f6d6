"""What is compared of two sets of rows: each column as cells, shares or words, and what chance makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from distill.eval.drift import distances
from distill.eval.drift.exchange import Dealt, Exchange, p_value, shares
from distill.eval.drift.facts import Comparison, Distance, DistanceName, Part
from distill.eval.intervals import Estimate
from distill.eval.metrics import Floats, Ints

NUMBER_CELLS = 100
"""Cells of a numeric column: exact up to as many distinct values, quantiles of both sets together beyond."""
VALUE_CELLS = 50
"""Values of a category that are cells of their own, the most frequent of both sets together; the others share one."""
WORDS_FOLLOWED = 3000
_WORD = r"[\p{L}\p{N}]+"
_FEWEST_BLOCKS = 5
_CHANCE_OF_NO_BLOCK = 1e-4
_WORD_CELLS_AT_ONCE = 10_000_000
_BY_CHANCE = 0.95

Reads = Literal["ordered", "unordered", "share", "auc"]
_TESTED: dict[Reads, DistanceName] = {
    "ordered": "kolmogorov_smirnov",
    "unordered": "jensen_shannon",
    "share": "difference",
    "auc": "auc",
}


@dataclass
class Measure:
    """One thing compared, as sums over blocks, and its distances over the exchanges.

    Attributes:
        part: Of the report.
        column: What it is of.
        name: What is compared of the column.
        sums: ``[blocks, k]``: rows by cell, or the sum of a share.
        reads: What the cells are: in order, in none, one share, or scores of a classifier.
        unit: Of ``reference`` and ``current``.
        means: Mean in the reference and in the current set, where that says something.
        total: ``[blocks]``, what shares are of; all rows where None.
        difference: Of the means, with its interval.
    """

    part: Part
    column: str
    name: str
    sums: Floats
    reads: Reads
    unit: Literal["share", "words", "number", "score"] = "share"
    means: tuple[float, float] | None = None
    total: Floats | None = None
    difference: Estimate | None = None

    def of(self, exchange: Exchange) -> Floats:
        """``[blocks]``, what shares are of."""
        return exchange.total if self.total is None else self.total

    def score(self, reference: Floats, current: Floats) -> dict[str, Floats]:
        """Distances by name for shares ``[b, k]``; ``size`` among them."""
        if self.reads == "share":
            apart = np.abs(current - reference)[:, 0]
            return {"difference": apart, "size": apart}
        if self.reads == "auc":
            # Below 0.5 it has learned nothing: only a classifier that is right shows a difference.
            auc = distances.area_under_curve(reference, current)
            return {"auc": auc, "size": np.maximum(0.0, 2.0 * auc - 1.0)}
        found = {
            "psi": distances.population_stability(reference, current),
            "jensen_shannon": distances.jensen_shannon(reference, current),
            "total_variation": distances.total_variation(reference, current),
        }
        if self.reads == "ordered":
            found["kolmogorov_smirnov"] = distances.kolmogorov_smirnov(reference, current)
        return {**found, "size": found["kolmogorov_smirnov" if self.reads == "ordered" else "total_variation"]}

    def compared(self, observed: dict[str, Floats], drawn: dict[str, Floats]) -> Comparison:
        """The finding, its p-value not yet adjusted and its verdict still open."""
        tested = _TESTED[self.reads]
        return Comparison(
            part=self.part,
            column=self.column,
            measure=self.name,
            reference=self.means and self.means[0],
            current=self.means and self.means[1],
            unit=self.unit,
            difference=self.difference,
            size=float(observed["size"][0]),
            size_by_chance=float(np.quantile(drawn["size"], _BY_CHANCE)),
            tested=tested,
            distances={
                name: Distance(
                    value=float(value[0]),
                    by_chance=float(np.quantile(drawn[name], _BY_CHANCE)),
                    p_value=p_value(float(value[0]), drawn[name]),
                )
                for name, value in observed.items()
                if name != "size"
            },
            p_value=p_value(float(observed[tested][0]), drawn[tested]),
            adjusted_p=1.0,
            verdict="cannot tell",
        )


@dataclass
class Words:
    """Which words the rows of each block have: ``[blocks, V]`` sparse, in units of rows.

    Attributes:
        column: The text column, or the category whose whole values stand for words.
        name: ``words`` or ``values``, for the names of what is compared.
        vocabulary: The V words.
        rows: Units of the rows that have the word.
        said: Units of how often it is said, for the share of unseen ones.
        total: ``[blocks]``, units of all words said.
    """

    column: str
    name: str
    vocabulary: Sequence[str]
    rows: Any
    said: Any
    total: Floats

    @classmethod
    def of(cls, texts: pl.Series, exchange: Exchange, *, whole: bool = False) -> Words | None:
        """Reads a column ``[n]`` of both sets; None where nobody says anything."""
        frame = pl.DataFrame({"text": texts.str.to_lowercase(), "block": exchange.block, "unit": exchange.unit})
        frame = frame.with_row_index("row")
        words = pl.concat_list(pl.col("text").str.strip_chars()) if whole else pl.col("text").str.extract_all(_WORD)
        said = frame.select("row", "block", "unit", word=words).explode("word", empty_as_null=True)
        said = said.filter(pl.col("word").is_not_null() & (pl.col("word") != ""))
        if said.is_empty():
            return None
        vocabulary = said["word"].unique().sort()
        said = said.with_columns(
            code=said["word"].replace_strict(vocabulary, pl.int_range(len(vocabulary), eager=True))
        )
        distinct = said.unique(["row", "code"], maintain_order=True)
        shape = (exchange.blocks, len(vocabulary))
        total = np.bincount(
            said["block"].to_numpy(), weights=said["unit"].to_numpy(), minlength=exchange.blocks
        ).astype(float)
        name = "values" if whole else "words"
        return cls(str(texts.name), name, vocabulary.to_list(), _matrix(distinct, shape), _matrix(said, shape), total)

    def unseen(self, exchange: Exchange) -> Unseen:
        """Which share of each set's words the other never says, as the sets are and by chance.

        In an exchange a word with so many blocks that all of them hardly ever fall to one set counts as seen.
        """
        groups = exchange.groups
        most = np.log(_CHANCE_OF_NO_BLOCK) / np.log(max(groups) / sum(groups))
        turned = self.said.T.tocsr()
        rare = turned[np.flatnonzero(np.diff(turned.indptr) <= most)]
        here = self._unseen(turned, exchange.observed())
        drawn = [self._unseen(rare, dealt) for dealt in exchange.draws()]
        return Unseen(
            reference=float(here[0][0]),
            current=float(here[1][0]),
            reference_drawn=np.concatenate([before for before, _ in drawn]),
            current_drawn=np.concatenate([now for _, now in drawn]),
        )

    def _unseen(self, turned: Any, dealt: Dealt) -> tuple[Floats, Floats]:
        step = max(1, _WORD_CELLS_AT_ONCE // max(1, turned.shape[0]))
        found: tuple[list[Floats], list[Floats]] = ([], [])
        for start in range(0, len(dealt.current), step):
            parts = [part[start : start + step] for part in dealt]
            spoken = [turned @ part.T for part in parts]
            for own in (0, 1):
                alone = np.where(spoken[1 - own] > 0, 0.0, spoken[own]).sum(axis=0)
                found[own].append(alone / np.maximum(parts[own] @ self.total, 1e-300))
        return np.concatenate(found[0]), np.concatenate(found[1])

    def followed(self, exchange: Exchange) -> Followed | None:
        """Shifts of the words that enough blocks have; None where none has."""
        blocks = np.diff(self.rows.tocsc().indptr)
        chosen = np.flatnonzero(blocks >= _FEWEST_BLOCKS)
        if not len(chosen):
            return None
        chosen = chosen[np.argsort(-blocks[chosen], kind="stable")][:WORDS_FOLLOWED]
        matrix = self.rows.tocsc()[:, chosen].tocsr()
        before, now = shares(matrix, exchange.observed(), total=exchange.total)
        pairs = (shares(matrix, dealt, total=exchange.total) for dealt in exchange.draws())
        drawn = np.concatenate([(after - ahead).astype(np.float32) for ahead, after in pairs])
        return Followed([self.vocabulary[k] for k in chosen.tolist()], before[0], now[0], drawn)


class Unseen(NamedTuple):
    """Words that only one set has.

    Attributes:
        reference: Share of the reference's words that the current set never says.
        current: Share of the current set's words that the reference never says.
        reference_drawn: ``[count]``, the first in every exchange.
        current_drawn: ``[count]``, the second in every exchange.
    """

    reference: float
    current: float
    reference_drawn: Floats
    current_drawn: Floats

    def readings(self) -> tuple[Floats, Floats]:
        """Two readings of the sets as they are, ``[2]``, and of every exchange, ``[count, 2]``, less what chance gives.

        The current set's share sees sets of other words altogether. Its excess over the reference's share sees a few
        new words, such as misspelt ones: rare words, which make both shares large, drop out of it.
        """
        drawn = np.stack([self.current_drawn, self.current_drawn - self.reference_drawn], axis=1)
        usual = drawn.mean(axis=0)
        return np.array([self.current, self.current - self.reference]) - usual, drawn - usual


@dataclass(frozen=True)
class Followed:
    """Words with their share of the rows in either set, and their differences over the exchanges ``[count, V]``."""

    words: list[str]
    reference: Floats
    current: Floats
    drawn: Any

    def standing_out(self) -> tuple[Floats, Floats]:
        """Each word's shift in units of what chance gives it, and the largest of all words in every exchange."""
        spread = np.maximum(self.drawn.std(axis=0), 1e-12)
        return (self.current - self.reference) / spread, np.abs(self.drawn / spread).max(axis=1)


def run_measures(measures: Sequence[Measure], exchange: Exchange) -> list[Comparison]:
    """Compares every measure on the sets as they are, and on the same exchanges."""
    drawn: list[dict[str, list[Floats]]] = [{} for _ in measures]
    for dealt in exchange.draws():
        for measure, kept in zip(measures, drawn, strict=True):
            for name, values in measure.score(*shares(measure.sums, dealt, total=measure.of(exchange))).items():
                kept.setdefault(name, []).append(values)
    observed = [
        measure.score(*shares(measure.sums, exchange.observed(), total=measure.of(exchange))) for measure in measures
    ]
    return [
        measure.compared(seen, {name: np.concatenate(parts) for name, parts in kept.items()})
        for measure, seen, kept in zip(measures, observed, drawn, strict=True)
    ]


def number_cells(values: Floats) -> tuple[Ints, int]:
    """Cells of numbers ``[n]`` of both sets together, in order; NaN has the first cell to itself."""
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    edges = distinct
    if len(distinct) > NUMBER_CELLS:
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, NUMBER_CELLS + 1)[1:]))
    codes = np.where(known, 1 + np.searchsorted(edges, values, side="left"), 0)
    return codes.astype(np.int64), len(edges) + 2


def value_cells(values: pl.Series) -> tuple[Ints, list[str]]:
    """Cells of values ``[n]``: the most frequent of both sets, and one for the others where there are others."""
    counts = values.value_counts().sort(["count", values.name], descending=[True, False])
    names = counts[values.name].to_list()
    own = names[:VALUE_CELLS]
    place = {name: code for code, name in enumerate(own)}
    codes = values.replace_strict(place, default=len(own), return_dtype=pl.Int64).to_numpy()
    return codes, [*own, *(["(others)"] if len(names) > len(own) else [])]


def token_lengths(texts: pl.Series) -> Floats:
    """Words of each text ``[n]``."""
    return texts.str.extract_all(_WORD).list.len().to_numpy().astype(float)


def numbers_of(texts: pl.Series) -> Floats:
    """Numbers of a column ``[n]``, NaN where a cell holds none."""
    return texts.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def weighted_means(values: Floats, exchange: Exchange) -> tuple[float, float]:
    """Mean over the rows of the reference and of the current set; rows without a value are left out."""
    known = np.isfinite(values)
    found = []
    for own in (~exchange.side & known, exchange.side & known):
        below = exchange.mass[own].sum()
        found.append(float((exchange.mass[own] * values[own]).sum() / below) if below > 0 else float("nan"))
    return found[0], found[1]


def _matrix(said: pl.DataFrame, shape: tuple[int, int]) -> Any:
    from scipy.sparse import coo_matrix  # type: ignore[import-untyped]

    at = (said["block"].to_numpy(), said["code"].to_numpy())
    return coo_matrix((said["unit"].to_numpy(), at), shape=shape).tocsr()
