r"""Which rows to ask teachers about next, so that the next student learns most from what the answers cost.

Every rule gives each candidate a **worth**, and rows are **drawn in proportion to it**, not taken from the top: the
most doubtful rows of all are alike, and many of them are doubtful because nobody can tell (noise) or because nothing
resembles them (outliers). Drawing is as good as rules that plan a batch jointly, at the cost of sorting once (Kirsch et
al. 2023, "Stochastic Batch Acquisition", https://arxiv.org/abs/2106.12059). Draws are of Efraimidis and Spirakis
(2006), without replacement: the rows with the greatest :math:`\log w_i - \log(-\log u_i)`, :math:`u_i` from the row's
id and the seed, so that neither the order of rows nor rows that another rule took change a draw.

* *uncertainty*: :math:`w = H(\bar p)^2`, the entropy of the students' mean distribution, between 0 and 1;
* *disagreement*: :math:`w = H(\bar p) - \overline{H(p_m)}`, the Jensen-Shannon divergence of the students'
  distributions (McCallum and Nigam 1998, query by committee): what they differ on, without what all are unsure of;
* *diversity*: :math:`w = D^2`, the squared distance to the nearest row asked or chosen so far, as k-means++ seeds
  centers (Arthur and Vassilvitskii 2007);
* *frequency*: :math:`w` is how often the row occurs, so that what shoppers ask often is asked of teachers first;
* *random*: a plain draw, the control. It alone does not spread over groups.

**Groups.** Rows of a query teach much the same. A group of which *j* rows were asked or chosen already has its next row
counted :math:`\frac{1 - \rho}{(1 + j \rho)(1 + (j - 1) \rho)}`: what the next row adds to the effective size
:math:`\frac{m}{1 + (m - 1) \rho}` of *m* rows of a cluster (Kish 1965). :math:`\rho = 0.2` is the correlation of match
or not within queries of two judged product-search sets (0.24 and 0.21). And no group fills more than a tenth of a
batch while others have rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.eval.metrics import Floats, Ints
from distill.labeling.errors import DataError
from distill.labeling.rows.row_draw import draw

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

ChoiceRule = Literal["uncertainty", "disagreement", "diversity", "frequency", "random"]
"""Why a row is asked about: the student is unsure of it, students differ, it is unlike what was asked, it is asked
often by shoppers, or by a plain draw."""

DEFAULT_SHARES: Mapping[ChoiceRule, float] = {"random": 1.0}
"""Share of a batch by rule where nobody says otherwise. On two sets, five seeds each, no rule beat a plain draw beyond
doubt, and taking the most doubtful rows outright did worst by AUC (``benchmarks/results/active_choice.md``). A plain
draw also stands for all rows."""

WITHIN_GROUP = 0.2
"""Correlation of what rows of one group teach."""
_MOST_OF_A_GROUP = 0.1
_SHARPNESS = 2.0
_LEAST_WORTH = 1e-12  # rows without any worth come last, by a plain draw among them
_DIVERSE_FROM = 20_000  # candidates that diversity looks at: 1M rows would be gigabytes of words
_AWAY_FROM = 5_000
_STEPS = 256
_ROWS_AT_ONCE = 64  # held dense, a megabyte each
_BUCKETS = 2**16
_CHARACTERS = 2_000


def choose_rows(
    rows: pl.DataFrame,
    *,
    count: int,
    rules: Mapping[ChoiceRule, float],
    predictions: pl.DataFrame | None = None,
    asked: pl.DataFrame | None = None,
    inputs: Sequence[str] = (),
    seed: int = 0,
) -> pl.DataFrame:
    """Chooses rows to ask about, each rule its share of them.

    Rules choose in the order of :data:`ChoiceRule`, each from what the ones before left; which one comes first in
    ``rules`` does not matter. The same rows and seed give the same choice in whatever order the rows stand.

    Args:
        rows: Candidates: ``row_id``, ``group``, ``weight`` and the inputs. Those in ``asked`` too are left out.
        count: Rows wanted; all of them where there are fewer.
        rules: Share of the choice by rule; they are scaled to sum to one.
        predictions: ``student``, ``row_id``, ``probs`` of one or several students on the candidates; None before there
            is one. Cheap labelers' distributions may stand beside students' as members of the committee. A rule that
            cannot work draws at random instead: uncertainty without predictions, disagreement without two students,
            diversity without inputs. Rows that no student predicted are drawn last by these rules.
        asked: Rows asked before, with ``group`` and the inputs, that diversity keeps away from, and whose groups count
            as asked.
        inputs: Columns that diversity reads, the query first: it makes up half of the likeness of two rows, the rest
            the other half. It looks at 20,000 candidates at most, a plain draw of them.
        seed: Of every draw.

    Returns:
        ``row_id``, ``rule`` (that drew it; ``random`` where the rule could not work) and ``score`` (by that rule, null
        for random), the most wanted first, rules in turns, so that a budget that ends early leaves a mixture.

    Raises:
        DataError: No rule has a share above zero or one is unknown, a column is missing, a weight is negative, or
            distributions are of different lengths.
    """
    shares = _shares(rules)
    _check(rows, asked, inputs)
    rows, batch = _candidates(rows, asked, count, seed)
    committee = _Committee.of(predictions, rows)
    chosen: list[tuple[float, int, int, str, float | None]] = []
    for place, (rule, quota) in enumerate(_quotas(shares, min(count, rows.height)).items()):
        worth = _worth(rule, rows, committee)
        if rule == "diversity" and inputs:
            found, scores = _diverse(batch, rows, asked, inputs, quota)
        elif worth is None:
            rule = "random"
            found, scores = batch.draw_plainly(quota), None
        else:
            found = batch.draw(worth**_SHARPNESS if rule == "uncertainty" else worth, quota, purpose=rule)
            scores = worth[found]
        for rank, row in enumerate(found.tolist()):
            score = None if scores is None else float(scores[rank])
            chosen.append(((rank + 0.5) / quota, place, row, rule, score))
    chosen.sort(key=lambda one: one[:2])
    return pl.DataFrame(
        {
            "row_id": rows["row_id"].gather([one[2] for one in chosen]),
            "rule": pl.Series([one[3] for one in chosen], dtype=pl.String),
            "score": pl.Series([one[4] for one in chosen], dtype=pl.Float64),
        }
    )


def group_discount(rows: Floats | Ints) -> Floats:
    """How much a group's next row counts after ``rows`` ``[n]`` of it, 1 for none."""
    held = np.asarray(rows, float)
    after = (1.0 - WITHIN_GROUP) / ((1.0 + held * WITHIN_GROUP) * (1.0 + (held - 1.0) * WITHIN_GROUP))
    result: Floats = np.where(held > 0, after, 1.0)
    return result


