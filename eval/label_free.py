r"""What can be said of teachers and students without any label by a person, and what cannot.

Nothing here is an accuracy. Without truth a panel can be **ranked** and a student can be **tracked**; how good either
is stays unknown, because judges that err together agree. Measured on panels of LLM judges with known truth, agreement
between families ranks teachers at a Kendall tau of 0.73 and reads 9 to 15 points above their accuracy. Each result
carries that warning in ``note``; :mod:`distill.eval.prediction_powered` turns a few labels into an accuracy.

Students lean towards who taught them. Measured on held-out rows, a dozen students a seed, three seeds
(``benchmarks/results/label_free_quality.md``; truth: people's labels): on CrowdFlower agreement with one LLM's labels
ranks students much as their accuracy does (Kendall tau 0.75, 90% interval 0.54 to 0.82), AUC against either less so
(0.58, 0.34 to 0.78), while a student's mean confidence ranks them the wrong way round (-0.35, -0.44 to -0.16). On ESCI,
where students are near chance and the LLM is far stricter than people, agreement says little (0.29, -0.07 to 0.60).
Agreement reads 4 points above accuracy for students of people's labels and 8 for those of the LLM's: beside its twin
taught by people, a small network taught by the LLM gains 5 points (3 to 8) more in agreement than in accuracy, an
encoder 1.5 (0 to 3). So compare agreement between rounds of one way of teaching, not between teachers.

* :func:`rank_teachers`: how often a teacher agrees with what the *other* families say.
* :func:`confidence_estimate` (CBPE): how often a student expects to be right. It holds where the student is calibrated
  on rows like these.
* :func:`threshold_estimate` (ATC; Garg et al. 2022, https://arxiv.org/abs/2201.04234): the share of rows above the
  confidence that as many labeled rows passed as were right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates, undefined
from distill.eval.metrics import Floats, Ints
from distill.eval.scored import collapse_votes, label_indices
from distill.labeling.task import Task

_EXCHANGES = 200
RANKS_NOT_GRADES = "ranks teachers, does not grade them: agreement reads above accuracy where families err together"


class RankedTeacher(Frozen):
    """One teacher, by how far the other families side with it."""

    teacher: str
    family: str
    rows: int = Field(description="rows on which another family had a clear say")
    agreement: Estimate = Field(description="share of them with the label that the other families gave most")
    kappa: Estimate = Field(description="the same beyond what both sides' label frequencies give by chance")
    rank: int = Field(description="from 1, by kappa, so that a teacher that gives one label to all ranks low")


class ConfidenceEstimate(Frozen):
    """What a student's own confidence says of how often it is right, and whether that may be believed."""

    expected: Estimate = Field(description="mean probability of the predicted label; an expectation, no accuracy")
    gap: Estimate | None = Field(
        None, description="on labeled rows: mean confidence less share right; the estimate's bias, if it carries over"
    )
    shift: float | None = Field(
        None, description="how far the two sets' confidences differ: Kolmogorov-Smirnov distance, 0 to 1"
    )
    believable: bool | None = Field(
        None, description="whether the gap's interval holds zero and the shift is small; None without labeled rows"
    )
    note: str


class LabelFreeEstimate(Frozen):
    """What is said of a student without any label by a person. It ranks and tracks students; it grades none."""

    positive: str | None = Field(
        None, description="where set, every figure counts a label as this one or not; None: as the label that it is"
    )
    agreement: Estimate | None = Field(
        None, description="share of held-out rows with the teachers' merged label, of rows that it did not learn from"
    )
    other_families: Estimate | None = Field(
        None, description="the same with the label that families it did not learn from gave most; None without such"
    )
    expected: Estimate | None = Field(None, description="how often it expects to be right, see ConfidenceEstimate")
    gap: Estimate | None = Field(
        None,
        description="confidence less share right on gold of split audit; of a part of several, on the rows themselves, "
        "against those whose answers it was set right on",
    )
    shift: float | None = Field(None, description="Kolmogorov-Smirnov distance of its confidences, audit to test")
    believable: bool | None = Field(
        None, description="whether `expected` may be believed as far as the audit gold tells; None where none tells"
    )
    thresholded: float | None = Field(
        None, description="share of rows above the confidence that as many audit rows passed as were right (ATC)"
    )
    consistency: Estimate | None = Field(
        None, description="share of rows whose answer stays under typos, case, word order and field shuffles"
    )
    changes: dict[str, Estimate] = Field(default_factory=dict, description="consistency by kind of change")
    notes: tuple[str, ...] = Field((), description="what each figure is known to get wrong, or why one is missing")


