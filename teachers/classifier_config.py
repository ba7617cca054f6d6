"""The section of a teacher that is a Hugging Face sequence classifier."""

from __future__ import annotations

import string
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from distill.teachers.label_map import LabelMap
from distill.teachers.model_config import SECTION


class ClassifierTeacherConfig(BaseModel):
    """A sequence classifier that runs here: a fine-tuned encoder, a cross-encoder, one of a hub."""

    model_config = SECTION

    type: Literal["classifier"] = Field(description="a Hugging Face sequence classifier that runs in this process")
    model: str = Field(
        min_length=1,
        description="a Hugging Face id, a folder, or package:NAME/FOLDER for one inside an installed Python package",
    )
    revision: str | None = Field(None, description="commit or tag of a hub model; a branch may change under the ledger")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    label_map: LabelMap = Field(
        default_factory=dict,
        description="its labels (id2label of its config) in the task's words; several may become one, and those left "
        "out stay as they are. A model of one logit has the labels positive and negative",
    )
    first: str | None = Field(
        None, description="template of the first text, such as '{query}'; the task's first input by default"
    )
    second: str | None = Field(
        None,
        description="template of the second text, such as '{title} {brand}'; the other inputs with their names by "
        "default, '' for a model of one text",
    )
    batch_size: int = Field(32, ge=1, description="rows scored at once")
    max_length: int = Field(256, ge=8, description="tokens of a pair; the longer text is cut first")
    device: str = Field("auto", description="auto: cuda where there is one, else cpu; or cuda:1, mps, …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on cuda, float32 elsewhere"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; as many as torch takes by default")

    @field_validator("first", "second", mode="after")
    @classmethod
    def _is_a_template(cls, value: str | None) -> str | None:
        try:
            named = [name for _, name, _, _ in string.Formatter().parse(value or "") if name is not None]
        except ValueError as error:
            raise ValueError(f"no template: {error}, got {value!r}; write inputs as {{title}}") from None
        if odd := [name for name in named if not name.isidentifier()]:
            raise ValueError(f"no template: got the field {odd[0]!r} in {value!r}; write inputs as {{title}}")
        return value

    @property
    def template_inputs(self) -> tuple[str, ...]:
        """Inputs that the templates name."""
        parts = [part for text in (self.first, self.second) if text for part in string.Formatter().parse(text)]
        return tuple(dict.fromkeys(name for _, name, _, _ in parts if name))