def normalised_entropy(probs: Floats) -> Floats:
    """Entropy of distributions ``[..., L]`` over that of a uniform one: 0 for certain, 1 for no idea."""
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    result: Floats = np.clip(-(probs * logs).sum(axis=-1) / math.log(max(probs.shape[-1], 2)), 0.0, 1.0)
    return result


class _Committee:
    """What the students think of each row together. Entropies are normalised; rows nobody predicted have NaN.

    Attributes:
        doubt: ``[N]``, entropy of the mean distribution.
        dispute: ``[N]``, Jensen-Shannon divergence; None with fewer than two students.
    """

    def __init__(self, doubt: Floats, dispute: Floats | None) -> None:
        self.doubt = doubt
        self.dispute = dispute

    @classmethod
    def of(cls, predictions: pl.DataFrame | None, rows: pl.DataFrame) -> _Committee | None:
        if predictions is None or predictions.is_empty():
            return None
        if missing := [name for name in ("student", "row_id", "probs") if name not in predictions.columns]:
            raise DataError(f"choose rows: predictions need student, row_id and probs, lack {', '.join(missing)}")
        known = predictions.filter(pl.col("probs").is_not_null())
        lengths = known["probs"].list.len().unique().to_list()
        if len(lengths) != 1:
            raise DataError(
                f"choose rows: distributions of {sorted(lengths)} labels; give students of one task, "
                "and a number for every label"
            )
        total, entropy = np.zeros((rows.height, lengths[0])), np.zeros(rows.height)
        members = np.zeros(rows.height)
        order = rows.select("row_id").with_row_index("_at")
        for name in known["student"].unique().sort().to_list():  # one at a time: memory holds one student's rows
            own = known.filter(pl.col("student") == name).unique("row_id", keep="first", maintain_order=True)
            own = own.select("row_id", "probs").join(order, on="row_id", how="inner")
            if own.is_empty():
                continue
            probs = own["probs"].list.to_array(lengths[0]).to_numpy().astype(float)
            sound = np.isfinite(probs).all(axis=1) & (probs >= 0).all(axis=1) & (probs.sum(axis=1) > 0)
            probs, at = probs[sound] / probs[sound].sum(axis=1, keepdims=True), own["_at"].to_numpy()[sound]
            total[at] += probs
            entropy[at] += normalised_entropy(probs)
            members[at] += 1
        with np.errstate(invalid="ignore"):
            doubt = np.where(members > 0, normalised_entropy(total / members[:, None]), np.nan)
            # JS is at most log M of M members, so that two of four labels never reach 1; scale does not change a draw.
            dispute = np.where(members > 1, np.maximum(doubt - entropy / members, 0.0), np.nan)
        return cls(doubt, dispute if (members > 1).any() else None)