class LabelFreeFacts(Frozen):
    """What a run tells of its teachers and students without any label by a person."""

    teachers: list[RankedTeacher] = Field(default_factory=list, description="best first; empty below two families")
    students: dict[str, LabelFreeEstimate] = Field(default_factory=dict)

    @property
    def has_any(self) -> bool:
        """Whether it tells of anybody."""
        return bool(self.teachers or self.students)


def rank_teachers(
    votes: pl.DataFrame, rows: pl.DataFrame, *, task: Task, config: EvalConfig | None = None, seed: int = 0
) -> list[RankedTeacher]:
    """Ranks teachers by their agreement with the other families.

    A row counts for a teacher where the other families, one share each, have one commonest label. Teachers are ranked
    by kappa: one that says the same of everything agrees often by chance.

    Args:
        votes: ``row_id``, ``teacher``, ``label``, ``family``; those whose ``outcome`` is not ``labeled`` are left out.
        rows: ``row_id`` and ``group``.
        task: The labels.
        config: Resamples and level.
        seed: Of the resamples.

    Returns:
        Best first. Empty where there are fewer than two families: nothing but themselves to compare with.

    Raises:
        DataError: A label is outside the set.
    """
    config = config or EvalConfig()
    said = collapse_votes(votes)
    if "family" not in said.columns:
        said = said.with_columns(family=pl.col("teacher"))
    said = said.with_columns(pl.col("family").fill_null(pl.col("teacher")))
    said = said.join(rows.select("row_id", "group"), on="row_id", how="inner")
    if said["family"].n_unique() < 2:
        return []
    said = said.with_columns(code=pl.Series(label_indices(said["label"], task, "votes")))
    panel = _Panel.of(said, labels=len(task.labels))
    found = [
        _ranked(panel, said.filter(pl.col("teacher") == name), config, seed)
        for name in said["teacher"].unique(maintain_order=True)
    ]
    found.sort(key=lambda one: (-(one.kappa.value if one.kappa.value is not None else -2.0), one.teacher))
    return [one.model_copy(update={"rank": place}) for place, one in enumerate(found, start=1)]


def confidence_estimate(
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    task: Task,
    labeled: tuple[pl.DataFrame, pl.DataFrame] | None = None,
    config: EvalConfig | None = None,
    seed: int = 0,
) -> ConfidenceEstimate:
    r"""How often a student expects to be right: :math:`\frac{1}{N} \sum_i p_{i, \hat{y}_i}` (CBPE).

    That is the mean probability of the label that it gives, rows weighted as in ``evaluate``. It equals the accuracy
    where the probabilities are calibrated on these very rows. With labeled rows of another split both halves of that
    are checked: whether confidence and share right meet there, and whether confidences here are distributed as there.

    Args:
        predictions: ``row_id``, ``label`` and ``probs``.
        rows: ``row_id``, ``group`` and perhaps ``weight``; no gold is read.
        task: The labels.
        labeled: Predictions and rows with ``gold`` of another split, to check on.
        config: Resamples and level.
        seed: Of the resamples.
    """
    config = config or EvalConfig()
    here = _beside(predictions, rows, config)
    sure = confidence_of(here, task)
    expected = _mean_estimate(sure, here, config, seed)
    if labeled is None:
        return ConfidenceEstimate(
            expected=expected, note="unchecked: no labeled rows to see whether it is calibrated on"
        )
    checked = _beside(labeled[0], labeled[1].filter(pl.col("gold").is_not_null()), config)
    if checked.is_empty():
        return ConfidenceEstimate(
            expected=expected, note="unchecked: no labeled rows to see whether it is calibrated on"
        )
    right = (checked["label"] == checked["gold"]).to_numpy().astype(float)
    there = confidence_of(checked, task)
    gap = _mean_estimate(there - right, checked, config, seed)
    shift = _distance(sure, there)
    limit = _distance_by_chance(sure, here["group"], there, checked["group"], seed=seed)
    calibrated = gap.low is not None and gap.high is not None and gap.low <= 0.0 <= gap.high
    return ConfidenceEstimate(
        expected=expected,
        gap=gap,
        shift=shift,
        believable=calibrated and shift <= limit,
        note=_said(calibrated, shift <= limit, gap),
    )


