"""A teacher reads, what it expects is stored, and a student learns from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.causal.config import TeacherLogprobsSection, TinySection
from distill.students.causal.network import CausalNetwork, LanguageModel
from distill.students.causal.objective import CausalObjective
from distill.students.causal.pretrained import load_base
from distill.students.causal.teacher import TaughtObjective, make_missing, teacher_sequences
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.config import CausalConfig
from distill.students.fit import fit_student
from distill.students.job import Job
from distill.students.logprobs.file import LogprobsHeader
from distill.students.logprobs.store import LogprobsWriter, SparseLogprobs
from distill.students.logprobs.teacher import TeacherSequence, logprobs_of_vllm, sequence_key, store_logprobs
from distill.students.logprobs.token_draws import draw_tokens, stratified_uniforms
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint
from distill.students.training.objective import LabelObjective
from distill.students.training_set import TrainingSet, training_set

TRACE = "The listing is the thing that the query names, so it fits the clause on exact matches."


def save_gpt(folder: Path, texts: list[str], *, seed: int, width: float = 0.02) -> Path:
    """A Llama of one layer; ``width`` is the spread of its weights: at 0.3 it is far from even."""
    tokenizer = tiny_tokenizer(texts, vocabulary=400)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tiny_model(TinySection(hidden=32, layers=1, heads=2), tokenizer)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=width)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, rows: pl.DataFrame) -> Iterator[SimpleNamespace]:
    """A teacher and a student with one tokenizer, and a stranger with another."""
    folder = tmp_path_factory.mktemp("gpts")
    texts = rows["title"].to_list() * 3
    yield SimpleNamespace(
        teacher=save_gpt(folder / "teacher", texts, seed=1, width=0.3),
        student=save_gpt(folder / "student", texts, seed=2),
        stranger=save_gpt(folder / "stranger", ["zwölf boxkämpfer jagen viktor"] * 9, seed=3),
    )


@pytest.fixture(scope="module")
def training(rows: pl.DataFrame, task: Task) -> TrainingSet:
    made = training_set(rows.head(24), train_on="human", labels=None, votes=None, task=task)
    # A few rows have a trace: their sequences are two, of different lengths.
    trace = pl.when(pl.arange(pl.len()) % 3 == 0).then(pl.lit(TRACE))
    return TrainingSet(made.train.with_columns(trace=trace), made.validation)


def config_for(bases: SimpleNamespace, path: Path, **changes: Any) -> CausalConfig:
    section = {"path": path, "model": str(bases.teacher), **changes.pop("section", {})}
    settings = {"base": str(bases.student), "epochs": 1, "threads": 1, "precision": "fp32", "traces": "multitask"}
    return CausalConfig(**{**settings, **changes, "teacher_logprobs": section})


def network_of(config: CausalConfig, task: Task, table: pl.DataFrame) -> CausalNetwork:
    return CausalNetwork.from_base(config, labels=task.labels, inputs=task.inputs, rows=table.lazy())


def job_of(config: CausalConfig, training: TrainingSet, task: Task, folder: Path) -> Job:
    job = Job(folder, config, labels=task.labels, inputs=task.inputs, seed=0)
    job.write(training)
    return job


def test_the_file_holds_draws_of_what_the_teacher_says(bases: SimpleNamespace, tmp_path: Path) -> None:
    """Sequences of several lengths in one batch: the draws are those from the model's own whole logits."""
    loaded = load_base(str(bases.teacher))
    fingerprint = TokenizerFingerprint.of(loaded.tokenizer)
    random = np.random.default_rng(0)
    sequences = [
        TeacherSequence(f"s{length}", random.integers(0, fingerprint.size, length).tolist(), start)
        for length, start in ((9, 1), (5, 4), (17, 3))
    ]
    path = tmp_path / "t.logprobs"
    seen: list[int] = []
    with LogprobsWriter(path, LogprobsHeader("t", fingerprint, fingerprint.size)) as writer:
        teacher = LanguageModel(loaded.model)
        assert store_logprobs(teacher, sequences[:1], writer) == 1
        assert store_logprobs(teacher, sequences, writer, batch_tokens=40, on_progress=seen.append) == 2
        with pytest.raises(StudentError, match="nothing to learn from position 5 of 5 tokens"):
            store_logprobs(teacher, [TeacherSequence("x", [1] * 5, 5)], writer)
    assert seen == [2]
    store = SparseLogprobs(path)
    for key, tokens, start in sequences:
        with torch.no_grad():
            logits = loaded.model(torch.tensor([tokens])).logits[0, start - 1 : -1]
        uniforms = stratified_uniforms(key, seed=0, positions=len(tokens) - start, draws=32)
        expected = draw_tokens(logits, uniforms)
        found = store.read(key, tokens=tokens)
        assert found.start == start
        assert np.array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.shares, (expected.counts / 32).astype(np.float32))


