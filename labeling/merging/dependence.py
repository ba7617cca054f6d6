r"""How far the voters of a panel err together.

Without human labels the errors are not seen. What is seen is agreement, and it is read in two ways.

**Error correlation** :math:`\rho`. For voters of two families, the one-share-a-family consensus of *all other* families
stands in for the truth; :math:`\rho` is the mean phi correlation of the two voters' disagreements with it. What all
families get wrong together stays hidden, so this reads low: over eight panels of LLMs by 0.01 to 0.18 below the
correlation of their errors against people's labels in seven, by 0.07 above in one. A pair with no third family is not
measured at all. The estimate is drawn towards 0.4, which is usual between LLM families, as 100 further pairs would.

**Prior strength** :math:`k`. If a row's votes were drawn from a distribution of its own, and those distributions from a
Dirichlet around the labels' overall frequencies with strength :math:`k`, the chance-corrected agreement of two families
would be :math:`\kappa = 1 / (1 + k)`. That :math:`k` says how well the votes foretell *one more vote*. The truth lies
nearer to the merged label than one more vote does, so half of it is used: :math:`k = (1 - \kappa) / 2 \kappa`.
:math:`\kappa` is drawn towards 2/3 as 100 further pairs would, which is what a single family gets (:math:`k = 1/4`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.merging.panel import Panel

USUAL_BETWEEN = 0.4
"""Error correlation between families where these votes do not show it."""
USUAL_KAPPA = 2 / 3
"""Chance-corrected agreement between families where these votes do not show it."""
_PRIOR_PAIRS = 100
_KAPPA_RANGE = (0.2, 0.95)
_MOST_ROWS = 20_000
_MOST_TEACHERS = 200
_MOST_FAMILY_PAIRS = 400
_LEAST_SHARED_ROWS = 20

Source = Literal["gold", "consensus", "assumed"]


@dataclass(frozen=True)
class PanelDependence:
    """How a panel hangs together.

    Attributes:
        teachers: How many vote.
        families: How many families they come from.
        n_eff: Effective votes of a row, one share a family: mean over the rows with votes.
        between: Error correlation between families, in [0, 1].
        within: Between teachers of one family; None where that is not seen.
        kappa: Chance-corrected agreement between families; :data:`USUAL_KAPPA` where that is not seen.
        source: What errors were judged by: human labels, the other families' consensus, or nothing.
        pairs: A line a pair of teachers: ``teacher_a``, ``teacher_b``, ``family_a``, ``family_b``, ``rows`` that both
            judged, ``agreement``, ``kappa`` (Cohen's), ``error_correlation`` (null where it is not seen). At most the
            200 teachers with most votes, over at most 20,000 rows.
    """

    teachers: int
    families: int
    n_eff: float
    between: float
    within: float | None
    kappa: float
    source: Source
    pairs: pl.DataFrame

    @property
    def prior_strength(self) -> float:
        """Strength of the prior that confidence is drawn to, in votes."""
        kappa = min(max(self.kappa, _KAPPA_RANGE[0]), _KAPPA_RANGE[1])
        return (1 - kappa) / (2 * kappa)


def panel_dependence(
    votes: pl.DataFrame, *, labels: Sequence[str] | None = None, gold: pl.DataFrame | None = None
) -> PanelDependence:
    """Measures how far the voters of a table err together.

    Args:
        votes: As for :func:`distill.labeling.merging.aggregate.aggregate`.
        labels: The label set; by default those that occur.
        gold: ``row_id`` and ``gold`` of rows that people labeled. Errors are then judged by these alone.

    Raises:
        DataError: A column is missing, the table is empty, or a label or distribution is wrong.
    """
    if labels is None:
        if "label" not in votes.columns:
            raise DataError(f"votes: missing column(s) ['label'], got {votes.columns}; name the column of labels so")
        labels = sorted(votes["label"].drop_nulls().cast(pl.String).unique())
    return estimate_dependence(Panel.from_votes(votes, labels), gold=gold)


def estimate_dependence(panel: Panel, *, gold: pl.DataFrame | None = None) -> PanelDependence:
    """Does what :func:`panel_dependence` does for a panel that is already built."""
    sheet = _Sheet.sample(panel, _gold_codes(panel, gold))
    errors = _by_gold(sheet) if sheet.gold is not None else _by_consensus(sheet)
    between = _drawn(errors.between, errors.between_rows, USUAL_BETWEEN)
    per_row = np.bincount(panel.family_opinions.row)
    per_row = per_row[per_row > 0]
    n_eff = float(np.mean(per_row / (1 + (per_row - 1) * between))) if len(per_row) else 0.0
    source: Source = "assumed"
    if errors.between_rows:
        source = "gold" if sheet.gold is not None else "consensus"
    return PanelDependence(
        teachers=len(panel.teachers),
        families=len(panel.families),
        n_eff=n_eff,
        between=min(max(between, 0.0), 1.0),
        within=errors.within,
        kappa=_family_kappa(sheet),
        source=source,
        pairs=_pair_table(sheet, errors.pairs),
    )


def _drawn(estimate: float, weight: float, usual: float) -> float:
    return (estimate * weight + usual * _PRIOR_PAIRS) / (weight + _PRIOR_PAIRS)


def _gold_codes(panel: Panel, gold: pl.DataFrame | None) -> np.ndarray | None:
    if gold is None:
        return None
    codes = {label: code for code, label in enumerate(panel.labels)}
    known = gold.select(pl.col("row_id", "gold").cast(pl.String)).filter(pl.col("gold").is_in(list(codes)))
    known = known.unique("row_id", keep="first", maintain_order=True)
    found = panel.row_ids.replace_strict(known["row_id"], known["gold"], default=None, return_dtype=pl.String)
    return found.replace_strict(list(codes), list(codes.values()), default=-1, return_dtype=pl.Int64).to_numpy()


@dataclass(frozen=True)
class _Sheet:
    """A sample of the panel as a matrix.

    Attributes:
        panel: Where it comes from.
        teachers: Index in the panel of each column, shape (t,).
        family: Family of each column, shape (t,).
        label: Label of each row and teacher, -1 without a vote, shape (rows, t).
        gold: Gold label of each row, shape (rows,); None where it is not used.
    """

    panel: Panel
    teachers: np.ndarray
    family: np.ndarray
    label: np.ndarray
    gold: np.ndarray | None

    @classmethod
    def sample(cls, panel: Panel, gold: np.ndarray | None) -> _Sheet:
        judged = panel.judgments
        busiest = np.argsort(-np.bincount(judged.voter, minlength=len(panel.teachers)), kind="stable")
        teachers = np.sort(busiest[:_MOST_TEACHERS])
        column = np.full(len(panel.teachers), -1)
        column[teachers] = np.arange(len(teachers))
        shared = np.bincount(judged.row, minlength=len(panel.row_ids)) > 1
        if gold is not None:
            shared &= gold >= 0
        rows = np.flatnonzero(shared)
        rows = rows[:: max(1, -(-len(rows) // _MOST_ROWS))]
        place = np.full(len(panel.row_ids), -1)
        place[rows] = np.arange(len(rows))
        used = (place[judged.row] >= 0) & (column[judged.voter] >= 0)
        label = np.full((len(rows), len(teachers)), -1, dtype=np.int32)
        # Rounded, since a mean of several samples hangs on their order in its last digits, and with it a tie.
        label[place[judged.row[used]], column[judged.voter[used]]] = judged.probs[used].round(12).argmax(axis=1)
        return cls(panel, teachers, panel.family_of[teachers], label, None if gold is None else gold[rows])

    def shares(self, family: int) -> np.ndarray:
        """Shares of a family's teachers by label, zero where none voted, shape (rows, labels)."""
        of_family = self.label[:, self.family == family]
        counts = np.stack([(of_family == code).sum(axis=1) for code in range(len(self.panel.labels))], axis=1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


class _Errors(NamedTuple):
    """Mean error correlations, the rows behind them, and those of single pairs (column, column)."""

    between: float
    between_rows: float
    within: float | None
    pairs: dict[tuple[int, int], float]


def _by_gold(sheet: _Sheet) -> _Errors:
    everyone = np.arange(len(sheet.teachers))
    assert sheet.gold is not None
    return _averaged(sheet, [_correlations(sheet, everyone, everyone, sheet.gold)])


def _by_consensus(sheet: _Sheet) -> _Errors:
    families = np.unique(sheet.family)
    total = sum((sheet.shares(family) for family in families), np.zeros((len(sheet.label), len(sheet.panel.labels))))
    pairs = [(one, other) for index, one in enumerate(families) for other in families[index:]]
    pairs = pairs[:: max(1, -(-len(pairs) // _MOST_FAMILY_PAIRS))]
    found = []
    for one, other in pairs:
        rest = total - sheet.shares(one) - (sheet.shares(other) if other != one else 0.0)
        ranked = np.sort(rest, axis=1)
        decided = ranked[:, -1] - ranked[:, -2] > 1e-9
        truth = np.where(decided, rest.argmax(axis=1), -1)
        left, right = np.flatnonzero(sheet.family == one), np.flatnonzero(sheet.family == other)
        found.append(_correlations(sheet, left, right, truth))
    return _averaged(sheet, found)


class _Block(NamedTuple):
    """Phi correlations of the errors of two groups of columns and the rows that each rests on, shape (left, right)."""

    left: np.ndarray
    right: np.ndarray
    phi: np.ndarray
    rows: np.ndarray


def _correlations(sheet: _Sheet, left: np.ndarray, right: np.ndarray, truth: np.ndarray) -> _Block:
    known = truth >= 0
    labels, truth = sheet.label[known], truth[known]

    def voted_and_wrong(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        voted = labels[:, columns] >= 0
        return voted.astype(np.float64), (voted & (labels[:, columns] != truth[:, None])).astype(np.float64)

    voted_left, wrong_left = voted_and_wrong(left)
    voted_right, wrong_right = voted_and_wrong(right)
    rows = voted_left.T @ voted_right
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_left, mean_right = wrong_left.T @ voted_right / rows, voted_left.T @ wrong_right / rows
        covariance = wrong_left.T @ wrong_right / rows - mean_left * mean_right
        phi = covariance / np.sqrt(mean_left * (1 - mean_left) * mean_right * (1 - mean_right))
    # A voter that is never wrong, or always, has no correlation.
    return _Block(left, right, np.where(rows >= _LEAST_SHARED_ROWS, phi, np.nan), rows)


def _averaged(sheet: _Sheet, blocks: Sequence[_Block]) -> _Errors:
    pairs: dict[tuple[int, int], float] = {}
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for block in blocks:
        for index, one in enumerate(block.left):
            for position, other in enumerate(block.right):
                pair = min(int(one), int(other)), max(int(one), int(other))
                phi = float(block.phi[index, position])
                if one == other or pair in pairs or not np.isfinite(phi):
                    continue
                pairs[pair] = phi
                total = sums[bool(sheet.family[one] == sheet.family[other])]
                total[0] += phi * block.rows[index, position]
                total[1] += block.rows[index, position]
    (within, within_rows), (between, between_rows) = sums[True], sums[False]
    return _Errors(
        between=between / between_rows if between_rows else 0.0,
        between_rows=between_rows,
        within=within / within_rows if within_rows else None,
        pairs=pairs,
    )


def _family_kappa(sheet: _Sheet) -> float:
    r"""Fleiss' kappa between families, each with the label that most of its teachers gave (the first of equals).

    Over rows with votes :math:`n_{rl}` of families, :math:`n_r = \sum_l n_{rl}`:
    :math:`A = \sum_{rl} n_{rl} (n_{rl} - 1) / \sum_r n_r (n_r - 1)`, :math:`C = \sum_l q_l^2` with :math:`q_l` the
    share of all votes, :math:`\kappa = (A - C) / (1 - C)`.
    """
    counts = np.zeros((len(sheet.label), len(sheet.panel.labels)))
    for family in np.unique(sheet.family):
        shares = sheet.shares(family)
        voted = np.flatnonzero(shares.any(axis=1))
        counts[voted, shares[voted].argmax(axis=1)] += 1
    per_row = counts.sum(axis=1)
    pairs = float((per_row * (per_row - 1)).sum())
    if not pairs:
        return USUAL_KAPPA
    agreement = float((counts * (counts - 1)).sum()) / pairs
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    kappa = (agreement - chance) / (1 - chance) if chance < 1 else 1.0
    return _drawn(kappa, pairs / 2, USUAL_KAPPA)


def _pair_table(sheet: _Sheet, correlations: dict[tuple[int, int], float]) -> pl.DataFrame:
    width = len(sheet.teachers)
    voted = (sheet.label >= 0).astype(np.float64)
    rows = voted.T @ voted
    agreed, chance = np.zeros((width, width)), np.zeros((width, width))
    with np.errstate(invalid="ignore", divide="ignore"):
        for code in range(len(sheet.panel.labels)):
            given = (sheet.label == code).astype(np.float64)
            agreed += given.T @ given
            chance += (given.T @ voted / rows) * (voted.T @ given / rows)
        agreement = agreed / rows
        kappa = np.where(chance < 1, (agreement - chance) / (1 - chance), np.nan)
    one, other = np.nonzero(np.triu(rows > 0, k=1))
    names = np.array(sheet.panel.teachers, dtype=object)[sheet.teachers]
    families = np.array(sheet.panel.families, dtype=object)[sheet.family]
    text, number = pl.String(), pl.Float64()
    found = [correlations.get((int(left), int(right))) for left, right in zip(one, other, strict=True)]
    return pl.DataFrame(
        {
            "teacher_a": pl.Series(names[one].tolist(), dtype=text),
            "teacher_b": pl.Series(names[other].tolist(), dtype=text),
            "family_a": pl.Series(families[one].tolist(), dtype=text),
            "family_b": pl.Series(families[other].tolist(), dtype=text),
            "rows": pl.Series(rows[one, other].astype(np.int64)),
            "agreement": pl.Series(agreement[one, other], dtype=number),
            "kappa": pl.Series(kappa[one, other], dtype=number).fill_nan(None),
            "error_correlation": pl.Series(found, dtype=number),
        }
    )
