"""Training rows whose names were exchanged for others."""

import json
from dataclasses import replace
from typing import Any

import polars as pl

from distill.labeling.brands import BrandList
from distill.labeling.task import Task, TaskConfig
from distill.students.queries.part_targets import ANSWERS
from distill.students.queries.swapped_names import with_names
from distill.students.queries.synthetic_rows import SYNTHETIC


def _task() -> Task:
    task = Task.from_config(TaskConfig.model_validate({"type": "brand", "inputs": ["query"]}))
    return replace(task, brands=BrandList.of([("Zenta", ["zt"]), ("Weiß", []), ("A very long company name", [])]))


def _table(*rows: tuple[str, list[list[Any]]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "row_id": [f"r{number}" for number in range(len(rows))],
            "group": ["g"] * len(rows),
            "query": [query for query, _ in rows],
            "weight": [1.0] * len(rows),
            ANSWERS: [json.dumps({"brand": spans}) for _, spans in rows],
            "target": [[2.0]] * len(rows),
            "source": ["labels"] * len(rows),
        }
    )


def test_every_span_gets_another_name_and_the_rest_stays() -> None:
    table = _table(
        ("acme lamp for beta phone", [[0, 4, 0, 1.0], [14, 18, 0, 0.9]]),
        ("red lamp", []),
        ("maybe bulb", [[0, 5, 0, 0.4]]),
    )
    found = with_names(table, 3.0, task=_task(), seed=1)
    # A row and its three copies share what it pulled, 2.0.
    assert found["target"].to_list() == [[0.5], [2.0], [2.0], [0.5], [0.5], [0.5]]
    assert found[:3].drop("target").equals(table.drop("target"))
    made = found[3:]
    # Neither the row without a brand nor the one whose brand is unsure is copied.
    assert made["row_id"].to_list() == ["r0~brand0", "r0~brand1", "r0~brand2"]
    assert set(made["source"]) == {SYNTHETIC}
    names = {"acme", "beta", "zenta", "zt", "weiss"}  # the list's long name is no name that is typed
    drawn = set()
    for text, answers in made.select("query", ANSWERS).iter_rows():
        (a, b, _, one), (c, d, _, other) = json.loads(answers)["brand"]
        assert {text[a:b], text[c:d]} <= names
        assert text == f"{text[a:b]} lamp for {text[c:d]} phone"
        assert (one, other) == (1.0, 0.9)
        drawn |= {text[a:b], text[c:d]}
    assert len(drawn) > 2
    assert found.equals(with_names(table, 3.0, task=_task(), seed=1))
    assert not found.equals(with_names(table, 3.0, task=_task(), seed=2))


def test_a_share_takes_some_rows_and_no_spans_add_nothing() -> None:
    table = _table(*((f"acme lamp {number}", [[0, 4, 0, 1.0]]) for number in range(40)))
    half = with_names(table, 0.5, task=_task(), seed=0).height - 40
    assert 10 < half < 30
    spelling = Task.from_config(TaskConfig.model_validate({"type": "spelling", "inputs": ["query"]}))
    assert with_names(table, 2.0, task=spelling, seed=0).equals(table)