class _Batch:
    """Rows drawn so far. Rows stand in the order of a draw by their ids, so that order of input changes nothing."""

    def __init__(self, row_ids: pl.Series, codes: Ints, *, held: Ints, count: int, seed: int) -> None:
        self.row_ids = row_ids
        self.codes = codes
        self.held = held  # by group: asked before, and drawn into this batch
        self.drawn = np.zeros_like(held)
        self.free = np.ones(len(codes), dtype=bool)
        self.most = max(1, math.ceil(_MOST_OF_A_GROUP * count))
        self.seed = seed

    def draw(self, worth: Floats, quota: int, *, purpose: str) -> Ints:
        """Draws in proportion to ``worth`` ``[N]``, groups discounted and capped; the most wanted first."""
        at = np.flatnonzero(self.free)
        worth = np.nan_to_num(worth[at])
        top = worth.max(initial=0.0)
        logs = np.log(np.maximum(worth / top if top > 0 else np.ones_like(worth), _LEAST_WORTH))
        even = np.clip(draw(self.row_ids.gather(at), seed=self.seed, purpose=purpose), 1e-300, 1.0 - 2.0**-53)
        keys = logs - np.log(-np.log(even))
        place = _places_within(self.codes[at], keys)
        keys += np.log(group_discount(self.held[self.codes[at]] + place))
        over = self.drawn[self.codes[at]] + place >= self.most
        found = at[np.lexsort((-keys, over))[:quota]]
        self.take(found)
        return found

    def draw_plainly(self, quota: int) -> Ints:
        """A plain draw, whatever the groups: it is the control, and rows drawn so stand for all of them."""
        at = np.flatnonzero(self.free)
        found = at[np.argsort(draw(self.row_ids.gather(at), seed=self.seed, purpose="random"), kind="stable")[:quota]]
        self.take(found)
        return found

    def take(self, found: Ints) -> None:
        """Marks rows as chosen."""
        self.free[found] = False
        counts = np.bincount(self.codes[found], minlength=len(self.held))
        self.held, self.drawn = self.held + counts, self.drawn + counts


def _shares(rules: Mapping[ChoiceRule, float]) -> dict[ChoiceRule, float]:
    known = get_args(ChoiceRule)
    if odd := [name for name in rules if name not in known]:
        raise DataError(f"choose rows: unknown rule {odd[0]!r}; take some of {', '.join(known)}")
    if any(not share >= 0 for share in rules.values()) or not sum(rules.values()) > 0:
        raise DataError(f"choose rows: shares must be 0 or more and one above 0, got {dict(rules)}")
    total = sum(rules.values())
    return {rule: rules[rule] / total for rule in known if rules.get(rule, 0) > 0}


def _quotas(shares: Mapping[ChoiceRule, float], count: int) -> dict[ChoiceRule, int]:
    """Whole rows by rule that sum to ``count``: the largest remainders get what rounding down leaves."""
    exact = {rule: share * count for rule, share in shares.items()}
    whole = {rule: math.floor(number + 1e-9) for rule, number in exact.items()}
    by_remainder = sorted(whole, key=lambda rule: whole[rule] - exact[rule])
    for rule in by_remainder[: count - sum(whole.values())]:
        whole[rule] += 1
    return {rule: number for rule, number in whole.items() if number}


def _check(rows: pl.DataFrame, asked: pl.DataFrame | None, inputs: Sequence[str]) -> None:
    for name, table, wanted in (("rows", rows, ["weight"]), ("rows asked before", asked, [])):
        if table is None:
            continue
        columns = ["row_id", "group", *wanted, *inputs]
        if missing := [column for column in columns if column not in table.columns]:
            raise DataError(f"choose rows: {name} need {', '.join(columns)}, lack {', '.join(missing)}")
    if rows.filter(pl.col("weight") < 0).height:
        raise DataError("choose rows: a weight is negative; a row's weight says how often it occurs, 0 or more")


def _candidates(rows: pl.DataFrame, asked: pl.DataFrame | None, count: int, seed: int) -> tuple[pl.DataFrame, _Batch]:
    """Rows not asked before in an order that hangs on ids and seed only, and the batch to draw them into."""
    if asked is not None:
        rows = rows.join(asked.select("row_id"), on="row_id", how="anti")
    rows = rows.unique("row_id", keep="first", maintain_order=True)
    turn = draw(rows["row_id"], seed=seed, purpose="choice order")
    rows = rows.with_columns(_turn=pl.Series(turn, dtype=pl.Float64)).sort("_turn", "row_id").drop("_turn")
    before = [] if asked is None else asked["group"].cast(pl.String).fill_null("").to_list()
    names = [*rows["group"].cast(pl.String).fill_null("").to_list(), *before]
    codes = (pl.Series(names, dtype=pl.String).rank("dense").cast(pl.Int64).to_numpy() - 1).astype(np.int64)
    held = np.bincount(codes[rows.height :], minlength=codes.max(initial=-1) + 1)
    return rows, _Batch(rows["row_id"], codes[: rows.height], held=held, count=count, seed=seed)


