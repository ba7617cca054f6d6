"""Two sets of rows compared: do the queries of today still look like those that the student was made and measured on?

:func:`compare_rows` looks at three parts, each with a verdict:

* **inputs**: every column in its kind (:mod:`distill.eval.drift.measures`), and whole rows by a classifier
  (:mod:`distill.eval.drift.classifier`);
* **predictions**: what a student says of both sets, how sure it is, how often it abstains, how often two differ;
* **quality**: how often it expects to be right, and what the reference's gold says of rows like the current ones
  (:mod:`distill.eval.drift.quality`).

Every p-value comes from exchanges of whole groups between the sets (:mod:`distill.eval.drift.exchange`), and all are
adjusted together: where nothing has changed, anything at all is called moved in at most ``alpha`` of the weeks. A part
that is called moved differs by more than chance and by at least ``smallest``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from distill.eval.drift.classifier import SCORE_CELLS, auc_estimate, slice_shares, tell_apart, telling_rows
from distill.eval.drift.columns import column_kinds, column_measures, value_shifts, word_measures
from distill.eval.drift.config import ColumnKind, DriftConfig
from distill.eval.drift.exchange import Exchange, adjusted, differences
from distill.eval.drift.facts import Comparison, DriftReport, Part, SetFacts, TwoSample, ValueShift
from distill.eval.drift.measures import Measure, number_cells, run_measures, value_cells, weighted_means
from distill.eval.drift.quality import Answers, Likeness, quality
from distill.eval.drift.sample import GroupSample, Sampled
from distill.eval.drift.verdicts import part_verdicts
from distill.eval.metrics import Floats
from distill.eval.scored import TruthSource
from distill.labeling.errors import DataError
from distill.labeling.task import Task

_MOST_OF_A_COLUMN = 4
_MOST_OF_ROWS_AND_ANSWERS = 6
"""Comparisons of a column (empty, length, unseen words, words), and those of whole rows and of a student's answers."""


@dataclass(frozen=True)
class StudentSets:
    """A student's predictions on both sets: ``row_id``, ``label``, and ``probs`` and ``abstained`` where it has them.

    Attributes:
        name: Of the student.
        reference: On the reference's rows; rows without a prediction are left out of what is said of predictions.
        current: On the current rows.
        other: A second student, to count how often the two differ.
        truth_source: Who gave the gold labels.
    """

    name: str
    reference: pl.DataFrame
    current: pl.DataFrame
    other: StudentSets | None = None
    truth_source: TruthSource = "human"


