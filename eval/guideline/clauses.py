"""Which clause is to blame: disagreement between judges, accounted to the clauses that they cite.

The unit is one row as judged by one pair of judges. A unit *conflicts* where the two labels differ, and can be
accounted for where both judges cite at least one clause. A clause is *met* in a unit when either judge cites it, and
*split* when both cite it and still disagree. Two clauses *collide* where one judge cites the one, the other judge the
other, neither cites both, and the labels differ.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates
from distill.eval.metrics import Floats
from distill.labeling.guideline import Clause

Flags = NDArray[np.bool_]

ONE_SIDED = 0.95
"""A clause cited for one label this often says what the label is, and does not decide between labels."""

_FEWEST_CITATIONS = 10
_FEWEST_CONFLICTS = 3
_MOST_CAUSES = 8
_PRIOR_UNITS = 20


class ClauseAccount(Frozen):
    """What one clause has to do with disagreement."""

    id: str
    title: str
    text: str
    section: str
    citations: dict[str, int] = Field(description="rows for which each judge cites it")
    labels: dict[str, int] = Field(description="labels given where it is cited")
    one_sided: str | None = Field(description="the label that it is nearly always cited for, if there is one")
    met: int = Field(description="units in which either judge cites it")
    conflicts: int = Field(description="of those, units whose two labels differ")
    splits: int = Field(description="conflicts in which both judges cite it")
    rate: Estimate = Field(description="conflicts / met")
    share: Estimate = Field(description="conflicts / all conflicts of judges who cite")
    excess: Estimate = Field(description="share of all conflicts beyond what the other units' rate would give")


class Collision(Frozen):
    """Two clauses set against each other on the same row."""

    first: str
    second: str
    met: int = Field(description="units in which one judge cites only the one and the other only the other")
    conflicts: int
    rate: Estimate
    share: Estimate


class Cause(Frozen):
    """A clause, or two that collide, with the disagreement put to its account. Causes share nothing: they add up."""

    clauses: tuple[str, ...] = Field(description="one clause, or two one-sided ones whose border is unclear")
    conflicts: int
    splits: int
    share: Estimate = Field(description="of all conflicts of judges who cite; shares of all causes add up")
    against: dict[str, int] = Field(
        description="clauses that the other side cites instead, more often than usual; largest surplus first"
    )
    boundaries: dict[str, int] = Field(description="conflicts by the pair of labels, such as exact|substitute")
    sides: dict[str, int] = Field(description="who said what, such as 'careful exact, literal substitute'")
    gold: dict[str, int] = Field(description="gold labels of those rows, where known")
    row_ids: list[str]


@dataclass(frozen=True)
class Units:
    """Rows by pair of judges, as arrays.

    Attributes:
        frame: ``row_id``, ``group``, ``gold``, ``first``, ``second``, ``label_first``, ``label_second``; a line a unit.
        first: ``[u, K]``, whether the first judge cites each clause.
        second: Likewise for the second.
        conflict: ``[u]``, whether the labels differ.
        resamples: Of the units' groups.
        ids: The K clauses.
        labels: The task's labels, in order.
        level: Coverage of the intervals.
    """

    frame: pl.DataFrame
    first: Flags
    second: Flags
    conflict: Flags
    resamples: Resamples
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    level: float

    @property
    def citing(self) -> Flags:
        """``[u]``, whether both judges cite something."""
        return np.logical_and(self.first.any(axis=1), self.second.any(axis=1))

    def collide(self, one: int, other: int) -> Flags:
        """``[u]``, where one judge cites only ``one`` of the two, and the other judge only ``other``."""
        a, b = self.first, self.second
        forth = a[:, one] & ~b[:, one] & b[:, other] & ~a[:, other]
        back = b[:, one] & ~a[:, one] & a[:, other] & ~b[:, other]
        return forth | back


def pair_units(
    said: pl.DataFrame, *, ids: tuple[str, ...], labels: tuple[str, ...], config: EvalConfig, seed: int
) -> Units:
    """Pairs the judges of each row.

    Args:
        said: One line a row and judge: ``row_id``, ``group``, ``gold``, ``teacher``, ``label``, ``clauses``.
        ids: Clauses to account for; others are left out.
        labels: The task's labels, in order.
        config: Resamples and level.
        seed: Of the resamples.
    """
    said = said.select("row_id", "group", "gold", "teacher", "label", "clauses")
    other = said.select("row_id", second="teacher", label_second="label", clauses_second="clauses")
    units = said.rename({"teacher": "first", "label": "label_first", "clauses": "clauses_first"}).join(
        other, on="row_id"
    )
    units = units.filter(pl.col("first") < pl.col("second")).sort("row_id", "first", "second")
    return Units(
        frame=units.drop("clauses_first", "clauses_second"),
        first=_cites(units["clauses_first"], ids),
        second=_cites(units["clauses_second"], ids),
        conflict=(units["label_first"] != units["label_second"]).to_numpy().astype(bool),
        resamples=Resamples.of(units["group"].to_numpy(), count=config.bootstrap, seed=seed),
        ids=ids,
        labels=labels,
        level=config.level,
    )


def account_clauses(units: Units, said: pl.DataFrame, clauses: tuple[Clause, ...]) -> list[ClauseAccount]:
    """Accounts disagreement to every clause, the largest excess first.

    Excess is ``(D_c - U_c r_c) / D``: of D conflicts in N units, the D_c where the clause is met (in U_c units), less
    what the rate of all other units would give there anyhow. That rate is drawn towards the rate of all units, as if 20
    more of them had been seen: ``r_c = (D - D_c + 20 D / N) / (N - U_c + 20)``. So a clause that is cited everywhere,
    met in all conflicts, explains none of them.

    Args:
        units: From :func:`pair_units`.
        said: The votes that they were made of.
        clauses: In the order of ``units.ids``.
    """
    citing = units.citing
    if not citing.any():
        return [_bare_account(clause) for clause in clauses]
    either = (units.first | units.second) & citing[:, None]
    conflict = units.conflict & citing
    met_conflict = either & conflict[:, None]
    rates = ratio_estimates(_f(met_conflict), _f(either), units.resamples, level=units.level)
    everything = np.repeat(_f(conflict)[:, None], len(clauses), axis=1)
    shares = ratio_estimates(_f(met_conflict), everything, units.resamples, level=units.level)
    splits = (units.first & units.second & conflict[:, None]).sum(axis=0)
    excess = _excess(met_conflict, either, conflict, citing, units)
    cited = _citations(said)
    accounts = []
    for k, clause in enumerate(clauses):
        by_label = dict(cited.labels.get(clause.id, Counter()).most_common())
        accounts.append(
            ClauseAccount(
                id=clause.id,
                title=clause.title,
                text=clause.text,
                section=clause.section,
                citations=dict(sorted(cited.judges.get(clause.id, Counter()).items())),
                labels=by_label,
                one_sided=_one_sided(by_label),
                met=int(either[:, k].sum()),
                conflicts=int(met_conflict[:, k].sum()),
                splits=int(splits[k]),
                rate=rates[k],
                share=shares[k],
                excess=excess[k],
            )
        )
    return sorted(accounts, key=lambda account: -(account.excess.value if account.excess.value is not None else -9.0))


def find_collisions(units: Units, *, most: int = 30) -> list[Collision]:
    """Pairs of clauses that judges set against each other, by the number of conflicts."""
    conflict = units.conflict & units.citing
    met, pairs = [], []
    for i in range(len(units.ids)):
        for j in range(i + 1, len(units.ids)):
            facing = units.collide(i, j)
            if (facing & conflict).sum() >= _FEWEST_CONFLICTS:
                met.append(facing)
                pairs.append((i, j))
    if not met:
        return []
    order = sorted(range(len(met)), key=lambda k: (-int((met[k] & conflict).sum()), pairs[k]))[:most]
    facing = np.stack([met[k] for k in order], axis=1)
    both = facing & conflict[:, None]
    everything = np.repeat(_f(conflict)[:, None], len(order), axis=1)
    rates = ratio_estimates(_f(both), _f(facing), units.resamples, level=units.level)
    shares = ratio_estimates(_f(both), everything, units.resamples, level=units.level)
    return [
        Collision(
            first=units.ids[pairs[k][0]],
            second=units.ids[pairs[k][1]],
            met=int(facing[:, n].sum()),
            conflicts=int(both[:, n].sum()),
            rate=rates[n],
            share=shares[n],
        )
        for n, k in enumerate(order)
    ]


def find_causes(units: Units, accounts: list[ClauseAccount]) -> list[Cause]:
    """Shares all conflicts out among causes, greedily: the one that explains most first, then the rest of it.

    Candidates are the clauses that decide between labels, and pairs of one-sided clauses that collide (the border
    between two labels). Each step takes the candidate with the largest excess over the units not yet explained, gives
    it its conflicts, and goes on with the others, until nothing explains at least three conflicts and 2% of them.
    Pairs come after all clauses: clauses that say two different labels meet head-on only where the labels differ, so
    that a pair restates its border and would take the conflicts of any clause that is unclear there.
    """
    conflict, open_units = units.conflict & units.citing, units.citing.copy()
    fewest = max(_FEWEST_CONFLICTS, 0.02 * conflict.sum())
    candidates = _candidates(units, accounts)
    taken: list[tuple[tuple[str, ...], Flags]] = []
    while candidates and len(taken) < _MOST_CAUSES:
        worth = {key: _gain(covers, conflict, open_units) for key, covers in candidates.items()}
        best = max(worth, key=lambda key: (_decides(key) and worth[key] >= fewest, worth[key], key))
        if worth[best] < fewest:
            break
        covers = candidates.pop(best) & open_units
        taken.append((best, covers & conflict))
        open_units &= ~covers
    if not taken:
        return []
    assigned = _f(np.stack([flags for _, flags in taken], axis=1))
    everything = np.repeat(_f(conflict)[:, None], len(taken), axis=1)
    shares = ratio_estimates(assigned, everything, units.resamples, level=units.level)
    causes = [_cause(units, key, flags, share) for (key, flags), share in zip(taken, shares, strict=True)]
    return sorted(causes, key=lambda cause: (-cause.conflicts, cause.clauses))


def _candidates(units: Units, accounts: list[ClauseAccount]) -> dict[tuple[str, ...], Flags]:
    place = {name: k for k, name in enumerate(units.ids)}
    either = (units.first | units.second) & units.citing[:, None]
    found: dict[tuple[str, ...], Flags] = {}
    sided = [account for account in accounts if account.one_sided]
    for account in accounts:
        if not account.one_sided:
            found[(account.id,)] = either[:, place[account.id]]
    for i, one in enumerate(sided):
        for other in sided[i + 1 :]:
            if one.one_sided != other.one_sided:
                key = tuple(sorted((one.id, other.id), key=place.__getitem__))
                found[key] = units.collide(place[one.id], place[other.id])
    return found


def _decides(key: tuple[str, ...]) -> bool:
    return len(key) == 1


def _gain(covers: Flags, conflict: Flags, open_units: Flags) -> float:
    inside, outside = covers & open_units, ~covers & open_units
    overall = (conflict & open_units).sum() / max(1, open_units.sum())
    rate = ((conflict & outside).sum() + _PRIOR_UNITS * overall) / (outside.sum() + _PRIOR_UNITS)
    return float((conflict & inside).sum() - rate * inside.sum())


def _cause(units: Units, key: tuple[str, ...], flags: Flags, share: Estimate) -> Cause:
    at = np.flatnonzero(flags)
    own = [units.ids.index(name) for name in key]
    against: Counter[str] = Counter()
    for a, b in zip(units.first[at], units.second[at], strict=True):
        only_one = len(own) == 1 and a[own[0]] != b[own[0]]
        facing = (b & ~a if a[own[0]] else a & ~b) if only_one else a ^ b
        against.update(units.ids[k] for k in np.flatnonzero(facing) if k not in own)
    usual = (units.first | units.second)[units.citing].mean(axis=0)
    surplus = {name: number - usual[units.ids.index(name)] * len(at) for name, number in against.items()}
    standing_out = sorted((name for name in surplus if surplus[name] > 0), key=lambda name: (-surplus[name], name))
    lines = units.frame[at]
    boundaries: Counter[str] = Counter()
    sides: Counter[str] = Counter()
    for line in lines.iter_rows(named=True):
        boundaries["|".join(sorted((line["label_first"], line["label_second"]), key=units.labels.index))] += 1
        sides[f"{line['first']} {line['label_first']}, {line['second']} {line['label_second']}"] += 1
    gold = lines.unique("row_id").filter(pl.col("gold").is_not_null())["gold"].value_counts(sort=True)
    return Cause(
        clauses=key,
        conflicts=len(at),
        share=share,
        splits=int((units.first[at][:, own] & units.second[at][:, own]).any(axis=1).sum()),
        against={name: against[name] for name in standing_out[:6]},
        boundaries=dict(boundaries.most_common()),
        sides=dict(sides.most_common(6)),
        gold=dict(gold.iter_rows()),
        row_ids=lines["row_id"].unique(maintain_order=True).to_list(),
    )


def _excess(met_conflict: Flags, met: Flags, conflict: Flags, citing: Flags, units: Units) -> list[Estimate]:
    width = met.shape[1]
    columns = np.concatenate([_f(met_conflict), _f(met), _f(conflict)[:, None], _f(citing)[:, None]], axis=1)

    def share(sums: Floats) -> Floats:
        inside, units_inside = sums[:, :width], sums[:, width : 2 * width]
        all_conflicts, all_units = sums[:, -2:-1], sums[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            prior = _PRIOR_UNITS * all_conflicts / all_units
            rate = (all_conflicts - inside + prior) / (all_units - units_inside + _PRIOR_UNITS)
            return (inside - units_inside * rate) / all_conflicts

    value, draws = share(columns.sum(axis=0, keepdims=True))[0], share(units.resamples.sums(columns))
    size = Size(int(citing.sum()), len(np.unique(units.resamples.codes[citing])))
    return [estimate(float(value[k]), draws[:, k], size, level=units.level) for k in range(width)]


@dataclass(frozen=True)
class _Citations:
    judges: dict[str, Counter[str]]
    labels: dict[str, Counter[str]]


def _citations(said: pl.DataFrame) -> _Citations:
    each = said.explode("clauses").filter(pl.col("clauses").is_not_null()).unique(["row_id", "teacher", "clauses"])
    found = _Citations({}, {})
    for column, into in (("teacher", found.judges), ("label", found.labels)):
        for clause, value, number in each.group_by("clauses", column).len().iter_rows():
            into.setdefault(clause, Counter())[value] = number
    return found


def _one_sided(labels: dict[str, int]) -> str | None:
    total = sum(labels.values())
    if total < _FEWEST_CITATIONS:
        return None
    label, most = max(labels.items(), key=lambda item: item[1])
    return label if most >= ONE_SIDED * total else None


def _bare_account(clause: Clause) -> ClauseAccount:
    nothing = Estimate(value=None, note="no two judges cite clauses on the same row")
    return ClauseAccount(
        id=clause.id,
        title=clause.title,
        text=clause.text,
        section=clause.section,
        citations={},
        labels={},
        one_sided=None,
        met=0,
        conflicts=0,
        splits=0,
        rate=nothing,
        share=nothing,
        excess=nothing,
    )


def _cites(column: pl.Series, ids: tuple[str, ...]) -> Flags:
    place = {name: k for k, name in enumerate(ids)}
    flags = np.zeros((len(column), len(ids)), bool)
    for line, cited in enumerate(column.to_list()):
        for name in cited or ():
            if name in place:
                flags[line, place[name]] = True
    return flags


def _f(flags: Flags) -> Floats:
    return flags.astype(np.float64)
