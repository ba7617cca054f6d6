"""The ``teachers`` section of a recipe: one model a type. Imports nothing heavy, since ``distill --help`` reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.teachers.gemini_config import GeminiTeacherConfig
from distill.teachers.openai_config import OpenAITeacherConfig
from distill.teachers.price_config import PriceConfig
from distill.teachers.recorded_config import RecordedColumns, RecordedTeacherConfig
from distill.teachers.vllm_config import VLLMOfflineConfig, VLLMTeacherConfig

__all__ = [
    "GeminiTeacherConfig",
    "OpenAITeacherConfig",
    "PriceConfig",
    "RecordedColumns",
    "RecordedTeacherConfig",
    "TeacherConfig",
    "VLLMOfflineConfig",
    "VLLMTeacherConfig",
]

TeacherConfig = Annotated[
    GeminiTeacherConfig | OpenAITeacherConfig | RecordedTeacherConfig | VLLMOfflineConfig | VLLMTeacherConfig,
    Field(discriminator="type"),
]
"""One teacher of a recipe; ``type`` says which."""
