"""A run under way: what its stages share, and the rule by which one is skipped."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.labeling.errors import DistillError
from distill.labeling.task import Task
from distill.progress import Progress
from distill.recipe import Recipe
from distill.run_folder import RunFolder, StageRecord, fingerprint

_VERSIONED = ("distill", "torch", "transformers", "polars", "numpy", "scikit-learn", "aiohttp")


@dataclass(frozen=True)
class Ended:
    """How a stage's work ended.

    Attributes:
        summary: One line for a person.
        facts: Measurements to keep with the stage's record.
        final: False where the same work may give more later: a teacher was down, the budget ended.
        error: Raised once what was done is on record.
    """

    summary: str
    facts: dict[str, Any] = field(default_factory=dict)
    final: bool = True
    error: DistillError | None = None


@dataclass
class Session:
    """A run under way: what the stages share.

    Attributes:
        recipe: What the run is.
        folder: Where it writes; locked.
        progress: Where it shows how far it is.
        limit: Use about this many rows, None for all.
        task: The recipe's task, with its guideline read.
        retry_failed: Ask only what failed, and leave every other vote as it is.
        marks: Fingerprints of the stages that are done, by key.
        earlier: A folder whose stages are taken over where they read the same: the round before, or of a run with
            rounds its last one.
        held_labels: Labels that stand whatever the votes are merged to: of rows that rounds are measured on.
        examples: Rows table that examples for prompts are taken from, where it is not the rows that are asked.
        done: Keys of the stages that were done here, and not skipped or taken over.
    """

    recipe: Recipe
    folder: RunFolder
    progress: Progress
    limit: int | None
    retry_failed: bool = False
    marks: dict[str, str] = field(default_factory=dict)
    earlier: RunFolder | None = None
    held_labels: Path | None = None
    examples: Path | None = None
    done: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        assert self.recipe.task is not None
        self.task = Task.from_config(self.recipe.task)

    def start(self) -> None:
        """Writes down what this run is made of, before anything is asked or trained."""
        import yaml

        recipe = self.recipe.document()
        earlier = self.folder.manifest
        # First, since it is what says that the folder is this recipe's.
        self.folder.write_manifest(
            {
                "name": self.recipe.name,
                "seed": self.recipe.seed,
                "limit": self.limit,
                "recipe_hash": fingerprint(recipe),
                "guideline": self.task.guideline and self.task.guideline.sha256,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "versions": _versions(),
                "first_started": earlier.get("first_started") or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        )
        self.folder.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
        self.folder.note("run_started", command=sys.argv, recipe=self.recipe.name, limit=self.limit)

    def finish(self) -> None:
        """Notes that every stage asked for ended."""
        self.folder.note("run_finished", seconds=round(time.monotonic() - self.began, 2))

    def stage(
        self,
        key: str,
        *,
        reads: Any,
        outputs: Sequence[Path],
        work: Callable[[], Ended],
        again: bool = False,
    ) -> None:
        """Does a stage, or skips it; its fingerprint is in ``marks`` afterwards.

        Args:
            key: Names the stage in ``stages.json``.
            reads: Plain values that stand for everything the stage reads.
            outputs: Files and folders that it writes.
            work: Does it.
            again: Do it also where nothing has changed.

        Raises:
            DistillError: As the work raises it, or ends in it.
        """
        mark = self.marks[key] = fingerprint([version("distill"), key, reads])
        if not again and self._is_there(key, mark):
            self.progress.skipped(key)
            self.folder.note("stage_skipped", stage=key)
            return
        self.progress.started(key)
        self.folder.note("stage_started", stage=key)
        began = time.monotonic()
        ended = work()
        seconds = time.monotonic() - began
        record = StageRecord(
            fingerprint=mark,
            outputs=self.folder.describe_outputs(outputs),
            final=ended.final,
            facts=ended.facts,
            seconds=round(seconds, 3),
        )
        self.folder.record(key, record)
        self.done.add(key)
        self.folder.note("stage_finished", stage=key, seconds=round(seconds, 3), facts=ended.facts)
        self.progress.finished(key, ended.summary, seconds)
        if ended.error is not None:
            raise ended.error

    def _is_there(self, key: str, mark: str) -> bool:
        if self.folder.is_current(key, mark):
            return True
        return self.earlier is not None and self.folder.take_over(key, mark, self.earlier)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
