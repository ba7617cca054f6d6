"""Recipes whose answers are no single label: checked, run offline to merged labels, and merged by the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import distill
from distill.labeling.errors import RecipeError
from distill.recipe import load_recipe

QUERIES = {"q0": "nkie shoe", "q1": "나이키 운동화", "q2": "garden hose"}
REPLIES = {
    "q0": {"corrected": "nike shoe", "brand": "Nike", "category": "Shoes > Low", "expansions": ["nike sneaker"]},
    "q1": {"corrected": "나이키 운동화", "brand": "Nike", "category": ["Shoes > Low"], "expansions": []},
    "q2": {"corrected": "garden hose", "brand": None, "category": "Garden", "expansions": ["water hose", "hosepipe"]},
}
FUNCTIONS = """
import distill

@distill.labeling_function(family="words")
def first_word(row):
    return {"brand": [(0, 4)]} if row["query"].startswith("nkie") else distill.ABSTAIN
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    gold = {name: json.dumps({"spelling": reply["corrected"]}) for name, reply in REPLIES.items()}
    lines = [{"id": name, "query": query, "gold": gold[name]} for name, query in QUERIES.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    replies = [{"id": name, "reply": json.dumps(reply)} for name, reply in REPLIES.items()]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    (tmp_path / "categories.txt").write_text("Shoes > Low\nShoes > High\nGarden\n")
    (tmp_path / "brands.txt").write_text("Nike | 나이키\n")
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


def recipe(folder: Path, **sections: Any) -> Path:
    written: dict[str, Any] = {
        "version": 1,
        "name": "queries",
        "data": {"rows": "rows.jsonl", "id": "id", "gold": "gold", "split": {"pool": 1.0}},
        "task": {
            "type": "query_understanding",
            "inputs": ["query"],
            "categories": "categories.txt",
            "brands": "brands.txt",
        },
        "teachers": {
            "model": {"type": "recorded", "path": "replies.jsonl", "id": "id", "family": "llm"},
            "rules": {"type": "functions", "path": "functions.py"},
        },
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(written))  # JSON is YAML
    return path


def test_recorded_replies_and_functions_become_labels(folder: Path, cli: Any) -> None:
    recipe(folder)
    called = cli("run", "recipe.yaml", "--out", "out", "--until", "aggregate")
    assert called.code == 0, called.err
    votes, labels = pl.read_parquet("out/votes.parquet"), pl.read_parquet("out/labels.parquet")
    # 3 queries × 2 teachers × 4 parts; the function answers one part of one query.
    assert votes["outcome"].value_counts().sort("outcome").rows() == [("abstained", 11), ("labeled", 13)]
    assert labels.filter(pl.col("part") == "spelling")["text"].to_list() == [
        *(r["corrected"] for r in REPLIES.values())
    ]
    brand = labels.filter(pl.col("part") == "brand")
    assert [[(span["text"], span["link"]) for span in spans] for spans in brand["spans"].to_list()] == [
        [("nkie", "Nike")],  # a slip of the brand
        [("나이키", "Nike")],  # its alias
        [],
    ]
    assert brand["votes"].to_list() == [2, 1, 1]
    assert labels.filter(pl.col("part") == "category")["labels"].to_list() == [
        ["Shoes > Low"],
        ["Shoes > Low"],
        ["Garden"],
    ]
    rows = pl.read_parquet("out/rows.parquet")
    task = distill.labeling.task.Task.from_config(load_recipe("recipe.yaml").task)  # type: ignore[arg-type,attr-defined]
    assert task.parse_gold(rows["gold"][0]) == {"spelling": "nike shoe"}
    merged = distill.aggregate(votes, task=task)
    assert merged.equals(labels)
    again = cli("run", "recipe.yaml", "--out", "out", "--until", "aggregate", "--json")
    assert again.code == 0 and pl.read_parquet("out/labels.parquet").equals(labels)


def test_a_resolved_recipe_can_be_read_again(folder: Path, cli: Any) -> None:
    recipe(folder)
    assert cli("run", "recipe.yaml", "--out", "out", "--until", "data").code == 0
    assert load_recipe(folder / "out/recipe.yaml").task == load_recipe("recipe.yaml").task


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"aggregate": {"type": "dawid_skene"}}, "aggregate.type: got dawid_skene; a task of type query_understanding"),
        ({"labeling": {"canaries": {}}}, "labeling.canaries: plants a label"),
        ({"labeling": {"watch": {"below": 0.5}}}, "labeling.watch: compares single labels"),
        ({"labeling": {"near_duplicates": "share"}}, "labeling.near_duplicates: spans and texts belong"),
        (
            {"students": {"dcn": {"type": "dcn", "train_on": "labels"}}},
            "students.dcn.type: a student of type dcn learns one label",
        ),
        (
            {
                "teachers": {
                    "m": {"type": "openai", "base_url": "http://x/v1", "model": "m", "family": "f", "lane": "logprobs"}
                }
            },
            "teachers.m.lane: got logprobs, which gives probabilities of one label of a closed set; use lane: json",
        ),
        (
            {
                "teachers": {
                    "m": {"type": "gemini", "model": "m", "family": "f", "probs": "distribution", "api_key": "${K}"}
                }
            },
            "teachers.m.probs: got distribution",
        ),
    ],
)
def test_what_such_a_task_cannot_have_is_said_at_check(folder: Path, sections: Any, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem.replace("$", r"\$")):
        load_recipe(recipe(folder, **sections))


def test_servers_are_asked_for_written_answers(folder: Path) -> None:
    from distill.stages import build_teachers

    asked = {"type": "openai", "base_url": "http://x/v1", "model": "m", "family": "f", "probe": False}
    (teacher,) = build_teachers(load_recipe(recipe(folder, teachers={"m": asked})))
    assert teacher.answer.form == "json"