def test_loss_is_the_labels_and_the_teachers(
    bases: SimpleNamespace, training: TrainingSet, task: Task, tmp_path: Path
) -> None:
    """Against the loss without a teacher plus the formula on dense logits, and so are the gradients."""
    config = config_for(bases, tmp_path / "t.logprobs", section={"weight": 0.7, "temperature": 2.0})
    assert config.teacher_logprobs is not None
    made = make_missing(job_of(config, training, task, tmp_path / "job"), config.teacher_logprobs)
    network = network_of(config, task, training.train)
    table = training.train.head(6).with_columns(weight=pl.Series([0.5, 1.5, 1.0, 1.0, 2.0, 0.25]))
    taught = TaughtObjective(config, config.teacher_logprobs, LabelObjective(config, task=task), task=task)
    plain = CausalObjective(config, LabelObjective(config, task=task), task=task)
    examples, columns = taught.read(network, table), taught.columns(table)
    assert made == training.train.height + -(-training.train.height // 3)
    assert (taught.facts["teacher_logprobs"], taught.facts["teacher_logprobs_missing"]) == (8, 0)
    batch = network.collate(examples)
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    network.model.train()
    found = taught.loss(network, network.model, batch, tensors)
    expected = plain.loss(network, network.model, batch, tensors)
    store, teacher_part = SparseLogprobs(config.teacher_logprobs.path), torch.zeros(())
    for sequence, row in enumerate(batch["row"].tolist()):
        tokens = batch["input_ids"][sequence][batch["attention_mask"][sequence] == 1]
        logits = network.model.whole(input_ids=tokens[None]).logits[0]  # type: ignore[operator, union-attr]
        stored = store.read(sequence_key(table["row_id"][row], tokens.numpy()))
        answer = range(stored.start, len(tokens))
        per_token = []
        for number, position in enumerate(answer):
            place = slice(int(stored.offsets[number]), int(stored.offsets[number + 1]))
            said = (logits[position - 1] / 2.0).log_softmax(-1)[stored.ids[place]]
            per_token.append(-4.0 * (torch.from_numpy(stored.shares[place]) * said).sum())
        teacher_part = teacher_part + table["weight"][row] * torch.stack(per_token).mean() / 6
    torch.testing.assert_close(found.loss, expected.loss + 0.7 * teacher_part)
    torch.testing.assert_close(found.logits, expected.logits)
    parameters = list(network.model.parameters())
    mine = torch.autograd.grad(found.loss, parameters)
    right = torch.autograd.grad(expected.loss + 0.7 * teacher_part, parameters)
    for one, other in zip(mine, right, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-4)


def held_out_divergence(student: Path, bases: SimpleNamespace, config: CausalConfig, table: pl.DataFrame) -> float:
    """Mean KL(teacher || student) over the answers' tokens, on whole distributions."""
    task = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query", "title", "brand"))
    network = network_of(config, task, table)
    examples = CausalObjective(config, LabelObjective(config, task=task), task=task).read(network, table)
    models = [load_base(str(folder)).model.eval() for folder in (bases.teacher, student)]
    total, count = 0.0, 0
    for _, tokens, start in teacher_sequences(table["row_id"].to_list(), examples):
        with torch.no_grad():
            teacher, pupil = (m(torch.tensor([tokens])).logits[0, start - 1 : -1].log_softmax(-1) for m in models)
        total += float((teacher.exp() * (teacher - pupil)).sum())
        count += len(teacher)
    return total / count


def test_a_student_comes_nearer_to_its_teacher(
    bases: SimpleNamespace, training: TrainingSet, task: Task, tmp_path: Path, rows: pl.DataFrame
) -> None:
    """On rows that it never saw; the second training takes the file as it is, its teacher gone."""
    path = tmp_path / "made" / "t.logprobs"
    teacher = shutil.copytree(bases.teacher, tmp_path / "teacher")
    config = config_for(bases, path, section={"model": str(teacher), "weight": 5.0}, epochs=10, lr=1e-2, batch_size=8)
    fitted = fit_student(config, training, task=task, out=tmp_path / "student", seed=0)
    assert fitted.facts["teacher_logprobs"] == 32 and fitted.facts["teacher_logprobs_missing"] == 0
    held_out = rows.filter(pl.col("split") == "test").with_columns(target=pl.lit([1.0, 0.0, 0.0]), trace=pl.lit(TRACE))
    before = held_out_divergence(bases.student, bases, config, held_out)
    after = held_out_divergence(tmp_path / "student", bases, config, held_out)
    assert after < 0.8 * before
    written = path.read_bytes()
    shutil.rmtree(teacher)
    again = fit_student(config, training, task=task, out=tmp_path / "again", seed=0)
    assert path.read_bytes() == written
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "student", tmp_path / "again")]
    assert weights[0] == weights[1] and again.facts == fitted.facts


