"""A recipe whose task has several parts, from recorded replies to a student's predictions, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import distill

QUERIES = ["nkie shoe", "나이키 운동화", "garden hose", "red hose"]
REPLIES = [
    {"corrected": "nike shoe", "brand": "Nike", "category": "Shoes > Low", "expansions": ["nike sneaker"]},
    {"corrected": "나이키 운동화", "brand": "Nike", "category": ["Shoes > Low"], "expansions": []},
    {"corrected": "garden hose", "brand": None, "category": "Garden", "expansions": ["water hose", "hosepipe"]},
    {"corrected": "red hose", "brand": None, "category": "Garden", "expansions": ["water hose"]},
]


@pytest.fixture
def recipe(letters_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    names = [f"q{place}" for place in range(len(QUERIES))]
    splits = ["pool", "pool", "pool", "test"]
    rows = [
        {"id": name, "query": query, "split": split} for name, query, split in zip(names, QUERIES, splits, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    replies = [{"id": name, "reply": json.dumps(reply)} for name, reply in zip(names, REPLIES, strict=True)]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    (tmp_path / "brands.txt").write_text("Nike | 나이키\n")
    encoder = {
        "type": "encoder",
        "base": str(letters_base),
        "train_on": "labels",
        "epochs": 1,
        "max_length": 32,
        "threads": 1,
    }
    written = {
        "version": 1,
        "name": "queries",
        "data": {"rows": "rows.jsonl", "id": "id", "split": "split"},
        "task": {
            "type": "query_understanding",
            "inputs": ["query"],
            "categories": ["Shoes > Low", "Shoes > High", "Garden"],
            "brands": "brands.txt",
        },
        "teachers": {"model": {"type": "recorded", "path": "replies.jsonl", "id": "id", "family": "llm"}},
        "students": {"small": {**encoder, "weights": {"expansion": 0.5}, "synthetic": {"typos": 1.0}}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(written))  # JSON is YAML
    return path


def test_a_run_trains_a_student_of_all_parts_and_predicts(recipe: Path, cli: Any) -> None:
    called = cli("run", "recipe.yaml", "--out", "out", "--until", "train")
    assert called.code == 0, called.err
    predictions = pl.read_parquet("out/predictions/small.parquet")
    assert predictions.select("row_id", "part").rows() == [
        ("q3", part) for part in ("spelling", "brand", "category", "expansion")
    ]
    student = distill.load_student("out/students/small")
    assert student.info.parts is not None
    assert student.info.parts["spelling"].learned == student.info.rows["labels"] + student.info.rows["synthetic"]
    assert student.task.singles[1].brands is not None
    # Nothing changed, so nothing is trained again.
    before = Path("out/students/small/parts.safetensors").stat().st_mtime_ns
    assert cli("run", "recipe.yaml", "--out", "out", "--until", "train").code == 0
    assert Path("out/students/small/parts.safetensors").stat().st_mtime_ns == before


def test_the_library_trains_on_the_same_labels(recipe: Path, cli: Any, tmp_path: Path) -> None:
    assert cli("run", "recipe.yaml", "--out", "out", "--until", "train").code == 0
    run = json.loads(recipe.read_text())
    student = distill.train(
        pl.read_parquet("out/rows.parquet"),
        run["students"]["small"],
        task=run["task"],
        out=tmp_path / "again",
        labels=pl.read_parquet("out/labels.parquet"),
    )
    test = pl.read_parquet("out/rows.parquet").filter(pl.col("split") == "test")
    assert student.predict(test).equals(pl.read_parquet("out/predictions/small.parquet"))