def compare_rows(
    reference: pl.DataFrame | Sampled,
    current: pl.DataFrame | Sampled,
    *,
    task: Task,
    predictions: StudentSets | None = None,
    slices: Sequence[str] = (),
    config: DriftConfig | None = None,
    seed: int = 0,
) -> DriftReport:
    """Compares two sets of rows.

    Args:
        reference: ``row_id``, ``group``, the task's inputs, the columns of ``slices``; ``gold`` and ``weight`` where
            there are any. What :class:`distill.eval.drift.sample.GroupSample` made is taken as it is; of a plain table
            too large a part is sampled here.
        current: The same of the rows of today.
        task: Names the inputs and labels.
        predictions: Of a student on both; None to compare the rows alone.
        slices: Further columns to compare, and to say where the drift sits.
        config: Levels, resamples, limits.
        seed: Of the exchanges, folds and samples.

    Raises:
        DataError: A set is empty or lacks a column.
    """
    config = config or DriftConfig()
    columns = [*task.inputs, *(name for name in dict.fromkeys(slices) if name not in task.inputs)]
    for name, given in (("reference", reference), ("current", current)):
        _check(name, given.rows if isinstance(given, Sampled) else given, columns)
    if unknown := sorted(set(config.kinds) - set(columns)):
        raise DataError(f"drift: kinds: there is no column {unknown}; compared are {columns}")
    config = config.model_copy(update={"resamples": _enough_exchanges(config, columns=len(columns))})
    before, now = _sampled(reference, current, config, seed)
    both = _Both.of(before.rows, now.rows, columns, config, seed)
    kinds = column_kinds(both.rows, columns, config.kinds, first=task.inputs[0])
    exchange = both.exchange
    few = min(exchange.groups) < config.few_groups
    measures = column_measures(both.rows, exchange, kinds, level=config.level)
    words = word_measures(both.rows, exchange, kinds, level=config.level)
    answers = None if predictions is None else _answers(both, predictions)
    if answers is not None and predictions is not None:
        measures += _prediction_measures(both, predictions, answers, config.level)
    found = [*run_measures(measures, exchange), *words.comparisons]
    whole, compared, likeness = (None, None, None) if few else _whole(both, kinds, task, config)
    found += [compared] if compared is not None else []
    comparisons = _judged(found, config, few=few)
    said = None
    if answers is not None and predictions is not None:
        said = quality(predictions.name, answers, exchange, likeness, level=config.level, few_groups=config.few_groups)
    return DriftReport(
        reference=_set_facts("reference", before, exchange, current=False),
        current=_set_facts("current", now, exchange, current=True),
        kinds=kinds,
        comparisons=tuple(comparisons),
        values=(*words.values, *(_label_shares(both, answers, config.level) if answers is not None else ())),
        words=words.words,
        whole=whole,
        quality=said,
        verdicts=part_verdicts(comparisons, said, config, groups=exchange.groups),
        alpha=config.alpha,
        smallest=config.smallest,
        exchanges=config.resamples,
    )


@dataclass(frozen=True)
class _Both:
    """Both sets below each other, the reference first, and their blocks."""

    rows: pl.DataFrame
    exchange: Exchange

    @classmethod
    def of(
        cls, before: pl.DataFrame, now: pl.DataFrame, columns: Sequence[str], config: DriftConfig, seed: int
    ) -> _Both:
        parts = []
        for rows in (before, now):
            gold = pl.col("gold").cast(pl.String) if "gold" in rows.columns else pl.lit(None, dtype=pl.String)
            weight = pl.col("weight").cast(pl.Float64) if "weight" in rows.columns else pl.lit(1.0)
            text = [pl.col(name).cast(pl.String).fill_null("") for name in columns]
            named = [pl.col(name).cast(pl.String) for name in ("row_id", "group") if name not in columns]
            parts.append(rows.select(*named, gold.alias("gold"), weight.alias("weight"), *text))
        exchange = Exchange.of(
            parts[0]["group"].to_numpy(),
            parts[1]["group"].to_numpy(),
            weights=(parts[0]["weight"].to_numpy(), parts[1]["weight"].to_numpy()),
            count=config.resamples,
            seed=seed,
        )
        return cls(pl.concat(parts), exchange)


def _sampled(
    reference: pl.DataFrame | Sampled, current: pl.DataFrame | Sampled, config: DriftConfig, seed: int
) -> tuple[Sampled, Sampled]:
    found: list[Sampled] = []
    for given in (reference, current):
        if isinstance(given, Sampled):
            found.append(given)
            continue
        first = found[0] if found else None
        sample = GroupSample(
            most_groups=config.max_groups,
            rows_per_group=config.rows_per_group,
            below=first.share if first else 1.0,
            always=first.rows["group"] if first else None,
            seed=seed,
        )
        sample.add(given)
        found.append(sample.finish())
    return found[0], found[1]


def _enough_exchanges(config: DriftConfig, *, columns: int) -> int:
    """As many as asked for, and enough that one comparison alone can pass the correction for all of them.

    The smallest p-value of *B* exchanges is 1 / (B + 1); of *m* comparisons the first must reach alpha / (c m).
    """
    most = _MOST_OF_A_COLUMN * columns + _MOST_OF_ROWS_AND_ANSWERS
    harmonic = sum(1.0 / place for place in range(1, most + 1)) if config.correction == "benjamini_yekutieli" else 1.0
    return max(config.resamples, math.ceil(harmonic * most / config.alpha) - 1)


