"""A causal training that is interrupted goes on from its checkpoint and ends with the bytes of one that was not."""

from itertools import count

import polars as pl
import pytest
from safetensors.torch import load_file

from distill.students.causal.network import CausalNetwork
from distill.students.config import CausalConfig
from distill.students.fit import fit_student
from distill.students.training.trainer import DistributionTrainer
from distill.students.training_set import TrainingSet, training_set

SMALL = {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 1}


@pytest.fixture(scope="module")
def training(rows, task):
    known = rows.filter(pl.col("gold").is_not_null()).with_columns(split=pl.lit("train"))
    made = training_set(known, train_on="human", labels=None, votes=None, task=task)
    return TrainingSet(made.train.head(24), made.validation)


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["whole", "adapters"])
def test_an_interrupted_training_goes_on(lora, training, task, tmp_path, monkeypatch):
    """The tiny base has one matrix at both ends, as have most small GPTs; of adapters the rest is in no checkpoint."""
    settings = {"base": "tiny", "tiny": SMALL, "train_on": "human", "precision": "fp32", "threads": 1}
    if lora is not None:
        pytest.importorskip("peft")
        network = CausalNetwork.from_base(
            CausalConfig.model_validate(settings), labels=task.labels, inputs=task.inputs, rows=training.train.lazy()
        )
        network.save(tmp_path / "base")
        settings |= {"base": str(tmp_path / "base"), "lora": lora}
    settings |= {"epochs": 2, "batch_size": 8, "checkpoint": {"every_steps": 2}}
    config = CausalConfig.model_validate(settings)
    whole = fit_student(config, training, task=task, out=tmp_path / "whole", seed=3)
    step, steps = DistributionTrainer.training_step, count()

    def interrupted(self, *args, **options):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DistributionTrainer, "training_step", interrupted)
        fit_student(config, training, task=task, out=tmp_path / "again", seed=3)
    again = fit_student(config, training, task=task, out=tmp_path / "again", seed=3)
    assert (whole.resumed_at, again.resumed_at, again.steps) == (0, 2, 6)
    first, second = (load_file(result.path / "model.safetensors") for result in (whole, again))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
