"""A task: what is asked of a row, and what an answer may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from distill.labeling.brands import BrandList
from distill.labeling.category_tree import SEPARATOR, CategoryTree, read_categories, tree_of_labels
from distill.labeling.guideline import Guideline
from distill.labeling.task_config import CHOICES, LISTS, SPANS, TaskConfig, TaskType

__all__ = ["OutputKind", "Task", "TaskConfig"]

OutputKind = Literal["choice", "spans", "text", "parts"]
"""What an answer is.

``choice``: one of a closed set, or several of it. ``spans``: parts of an input. ``text``: a text, or a ranked list of
texts. ``parts``: an answer to each of several tasks, asked in one request.
"""

_MOST = {"expansion": 6, "text": 6}
_MOST_OTHERWISE = 4
_FIELDS = {"spelling": "corrected", "expansion": "expansions"}


@dataclass(frozen=True)
class Task:
    """What is asked of a row.

    Attributes:
        labels: The closed set. Distributions everywhere are lists in this order. Ordered from best to worst
            where ``ordered``.
        inputs: Input columns, in the order in which judges and students see them; the first is the query.
        positive: The label that counts as a match (exact-match accuracy, AUC); None where there is none.
        ordered: Whether labels are grades, so that a near miss is not a far one.
        guideline: What judges are told; None for a bare question.
        instructions: Paragraph that opens the prompt; None for the built-in one.
        kind: What an answer is.
        images: Columns with the address or path of an image of the row.
        type: What the recipe calls it, which decides how it is put into words; None for a plain choice or relevance.
        several: Whether an answer is a list: of labels, or of texts, the best first.
        most: The most labels, spans or texts of an answer.
        of: The input that spans and texts are of; empty for the first one.
        types: What spans may be.
        brands: What spans are linked to; None without a list.
        evidence: Columns shown in a block of their own, as hints that may be wrong.
        most_options: More labels than this are asked level by level; None for no bound of the task's own.
        parts: Where ``kind`` is ``parts``, the tasks asked together, each with its ``part``.
        part: Its name among them, which votes and labels carry; None where it is asked on its own.
    """

    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    positive: str | None = None
    ordered: bool = False
    guideline: Guideline | None = None
    instructions: str | None = None
    kind: OutputKind = "choice"
    images: tuple[str, ...] = ()
    type: TaskType | None = None
    several: bool = False
    most: int = _MOST_OTHERWISE
    of: str = ""
    types: tuple[str, ...] = ()
    brands: BrandList | None = None
    evidence: tuple[str, ...] = ()
    most_options: int | None = None
    parts: tuple[Task, ...] = ()
    part: str | None = None

    @classmethod
    def from_config(cls, config: TaskConfig) -> Task:
        """Builds the task and reads its guideline.

        Raises:
            DataError: The guideline is missing or cannot be read.
        """
        guideline = Guideline.load(config.guideline) if config.guideline else None
        if config.type != "query_understanding":
            return _single(config, config.type, guideline=guideline)
        parts = tuple(_single(config, name, guideline=guideline, part=name) for name in config.parts)
        return cls(
            labels=(),
            inputs=config.inputs,
            guideline=guideline,
            instructions=config.instructions,
            kind="parts",
            images=config.images,
            type=config.type,
            of=config.of or "",
            evidence=config.evidence,
            parts=parts,
        )

    @property
    def positive_index(self) -> int | None:
        """Position of the positive label in ``labels``."""
        return None if self.positive is None else self.labels.index(self.positive)

    @property
    def closed(self) -> bool:
        """Whether an answer is exactly one of ``labels``: what a distribution, a classifier and a logprob lane give."""
        return self.kind == "choice" and not self.several

    @property
    def source(self) -> str:
        """The input that spans and texts are of."""
        return self.of or self.inputs[0]

    @property
    def singles(self) -> tuple[Task, ...]:
        """The tasks that an answer answers, each of one kind: the parts, or the task itself."""
        return self.parts or (self,)

    @property
    def tree(self) -> CategoryTree | None:
        """The tree of the labels of a category task with paths; None for any other task."""
        if self.type != "category" or not any(SEPARATOR in label for label in self.labels):
            return None
        return tree_of_labels(self.labels)

    @property
    def field(self) -> str:
        """The field of a JSON answer that holds it."""
        if self.closed and self.part is None:
            return "label"
        if self.type in ("spelling", "brand", "category", "expansion"):
            return _FIELDS.get(self.type, self.type)
        if self.kind == "choice":
            return "labels" if self.several else "label"
        return "spans" if self.kind == "spans" else "texts" if self.several else "text"

    @property
    def answer_column(self) -> str:
        """The column of votes and labels with an answer: ``label``, ``labels``, ``spans``, ``text`` or ``texts``."""
        if self.kind == "choice":
            return "labels" if self.several else "label"
        return "spans" if self.kind == "spans" else "texts" if self.several else "text"

    @property
    def basis(self) -> list[Any]:
        """Plain values, for fingerprints, of what a task has beyond a plain choice; empty for a plain choice."""
        if self.kind == "choice" and self.type is None and not self.several and not self.evidence:
            return []
        own: list[Any] = [self.kind, self.type, self.several, self.most, self.of, self.types, self.evidence]
        own += [self.most_options, self.part, self.labels, self.brands and self.brands.basis]
        return [*own, *(part.basis for part in self.parts)]

    def parse_gold(self, gold: str) -> Any:
        """A gold cell of the rows table as a value; see :mod:`distill.labeling.rows.gold`.

        Returns:
            ``str`` for one label or text, ``list[str]`` for several, ``list[SpanAnswer]`` for spans; for several parts
            a dict of those by part, without the parts that nobody gave.

        Raises:
            DataError: It is not in canonical form.
        """
        from distill.labeling.rows.gold import parse_gold

        return parse_gold(self, gold)


def _single(config: TaskConfig, name: TaskType, *, guideline: Guideline | None, part: str | None = None) -> Task:
    """The task of one type, as a whole or as a part."""
    relevance = name == "relevance"
    labels = config.labels if part is None else ()
    if part == "category":
        assert config.categories is not None, "the config has been checked"
        labels = read_categories(config.categories)
    several = name in LISTS or (
        config.allows_several if part is None else name == "category" and config.several is not False
    )
    plain = name in ("relevance", "choice")
    return Task(
        labels=labels,
        inputs=config.inputs,
        positive=config.positive or (config.labels[0] if relevance else None),
        ordered=relevance if config.ordered is None else config.ordered,
        guideline=guideline,
        instructions=config.instructions,
        kind="choice" if name in CHOICES else "spans" if name in SPANS else "text",
        images=config.images,
        type=None if plain else name,
        several=several,
        most=config.most or _MOST.get(name, _MOST_OTHERWISE),
        of=config.of or "",
        types=config.types or ((name,) if name in SPANS else ()),
        brands=BrandList.load(config.brands) if config.brands and name == "brand" else None,
        evidence=config.evidence,
        most_options=config.most_options if name == "category" else None,
        part=part,
    )
