"""From a recipe's section to a teacher."""

from __future__ import annotations

from distill.labeling.teacher import Teacher
from distill.teachers.config import GeminiTeacherConfig, OpenAITeacherConfig, TeacherConfig


def build_teacher(name: str, config: TeacherConfig) -> Teacher:
    """Builds the teacher that a section describes. A recorded one reads its file now; no one is called.

    Args:
        name: Its name in the recipe.
        config: Its section.

    Raises:
        DataError: A recorded teacher's file is missing or cannot be used.
        MissingDependencyError: The package that reaches it is not installed.
    """
    if isinstance(config, GeminiTeacherConfig):
        from distill.teachers.gemini import GeminiTeacher

        return GeminiTeacher(name, config)
    if isinstance(config, OpenAITeacherConfig):
        from distill.teachers.openai import OpenAITeacher

        return OpenAITeacher(name, config)
    from distill.teachers.recorded import RecordedTeacher

    return RecordedTeacher(name, config)
