"""A small GPT that writes the parts of a query as JSON."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from distill.labeling.task import Task, TaskConfig
from distill.students.causal.answers import CausalAnswerObjective, CausalAnswers, _read, whole_part, written
from distill.students.config import CausalConfig
from distill.students.fit import fit_student
from distill.students.queries.part_targets import ANSWERS, part_targets
from distill.students.student import load_student

THINGS = {"lamp": "Home > Lamps", "shoe": "Wear > Shoes", "bowl": "Home > Bowls"}


@pytest.fixture(scope="module")
def task() -> Task:
    config = {"type": "query_understanding", "inputs": ["query"], "categories": list(THINGS.values())}
    return Task.from_config(TaskConfig.model_validate({**config, "parts": ["spelling", "brand", "category"]}))


def _config(**settings: Any) -> CausalConfig:
    tiny = {"vocabulary": 400, "hidden": 64, "layers": 2, "heads": 2}
    usual = {"base": "tiny", "tiny": tiny, "train_on": "human", "lr": 5e-3, "batch_size": 3, "checkpoint": None}
    return CausalConfig.model_validate({**usual, "precision": "fp32", "threads": 1, **settings})


def _rows() -> pl.DataFrame:
    lines = []
    for brand in ("acme", "베타", ""):
        for thing, category in THINGS.items():
            query = f"{brand} {thing}".strip()
            spans = [{"start": 0, "end": len(brand), "text": brand, "type": "brand"}] if brand else []
            gold = {"spelling": query, "brand": spans, "category": [category]}
            lines.append((f"q{len(lines)}", f"g{len(lines)}", "train", json.dumps(gold), 1.0, query))
    return pl.DataFrame(lines, ["row_id", "group", "split", "gold", "weight", "query"], orient="row")


def test_what_it_writes_is_what_teachers_write(task: Task) -> None:
    answers = {
        "spelling": [["acme lamp", 0.75], ["acme lmap", 0.25]],
        "brand": [[0, 4, 0, 0.9], [5, 9, 0, 0.2]],
        "category": [["Home > Lamps", 0.6], ["Home > Bowls", 0.3], ["Wear > Shoes", 0.1]],
    }
    text = written(task, "acme lmap", answers)
    assert json.loads(text) == {
        "corrected": "acme lamp",
        "brand": ["acme"],
        "category": ["Home > Lamps", "Home > Bowls"],
    }
    read = _read(task, text, "acme lmap", 0.5)
    assert [answer.outcome for answer in read.values()] == ["labeled"] * 3
    assert read["category"].value == ["Home > Lamps", "Home > Bowls"]
    assert written(task, "acme lmap", {"category": [["", 1.0]]}) == '{"category": []}'


def test_an_answer_that_does_not_fit_is_counted_part_by_part(task: Task) -> None:
    read = _read(task, '{"corrected": "lamp", "brand": ["nobody"], "category": ["Home > Lamps"]}', "lamp", 0.5)
    assert {name: (answer.outcome, answer.value) for name, answer in read.items()} == {
        "spelling": ("labeled", "lamp"),
        "brand": ("invalid", None),
        "category": ("labeled", ["Home > Lamps"]),
    }
    assert {answer.outcome for answer in _read(task, "no JSON", "lamp", 0.5).values()} == {"invalid"}


def test_only_answers_are_learned_and_only_of_what_is_known(task: Task) -> None:
    torch.manual_seed(0)
    answers = [{"spelling": [["lamp", 1.0]], "brand": [], "category": [["Home > Lamps", 1.0]]}, {"brand": []}]
    table = pl.DataFrame(
        {
            "query": ["lamp", "acme"],
            ANSWERS: [json.dumps(answer) for answer in answers],
            "target": [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]],
            "weight": [1.5, 0.5],
        }
    )
    network = CausalAnswers.for_task(_config(), task=task, rows=table.lazy())
    network.model.eval()
    objective = CausalAnswerObjective(task)
    examples = list(objective.read(network, table))
    texts = [network.tokenizer.decode(example["input_ids"]) for example in examples]
    assert "Answer in JSON: corrected, brand, category." in texts[0]
    assert "Answer in JSON: brand." in texts[1]
    assert '{"brand": []}' in texts[1]
    columns = {name: torch.from_numpy(numbers) for name, numbers in objective.columns(table).items()}
    loss = objective.loss(network, network.model, network.collate(examples), columns).loss
    expected = 0.0
    for example, weight in zip(examples, (1.5, 0.5), strict=True):
        ids = torch.tensor([example["input_ids"]])
        whole: Any = network.model
        log_probs = whole.whole(input_ids=ids).logits[0].log_softmax(dim=-1)
        start = example["answer_from"][0]
        costs = [-log_probs[at, ids[0, at + 1]] for at in range(start, ids.shape[1] - 1)]
        expected += weight * float(sum(costs).detach()) / len(costs) / 2  # type: ignore[union-attr]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_one_that_has_learned_little_is_counted_and_never_fatal(task: Task, tmp_path: Path) -> None:
    rows = _rows()
    config = _config(epochs=2, answer_tokens=24)
    training = part_targets(config, rows, labels=None, votes=None, task=task, seed=0)
    fit_student(config, training, task=task, out=tmp_path / "s", seed=0)
    found = load_student(tmp_path / "s").predict(rows)
    assert found["part"].to_list() == ["spelling", "brand", "category"] * 9
    assert set(found["outcome"]) == {"invalid"}  # no JSON fits into so few tokens
    assert found["confidence"].to_list() == [0.0] * 27
    assert found["text"].null_count() == found["spans"].null_count() == found["labels"].null_count() == 27


def test_a_tiny_one_learns_the_shop(tmp_path: Path) -> None:
    config = {"type": "category", "inputs": ["query"], "categories": list(THINGS.values())}
    task = Task.from_config(TaskConfig.model_validate(config))
    rows = _rows().with_columns(gold=pl.Series([json.dumps([place]) for _ in range(3) for place in THINGS.values()]))
    section = _config(epochs=45)
    training = part_targets(section, rows, labels=None, votes=None, task=task, seed=0)
    fit_student(section, training, task=task, out=tmp_path / "s", seed=0)
    found = load_student(tmp_path / "s").predict(rows)
    assert found["labels"].to_list() == [json.loads(cell) for cell in rows["gold"]]
    assert set(found["outcome"]) == {"labeled"}
    assert found["confidence"].min() > 0.5


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ('{"expansions": ["red lamp", "lamp, red", "re', {"expansions": ["red lamp", "lamp, red"]}),
        ('{"corrected": "lamp", "brand": ["acme"', {"corrected": "lamp", "brand": ["acme"]}),
        # A text or a list of which nothing is there yet says nothing; "[]" says that there is none.
        ('{"brand": [], "corrected": "red la', {"brand": []}),
        ('{"corrected": "lamp", "brand": ["ac', {"corrected": "lamp"}),
        ('{"corrected": "lamp", "brand": []', {"corrected": "lamp", "brand": []}),
    ],
)
def test_of_an_answer_that_was_cut_what_is_whole_counts(cut: str, whole: dict[str, Any]) -> None:
    assert json.loads(whole_part(cut)) == whole


def test_what_is_no_json_stays_as_it_is() -> None:
    assert whole_part("lamp, lamp, lamp") == "lamp, lamp, lamp"
    assert whole_part("") == ""


def test_a_list_without_end_gives_its_first_items(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"type": "expansion", "inputs": ["query"]}
    task = Task.from_config(TaskConfig.model_validate(config))
    rows = pl.DataFrame({"row_id": ["q0"], "query": ["lamp"], ANSWERS: ['{"expansion": [["red lamp", 1.0]]}']})
    network = CausalAnswers.for_task(_config(answer_tokens=40), task=task, rows=rows.lazy())
    endless = network.prompt.tokens('{"expansions": ["red lamp", ' + '"lamp", ' * 40)[:40]
    monkeypatch.setattr("distill.students.causal.answers.write", lambda *_, **__: [endless])
    network.model.eval()
    with torch.inference_mode():
        (answer,) = network.answers(rows, batch_size=1)["expansion"]
    assert answer.outcome == "labeled" and answer.value == ["red lamp"]  # "lamp" is the query itself
    network.answer_tokens = 41  # it ended by itself, and what it wrote is no JSON
    with torch.inference_mode():
        (answer,) = network.answers(rows, batch_size=1)["expansion"]
    assert answer.outcome == "invalid"
