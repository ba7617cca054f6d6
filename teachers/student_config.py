"""The section of a teacher that is a trained student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from distill.teachers.model_config import SECTION


class StudentTeacherConfig(BaseModel):
    """A student of an earlier run as a teacher: self-training, or a specialist beside large models."""

    model_config = SECTION

    type: Literal["student"] = Field(description="a student that was trained before")
    path: Path = Field(description="the student's folder, such as runs/first/students/encoder")
    family: str | None = Field(
        None,
        min_length=1,
        description="models that share ancestry share a family; a student errs like the teachers that taught it, so "
        "give theirs where they are asked too; its own name by default",
    )
    label_map: dict[str, str] = Field(
        default_factory=dict, description="the student's labels in the task's words; those left out stay as they are"
    )
    batch_size: int = Field(64, ge=1, description="rows scored at once")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware computes in it; fp32 gives the same digits everywhere"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; as many as torch takes by default")
