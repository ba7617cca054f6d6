"""The rows that teachers are asked, in the order of asking: what a recipe's ``labeling`` section makes of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.labeling.canaries import make_canaries
from distill.labeling.errors import DataError
from distill.labeling.few_shot import ExampleBook
from distill.labeling.labeling_config import CanaryConfig, LabelingConfig
from distill.labeling.near_duplicates import Sharing, find_sharing
from distill.labeling.prompt import Prompter
from distill.labeling.row_draw import draw
from distill.labeling.row_order import together
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

_BATCH_ROWS = 5_000
_MOST_CANARIES = 2_000
_MOST_WATCHED = 2_000
_GOLD_SPLITS = ("train", "audit")
# Gold rows asked early: twice what the watch needs, over the first tenth of the rows.
_EARLY_TIMES = 2
_EARLY_SHARE = 0.1


class AskedRows:
    """Rows in the order in which teachers are asked about them. Can be gone through any number of times.

    Rows come in the order of the table, a batch at a time, those of a batch by their first input, with these changes,
    each only where the ``labeling`` section asks for it:

    - rows that share the answer of a near-duplicate are left out (``near_duplicates``);
    - gold rows of splits train and audit, at most 2,000 by a draw, come at random places, many early (``watch``);
    - canaries come at random places (``canaries``);
    - every row carries which examples it is shown (``examples``).

    None of it hangs on the order of the rows, so what was paid for stays paid for; appended rows may change a few of
    the draws. In memory are a few bytes a row, and the rows that are moved.

    Args:
        rows: The rows table.
        task: What is asked.
        config: The ``labeling`` section.
        seed: Of every draw.
        splits: Rows of these are asked; of every split where None.

    Raises:
        DataError: There is no row to ask, or no gold row to take examples from.
    """

    def __init__(
        self,
        rows: pl.LazyFrame,
        *,
        task: Task,
        config: LabelingConfig,
        seed: int,
        splits: Sequence[str] | None = None,
    ) -> None:
        self.in_order = True
        self.task = task
        self.config = config
        rows = rows.with_columns(pl.col(task.inputs).cast(pl.String).fill_null(""))
        self._rows = rows if splits is None else rows.filter(pl.col("split").is_in(list(splits)))
        self.seed = seed
        self.rows = int(self._rows.select(pl.len()).collect().item())
        if not self.rows:
            where = "" if splits is None else f" in the splits {list(splits)}"
            raise DataError(f"labeling: there is no row to ask{where}; check the rows, labeling.splits and data.split")
        book = config.examples
        self._examples = ExampleBook(rows, task=task, config=book, seed=seed) if book else None

    @cached_property
    def sharing(self) -> Sharing:
        """Which rows take the answer of a near-duplicate."""
        if self.config.near_duplicates == "ask":
            return Sharing.none()
        return find_sharing(
            self._rows,
            inputs=self.task.inputs,
            audit=self.config.near_duplicate_audit,
            seed=self.seed,
            any_order=self.config.near_duplicate_order == "any",
        )

    @cached_property
    def canaries(self) -> pl.DataFrame | None:
        """The canaries, as :func:`~distill.labeling.canaries.make_canaries` makes them; None without."""
        if self.config.canaries is None:
            return None
        shared = self.sharing.shared["row_id"]
        able = self._kept.with_row_index("_at").filter(~pl.col("row_id").is_in(shared.implode()))
        ids = able.select("row_id", "_at").collect()
        turn = draw(ids["row_id"], seed=self.seed, purpose="canary")
        chosen = np.argsort(turn, kind="stable")[: _canaries_wanted(self.config.canaries, len(ids))]
        sources = able.filter(pl.col("_at").is_in(ids["_at"].gather(chosen).implode())).drop("_at").collect()
        made = make_canaries(sources, task=self.task, seed=self.seed)
        # A row of that very name would be taken for the canary.
        return made.filter(~pl.col("row_id").is_in(ids["row_id"].implode()))

    @cached_property
    def watched(self) -> pl.DataFrame:
        """The gold rows that come at random places, with ``gold`` and their place ``_at``; empty without a watch."""
        known = self._kept.filter(pl.col("gold").is_not_null() & pl.col("split").is_in(_GOLD_SPLITS))
        if self.config.watch is None:
            return known.head(0).collect().with_columns(_at=pl.lit(0.0))
        ids = known.select("row_id").collect()["row_id"]
        order = ids.gather(np.argsort(draw(ids, seed=self.seed, purpose="gold"), kind="stable")[:_MOST_WATCHED])
        turns = pl.DataFrame({"row_id": order, "_at": self._places(order, self.config.watch.after)})
        return known.join(turns.lazy(), on="row_id").sort("_at", "row_id").collect()

    @property
    def height(self) -> int:
        """Rows that are asked, canaries included."""
        return self.rows - len(self.sharing.shared) + (0 if self.canaries is None else len(self.canaries))

    def askable(self) -> pl.DataFrame:
        """Rows that are asked themselves (``row_id``, ``group``, ``split``, ``gold``): no canaries, no sharers."""
        shared = self.sharing.shared["row_id"].implode()
        return self._rows.select("row_id", "group", "split", "gold").filter(~pl.col("row_id").is_in(shared)).collect()

    def prompter(self, answer: AnswerFormat) -> Prompter:
        """The prompter of these rows for one answer format."""
        texts = None if self._examples is None else self._examples.texts
        return Prompter(self.task, answer, row_tokens=self.config.row_tokens, examples=texts)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Goes through the rows, a batch at a time."""
        extra = self._extra
        left_out = pl.concat([self.sharing.shared["row_id"], self.watched["row_id"]]).implode()
        start = 0
        for batch in self._kept.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            end = start + len(batch)
            # Before anything is put at a place of its own, which sorting would undo.
            batch = together(batch, self.task).with_columns(_at=pl.int_range(start, end).cast(pl.Float64))
            batch = batch.filter(~pl.col("row_id").is_in(left_out))
            coming = extra.filter((pl.col("_at") >= start) & (pl.col("_at") < end))
            if len(coming):
                batch = pl.concat([batch, coming.select(batch.columns)]).sort("_at", maintain_order=True)
            batch = batch.drop("_at")
            if len(batch):
                yield batch if self._examples is None else self._examples.add_to(batch)
            start = end

    @property
    def _kept(self) -> pl.LazyFrame:
        return self._rows.select("row_id", "group", "split", "gold", *self.task.inputs)

    @cached_property
    def _extra(self) -> pl.DataFrame:
        """Rows that come at places of their own: the watched ones and the canaries."""
        extra = self.watched.with_columns(pl.col("_at").cast(pl.Float64))
        if self.canaries is None:
            return extra
        places = draw(self.canaries["row_id"], seed=self.seed, purpose="place") * self.rows
        planted = self.canaries.with_columns(split=pl.lit("pool"), gold=pl.lit(None, pl.String), _at=pl.Series(places))
        return pl.concat([extra, planted.select(extra.columns)])

    def _places(self, row_ids: pl.Series, after: int) -> NDArray[np.float64]:
        """Places of the watched rows: the first ones in the first tenth, the others anywhere."""
        early = _EARLY_TIMES * after
        reach = np.full(len(row_ids), float(self.rows))
        reach[:early] = min(self.rows, max(_EARLY_SHARE * self.rows, 2 * early))
        return draw(row_ids, seed=self.seed, purpose="place") * reach


def _canaries_wanted(config: CanaryConfig, rows: int) -> int:
    return min(rows, _MOST_CANARIES, max(config.at_least, round(config.share * rows)))
