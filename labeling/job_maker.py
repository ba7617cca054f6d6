"""Rows made into jobs of a lane: the request of each sample, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill.labeling.jobs import Job
from distill.labeling.option_tree import OptionTree, start_walk
from distill.labeling.packs import Packing
from distill.labeling.prompt import NotAskedError, Prompted
from distill.labeling.teacher import Prompt
from distill.labeling.vote import Outcome, Vote

if TYPE_CHECKING:
    from distill.labeling.lane import Lane


class JobMaker:
    """Makes the jobs of a lane.

    Args:
        lane: Whose they are.
        packing: How its rows are asked about together; None where they are not.
        tree: By which its labels are asked level by level; None where they are not.
    """

    def __init__(self, lane: Lane, *, packing: Packing | None, tree: OptionTree | None) -> None:
        self._lane = lane
        self._packing = packing
        self._tree = tree

    def __call__(self, prompted: Sequence[Prompted], alone: Iterator[bool]) -> Iterator[Job | Vote]:
        """Makes a job for each row and sample, or a vote where it cannot be asked.

        Args:
            prompted: Rows and their questions, or what went wrong with one.
            alone: Whether each row is there to be asked alone beside others, once.
        """
        for row_id, prompt in prompted:
            check = next(alone)
            for sample in range(1 if check else self._lane.floor.config.samples):
                if isinstance(prompt, NotAskedError):
                    yield self._vote(row_id, "unsent", sample, str(prompt), "no_known_label")
                    continue
                try:
                    if isinstance(prompt, Exception):
                        raise prompt
                    job = self._job(prompt, sample, check=check)
                except Exception as error:  # one row's surprise must not end the run
                    yield self._vote(row_id, "failed", sample, repr(error), "error")
                    continue
                yield job or self._vote(row_id, "unsent", sample, f"no recorded reply for row {row_id}", "no_reply")

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
