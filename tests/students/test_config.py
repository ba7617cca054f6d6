import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from distill.students.config import DcnConfig, EncoderConfig, StudentConfig

_STUDENT = TypeAdapter(StudentConfig)


def test_type_chooses_the_model() -> None:
    assert isinstance(_STUDENT.validate_python({"type": "dcn"}), DcnConfig)
    encoder = _STUDENT.validate_python({"type": "encoder", "train_on": "human"})
    assert isinstance(encoder, EncoderConfig)
    assert encoder.base == "roberta-base"


@pytest.mark.parametrize(
    ("written", "meant"), [("human", ("human",)), (["human", "labels"], ("human", "labels")), (("quick",), ("quick",))]
)
def test_train_on_is_one_source_or_several(written: object, meant: tuple[str, ...]) -> None:
    assert _STUDENT.validate_python({"type": "dcn", "train_on": written}).train_on == meant


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"type": "dcn", "train_on": []}, "train_on"),
        ({"type": "dcn", "train_on": ["human", "human"]}, "repeats a source"),
        ({"type": "encoder", "lrate": 1.0}, "lrate"),
        ({"type": "encoder", "epochs": 0}, "epochs"),
        ({"type": "encoder", "max_length": 4}, "max_length"),
        ({"type": "encoder", "validation": 1.0}, "validation"),
        ({"type": "encoder", "early_stopping": 2}, "validation"),
        ({"type": "gpt"}, "gpt"),
    ],
)
def test_bad_sections_are_refused(section: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        _STUDENT.validate_python(section)


def test_every_field_is_described() -> None:
    for config in (DcnConfig, EncoderConfig):
        bare = [name for name, field in config.model_fields.items() if not field.description and name != "type"]
        assert not bare


def test_config_costs_no_heavy_import() -> None:
    code = "import sys, distill.students.config; print(sorted({'torch', 'transformers', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
