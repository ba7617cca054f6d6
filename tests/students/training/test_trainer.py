"""Batches by tokens and in parts, settings handed through, and what is left out of the computation."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distill.labeling.errors import MissingDependencyError, StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig, StudentConfig
from distill.students.first_token import read_first_token_only
from distill.students.fit import FitResult, fit_student, processes_of
from distill.students.student import load_student
from distill.students.training.batches import LengthGroupedBatches, MicroBatches, TokenBudgetBatches
from distill.students.training.vocabulary_cut import cut_vocabulary
from distill.students.training_set import training_set


def _encoder(base: Path, **settings: Any) -> EncoderConfig:
    defaults: dict[str, Any] = {"epochs": 2, "lr": 1e-3, "batch_size": 8, "precision": "fp32", "threads": 1}
    return EncoderConfig(train_on=("human",), base=str(base), **(defaults | settings))


def _fit(config: StudentConfig, rows: pl.DataFrame, task: Task, out: Path) -> FitResult:
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.25)
    return fit_student(config, training, task=task, out=out, seed=5)


def _apart(one: Path, two: Path) -> float:
    from safetensors.torch import load_file

    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=120),
    budget=st.integers(60, 400),
    processes=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_token_budget(sizes: list[int], budget: int, processes: int, seed: int) -> None:
    def batches(**of: int) -> TokenBudgetBatches:
        return TokenBudgetBatches(sizes, batch_tokens=budget, epochs=3, seed=seed, **of)

    one = batches()
    shares = [batches(processes=processes, process=process) for process in range(processes)]
    for epoch in range(3):
        one.epoch = epoch
        for share in shares:
            share.epoch = epoch
        whole = list(one)
        assert len(whole) == len(one)
        assert sorted(row for batch in whole for row, _ in batch) == list(range(len(sizes)))
        pull = {}
        for batch, *parts in zip(whole, *shares, strict=True):
            assert max(sizes[row] for row, _ in batch) * len(batch) <= budget
            assert len({len(part) for part in parts}) == 1
            means = [sum(factor * (row + 1) for row, factor in part) / len(part) for part in parts]
            assert np.mean(means) == pytest.approx(sum(factor * (row + 1) for row, factor in batch) / len(batch))
            pull |= {row: factor / len(batch) for row, factor in batch}
        # Every row pulls alike, and all together as hard as with batches of one size: one batch's mean a step.
        assert max(pull.values()) == pytest.approx(min(pull.values()))
        assert sum(pull.values()) == pytest.approx(len(one))


def test_parts_of_a_step_are_shares_of_its_batch() -> None:
    def share(process: int, processes: int) -> LengthGroupedBatches:
        return LengthGroupedBatches([1] * 11, batch_size=4, seed=1, processes=processes, process=process)

    parts = MicroBatches([share(0, 2), share(1, 2)])
    parts.epoch = whole_epoch = 2
    whole = share(0, 1)
    whole.epoch = whole_epoch
    taken = list(parts)
    assert len(taken) == len(parts) == 2 * len(whole)
    for number, batch in enumerate(whole):
        pair = taken[2 * number] + taken[2 * number + 1]
        assert sorted(row for row, factor in pair if factor) == sorted(row for row, _ in batch)


@pytest.mark.parametrize("tokens", [None, 200])
def test_accumulated_parts_learn_what_the_whole_batch_does(
    tokens: int | None, rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path
) -> None:
    # 36 rows in batches of 8 leave one of 4, and three parts of 8 rows need filling up.
    config = _encoder(tiny_base, batch_tokens=tokens)
    whole = _fit(config, rows, task, tmp_path / "whole")
    parts = _fit(
        config.model_copy(update={"trainer": {"gradient_accumulation_steps": 3}}), rows, task, tmp_path / "parts"
    )
    assert whole.steps == parts.steps
    assert _apart(whole.path, tiny_base_head(tiny_base, whole.path)) > 1e-3
    assert _apart(whole.path, parts.path) < 1e-5
    for a, b in zip(whole.history, parts.history, strict=True):
        assert (a.loss, a.validation_loss) == pytest.approx((b.loss, b.validation_loss), rel=1e-4)


def tiny_base_head(base: Path, trained: Path) -> Path:
    """A folder with the base's weights under the trained student's names, where both have them in one shape."""
    from safetensors.torch import load_file, save_file

    found, start = load_file(trained / "model.safetensors"), load_file(base / "model.safetensors")
    for name, value in start.items():
        own = found.get(f"bert.{name}")
        if own is not None and own.shape == value.shape:
            found[f"bert.{name}"] = value
    folder = trained.with_name("start")
    folder.mkdir(exist_ok=True)
    save_file(found, folder / "model.safetensors")
    return folder


def test_settings_are_handed_to_the_trainer(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    plain = DcnConfig(train_on=("human",), epochs=2, buckets=64, embedding_dim=4, hidden=(8,), weight_decay=0.0)
    sgd = plain.model_copy(update={"trainer": {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 1e-9}})
    one = _fit(plain, rows, task, tmp_path / "plain")
    still = _fit(sgd, rows, task, tmp_path / "sgd")
    assert _apart(one.path, still.path) > 1e-3
    # Gradients cut to a norm of 1e-9 move plain SGD nowhere, but Adam divides the cut out again.
    untouched = _fit(sgd.model_copy(update={"lr": 1e-12}), rows, task, tmp_path / "still")
    assert _apart(still.path, untouched.path) < 1e-9


def test_tensorboard_writes_beside_the_student(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = DcnConfig(train_on=("human",), epochs=2, buckets=64, hidden=(8,), trainer={"report_to": "tensorboard"})
    result = _fit(config, rows, task, tmp_path / "dcn")
    events = EventAccumulator(str(tmp_path / "dcn.tensorboard"))
    events.Reload()
    shown = [scalar.value for scalar in events.Scalars("eval/validation_loss")]
    assert shown == pytest.approx([record.validation_loss for record in result.history], rel=1e-5)


def test_a_missing_tensorboard_names_its_install_line(
    rows: pl.DataFrame, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.students.training.trainer.find_spec", lambda name: None)
    config = DcnConfig(train_on=("human",), epochs=1, trainer={"report_to": "tensorboard"})
    with pytest.raises(MissingDependencyError, match=r"pip install 'distill\[tensorboard\]'"):
        _fit(config, rows, task, tmp_path / "dcn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gradient_acumulation_steps": 2}, "did you mean gradient_accumulation_steps?"),
        ({"learning_rate": 1e-3}, "learning_rate: distill sets it; set lr of the student"),
        ({"zebra": 1}, "zebra: not a setting"),
        ({"gradient_accumulation_steps": 0}, "at least 1, got 0"),
        ({"report_to": "wandb"}, "one of none, tensorboard, got 'wandb'"),
        ({"fsdp": "full_shard", "deepspeed": "x.json"}, "set one of them"),
    ],
)
def test_other_settings_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DcnConfig(trainer=options)
    assert told in str(caught.value)


def test_a_value_that_the_trainer_refuses_is_told(rows: pl.DataFrame, task: Task, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"trainer: .*nonsense.* correct the student's trainer section"):
        _fit(DcnConfig(train_on=("human",), trainer={"optim": "nonsense"}), rows, task, tmp_path / "s")


def test_shards_need_gpus(rows: pl.DataFrame, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = DcnConfig(train_on=("human",), trainer={"fsdp": "full_shard"})
    with pytest.raises(StudentError, match=r"trainer\.fsdp: shards a model over GPUs, and there is none here"):
        _fit(config, rows, task, tmp_path / "s")


def test_every_setting_is_known_to_transformers() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    from distill.students.training.trainer_options import PASSED_ON, SET_ELSEWHERE

    assert {field.name for field in fields(TrainingArguments)} >= PASSED_ON
    assert not PASSED_ON & SET_ELSEWHERE.keys()


def test_a_checkpoint_has_one_interval() -> None:
    for given_ in ({}, {"every_s": 1, "every_steps": 1}):
        with pytest.raises(ValidationError, match="every_s or every_steps, one of them"):
            DcnConfig(checkpoint=given_)
    assert DcnConfig(checkpoint=None).checkpoint is None


def test_auto_takes_every_gpu(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _encoder(tiny_base, devices="auto")
    for gpus, processes in ((0, 1), (1, 1), (4, 4)):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        assert processes_of(config) == processes


def _classifier(kind: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        kind,
        vocab_size=3000,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=3,
        pad_token_id=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_the_last_layer_of_one_token_scores_the_same(kind: str, attention: str) -> None:
    with torch.random.fork_rng():
        plain, cut = _classifier(kind, attention), _classifier(kind, attention)
        assert read_first_token_only(cut)
        scores = []
        for model in (plain, cut):
            logits = model(**_batch()).logits
            logits.logsumexp(-1).sum().backward()
            scores.append(logits)
    assert torch.allclose(scores[0], scores[1], atol=1e-6)
    seen = []
    cut.base_model.encoder.layer[-1].register_forward_hook(lambda *given: seen.append(given[-1].shape))
    cut(**_batch())
    cut.base_model(**_batch())
    assert seen == [(2, 1, 32), (2, 5, 32)]
    for (name, one), (_, two) in zip(plain.named_parameters(), cut.named_parameters(), strict=True):
        assert one.grad is not None and two.grad is not None, name
        assert torch.allclose(one.grad, two.grad, atol=1e-6), name


def test_an_unknown_architecture_is_left_alone() -> None:
    assert not read_first_token_only(_classifier("electra", "eager"))
    assert not read_first_token_only(torch.nn.Linear(2, 2))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    with torch.random.fork_rng():
        plain, cut = _classifier("bert", "eager"), _classifier("bert", "eager")
    assert read_first_token_only(cut)
    cut.gradient_checkpointing_enable()
    for model in (plain, cut):
        model.train()
        model(**_batch()).logits.logsumexp(-1).sum().backward()
    for one, two in zip(plain.parameters(), cut.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_cut_vocabulary_learns_what_the_whole_one_does(decay: float) -> None:
    with torch.random.fork_rng():
        whole, part = _classifier("roberta", "eager"), _classifier("roberta", "eager")
    start = whole.get_input_embeddings().weight.detach().clone()
    cut = cut_vocabulary(part, [np.array([0, 5, 6, 7, 2]), np.array([8, 2999])])
    assert cut is not None
    assert part.get_input_embeddings().weight.shape == (8, 32)  # 0, 1 (padding), 2, 5, 6, 7, 8, 2999
    for model, batch in ((whole, _batch()), (part, cut.renumber(_batch()))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).logits.logsumexp(-1).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    cut.restore()
    ours, theirs = part.get_input_embeddings().weight, whole.get_input_embeddings().weight
    seen = [0, 1, 2, 5, 6, 7, 8, 2999]
    assert torch.allclose(ours[seen], theirs[seen], atol=1e-6)
    assert not torch.allclose(ours[5], start[5], atol=1e-3)
    # Tokens that never occur stay pretrained; the whole table's are decayed.
    unseen = [number for number in range(3000) if number not in seen]
    assert torch.equal(ours[unseen], start[unseen])
    assert torch.allclose(theirs[unseen], start[unseen] * (1 - 1e-2 * decay) ** 3)
    assert torch.allclose(part(**_batch()).logits, whole(**_batch()).logits, atol=1e-5)


def test_a_small_or_shared_vocabulary_is_not_cut() -> None:
    model = _classifier("bert", "eager")
    assert cut_vocabulary(model, [np.arange(2500)]) is None
    model.tied = torch.nn.Linear(32, 3000, bias=False)
    model.tied.weight = model.get_input_embeddings().weight
    assert cut_vocabulary(model, [np.arange(10)]) is None
    assert cut_vocabulary(torch.nn.Linear(2, 2), [np.arange(1)]) is None


def test_a_student_with_a_cut_vocabulary_is_saved_whole(
    rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _encoder(tiny_base, weight_decay=0.0)
    whole = _fit(config, rows, task, tmp_path / "whole")
    monkeypatch.setattr("distill.students.training.vocabulary_cut._FEWEST_SAVED", 5)
    cut = _fit(config, rows, task, tmp_path / "cut")
    assert cut.parameters == whole.parameters
    assert _apart(cut.path, whole.path) < 1e-5
    probs = [np.array(load_student(found.path).predict(rows)["probs"].to_list()) for found in (whole, cut)]
    assert np.allclose(*probs, atol=1e-4)
