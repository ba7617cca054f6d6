"""A query's category by a vote of the products that it retrieves: a labeling function for the task ``category``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distill.labeling.category_tree import SEPARATOR
from distill.labeling.queries.catalogue import Catalogue, Hit, discounted

_LEAST_SHARE = 0.2


class CategoryShare(NamedTuple):
    """A category and its share of the vote."""

    category: str
    share: float


def vote_categories(
    catalogue: Catalogue,
    hits: Sequence[Hit],
    *,
    least: float = _LEAST_SHARE,
    level: int | None = None,
    weights: Sequence[float] | None = None,
) -> list[CategoryShare]:
    """Categories of products found, by weight; several where several have enough.

    A product counts ``1 / log2(rank + 1)``, or what ``weights`` say; those without a category are left out. A place in
    the tree has the weight of all below it. From the root down, places with a share of at least ``least`` are followed;
    where none below has it, the place itself is the answer, so that a query that its products cannot decide gets the
    wider category.

    Args:
        catalogue: Where the products are.
        hits: Products found, best first.
        least: Share of the vote that an answer needs. 1/2 and less allows several.
        level: Deepest level to answer (1 is the root's children); None for as deep as the vote goes.
        weights: What each product counts, where not by its rank: clicks, say.

    Returns:
        Categories with their shares, highest first; empty where no product has a category.
    """
    voted: dict[tuple[str, ...], float] = {}
    total = 0.0
    counted = discounted(hits) if weights is None else weights
    for hit, weight in zip(hits, counted, strict=True):
        path = tuple(
            part.strip() for part in catalogue.categories[hit.product].split(SEPARATOR.strip()) if part.strip()
        )
        if not path:
            continue
        total += weight
        for depth in range(1, len(path[:level]) + 1):
            voted[path[:depth]] = voted.get(path[:depth], 0.0) + weight
    enough = {path: weight / total for path, weight in voted.items() if weight / total >= least}
    deepest = [path for path in enough if not any(other[: len(path)] == path for other in enough if other != path)]
    ranked = sorted(deepest, key=lambda path: (-enough[path], path))
    return [CategoryShare(SEPARATOR.join(path), enough[path]) for path in ranked]


def category_overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """How far two lists of categories agree: ``sum_c min(p_c, q_c)`` over their shares p and q, 0 to 1.

    Empty strings are left out; 0 where either list has nothing else.
    """
    left, right = ([category for category in side if category] for side in (one, other))
    if not left or not right:
        return 0.0
    return sum(
        min(left.count(category) / len(left), right.count(category) / len(right)) for category in set(left) & set(right)
    )
