"""What a student is and how it was made: ``distill_student.json`` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.abstention import Abstention
from distill.students.calibration import Calibration
from distill.students.queries.asked_task import read_brands, task_of
from distill.students.queries.parts_info import PartInfo
from distill.students.traces.clauses import TracesInfo

INFO_FILE = "distill_student.json"


FORMAT_VERSION = 2


PARTS_FORMAT_VERSION = 3
"""Of a student that an older distill would take for another: one whose answers are no single label, or one with a
linear model beside its network."""


@dataclass(frozen=True)
class StudentInfo:
    """What ``distill_student.json`` says.

    Attributes:
        type: ``dcn``, ``encoder`` or ``causal``.
        labels: The task's labels, in the order of the logits.
        inputs: Input columns, the query first.
        positive: The label that counts as a match.
        ordered: Whether labels are grades.
        max_length: Tokens of a pair; None for a student that reads no tokens.
        precision: What it was trained in.
        parameters: Of the network, and of the linear model and the sentence encoder beside it.
        seed: Seed of the training.
        trained_on: Entries of ``train_on``.
        rows: Training rows by entry of ``train_on``.
        config: The student's section of the recipe.
        versions: Versions of what trained it.
        calibration: How its probabilities were set right.
        abstention: Which rows it answers; None where it answers all.
        groups: Groups of the training rows by entry of ``train_on``.
        facts: What was counted in the training rows; see :attr:`distill.students.fit.FitResult.facts`.
        traces: What it learned from its teachers' reasoning; None where it learned from labels alone.
        asked: The task where its answers are no single label, see
            :func:`distill.students.queries.asked_task.record_of`.
        parts: What it keeps of each part then.
        format_version: Of this file.
        wide_share: Share of the linear model in its scores, see :mod:`distill.students.wide`; 0 where the network alone
            was shown to be better, None without one.
    """

    type: str
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    positive: str | None
    ordered: bool
    max_length: int | None
    precision: str
    parameters: int
    seed: int
    trained_on: tuple[str, ...]
    rows: dict[str, int]
    config: dict[str, Any]
    versions: dict[str, str]
    calibration: Calibration = field(default_factory=Calibration)
    abstention: Abstention | None = None
    groups: dict[str, int] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)
    traces: TracesInfo | None = None
    asked: dict[str, Any] | None = None
    parts: dict[str, PartInfo] | None = None
    format_version: int = FORMAT_VERSION
    wide_share: float | None = None

    def write(self, folder: Path) -> None:
        """Writes ``distill_student.json``."""
        said = asdict(self)
        if self.asked is None:
            del said["asked"], said["parts"]
        if self.wide_share is None:
            del said["wide_share"]
        text = json.dumps(said, indent=2, ensure_ascii=False)
        (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> StudentInfo:
        """Reads ``distill_student.json``.

        Raises:
            StudentError: There is none, or a newer distill wrote it.
        """
        try:
            found = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: not a student ({error}); give the folder that holds {INFO_FILE}") from error
        version = found.get("format_version", 0)
        if version > PARTS_FORMAT_VERSION:
            raise StudentError(
                f"{folder}: {INFO_FILE} has format {version}, distill reads up to {PARTS_FORMAT_VERSION}; upgrade "
                "distill"
            )
        found["calibration"] = Calibration.of_dict(found["calibration"])
        if found.get("abstention") is not None:
            found["abstention"] = Abstention(**found["abstention"])
        found["traces"] = TracesInfo.of(found["traces"]) if found.get("traces") else None
        if found.get("parts") is not None:
            found["parts"] = {name: PartInfo.of(part) for name, part in found["parts"].items()}
        for name in ("labels", "inputs", "trained_on"):
            found[name] = tuple(found[name])
        return cls(**found)


def task_of_info(folder: Path, info: StudentInfo) -> Task:
    """What a student was trained for; brands are read from its folder."""
    if info.asked is not None:
        return task_of(info.asked, inputs=info.inputs, brands=read_brands(folder))
    return Task(labels=info.labels, inputs=info.inputs, positive=info.positive, ordered=info.ordered)
