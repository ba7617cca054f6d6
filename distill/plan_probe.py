"""Sends a few of the requests of a plan, at random, to learn what the others will cost."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from distill.labeling.engine.batch_journal import BatchJournal
from distill.labeling.errors import DataError
from distill.labeling.prompts.option_tree import TreeWalk, tree_of
from distill.labeling.prompts.packs import Packing
from distill.labeling.rows.row_order import ALONE_COLUMN
from distill.retry import only_these

if TYPE_CHECKING:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.ledger.ledger import Ledger
    from distill.labeling.prompts.prompt import Prompter
    from distill.labeling.teacher import Teacher


@dataclass(frozen=True)
class ProbeResult:
    """How a teacher answered the probe.

    Attributes:
        outcomes: How the rows of the probe ended, by outcome.
        cost_usd: What was paid for it.
        elapsed_s: Seconds that it took.
        stopped: Why the teacher was stopped; None where it was not.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    cost_usd: float = 0.0
    elapsed_s: float = 0.0
    stopped: str | None = None

    @property
    def text(self) -> str:
        """One line for a person."""
        ends = ", ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.items()) or "nothing left to ask"
        said = f"probe: {ends}, in {self.elapsed_s:.1f} s"
        if self.cost_usd:
            said += f" for ${self.cost_usd:,.4f}"
        return f"{said}; stopped: {self.stopped}" if self.stopped else said


def probe(rows: AskedRows, *, teachers: Sequence[Teacher], ledger: Ledger, requests: int) -> dict[str, ProbeResult]:
    """Asks each teacher about a random sample of the rows that the ledger cannot answer.

    The replies are in the ledger like any others, so nothing of it is paid for again. Budgets and quotas hold. Where
    several rows of a query are asked about at once, whole queries are drawn.

    Args:
        rows: The rows, and how they are asked.
        teachers: Who is asked.
        ledger: Where replies are kept.
        requests: How many rows each teacher is asked about.

    Returns:
        How it went, by teacher.
    """
    from distill.labeling.engine.engine import LabelingRun

    wanted: dict[str, set[tuple[str, int]]] = {}
    samples: list[pl.DataFrame] = []
    for teacher in teachers:
        found = _sample(rows, teacher, ledger=ledger, count=requests)
        wanted[teacher.name] = {(row_id, 0) for row_id in found["row_id"]}
        samples.append(found)
    ends: list[pl.DataFrame] = []
    run = LabelingRun(
        task=rows.task,
        teachers=[only_these(teacher, wanted[teacher.name], live=True) for teacher in teachers],
        ledger=ledger,
        config=rows.config.model_copy(update={"samples": 1}),
        prompter=rows.prompter,
    )
    result = run.run([pl.concat(samples).unique("row_id", maintain_order=True)], on_votes=ends.append)
    votes = pl.concat(ends) if ends else None
    results = {}
    for name, pairs in wanted.items():
        outcomes: dict[str, int] = {}
        if votes is not None:
            asked = votes.filter((pl.col("teacher") == name) & pl.col("row_id").is_in([row_id for row_id, _ in pairs]))
            outcomes = dict(asked["outcome"].value_counts(sort=True).iter_rows())
        tally = result.teachers[name]
        results[name] = ProbeResult(outcomes, tally.cost_usd, result.elapsed_s, tally.stopped)
    return results


def _sample(rows: AskedRows, teacher: Teacher, *, ledger: Ledger, count: int) -> pl.DataFrame:
    """The ``count`` rows with the smallest hash of those that are not answered: a random choice, the same each time."""
    chosen: list[tuple[int, str, pl.DataFrame]] = []
    columns: pl.DataFrame | None = None
    prompter = rows.prompter(teacher.answer)
    packing = Packing.of(teacher, prompter, rows.config)
    for batch in rows:
        if ALONE_COLUMN in batch.columns:
            batch = batch.filter(~pl.col(ALONE_COLUMN))
        columns = batch.clear() if columns is None else columns
        for place, drawn_by in _unanswered(batch, teacher, prompter=prompter, packing=packing, ledger=ledger):
            digest = hashlib.blake2b(drawn_by, digest_size=8, person=b"distill-probe-1").digest()
            draw = (-int.from_bytes(digest, "big"), str(batch["row_id"][place]), batch[place])
            if len(chosen) < count:
                heapq.heappush(chosen, draw)
            elif draw[:2] > chosen[0][:2]:
                heapq.heapreplace(chosen, draw)
    tables = [] if columns is None else [columns]
    return pl.concat([*tables, *(row for _, _, row in sorted(chosen, key=lambda draw: draw[:2]))])


def _unanswered(
    batch: pl.DataFrame, teacher: Teacher, *, prompter: Prompter, packing: Packing | None, ledger: Ledger
) -> Iterator[tuple[int, bytes]]:
    """Places of the rows of a batch whose reply is not held, with what they are drawn by; equal requests once."""
    keys: dict[bytes, tuple[int, bytes]] = {}
    tree = tree_of(teacher, prompter.task)
    for place, row in enumerate(batch.iter_rows(named=True)):
        if prompter.not_asked(row) is not None:
            continue
        prompt = prompter(row)
        try:
            request = teacher.compile(TreeWalk(tree, prompt).prompt if tree else prompt, sample=0)
        except DataError:  # an image that cannot be read: there is nothing to be learned from it
            continue
        if request is None:
            continue
        if packing is None or tree is not None or not packing.takes(prompt):
            keys.setdefault(request.key, (place, request.key))
        else:
            together = packing.company(prompt, sample=0)[0].encode("utf-8", "surrogatepass")
            keys.setdefault(packing.row_key(request), (place, together or request.key))
    held = ledger.get_many(keys).keys() | BatchJournal(ledger).in_open_jobs(keys).keys()
    return (drawn for key, drawn in keys.items() if key not in held)
