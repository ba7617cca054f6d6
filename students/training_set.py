"""What a student learns from: rows, each with a target distribution."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from distill.labeling.answers.traces import UNFIT
from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import HUMAN, LABELS

_KNOWN: dict[str, pl.DataType] = {
    "confidence": pl.Float64(),
    "n_eff": pl.Float64(),
    "trace": pl.String(),
    "clauses": pl.List(pl.String()),
}
"""What is known of a target beside the target."""
_PAIRED: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "source": pl.String(),
    "gold": pl.String(),
    "target": pl.List(pl.Float64()),
    "weight": pl.Float64(),
}


@dataclass(frozen=True)
class TrainingSet:
    """Rows to learn from and rows to stop by.

    Both tables have ``row_id`` str, ``group`` str, the task's input columns (str), ``target`` List[f64] in the order
    of the task's labels and summing to one, ``weight`` f64 with mean 1 over both tables together, ``source`` str: the
    entry of ``train_on`` that gave the target, and what is known of the target: ``confidence`` f64 (the merged label's;
    the highest of ``target`` where a teacher gave it; 1 for people), ``n_eff`` f64 (1 for a teacher, null for people),
    ``trace`` str and ``clauses`` List[str] of the vote behind it (null without one). In the order of the rows that they
    came from.

    Attributes:
        train: Rows to learn from.
        validation: Rows of other groups, held out; empty where no share was asked for.
        paired: Rows of ``train``'s groups of which people and a source of ``train_on`` both said something, whichever
            gave the target: ``row_id``, ``source``, ``gold`` str (split ``train`` only), ``target`` List[f64] (the
            source's), ``weight``. What the source confuses is learned from it.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    paired: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_PAIRED))

    @property
    def counts(self) -> dict[str, int]:
        """Training rows by source."""
        return {str(name): count for name, count in self.train.group_by("source").len().sort("source").iter_rows()}

    @property
    def group_counts(self) -> dict[str, int]:
        """Groups of the training rows by source."""
        counts = self.train.group_by("source").agg(pl.col("group").n_unique()).sort("source")
        return {str(name): count for name, count in counts.iter_rows()}


def training_set(
    rows: pl.DataFrame,
    *,
    train_on: str | Sequence[str],
    labels: pl.DataFrame | None,
    votes: pl.DataFrame | None,
    task: Task,
    validation_share: float = 0.0,
    seed: int = 0,
) -> TrainingSet:
    """Collects the targets of every row that no student is measured or calibrated on.

    That is none of split ``test``, and none of a group of split ``audit`` that has a gold label: a student that has
    seen a row, with whatever label, is surer of it than of a new one, and no calibration on it would hold for others.

    ========== ============================================ =======================================================
    source     rows                                         target
    ========== ============================================ =======================================================
    ``human``  gold of split ``train``                      one-hot
    ``labels`` a merged label                               its ``probs``
    a teacher  at least one ``labeled`` vote of that teacher mean over its samples of ``probs``, one-hot where a vote
                                                            has none
    ========== ============================================ =======================================================

    ``human`` never takes the gold of split ``audit``, which is kept for calibrating and auditing. The weight is the
    row's own (how often it occurs), scaled to mean 1; :func:`weigh` brings confidence in.

    Args:
        rows: The rows table.
        train_on: Source, or several of which the first that has a target for a row gives it.
        labels: The labels table, where a source asks for it.
        votes: The votes table, where a source asks for it.
        task: What the labels and inputs are.
        validation_share: Share of the groups to hold out, by a hash of the group and the seed. At least one group is
            held out and one kept where the share is above 0 and there are two.
        seed: Seed of that split.

    Raises:
        StudentError: A source has no table or is unknown, a label is outside the task's, or no row is left.
    """
    sources = [train_on] if isinstance(train_on, str) else list(train_on)
    usable = learnable(rows).with_row_index("position")
    targets = [
        _targets(source, usable, labels=labels, votes=votes, task=task).with_columns(
            source=pl.lit(source), rank=pl.lit(rank)
        )
        for rank, source in enumerate(sources)
    ]
    chosen = pl.concat(targets).sort("rank").unique("row_id", keep="first", maintain_order=True).drop("rank")
    joined = usable.join(chosen, on="row_id", how="inner").sort("position")
    joined = joined.select("row_id", "group", *task.inputs, "target", "weight", "source", *_KNOWN)
    joined = joined.filter(pl.col("weight") > 0)
    if joined.is_empty():
        raise StudentError(nothing_left(sources, rows))
    joined = joined.with_columns(pl.col("weight") / pl.col("weight").mean())
    out = held_out(joined["group"], share=validation_share, seed=seed)
    train, validation = joined.filter(~out), joined.filter(out)
    gold = usable.filter(pl.col("gold").is_in(list(task.labels)) & (pl.col("split") == "train"))
    gold = gold.filter(~pl.col("group").is_in(validation["group"].implode()))
    paired = pl.concat(targets).filter(pl.col("source") != HUMAN).join(gold, on="row_id", how="inner")
    return TrainingSet(train, validation, paired.select(pl.col(name).cast(kind) for name, kind in _PAIRED.items()))


def weigh(
    table: pl.DataFrame, *, confidence: bool = False, n_eff: bool = False, human_weight: float = 1.0
) -> pl.DataFrame:
    """Brings into the weights how far each target is to be trusted, and scales them back to mean 1.

    Args:
        table: As in :class:`TrainingSet`.
        confidence: Multiply by ``confidence``; by the target's highest probability where none is known. A soft target
            already pulls less the flatter it is, so this matters most for losses that forget the distribution, and for
            merged labels, whose confidence counts votes that err together once.
        n_eff: Multiply by ``n_eff``, since the variance of a mean of votes goes with its inverse; rows of people and
            others without one by the greatest in the table.
        human_weight: Multiplies the rows of source ``human``.
    """
    weight = pl.col("weight")
    if confidence:
        weight = weight * pl.coalesce("confidence", pl.col("target").list.max())
    if n_eff:
        weight = weight * pl.coalesce("n_eff", pl.col("n_eff").max(), pl.lit(1.0))
    if human_weight != 1.0:
        weight = weight * pl.when(pl.col("source") == HUMAN).then(human_weight).otherwise(1.0)
    return table.with_columns(weight=weight / weight.mean()) if confidence or n_eff or human_weight != 1.0 else table


def grades(task: Task) -> np.ndarray:
    """Grade of each label, ``[K]``: 1 for the best down to 0 for the worst in even steps.

    Of labels without order the positive one has 1 and the others 0.

    Raises:
        StudentError: The labels have neither order nor a positive one.
    """
    if task.ordered:
        return np.linspace(1.0, 0.0, len(task.labels))
    if task.positive_index is None:
        raise StudentError(f"task: the labels {list(task.labels)} have no grades; set task.ordered or task.positive")
    return np.eye(len(task.labels))[task.positive_index]


def smooth(table: pl.DataFrame, *, share: float) -> pl.DataFrame:
    """Spreads a share of every target evenly: ``(1 - share) * target + share / K`` (Szegedy et al. 2016)."""
    size = pl.col("target").list.len()
    return table.with_columns(target=pl.col("target") * (1.0 - share) + share / size) if share > 0 else table


def one_hot(label: pl.Expr, *, labels: Sequence[str]) -> pl.Expr:
    """The distribution with all mass on ``label``, as List[f64] in the order of ``labels``."""
    return pl.concat_list([(label == name).cast(pl.Float64) for name in labels])


def learnable(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that no student is measured or calibrated on; see :func:`training_set`."""
    judged = rows.filter((pl.col("split") == "audit") & pl.col("gold").is_not_null())["group"].unique()
    kept = (pl.col("split") == "audit") & pl.col("group").is_in(judged.implode())
    return rows.filter((pl.col("split") != "test") & ~kept)


def _targets(
    source: str, rows: pl.DataFrame, *, labels: pl.DataFrame | None, votes: pl.DataFrame | None, task: Task
) -> pl.DataFrame:
    """``row_id``, ``target`` and what is known of it, for the rows that a source has something to say of."""
    if source == HUMAN:
        gold = rows.filter((pl.col("split") == "train") & pl.col("gold").is_not_null())
        _refuse_strangers(gold["gold"], source=source, task=task)
        return _with_known(gold.select("row_id", target=one_hot(pl.col("gold"), labels=task.labels), confidence=1.0))
    if source == LABELS:
        if labels is None:
            raise StudentError("train_on: 'labels' needs merged labels, got none; run the aggregate stage first")
        _refuse_strangers(labels["label"], source=source, task=task)
        found = labels.filter(pl.col("probs").is_not_null()).with_columns(target=pl.col("probs"))
    else:
        found = _votes_of(source, votes, task)
    _refuse_misshapen(found, source=source, task=task)
    return _with_known(found).join(rows.select("row_id"), on="row_id", how="semi")


def _with_known(found: pl.DataFrame) -> pl.DataFrame:
    known = [pl.col(name) if name in found.columns else pl.lit(None).alias(name) for name in _KNOWN]
    return found.with_columns(known).select("row_id", "target", *(pl.col(name).cast(_KNOWN[name]) for name in _KNOWN))


def _votes_of(teacher: str, votes: pl.DataFrame | None, task: Task) -> pl.DataFrame:
    known = [] if votes is None else votes["teacher"].unique().sort().to_list()
    if votes is None or teacher not in known:
        named = ", ".join([HUMAN, LABELS, *known])
        raise StudentError(f"train_on: no votes of a teacher {teacher!r}; name one of: {named}")
    labeled = votes.filter((pl.col("teacher") == teacher) & (pl.col("outcome") == "labeled"))
    _refuse_strangers(labeled["label"], source=teacher, task=task)
    probs = pl.coalesce("probs", one_hot(pl.col("label"), labels=task.labels))
    size = len(task.labels)
    means = [pl.col("probs").list.get(i, null_on_oob=True).mean().alias(str(i)) for i in range(size)]
    labeled = labeled.with_columns(probs=probs, trace=_fit_trace(labeled), clauses=_clauses(labeled))
    first = [pl.col(name).drop_nulls().first() for name in ("trace", "clauses")]
    per_row = labeled.group_by("row_id", maintain_order=True).agg(*means, *first)
    per_row = per_row.with_columns(target=pl.concat_list([pl.col(str(i)) for i in range(size)]))
    return per_row.with_columns(confidence=pl.col("target").list.max(), n_eff=1.0)


def _fit_trace(votes: pl.DataFrame) -> pl.Expr:
    """The traces that may stand beside a label."""
    if "trace" not in votes.columns:
        return pl.lit(None, dtype=pl.String)
    if "trace_problems" not in votes.columns:
        return pl.col("trace")
    unfit = pl.col("trace_problems").list.eval(pl.element().is_in(list(UNFIT))).list.any()
    return pl.when(~unfit.fill_null(False)).then(pl.col("trace"))


def _clauses(votes: pl.DataFrame) -> pl.Expr:
    return pl.col("clauses") if "clauses" in votes.columns else pl.lit(None, dtype=pl.List(pl.String))


def _refuse_strangers(labels: pl.Series, *, source: str, task: Task) -> None:
    strangers = labels.drop_nulls().unique().sort().to_list()
    strangers = [name for name in strangers if name not in task.labels]
    if strangers:
        raise StudentError(
            f"train_on: {source}: labels outside the task's set {list(task.labels)}, got {strangers}; "
            "correct them, or add them to task.labels"
        )


def _refuse_misshapen(found: pl.DataFrame, *, source: str, task: Task) -> None:
    """A distribution of the wrong length or not summing to one would train silently on nonsense."""
    target = pl.col("target")
    bad = found.filter(
        (target.list.len() != len(task.labels)) | ((target.list.sum() - 1.0).abs() > 1e-3) | (target.list.min() < 0.0)
    )
    if not bad.is_empty():
        row_id, value = bad.select("row_id", "target").row(0)
        raise StudentError(
            f"train_on: {source}: {bad.height} distributions are not {len(task.labels)} shares of one, first row "
            f"{row_id!r}: {value}; merge the votes again with the labels of this task"
        )


def held_out(groups: pl.Series, *, share: float, seed: int) -> pl.Series:
    """Whether each row's group is held out: the groups with the smallest hashes, as many as the share says."""
    names = groups.unique().to_list()
    count = 0 if share <= 0 or len(names) < 2 else min(max(1, math.floor(share * len(names) + 0.5)), len(names) - 1)
    ranked = sorted(names, key=lambda name: hashlib.blake2b(f"{seed}\0{name}".encode()).digest())
    return groups.is_in(ranked[:count])


def nothing_left(sources: list[str], rows: pl.DataFrame) -> str:
    """What to say where no row is left to learn from."""
    splits = dict(rows.group_by("split").len().sort("split").iter_rows())
    gold = rows.filter((pl.col("split") == "train") & pl.col("gold").is_not_null()).height
    return (
        f"train_on: nothing to learn from in {sources}: rows by split {splits}, {gold} gold labels in split 'train'; "
        "rows of split 'test' are never trained on; give labels to rows of another split, or choose another source"
    )
