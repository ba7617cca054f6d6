"""Models cut over processes: what is cut, what DeepSpeed is told, and that the student is that of one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

import distill
from distill.labeling.errors import MissingDependencyError, StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.first_token import read_first_token_only
from distill.students.job import Job
from distill.students.queries.heads import NamedOptions
from distill.students.sharding import deepspeed_settings, layers_to_shard, require_shards
from distill.students.train import train
from distill.students.training_set import training_set

ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")


def _together(job: Job, port: int) -> list[str]:
    """Trains a job in two processes; what each of them printed."""
    started = []
    for rank in range(2):
        shared = {"PYTHONPATH": str(Path(distill.__file__).parents[1]), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port)}
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **shared, **own}
        with (job.folder / f"{rank}.log").open("w") as log:
            command = [sys.executable, str(ON_CPU), str(job.folder)]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        for process in started:
            process.wait(timeout=240)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    said = [(job.folder / f"{rank}.log").read_text() for rank in range(2)]
    assert [process.returncode for process in started] == [0, 0], said
    return said


@pytest.mark.slow
def test_fsdp_trains_the_student_of_one_process(
    rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path, free_port: int
) -> None:
    from safetensors.torch import load_file

    training = training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.25)
    config = EncoderConfig(
        train_on=("human",),
        base=str(tiny_base),
        epochs=2,
        lr=1e-3,
        batch_size=6,
        precision="fp32",
        threads=1,
        checkpoint={"every_steps": 3},
        trainer={"gradient_accumulation_steps": 2},
    )
    job = Job(tmp_path / "one", config, labels=task.labels, inputs=task.inputs, seed=5)
    job.write(training)
    one = train(job)
    cut = replace(
        job,
        folder=tmp_path / "two",
        config=config.model_copy(update={"trainer": {**config.trainer, "fsdp": "full_shard"}}),
    )
    cut.write(training)
    _together(cut, free_port)
    two = cut.read_result()
    whole, gathered = (load_file(found.student_folder / "model.safetensors") for found in (job, cut))
    # The table of tokens was cut to those that occur, and is whole again.
    assert {name: value.shape for name, value in whole.items()} == {n: v.shape for n, v in gathered.items()}
    assert max(float((whole[name] - gathered[name]).abs().max()) for name in whole) < 1e-5
    assert [epoch.validation_loss for epoch in two.history] == pytest.approx(
        [epoch.validation_loss for epoch in one.history], rel=1e-5
    )
    assert two.parameters == one.parameters


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("bert", ["BertLayer"]),
        ("roberta", ["RobertaLayer"]),
        ("modernbert", ["ModernBertEncoderLayer"]),
        ("llama", ["LlamaDecoderLayer"]),
    ],
)
def test_layers_are_cut_apart_and_embeddings_are_not(kind: str, layers: list[str]) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}
    more |= {"cls_token_id": 1, "sep_token_id": 1} if kind == "modernbert" else {}
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **more))
    assert layers_to_shard(model) == layers
    assert layers_to_shard(nn.ModuleDict({"trunk": model, "head": nn.Linear(16, 3)})) == layers
    assert layers_to_shard(nn.Linear(2, 2)) == []


def test_a_copy_reads_the_first_token_too() -> None:
    from copy import deepcopy

    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertForSequenceClassification(config)
    assert read_first_token_only(model)
    copy = deepcopy(model)
    seen: list[torch.Size] = []
    copy.bert.encoder.layer[-1].register_forward_hook(lambda *given: seen.append(given[-1].shape))
    copy(input_ids=torch.tensor([[1, 2, 3]]))
    assert seen == [(1, 1, 16)]
    assert not copy.bert.encoder.layer[-1].first_token_only


def test_a_scale_that_was_saved_as_a_scalar_is_read() -> None:
    # FSDP refuses scalar parameters, so that the scale is a row of one now.
    heads = nn.ModuleDict({"category": NamedOptions(torch.eye(3), dropout=0.0)})
    assert all(parameter.ndim > 0 for parameter in heads.parameters())
    saved = {**heads.state_dict(), "category.scale": torch.tensor(0.5)}
    heads.load_state_dict(saved)
    assert heads.state_dict()["category.scale"].tolist() == [0.5]


def test_deepspeed_is_told_what_the_trainer_knows(tmp_path: Path) -> None:
    found = deepspeed_settings({"zero_optimization": {"stage": 3}, "gradient_clipping": 0.5})
    assert found == {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 0.5,
        "bf16": {"enabled": "auto"},
        # Weights that are not gathered are no student.
        "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    }
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert deepspeed_settings(str(tmp_path / "zero.json"))["zero_optimization"] == {"stage": 2}
    with pytest.raises(StudentError, match=r"absent\.json: cannot be read .*; give a JSON file or its content"):
        deepspeed_settings(str(tmp_path / "absent.json"))
    with pytest.raises(StudentError, match="got 2; give the settings by name"):
        deepspeed_settings(2)  # type: ignore[arg-type]


def test_what_shards_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("distill.students.sharding.find_spec", lambda name: None)
    require_shards(DcnConfig(trainer={"gradient_accumulation_steps": 2}).trainer)
    with pytest.raises(MissingDependencyError, match=r"pip install 'distill\[deepspeed\]'"):
        require_shards({"deepspeed": {"zero_optimization": {"stage": 1}}})
    with pytest.raises(StudentError, match=r"trainer\.fsdp: .* one alone; set devices: 2 or more"):
        require_shards({"fsdp": True})
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_shards({"fsdp": True})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StudentError, match="there is none here"):
        require_shards({"fsdp": True})
