"""One encoder for four parts of a query, on a shop of sixty made-up queries whose rule is in the letters."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.brands import BrandList
from distill.labeling.errors import StudentError
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig
from distill.students.fit import FitResult, fit_student
from distill.students.queries.part_answers import Answer
from distill.students.queries.part_fit import span_f1
from distill.students.queries.part_predictions import prediction_schema
from distill.students.queries.part_targets import part_targets
from distill.students.student import Student, load_student
from distill.students.training.trainer import DistributionTrainer
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
    usual = {"epochs": 22, "lr": 6e-3, "batch_size": 16, "precision": "fp32", "threads": 1, "checkpoint": None}
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


def test_one_pass_is_the_same_in_any_batch(fitted: tuple[FitResult, Student]) -> None:
    _, student = fitted
    rows = _rows()[:9]
    together, alone = student.predict(rows, batch_size=9), student.predict(rows, batch_size=1)
    answers = ["row_id", "part", "text", "labels", "texts", "spans"]
    assert together[answers].equals(alone[answers])
    assert together["confidence"].to_list() == pytest.approx(alone["confidence"].to_list(), abs=1e-5)
    assert student.predict(rows[:0]).schema == together.schema


def test_spans_name_the_brand_of_the_list(fitted: tuple[FitResult, Student]) -> None:
    _, student = fitted
    rows = pl.DataFrame({"row_id": ["1", "2"], "query": ["베타 red lamp", "red lamp"]})
    brands = student.predict(rows).filter(pl.col("part") == "brand")["spans"].to_list()
    assert brands == [[{"start": 0, "end": 2, "text": "베타", "type": "brand", "link": "Beta"}], []]


def test_the_file_and_the_card_tell_of_each_part(fitted: tuple[FitResult, Student]) -> None:
    found, student = fitted
    # Every third query is misspelled or not, all sixty are known; a fifth has no expansion.
    assert {name: part.learned for name, part in student.info.parts.items()} == {
        "spelling": 60, "brand": 60, "category": 60, "expansion": 48,
    }  # fmt: skip
    card = (found.path / "README.md").read_text(encoding="utf-8")
    assert "| expansion | 48 |" in card
    assert "corrects the query, marks brands in it, names its categories and ranks other ways to say it" in card


def test_thresholds_and_confidences_come_from_held_out_queries(tiny_base: Path, task: Task, tmp_path: Path) -> None:
    rows = _rows().with_columns(
        split=pl.when(pl.int_range(pl.len()) < 36).then(pl.lit("train")).otherwise(pl.lit("audit"))
    )
    config = _config(tiny_base, epochs=1, over_correction=0.1)
    training = _targets(config, task, rows)
    audit = rows.filter(pl.col("split") == "audit")
    fit_student(config, training, task=task, out=tmp_path / "s", seed=1, calibration=audit)
    parts = load_student(tmp_path / "s").info.parts
    assert parts is not None
    assert training.train.height == 36
    assert {part.rows for name, part in parts.items() if name != "expansion"} == {24}
    assert {part.calibration.source for name, part in parts.items() if name != "expansion"} == {"audit gold"}
    # Ten per cent of the right queries among 24 may be changed, and at least nine are needed to say so.
    assert parts["spelling"].threshold_source == "audit gold"
    assert parts["spelling"].over_corrected is not None and parts["spelling"].over_corrected <= 0.1


def _digest(folder: Path) -> list[str]:
    names = ("model.safetensors", "parts.safetensors")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def test_a_training_that_was_killed_ends_with_the_same_bytes(
    tiny_base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 2, "dropout": 0.1, "synthetic": {"typos": 0.5}, "checkpoint": {"every_steps": 3}}
    config = _config(tiny_base, **settings)
    training = _targets(config, task, _rows())
    fit_student(config, training, task=task, out=tmp_path / "whole", seed=2)
    step = DistributionTrainer.training_step

    def dies(self: DistributionTrainer, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DistributionTrainer, "training_step", dies)
        fit_student(config, training, task=task, out=tmp_path / "killed", seed=2)
    found = fit_student(config, training, task=task, out=tmp_path / "killed", seed=2)
    assert found.resumed_at == 3
    assert _digest(tmp_path / "killed") == _digest(tmp_path / "whole")


def test_an_export_answers_alike(fitted: tuple[FitResult, Student], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from distill.export import CheckRows, export_student

    found, student = fitted
    rows = _rows()
    done = export_student(found.path, tmp_path / "onnx", rows=CheckRows(rows, "toy", "author"))
    assert done.check is not None and done.model is not None
    assert done.model.outputs == ("logits", "brand", "category", "expansion")
    assert done.check.flips == 0.0
    assert done.check.max_abs_difference < 1e-4
    # Other lengths and batches than it was traced with.
    few = rows[3:10]
    exported = load_student(tmp_path / "onnx")
    columns = ["row_id", "part", "text", "labels", "texts", "spans"]
    assert exported.predict(few)[columns].equals(student.predict(few, precision="fp32")[columns])


def test_files_of_predictions_hold_each_part(fitted: tuple[FitResult, Student], tmp_path: Path) -> None:
    from distill.predict import predict_file

    found, student = fitted
    rows = tmp_path / "rows.csv"
    _rows()[:5].select("row_id", "query").write_csv(rows)
    for ending in ("jsonl", "csv", "parquet"):
        done = predict_file(found.path, rows, out=tmp_path / f"out.{ending}", id_columns=["row_id"])
        assert done.rows == 5
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 20
    assert lines[0].keys() == {"row_id", "part", "text", "confidence", "candidates"}
    assert pl.read_csv(tmp_path / "out.csv").columns == ["row_id", "part", "answer", "confidence"]
    assert pl.read_parquet(tmp_path / "out.parquet").schema == student.predict(_rows()[:1]).schema


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny_base: Path, task: Task, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    found = {}
    for devices in (1, 2):
        # Plain gradient descent: Adam would blow up what only rounding tells apart.
        settings = {"epochs": 2, "devices": devices, "trainer": {"optim": "sgd"}, "lr": 0.01, "validation": 0.2}
        config = _config(tiny_base, **settings)
        out = tmp_path / str(devices)
        result = fit_student(config, _targets(config, task, _rows()), task=task, out=out, seed=1)
        found[devices] = (result.history, load_file(out / "parts.safetensors"))
    (one_history, one), (two_history, two) = found[1], found[2]
    assert [record.validation_loss for record in one_history] == pytest.approx(
        [record.validation_loss for record in two_history], rel=1e-4
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5


def test_fewer_words_are_named_above_a_higher_threshold(fitted: tuple[FitResult, Student]) -> None:
    _, student = fitted
    rows = _rows()
    tried = [0.001, 0.5, 1.0, 0.0]
    counts = [
        sum(len(answer.value) for answer in answers)
        for answers in student.part_answers(rows, {"brand": tried})["brand"]
    ]
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[2] == 0
    # Forty of the sixty queries have a brand; at 0 the most probable mark of all is taken.
    assert counts[1] == counts[3] == 40


def test_the_threshold_of_spans_is_told_where_it_was_found(tiny_base: Path, task: Task, tmp_path: Path) -> None:
    config = _config(tiny_base, epochs=4, validation=0.5, spans={"units": "pieces"})
    fit_student(config, _targets(config, task, _rows()), task=task, out=tmp_path / "s", seed=1)
    student = load_student(tmp_path / "s")
    assert student.info.parts is not None
    assert student.info.parts["brand"].threshold_source == "validation"
    said = json.loads((tmp_path / "s" / "parts.json").read_text(encoding="utf-8"))
    assert said["words"] is None


def test_f1_of_spans_counts_all_rows_together() -> None:
    def answer(*spans: tuple[int, int]) -> Answer:
        return Answer([SpanAnswer(start, end, "", "brand", None) for start, end in spans], 1.0)

    # Two right of three given, and of three known: the one with support 0.4 is none.
    answers = [answer((0, 4), (5, 6)), answer((0, 2)), answer()]
    truth = [[[0, 4, 0, 1.0]], [[0, 2, 0, 0.6], [3, 5, 0, 0.4]], [[0, 3, 0, 1.0]]]
    assert span_f1(answers, truth) == pytest.approx(2 * 2 / (3 + 3))
    assert span_f1([answer()], [[]]) == 0.0


def test_a_student_that_was_told_of_a_list_needs_it(fitted: tuple[FitResult, Student], tmp_path: Path) -> None:
    shutil.copytree(fitted[0].path, tmp_path / "s")
    assert json.loads((tmp_path / "s" / "parts.json").read_text(encoding="utf-8"))["listed"] is True
    (tmp_path / "s" / "brands.jsonl").unlink()
    with pytest.raises(StudentError, match=r"brands\.jsonl is gone"):
        load_student(tmp_path / "s")