def threshold_estimate(confidence: Floats, *, labeled_confidence: Floats, labeled_right: Floats) -> float:
    """Average thresholded confidence (Garg et al. 2022): an expectation of the accuracy on other rows.

    The threshold is the confidence that as large a share of the labeled rows passes as was labeled right; the estimate
    is the share of the other rows that pass it. Better than the mean confidence where a student is off by a monotone
    map of its probabilities, no better where rows shift in kind.

    Args:
        confidence: ``[N]``, of the rows that nobody labeled.
        labeled_confidence: ``[M]``.
        labeled_right: ``[M]``, 1 where the label is right.
    """
    if not len(confidence) or not len(labeled_confidence):
        return float("nan")
    ranked = np.sort(labeled_confidence)[::-1]
    passing = round(float(labeled_right.mean()) * len(ranked))
    if passing == 0:
        return 0.0
    threshold = ranked[passing - 1]
    return float((confidence >= threshold).mean())


class _Panel(NamedTuple):
    """Shares of every family by row ``[F, R, L]``, and where each row and family is found."""

    shares: Floats
    row: dict[str, int]
    family: dict[str, int]

    @classmethod
    def of(cls, said: pl.DataFrame, *, labels: int) -> _Panel:
        row = {name: place for place, name in enumerate(said["row_id"].unique(maintain_order=True))}
        family = {name: place for place, name in enumerate(said["family"].unique(maintain_order=True))}
        shares = np.zeros((len(family), len(row), labels))
        at = (_places(said["family"], family), _places(said["row_id"], row), said["code"].to_numpy())
        np.add.at(shares, at, 1.0)
        total = shares.sum(axis=2, keepdims=True)
        return cls(np.divide(shares, total, out=shares, where=total > 0), row, family)


def _ranked(panel: _Panel, own: pl.DataFrame, config: EvalConfig, seed: int) -> RankedTeacher:
    family = str(own["family"][0])
    others = panel.shares.sum(axis=0) - panel.shares[panel.family[family]]
    others = others[_places(own["row_id"], panel.row)]
    most = np.sort(others, axis=1)[:, ::-1]
    clear = most[:, 0] - most[:, 1] > 1e-9 if others.shape[1] > 1 else most[:, 0] > 0
    said, theirs = own["code"].to_numpy()[clear], others.argmax(axis=1)[clear]
    group = own["group"].to_numpy()[clear]
    agreement, kappa = _agreement(said, theirs, group, labels=others.shape[1], config=config, seed=seed)
    return RankedTeacher(
        teacher=str(own["teacher"][0]), family=family, rows=len(said), agreement=agreement, kappa=kappa, rank=0
    )


def _agreement(
    one: Ints, other: Ints, group: np.ndarray, *, labels: int, config: EvalConfig, seed: int
) -> tuple[Estimate, Estimate]:
    from distill.eval.agreement import cohen_kappa

    if not len(one):
        nothing = undefined("no row on which other families have a clear say", level=config.level)
        return nothing, nothing
    resamples = Resamples.of(group, count=config.bootstrap, seed=seed)
    cells = np.zeros((len(one), labels * labels))
    cells[np.arange(len(one)), one * labels + other] = 1.0
    same = (one == other).astype(float)[:, None]
    agreement = ratio_estimates(same, np.ones_like(same), resamples, level=config.level)[0]
    draws = cohen_kappa(resamples.sums(cells).reshape(-1, labels, labels))
    value = float(cohen_kappa(cells.sum(axis=0).reshape(labels, labels)))
    kappa = estimate(value, draws, Size(len(one), resamples.groups), level=config.level, bounds=(-1.0, 1.0))
    return agreement.model_copy(update={"note": RANKS_NOT_GRADES}), kappa


