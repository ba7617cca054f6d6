"""Which products shoppers clicked after which queries: looked up by query, whatever its case and spacing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import polars as pl

from distill.labeling.answers.locating import folded, plain_text
from distill.labeling.errors import DataError


class Clicked(NamedTuple):
    """A product, and how often it was clicked after a query."""

    product: str
    clicks: float


class ClickLog:
    """Clicks (or orders) summed by query and product.

    Queries that differ in case, width or white space alone are one, written as most of its clicks are. Lines without a
    query or product, or without a click, are left out.

    Args:
        clicks: A line a query and product.
        query: Column of the query.
        product: Column of the product's id.
        count: Column of the clicks; a line is one click where there is none.

    Raises:
        DataError: A column is missing, clicks are no numbers, or no line is left.
    """

    def __init__(
        self, clicks: pl.DataFrame, *, query: str = "query", product: str = "product_id", count: str | None = None
    ) -> None:
        if missing := [name for name in (query, product, count) if name and name not in clicks.columns]:
            raise DataError(
                f"clicks: missing column(s) {missing}, got {clicks.columns}; name the columns that there are"
            )
        lines = clicks.select(
            pl.col(query).cast(pl.String).alias("text"),
            pl.col(product).cast(pl.String).alias("product"),
            (pl.lit(1.0) if count is None else pl.col(count).cast(pl.Float64, strict=False)).alias("clicks"),
        )
        self._products: dict[str, dict[str, float]] = {}
        self._spelled: dict[str, str] = {}
        self._gather(lines.drop_nulls().filter(pl.col("clicks") > 0))
        if not self._products:
            raise DataError(
                f"clicks: no line of {len(clicks):,} has a query, a product and a click; name the columns with them"
            )

    def __len__(self) -> int:
        """How many queries it has."""
        return len(self._products)

    def products(self, query: str) -> list[Clicked]:
        """Products clicked after a query, the most clicked first, ties by id; none for a query that it lacks."""
        own = self._products.get(folded(query), {})
        return [Clicked(*one) for one in sorted(own.items(), key=lambda item: (-item[1], item[0]))]

    def clicks(self, form: str) -> Mapping[str, float]:
        """Clicks by product of a query that is given by form (:func:`~distill.labeling.answers.locating.folded`)."""
        return self._products[form]

    def items(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Queries by form, with their clicks by product; in the order of the forms."""
        yield from sorted(self._products.items())

    def spelled(self, form: str) -> str:
        """A query as most of its clicks write it."""
        return self._spelled[form]

    def _gather(self, lines: pl.DataFrame) -> None:
        summed = lines.group_by("text", "product").agg(pl.col("clicks").sum()).sort("text", "product")
        spellings = summed.group_by("text", maintain_order=True).agg(pl.col("clicks").sum())
        most: dict[str, float] = {}
        forms: dict[str, str] = {}
        for text, clicks in spellings.iter_rows():
            form = forms[text] = folded(text)
            if form and clicks > most.get(form, 0.0):
                most[form], self._spelled[form] = clicks, plain_text(text)
        for text, product, clicks in summed.iter_rows():
            if forms[text]:
                own = self._products.setdefault(forms[text], {})
                own[product] = own.get(product, 0.0) + clicks
