from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.rows.near_duplicates import find_sharing, query_form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("iPhone Cases", "iphone  case"),
        ("running shoes", "shoes running"),
        ("men's shoe", "mens shoes"),
        ("t-shirts", "T shirt"),
        ("13inch laptop", "laptop 13 inch"),
        ("batteries", "battery"),
        ("boxes", "box"),
        ("무선 마우스", "무선마우스"),
        ("ｗｉｄｅ text", "wide text"),
    ],
)
def test_the_same_query_written_otherwise(one: str, other: str) -> None:
    assert query_form(one) == query_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("doll for dress", "dress for doll"),
        ("coffee without sugar", "sugar without coffee"),
        ("5x7 rug", "7x5 rug"),
        ("c++ book", "c book"),
        ("1.5 mm", "15 mm"),
        ("1/2 pipe", "12 pipe"),
        ("bass", "bas"),
        ("red shoe", "blue shoe"),
        ("마우스 무선", "무선 마우스"),
    ],
)
def test_another_query(one: str, other: str) -> None:
    assert query_form(one) != query_form(other)


def test_word_order_can_be_kept() -> None:
    assert query_form("Running Shoes", any_order=False) == query_form("running  shoe", any_order=False)
    assert query_form("running shoes", any_order=False) != query_form("shoes running", any_order=False)
    rows = make_rows(("red shoe", "A", None), ("shoe red", "A", None), ("Red shoes", "A", None))
    assert len(share(rows)) == 2
    found = find_sharing(rows, inputs=["query", "title"], audit=0.0, seed=7, any_order=False).shared
    assert set(found.row(0)) == {"r0", "r2"} and len(found) == 1


def make_rows(*lines: tuple[str, str, str | None]) -> pl.LazyFrame:
    rows = [{"row_id": f"r{at}", "query": q, "title": t, "gold": gold} for at, (q, t, gold) in enumerate(lines)]
    return pl.LazyFrame(rows, schema={"row_id": str, "query": str, "title": str, "gold": str})


def share(rows: pl.LazyFrame, audit: float = 0.0) -> dict[str, str]:
    found = find_sharing(rows, inputs=["query", "title"], audit=audit, seed=7)
    return dict(found.shared.iter_rows())


def test_only_rows_with_the_same_listing_share_and_gold_is_asked() -> None:
    rows = make_rows(
        ("red shoes", "A", None),  # r0 and r1 are one request anyway
        ("red shoes", "A", None),
        ("Shoe red", "A", "exact"),  # has gold: asked, and so the one that the others follow
        ("red shoe", "B", None),  # another listing
        ("RED SHOE", "B", "irrelevant"),
        ("red  shoe", "B", "exact"),  # both have gold: both are asked
    )
    found = share(rows)
    assert found.pop("r3") in ("r4", "r5")
    assert found == {"r0": "r2", "r1": "r2"}


def test_neither_order_nor_seed_changes_who_is_asked() -> None:
    rows = make_rows(*[(query, str(at), None) for at in range(30) for query in ("red shoe", "shoes red", "Red Shoes")])
    found = share(rows)
    assert len(found) == 60
    assert share(rows.reverse()) == found
    other = find_sharing(rows, inputs=["query", "title"], audit=0.0, seed=8)
    assert dict(other.shared.iter_rows()) == found
    # Nobody follows a row that follows another.
    assert not set(found) & set(found.values())


def test_the_audit_takes_its_share_of_the_sharers() -> None:
    rows = make_rows(*[(query, str(at), None) for at in range(1000) for query in ("red shoe", "shoes red")])
    found = find_sharing(rows, inputs=["query", "title"], audit=0.2, seed=7)
    assert len(found.shared) + len(found.audited) == 1000
    assert 150 < len(found.audited) < 250  # 200 expected, standard deviation 12.6
    assert find_sharing(rows, inputs=["query", "title"], audit=1.0, seed=7).shared.is_empty()


def test_a_task_with_one_input_and_rows_without_twins() -> None:
    rows = make_rows(("red shoe", "", None), ("Red shoes", "", None), ("hat", "", None))
    found = find_sharing(rows, inputs=["query"], audit=0.0, seed=7)
    assert len(found.shared) == 1
    assert share(make_rows(("hat", "A", None))) == {}


@pytest.mark.data
def test_people_mostly_agree_on_near_duplicates() -> None:
    """Home Depot has 73 pairs of rows with one product and queries of one form: mean grades of 1 to 3 differ by 0.30 on
    average, those of two other queries for the same product by more."""
    root = os.environ.get("DISTILL_DATA")
    if not root or not (path := Path(root) / "home_depot.parquet").exists():
        pytest.skip("DISTILL_DATA is not set")
    rows = pl.read_parquet(path).select("search_term", "product_uid", "relevance")
    rows = rows.with_columns(form=pl.col("search_term").map_elements(query_form, return_dtype=pl.String))
    pairs = rows.join(rows, on="product_uid").filter(pl.col("search_term") < pl.col("search_term_right"))
    pairs = pairs.with_columns(apart=(pl.col("relevance") - pl.col("relevance_right")).abs())
    near, far = (pairs.filter((pl.col("form") == pl.col("form_right")) == same)["apart"] for same in (True, False))
    assert len(near) > 50
    assert near.mean() < 0.75 * far.mean()  # type: ignore[operator]
