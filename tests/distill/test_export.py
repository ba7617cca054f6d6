import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill.export import CheckRows, export_student
from distill.labeling.errors import MissingDependencyError, StudentError, UsageError
from distill.labeling.task import Task
from distill.students.calibration import Calibration
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.fit import fit_student
from distill.students.student import Student, load_student
from distill.students.training_set import training_set

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

TASK = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query", "title"), positive="exact")
THINGS = ("lamp", "chair", "kettle", "shoe", "rug", "bowl")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    lines = []
    for number in range(72):
        thing, other = THINGS[number % 6], THINGS[(number // 3) % 6]
        gold = "exact" if thing == other else "substitute" if number % 2 else "irrelevant"
        title = f"{other} " * (1 + number % 5)
        lines.append((str(number), f"g{number % 24}", "train", gold, 1.0, thing, title))
    return pl.DataFrame(lines, ["row_id", "group", "split", "gold", "weight", "query", "title"], orient="row")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of one layer: no token types, and positions that begin after the padding's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    words = ["<s>", "<pad>", "</s>", "<unk>", "query", "title", ":", *THINGS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>",
        pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=80, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["dcn", "encoder"])
def student(
    request: pytest.FixtureRequest, rows: pl.DataFrame, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Student:
    config = (
        DcnConfig(epochs=2, buckets=256, embedding_dim=4, hidden=(8,))
        if request.param == "dcn"
        else EncoderConfig(base=str(base), epochs=1, lr=1e-3, max_length=48, precision="fp32")
    )
    training = training_set(rows, train_on="human", labels=None, votes=None, task=TASK)
    out = tmp_path_factory.mktemp("students") / request.param
    fit_student(config, training, task=TASK, out=out, seed=1)
    # A map that is no identity, which an export has to carry.
    map_ = Calibration(temperature=1.7, source="audit gold", rows=72, method="temperature")
    replace(load_student(out).info, calibration=map_).write(out)
    return load_student(out)


def _probs(table: pl.DataFrame) -> np.ndarray:
    return np.array(table["probs"].to_list())


def test_an_export_is_the_student(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    done = export_student(student.path, tmp_path / "onnx", rows=CheckRows(rows, "rows", "author"))
    exported = load_student(tmp_path / "onnx")
    for batch_size in (1, 7, None):
        found = exported.predict(rows, batch_size=batch_size, threads=2)
        assert _probs(found) == pytest.approx(_probs(student.predict(rows, precision="fp32")), abs=1e-5)
    assert done.check is not None and done.check.difference is not None and done.check.exported is not None
    assert (done.check.rows, done.check.flips, done.check.truth_source) == (72, 0.0, "author")
    assert done.check.difference.value == pytest.approx(0.0, abs=1e-9)
    assert not list((tmp_path / "onnx").glob("*.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_an_export_is_run_by_onnx_runtime_alone(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    """Names, types and axes of ``export.json`` are all that is needed."""
    import onnxruntime

    export_student(student.path, tmp_path / "onnx", rows=CheckRows(rows, "rows", "author"))
    told = json.loads((tmp_path / "onnx" / "export.json").read_text())["model"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / told["file"], providers=["CPUExecutionProvider"])
    sizes = {"batch": 3, "length": 11}
    given = {
        name: np.ones([sizes.get(axis, axis) for axis in one["axes"]], dtype=one["type"])
        for name, one in told["inputs"].items()
    }
    found = session.run(told["outputs"], given)
    assert told["outputs"] == ["logits"]
    assert found[0].shape == (3, len(TASK.labels))
    assert {one.name for one in session.get_inputs()} == set(told["inputs"])


def test_int8_is_smaller_and_says_what_it_lost(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    checked = CheckRows(rows, "rows", "author")
    whole = export_student(student.path, tmp_path / "onnx", rows=checked)
    small = export_student(student.path, tmp_path / "int8", form="int8", rows=checked, tolerance=100)
    told = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert small.bytes < whole.bytes
    assert told["model"]["precision"] == "int8"
    assert told["check"]["max_abs_difference"] > 0
    assert told["tried"][0]["lost"] == pytest.approx(small.check.lost, abs=1e-4)  # type: ignore[union-attr]
    gap = np.abs(_probs(load_student(small.path).predict(rows)) - _probs(student.predict(rows, precision="fp32")))
    assert gap.max() == pytest.approx(told["check"]["max_abs_difference"], abs=1e-6)


def test_what_loses_too_much_is_not_written(
    student: Student, rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scheme is tried before it gives up. Changed labels stand for the loss where there is no gold."""
    from distill import export

    tried = []
    original = export.write_int8

    def spoiled(*args: object, **settings: object) -> object:
        tried.append(settings["scheme"])
        return original(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_int8", spoiled)
    monkeypatch.setattr(export.ExportCheck, "lost", 1.25)
    no_gold = CheckRows(rows.with_columns(gold=pl.lit(None, pl.String)), "rows", "human")
    with pytest.raises(StudentError, match=r"int8 loses 1\.25 points, allowed are 0\.5: on 72 rows .* no gold labels"):
        export_student(student.path, tmp_path / "int8", form="int8", rows=no_gold)
    assert len(tried) == len(export.INT8_SCHEMES[student.info.type])
    assert not list(tmp_path.iterdir())


def test_without_gold_changed_labels_bound_the_loss() -> None:
    from distill.export import ExportCheck

    assert ExportCheck(200, "rows", 0.1, 0.01, flips=0.015).lost == pytest.approx(1.5)


def test_what_is_in_the_way_is_kept(student: Student, rows: pl.DataFrame, tmp_path: Path) -> None:
    checked = CheckRows(rows, "rows", "author")
    with pytest.raises(UsageError, match="is the student's own folder"):
        export_student(student.path, student.path, rows=checked)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="holds no earlier export"):
        export_student(student.path, tmp_path / "mine", rows=checked)
    with pytest.raises(UsageError, match="no rows to measure it on"):
        export_student(student.path, tmp_path / "onnx")
    export_student(student.path, tmp_path / "onnx", rows=checked)
    with pytest.raises(StudentError, match="is an export already"):
        export_student(tmp_path / "onnx", tmp_path / "again", rows=checked)
    (tmp_path / "onnx" / "old").touch()
    export_student(student.path, tmp_path / "onnx", rows=checked)
    assert not (tmp_path / "onnx" / "old").exists()


def test_a_missing_package_is_named(
    student: Student, rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'onnx'.*pip install 'distill\[export\]'"):
        export_student(student.path, tmp_path / "onnx", rows=CheckRows(rows, "rows", "author"))


def test_the_command_measures_on_the_rows_of_the_run(shop: Path, cli: Callable[..., object]) -> None:
    assert cli("train", "recipe.yaml", "--out", "run").code == 0  # type: ignore[attr-defined]
    called = cli("export", "run/students/dcn", "--out", "served", "--tolerance", 100, "--json")
    told = json.loads(called.out)  # type: ignore[attr-defined]
    assert told["check"]["source"] == "test rows of run"
    assert told["check"]["truth_source"] == "human"
    assert cli("predict", "served", "rows.csv", "--out", "found.csv").code == 0  # type: ignore[attr-defined]
    assert pl.read_csv("found.csv").height == 48
    assert cli("export", "run/students/dcn", "--to", "gguf", "--out", "x").code == 2  # type: ignore[attr-defined]
