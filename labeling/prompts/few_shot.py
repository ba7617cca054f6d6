"""Judged rows that a teacher is shown before the row to judge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.labeling.errors import DataError
from distill.labeling.labeling_config import ExamplesConfig
from distill.labeling.prompts.fence import example_text
from distill.labeling.prompts.prompt import EXAMPLES_COLUMN
from distill.labeling.rows.near_duplicates import query_form
from distill.labeling.rows.row_draw import draw
from distill.labeling.task import Task

_MOST_CANDIDATES = 2_000
_ROWS_AT_ONCE = 256
_MAX_CHARS = 1_000
# Similarities closer than this are equal: the last bits of a float differ from machine to machine, and must not
# change which examples are shown, and so what is paid for.
_DECIMALS = 5


@dataclass(frozen=True)
class _Wanted:
    """What is looked up in a batch: each line once, however many rows share it."""

    texts: list[str]
    groups: list[str]
    forms: list[str]


class ExampleBook:
    """Gold rows of split ``train``, and the choice among them for each row.

    A row is shown the most similar candidates of each label in turn, so that labels are as even as the candidates
    allow; similarity is the cosine of TF-IDF over character n-grams of 2 to 4, fitted on the candidates alone: further
    rows to judge change nobody's examples, further gold rows may. Never shown are rows of the row's own group, nor of a
    query that is a near-duplicate of its own. The least similar stands first, the most similar next to the item.

    Args:
        rows: The rows table; only its gold rows of split ``train`` are used, at most 2,000 by a draw.
        task: What is asked.
        config: How many, and similar in what.
        seed: Of the draw.

    Raises:
        DataError: There is no gold row in split ``train``.
    """

    def __init__(self, rows: pl.LazyFrame, *, task: Task, config: ExamplesConfig, seed: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        known = (
            rows.filter((pl.col("split") == "train") & pl.col("gold").is_not_null())
            .select("row_id", "group", "gold", *task.inputs)
            .collect()
        )
        if known.is_empty():
            raise DataError(
                "labeling.examples: examples are gold rows of split train, and there is none; give such rows a gold "
                "label, or take labeling.examples out"
            )
        turn = pl.Series(draw(known["row_id"], seed=seed, purpose="examples"))
        known = known.with_columns(_turn=turn).sort("_turn", "row_id").head(_MOST_CANDIDATES)
        self._task = task
        self._config = config
        self._labels = known["gold"].to_list()
        self._of_group = _positions(known["group"])
        self._of_form = _positions(map(query_form, known[task.inputs[0]]))
        # Where an answer is no single label there is nothing to balance: the nearest are shown.
        self._by_label = (
            [np.array([at for at, gold in enumerate(self._labels) if gold == label]) for label in task.labels]
            if task.closed
            else [np.arange(len(self._labels))]
        )
        self._vectors = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32, lowercase=True
        )
        self._known = self._vectors.fit_transform(self._texts(known))
        self.texts = [
            example_text(
                {name: row[name] for name in task.inputs}, example_answer(task, row["gold"]), tokens=config.tokens
            )
            for row in known.iter_rows(named=True)
        ]
        self.row_ids: list[str] = known["row_id"].to_list()

    def add_to(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Adds the column ``EXAMPLES_COLUMN`` of :mod:`distill.labeling.prompts.prompt`: positions in ``texts``, first
        shown first.

        Args:
            batch: Rows, with ``group`` and the task's inputs.
        """
        keys = list(zip(self._texts(batch), batch["group"], batch[self._task.inputs[0]], strict=True))
        place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        distinct = list(place)
        wanted = _Wanted(
            texts=[key[0] for key in distinct],
            groups=[key[1] for key in distinct],
            forms=[query_form(key[2]) for key in distinct],
        )
        chosen = pl.Series(EXAMPLES_COLUMN, self._choose(wanted), dtype=pl.List(pl.UInt32))
        return batch.with_columns(chosen.gather([place[key] for key in keys]))

    def _texts(self, rows: pl.DataFrame) -> list[str]:
        names = self._task.inputs[:1] if self._config.similar == "query" else self._task.inputs
        return rows.select(pl.concat_str(names, separator=" ").str.head(_MAX_CHARS)).to_series().to_list()

    def _choose(self, wanted: _Wanted) -> list[list[int]]:
        chosen: list[list[int]] = []
        for start in range(0, len(wanted.texts), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            near = (self._vectors.transform(wanted.texts[part]) @ self._known.T).toarray().round(_DECIMALS)
            for line, group, form in zip(near, wanted.groups[part], wanted.forms[part], strict=True):
                line[self._of_group.get(group, [])] = -1.0
                line[self._of_form.get(form, [])] = -1.0
                chosen.append(self._balanced(line))
        return chosen

    def _balanced(self, near: NDArray[np.float32]) -> list[int]:
        """The nearest of each label in turn; labels whose nearest is nearer come first."""
        ranked = [self._ranked(near, at) for at in self._by_label]
        ranked = sorted((line for line in ranked if line), key=lambda line: (-near[line[0]], line[0]))
        turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
        found = [at for at in turns if at is not None][: self._config.count]
        return sorted(found, key=lambda at: (near[at], -at))

    def _ranked(self, near: NDArray[np.float32], at: NDArray[np.int64]) -> Sequence[int]:
        if not len(at):
            return []
        order = at[np.argsort(-near[at], kind="stable")[: self._config.count]]
        return [int(place) for place in order if near[place] >= 0]


def example_answer(task: Task, gold: str) -> str:
    """The answer of an example: its label, or the JSON object that would have been written."""
    if task.closed:
        return gold
    value = task.parse_gold(gold)
    golds = value if task.parts else {None: value}
    answers = {part.field: _shown_gold(part, golds[part.part]) for part in task.singles if part.part in golds}
    return json.dumps(answers, ensure_ascii=False)


def _shown_gold(task: Task, value: Any) -> Any:
    """A gold answer in the form of :func:`~distill.labeling.prompts.kinds.kind_schema`."""
    if task.kind != "spans":
        return value
    if len(task.types) == 1 and task.brands is None:
        return [span.text for span in value]
    names = ["text", *(["type"] if len(task.types) > 1 else []), *(["link"] if task.brands is not None else [])]
    return [{name: getattr(span, name) or "" for name in names} for span in value]


def _positions(names: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        found.setdefault(name, []).append(at)
    return found
