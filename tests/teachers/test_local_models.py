"""A student and a Hugging Face classifier as teachers, on models that are made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.errors import DataError, UsageError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.vote import votes_frame
from distill.teachers.config import ClassifierTeacherConfig, StudentTeacherConfig
from distill.teachers.registry import build_teacher

TASK = Task(labels=("exact", "irrelevant"), inputs=("query", "title"), positive="exact", ordered=True)
ROWS = pl.DataFrame(
    {"row_id": [f"r{n}" for n in range(9)], "query": "red lamp", "title": [f"red lamp {'x' * n}" for n in range(9)]}
)


def ask(folder: Path, *teachers, rows: pl.DataFrame = ROWS, **settings: object):
    parts = [votes_frame([])]
    with Ledger(folder / "ledger.sqlite") as ledger:
        run = LabelingRun(task=TASK, teachers=teachers, ledger=ledger, config=LabelingConfig(**settings))
        result = run.run([rows], on_votes=parts.append)
    return pl.concat(parts).sort("row_id", "teacher"), result


def key_of(teacher, **values: str) -> bytes:
    row = {"row_id": "r1", "query": "red lamp", "title": "x", **values}
    return teacher.compile(Prompter(TASK, teacher.answer)(row), sample=0).key


class FakeStudent:
    """Says ``yes`` with a probability of a hundredth for each character of the title."""

    def __init__(self, labels=("yes", "no"), inputs=("query", "title")) -> None:
        self.task = Task(labels=labels, inputs=inputs)
        self.calls: list[int] = []

    def predict(self, rows, *, batch_size, precision, threads):
        self.calls.append(len(rows))
        assert (batch_size, precision, threads) == (4, "fp32", 1)
        share = rows["title"].str.len_chars() / 100
        return rows.select("row_id", probs=pl.concat_list(share, 1 - share))


def student(folder: Path, fake: FakeStudent, **settings: object):
    config = {"path": folder, "batch_size": 4, "precision": "fp32", "threads": 1, **settings}
    section = StudentTeacherConfig.model_validate({"type": "student", **config})
    return build_teacher("old", section, load_student=lambda path: fake)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "student"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "inner" / "a.json").write_text("{}")
    return path


def test_a_student_votes_with_its_distribution_in_the_tasks_words(folder, tmp_path):
    fake = FakeStudent()
    one = student(folder, fake, label_map={"yes": "exact", "no": "irrelevant"})
    votes, _ = ask(tmp_path, one)
    assert set(votes["outcome"]) == {"labeled"} and set(votes["probs_source"]) == {"model"}
    # Of 'red lamp', whose space at the end is gone as it is from what a model reads: 8 characters.
    assert votes["probs"].to_list()[0] == pytest.approx([0.08, 0.92])
    assert votes["family"][0] == "old" and votes["cost_usd"].sum() == 0
    assert sum(fake.calls) == 9 and len(fake.calls) < 9  # in batches


def test_a_students_answers_are_kept_and_mapped_when_they_are_read(folder, tmp_path):
    ask(tmp_path, student(folder, FakeStudent()))  # its labels are none of the task's
    fake = FakeStudent()
    votes, result = ask(tmp_path, student(folder, fake, label_map={"yes": "exact", "no": "irrelevant"}))
    assert fake.calls == [] and result.requests_sent == 0
    assert set(votes["outcome"]) == {"labeled"}


def test_labels_that_are_none_of_the_tasks_are_invalid(folder, tmp_path):
    votes, _ = ask(tmp_path, student(folder, FakeStudent()))
    assert set(votes["outcome"]) == {"invalid"}
    assert "'yes', 'no'" in votes["reason"][0]


def test_inputs_that_the_task_lacks_fail_the_rows_with_a_reason(folder, tmp_path):
    votes, _ = ask(tmp_path, student(folder, FakeStudent(inputs=("query", "colour"))))
    assert set(votes["outcome"]) == {"failed"}
    assert "reads the inputs ['colour']" in votes["reason"][0]


def test_a_students_key_follows_its_files_and_not_their_place(folder, tmp_path):
    before = key_of(student(folder, FakeStudent()))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert key_of(student(moved, FakeStudent())) == before
    assert key_of(student(moved, FakeStudent(), family="f", threads=1, label_map={"yes": "exact"})) == before
    assert key_of(student(moved, FakeStudent(), precision="auto")) != before
    assert key_of(student(moved, FakeStudent()), title="y") != before
    (moved / "inner" / "a.json").write_text("[]")
    assert key_of(student(moved, FakeStudent())) != before


def test_a_student_needs_its_folder_and_someone_to_load_it(folder, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        student(tmp_path / "nowhere", FakeStudent())
    with pytest.raises(UsageError, match="load_student"):
        build_teacher("old", StudentTeacherConfig(type="student", path=folder))


def test_a_student_that_cannot_be_loaded_stops_its_lane_and_no_other(folder, tmp_path):
    def broken(path: Path) -> FakeStudent:
        raise OSError("weights are cut short")

    section = StudentTeacherConfig(type="student", path=folder)
    one = build_teacher("broken", section, load_student=broken)
    other = student(folder, FakeStudent(), label_map={"yes": "exact", "no": "irrelevant"})
    votes, result = ask(tmp_path, one, other)
    assert "weights are cut short" in result.teachers["broken"].stopped
    ends = dict(votes.group_by("teacher").agg(pl.col("outcome").unique().first()).iter_rows())
    assert ends == {"broken": "unsent", "old": "labeled"}


def made(folder: Path, *, labels: dict[int, str] | None, head: bool = True, seed: int = 0) -> Path:
    """A BERT of one layer with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "lamp", "title", ":", "x", "##x"]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=2.0,  # so that answers differ
        num_labels=1 if labels is None else len(labels),
    )
    if labels is not None:
        config.id2label, config.label2id = labels, {label: number for number, label in labels.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        (BertForSequenceClassification if head else BertModel)(config).save_pretrained(folder)
    return folder


def classifier(folder: Path, **settings: object):
    config = {"type": "classifier", "model": str(folder), "family": "bert", "batch_size": 2, "threads": 1, **settings}
    return build_teacher("cls", ClassifierTeacherConfig.model_validate(config))


def reference(folder: Path, first: str, second: str) -> list[float]:
    """The logits of one pair by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(first, second, return_tensors="pt")
    with torch.inference_mode():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits[0].tolist()


def test_a_classifier_gives_the_softmax_of_its_logits_whatever_the_batch(tmp_path):
    from math import exp

    folder = made(tmp_path / "bert", labels={0: "E", 1: "S", 2: "I"})
    one = classifier(folder, label_map={"E": "exact", "S": "irrelevant", "I": "irrelevant"})
    votes, _ = ask(tmp_path, one)
    assert set(votes["outcome"]) == {"labeled"} and set(votes["probs_source"]) == {"model"}
    for (title,), probs in zip(ROWS.select("title").iter_rows(), votes["probs"], strict=True):
        logits = reference(folder, "red lamp", f"title: {title.strip()}")
        # S and I both became irrelevant, so that their probabilities are added up.
        expected = exp(logits[0]) / sum(map(exp, logits))
        assert list(probs) == pytest.approx([expected, 1 - expected], abs=1e-5)


def test_a_single_logit_is_a_sigmoid_over_positive_and_negative(tmp_path):
    from math import exp

    folder = made(tmp_path / "bert", labels=None)
    votes, _ = ask(tmp_path, classifier(folder, label_map={"positive": "exact", "negative": "irrelevant"}))
    (logit,) = reference(folder, "red lamp", "title: red lamp")
    assert votes["probs"][0].to_list() == pytest.approx([1 / (1 + exp(-logit)), 1 / (1 + exp(logit))], abs=1e-5)


def test_templates_write_the_two_texts_and_are_the_key(tmp_path):
    folder = made(tmp_path / "bert", labels={0: "exact", 1: "irrelevant"})
    plain = classifier(folder)
    same = classifier(folder, first="{query}", second="title: {title}")
    assert key_of(plain) == key_of(same)
    assert key_of(plain) == key_of(classifier(folder, family="other", threads=None, batch_size=8))
    for change in ({"first": "q {query}"}, {"second": ""}, {"max_length": 16}, {"dtype": "bfloat16"}):
        assert key_of(classifier(folder, **change)) != key_of(plain), change
    body = classifier(folder, second="").compile(Prompter(TASK, plain.answer)(ROWS.row(0, named=True)), sample=0).body
    assert body.endswith(b'["red lamp"]')
    with pytest.raises(DataError, match=r"names 'colour', the task has the inputs query, title"):
        key_of(classifier(folder, second="{colour}"))
    assert set(ask(tmp_path, classifier(folder, second=""))[0]["outcome"]) == {"labeled"}


def test_an_encoder_without_a_head_is_no_classifier(tmp_path):
    folder = made(tmp_path / "bert", labels={0: "exact", 1: "irrelevant"}, head=False)
    votes, result = ask(tmp_path, classifier(folder))
    assert "no classifier, its weights lack classifier.bias" in result.teachers["cls"].stopped
    assert set(votes["outcome"]) == {"unsent"}


def test_another_checkpoint_is_another_key(tmp_path):
    first, second = (made(tmp_path / f"{n}", labels={0: "exact", 1: "irrelevant"}, seed=n) for n in (0, 1))
    assert key_of(classifier(first)) != key_of(classifier(second))
    hub = [classifier(Path("org/model"), revision=revision) for revision in (None, "a", "b")]
    assert len({key_of(one) for one in hub}) == 3
