"""What a spelling student with a corrector chooses among, and that it begins as the corrector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.labeling.queries.spelling import SpellingCorrector
from distill.labeling.queries.word_counts import WordCounts
from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig
from distill.students.export import write_onnx
from distill.students.fit import fit_student
from distill.students.queries.config import CorrectorSection, SyntheticSection
from distill.students.queries.encoder import QueryNetwork
from distill.students.queries.part_answers import _chosen
from distill.students.queries.part_batches import TargetMaker
from distill.students.queries.part_targets import ANSWERS, part_targets
from distill.students.queries.reading_fit import fitted_weights
from distill.students.queries.readings import FIRST_WEIGHTS, NUMBERS, WORDS_FILE, Readings, written
from distill.students.queries.synthetic_rows import SYNTHETIC, with_typos
from distill.students.student import load_student
from distill.students.task_fit import student_problems

TITLES = [f"{colour} {thing}" for colour in ("red", "green", "black") for thing in ("lamp", "camp stool", "chair")] * 3
TITLES = [f"{title} {number}" for number, title in enumerate(TITLES)]


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_config(TaskConfig.model_validate({"type": "spelling", "inputs": ["query"]}))


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("titles") / "titles.csv"
    pl.DataFrame({"title": TITLES}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def readings() -> Readings:
    return Readings(WordCounts.of(TITLES), most=4)


def _whole(word: str) -> bool:
    return word in ("red", "lamp")


def test_readings_hold_what_the_corrector_says_first_and_differ_in_any_word() -> None:
    corrector = SpellingCorrector(WordCounts.of(TITLES))
    found = corrector.readings("grene chiar", most=8)
    assert found[0].text == corrector("grene chiar") == "green chair"
    assert found[0].log_odds == pytest.approx(corrector.correct("grene chiar").log_odds)
    assert {"green chiar", "grene chair"} < {one.text for one in found}
    assert len({one.text for one in found}) == len(found)
    assert [one.known for one in found[:1]] == [0]
    lamp = next(one for one in corrector.readings("red lamp") if one.text == "red camp")
    assert lamp.known == 1, "the catalogue knows lamp, which was changed"
    assert corrector.readings("12 34") == []


def test_numbers_begin_with_the_query_and_leave_the_rest_empty(readings: Readings) -> None:
    table = readings.numbers("red lmap", whole=_whole)
    assert table.shape == (5, len(NUMBERS))
    by_name = [dict(zip(NUMBERS, line, strict=True)) for line in table.tolist()]
    assert (by_name[0]["real"], by_name[0]["unchanged"], by_name[0]["unknown"]) == (1, 1, 1)
    first = readings.of("red lmap")[0]
    assert first.text == "red lamp"
    assert by_name[1]["odds"] == pytest.approx(first.log_odds / 10)
    assert [by_name[1][name] for name in ("changes", "unknown", "split", "joined", "first", "ending")] == [
        1,
        0,
        0,
        0,
        0,
        0,
    ]
    assert [by_name[line][name] for line in (0, 1) for name in ("unread", "typed_whole", "written_whole")] == [
        1,
        0,
        0,
        0,
        0,
        1,
    ]
    assert by_name[1]["letters"] == pytest.approx(0.4)
    spaced = dict(zip(NUMBERS, readings.numbers("redlamp", whole=_whole)[1].tolist(), strict=True))
    assert (spaced["split"], spaced["joined"]) == (1, 0), readings.of("redlamp")
    # "lamp" stands in nine titles, "lmap" in none: log(1 + 9) / 10 and log(1 + 0) / 10.
    assert by_name[1]["meant"] == pytest.approx(np.log(10) / 10)
    assert by_name[1]["typed"] == 0
    assert not table[len(readings.of("red lmap")) + 1 :].any()


def test_weights_at_first_are_the_correctors_decision(readings: Readings) -> None:
    corrector = SpellingCorrector(readings.counts)
    for query in ("red lmap", "red lamp", "grene chiar", "black stool", "redlamp"):
        scores = readings.numbers(query, whole=_whole) @ np.array(FIRST_WEIGHTS)
        scores[readings.numbers(query, whole=_whole)[:, 0] == 0] = -np.inf
        assert readings.text(query, int(scores.argmax())) == corrector(query)


def test_nearest_takes_the_same_text_then_a_part_of_it_then_the_query(readings: Readings) -> None:
    texts = [one.text for one in readings.of("grene chiar")]
    assert readings.nearest("grene chiar", "Green  Chair") == texts.index("green chair") + 1
    # Nothing can make "sofa" of "chiar", but green is half of it.
    assert readings.text("grene xyzzy", readings.nearest("grene xyzzy", "green sofa")) == "green xyzzy"
    assert readings.nearest("grene chiar", "blue sofa") == 0
    assert readings.nearest("grene chiar", "grene chiar") == 0


def test_places_of_what_is_written(readings: Readings) -> None:
    found = readings.of("grene chiar")[:2]
    text, places = written(found)
    assert [text[start:end] for start, end in places] == [" ".join(c.text for c in one.changes) for one in found]


def test_words_come_back_as_they_were(readings: Readings, tmp_path: Path) -> None:
    readings.save(tmp_path)
    first = (tmp_path / WORDS_FILE).read_bytes()
    again = Readings.load(tmp_path)
    assert again.of("grene chiar") == readings.of("grene chiar")
    again.save(tmp_path)
    assert (tmp_path / WORDS_FILE).read_bytes() == first
    (tmp_path / WORDS_FILE).write_bytes(first[:40])
    with pytest.raises(StudentError, match="not whole"):
        Readings.load(tmp_path)


def test_a_corrector_needs_titles_and_a_task_that_spells(task: Task) -> None:
    with pytest.raises(StudentError, match="no titles"):
        Readings.from_section(CorrectorSection())
    brand = Task.from_config(TaskConfig.model_validate({"type": "brand", "inputs": ["query"]}))
    assert [key for key, _ in student_problems(EncoderConfig(corrector=CorrectorSection()), brand)] == ["corrector"]


def test_fitted_weights_are_where_the_gradient_is_nothing() -> None:
    generator = np.random.default_rng(0)
    numbers = np.concatenate([np.ones((200, 3, 1)), generator.normal(size=(200, 3, 2))], axis=2)
    numbers[::4, 2] = 0.0  # every fourth query has one reading less
    true = np.array([0.0, 2.0, -1.0])
    scores = np.where(numbers[..., 0] == 0, -np.inf, numbers @ true)
    targets = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    # Targets are the model's own distribution, so that without a ridge the cost is least at the true weights.
    found = fitted_weights(numbers, targets, np.array([0.0, 0.5, 0.5]), ridge=0.0)
    assert found[1:] == pytest.approx(true[1:], abs=1e-3)
    strong = fitted_weights(numbers, targets, np.array([0.0, 0.5, 0.5]), ridge=1e3)
    assert strong == pytest.approx([0.0, 0.5, 0.5], abs=1e-2)


def _rows() -> pl.DataFrame:
    """The rule to learn: chiar is wrong, and chaair, as near to chair, is a brand."""
    pairs = [
        (f"{colour} {word}", f"{colour} {right}")
        for colour in ("red", "green", "black", "white", "blue", "pink", "grey", "teal")
        for word, right in (("lmap", "lamp"), ("chaair", "chaair"), ("chair", "chair"), ("chiar", "chair"))
    ]
    return pl.DataFrame(
        [
            {"row_id": f"q{n}", "group": f"g{n}", "split": "train", "gold": right, "weight": 1.0, "query": query}
            for n, (query, right) in enumerate(pairs)
        ]
    )


def _config(base: Path, titles: Path, **settings: Any) -> EncoderConfig:
    usual = {"epochs": 12, "lr": 5e-3, "batch_size": 8, "precision": "fp32", "threads": 1, "checkpoint": None}
    corrector = {"titles": str(titles), "readings": 4}
    return EncoderConfig.model_validate(
        {"base": str(base), "train_on": "human", "max_length": 32, "corrector": corrector, **usual, **settings}
    )


def test_learns_which_reading_was_meant_and_reads_alone(
    tiny_base: Path, titles: Path, task: Task, tmp_path: Path
) -> None:
    rows, config = _rows(), _config(tiny_base, titles)
    training = part_targets(config, rows, labels=None, votes=None, task=task, seed=1)
    fit_student(config, training, task=task, out=tmp_path / "student", seed=1)
    student = load_student(tmp_path / "student")
    alone = SpellingCorrector(WordCounts.of(TITLES))
    assert alone("red chaair") == "red chair", "the corrector by itself takes the brand for a chair"
    assert student.predict(rows)["text"].to_list() == rows["gold"].to_list()
    one = student.predict(rows[:1]).row(0, named=True)
    assert one["candidates"][0] == {"text": "red lamp", "share": pytest.approx(one["candidates"][0]["share"])}
    # Readings are at most four beside the query, however many rows and pieces are beside it in the batch.
    assert student.predict(pl.DataFrame({"row_id": ["x"], "query": [""]}))["text"].to_list() == [""]
    exported = write_onnx(student.network, tmp_path / "model.onnx", inputs=("query",))
    assert exported.inputs["reading_pieces"]["axes"] == ["batch", "length", 10]
    assert exported.inputs["reading_numbers"]["axes"] == ["batch", 5, len(NUMBERS)]


def test_a_reading_is_given_where_it_is_probable_itself(readings: Readings) -> None:
    shares = torch.tensor([[0.2, 0.45, 0.35, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0, 0.0]]).clamp(min=1e-12)
    query = "grene chiar"
    unsure, sure = _chosen(readings, shares.log(), [query, query], 0.5)
    # Of the first, four fifths say that the query is wrong, and none of its readings half of them.
    assert (unsure.value, unsure.score) == (query, pytest.approx(0.45))
    assert (sure.value, sure.score) == (readings.text(query, 1), pytest.approx(0.7))
    assert sure.candidates == [(readings.text(query, 1), pytest.approx(0.7)), (query, pytest.approx(0.3))]
    (nothing,) = _chosen(readings, torch.tensor([[0.0, -1e4, -1e4, -1e4, -1e4]]), ["12 34"], 0.0)
    assert (nothing.value, nothing.score) == ("12 34", 0.0)


def test_targets_are_readings_and_other_parts_keep_theirs(tiny_base: Path, titles: Path) -> None:
    config = TaskConfig.model_validate(
        {"type": "query_understanding", "parts": ["spelling", "brand"], "inputs": ["query"]}
    )
    both = Task.from_config(config)
    answers = {"spelling": [["red lamp", 0.75], ["red lmap", 0.25]], "brand": [[0, 3, 0, 1.0]]}
    table = pl.DataFrame({"query": ["red lmap"], ANSWERS: [json.dumps(answers)]})
    config_of_pieces = _config(tiny_base, titles, spans={"units": "pieces"})
    network = QueryNetwork.from_base(config_of_pieces, task=both, rows=table.lazy())
    example = network.read(table)[0]
    found = TargetMaker(network).targets(example, "red lmap", answers)
    assert found["spelling:ids"].tolist() == [1, 0]
    assert found["spelling:shares"].tolist() == [0.75, 0.25]
    marks = found["brand:marks"].reshape(len(example["input_ids"]), -1)
    starts = np.array(example["starts"])
    assert (marks[(starts >= 3), 0] == 1).all(), "what readings write is no part of the query"


def test_made_rows_alone_leave_no_correction_of_a_teacher(task: Task) -> None:
    answers = [[["red lamp", 1.0]], [["red chair", 1.0]]]
    table = pl.DataFrame(
        {
            "row_id": ["a", "b"],
            "group": ["a", "b"],
            "query": ["red lmap", "red chair"],
            "weight": [1.0, 1.0],
            ANSWERS: [json.dumps({"spelling": answer}) for answer in answers],
            "target": [[1.0], [1.0]],
            "source": ["model", "model"],
        }
    )
    made = with_typos(table, SyntheticSection(typos=1.0, alone=True), task=task, seed=1)
    assert made.filter(pl.col("source") != SYNTHETIC)["row_id"].to_list() == ["b"]
    assert made.filter(pl.col("source") == SYNTHETIC)["row_id"].to_list() == ["b~typo0"]
