"""Gold of every kind on its way into the rows table, and out again as an example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.errors import DataError
from distill.labeling.prompts.few_shot import example_answer
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.rows.load import load_rows
from distill.labeling.task import Task, TaskConfig

BRAND = {"type": "brand", "inputs": ["query"]}
SPLIT = {"split": {"train": 1.0}}


def read(folder: Path, rows: list[dict[str, Any]], task: dict[str, Any], **data: Any) -> tuple[pl.DataFrame, Task, Any]:
    source = folder / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    built = Task.from_config(TaskConfig.model_validate(task))
    config = DataConfig.model_validate({"rows": str(source), "id": "id", **SPLIT, **data})
    summary = load_rows(config, task=built, out=folder / "rows.parquet", seed=7)
    return pl.read_parquet(folder / "rows.parquet"), built, summary


def test_tags_that_are_lists_in_the_file_become_spans(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "query": "patrick shorts men", "tags": ["B-creator", "B-type", "O"]},
        {"id": "2", "query": "garden hose", "tags": ["O", "O"]},
        {"id": "3", "query": "nike", "tags": None},
    ]
    found, task, summary = read(tmp_path, rows, BRAND, gold="tags", gold_map={"creator": "brand"})
    golds = [None if gold is None else task.parse_gold(gold) for gold in found["gold"]]
    assert [gold if gold is None else [span.text for span in gold] for gold in golds] == [["patrick"], [], None]
    assert summary.gold == {} and summary.gold_splits == {"train": 2}


def test_words_with_offsets_and_tags_in_parquet(tmp_path: Path) -> None:
    word = {"start": 0, "end": 3, "tag": "B-BRAND"}
    table = pl.DataFrame({"query": ["new balance 574"], "spans": [[word, {"start": 4, "end": 11, "tag": "I-BRAND"}]]})
    table.write_parquet(tmp_path / "rows.parquet")
    task = Task.from_config(TaskConfig.model_validate(BRAND))
    config = DataConfig(rows=str(tmp_path / "rows.parquet"), gold="spans", gold_map={"BRAND": "brand"})
    load_rows(config, task=task, out=tmp_path / "out.parquet", seed=7)
    (gold,) = pl.read_parquet(tmp_path / "out.parquet")["gold"]
    assert [span.text for span in task.parse_gold(gold)] == ["new balance"]


def test_each_part_may_have_its_column(tmp_path: Path) -> None:
    task = {"type": "query_understanding", "inputs": ["query"], "parts": ["spelling", "brand", "expansion"]}
    rows = [
        {"id": "1", "query": "nkie shoe", "fixed": "nike shoe", "brand": ["nkie"], "more": "nike sneaker | nike boot"},
        {"id": "2", "query": "hose", "fixed": "hose", "brand": None, "more": ""},
    ]
    columns = {"spelling": "fixed", "brand": "brand", "expansion": "more"}
    found, built, _ = read(tmp_path, rows, task, gold=columns)
    first, second = (built.parse_gold(gold) for gold in found["gold"])
    assert first["expansion"] == ["nike sneaker", "nike boot"] and first["brand"][0].text == "nkie"
    assert second == {"spelling": "hose"}
    assert example_answer(built, found["gold"][0]) == json.dumps(
        {"corrected": "nike shoe", "brand": ["nkie"], "expansions": ["nike sneaker", "nike boot"]}
    )
    with pytest.raises(DataError, match=r"data\.gold: got the parts"):
        read(tmp_path, rows, task, gold={"category": "fixed"})


def test_gold_that_cannot_be_read_is_listed_and_the_row_kept(tmp_path: Path) -> None:
    rows = [{"id": "1", "query": "nike shoe", "gold": "puma"}, {"id": "2", "query": "nike", "gold": "nike"}]
    found, _, summary = read(tmp_path, rows, BRAND, gold="gold")
    assert found["gold"].to_list()[0] is None and summary.problems == {"label_outside_set": 1}
    with pytest.raises(DataError, match="no value of the gold column is an answer"):
        read(tmp_path, rows[:1], BRAND, gold="gold")
