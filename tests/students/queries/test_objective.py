"""The losses of an encoder's parts, beside plain references."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig
from distill.students.queries.encoder import QueryNetwork
from distill.students.queries.objective import QueryObjective, edit_loss, label_loss
from distill.students.queries.part_targets import ANSWERS

PARTS = ["spelling", "brand", "category", "expansion"]


def test_edits_cost_the_sum_over_letters_and_the_mean_over_corrections() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 5, generator=generator)  # three replacements, two texts behind
    replace = torch.tensor([[[0, 1, 2], [0, 0, 0]], [[2, 0, 0], [0, 0, 0]]])
    append = torch.tensor([[[0, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 0, 0]]])
    share = torch.tensor([[0.75, 0.25], [1.0, 0.0]])
    letters = torch.tensor([[True, True, True], [True, False, False]])
    expected = [0.0, 0.0]
    for row in range(2):
        for correction in range(2):
            for place in range(3 if row == 0 else 1):
                of_letter = scores[row, place, :3].log_softmax(dim=0)[replace[row, correction, place]]
                behind = scores[row, place, 3:].log_softmax(dim=0)[append[row, correction, place]]
                expected[row] -= float(share[row, correction] * (of_letter + behind))
    found = edit_loss(scores, replace, append, share, letters=letters, replacements=3)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_labels_that_are_not_named_count_as_absent() -> None:
    # Label 0 with 0.75, label 2 not named; the second pair is padding.
    found = label_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0, 0]]), torch.tensor([[0.75, 0.0]]))
    at_0 = 0.75 * math.log1p(math.exp(-2.0)) + 0.25 * math.log1p(math.exp(2.0))
    assert found.tolist() == pytest.approx([at_0 + math.log(2.0) + math.log1p(math.exp(-1.0))], rel=1e-5)


@pytest.fixture(scope="module")
def task() -> Task:
    config = {"type": "query_understanding", "inputs": ["query"], "categories": ["A > x", "A > y", "B"]}
    return Task.from_config(TaskConfig.model_validate(config))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """Two whole rows, and two of which one part each is known."""
    answers: list[dict[str, Any]] = [
        {
            "spelling": [["red lamp", 0.75], ["rde lamp", 0.25]],
            "brand": [],
            "category": [["A > x", 0.5], ["B", 0.5]],
            "expansion": [["cheap lamp", 1.0], ["lamp sale", 0.5]],
        },
        {
            "spelling": [["acme chair", 1.0]],
            "brand": [[0, 4, 0, 1.0]],
            "category": [["", 1.0]],
            "expansion": [],
        },
        {"brand": [[0, 4, 0, 0.5]]},
        {"spelling": [["blue rug", 1.0]]},
    ]
    return pl.DataFrame(
        {
            "query": ["rde lamp", "acme chair", "acme", "blue rug"],
            ANSWERS: [json.dumps(answer) for answer in answers],
            "target": [[float(part in answer) for part in PARTS] for answer in answers],
            "weight": [1.0, 2.0, 0.5, 0.5],
        }
    )


@pytest.fixture
def network(tiny_base: Path, task: Task, table: pl.DataFrame) -> QueryNetwork:
    torch.manual_seed(0)
    config = EncoderConfig(base=str(tiny_base), max_length=32)
    found = QueryNetwork.from_base(config, task=task, rows=table.lazy())
    found.model.eval()
    return found


def _loss(
    network: QueryNetwork, table: pl.DataFrame, task: Task, weights: dict[str, float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    objective = QueryObjective(EncoderConfig(weights=weights), task=task)
    batch = network.collate(list(objective.read(network, table)))
    columns = {name: torch.from_numpy(numbers) for name, numbers in objective.columns(table).items()}
    step = objective.loss(network, network.model, batch, columns)
    return step.loss, step.logits


def test_a_batch_costs_the_weighted_mean_of_its_rows(network: QueryNetwork, table: pl.DataFrame, task: Task) -> None:
    whole, _ = _loss(network, table, task)
    alone = [float(_loss(network, table[row : row + 1], task)[0].detach()) for row in range(4)]
    # Each row alone is as in the batch, so padding adds nothing; the mean over four is their sum by four.
    assert float(whole.detach()) == pytest.approx(sum(alone) / 4, rel=1e-5)


def test_parts_weigh_what_the_section_says(network: QueryNetwork, table: pl.DataFrame, task: Task) -> None:
    one_by_one = [
        float(_loss(network, table, task, {part: float(part == chosen) for part in PARTS})[0].detach())
        for chosen in PARTS
    ]
    weights = dict(zip(PARTS, (2.0, 0.5, 1.0, 3.0), strict=True))
    expected = sum(weight * cost for weight, cost in zip(weights.values(), one_by_one, strict=True))
    assert float(_loss(network, table, task, weights)[0].detach()) == pytest.approx(expected, rel=1e-5)


def test_what_nobody_said_is_not_learned_as_none(network: QueryNetwork, table: pl.DataFrame, task: Task) -> None:
    loss, _ = _loss(network, table[2:3], task)  # only a brand is known
    loss.backward()  # type: ignore[no-untyped-call]
    pulled = {part: float(sum(p.grad.abs().sum() for p in network.model.heads[part].parameters())) for part in PARTS}
    assert pulled["brand"] > 0
    # Present, so that a distributed wrapper finds every gradient, and zero.
    assert [pulled[part] for part in ("spelling", "category", "expansion")] == [0.0, 0.0, 0.0]


def test_validation_is_the_same_loss(network: QueryNetwork, table: pl.DataFrame, task: Task) -> None:
    loss, per_part = _loss(network, table, task)
    objective = QueryObjective(EncoderConfig(), task=task)
    columns = objective.columns(table)
    found = objective.validation_loss(per_part.detach().double().numpy(), columns["target"], columns["weight"])
    # The weights sum to four, as many as rows.
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    assert np.isfinite(found)


def test_a_correction_that_cannot_be_said_teaches_nothing(
    network: QueryNetwork, table: pl.DataFrame, task: Task
) -> None:
    strange = table[:1].with_columns(
        pl.Series(ANSWERS, [json.dumps({"spelling": [["zqx zqx", 1.0]]})]), pl.Series("target", [[1.0, 0.0, 0.0, 0.0]])
    )
    assert float(_loss(network, strange, task)[0].detach()) == 0.0
