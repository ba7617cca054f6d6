"""The aggregate stage with gold and with a student beside the votes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tests.distill.conftest import LABELS, write_recipe

QUERIES, LISTINGS = 30, 4


@pytest.fixture
def judged(shop) -> Path:
    """Thirty queries and two recorded judges; the label is in the title, and both judges err on a fifth of the rows."""
    rng = np.random.default_rng(4)
    rows, said = [], {"one": [], "two": []}
    splits = ["train", "pool", "pool", "audit", "test"]
    for query in range(QUERIES):
        for listing in range(LISTINGS):
            row_id, label = f"q{query}-{listing}", LABELS[int(rng.integers(4))]
            rows.append(
                {"row_id": row_id, "query": f"shoe {query}", "title": f"{label} thing {listing}", "label": label}
                | {"split": splits[query % 5]}
            )
            for judge in said:
                given = label if rng.random() < 0.8 else LABELS[int(rng.integers(4))]
                said[judge].append(json.dumps({"row_id": row_id, "reply": json.dumps({"label": given})}))
    pl.DataFrame(rows).write_csv("rows.csv")
    for judge, lines in said.items():
        Path(f"{judge}.jsonl").write_text("\n".join(lines) + "\n")
    write_recipe(
        shop,
        teachers={name: {"type": "recorded", "path": f"{name}.jsonl", "family": name} for name in said},
        labeling={"splits": ["pool", "train", "audit", "test"]},
        aggregate={"type": "family_vote"},
    )
    return shop


def aggregated(cli, *, until: str = "aggregate", **settings: object):
    document = yaml.safe_load(Path("recipe.yaml").read_text())
    document["aggregate"] = settings
    Path("recipe.yaml").write_text(yaml.safe_dump(document))
    called = cli("run", "recipe.yaml", "--until", until, "--out", "out")
    assert called.code == 0, called.err
    facts = json.loads(Path("out/stages.json").read_text())["aggregate"]["facts"]
    return called.err, facts, pl.read_parquet("out/labels.parquet")


def test_gold_of_train_and_audit_sets_the_confidence_right_and_never_that_of_test(judged, cli):
    _, facts, plain = aggregated(cli)
    assert "gold" not in facts and "student" not in facts
    said, facts, found = aggregated(cli, gold=False)
    assert found.equals(plain)
    said, facts, found = aggregated(cli, gold=True)
    # 12 of 30 queries are of train and audit, 4 rows each: 48 are too few
    assert "calibrating takes 50" in said and facts["gold"]["used"] is False and found.equals(plain)
    Path("more.csv").write_text(
        "row_id,label,annotator,note,chance,draw\n" + "".join(f"q{query}-0,{LABELS[0]},kim,,,\n" for query in (1, 2, 6))
    )
    document = yaml.safe_load(Path("recipe.yaml").read_text())
    document["data"]["annotations"] = ["more.csv"]
    Path("recipe.yaml").write_text(yaml.safe_dump(document))
    said, facts, found = aggregated(cli, gold=True)
    assert facts["gold"]["rows"] == 51 and "calibrated on 51 gold rows" in said
    assert found["label"].equals(plain["label"]) and not found["confidence"].equals(plain["confidence"])
    rows = pl.read_csv("rows.csv")
    # gold of test rows turned upside down changes nothing
    turned = pl.when(pl.col("split") == "test").then(pl.lit("irrelevant")).otherwise("label")
    rows.with_columns(label=turned).write_csv("rows.csv")
    said, _, again = aggregated(cli, gold=True)
    assert again.equals(found)


def test_a_student_votes_from_other_queries_and_learns_nothing_of_test_and_audit(judged, cli):
    _, _, plain = aggregated(cli)
    said, facts, found = aggregated(cli, student={"folds": 3})
    # 18 queries of train and pool
    assert facts["student"] == {
        "model": "logistic regression",
        "folds": 3,
        "learned": 72,
        "changed": facts["student"]["changed"],
    }
    assert "logistic regression voted too, by 3 parts of the queries" in said
    gold = pl.read_csv("rows.csv").select("row_id", "label")
    right = [
        (table.join(gold, on="row_id", suffix="_true").select((pl.col("label") == pl.col("label_true")).mean())).item()
        for table in (plain, found)
    ]
    # the title says it: two judges who err apart and tie are settled by it
    assert right[1] > right[0] and facts["student"]["changed"] > 0


def test_a_student_of_the_recipe_votes_and_the_report_says_what_was_done(judged, cli):
    said, facts, _ = aggregated(cli, until="report", gold=["train"], student={"folds": 2, "name": "dcn"})
    assert facts["student"]["model"] == "dcn" and "dcn voted too" in said
    assert not Path("out/student_vote").exists()
    report = json.loads(Path("out/report.json").read_text())
    assert report["labels"]["student"]["folds"] == 2 and report["labels"]["gold"]["used"] is False
    assert report["panel"]["families"] == 2
    html = Path("out/report.html").read_text()
    assert "A student voted too (dcn)" in html and "24 rows are too few" in html


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"student": {"name": "dcnn"}}, "aggregate.student.name: no student 'dcnn'"),
        ({"student": {"folds": 1}}, "aggregate.student.folds: got 1"),
        ({"gold": ["test"]}, "one of train, audit"),
    ],
)
def test_what_cannot_be_used_is_told_with_the_recipe(judged, cli, section, said):
    document = yaml.safe_load(Path("recipe.yaml").read_text())
    Path("recipe.yaml").write_text(yaml.safe_dump({**document, "aggregate": section}))
    called = cli("check", "recipe.yaml")
    assert called.code == 2 and said in called.err
