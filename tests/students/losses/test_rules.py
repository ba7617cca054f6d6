"""What a batch costs: weights, people's rows, selection, memory, and the same on several processes as on one."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.losses import rules as loss_rules
from distill.students.losses.distributions import (
    hard_cross_entropy_rows,
    mean_over_rows,
    soft_cross_entropy,
    soft_cross_entropy_rows,
)
from distill.students.losses.noise import early_learning_rows, generalised_cross_entropy_rows
from distill.students.training.objective import LabelObjective, Objective, objective_for
from distill.students.training_set import grades

TASK = Task(labels=("a", "b", "c"), inputs=("query", "title"), ordered=True)
IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
LOSSES: list[dict[str, Any]] = [
    {"type": "soft_ce"},
    {"type": "hard_ce"},
    {"type": "forward_kl", "temperature": 2.0},
    {"type": "reverse_kl"},
    {"type": "jsd"},
    {"type": "gce"},
    {"type": "sce"},
    {"type": "elr"},
    {"type": "forward_correction", "matrices": {"labels": IDENTITY}},
    {"type": "rps"},
    {"type": "emd", "power": 1},
    {"type": "margin_mse"},
    {"type": "listwise"},
]
RANDOM = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "group": [f"g{i // 4}" for i in range(8)],
        "source": ["human", *["labels"] * 6, "human"],
        "target": RANDOM.dirichlet(np.ones(3), size=8).tolist(),
        "weight": RANDOM.uniform(0.5, 1.5, size=8),
    }
)
LOGITS = torch.from_numpy(RANDOM.normal(size=(8, 3))).float()


def _objective(loss: dict[str, Any] | str) -> LabelObjective:
    found = objective_for(DcnConfig.model_validate({"loss": loss}), task=TASK)
    assert isinstance(found, LabelObjective)
    return found


def _columns(objective: Objective, rows: list[int] | None = None) -> dict[str, torch.Tensor]:
    picked = list(range(8)) if rows is None else rows
    return {name: torch.from_numpy(values[picked]) for name, values in objective.columns(TABLE).items()}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["type"])
def test_rows_of_weight_zero_count_and_add_nothing(loss: dict[str, Any]) -> None:
    objective = _objective(loss)
    plain = float(objective.cost(LOGITS, _columns(objective), training=True))
    objective = _objective(loss)
    columns = _columns(objective, [*range(8), 0, 5])
    columns["weight"][8:] = 0.0
    filled = float(objective.cost(LOGITS[[*range(8), 0, 5]], columns, training=True))
    assert filled == pytest.approx(plain * 8 / 10, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["type"])
def test_two_processes_cost_what_one_does(loss: dict[str, Any]) -> None:
    whole = _objective(loss)
    expected = float(whole.cost(LOGITS, _columns(whole), training=True))
    # Rows of a group share a part, as grouped batches have it; every loss must bear it.
    parts = []
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7]):
        objective = _objective(loss)
        parts.append(float(objective.cost(LOGITS[rows], _columns(objective, rows), training=True)))
    assert sum(parts) / 2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["type"])
def test_validation_is_by_soft_cross_entropy(loss: dict[str, Any]) -> None:
    objective = _objective(loss)
    columns = _columns(objective)
    expected = soft_cross_entropy(LOGITS, columns["target"], weight=columns["weight"])
    assert float(objective.cost(LOGITS, columns, training=False)) == pytest.approx(float(expected))
    assert objective.state_dict() == {}


def test_hard_ce_is_by_name() -> None:
    objective = _objective("hard_ce")
    columns = _columns(objective)
    expected = mean_over_rows(hard_cross_entropy_rows(LOGITS, columns["target"]), columns["weight"])
    assert float(objective.cost(LOGITS, columns, training=True)) == pytest.approx(float(expected))


def test_peoples_rows_are_taken_at_their_word_by_robust_losses() -> None:
    objective = _objective({"type": "gce", "q": 0.7})
    columns = _columns(objective)
    robust = generalised_cross_entropy_rows(LOGITS, columns["target"], q=0.7)
    plain = soft_cross_entropy_rows(LOGITS, columns["target"])
    human = torch.tensor([True, *[False] * 6, True])
    expected = (columns["weight"] * torch.where(human, plain, robust)).sum() / 8
    assert float(objective.cost(LOGITS, columns, training=True)) == pytest.approx(float(expected), rel=1e-6)


def test_small_loss_leaves_out_the_weak_rows_of_greatest_loss() -> None:
    objective = _objective({"type": "soft_ce", "small_loss": {"drop": 0.5, "ramp_epochs": 2}})
    columns = _columns(objective)
    rows = soft_cross_entropy_rows(LOGITS, columns["target"])
    weak = sorted(range(1, 7), key=lambda row: float(rows[row]))
    # Of six weak rows: epoch 0 drops none, epoch 1 a quarter (1), epoch 2 and later half (3).
    for epoch, dropped in enumerate((0, 1, 3, 3)):
        objective.epoch = epoch
        kept = columns["weight"].clone()
        kept[weak[6 - dropped :]] = 0.0
        found = float(objective.cost(LOGITS, columns, training=True))
        assert found == pytest.approx(float((kept * rows).sum() / 8), rel=1e-6)


def test_small_loss_ranks_the_rows_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0, 4.0])
    weak = torch.tensor([True, True, True, True, False, True])
    whole = loss_rules.small_loss_kept(everyone, weak, drop=0.4)
    # Two of the five weak rows go: 5 and 4. The row of people stays, though it costs most.
    assert whole.tolist() == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    monkeypatch.setattr(loss_rules, "gathered", lambda part: [(everyone[:3][weak[:3]],), (everyone[3:][weak[3:]],)])
    parts = [loss_rules.small_loss_kept(everyone[s], weak[s], drop=0.4) for s in (slice(0, 3), slice(3, 6))]
    assert torch.cat(parts).tolist() == whole.tolist()


def test_elr_remembers_a_running_average_of_each_row() -> None:
    objective = _objective({"type": "elr", "momentum": 0.7, "strength": 3.0})
    columns = _columns(objective, [5, 2])
    first, second = LOGITS[[5, 2]], LOGITS[[0, 1]]
    objective.cost(first, columns, training=True)
    found = objective.cost(second, columns, training=True)
    # m = 0.7 * (0.7 * 0 + 0.3 * p_1) + 0.3 * p_2
    remembered = 0.21 * first.softmax(1) + 0.3 * second.softmax(1)
    expected = early_learning_rows(second, columns["target"], remembered, strength=3.0)
    assert float(found) == pytest.approx(float((columns["weight"] * expected).sum() / 2), rel=1e-5)
    memory = objective.state_dict()["memory"]
    assert torch.allclose(memory[[5, 2]], remembered, atol=1e-6)
    assert float(memory[[0, 1, 3, 4, 6, 7]].abs().sum()) == 0.0


def test_elr_goes_on_from_its_state() -> None:
    one, other = _objective("elr"), _objective("elr")
    one.cost(LOGITS, _columns(one), training=True)
    other.load_state_dict(one.state_dict())
    assert float(one.cost(LOGITS, _columns(one), training=True)) == float(
        other.cost(LOGITS, _columns(other), training=True)
    )


def test_elr_shares_its_memory_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, part = _objective("elr"), _objective("elr")
    whole.cost(LOGITS, _columns(whole), training=True)
    probs = LOGITS[4:].softmax(1)
    other = (torch.arange(4, 8), probs)
    monkeypatch.setattr(loss_rules, "gathered", lambda *own: [own, other])
    part.cost(LOGITS[:4], _columns(part, [0, 1, 2, 3]), training=True)
    assert torch.allclose(part.state_dict()["memory"], whole.state_dict()["memory"], atol=1e-6)


def test_forward_correction_goes_by_the_rows_source() -> None:
    confusion = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.0, 0.5, 0.5]]
    objective = _objective({"type": "forward_correction", "matrices": {"labels": confusion}})
    columns = _columns(objective)
    said = LOGITS.softmax(1) @ torch.tensor(confusion)
    corrected = -(columns["target"] * said.log()).sum(1)
    human = torch.tensor([True, *[False] * 6, True])
    rows = torch.where(human, soft_cross_entropy_rows(LOGITS, columns["target"]), corrected)
    expected = float((columns["weight"] * rows).sum() / 8)
    assert float(objective.cost(LOGITS, columns, training=True)) == pytest.approx(expected, rel=1e-5)


def test_pair_losses_ask_for_grouped_batches() -> None:
    assert _objective({"type": "listwise", "rows_together": 5}).rows_together == 5
    assert _objective("soft_ce").rows_together == 1


def test_grades_fall_in_even_steps_from_the_best() -> None:
    assert grades(TASK).tolist() == [1.0, 0.5, 0.0]
    assert grades(Task(labels=("a", "b", "c"), inputs=("query",), positive="b")).tolist() == [0.0, 1.0, 0.0]
