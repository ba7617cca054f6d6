"""Rewrites and synonyms of a query without a language model: labeling functions for the task ``expansion``.

Three sources, each with what it needs: products that the same shoppers clicked after different queries
(:class:`CoClicks`), words that the titles found for a query hold far oftener than others do (:func:`title_terms`), and
the query itself without what adds nothing (:func:`plain_rewrites`). None knows what the shopper wants: filter them with
:mod:`distill.labeling.queries.query_checks`.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.queries.catalogue import Catalogue, Hit, discounted
from distill.labeling.queries.catalogue_config import LEAST_SIMILARITY, SHRINKAGE
from distill.labeling.queries.click_log import ClickLog
from distill.labeling.queries.query_words import has_digit, search_terms, words

_NO_MEANING = """
a an the for of with and in on to by from best cheap good buy price online sale new
для и с в на из по от купить цена недорого лучший
추천 구매 가격 최저가 파는 좋은 저렴한
"""
STOP_WORDS = frozenset(_NO_MEANING.split())
"""Words of queries that products do not answer to. *Without* and *not* are none: they turn the meaning."""
_UNITS = {
    **dict.fromkeys(["inches", "inch", '"', "”"], "in"),
    **dict.fromkeys(["feet", "foot"], "ft"),
    **dict.fromkeys(["ounces", "ounce"], "oz"),
    **dict.fromkeys(["pounds", "pound", "lbs"], "lb"),
    **dict.fromkeys(["gallons", "gallon"], "gal"),
    **dict.fromkeys(["watts", "watt"], "w"),
    **dict.fromkeys(["volts", "volt"], "v"),
    **dict.fromkeys(["grams", "gram", "gr"], "g"),
    **dict.fromkeys(["liters", "litres", "liter", "litre"], "l"),
    **dict.fromkeys(["гр", "грамм"], "г"),
    **{"литр": "л", "литра": "л", "인치": "in", "그램": "g", "리터": "l", "센치": "cm"},
}
_NUMBER_UNIT = re.compile(
    r"(?<!\w)(\d[\d.,/]*)[\s-]*(" + "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True))) + r")(?!\w)",
    re.IGNORECASE,
)
_FEWEST_DOCUMENTS = 2
_MOST_QUERIES = 1000


class Expansion(NamedTuple):
    """A rewrite or synonym, and how strongly its source holds it, higher for stronger; comparable within one source."""

    text: str
    score: float


class CoClicks:
    r"""Queries that lead to the same products.

    The similarity of two queries is the cosine of their clicks by product, each damped by a logarithm and by how many
    queries lead to the product, drawn towards nothing where few clicks are shared:

    .. math:: s(q, o) = \frac{n}{n + \lambda} \cos(x_q, x_o), \quad x_{qp} = \log(1 + c_{qp}) \log(Q / Q_p), \quad
        n = \sum_p \min(c_{qp}, c_{op})

    (Craswell & Szummer 2007, "Random Walks on the Click Graph", walk farther; two steps are what a small log bears. The
    factor is the significance weighting of Herlocker et al. 1999: one shopper's stray click makes no synonym.) Of a
    product that very many queries lead to, the thousand that lead there most strongly are looked at.

    Args:
        clicks: A line a query and product; see :class:`~distill.labeling.queries.click_log.ClickLog`.
        query: Column of the query.
        product: Column of the product.
        count: Column of the clicks (or orders), once each where there is none.
        shrinkage: :math:`\lambda`, clicks at which half of the cosine is believed.

    Attributes:
        log: The clicks.

    Raises:
        DataError: A column is missing, or no line has a click.
    """

    def __init__(
        self,
        clicks: pl.DataFrame,
        *,
        query: str = "query",
        product: str = "product_id",
        count: str | None = None,
        shrinkage: float = SHRINKAGE,
    ) -> None:
        self.log = ClickLog(clicks, query=query, product=product, count=count)
        self._shrinkage = shrinkage
        leading = Counter(one for _, clicked in self.log.items() for one in clicked)
        self._products: dict[str, dict[str, float]] = {}
        queries: dict[str, list[tuple[float, str]]] = {}
        for form, clicked in self.log.items():
            own = {one: math.log1p(times) * math.log(len(self.log) / leading[one]) for one, times in clicked.items()}
            # A product of every query says nothing.
            self._products[form] = {one: damped for one, damped in own.items() if damped > 0}
            for one, damped in self._products[form].items():
                queries.setdefault(one, []).append((damped, form))
        self._queries = {one: heapq.nlargest(_MOST_QUERIES, leads) for one, leads in queries.items()}
        self._lengths = {form: math.hypot(*own.values()) for form, own in self._products.items()}

    def __call__(self, query: str, *, most: int = 5, least: float = LEAST_SIMILARITY) -> list[Expansion]:
        """Queries with a similarity of at least ``least``, nearest first."""
        form = folded(query)
        dots: dict[str, float] = {}
        for one, damped in self._products.get(form, {}).items():
            for other_damped, other in self._queries[one]:
                dots[other] = dots.get(other, 0.0) + damped * other_damped
        dots.pop(form, None)
        near = ((self._similarity(form, other, dot), other) for other, dot in dots.items())
        ranked = sorted((-score, other) for score, other in near if score >= least)
        return [Expansion(self.log.spelled(other), -score) for score, other in ranked[:most]]

    def _similarity(self, form: str, other: str, dot: float) -> float:
        own, theirs = self.log.clicks(form), self.log.clicks(other)
        shared = sum(min(times, theirs[one]) for one, times in own.items() if one in theirs)
        return shared / (shared + self._shrinkage) * dot / (self._lengths[form] * self._lengths[other])


def title_terms(
    catalogue: Catalogue, query: str, *, hits: Sequence[Hit] | None = None, k: int = 10, most: int = 5
) -> list[Expansion]:
    r"""Words that the titles found for a query hold far oftener than the catalogue does.

    The score of a term t is its part of the divergence of the found titles from all, :math:`p_F(t) \log (p_F(t) /
    p_C(t))` (Carpineto, de Mori, Romano & Bigi 2001), p_F the share of found titles with it, by :func:`discounted`
    weight, and p_C that of all titles: pointwise mutual information with the query, weighted. Terms of the query,
    those with digits, and those in fewer than two found titles are left out.

    Args:
        catalogue: Where to look.
        query: The query.
        hits: What it retrieves; looked up where not given.
        k: How many products to look at where they are looked up.
        most: How many terms, at most.

    Returns:
        Expansions whose text is the query with one term added, best first.
    """
    hits = catalogue.search([query], k=k)[0] if hits is None else hits
    own = set(search_terms(query))
    share: dict[str, float] = {}
    found: Counter[str] = Counter()
    for hit, weight in zip(hits, discounted(hits), strict=True):
        for term in set(catalogue.terms[hit.product]) - own - STOP_WORDS:
            if not has_digit(term) and len(term) > 1:
                share[term] = share.get(term, 0.0) + weight
                found[term] += 1
    scored = [
        (weight * math.log(weight * len(catalogue) / catalogue.document_counts[term]), term)
        for term, weight in share.items()
        if found[term] >= _FEWEST_DOCUMENTS
    ]
    ranked = sorted((-score, term) for score, term in scored if score > 0)
    return [Expansion(f"{query} {term}", -score) for score, term in ranked[:most]]


def plain_rewrites(query: str) -> list[Expansion]:
    """The query with units in their short form, and without words that say nothing; only what differs from it."""
    units = _NUMBER_UNIT.sub(lambda match: f"{match[1]} {_UNITS[match[2].casefold()]}", query)
    rewrites = [units, without_stop_words(query), without_stop_words(units)]
    seen = {" ".join(query.split())}
    kept = []
    for text in (" ".join(rewrite.split()) for rewrite in rewrites):
        if text and text not in seen:
            seen.add(text)
            kept.append(Expansion(text, 1.0))
    return kept


def without_stop_words(query: str) -> str:
    """The query without :data:`STOP_WORDS`; the query itself where nothing else would be left."""
    dropped = [(word.start, word.end) for word in words(query) if word.text in STOP_WORDS]
    left, at = "", 0
    for start, end in dropped:
        left += query[at:start]
        at = end
    left = " ".join((left + query[at:]).split())
    return left if words(left) else query


def merge_expansions(sources: Iterable[Sequence[Expansion]], *, most: int = 10, constant: float = 60.0) -> list[str]:
    r"""Ranked lists made into one by reciprocal rank fusion: :math:`\sum_s 1 / (60 + r_s)` (Cormack et al. 2009).

    Texts that differ in case or spacing alone are one.

    Args:
        sources: Lists, each the best first.
        most: How many texts are kept.
        constant: What is added to each rank: the larger, the less a first place is worth over a second.
    """
    scores: dict[str, float] = {}
    spelled: dict[str, str] = {}
    for source in sources:
        for rank, expansion in enumerate(source, start=1):
            key = " ".join(expansion.text.casefold().split())
            spelled.setdefault(key, expansion.text)
            scores[key] = scores.get(key, 0.0) + 1 / (constant + rank)
    return [spelled[key] for key in sorted(scores, key=lambda key: (-scores[key], key))[:most]]
