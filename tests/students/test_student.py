import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.fit import fit_student
from distill.students.student import Student, load_student
from distill.students.training_set import training_set


@pytest.fixture(scope="module", params=["dcn", "encoder"])
def student(
    request: pytest.FixtureRequest,
    rows: pl.DataFrame,
    task: Task,
    tiny_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Student:
    config = (
        DcnConfig(epochs=1, buckets=256, embedding_dim=4, hidden=(8,))
        if request.param == "dcn"
        else EncoderConfig(base=str(tiny_base), epochs=1, lr=1e-3, precision="fp32")
    )
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task)
    out = tmp_path_factory.mktemp("students") / request.param
    return load_student(fit_student(config, training, task=task, out=out, seed=1).path)


def test_predictions_are_distributions_in_the_order_of_the_rows(student: Student, rows: pl.DataFrame) -> None:
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=3)
    found = student.predict(shuffled)
    assert found.schema == {
        "row_id": pl.String, "label": pl.String, "probs": pl.List(pl.Float64), "confidence": pl.Float64,
    }  # fmt: skip
    assert found["row_id"].to_list() == shuffled["row_id"].to_list()
    probs = np.array(found["probs"].to_list())
    assert probs.sum(axis=1) == pytest.approx(np.ones(len(probs)))
    assert found["label"].to_list() == [student.task.labels[number] for number in probs.argmax(axis=1)]
    assert found["confidence"].to_list() == probs.max(axis=1).tolist()
    assert_frame_equal(found.sort("row_id"), student.predict(rows).sort("row_id"), abs_tol=1e-5)


def test_batch_size_changes_nothing(student: Student, rows: pl.DataFrame) -> None:
    whole = student.predict(rows.head(8), batch_size=8, precision="fp32")
    halves = student.predict(rows.head(8), batch_size=4, precision="fp32")
    apart = pl.concat([student.predict(rows.head(8)[i : i + 4], precision="fp32") for i in (0, 4)])
    assert_frame_equal(whole, halves, abs_tol=1e-5)
    assert_frame_equal(whole, apart, abs_tol=1e-5)


def test_the_temperature_divides_the_scores(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    import shutil

    warmer = tmp_path / "warmer"
    shutil.copytree(student.path, warmer)
    info = json.loads((warmer / "distill_student.json").read_text())
    info["calibration"]["temperature"] = 2.0
    (warmer / "distill_student.json").write_text(json.dumps(info))
    plain, flat = (np.array(s.predict(rows)["probs"].to_list()) for s in (student, load_student(warmer)))
    assert plain**0.5 / (plain**0.5).sum(axis=1, keepdims=True) == pytest.approx(flat, abs=1e-6)


def test_lazy_rows_nulls_and_other_columns(student: Student, rows: pl.DataFrame) -> None:
    odd = rows.with_columns(brand=pl.lit(None, pl.String), extra=pl.lit(1)).select(sorted([*rows.columns, "extra"]))
    empty = rows.with_columns(brand=pl.lit(""))
    assert_frame_equal(student.predict(odd.lazy()), student.predict(empty), abs_tol=1e-6)


def test_no_rows_give_no_predictions(student: Student, rows: pl.DataFrame) -> None:
    found = student.predict(rows.clear())
    assert found.height == 0
    assert found.schema == student.predict(rows.head(1)).schema


def test_a_missing_column_is_named(student: Student, rows: pl.DataFrame) -> None:
    with pytest.raises(StudentError, match=r"columns \['title'\] are missing"):
        student.predict(rows.drop("title"))


def test_chunks_are_the_same_as_one_table(
    student: Student, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = student.predict(rows, precision="fp32")
    monkeypatch.setattr("distill.students.student._CHUNK_ROWS", 10)
    for threads in (1, 2):
        assert_frame_equal(student.predict(rows, precision="fp32", threads=threads), whole, abs_tol=1e-5)


def test_what_is_no_student_is_refused(student: Student, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"not a student .* give the folder that holds distill_student.json"):
        load_student(tmp_path)
    info = json.loads((student.path / "distill_student.json").read_text())
    (tmp_path / "distill_student.json").write_text(json.dumps(info | {"format_version": 99}))
    with pytest.raises(StudentError, match="has format 99, distill reads up to 3; upgrade distill"):
        load_student(tmp_path)
    (tmp_path / "distill_student.json").write_text(json.dumps(info))
    with pytest.raises(StudentError, match=r"train the student again|cannot be loaded"):
        load_student(tmp_path)
