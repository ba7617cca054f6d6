"""What the heads of a query encoder say beyond the task, learned from its training rows and kept in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import EncoderConfig
from distill.students.queries.asked_task import head_kind, part_name
from distill.students.queries.letters import Alphabet
from distill.students.queries.part_targets import ANSWERS, expansion_vocabulary, spelling_pairs
from distill.students.queries.readings import Readings
from distill.students.queries.span_vocabulary import SpanVocabulary

PARTS_FILE = "parts.json"
"""In a student's folder: what the heads read and write."""


class Vocabulary(NamedTuple):
    """What heads say beyond the task: learned from the training rows.

    Attributes:
        alphabet: Of a spelling head that edits letters; None without one.
        texts: What a list of texts is chosen from, by part.
        spans: What spans are marked on.
        readings: Of a spelling head that chooses among corrections; None without one.
    """

    alphabet: Alphabet | None
    texts: Mapping[str, tuple[str, ...]]
    spans: SpanVocabulary = SpanVocabulary()
    readings: Readings | None = None

    @classmethod
    def of(cls, task: Task, rows: pl.LazyFrame, config: EncoderConfig) -> Vocabulary:
        """Learns what heads say from training rows.

        Args:
            task: What is answered.
            rows: The task's source and :data:`~distill.students.queries.part_targets.ANSWERS`.
            config: The student's section.

        Raises:
            StudentError: A list of texts has nothing to choose from.
        """
        kinds = {part_name(single): head_kind(single) for single in task.singles}
        table = rows.select(task.source, ANSWERS).collect()
        texts = {name: expansion_vocabulary(table, name) for name, kind in kinds.items() if kind == "ranking"}
        for name, found in texts.items():
            if not found:
                raise StudentError(
                    f"{name}: no text to choose from in the training rows; take the part out of the task"
                )
        spelled = [name for name, kind in kinds.items() if kind == "edits"]
        marked = [name for name, kind in kinds.items() if kind == "spans"]
        spans = SpanVocabulary.of(table, marked, task=task, config=config.spans)
        if spelled and config.corrector is not None:
            return cls(None, texts, spans, Readings.from_section(config.corrector))
        alphabet = Alphabet.of(spelling_pairs(table, spelled[0], source=task.source)) if spelled else None
        return cls(alphabet, texts, spans)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Reads it from a student's folder.

        Raises:
            StudentError: The folder is not whole.
        """
        try:
            found = json.loads((folder / PARTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: not a whole student ({error}); train the student again") from error
        alphabet = found["alphabet"] and Alphabet(**{name: tuple(value) for name, value in found["alphabet"].items()})
        texts = {name: tuple(value) for name, value in found["texts"].items()}
        words = found.get("words")  # what was trained before words were read has none
        spans = SpanVocabulary(None if words is None else tuple(words), bool(found.get("listed")))
        return cls(alphabet, texts, spans, Readings.load(folder) if found.get("corrector") else None)

    def save(self, folder: Path) -> None:
        """Writes it into a student's folder, readings' words and counts in files of their own."""
        alphabet = self.alphabet
        said = {
            "alphabet": alphabet and {name: getattr(alphabet, name) for name in ("letters", "replace", "append")},
            "texts": self.texts,
            "words": self.spans.letters,
            "listed": self.spans.listed,
            **({"corrector": True} if self.readings is not None else {}),
        }
        if self.readings is not None:
            self.readings.save(folder)
        (folder / PARTS_FILE).write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
