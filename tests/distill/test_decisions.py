from __future__ import annotations

import json

import polars as pl
import yaml


def _decided(path, labels: dict[str, str]) -> None:
    made = [{"row_id": row_id, "label": label} for row_id, label in labels.items()]
    saved = {"format": "distill-decisions", "version": 1, "name": "shop", "decided_by": "kim", "decisions": made}
    path.write_text(json.dumps(saved))


def test_what_people_decided_is_gold_of_the_next_run(shop, cli, recipe):
    document = yaml.safe_load(recipe(students=None).read_text())
    document["data"]["decisions"] = ["decided.json"]
    (shop / "recipe.yaml").write_text(yaml.safe_dump(document))
    # q1 is of split pool, q2 of test; "gone" is a row of another file
    _decided(shop / "decided.json", {"q1-0": "irrelevant", "q2-1": "exact", "gone": "exact"})
    called = cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    assert called.code == 0, called.err
    assert "2 decided by people, 1 decisions are of rows that are not there" in called.err
    rows = {row["row_id"]: row for row in pl.read_parquet(shop / "out" / "rows.parquet").iter_rows(named=True)}
    assert (rows["q1-0"]["gold"], rows["q1-0"]["split"]) == ("irrelevant", "train")
    assert (rows["q1-1"]["gold"], rows["q1-1"]["split"]) == ("substitute", "pool")
    assert (rows["q2-1"]["gold"], rows["q2-1"]["split"]) == ("exact", "test")
    assert cli("run", "recipe.yaml", "--until", "data", "--out", "out").code == 0
    _decided(shop / "decided.json", {"q1-0": "exact"})
    cli("run", "recipe.yaml", "--until", "data", "--out", "out")
    assert pl.read_parquet(shop / "out" / "rows.parquet").filter(row_id="q1-0")["gold"].item() == "exact"


def test_a_missing_file_is_told_with_the_recipe(shop, cli, recipe):
    document = yaml.safe_load(recipe(students=None).read_text())
    document["data"]["decisions"] = ["nowhere.json"]
    (shop / "recipe.yaml").write_text(yaml.safe_dump(document))
    called = cli("check", "recipe.yaml")
    assert called.code == 2
    assert "data.decisions.0: no such file: 'nowhere.json'" in called.err
