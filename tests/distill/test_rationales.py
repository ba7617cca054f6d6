"""A teacher that explains known labels, through a whole run: its reasons are kept, and it never votes."""

from __future__ import annotations

import json

import polars as pl


def test_a_run_of_a_teacher_that_explains(shop, cli, recipe, fault_server):
    fault_server.answer = lambda request: json.dumps({"trace": "The kind and the color hold.", "clauses": ["E1"]})
    splits = {"splits": ["train", "pool", "audit", "test"]}
    recipe(teachers=fault_server.base_url, students=None, rationale_for="gold", labeling=splits)
    planned = cli("plan", "recipe.yaml", "--json")
    # 12 queries of 4 listings, a quarter of them of split test, which are counted as without a reply.
    (plan,) = json.loads(planned.out)["teachers"]
    assert (plan["rows"], plan["without_reply"], plan["to_send"]) == (48, 12, 36)
    called = cli("run", "recipe.yaml")
    assert called.code == 0, called.err
    assert "what tiny costs is not known" in called.err

    votes = pl.read_parquet(shop / "runs/shop/votes.parquet")
    assert dict(votes["outcome"].value_counts().iter_rows()) == {"explained": 36, "unsent": 12}
    test_rows = pl.read_parquet(shop / "runs/shop/rows.parquet").filter(pl.col("split") == "test")
    unsent = votes.filter(pl.col("outcome") == "unsent")
    assert set(unsent["row_id"]) == set(test_rows["row_id"])
    asked = " ".join(request["messages"][1]["content"] for request in fault_server.requests)
    assert not any(title in asked for title in test_rows["title"])
    labels = pl.read_parquet(shop / "runs/shop/labels.parquet")
    assert labels["label"].null_count() == len(labels) and labels["trace"].null_count() == len(labels)
    report = (shop / "runs/shop/report.md").read_text()
    assert "was shown the label of 36 rows and explained it, which is no vote" in report
