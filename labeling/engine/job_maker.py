"""Rows made into jobs of a lane: the request of each sample, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import polars as pl

from distill.labeling.engine.jobs import Job
from distill.labeling.errors import DataError
from distill.labeling.prompts.option_tree import OptionTree, start_walk
from distill.labeling.prompts.packs import Packing
from distill.labeling.prompts.prompt import NotAskedError, Prompted, Prompter
from distill.labeling.rows.row_order import ALONE_COLUMN, together
from distill.labeling.teacher import Prompt
from distill.labeling.vote import Outcome, Vote

if TYPE_CHECKING:
    from distill.labeling.engine.lane import Lane

ROWS_PER_STEP = 256
"""Rows whose jobs are made before anybody else gets a turn."""


class JobMaker:
    """Makes the jobs of a lane.

    Args:
        lane: Whose they are.
        prompter: Writes the questions.
        packing: How its rows are asked about together; None where they are not.
        tree: By which its labels are asked level by level; None where they are not.
    """

    def __init__(self, lane: Lane, *, prompter: Prompter, packing: Packing | None, tree: OptionTree | None) -> None:
        self._lane = lane
        self._prompter = prompter
        self._packing = packing
        self._tree = tree

    def steps(self, batch: pl.DataFrame) -> Iterator[Iterator[Job | Vote]]:
        """Makes the jobs of a table of rows, some hundred rows at a time, each when it is asked for.

        Args:
            batch: Rows, with ``row_id`` and the task's inputs.

        Yields:
            For each row and sample the job, or a vote where it cannot be asked. A step is to be used up before the
            next is taken.

        Raises:
            DataError: A column is missing.
        """
        table = self._asked_of(batch)
        alone = iter(table[ALONE_COLUMN] if ALONE_COLUMN in table.columns else repeat(False))
        for prompted in self._prompter.steps(table, ROWS_PER_STEP):
            yield self._made(prompted, alone)

    def _asked_of(self, batch: pl.DataFrame) -> pl.DataFrame:
        """The rows of a batch that this lane asks, in the order of asking, with what it has to know of them."""
        columns, floor = self._prompter.columns, self._lane.floor
        if missing := [name for name in columns if name not in batch.columns]:
            raise DataError(f"rows: the task needs the columns {missing}, got {batch.columns}; correct task.inputs")
        if ALONE_COLUMN in batch.columns:
            if self._packing is None:  # it asks every row alone
                batch = batch.filter(~pl.col(ALONE_COLUMN))
            else:
                columns = [*columns, ALONE_COLUMN]
        table = batch.select(columns)
        return table if floor.in_order else together(table, floor.task)

    def _made(self, prompted: Sequence[Prompted], alone: Iterator[bool]) -> Iterator[Job | Vote]:
        for row_id, prompt in prompted:
            # Whether the row is there to be asked alone beside others, once.
            check = next(alone)
            for sample in range(1 if check else self._lane.floor.config.samples):
                yield self._job_or_vote(row_id, prompt, sample, check=check)

    def _job_or_vote(self, row_id: str, prompt: Prompt | Exception, sample: int, *, check: bool) -> Job | Vote:
        if isinstance(prompt, NotAskedError):
            return self._vote(row_id, "unsent", sample, str(prompt), "no_known_label")
        try:
            if isinstance(prompt, Exception):
                raise prompt
            job = self._job(prompt, sample, check=check)
        except Exception as error:  # one row's surprise must not end the run
            return self._vote(row_id, "failed", sample, repr(error), "error")
        return job or self._vote(row_id, "unsent", sample, f"no recorded reply for row {row_id}", "no_reply")

    def _job(self, prompt: Prompt, sample: int, *, check: bool) -> Job | None:
        """The job; None where a recorded teacher has no reply."""
        if prompt.cut and not sample:
            self._lane.tally.cut_rows += 1
            self._lane.tally.cut_fields.update(prompt.cut)
        walk = start_walk(self._tree, prompt) if self._tree else None
        asked = walk.prompt if walk else prompt
        request = self._lane.teacher.compile(asked, sample=sample)
        if request is None:
            return None
        job = Job(self._lane, asked, request, walk=walk)
        if self._packing is not None and not check and walk is None and self._packing.takes(prompt):
            job.row_key = self._packing.row_key(request)
        return job

    def _vote(self, row_id: str, outcome: Outcome, sample: int, reason: str, cause: str) -> Vote:
        teacher = self._lane.teacher
        return Vote(row_id, teacher.name, teacher.family, outcome, sample, reason, cause=cause)