def _places(column: pl.Series, place: dict[str, int]) -> Ints:
    return column.replace_strict(place, return_dtype=pl.Int64).to_numpy()


def confidence_of(predictions: pl.DataFrame, task: Task) -> Floats:
    """``[N]``, the probability of the label that each row was given, from ``label`` and ``probs``."""
    codes = label_indices(predictions["label"], task, "predictions")
    probs = predictions["probs"].explode().to_numpy().astype(float).reshape(len(predictions), -1)
    found: Floats = probs[np.arange(len(codes)), codes]
    return found


def _beside(predictions: pl.DataFrame, rows: pl.DataFrame, config: EvalConfig) -> pl.DataFrame:
    """Answers with the group, weight and gold of their rows."""
    weight = pl.col("weight") if config.weighted and "weight" in rows.columns else pl.lit(1.0)
    known = [name for name in ("group", "gold") if name in rows.columns]
    said = predictions.filter(pl.col("label").is_not_null()).select("row_id", "label", "probs")
    return said.join(rows.select("row_id", *known, weight.cast(pl.Float64).alias("weight")), on="row_id", how="inner")


def _mean_estimate(values: Floats, rows: pl.DataFrame, config: EvalConfig, seed: int) -> Estimate:
    if not len(values):
        return undefined("no rows", level=config.level)
    resamples = Resamples.of(rows["group"].to_numpy(), count=config.bootstrap, seed=seed)
    weight = rows["weight"].to_numpy()
    sums = resamples.sums(np.column_stack([values * weight, weight]))
    mean = float(np.average(values, weights=weight))
    return estimate(mean, sums[:, 0] / sums[:, 1], Size(len(values), resamples.groups), level=config.level)


def _distance(one: Floats, other: Floats) -> float:
    """Kolmogorov-Smirnov: the largest difference of the two cumulative shares."""
    every = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(part), every, side="right") / len(part) for part in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _distance_by_chance(one: Floats, groups: pl.Series, other: Floats, others: pl.Series, *, seed: int) -> float:
    """The distance that 95 of 100 exchanges of whole groups between the two sets stay below.

    Rows of a query resemble each other, so that the limit for independent rows (1.36 times the root of
    ``(N + M) / (N M)``) calls sets different that only hold other queries.
    """
    values = np.concatenate([one, other])
    names = np.concatenate([groups.to_numpy(), others.to_numpy()])
    order = np.argsort(values, kind="stable")
    codes = np.unique(names, return_inverse=True)[1][order]
    last = np.append(np.diff(values[order]) > 0, True)
    count, here = codes.max() + 1, groups.n_unique()
    random, found = np.random.default_rng(seed), np.zeros(_EXCHANGES)
    for number in range(_EXCHANGES):
        taken = np.zeros(count, dtype=bool)
        taken[random.permutation(count)[:here]] = True
        side = taken[codes]
        if side.all() or not side.any():
            continue
        shares = np.cumsum(side) / side.sum() - np.cumsum(~side) / (~side).sum()
        found[number] = np.abs(shares[last]).max()
    return float(np.quantile(found, 0.95))


def _said(calibrated: bool, alike: bool, gap: Estimate) -> str:
    if calibrated and alike:
        return "confidence met the share right on the labeled rows, and confidences here are distributed as there"
    if not calibrated:
        side = "above" if (gap.value or 0.0) > 0 else "below"
        return f"do not believe it: on the labeled rows confidence lay {side} the share right"
    return "do not believe it: confidences here are distributed otherwise than on the labeled rows"
