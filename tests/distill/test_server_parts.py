"""``distill serve`` with students whose answers are no single label: an encoder, its export, and one that writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

import distill
from distill.export import CheckRows, export_student
from distill.server import ServerConfig, load_students
from distill.server_batching import BatchLimits
from distill.students.student import Student
from tests.distill.conftest import write_letters_base
from tests.distill.test_server import Running

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

PARTS = ["spelling", "brand", "category", "expansion"]
THINGS = {"lamp": "Home > Lamps", "shoe": "Wear > Shoes", "bowl": "Home > Bowls"}
TASK = {"type": "query_understanding", "inputs": ["query"], "categories": list(THINGS.values()), "parts": PARTS}
QUERIES = [f"{brand}{thing}" for brand in ("", "acme ", "beta ") for thing in THINGS]


def _rows(gold: list[Any] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "row_id": [f"q{place}" for place in range(len(QUERIES))],
            "group": QUERIES,
            "split": ["train"] * len(QUERIES),
            "gold": None if gold is None else [json.dumps(answer) for answer in gold],
            "weight": [1.0] * len(QUERIES),
            "query": QUERIES,
        },
        schema_overrides={"gold": pl.String},
    )


def _gold(query: str) -> dict[str, Any]:
    brand, _, thing = query.rpartition(" ")
    spans = [{"start": 0, "end": len(brand), "text": brand, "type": "brand"}] if brand else []
    return {"spelling": query, "brand": spans, "category": [THINGS[thing]], "expansion": [f"{thing} new"]}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Student]:
    """An encoder of all four parts, its export, a small GPT, and an encoder of brands alone."""
    folder = tmp_path_factory.mktemp("students")
    rows = _rows([_gold(query) for query in QUERIES])
    usual = {"train_on": "human", "epochs": 2, "lr": 5e-3, "batch_size": 3, "checkpoint": None, "threads": 1}
    usual["precision"] = "fp32"
    encoder = {**usual, "type": "encoder", "base": str(write_letters_base(folder / "base")), "max_length": 32}
    tiny = {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2}
    writer = {**usual, "type": "causal", "base": "tiny", "tiny": tiny, "answer_tokens": 16}
    distill.train(rows, encoder, task=TASK, out=folder / "encoder")
    distill.train(rows, writer, task=TASK, out=folder / "writer")
    export_student(folder / "encoder", folder / "export", rows=CheckRows(rows, "rows", "author"))
    brands = rows.with_columns(gold=pl.Series([json.dumps(_gold(query)["brand"]) for query in QUERIES]))
    distill.train(brands, encoder, task={"type": "brand", "inputs": ["query"]}, out=folder / "brand")
    return load_students([str(folder / name) for name in ("encoder", "export", "writer", "brand")])


@pytest.fixture(scope="module")
def running(students: dict[str, Student]) -> Iterator[Running]:
    server = Running(students, ServerConfig(precision="fp32", batches=BatchLimits(rows=16, wait_s=0.05)))
    yield server
    server.stop()


def _said(table: pl.DataFrame, row_id: str) -> dict[str, dict[str, Any]]:
    """What a student predicts of a row, by part, without what is null."""
    lines = table.filter(row_id=row_id).to_dicts()
    return {line["part"]: {name: value for name, value in line.items() if value is not None} for line in lines}


def _counts(running: Running) -> dict[str, float]:
    """What is counted of the encoder."""
    lines = (line.rpartition(" ") for line in running.ask("/metrics").body.splitlines() if line[0] != "#")
    own = '{model="encoder"}'
    return {name.removesuffix(own): float(value) for name, _, value in lines if name.endswith(own)}


@pytest.mark.parametrize("name", ["encoder", "export"])
def test_every_part_is_answered_as_the_student_does(running: Running, students: dict[str, Student], name: str) -> None:
    expected = students[name].predict(_rows(), precision="fp32")
    rows = [{"query": query, "row_id": f"q{place}"} for place, query in enumerate(QUERIES)]
    answer = running.ask("/v1/predict", {"model": name, "rows": rows})
    assert answer.status == 200 and answer.body["model"] == name
    assert [line["row_id"] for line in answer.body["data"]] == [row["row_id"] for row in rows]
    for line in answer.body["data"]:
        said = _said(expected, line["row_id"])
        assert list(line["parts"]) == PARTS
        for part, column in zip(PARTS, ("text", "spans", "labels", "texts"), strict=True):
            own = line["parts"][part]
            assert own[column] == said[part][column]
            assert own["confidence"] == pytest.approx(said[part]["confidence"], abs=1e-4)
            assert not set(own) - {column, "confidence", "support", "candidates"}
        support = line["parts"]["category"]["support"]
        assert support == pytest.approx(said["category"]["support"], abs=1e-4)


def test_rows_of_requests_that_share_a_batch_keep_their_parts(running: Running, students: dict[str, Student]) -> None:
    expected = students["encoder"].predict(_rows(), precision="fp32")
    # Of one, two and three rows, so that a slip of one line would put parts under other names or rows.
    starts = [(start, 1 + start % 3) for start in range(7)]
    bodies = [
        {"model": "encoder", "rows": [{"query": query} for query in QUERIES[start : start + many]]}
        for start, many in starts
    ]
    before = _counts(running)
    for (start, many), answer in zip(starts, running.ask_together("/v1/predict", bodies), strict=True):
        assert len(answer.body["data"]) == many
        for place, line in enumerate(answer.body["data"]):
            said = _said(expected, f"q{start + place}")
            assert line["index"] == place and line["parts"]["spelling"]["text"] == said["spelling"]["text"]
            assert line["parts"]["category"]["support"] == pytest.approx(said["category"]["support"], abs=1e-4)
    after = _counts(running)
    assert after["distill_rows_total"] - before["distill_rows_total"] == sum(many for _, many in starts)  # not lines
    assert after["distill_batch_rows_count"] - before["distill_batch_rows_count"] < len(starts)


def test_one_that_writes_says_where_its_answer_does_not_fit(running: Running) -> None:
    answer = running.ask("/v1/predict", {"model": "writer", "rows": [{"query": "lamp"}]})
    # No JSON of four parts fits into 16 tokens.
    assert answer.body["data"][0]["parts"] == {part: {"confidence": 0.0, "outcome": "invalid"} for part in PARTS}


def test_a_task_without_parts_answers_in_the_row(running: Running, students: dict[str, Student]) -> None:
    (line,) = running.ask("/v1/predict", {"model": "brand", "rows": [{"query": "acme lamp", "row_id": 7}]}).body["data"]
    (said,) = students["brand"].predict(_rows().filter(query="acme lamp"), precision="fp32").to_dicts()
    assert (line["index"], line["row_id"], line["spans"]) == (0, 7, said["spans"])
    assert line["confidence"] == pytest.approx(said["confidence"], abs=1e-4) and "parts" not in line


def test_a_decision_is_refused_and_models_say_what_they_answer(running: Running) -> None:
    question = {"type": "choice", "name": "q", "instructions": '{"query": "lamp"}', "choices": [{"value": "a"}]}
    answer = running.ask("/v1/decisions", {"model": "encoder", "input": "", "questions": [question]})
    assert answer.status == 400 and answer.body["error"]["code"] == "unsupported"
    assert "/v1/predict" in answer.body["error"]["message"]
    missing = running.ask("/v1/predict", {"model": "encoder", "rows": [{"q": "lamp"}]})
    assert missing.status == 400 and missing.body["error"]["code"] == "missing_field"
    models = {model["id"]: model for model in running.ask("/v1/models").body["data"]}
    assert [(one["part"], one["answer"]) for one in models["encoder"]["parts"]] == [
        *(("spelling", "text"), ("brand", "spans"), ("category", "labels"), ("expansion", "texts"))
    ]
    assert models["encoder"]["parts"][2]["labels"] == list(THINGS.values()) and models["encoder"]["labels"] == []
    assert models["brand"]["parts"] == [{"part": "brand", "type": "brand", "answer": "spans"}]