def test_sequences_that_the_file_lacks_add_nothing(
    bases: SimpleNamespace, training: TrainingSet, task: Task, tmp_path: Path
) -> None:
    """The file was made for half of the rows; of the others the plain loss is left. New rows are made in addition."""
    path = tmp_path / "t.logprobs"
    half = TrainingSet(training.train.head(12), training.validation)
    config = config_for(bases, path, traces="none")
    assert config.teacher_logprobs is not None
    assert make_missing(job_of(config, half, task, tmp_path / "half"), config.teacher_logprobs) == 12
    network = network_of(config, task, training.train)
    table = training.train.tail(4)
    taught = TaughtObjective(config, config.teacher_logprobs, LabelObjective(config, task=task), task=task)
    taught.read(network, training.train)
    assert (taught.facts["teacher_logprobs"], taught.facts["teacher_logprobs_missing"]) == (12, 12)
    examples = CausalObjective(config, LabelObjective(config, task=task), task=task).read(network, table)
    tensors = {name: torch.from_numpy(values) for name, values in taught.columns(table).items()}
    network.model.train()
    losses = [
        objective.loss(network, network.model, network.collate(examples), tensors).loss
        for objective in (taught, CausalObjective(config, LabelObjective(config, task=task), task=task))
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert make_missing(job_of(config, training, task, tmp_path / "all"), config.teacher_logprobs) == 12
    fresh = TaughtObjective(config, config.teacher_logprobs, LabelObjective(config, task=task), task=task)
    fresh.read(network, training.train)
    assert fresh.facts["teacher_logprobs"] == 24
    others = TaughtObjective(config, config.teacher_logprobs, LabelObjective(config, task=task), task=task)
    with pytest.raises(StudentError, match="has none of the 24 sequences"):
        others.read(network, training.train.with_columns(pl.col("row_id") + "x"))


def test_another_tokenizer_is_refused_before_and_after(
    bases: SimpleNamespace, training: TrainingSet, task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "t.logprobs"
    strange = config_for(bases, path, section={"model": str(bases.stranger)})
    assert strange.teacher_logprobs is not None
    with pytest.raises(StudentError, match="tokenizer is not the base's: vocabulary and merges differ"):
        make_missing(job_of(strange, training, task, tmp_path / "a"), strange.teacher_logprobs)
    path.unlink()
    config = config_for(bases, path)
    assert config.teacher_logprobs is not None
    make_missing(job_of(config, training, task, tmp_path / "b"), config.teacher_logprobs)
    other = config_for(bases, path, base=str(bases.stranger))
    with pytest.raises(StudentError, match="vocabulary, merges differ"):
        TaughtObjective(other, config.teacher_logprobs, LabelObjective(other, task=task), task=task).read(
            network_of(other, task, training.train), training.train
        )
    with pytest.raises(StudentError, match="cannot be read"):
        section = TeacherLogprobsSection(path=tmp_path / "none")
        TaughtObjective(config, section, LabelObjective(config, task=task), task=task)


def test_fingerprints_tell_what_differs(bases: SimpleNamespace, tmp_path: Path) -> None:
    """One changed part of the saved tokenizer at a time."""
    own = TokenizerFingerprint.of(load_base(str(bases.student)).tokenizer)
    assert own.differences(TokenizerFingerprint.of(load_base(str(bases.teacher)).tokenizer)) == []

    def changed(name: str) -> list[str]:
        folder = shutil.copytree(bases.student, tmp_path / name)
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        if name == "merges":
            spec["model"]["merges"][:2] = spec["model"]["merges"][1::-1]
        if name == "segmentation":
            spec["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
        if name == "chat_template":
            (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
        (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
        return own.differences(TokenizerFingerprint.of(load_base(str(folder)).tokenizer))

    for name in ("merges", "segmentation", "chat_template"):
        assert changed(name) == [name]


class _Flat(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.start_indices)


def test_whole_distributions_of_vllm_are_taken_and_cut_ones_refused() -> None:
    """The two shapes of ``prompt_logprobs`` that vLLM 0.32 gives; the token of the prompt comes first, then by rank."""
    probs = [{2: 0.5, 0: 0.25, 1: 0.25}, {0: 0.125, 2: 0.75, 1: 0.125}]
    objects = [None, *({key: SimpleNamespace(logprob=np.log(p)) for key, p in each.items()} for each in probs)]
    flat = _Flat(
        start_indices=[0, 0, 3],
        end_indices=[0, 3, 6],
        token_ids=[key for each in probs for key in each],
        logprobs=[float(np.log(p)) for each in probs for p in each.values()],
    )
    expected = torch.tensor([[0.25, 0.25, 0.5], [0.125, 0.125, 0.75]])
    for given in (objects, flat):
        torch.testing.assert_close(logprobs_of_vllm(given, start=1, vocabulary=3).exp(), expected)
    cut: list[Any] = [None, {2: SimpleNamespace(logprob=np.log(0.75))}]
    with pytest.raises(StudentError, match=r"add up to 0\.750"):
        logprobs_of_vllm(cut, start=1, vocabulary=3)
