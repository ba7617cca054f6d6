import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from distill.labeling.errors import RecipeError
from distill.labeling.task import Task
from distill.recipe import load_recipe
from distill.students.config import DcnConfig, EncoderConfig
from distill.students.losses.config import AnyLoss, Gce, LossConfig, LossName, SoftCe
from distill.students.task_fit import student_problems

_LOSS: TypeAdapter[AnyLoss] = TypeAdapter(LossConfig)
NAMES = get_args(LossName)

RECIPE = """
version: 1
name: losses
task: {{type: {type}, labels: [a, b, c], inputs: [query, title]}}
students:
  one: {{type: dcn, train_on: human, {section}}}
"""


def _problems(folder: Path, section: str, *, type_: str = "relevance") -> str:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(type=type_, section=section), encoding="utf-8")
    try:
        load_recipe(path)
    except RecipeError as error:
        return str(error)
    return ""


def test_the_default_is_soft_cross_entropy() -> None:
    assert DcnConfig().loss == SoftCe()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_loss_with_its_defaults(name: str, tmp_path: Path) -> None:
    assert _LOSS.validate_python(name) == _LOSS.validate_python({"type": name})
    assert _problems(tmp_path, f"loss: {name}") == ""


def test_names_are_all_losses() -> None:
    union = get_args(AnyLoss)[0]
    assert [member.model_fields["type"].default for member in get_args(union)] == list(NAMES)


def test_settings_survive_a_job_folder() -> None:
    config = DcnConfig.model_validate({"loss": {"type": "gce", "q": 0.5, "small_loss": {"drop": 0.1}}, "prune": {}})
    assert isinstance(config.loss, Gce)
    assert DcnConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_editors_are_told_of_names_and_settings() -> None:
    loss = json.dumps(EncoderConfig.model_json_schema()["properties"]["loss"])
    assert all(f'"{name}"' in loss for name in NAMES)
    assert "#/$defs/Gce" in loss


def test_every_setting_is_described() -> None:
    for member in get_args(get_args(AnyLoss)[0]):
        bare = [name for name, field in member.model_fields.items() if not field.description and name != "type"]
        assert not bare


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("loss: {type: gce, q: 2}", "students.one.loss.q: got 2"),
        ("loss: {type: gce, k: 2}", "students.one.loss.k: unknown key; known: q, small_loss, type"),
        ("loss: gec", "students.one.loss: unknown type 'gec'; did you mean 'gce'?"),
        ("loss: {type: forward_correction, matrices: {human: [[0.5, 0.4], [0, 1]]}}", "shares that sum to one"),
        (
            "loss: {type: forward_correction, matrices: {labels: [[1, 0], [0, 1]]}}",
            "'labels', which is not in train_on",
        ),
        ("loss: {type: forward_correction, matrices: {human: [[1, 0], [0, 1]]}}", "2 lines for 3 labels"),
    ],
)
def test_mistakes_are_told_with_their_place(section: str, told: str, tmp_path: Path) -> None:
    assert told in _problems(tmp_path, section)


@pytest.mark.parametrize("section", ["loss: rps", "loss: emd", "loss: listwise", "loss: margin_mse", "head: ordered"])
def test_grades_are_asked_for_where_they_are_needed(section: str, tmp_path: Path) -> None:
    assert "set task.ordered" in _problems(tmp_path, section, type_="choice")
    assert _problems(tmp_path, section) == ""


def test_a_positive_label_is_grade_enough_for_pairs() -> None:
    task = Task(labels=("a", "b"), inputs=("query",), positive="a")
    assert not list(student_problems(DcnConfig.model_validate({"loss": "listwise"}), task))
    assert list(student_problems(DcnConfig.model_validate({"loss": "rps"}), task))


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValidationError, match="a line a label"):
        _LOSS.validate_python({"type": "forward_correction", "matrices": {"labels": [[1.0, 0.0]]}})
