"""A trained student as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from pydantic_core import from_json, to_json

from distill.labeling.task import Task
from distill.labeling.teacher import Prompt, Request
from distill.teachers.local_model import LocalModelTeacher, folder_digest
from distill.teachers.student_config import StudentTeacherConfig


class Predicts(Protocol):
    """What is needed of a student; the real one is in a layer beside this one."""

    task: Task

    def predict(self, rows: pl.DataFrame, *, batch_size: int, precision: str, threads: int | None) -> pl.DataFrame:
        """Takes ``row_id`` and the inputs; gives ``row_id`` and ``probs`` in the order of the task's labels."""
        ...


LoadStudent = Callable[[Path], Predicts]


class StudentTeacher(LocalModelTeacher):
    """A student that answers with its own distribution.

    A request is a digest of the student's folder and the row's inputs: retraining the student asks every row again,
    moving its folder none.

    Args:
        name: Its name in the recipe.
        config: Its section.
        load: Loads the folder, when the first row is asked.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, name: str, config: StudentTeacherConfig, *, load: LoadStudent) -> None:
        super().__init__(name, family=config.family or name, label_map=config.label_map, batch_size=config.batch_size)
        self._config = config
        self._load = load
        self._digest = folder_digest(config.path)
        self._student: Predicts | None = None

    @property
    def identity(self) -> Sequence[str]:
        """The folder's digest, and the precision asked for."""
        return ("student", self._digest, self._config.precision)

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the row's inputs down."""
        return self.request(to_json(prompt.values), sample=sample, row_id=prompt.row_id)

    def load(self) -> None:
        """Loads the student."""
        self._student = self._load(self._config.path)

    def unload(self) -> None:
        """Lets go of it."""
        self._student = None

    def score(self, parts: Sequence[bytes]) -> list[Mapping[str, float]]:
        """Predicts; an input that the task does not have fails the rows."""
        assert self._student is not None, "open() comes before ask()"
        config, inputs = self._config, self._student.task.inputs
        values: list[dict[str, Any]] = [from_json(part) for part in parts]
        if missing := [name for name in inputs if name not in values[0]]:
            raise ValueError(
                f"the student reads the inputs {missing}, the task has {', '.join(values[0])}; add them to task.inputs"
            )
        columns = {name: [row[name] for row in values] for name in inputs}
        rows = pl.DataFrame({"row_id": [str(number) for number in range(len(values))], **columns})
        found = self._student.predict(
            rows, batch_size=config.batch_size, precision=config.precision, threads=config.threads
        )
        return [dict(zip(self._student.task.labels, probs, strict=True)) for probs in found["probs"].to_list()]
