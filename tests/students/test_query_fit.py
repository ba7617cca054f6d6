"""One encoder for four parts of a query, on a shop of sixty made-up queries whose rule is in the letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.brands import BrandList
from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig
from distill.students.fit import FitResult, fit_student
from distill.students.part_predictions import prediction_schema
from distill.students.part_targets import part_targets
from distill.students.student import Student, load_student
from distill.students.training_set import TrainingSet

THINGS = {
    "lamp": "Home > Light > Lamps",
    "chair": "Home > Seats",
    "shoe": "Wear > Feet > Shoes",
    "bowl": "Home > Bowls",
}
CATEGORIES = (*THINGS.values(), "Wear > Hats")
BRANDS = ("acme", "베타", "")
COLOURS = ("red", "blue", "green", "black", "large")
SLIPS = {"red": "rde", "lamp": "lmap", "chair": "chiar", "green": "grene"}


@pytest.fixture(scope="module")
def task() -> Task:
    config = TaskConfig.model_validate(
        {"type": "query_understanding", "inputs": ["query"], "categories": list(CATEGORIES), "most": 2}
    )
    found = Task.from_config(config)
    brands = BrandList.of([("ACME", ["acme"]), ("Beta", ["베타"])])
    parts = tuple(Task(**{**part.__dict__, "brands": brands}) if part.type == "brand" else part for part in found.parts)
    return Task(**{**found.__dict__, "parts": parts})


def _rows() -> pl.DataFrame:
    lines = []
    for number, (brand, colour, thing) in enumerate(
        (brand, colour, thing) for brand in BRANDS for colour in COLOURS for thing in THINGS
    ):
        right = " ".join(word for word in (brand, colour, thing) if word)
        # Every third query has the first of its words that can slip misspelled.
        slip = next((word for word in (colour, thing) if word in SLIPS), "") if number % 3 == 0 else ""
        query = right.replace(slip, SLIPS[slip]) if slip else right
        gold: dict[str, Any] = {
            "spelling": right,
            "brand": [{"start": 0, "end": len(brand), "text": brand, "type": "brand"}] if brand else [],
            "category": [THINGS[thing]],
            "expansion": [f"{thing} sale", f"cheap {thing}"],
        }
        if number % 5 == 1:
            del gold["expansion"]
        lines.append(
            {
                "row_id": f"q{number}",
                "group": f"g{number}",
                "split": "train",
                "gold": json.dumps(gold, ensure_ascii=False),
                "weight": 1.0,
                "query": query,
            }
        )
    return pl.DataFrame(lines)


def _config(base: Path, **settings: Any) -> EncoderConfig:
    usual = {"epochs": 40, "lr": 3e-3, "batch_size": 16, "precision": "fp32", "threads": 1, "checkpoint": None}
    return EncoderConfig.model_validate({"base": str(base), "train_on": "human", "max_length": 32, **usual, **settings})


def _targets(config: EncoderConfig, task: Task, rows: pl.DataFrame) -> TrainingSet:
    return part_targets(config, rows, labels=None, votes=None, task=task, seed=1)


@pytest.fixture(scope="module")
def fitted(tiny_base: Path, task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, Student]:
    config, rows = _config(tiny_base), _rows()
    out = tmp_path_factory.mktemp("query") / "student"
    found = fit_student(config, _targets(config, task, rows), task=task, out=out, seed=1)
    return found, load_student(out)


def test_learns_all_parts_of_the_shop(fitted: tuple[FitResult, Student], task: Task) -> None:
    _, student = fitted
    rows = _rows()
    found = student.predict(rows)
    gold = {row_id: json.loads(cell) for row_id, cell in rows.select("row_id", "gold").iter_rows()}
    assert found.schema == prediction_schema(task)
    assert found["row_id"].to_list() == [row_id for row_id in rows["row_id"] for _ in range(4)]
    assert found["part"].to_list() == ["spelling", "brand", "category", "expansion"] * 60
    right = dict.fromkeys(["spelling", "brand", "category", "expansion"], 0)
    for line in found.iter_rows(named=True):
        known, part = gold[line["row_id"]], line["part"]
        if part == "spelling":
            right[part] += line["text"] == known[part]
        elif part == "brand":
            right[part] += [span["text"] for span in line["spans"]] == [span["text"] for span in known[part]]
        elif part == "category":
            right[part] += line["labels"] == known[part]
        else:
            right[part] += sorted(line["texts"]) == sorted(known.get(part, line["texts"]))
    assert min(right.values()) >= 57
