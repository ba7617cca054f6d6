"""A catalogue that can be searched offline: what stands near a query, as evidence for judges and labeling functions.

BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond") with Lucene's form of idf, by
the library bm25s (Lù 2024, arXiv:2407.03618), over the terms of
:func:`~distill.labeling.queries.query_words.search_terms`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import DataError, MissingDependencyError
from distill.labeling.queries.query_words import search_terms

_INSTALL = "pip install 'distill[retrieval]'"
_TITLES_SHOWN = 5


class Hit(NamedTuple):
    """A product found: its position in the catalogue, and its BM25 score (above 0)."""

    product: int
    score: float


class Share(NamedTuple):
    """A brand or category among the products found: how many have it, and that over all found."""

    value: str
    products: int
    share: float


@dataclass(frozen=True)
class Nearby:
    """What the catalogue has near a query.

    Attributes:
        hits: Products, best first.
        titles: Their titles, in the same order.
        brands: Brands among them, commonest first (of equals the one found first). Shares are of all products found,
            those without a brand included, so that they need not sum to one.
        categories: Categories likewise.
    """

    hits: tuple[Hit, ...]
    titles: tuple[str, ...]
    brands: tuple[Share, ...]
    categories: tuple[Share, ...]

    def brand_shares(self) -> dict[str, float]:
        """Share by brand."""
        return {brand.value: brand.share for brand in self.brands}


class Catalogue:
    """Products, indexed by their titles, brands and what else is named.

    Args:
        products: A line a product.
        title: Column of the title.
        brand: Column of the brand, where there is one; empty or null where a product has none.
        category: Column of the category, a path such as ``Home > Kitchen > Kettles``, likewise.
        text: Further columns to index (colour, bullet points).
        product_id: Column of the products' ids; positions are used where there is none.

    Attributes:
        titles: Of the products, in order; empty where there is none. Likewise ``brands``, ``categories``,
            ``product_ids`` and ``terms`` (what each is indexed under).
        document_counts: How many products have a term.

    Raises:
        DataError: A column is missing, there is no product, or no title has a word.
        MissingDependencyError: bm25s is not installed.
    """

    def __init__(
        self,
        products: pl.DataFrame,
        *,
        title: str = "title",
        brand: str | None = "brand",
        category: str | None = "category",
        text: Sequence[str] = (),
        product_id: str | None = None,
    ) -> None:
        named = [name for name in (title, brand, category, *text, product_id) if name is not None]
        if missing := [name for name in named if name not in products.columns]:
            raise DataError(
                f"catalogue: missing column(s) {missing}, got {products.columns}; name the columns that there are, "
                "None for a brand or category that there is not"
            )
        self.titles = _texts(products, title)
        self.brands = _texts(products, brand)
        self.categories = _texts(products, category)
        self.product_ids = _texts(products, product_id) if product_id else [str(at) for at in range(len(products))]
        indexed = [self.titles, self.brands, *(_texts(products, name) for name in text)]
        self.terms = [search_terms(" ".join(parts)) for parts in zip(*indexed, strict=True)]
        self.document_counts = Counter(term for terms in self.terms for term in set(terms))
        self._vocabulary, self._index = _indexed(self.terms)

    def __len__(self) -> int:
        return len(self.titles)

    def search(self, queries: Sequence[str], *, k: int = 10) -> list[list[Hit]]:
        """The best products for each query; fewer than ``k`` where fewer share a term with it, ties by position."""
        return [self._best(self._known(query), k) for query in queries]

    def near(self, query: str, *, k: int = 10) -> Nearby:
        """What stands near one query: see :class:`Nearby`. For many queries use :meth:`near_all`."""
        return self.near_all([query], k=k)[0]

    def near_all(self, queries: Sequence[str], *, k: int = 10) -> list[Nearby]:
        """What stands near each query."""
        return [self.summary(hits) for hits in self.search(queries, k=k)]

    def summary(self, hits: Iterable[Hit]) -> Nearby:
        """Titles, brands and categories of products found."""
        hits = tuple(hits)
        return Nearby(
            hits,
            tuple(self.titles[hit.product] for hit in hits),
            _shares([self.brands[hit.product] for hit in hits]),
            _shares([self.categories[hit.product] for hit in hits]),
        )

    def evidence(self, queries: Sequence[str], *, k: int = 10, titles: int = _TITLES_SHOWN) -> pl.DataFrame:
        """What stands near each query, as text columns that a prompt can show and a student can read.

        Args:
            queries: The queries.
            k: Products that brands and categories are counted over.
            titles: How many titles are shown.

        Returns:
            ``query``, ``near_titles`` (one a line), ``near_brands`` and ``near_categories`` (``Moen (7 of 10)``, one
            a line, commonest first); empty where nothing was found.
        """
        lines = [
            {
                "query": query,
                "near_titles": "\n".join(found.titles[:titles]),
                "near_brands": _counted(found.brands, len(found.hits)),
                "near_categories": _counted(found.categories, len(found.hits)),
            }
            for query, found in zip(queries, self.near_all(queries, k=k), strict=True)
        ]
        names = ("query", "near_titles", "near_brands", "near_categories")
        return pl.DataFrame(lines, schema=dict.fromkeys(names, pl.String()))

    def _best(self, terms: list[str], k: int) -> list[Hit]:
        if not terms:
            return []
        scores = self._index.get_scores(terms)
        # Not the library's own choice of the best: a partition of an array that is mostly zeros takes ten times as
        # long as the scores, and breaks ties anyhow.
        found = np.flatnonzero(scores > 0)
        best = found[np.lexsort((found, -scores[found]))[:k]]
        return [Hit(int(product), float(scores[product])) for product in best]

    def _known(self, query: str) -> list[str]:
        return [term for term in dict.fromkeys(search_terms(query)) if term in self._vocabulary]


def discounted(hits: Sequence[Hit]) -> list[float]:
    """Weights of products by rank, ``1 / log2(rank + 1)`` as in DCG, normalised to sum to one."""
    weights = [1 / math.log2(rank + 1) for rank in range(1, len(hits) + 1)]
    return [weight / sum(weights) for weight in weights]


def _indexed(documents: Sequence[Sequence[str]]) -> tuple[Mapping[str, int], Any]:
    try:
        import bm25s
    except ImportError:
        raise MissingDependencyError("bm25s", needed_for="catalogue", install=_INSTALL) from None
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in documents]
    if not vocabulary:
        raise DataError("catalogue: no product has a word in its title; name the column that holds the titles")
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index((ids, dict(vocabulary)), show_progress=False)
    return vocabulary, index


def _texts(products: pl.DataFrame, name: str | None) -> list[str]:
    if name is None:
        return [""] * len(products)
    return products[name].cast(pl.String).fill_null("").str.strip_chars().to_list()


def _shares(values: Sequence[str]) -> tuple[Share, ...]:
    counts = Counter(value for value in values if value)
    return tuple(Share(value, count, count / len(values)) for value, count in counts.most_common())


def _counted(shares: Sequence[Share], found: int) -> str:
    return "\n".join(f"{share.value} ({share.products} of {found})" for share in shares)
