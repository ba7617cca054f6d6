"""The metrics of each kind of query task, as one tally of per-query terms whatever the kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from distill.eval.queries.answers import PartAnswers
from distill.eval.queries.brand_metrics import brand_tally
from distill.eval.queries.category_metrics import category_tally
from distill.eval.queries.expansion_metrics import Searched, expanded_ranking, expansion_tally
from distill.eval.queries.metrics import Tally, f_beta, ratio
from distill.eval.queries.spelling_metrics import spelling_tally
from distill.labeling.answers.locating import folded
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.catalogue_config import Fusion
from distill.labeling.queries.catalogue_file import Judged
from distill.labeling.task import Task

_NO_TREE = "\x1f"
"""Parts no label: without a tree a label is one place."""


@dataclass
class Retrieval:
    """What expansions are searched in. Rankings of queries alone are kept, since every predictor is compared with them.

    Attributes:
        catalogue: The products.
        judged: Judged products by query.
        k: Depth at which lists are judged.
        fusion: How lists of a query and its expansions become one.
    """

    catalogue: Catalogue
    judged: Mapping[str, Judged]
    k: int = 10
    fusion: Fusion = "scores"
    _alone: dict[str, list[str]] = field(default_factory=dict)

    def searched(self, query: str, expansions: Sequence[str]) -> Searched:
        """What a query finds without and with expansions."""
        if query not in self._alone:
            self._alone[query] = expanded_ranking(self.catalogue, query, [])
        before = self._alone[query]
        after = expanded_ranking(self.catalogue, query, expansions, fusion=self.fusion) if expansions else before
        seen = {*before[: self.k], *after[: self.k]}
        places = {product: self.categories[product] for product in seen}
        own = self.judged.get(query)
        return Searched(before, after, own.gains if own else {}, own.relevant if own else (), places)

    @cached_property
    def categories(self) -> Mapping[str, str]:
        """Category by product id."""
        return dict(zip(self.catalogue.product_ids, self.catalogue.categories, strict=True))


@dataclass(frozen=True)
class Measured:
    """How a part is measured.

    Attributes:
        single: The part.
        queries: Text by row id.
        truth: True answers.
        brands: True brands of each query as written there, by row id, for over-correction; empty where not known.
        retrieval: Where expansions are searched; they are compared with true ones where there is none.
    """

    single: Task
    queries: Mapping[str, str]
    truth: PartAnswers
    brands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    retrieval: Retrieval | None = None

    @property
    def metric(self) -> str:
        """What predictors are compared by."""
        return _PRIMARY[self._kind]

    @property
    def row_ids(self) -> list[str]:
        """Rows that can be measured, in order."""
        if self._kind == "retrieval":
            assert self.retrieval is not None
            return [row_id for row_id, query in self.queries.items() if query in self.retrieval.judged]
        return [row_id for row_id in self.queries if row_id in self.truth.values]

    def tally(self, said: Mapping[str, Any], row_ids: Sequence[str]) -> Tally:
        """Terms of one predictor, a line a row; every row has to have an answer."""
        return _TALLIES[self._kind](self, [said[row_id] for row_id in row_ids], row_ids)

    def gold(self, row_ids: Sequence[str]) -> list[Any]:
        """True answers of some rows."""
        return [self.truth.values[row_id] for row_id in row_ids]

    @property
    def _kind(self) -> str:
        if self.single.type == "expansion" and self.retrieval is not None:
            return "retrieval"
        if self.single.type in ("spelling", "category"):
            return self.single.type
        return {"label": "labels"}.get(self.single.answer_column, self.single.answer_column)


def _spelling(of: Measured, said: Sequence[str], row_ids: Sequence[str]) -> Tally:
    brands = [list(of.brands.get(row_id, ())) for row_id in row_ids] if of.brands else None
    return spelling_tally([of.queries[row_id] for row_id in row_ids], of.gold(row_ids), said, brands=brands)


def _spans(of: Measured, said: Sequence[Any], row_ids: Sequence[str]) -> Tally:
    true = of.gold(row_ids)
    linked = None
    if of.single.brands is not None:
        linked = ([_links(spans) for spans in true], [_links(spans) for spans in said])
    spans = ([[Span(one.start, one.end, one.type) for one in own] for own in side] for side in (true, said))
    return brand_tally([of.queries[row_id] for row_id in row_ids], *spans, linked=linked)


def _labels(of: Measured, said: Sequence[Any], row_ids: Sequence[str]) -> Tally:
    separator = ">" if of.single.tree is not None else _NO_TREE
    true = of.gold(row_ids)
    return category_tally([_listed(one) for one in true], [_listed(one) for one in said], separator=separator)


def _retrieval(of: Measured, said: Sequence[Sequence[str]], row_ids: Sequence[str]) -> Tally:
    retrieval = of.retrieval
    assert retrieval is not None
    found = [retrieval.searched(of.queries[row_id], own) for row_id, own in zip(row_ids, said, strict=True)]
    return expansion_tally(found, k=retrieval.k)


def _texts(of: Measured, said: Sequence[Sequence[str]], row_ids: Sequence[str]) -> Tally:
    """Lists compared with true lists, as sets by form: micro precision, recall and F1."""
    terms = np.zeros((len(row_ids), 3))
    for line, true, own in zip(terms, of.gold(row_ids), said, strict=True):
        left, right = set(map(folded, true)), set(map(folded, own))
        line[:] = len(left & right), len(right), len(left)
    return Tally(terms, {"list_f1": f_beta(0, 1, 2), "list_precision": ratio(0, 1), "list_recall": ratio(0, 2)})


def _text(of: Measured, said: Sequence[str], row_ids: Sequence[str]) -> Tally:
    """Texts compared with true ones, by form."""
    right = [float(folded(true) == folded(own)) for true, own in zip(of.gold(row_ids), said, strict=True)]
    terms = np.stack([np.array(right), np.ones(len(right))], axis=1)
    return Tally(terms, {"exact_match": ratio(0, 1)})


def _links(spans: Sequence[Any]) -> list[str]:
    return [span.link for span in spans if span.link]


def _listed(answer: Any) -> list[str]:
    return [answer] if isinstance(answer, str) else list(answer)


_TALLIES: Mapping[str, Callable[[Measured, Sequence[Any], Sequence[str]], Tally]] = {
    "spelling": _spelling,
    "spans": _spans,
    "category": _labels,
    "labels": _labels,
    "retrieval": _retrieval,
    "texts": _texts,
    "text": _text,
}
_PRIMARY: Mapping[str, str] = {
    "spelling": "word_f05",
    "spans": "span_f1",
    "category": "micro_f1",
    "labels": "micro_f1",
    "retrieval": "ndcg",
    "texts": "list_f1",
    "text": "exact_match",
}
