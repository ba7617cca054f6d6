"""Several rows in one request: which are asked about together, and by what key each of them is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Generic, Self, TypeVar

from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.prompts.system import pack_schema
from distill.labeling.rows.canaries import CANARY_PREFIX
from distill.labeling.teacher import Prompt, Request, Teacher

Item = TypeVar("Item")

# Rows of a query come side by side but for a canary or a gold row in between: one waits for that many others at most.
_WAIT_FOR = 64


class Packing:
    """How one teacher is asked about several rows in one request.

    Args:
        teacher: Who is asked.
        prompter: Writes its prompts.
        most: The most rows of a request.
        samples: Answers per row.
    """

    def __init__(self, teacher: Teacher, prompter: Prompter, *, most: int, samples: int = 1) -> None:
        self.most = most
        self._teacher = teacher
        self._prompter = prompter
        self._samples = samples
        self._compile_pack = getattr(teacher, "compile_pack", None)
        # A task with one input has one row a query: rows that follow each other are asked about together.
        self._any_rows = len(prompter.task.inputs) == 1
        form = b"native"
        if self._compile_pack is None:
            form = f"{prompter.pack_system}\x00{json.dumps(pack_schema(prompter.schema, most))}".encode(
                "utf-8", "surrogatepass"
            )
        self._state = hashlib.blake2b(digest_size=16, person=b"distill-row-1")
        self._state.update(b"%d %d " % (most, len(form)) + form)

    @classmethod
    def of(cls, teacher: Teacher, prompter: Prompter, config: LabelingConfig) -> Self | None:
        """How this teacher is asked about several rows; None where it is asked row by row.

        Whatever the recipe says, a teacher is where it explains known labels, goes by batch jobs, or writes no JSON and
        has no requests of its own for several rows.
        """
        wanted = config.rows_per_request
        if wanted is None or wanted.most == 1 or not getattr(teacher, "packs", False):
            return None
        # A known label stands below its item; a batch job is half the price already, and keeps to single requests.
        if teacher.answer.explains or getattr(teacher, "batch", None):
            return None
        if getattr(teacher, "compile_pack", None) is None and teacher.answer.form != "json":
            return None
        return cls(teacher, prompter, most=wanted.most, samples=config.samples)

    def takes(self, prompt: Prompt) -> bool:
        """Whether a row may be asked about with others: with our prompt, nothing would say which images are whose."""
        return self._compile_pack is not None or not prompt.images

    def row_key(self, request: Request) -> bytes:
        """The key by which the ledger knows a row that is asked about with others.

        It changes with anything that can change the row's single request, with the most rows of a request and with
        what is said around the rows; not with which rows keep it company: rows may be appended and reordered.

        Args:
            request: What would ask about the row alone.
        """
        state = self._state.copy()
        state.update(request.key)
        return state.digest()

    def request(self, prompts: Sequence[Prompt], *, sample: int) -> Request | None:
        """Asks about several rows, in this order."""
        if self._compile_pack is not None:
            request: Request | None = self._compile_pack(prompts, sample=sample)
            return request
        return self._teacher.compile(self._prompter.pack(prompts), sample=sample)

    def gatherer(self) -> Gatherer[Item]:
        """Puts the rows of this teacher together."""
        return Gatherer(self.most, wait_for=_WAIT_FOR + self.most * self._samples)

    def company(self, prompt: Prompt, *, sample: int) -> tuple[str, int]:
        """What rows that may be asked about together have in common."""
        return "" if self._any_rows else prompt.prefix, sample


class Gatherer(Generic[Item]):
    """Puts items together that may keep each other company, in the order in which they come.

    What it gives hangs on that order and on nothing else: not on how fast they come or go. A group is let go when it is
    full, and the oldest one when too many wait. A canary is kept apart from the row that it was made of, since side by
    side they would give each other away.

    Args:
        most: The most items of a group.
        wait_for: The most items that wait for company at any time.
    """

    def __init__(self, most: int, *, wait_for: int) -> None:
        self._most = most
        self._wait_for = wait_for
        self._groups: dict[tuple[str, int], list[Item]] = {}
        self._rows: dict[tuple[str, int], set[str]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        """Items that wait for company."""
        return self._waiting

    def add(self, item: Item, *, company: tuple[str, int], row_id: str) -> list[list[Item]]:
        """Takes one more.

        Args:
            item: What stands for the row.
            company: What it must have in common with those it is put together with.
            row_id: The row; a row and its canary, or two samples of it, are never put together.

        Returns:
            The groups that are not to wait any longer; of one item where nobody came.
        """
        row = row_id.removeprefix(CANARY_PREFIX)
        gone = [self._let_go(company)] if row in self._rows.get(company, ()) else []
        self._groups.setdefault(company, []).append(item)
        self._rows.setdefault(company, set()).add(row)
        self._waiting += 1
        if len(self._groups[company]) == self._most:
            gone.append(self._let_go(company))
        while self._waiting > self._wait_for:
            gone.append(self._let_go(next(iter(self._groups))))
        return gone

    def release(self) -> list[list[Item]]:
        """Lets all groups go: nobody comes any more."""
        return [self._let_go(company) for company in list(self._groups)]

    def _let_go(self, company: tuple[str, int]) -> list[Item]:
        group = self._groups.pop(company)
        del self._rows[company]
        self._waiting -= len(group)
        return group