def _worth(rule: ChoiceRule, rows: pl.DataFrame, committee: _Committee | None) -> Floats | None:
    """``[N]`` by a rule that gives each row a worth of its own; None where it gives none."""
    if rule == "frequency":
        return rows["weight"].cast(pl.Float64).fill_null(1.0).to_numpy()
    if committee is None:
        return None
    return {"uncertainty": committee.doubt, "disagreement": committee.dispute}.get(rule)


def _places_within(codes: Ints, keys: Floats) -> Ints:
    """Each row's place, from 0, among the rows of its group by descending key."""
    order = np.lexsort((-keys, codes))
    starts = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0)) if len(codes) else np.empty(0, int)
    sizes = np.diff(np.append(starts, len(codes)))
    places = np.empty(len(codes), dtype=np.int64)
    places[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return places


def _diverse(
    batch: _Batch, rows: pl.DataFrame, asked: pl.DataFrame | None, inputs: Sequence[str], quota: int
) -> tuple[Ints, Floats]:
    """Draws by squared distance to what was asked or drawn; rows drawn in one step do not yet push each other away.

    There are 256 steps at most, so that a large batch takes no longer than sorting its words.
    """
    free = np.flatnonzero(batch.free)[: max(_DIVERSE_FROM, 2 * quota)]
    away = [rows[np.flatnonzero(~batch.free)]]
    if asked is not None:
        turn = np.argsort(draw(asked["row_id"], seed=batch.seed, purpose="choice order"), kind="stable")
        away.append(asked[turn[:_AWAY_FROM]])
    near = pl.concat([table.select(pl.col(inputs).cast(pl.String)) for table in away])
    vectors = _vectors(pl.concat([rows[free].select(pl.col(inputs).cast(pl.String)), near]), inputs)
    here, there = vectors[: len(free)], vectors[len(free) :]
    distance = _distances(here, there)
    random = np.random.default_rng(batch.seed)
    found: list[Ints] = []
    scores: list[Floats] = []
    step = math.ceil(quota / _STEPS)
    for start in range(0, quota, step):
        open_ = np.flatnonzero(batch.free[free])
        codes = batch.codes[free[open_]]
        worth = np.maximum(distance[open_] * group_discount(batch.held[codes]), _LEAST_WORTH)
        keys = np.log(worth) + random.gumbel(size=len(open_))
        over = batch.drawn[codes] + _places_within(codes, keys) >= batch.most
        taken = open_[np.lexsort((-keys, over))[: min(step, quota - start)]]
        batch.take(free[taken])
        found.append(free[taken])
        scores.append(distance[taken])
        distance = np.minimum(distance, _distances(here, here[taken]))
    return np.concatenate(found), np.concatenate(scores)


def _vectors(table: pl.DataFrame, inputs: Sequence[str]) -> csr_matrix:
    """TF-IDF of hashed words, ``[N, buckets]``, of length one: half of it the query, half the other inputs."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    parts: list[Any] = []
    for columns in (inputs[:1], inputs[1:]):
        if not columns:
            continue
        cells = [pl.col(name).fill_null("").str.slice(0, _CHARACTERS) for name in columns]
        texts = table.select(pl.concat_str(cells, separator=" "))[:, 0].to_list()
        hashed = HashingVectorizer(n_features=_BUCKETS, alternate_sign=False, norm=None, token_pattern=r"(?u)\w+")
        parts.append(TfidfTransformer(sublinear_tf=True).fit_transform(hashed.transform(texts)))
    whole = csr_matrix(normalize(hstack(parts)))
    # Only buckets that occur: chunks are held dense, and most buckets are empty.
    found, places = np.unique(whole.indices, return_inverse=True)
    return csr_matrix((whole.data, places, whole.indptr), shape=(whole.shape[0], max(len(found), 1)))


def _distances(here: csr_matrix, there: csr_matrix) -> Floats:
    """Squared distance over its most, ``1 - cos``, of each row to the nearest of ``there``: 1 where there is none."""
    nearest = np.zeros(here.shape[0])
    for start in range(0, there.shape[0], _ROWS_AT_ONCE):
        dense = np.ascontiguousarray(there[start : start + _ROWS_AT_ONCE].toarray().T)
        likeness: NDArray[np.float64] = here @ dense
        nearest = np.maximum(nearest, likeness.max(axis=1))
    result: Floats = np.clip(1.0 - nearest, 0.0, 1.0)
    return result
