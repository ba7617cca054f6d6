"""The rows that teachers are asked, in the order of asking: what a recipe's ``labeling`` section makes of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.labeling.errors import DataError
from distill.labeling.labeling_config import CanaryConfig, LabelingConfig
from distill.labeling.prompts.few_shot import ExampleBook
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.rows.canaries import CANARY_PREFIX, make_canaries
from distill.labeling.rows.near_duplicates import Sharing, find_sharing
from distill.labeling.rows.row_draw import draw
from distill.labeling.rows.row_order import ALONE_COLUMN, together
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

_BATCH_ROWS = 5_000
_MOST_CANARIES = 2_000
_MOST_WATCHED = 2_000
_MOST_CHECKED = 500
CHECK_PREFIX = "alone:"
# Behind the row that it was made of, before the next one.
_BESIDE = 1e-3
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
    - rows that are asked about together are by a draw asked alone as well (``rows_per_request``); canaries then come
      beside the row that they are made of, and gold rows of a query at one place, so that they have company;
    - every row carries which examples it is shown (``examples``).

    None of it hangs on the order of the rows, so what was paid for stays paid for; appended rows may change a few of
    the draws. In memory are a few bytes a row, and the rows that are moved.

    Args:
        rows: The rows table.
        task: What is asked.
        config: The ``labeling`` section.
        seed: Of every draw.
        splits: Rows of these are asked; of every split where None.
        examples_from: Rows whose gold is shown as examples, where they are not the rows given.

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
        examples_from: pl.LazyFrame | None = None,
    ) -> None:
        self.in_order = True
        self.task = task
        self.config = config
        seen = [*task.inputs, *task.evidence, *task.images]
        rows = rows.with_columns(pl.col(seen).cast(pl.String).fill_null(""))
        self._rows = rows if splits is None else rows.filter(pl.col("split").is_in(list(splits)))
        self.seed = seed
        self.rows = int(self._rows.select(pl.len()).collect().item())
        if not self.rows:
            where = "" if splits is None else f" in the splits {list(splits)}"
            raise DataError(f"labeling: there is no row to ask{where}; check the rows, labeling.splits and data.split")
        book = config.examples
        shown = rows if examples_from is None else examples_from
        self._examples = ExampleBook(shown, task=task, config=book, seed=seed) if book else None

    @cached_property
    def sharing(self) -> Sharing:
        """Which rows take the answer of a near-duplicate."""
        if self.config.near_duplicates == "ask":
            return Sharing.none()
        return find_sharing(
            self._rows,
            inputs=(*self.task.inputs, *self.task.evidence, *self.task.images),
            audit=self.config.near_duplicate_audit,
            seed=self.seed,
            any_order=self.config.near_duplicate_order == "any",
        )

    @cached_property
    def canaries(self) -> pl.DataFrame | None:
        """The canaries, as :func:`~distill.labeling.rows.canaries.make_canaries` makes them; None without."""
        if self.config.canaries is None:
            return None
        able = self._own
        ids = able.select("row_id", "_at").collect()
        turn = draw(ids["row_id"], seed=self.seed, purpose="canary")
        chosen = np.argsort(turn, kind="stable")[: _canaries_wanted(self.config.canaries, len(ids))]
        sources = able.filter(pl.col("_at").is_in(ids["_at"].gather(chosen).implode())).drop("_at").collect()
        made = make_canaries(sources, task=self.task, seed=self.seed)
        # A row of that very name would be taken for the canary.
        return made.filter(~pl.col("row_id").is_in(ids["row_id"].implode()))

    @cached_property
    def checked(self) -> pl.DataFrame | None:
        """Rows that are asked alone beside others: ``row_id``, ``source``, ``group`` and the inputs; None without."""
        wanted = self.config.rows_per_request
        if wanted is None or wanted.most == 1:
            return None
        company = pl.len() if len(self.task.inputs) == 1 else pl.len().over(self.task.inputs[0])
        ids = self._own.select("row_id", _company=company).filter(pl.col("_company") > 1).collect()["row_id"]
        count = min(_MOST_CHECKED, max(wanted.check_at_least, round(wanted.check * self.rows)))
        chosen = ids.gather(np.argsort(draw(ids, seed=self.seed, purpose="alone"), kind="stable")[:count])
        rows = self._kept.filter(pl.col("row_id").is_in(chosen.implode())).collect()
        checked = rows.with_columns(source="row_id", row_id=pl.concat_str(pl.lit(CHECK_PREFIX), "row_id"))
        taken = self._kept.select("row_id").filter(pl.col("row_id").str.starts_with(CHECK_PREFIX)).collect()
        return checked.filter(~pl.col("row_id").is_in(taken["row_id"].implode()))

    @property
    def checks(self) -> int:
        """Rows that are asked alone beside others."""
        return 0 if self.checked is None else len(self.checked)

    @cached_property
    def watched(self) -> pl.DataFrame:
        """The gold rows that come at random places, with ``gold`` and their place ``_at``; empty without a watch."""
        known = self._kept.filter(pl.col("gold").is_not_null() & pl.col("split").is_in(_GOLD_SPLITS))
        if self.config.watch is None:
            return known.head(0).collect().with_columns(_at=pl.lit(0.0))
        # What is asked about together is moved together.
        by = "row_id" if self.checked is None else self.task.inputs[0]
        ids = known.select("row_id", _by=by).collect()
        order = ids[np.argsort(draw(ids["_by"], seed=self.seed, purpose="gold"), kind="stable")[:_MOST_WATCHED]]
        turns = order.select("row_id").with_columns(_at=pl.Series(self._places(order["_by"], self.config.watch.after)))
        return known.join(turns.lazy(), on="row_id").sort("_at", "row_id").collect()

    @property
    def height(self) -> int:
        """Rows that are asked, canaries and those asked alone as well included."""
        canaries = 0 if self.canaries is None else len(self.canaries)
        return self.rows - len(self.sharing.shared) + canaries + self.checks

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
            if self.checked is not None:
                batch = batch.with_columns(pl.lit(False).alias(ALONE_COLUMN))
                coming = _beside(coming, batch)
            if len(coming):
                batch = pl.concat([batch, coming.select(batch.columns)]).sort("_at", maintain_order=True)
            batch = batch.drop("_at")
            if len(batch):
                yield batch if self._examples is None else self._examples.add_to(batch)
            start = end

    @property
    def _kept(self) -> pl.LazyFrame:
        seen = (*self.task.inputs, *self.task.evidence, *self.task.images)
        return self._rows.select("row_id", "group", "split", "gold", *seen)

    @property
    def _own(self) -> pl.LazyFrame:
        """The rows that have an answer of their own, with their place ``_at``."""
        shared = self.sharing.shared["row_id"]
        return self._kept.with_row_index("_at").filter(~pl.col("row_id").is_in(shared.implode()))

    @cached_property
    def _extra(self) -> pl.DataFrame:
        """Rows that come at places of their own: the watched ones, canaries, and those asked alone as well."""
        extra = [self.watched.with_columns(pl.col("_at").cast(pl.Float64))]
        if self.canaries is not None:
            planted = self.canaries.with_columns(split=pl.lit("pool"), gold=pl.lit(None, pl.String))
            places = self._anywhere(planted["row_id"]) if self.checked is None else self._at_sources(planted)
            extra.append(planted.with_columns(places.alias("_at")))
        if self.checked is not None:
            extra = [rows.with_columns(pl.lit(False).alias(ALONE_COLUMN)) for rows in extra]
            places = self._anywhere(self.checked["row_id"]).alias("_at")
            extra.append(self.checked.with_columns(pl.lit(True).alias(ALONE_COLUMN), places))
        return pl.concat(rows.select(extra[0].columns) for rows in extra)

    def _anywhere(self, row_ids: pl.Series) -> pl.Series:
        return pl.Series(draw(row_ids, seed=self.seed, purpose="place") * self.rows)

    def _at_sources(self, canaries: pl.DataFrame) -> pl.Series:
        """Places of the rows that canaries are made of: in the table, or where the watch has moved them to."""
        sources = pl.Series("row_id", canaries["source"])
        places = self._own.filter(pl.col("row_id").is_in(sources.implode())).select("row_id", "_at").collect()
        moved = self.watched.select("row_id", _moved=pl.col("_at").cast(pl.Float64) + _BESIDE)
        found = pl.DataFrame(sources).join(places, on="row_id", how="left", maintain_order="left")
        found = found.join(moved, on="row_id", how="left", maintain_order="left")
        return found.select(pl.coalesce("_moved", pl.col("_at").cast(pl.Float64))).to_series()

    def _places(self, names: pl.Series, after: int) -> NDArray[np.float64]:
        """Places of the watched rows: the first ones in the first tenth, the others anywhere."""
        early = _EARLY_TIMES * after
        reach = np.full(len(names), float(self.rows))
        reach[:early] = min(self.rows, max(_EARLY_SHARE * self.rows, 2 * early))
        return draw(names, seed=self.seed, purpose="place") * reach


def _beside(coming: pl.DataFrame, batch: pl.DataFrame) -> pl.DataFrame:
    """Puts the canaries of a batch behind the rows that they are made of, where those stand in it."""
    places = batch.select(_source="row_id", _beside=pl.col("_at") + _BESIDE)
    source = pl.when(pl.col("row_id").str.starts_with(CANARY_PREFIX)).then(
        pl.col("row_id").str.strip_prefix(CANARY_PREFIX)
    )
    found = coming.with_columns(_source=source).join(places, on="_source", how="left", maintain_order="left")
    return found.with_columns(_at=pl.coalesce("_beside", "_at")).drop("_source", "_beside")


def _canaries_wanted(config: CanaryConfig, rows: int) -> int:
    return min(rows, _MOST_CANARIES, max(config.at_least, round(config.share * rows)))
