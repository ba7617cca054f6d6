"""How good expansions are: what a fixed BM25 finds with them over judged products, and how far they drift."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.eval.queries.metrics import Tally, ratio
from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.catalogue_config import Fusion

_FUSION = 60.0
_DEPTH = 100
(_QUERIES, _RECALL, _RECALL_BEFORE, _NDCG, _NDCG_BEFORE) = range(5)
(_NEW_JUDGED, _NEW_IRRELEVANT, _NEW, _NEW_CATEGORY, _BETTER, _WORSE) = range(5, 11)


@dataclass(frozen=True)
class Searched:
    """What one query found without and with its expansions.

    Attributes:
        before: Product ids for the query alone, best first.
        after: Product ids with the expansions.
        gains: Judged products: gain by id, 0 for irrelevant, the most for exact.
        relevant: Products that recall counts.
        categories: Category by product id, where known.
    """

    before: Sequence[str]
    after: Sequence[str]
    gains: Mapping[str, float]
    relevant: Collection[str]
    categories: Mapping[str, str]


def expanded_ranking(
    catalogue: Catalogue,
    query: str,
    expansions: Sequence[str],
    *,
    weight: float = 0.5,
    k: int = _DEPTH,
    fusion: Fusion = "scores",
) -> list[str]:
    r"""Ids of products found for a query with its expansions, each searched alone, made one list by weighted fusion.

    .. math:: s(p) = f_q(p) + \frac{w}{m} \sum_{e=1}^{m} f_e(p)

    with m the number of expansions, so that all of them together weigh w against the query's 1, and f of a product that
    a list lacks 0; else, of its BM25 score b or its rank r in that list,

    - ``scores``: :math:`f = b / \max b` (CombSUM, Fox & Shaw 1994, with each list's best at 1);
    - ``ranks``: :math:`f = 1 / (60 + r)` (Cormack, Clarke & Büttcher 2009, "Reciprocal Rank Fusion"). The constant
      makes ranks of the query's own list nearly alike, so that to stand anywhere in an expansion's counts for more.

    Without expansions it is the query's list.

    Args:
        catalogue: Where to search.
        query: The query.
        expansions: Its rewrites and synonyms.
        weight: w.
        k: How many products of each list are fused, and returned.
        fusion: f.
    """
    scores: dict[int, float] = {}
    own, *others = catalogue.search([query, *expansions], k=k)
    for share, hits in [(1.0, own), *((weight / len(expansions), hits) for hits in others)]:
        for rank, hit in enumerate(hits, start=1):
            found = hit.score / hits[0].score if fusion == "scores" else 1.0 / (_FUSION + rank)
            scores[hit.product] = scores.get(hit.product, 0.0) + share * found
    ranked = sorted(scores, key=lambda product: (-scores[product], product))
    return [catalogue.product_ids[product] for product in ranked[:k]]


def expansion_tally(searched: Sequence[Searched], *, k: int = 10) -> Tally:
    r"""Terms of the expansion metrics, a line a query. Queries without a relevant product count for drift alone.

    - ``recall``, ``ndcg``: at k, with the expansions; mean over queries. ``recall@k = |top k ∩ relevant| /
      |relevant|``. ``nDCG@k`` is :math:`\sum_{i \le k} g_i / \log_2(i + 1)` over that of the best order (Järvelin &
      Kekäläinen 2002); products that nobody judged have gain 0.
    - ``recall_change``, ``ndcg_change``: those less the same without expansions.
    - ``better``, ``worse``: shares of queries whose nDCG@k went up, and down.
    - ``drift``: of judged products that the expansions newly bring into the top k, the share with gain 0.
    - ``category_drift``: of products that they newly bring into it, with a category, the share in a category that the
      query's own top k does not have; of queries whose top k has one.

    Raises:
        DataError: k is below 1.
    """
    if k < 1:
        raise DataError(f"expansion metrics: k must be at least 1, got {k}")
    terms = np.zeros((len(searched), 11))
    for line, one in zip(terms, searched, strict=True):
        before, after = list(one.before[:k]), list(one.after[:k])
        if one.relevant:
            recalls = [len(set(top) & set(one.relevant)) / len(one.relevant) for top in (after, before)]
            ndcgs = [_ndcg(top, one.gains, k) for top in (after, before)]
            line[:5] = 1, *recalls, *ndcgs
            line[_BETTER], line[_WORSE] = ndcgs[0] > ndcgs[1] + 1e-12, ndcgs[0] < ndcgs[1] - 1e-12
        new = [product for product in after if product not in before]
        judged = [product for product in new if product in one.gains]
        line[_NEW_JUDGED], line[_NEW_IRRELEVANT] = len(judged), sum(one.gains[product] <= 0 for product in judged)
        own = {one.categories.get(product, "") for product in before} - {""}
        placed = [category for product in new if (category := one.categories.get(product))] if own else []
        line[_NEW], line[_NEW_CATEGORY] = len(placed), sum(category not in own for category in placed)
    scores = {
        "recall": ratio(_RECALL, _QUERIES),
        "recall_change": lambda sums: ratio(_RECALL, _QUERIES)(sums) - ratio(_RECALL_BEFORE, _QUERIES)(sums),
        "ndcg": ratio(_NDCG, _QUERIES),
        "ndcg_change": lambda sums: ratio(_NDCG, _QUERIES)(sums) - ratio(_NDCG_BEFORE, _QUERIES)(sums),
        "better": ratio(_BETTER, _QUERIES),
        "worse": ratio(_WORSE, _QUERIES),
        "drift": ratio(_NEW_IRRELEVANT, _NEW_JUDGED),
        "category_drift": ratio(_NEW_CATEGORY, _NEW),
    }
    counted = dict.fromkeys(scores, terms[:, _QUERIES]) | {
        "drift": terms[:, _NEW_JUDGED],
        "category_drift": terms[:, _NEW],
    }
    return Tally(terms, scores, counted, frozenset(["recall_change", "ndcg_change"]))


def _ndcg(ranked: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    best = sorted(gains.values(), reverse=True)[:k]
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, start=1))
    reached = sum(gains.get(product, 0.0) / math.log2(rank + 1) for rank, product in enumerate(ranked[:k], start=1))
    return reached / ideal if ideal > 0 else 0.0
