"""What an encoder's spans are marked on, learned from its training rows: words with their letters, or word pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.labeling.task import Task
from distill.students.queries.asked_task import brands_of
from distill.students.queries.config import SpansSection
from distill.students.queries.part_targets import span_texts
from distill.students.queries.span_words import WordReader, letter_table, words_fit

_SPANS_OF_WORDS = 0.98
"""Share of the training spans that have to begin and end where words do, so that words are marked."""


class SpanVocabulary(NamedTuple):
    """What words are read with.

    Attributes:
        letters: Letters of words; None where word pieces are marked.
        listed: Whether each word comes with what the task's list of brands says of it.
    """

    letters: tuple[str, ...] | None = None
    listed: bool = False

    @classmethod
    def of(
        cls, table: pl.DataFrame, parts: Sequence[str], *, task: Task, config: SpansSection | None
    ) -> SpanVocabulary:
        """Learns it from training rows.

        Args:
            table: With the task's source and answers.
            parts: Names of the parts that are spans; without any nothing is read.
            task: What is answered.
            config: Of the student's section.
        """
        units = (config or SpansSection()).units
        if units == "auto":
            fit = all(words_fit(span_texts(table, name, source=task.source), least=_SPANS_OF_WORDS) for name in parts)
            units = "words" if fit else "pieces"
        if not parts or units == "pieces":
            return cls()
        listed = (config or SpansSection()).listed and brands_of(task) is not None
        return cls(letter_table(table[task.source].drop_nulls()), listed)

    def reader(self, task: Task) -> WordReader | None:
        """What reads words; None where word pieces are marked.

        Raises:
            StudentError: The list of brands is gone.
        """
        if self.letters is None:
            return None
        brands = brands_of(task) if self.listed else None
        if self.listed and brands is None:
            raise StudentError("brands.jsonl is gone, by which words are read; copy it there or train again")
        names = BrandDictionary(name for own in brands.entries for name in (own[0], *own[1])) if brands else None
        return WordReader(self.letters, find_names=names.spans if names else None)
