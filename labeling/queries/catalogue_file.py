"""A recipe's catalogue, read from its files: searched once a process, and laid beside the rows as evidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from distill.labeling.answers.locating import plain_text
from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.catalogue_config import SHRINKAGE, CatalogueConfig, ClicksConfig, JudgmentsConfig
from distill.labeling.queries.expansion import CoClicks
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.rows.files import find_files, read_source


class Judged(NamedTuple):
    """Judged products of one query: gain by id, and those that recall counts."""

    gains: Mapping[str, float]
    relevant: frozenset[str]


def catalogue_files(config: CatalogueConfig) -> list[Path]:
    """The files that it reads: products, judgments, clicks; none where a place is no file (a hub's data set).

    Raises:
        DataError: There is no such file.
    """
    places = [config.rows, *(one.rows for one in (config.judgments, config.clicks) if one is not None)]
    return [file for place in places if not place.startswith("hf://") for file in find_files(place)]


def open_catalogue(config: CatalogueConfig) -> Catalogue:
    """Reads and indexes the products; a section is indexed once in a process, as long as its files stay as they are.

    Raises:
        DataError: A file or column is missing, or no product has a title.
        MissingDependencyError: bm25s is not installed.
    """
    alone = config.model_copy(update={"judgments": None, "clicks": None})
    stamps = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in catalogue_files(alone))
    return _opened(alone, stamps)


def read_clicks(config: ClicksConfig, *, shrinkage: float = SHRINKAGE) -> CoClicks:
    """Reads what shoppers clicked.

    Args:
        config: The section.
        shrinkage: As for :class:`~distill.labeling.queries.expansion.CoClicks`.

    Raises:
        DataError: A file or column is missing, or no line has a click.
    """
    named = [config.query, config.product, *([config.clicks] if config.clicks else [])]
    table = _table(config.rows, named, key="data.catalogue.clicks")
    return CoClicks(table, query=config.query, product=config.product, count=config.clicks, shrinkage=shrinkage)


@lru_cache(maxsize=2)
def _opened(config: CatalogueConfig, stamps: tuple[tuple[Path, int, int], ...]) -> Catalogue:
    named = [config.title, *config.text, *(name for name in (config.id, config.brand, config.category) if name)]
    products = _table(config.rows, named, key="data.catalogue")
    if config.id is not None:
        products = products.unique(config.id, keep="first", maintain_order=True)
    return Catalogue(
        products,
        title=config.title,
        brand=config.brand,
        category=config.category,
        text=config.text,
        product_id=config.id,
    )


def read_judgments(config: JudgmentsConfig) -> dict[str, Judged]:
    """Judged products by query, which is written as rows have it. Of a product judged twice, the higher gain counts.

    Raises:
        DataError: A file or column is missing, or no label has a gain.
    """
    table = _table(config.rows, [config.query, config.product, config.label], key="data.catalogue.judgments")
    gains: dict[str, dict[str, float]] = defaultdict(dict)
    unknown: set[str] = set()
    for query, product, label in table.select(config.query, config.product, config.label).iter_rows():
        if label is None or query is None:
            continue
        if label not in config.gains:
            unknown.add(label)
            continue
        own, gain = gains[plain_text(query)], config.gains[label]
        own[product] = max(gain, own.get(product, gain))
    if unknown or not gains:
        raise DataError(
            f"data.catalogue.judgments: column {config.label!r} says {sorted(unknown)[:5] or 'nothing'}; gains names "
            f"{list(config.gains)}: give every label a gain"
        )
    best = max(config.gains.values())
    return {
        query: Judged(own, frozenset(product for product, gain in own.items() if gain >= best))
        for query, own in gains.items()
    }


def with_evidence(rows: pl.DataFrame, config: CatalogueConfig, *, source: str) -> pl.DataFrame:
    """The rows with the columns that the catalogue gives; empty where it has nothing near.

    Args:
        rows: With the column ``source``.
        config: The catalogue.
        source: Column of the queries.
    """
    queries = rows[source].unique(maintain_order=True)
    found = open_catalogue(config).evidence(queries.to_list(), k=config.neighbours, titles=config.titles)
    found = found.select(pl.col("query").alias(source), *config.evidence)
    return rows.join(found, on=source, how="left", maintain_order="left")


def read_titles(rows: str, column: str, *, key: str) -> list[str]:
    """A column of files as ``data.rows`` names them, without missing ones.

    Args:
        rows: A path, a pattern, or ``hf://owner/set``.
        column: Its name there.
        key: The recipe's key that names them, for messages.

    Raises:
        DataError: There is no such file or column.
    """
    return _table(rows, [column], key=key)[column].drop_nulls().to_list()


def _table(rows: str, columns: list[str], *, key: str) -> pl.DataFrame:
    """All of some columns as text; a column that no line has is an error."""
    wanted = dict.fromkeys(columns, key)
    parts = [batch.columns for batch in read_source(DataConfig(rows=rows), wanted)]
    table = pl.concat([part.select(pl.all().cast(pl.String)) for part in parts], how="diagonal") if parts else None
    if table is None or table.is_empty() or (missing := [name for name in columns if name not in table.columns]):
        lacking = f"no line has {missing}" if table is not None and not table.is_empty() else "there are no lines"
        raise DataError(f"{key}: {rows}: {lacking}; correct the path or the names of the columns")
    return table
