r"""May the LLM stand in for an annotator? The alternative annotator test.

Calderon, Reichart and Dror, "The Alternative Annotator Test for LLM-as-a-Judge" (ACL 2025,
https://arxiv.org/abs/2501.10970). Each annotator *j* is left out in turn; on each row that *j* judged, the candidate
and *j* are both scored by how they agree with the other annotators of that row. With :math:`W^f` the row indicator that
the candidate scores at least as well as *j*, and :math:`W^h` that *j* scores at least as well as the candidate,

.. math:: \rho^f_j = \overline{W^f}, \quad \rho^h_j = \overline{W^h}, \quad
    H_0: \rho^f_j \le \rho^h_j - \varepsilon

is tested one-sided. :math:`\varepsilon` is what an annotator costs more than the candidate: 0.2 for experts, 0.15 for
trained annotators, 0.1 for a crowd, as the paper proposes. The candidate **wins** against the annotators whose
:math:`H_0` is refused at a false discovery rate *q* (Benjamini–Yekutieli, since the tests share rows), and **passes**
where it wins against at least half.

The paper tests rows as independent. Rows of one query are not, so that where rows have groups the t statistic is taken
over groups (the cluster-robust variance of a ratio, with G - 1 degrees of freedom); with one row a group it is the
paper's paired t-test.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from distill.eval.frozen import Frozen
from distill.eval.metrics import Floats
from distill.eval.scored import collapse_votes, label_indices
from distill.labeling.errors import DataError
from distill.labeling.task import Task

FEWEST_ROWS = 30
"""Rows that an annotator must share with others for the test to be run on it, as the paper advises."""


class AgainstAnnotator(Frozen):
    """The candidate against one annotator."""

    annotator: str
    rows: int = Field(description="rows that the annotator, the candidate and at least one other judged")
    groups: int
    candidate_as_good: float = Field(description="share of rows on which the candidate is at least as good")
    annotator_as_good: float = Field(description="share of rows on which the annotator is at least as good")
    p_value: float | None = Field(description="of the hypothesis that the candidate is worse; None with too few rows")
    p_corrected: float | None = Field(None, description="the same for as many tests (Benjamini–Yekutieli)")
    wins: bool = Field(description="whether that hypothesis is refused")


class AlternativeAnnotatorTest(Frozen):
    """What the test found for one candidate."""

    candidate: str
    epsilon: float
    false_discovery_rate: float
    winning_rate: float | None = Field(description="share of the annotators tested that it wins against")
    advantage: float | None = Field(
        description="mean over annotators of how often it is at least as good: comparable between candidates"
    )
    passes: bool = Field(description="whether the winning rate is at least one half")
    against: list[AgainstAnnotator]
    note: str | None = Field(None, description="why there is no result, or what to beware of")


def alternative_annotator_test(
    votes: pl.DataFrame,
    *,
    candidate: str,
    annotators: list[str],
    task: Task,
    groups: pl.DataFrame | None = None,
    epsilon: float = 0.2,
    false_discovery_rate: float = 0.05,
) -> AlternativeAnnotatorTest:
    """Tests whether a teacher may stand in for the people of a panel.

    Scores are the share of the other annotators with the same label; where labels are grades, the negative root mean
    squared difference of grades.

    Args:
        votes: ``row_id``, ``teacher``, ``label``; those whose ``outcome`` is not ``labeled`` are left out.
        candidate: Teacher that is to replace an annotator.
        annotators: The people, two or more; three or more are advised.
        task: Labels, and whether they are grades.
        groups: ``row_id`` and ``group``; each row its own group where not given.
        epsilon: What an annotator costs more, as a share of rows.
        false_discovery_rate: *q* of Benjamini and Yekutieli.

    Raises:
        DataError: There are fewer than two annotators, a judge has no votes, or a label is outside the set.
    """
    if len(annotators) < 2 or candidate in annotators:
        raise DataError(
            f"alternative annotator test: needs two annotators or more beside {candidate!r}, got {annotators}; "
            "name the judges that are people"
        )
    sheet = _sheet(votes, [candidate, *annotators], task, groups)
    tested = [_against(sheet, place + 1, name, task, epsilon) for place, name in enumerate(annotators)]
    p_values = {one.annotator: one.p_value for one in tested if one.p_value is not None}
    won = refused_by_yekutieli(p_values, rate=false_discovery_rate)
    corrected = corrected_by_yekutieli(p_values)
    against = [
        one.model_copy(update={"wins": one.annotator in won, "p_corrected": corrected.get(one.annotator)})
        for one in tested
    ]
    rate = len(won) / len(p_values) if p_values else None
    shares = [one.candidate_as_good for one in against if one.p_value is not None]
    return AlternativeAnnotatorTest(
        candidate=candidate,
        epsilon=epsilon,
        false_discovery_rate=false_discovery_rate,
        winning_rate=rate,
        advantage=float(np.mean(shares)) if shares else None,
        passes=rate is not None and rate >= 0.5,
        against=against,
        note=_note(len(p_values), len(annotators)),
    )


def refused_by_yekutieli(p_values: Mapping[str, float], *, rate: float) -> set[str]:
    r"""Hypotheses refused at a false discovery rate, whatever the dependence (Benjamini & Yekutieli 2001).

    Those of the :math:`k` smallest p-values, for the largest *k* with
    :math:`p_{(k)} \le k q / (m \sum_{i=1}^{m} 1 / i)`.
    """
    ranked = sorted(p_values, key=p_values.__getitem__)
    harmonic = sum(1.0 / place for place in range(1, len(ranked) + 1))
    last = 0
    for place, name in enumerate(ranked, start=1):
        if p_values[name] <= place * rate / (len(ranked) * harmonic):
            last = place
    return set(ranked[:last])


def corrected_by_yekutieli(p_values: Mapping[str, float]) -> dict[str, float]:
    r"""The p-values that, held against a false discovery rate as they are, refuse what Benjamini and Yekutieli refuse.

    :math:`\tilde p_{(k)} = \min_{j \ge k} \min(1, p_{(j)} \, m \sum_{i=1}^{m} \frac{1}{i} / j)`.
    """
    ranked = sorted(p_values, key=p_values.__getitem__)
    harmonic = sum(1.0 / place for place in range(1, len(ranked) + 1))
    found, least = {}, 1.0
    for place in range(len(ranked), 0, -1):
        name = ranked[place - 1]
        least = min(least, p_values[name] * len(ranked) * harmonic / place)
        found[name] = least
    return found


class _Sheet(BaseModel):
    """Votes as a matrix ``[R, J]`` of label codes, -1 without one, the candidate first; and each row's group code."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    codes: np.ndarray
    group: np.ndarray