def _check(name: str, rows: pl.DataFrame, columns: Sequence[str]) -> None:
    if rows.is_empty():
        raise DataError(f"drift: the {name} set has no rows; give two sets that have some")
    missing = [column for column in ("row_id", "group", *columns) if column not in rows.columns]
    if missing:
        raise DataError(
            f"drift: the {name} set lacks the columns {', '.join(missing)}, it has {', '.join(rows.columns)}; "
            "add or rename them, or leave them out of the slices"
        )


def _set_facts(name: str, sampled: Sampled, exchange: Exchange, *, current: bool) -> SetFacts:
    own = exchange.side == current
    common = exchange.partner[exchange.block] >= 0
    return SetFacts(
        name=name,
        rows=int(own.sum()),
        groups=exchange.groups[int(current)],
        rows_read=sampled.read,
        common=float(exchange.mass[own & common].sum()),
        note=sampled.note,
    )


def _answers(both: _Both, sets: StudentSets) -> Answers:
    label, confidence = _joined(both, sets)
    return Answers(label, confidence, both.rows["gold"], sets.truth_source)


def _joined(both: _Both, sets: StudentSets) -> tuple[pl.Series, Floats]:
    said = _per_row(both, sets, "label", pl.String)
    has_probs = all("probs" in table.columns for table in (sets.reference, sets.current))
    sure = _per_row(both, sets, "probs", pl.List(pl.Float64)).list.max() if has_probs else pl.Series([None] * len(said))
    return said, sure.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _per_row(both: _Both, sets: StudentSets, column: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    """A column of the predictions, ``[n]``, null where a row has none."""
    split = int((~both.exchange.side).sum())
    found = []
    for rows, table in ((both.rows[:split], sets.reference), (both.rows[split:], sets.current)):
        own = table.select(pl.col("row_id").cast(pl.String), pl.col(column).cast(dtype)).unique(
            "row_id", keep="first", maintain_order=True
        )
        found.append(rows.select("row_id").join(own, on="row_id", how="left", maintain_order="left")[column])
    return pl.concat(found)


def _prediction_measures(both: _Both, sets: StudentSets, answers: Answers, level: float) -> list[Measure]:
    exchange = both.exchange
    known = answers.label.is_not_null().to_numpy()
    below = exchange.sums(known.astype(float)[:, None])[:, 0]
    measures = []

    def share(name: str, measure: str, values: Floats, own: np.ndarray) -> None:
        total = exchange.sums(own.astype(float)[:, None])[:, 0]
        if not all((own & (exchange.side == side)).any() for side in (False, True)):
            return
        sums = exchange.sums(np.where(own, values, 0.0)[:, None])
        means = weighted_means(np.where(own, values, np.nan), exchange)
        apart = differences(sums, exchange, total=total, level=level)[0]
        part: Part = "quality" if measure == "expected right" else "predictions"
        measures.append(Measure(part, name, measure, sums, "share", means=means, total=total, difference=apart))

    if all((known & (exchange.side == side)).any() for side in (False, True)):
        codes, names = value_cells(answers.label.fill_null(""))
        cells = exchange.cells(codes, len(names), only=known)
        measures.append(Measure("predictions", "label", "labels", cells, "unordered", total=below))
    sure = np.isfinite(answers.confidence)
    if all((sure & (exchange.side == side)).any() for side in (False, True)):
        codes, count = number_cells(answers.confidence)
        cells = exchange.cells(codes, count, only=sure)
        means = weighted_means(answers.confidence, exchange)
        total = exchange.sums(sure.astype(float)[:, None])[:, 0]
        measures.append(Measure("predictions", "confidence", "numbers", cells, "ordered", means=means, total=total))
        share("confidence", "expected right", answers.confidence, sure)
    if all("abstained" in table.columns for table in (sets.reference, sets.current)):
        left = _per_row(both, sets, "abstained", pl.Boolean)
        share("abstained", "share", left.fill_null(False).to_numpy().astype(float), left.is_not_null().to_numpy())
    if sets.other is not None:
        other = _joined(both, sets.other)[0]
        own = known & other.is_not_null().to_numpy()
        differs = (answers.label != other).fill_null(False).to_numpy().astype(float)
        share(f"differs from {sets.other.name}", "share", differs, own)
    return measures


def _label_shares(both: _Both, answers: Answers, level: float) -> tuple[ValueShift, ...]:
    """How often each label is given, then and now, of the rows that have a prediction."""
    return value_shifts("label", answers.label, both.exchange, level=level, only=answers.label.is_not_null().to_numpy())


def _whole(
    both: _Both, kinds: Mapping[str, ColumnKind], task: Task, config: DriftConfig
) -> tuple[TwoSample, Comparison, Likeness]:
    """The classifier two-sample test, on a sample of the groups where there are many rows."""
    chosen = _classifier_rows(both.exchange, config.classifier_rows)
    rows, exchange = both.rows, both.exchange
    if not chosen.all():
        small = _part(rows, chosen, exchange, kinds, config)
        rows, exchange = small.rows, small.exchange
    scores = tell_apart(rows, exchange, kinds, seed=exchange.seed)
    held = scores.held_out
    tested = _part(rows, held, exchange, kinds, config).exchange
    cells = scores.held_out_cell[held]
    measure = Measure("inputs", "whole row", "whole row", tested.cells(cells, SCORE_CELLS), "auc", unit="score")
    compared = run_measures([measure], tested)[0]
    seen = compared.p_value <= config.alpha
    sliced = [name for name, kind in kinds.items() if kind == "category"]
    whole = TwoSample(
        auc=auc_estimate(cells, tested, level=config.level),
        rows=len(rows),
        toward_current=scores.toward_current,
        toward_reference=scores.toward_reference,
        telling=telling_rows(rows, scores, exchange, task.inputs) if seen else (),
        slices=slice_shares(rows, scores, exchange, sliced) if seen else (),
    )
    probability = np.full(len(both.rows), np.nan)
    probability[chosen] = scores.probability
    return whole, compared, Likeness(probability, float(whole.auc.value or 0.5))


def _part(
    rows: pl.DataFrame, chosen: np.ndarray, exchange: Exchange, kinds: Mapping[str, ColumnKind], config: DriftConfig
) -> _Both:
    """The rows chosen ``[n]`` as two sets of their own."""
    before, now = (rows.filter(pl.Series(chosen & (exchange.side == side))) for side in (False, True))
    return _Both.of(before, now, list(kinds), config, exchange.seed)


def _classifier_rows(exchange: Exchange, most: int) -> np.ndarray:
    """Which rows to learn from, ``[n]``: all, or whole groups drawn until there are enough, both sets alike."""
    if len(exchange.block) <= most:
        return np.ones(len(exchange.block), bool)
    random = np.random.default_rng([exchange.seed, 2])
    draw = random.random(exchange.blocks)[exchange.group]
    rows = np.bincount(exchange.block, minlength=exchange.blocks)
    chosen = np.zeros(exchange.blocks, bool)
    for side in (False, True):
        own = np.flatnonzero(exchange.current == side)
        order = own[np.argsort(draw[own], kind="stable")]
        chosen[order[np.cumsum(rows[order]) <= most // 2]] = True
    # A group that both sets have stays in both, or would look like one that is gone.
    both = exchange.partner >= 0
    chosen[both] |= chosen[exchange.partner[both]]
    return chosen[exchange.block]


def _judged(found: Sequence[Comparison], config: DriftConfig, *, few: bool) -> list[Comparison]:
    p_values = np.array([one.p_value for one in found])
    corrected = adjusted(p_values, yekutieli=config.correction == "benjamini_yekutieli")
    judged = []
    for one, value in zip(found, corrected.tolist(), strict=True):
        moved = value <= config.alpha and one.size >= config.smallest
        verdict = "cannot tell" if few else "moved" if moved else "steady"
        judged.append(one.model_copy(update={"adjusted_p": value, "verdict": verdict}))
    return judged
