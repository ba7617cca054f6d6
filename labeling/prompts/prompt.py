"""The question put to a teacher about one row, before any provider's dialect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.prompts.fence import CUT_MARK, clean, cut_chars, fence, fence_apart, field_lines, field_text
from distill.labeling.prompts.field_cut import cut_fields
from distill.labeling.prompts.system import answer_schema, example_of, options_of, pack_schema, system_text
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Prompt

_MAX_ECHO_CHARS = 1000
"""A model that rambled once is not shown more than this of it when it is asked again."""

# What `clean` may have to change: anything not printable, spaces other than the plain one, marks of template tokens.
_ODD = r"[\p{C}\p{Zl}\p{Zp}<>\[]|[\p{Zs}--\x20]"
EXAMPLES_COLUMN = "_examples"
"""Column of a batch that says which examples a row is shown, as positions."""


_EXAMPLES_HEAD = "Items that people have judged:"
_EXAMPLES_END = "The item to judge:"
_PACK_EXAMPLES_END = "The items to judge:"
_HINTS_HEAD = "Hints that a search found:"


class NotAskedError(DataError):
    """A row is not asked about; control flow of the engine, which ends it as ``unsent``. The message says why."""


class Prompted(NamedTuple):
    """A row and its prompt, or why it has none."""

    row_id: str
    prompt: Prompt | Exception


class Prompter:
    """Writes the prompt of each row for one task and one answer format.

    The system text and the schema are the same for every row, so that servers keep the prefix in their cache. The
    user text is a pure function of the row's inputs: the same row makes the same request, run after run.

    Args:
        task: What is asked.
        answer: What is to be written besides the label.
        max_field_chars: Longer fields are cut to this many characters, the visible :data:`CUT_MARK` included.
        row_tokens: Cut by this budget for the whole row instead, the longest fields first; see
            :mod:`distill.labeling.prompts.field_cut`.
        examples: Texts of judged items, to be shown before the item; rows then have to have the column
            :data:`EXAMPLES_COLUMN`, which says which of them. The system text stays the same for every row, so the
            server's prefix cache reaches as far as the examples, and through them where rows share theirs.
    """

    def __init__(
        self,
        task: Task,
        answer: AnswerFormat,
        *,
        max_field_chars: int = 4000,
        row_tokens: int | None = None,
        examples: Sequence[str] | None = None,
    ) -> None:
        if max_field_chars <= len(CUT_MARK):
            raise ValueError(f"max_field_chars: got {max_field_chars}, must be more than {len(CUT_MARK)}")
        self.task = task
        self.answer = answer
        self.max_field_chars = max_field_chars
        self.row_tokens = row_tokens
        self.examples = examples
        self.columns = list(dict.fromkeys(("row_id", *task.inputs, *task.evidence, *task.images)))
        if examples is not None:
            self.columns.append(EXAMPLES_COLUMN)
        if answer.explains:
            self.columns += ["gold", "split"]
        self.schema = answer_schema(task, answer)
        self.system = system_text(task, answer, examples=examples is not None)
        self.options = options_of(task)
        self._pack_schemas: dict[int, dict[str, Any]] = {}

    def __call__(self, row: Mapping[str, Any]) -> Prompt:
        """Writes the prompt of one row.

        Args:
            row: A line of the ``rows`` table: ``row_id`` and every input of the task.

        Raises:
            DataError: An input column is missing.
            NotAskedError: A label is to be explained and the row has none that may be shown, see :meth:`not_asked`.
        """
        known = self._known_label(row) if self.answer.explains else ""
        try:
            values = {name: field_text(row[name]) for name in self.task.inputs}
            evidence = {name: field_text(row[name]) for name in self.task.evidence}
            row_id = str(row["row_id"])
            shown = [] if self.examples is None else [self.examples[number] for number in row[EXAMPLES_COLUMN]]
            images = tuple(str(row[name]) for name in self.task.images if row[name])
        except KeyError as error:
            raise DataError(
                f"row {row.get('row_id', '?')}: the task needs the column {error.args[0]!r}, "
                f"got {', '.join(map(str, row))}; add it to the rows or correct task.inputs"
            ) from None
        if self.row_tokens is None:
            cut = cut_chars(values, self.max_field_chars)
        else:
            cut = cut_fields(values, self.row_tokens, mark=CUT_MARK)
        if evidence:
            cut += cut_chars(evidence, self.max_field_chars)
            user = _with_evidence(values, evidence)
        else:
            user = fence(field_lines(values), known_label=known)
        if shown:
            user = "\n\n".join([_EXAMPLES_HEAD, *shown, _EXAMPLES_END, user])
        return Prompt(
            row_id,
            self.system,
            user,
            self.schema,
            prefix=str(row[self.task.inputs[0]]),
            cut=cut,
            options=self.options,
            values=values,
            examples=tuple(shown),
            images=images,
            known_label=known,
            source="" if self.task.closed else str(row[self.task.source] or ""),
            evidence=evidence,
        )

    def not_asked(self, row: Mapping[str, Any]) -> str | None:
        """Why a row is not asked about; None where it is.

        Only where a known label is to be explained: rows without one are left out, and so are those of split test,
        whose labels nobody is ever shown.
        """
        if not self.answer.explains:
            return None
        if row["split"] == "test":
            return "its label is that of a test row, which is never shown"
        if row["gold"] not in self.task.labels:
            return "it has no known label to explain"
        return None

    def _known_label(self, row: Mapping[str, Any]) -> str:
        if (reason := self.not_asked(row)) is not None:
            raise NotAskedError(f"row {row.get('row_id', '?')}: {reason}")
        return str(row["gold"])

    def steps(self, table: pl.DataFrame, rows: int) -> Iterator[list[Prompted]]:
        """Writes the prompts of a table, as :meth:`__call__` would those of its rows, in half the time.

        Cells that need nothing but their outer spaces taken off, which are nearly all, are put together by polars, for
        the whole table at once.

        Args:
            table: Lines of the ``rows`` table.
            rows: How many are handed out at a time.

        Yields:
            Rows with their prompts, ``rows`` at a time; where a row has none, what went wrong.
        """
        simple = self.row_tokens is None and self.examples is None and not self.task.images
        simple &= self.task.closed and not self.task.evidence
        plain = self._plain(table) if simple and not self.answer.explains else None
        for start in range(0, table.height, rows):
            step = table.slice(start, rows)
            if plain is None:
                yield [Prompted(row["row_id"], self._attempt(row)) for row in step.iter_rows(named=True)]
            else:
                yield [
                    Prompted(row_id, self._attempt(step.row(place, named=True)))
                    if content is None
                    else Prompted(row_id, self._fenced(row_id, content, prefix, texts))
                    for place, (row_id, content, prefix, *texts) in enumerate(plain.slice(start, rows).rows())
                ]

    def _fenced(self, row_id: str, content: str, prefix: str, texts: Sequence[str]) -> Prompt:
        values = dict(zip(self.task.inputs, texts, strict=True))
        return Prompt(
            row_id,
            self.system,
            fence(content),
            self.schema,
            prefix=prefix,
            options=self.options,
            values=values,
        )

    def _attempt(self, row: Mapping[str, Any]) -> Prompt | Exception:
        try:
            return self(row)
        except Exception as error:  # one row's surprise must not end the run
            return error

    def _plain(self, table: pl.DataFrame) -> pl.DataFrame | None:
        """Row id, field lines, first input as it is, and each input cleaned; field lines null where a row needs more.

        None where the columns are not text, which is what :meth:`__call__` knows how to deal with.
        """
        names = self.task.inputs
        if any(table.schema.get(name) != pl.String for name in ("row_id", *names)):
            return None
        odd = pl.any_horizontal(
            pl.col(name).is_null()
            | pl.col(name).str.contains(_ODD)
            | (pl.col(name).str.len_chars() > self.max_field_chars)
            for name in names
        )
        cleaned = [pl.col(name).str.strip_chars(" ") for name in names]
        lines = [
            pl.when(text == "").then(pl.lit(f"{name}:")).otherwise(pl.concat_str(pl.lit(f"{name}: "), text))
            for name, text in zip(names, cleaned, strict=True)
        ]
        content = pl.when(~odd).then(pl.concat_str(lines, separator="\n")).alias("_content")
        prefix = pl.col(names[0]).alias("_prefix")
        texts = [text.alias(f"_{place}") for place, text in enumerate(cleaned)]
        return table.select(pl.col("row_id").alias("_row_id"), content, prefix, *texts)

    @cached_property
    def pack_system(self) -> str:
        """The system text of :meth:`pack`; it begins like that of one row, so that both share a server's prefix."""
        return system_text(self.task, self.answer, examples=self.examples is not None, pack=True)

    def pack(self, prompts: Sequence[Prompt]) -> Prompt:
        """Asks about several rows at once: items in the order given, numbered from 1, each fenced with its own mark.

        Marks hang on all the items and their order. So no seller can foresee the mark of the own item, nor that of
        another one, from what is listed; and no item contains any of them.

        Args:
            prompts: What :meth:`__call__` wrote for each of them, without images.

        Returns:
            A prompt that is named after its first row. The answer is ``{"answers": {"1": {…}, "2": {…}, …}}``, each
            with the fields of a single answer; see :mod:`distill.labeling.answers.pack_answers`.
        """
        hints = [field_lines(prompt.evidence) for prompt in prompts] if self.task.evidence else []
        apart = fence_apart([*(field_lines(prompt.values) for prompt in prompts), *hints])
        fenced, shown_hints = apart[: len(prompts)], [text for _, text in apart[len(prompts) :]]
        items = [f"Item {number} (mark {mark}):\n{text}" for number, (mark, text) in enumerate(fenced, start=1)]
        if hints:
            pairs = zip(shown_hints, items, strict=True)
            items = [f"{_HINTS_HEAD}\n\n{hint}\n\n{item}" for hint, item in pairs]
        marks = ", ".join(f"{number} (mark {mark})" for number, (mark, _) in enumerate(fenced, start=1))
        shown = list(dict.fromkeys(text for prompt in prompts for text in prompt.examples))
        parts = [_EXAMPLES_HEAD, *shown, _PACK_EXAMPLES_END, *items] if shown else items
        first, count = prompts[0], len(prompts)
        return Prompt(
            first.row_id,
            self.pack_system,
            "\n\n".join([*parts, f"Judge these {count} items, each on its own: {marks}."]),
            self._pack_schema(count),
            prefix=first.prefix,
            options=self.options,
            items=count,
        )

    def _pack_schema(self, count: int) -> dict[str, Any]:
        if count not in self._pack_schemas:  # one and the same object: teachers know schemas by identity
            self._pack_schemas[count] = pack_schema(self.schema, count)
        return self._pack_schemas[count]

    def again(self, prompt: Prompt, *, text: str, problem: str) -> Prompt:
        """Asks again after an answer that does not fit.

        Args:
            prompt: What was asked.
            text: What the model wrote; cut to a sane length.
            problem: What is wrong with it, as :class:`~distill.labeling.answers.parsing.AnswerError` says.
        """
        echo = clean(text)
        if len(echo) > _MAX_ECHO_CHARS:
            echo = echo[: _MAX_ECHO_CHARS - len(CUT_MARK)] + CUT_MARK
        form = (
            f"one JSON object, nothing before or after it: {example_of(prompt.schema)}"
            if prompt.schema
            else "the label alone"
        )
        again = "Explain the same label again" if prompt.known_label else "Judge the same item again"
        correction = f"That answer cannot be used: {clean(problem)}.\n{again} and write {form}"
        # An empty assistant turn is refused by several servers.
        turns = (*prompt.turns, ("assistant", echo or "(no answer)"), ("user", correction))
        return replace(prompt, turns=turns)


def _with_evidence(values: Mapping[str, str], evidence: Mapping[str, str]) -> str:
    """Fences a row and the hints about it, each with a mark that hangs on both: neither can hold the other's."""
    (mark, item), (_, hints) = fence_apart([field_lines(values), field_lines(evidence)])
    return f"{_HINTS_HEAD}\n\n{hints}\n\n{item}\n\nJudge the item between the two lines that carry {mark}."