def _sheet(votes: pl.DataFrame, names: list[str], task: Task, groups: pl.DataFrame | None) -> _Sheet:
    said = collapse_votes(votes).filter(pl.col("teacher").is_in(names))
    silent = sorted(set(names) - set(said["teacher"].unique()))
    if silent:
        known = sorted(votes["teacher"].unique())
        raise DataError(f"alternative annotator test: no votes of {silent}; there are {known}")
    said = said.select("row_id", "teacher").with_columns(code=pl.Series(label_indices(said["label"], task, "votes")))
    wide = said.pivot("teacher", index="row_id", values="code", maintain_order=True)
    if groups is not None:
        wide = wide.join(groups.select("row_id", "group").unique("row_id"), on="row_id", how="left")
    else:
        wide = wide.with_columns(group=pl.col("row_id"))
    group = np.unique(wide["group"].fill_null(wide["row_id"]).to_numpy(), return_inverse=True)[1]
    return _Sheet(codes=wide.select(pl.col(names).fill_null(-1)).to_numpy(), group=group)


def _against(sheet: _Sheet, place: int, name: str, task: Task, epsilon: float) -> AgainstAnnotator:
    others = [column for column in range(1, sheet.codes.shape[1]) if column != place]
    voted = sheet.codes[:, others] >= 0
    usable = (sheet.codes[:, place] >= 0) & (sheet.codes[:, 0] >= 0) & voted.any(axis=1)
    codes, group = sheet.codes[usable], sheet.group[usable]
    peers, voted = codes[:, others], voted[usable]
    candidate, annotator = (_alignment(codes[:, who], peers, voted, ordered=task.ordered) for who in (0, place))
    better = (candidate >= annotator - 1e-12).astype(float)
    worse = (annotator >= candidate - 1e-12).astype(float)
    enough = len(codes) >= FEWEST_ROWS
    return AgainstAnnotator(
        annotator=name,
        rows=len(codes),
        groups=len(np.unique(group)),
        candidate_as_good=float(better.mean()) if len(codes) else 0.0,
        annotator_as_good=float(worse.mean()) if len(codes) else 0.0,
        p_value=_p_value(worse - better, group, epsilon) if enough else None,
        wins=False,
    )


def _alignment(own: np.ndarray, peers: np.ndarray, voted: np.ndarray, *, ordered: bool) -> Floats:
    apart = (own[:, None] - peers).astype(float)
    if ordered:
        result: Floats = -np.sqrt(np.where(voted, apart**2, 0.0).sum(axis=1) / voted.sum(axis=1))
        return result
    return ((apart == 0) & voted).sum(axis=1) / voted.sum(axis=1)


def _p_value(difference: Floats, group: np.ndarray, epsilon: float) -> float | None:
    r"""One-sided p of :math:`\overline{d} \ge \varepsilon`, by t over groups.

    With :math:`S_g` the sum of a group's :math:`d - \bar d` and *n* rows in *G* groups, the variance of the mean is
    :math:`\frac{G}{G - 1} \sum_g S_g^2 / n^2`.
    """
    from scipy.special import stdtr  # type: ignore[import-untyped]

    codes = np.unique(group, return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return None
    mean = difference.mean()
    sums = np.bincount(codes, weights=difference - mean)
    spread = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(difference))
    if spread == 0.0:
        return 0.0 if mean < epsilon else 1.0
    return float(stdtr(count - 1, (mean - epsilon) / spread))


def _note(tested: int, annotators: int) -> str | None:
    if not tested:
        return f"no annotator shares {FEWEST_ROWS} rows with the candidate and another annotator"
    if tested < annotators:
        return f"{annotators - tested} of {annotators} annotators share too few rows and were left out"
    return "fewer than three annotators: the paper advises three or more" if annotators < 3 else None
