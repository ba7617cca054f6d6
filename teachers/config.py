"""The ``teachers`` section of a recipe: one model a type. Imports nothing heavy, since ``distill --help`` reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.teachers.openai_config import OpenAITeacherConfig
from distill.teachers.price_config import PriceConfig
from distill.teachers.recorded_config import RecordedColumns, RecordedTeacherConfig

__all__ = ["OpenAITeacherConfig", "PriceConfig", "RecordedColumns", "RecordedTeacherConfig", "TeacherConfig"]

TeacherConfig = Annotated[OpenAITeacherConfig | RecordedTeacherConfig, Field(discriminator="type")]
"""One teacher of a recipe; ``type`` says which."""
