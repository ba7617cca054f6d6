from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.task import Task
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.encoder import EncoderNetwork
from distill.students.fit import fit_student
from distill.students.ordered_head import OrderedHead
from distill.students.student import load_student
from distill.students.training_set import training_set


def test_logits_are_the_formula() -> None:
    head = OrderedHead(width=2, labels=3)
    with torch.no_grad():
        head.score.copy_(torch.tensor([[1.0, -2.0]]))
        head.offset.copy_(torch.tensor([0.5, 0.0, -1.0]))
    # s = 3 * 1 - 1 * 2 = 1; g = 1, 0, -1.
    assert head(torch.tensor([[3.0, 1.0]])).tolist() == [[1.5, 0.0, -2.0]]


def test_a_higher_score_makes_every_better_label_likelier_against_every_worse_one() -> None:
    head = OrderedHead(width=1, labels=4)
    with torch.no_grad():
        head.score.fill_(1.0)
        head.offset.copy_(torch.tensor([0.3, -2.0, 1.0, 0.0]))
    probs = head(torch.linspace(-4, 4, 9).unsqueeze(1)).softmax(dim=1).cumsum(dim=1)[:, :-1]
    assert bool((probs.diff(dim=0) > 0).all())


@pytest.mark.parametrize("kind", ["dcn", "encoder"])
def test_a_student_with_an_ordered_head_learns_and_is_loaded(
    kind: str, rows: pl.DataFrame, task: Task, tiny_base: Path, tmp_path: Path
) -> None:
    config: DcnConfig | EncoderConfig
    if kind == "dcn":
        config = DcnConfig(
            head="ordered", epochs=15, lr=1e-2, batch_size=8, buckets=512, embedding_dim=4, hidden=(16,), wide=None
        )
    else:
        config = EncoderConfig(
            base=str(tiny_base),
            head="ordered",
            epochs=20,
            lr=3e-3,
            batch_size=8,
            head_lr_factor=5.0,
            precision="fp32",
            threads=1,
            wide=None,
        )
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task)
    result = fit_student(config, training, task=task, out=tmp_path / "s", seed=1)
    student = load_student(result.path)
    logits = student.logits(rows, precision="fp32")
    # One score and offsets: differences from their mean over rows have rank one.
    centred = logits - logits.mean(axis=0)
    assert np.linalg.matrix_rank(centred, tol=1e-3 * np.abs(centred).max()) == 1
    test = rows.filter(pl.col("split") == "test")
    assert float((student.predict(test)["label"] == test["gold"]).mean() or 0.0) >= 0.7


def test_transformers_loads_the_ordered_head_as_a_plain_classifier(tiny_base: Path, task: Task, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = EncoderConfig(base=str(tiny_base), head="ordered")
    network = EncoderNetwork.from_base(config, labels=task.labels, inputs=task.inputs)
    assert [name for name in network.model.state_dict() if "score" in name] == ["classifier.score"]
    assert network.is_head("classifier.score")
    with torch.no_grad():
        network.model.classifier.offset.copy_(torch.tensor([0.1, 0.2, -0.3]))  # type: ignore[union-attr, operator]
    network.save(tmp_path / "s")
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert isinstance(loaded.classifier, torch.nn.Linear)
    ids = torch.tensor([[2, 5, 9, 3], [2, 6, 10, 3]])
    network.model.eval()
    assert torch.allclose(loaded.eval()(input_ids=ids).logits, network.model(input_ids=ids).logits, atol=1e-6)
    # Saving leaves the head as it was: the training may go on.
    assert isinstance(network.model.classifier, OrderedHead)
