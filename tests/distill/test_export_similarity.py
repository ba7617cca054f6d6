"""Exports of a student whose linear model has a sentence encoder: that one is exported too."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill.export import CheckRows, Form, export_student
from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.fit import fit_student
from distill.students.similarity import Similarity
from distill.students.student import Student, load_student
from distill.students.training_set import training_set
from distill.students.wide_config import WideSection

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

TASK = Task(labels=("yes", "no"), inputs=("query", "title"), positive="yes")
THINGS = ("lamp", "chair", "kettle", "shoe", "rug", "bowl")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    pairs = [(one, other) for one in THINGS for other in THINGS for _ in range(2)]
    lines = [
        (str(number), one, "train", "yes" if one == other else "no", 1.0, one, f"{other} " * (1 + number % 4))
        for number, (one, other) in enumerate(pairs)
    ]
    return pl.DataFrame(lines, ["row_id", "group", "split", "gold", "weight", "query", "title"], orient="row")


@pytest.fixture(scope="module")
def student(rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Student:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    base = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *THINGS]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(base)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(base)
    config = DcnConfig(
        epochs=1, buckets=256, embedding_dim=4, hidden=(8,), wide=WideSection(share=0.5, similarity=str(base))
    )
    training = training_set(rows, train_on="human", labels=None, votes=None, task=TASK)
    out = tmp_path_factory.mktemp("students") / "dcn"
    fit_student(config, training, task=TASK, out=out, seed=1)
    return load_student(out)


def _probs(table: pl.DataFrame) -> np.ndarray:
    return np.array(table["probs"].to_list())


@pytest.mark.parametrize(("form", "close"), [("onnx", 1e-5), ("int8", 0.02)])
def test_a_sentence_encoder_is_exported_with_its_student(
    student: Student, rows: pl.DataFrame, tmp_path: Path, form: Form, close: float
) -> None:
    done = export_student(
        student.path, tmp_path / "out", form=form, rows=CheckRows(rows, "rows", "author"), tolerance=5.0
    )
    assert not list(done.path.rglob("*.safetensors"))
    exported = load_student(done.path)
    assert exported.wide is not None and exported.wide.similarity is not None
    assert not exported.wide.similarity.bf16_speeds_up
    assert student.wide is not None and student.wide.similarity is not None
    queries, titles = [*rows["query"], "", "lamp"], [*rows["title"], "lamp", "lamp"]
    found = exported.wide.similarity.features(queries, titles)
    expected = student.wide.similarity.features(queries, titles)
    np.testing.assert_allclose(found, expected, atol=close)
    # The texts differ in length, and a linear model that nothing depended on would prove nothing.
    assert expected[:-2, 0].std() > 5 * np.abs(found - expected)[:, 0].max()
    assert (found[-2] == 0.0).all()
    np.testing.assert_allclose(found[-1], 1.0, atol=1e-5)
    check = json.loads((done.path / "export.json").read_text())["check"]
    again = np.abs(_probs(exported.predict(rows)) - _probs(student.predict(rows, precision="fp32")))
    assert check["max_abs_difference"] == pytest.approx(again.max(), abs=1e-6)


def test_int8_of_a_sentence_encoder_is_smaller(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    sizes = []
    forms: tuple[Form, ...] = ("onnx", "int8")
    for form in forms:
        done = export_student(
            student.path, tmp_path / form, form=form, rows=CheckRows(rows, "rows", "author"), tolerance=5.0
        )
        sizes.append((done.path / "similarity" / "model.onnx").stat().st_size)
    assert sizes[1] < sizes[0]


def test_an_export_that_lost_its_tokenizer_is_told(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    done = export_student(student.path, tmp_path / "out", form="onnx", rows=CheckRows(rows, "rows", "author"))
    for path in (done.path / "similarity").glob("*token*"):
        path.unlink()
    with pytest.raises(StudentError, match="cannot be loaded as a sentence encoder"):
        Similarity.load(done.path / "similarity")
