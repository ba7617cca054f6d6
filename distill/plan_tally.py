"""Counts what one teacher would be asked, request by request, against what the ledger holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from distill.labeling.engine.batch_journal import BatchJournal
from distill.labeling.engine.learned_limits import learned_limit
from distill.labeling.engine.limits import MOST_IN_FLIGHT
from distill.labeling.errors import BadReplyError, DataError
from distill.labeling.ledger.admin import count_replies, recent_replies
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.prompts.option_tree import start_walk, tree_of
from distill.labeling.prompts.packs import Gatherer, Packing
from distill.labeling.rows.row_order import ALONE_COLUMN
from distill.labeling.teacher import Prompt, Reply, Request, Teacher
from distill.plan_estimates import (
    COMPUTED_HERE,
    Estimate,
    Load,
    Measured,
    cost_usd,
    estimate,
    in_flight,
    quota_s,
    time_s,
)
from distill.plan_teacher import TeacherPlan

if TYPE_CHECKING:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.plan_probe import ProbeResult
    from distill.teachers.config import TeacherConfig

_MEASURED_REPLIES = 500


class _Asked(NamedTuple):
    """A row as it is asked: the key that the ledger knows it by, and what would ask about it alone."""

    key: bytes
    prompt: Prompt
    request: Request


class PlanTally:
    """Counts the requests of one teacher, and learns from the replies that the ledger holds.

    Give it every batch of rows (:meth:`add`), then :meth:`end`, then read the :meth:`plan`. Nothing is sent.

    Args:
        teacher: Who would be asked.
        ledger: Where each request is looked up.
        asked: The rows, and how they are asked.
        probe: How the teacher answered a probe; None where none was sent.
    """

    def __init__(self, teacher: Teacher, ledger: Ledger, *, asked: AskedRows, probe: ProbeResult | None = None) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self._rows_asked = asked
        self._probe = probe
        self._prompter = asked.prompter(teacher.answer)
        self._packing = Packing.of(teacher, self._prompter, asked.config)
        self._gatherer: Gatherer[_Asked] | None = self._packing.gatherer() if self._packing else None
        self._rows_cut = 0
        self._rows = self._without_reply = self._duplicates = self._in_ledger = self._to_send = 0
        self._in_batch = self._bytes_to_send = self._packs = self._rows_to_send = 0
        self._measured: list[Measured] = []
        self._seen: set[bytes] = set()
        self._tree = tree_of(teacher, asked.task)
        self._free = bool(getattr(teacher, "free", False))

    def add(self, batch: pl.DataFrame) -> None:
        """Counts the requests of a batch of rows."""
        fresh: dict[bytes, _Asked] = {}
        for asked in self._requests(batch):
            self._rows += 1
            if asked is None:
                self._without_reply += 1
            elif asked.key in self._seen:
                self._duplicates += 1
            else:
                self._seen.add(asked.key)
                fresh[asked.key] = asked
        held = {} if self._free else self._ledger.get_many(fresh)
        self._in_ledger += len(held)
        in_batch = BatchJournal(self._ledger).in_open_jobs(fresh.keys() - held.keys())
        self._in_batch += len(in_batch)
        alone: list[_Asked] = []
        for key, asked in fresh.items():
            if (reply := held.get(key)) is not None:
                self._learn(reply, asked.request)
            elif key in in_batch:
                continue
            elif self._packing is None or self._gatherer is None or key == asked.request.key:
                self._send(asked.request)
            else:
                company = self._packing.company(asked.prompt, sample=asked.request.sample)
                alone += self._pack(self._gatherer.add(asked, company=company, row_id=asked.prompt.row_id))
        self._ask_alone(alone)

    def end(self) -> None:
        """Counts what still waits for company."""
        if self._gatherer is not None:
            self._ask_alone(self._pack(self._gatherer.release()))

    def _requests(self, batch: pl.DataFrame) -> Iterator[_Asked | None]:
        for row in batch.iter_rows(named=True):
            if self._prompter.not_asked(row) is not None:
                yield from [None] * self._rows_asked.config.samples
                continue
            check = row.get(ALONE_COLUMN, False)
            if check and self._packing is None:
                continue
            prompt = self._prompter(row)
            self._rows_cut += bool(prompt.cut) and not check
            for sample in range(1 if check else self._rows_asked.config.samples):
                asked = start_walk(self._tree, prompt).prompt if self._tree else prompt
                try:
                    request = self._teacher.compile(asked, sample=sample)
                except DataError:  # an image that cannot be read, which fails its row when it is asked
                    request = None
                if request is None:
                    yield None
                elif self._packing is not None and not check and self._tree is None and self._packing.takes(prompt):
                    yield _Asked(self._packing.row_key(request), prompt, request)
                else:
                    yield _Asked(request.key, asked, request)

    def _send(self, request: Request, *, rows: int = 1) -> None:
        self._to_send += 1
        self._rows_to_send += rows
        self._bytes_to_send += len(request.body)

    def _pack(self, groups: list[list[_Asked]]) -> list[_Asked]:
        """Counts the requests about several rows, written as the engine would.

        Returns:
            The rows that found no company.
        """
        assert self._packing is not None
        alone: list[_Asked] = []
        for group in groups:
            if len(group) == 1:
                alone += group
                continue
            group.sort(key=lambda asked: asked.key)
            request = self._packing.request([asked.prompt for asked in group], sample=group[0].request.sample)
            if request is not None:
                self._packs += 1
                self._send(request, rows=len(group))
        return alone

    def _ask_alone(self, rows: list[_Asked]) -> None:
        held = self._ledger.get_many(asked.request.key for asked in rows)
        for asked in rows:
            key = asked.request.key
            if key in held:
                self._in_ledger += 1
                self._learn(held[key], asked.request)
            elif key in self._seen:  # it is asked alone for another reason
                self._duplicates += 1
            else:
                self._seen.add(key)
                self._send(asked.request)

    def _learn(self, reply: Reply, request: Request) -> None:
        """Learns from a reply to a request of this plan; from one about several rows once."""
        if len(self._measured) < _MEASURED_REPLIES and (reply.part is None or reply.part.place == 0):
            several = reply.part is not None and reply.part.of > 1
            self._measured += self._measure(reply, sent_bytes=0 if several else len(request.body))

    def plan(self, config: TeacherConfig) -> TeacherPlan:
        """Puts what was counted into a plan."""
        labeling, endpoint = self._rows_asked.config, self._endpoint
        held, recent, learned = 0, [], None
        if self._to_send and endpoint is not None:
            source = Source(*endpoint, self._teacher.name)
            held = count_replies(self._ledger, source)
            recent = self._of_the_same_form(
                measured
                for reply in recent_replies(self._ledger, source, most=_MEASURED_REPLIES)
                for measured in self._measure(reply)
            )
            self._measured = self._of_the_same_form(self._measured)
            learned = learned_limit(self._ledger, endpoint=endpoint[0], model=endpoint[1])
        found = self._estimate(recent)
        by_batch = bool(getattr(config, "batch", False))
        cost = cost_usd(config, found.input_tokens, found.output_tokens)
        quotas = [getattr(self._teacher, "quota", None), labeling.quota]
        tokens = found.input_tokens.low + found.output_tokens.low
        least_s = quota_s(quotas, requests=self._to_send, tokens=tokens, usd=cost.low if cost else None)
        lanes = in_flight(labeling.concurrency, self._teacher.max_concurrency, learned, most=MOST_IN_FLIGHT)
        return TeacherPlan(
            teacher=self._teacher.name,
            rows=self._rows,
            duplicates=self._duplicates,
            in_ledger=self._in_ledger,
            without_reply=self._without_reply,
            to_send=self._to_send,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            cost_usd=cost,
            time_s=None if by_batch else time_s(self._to_send, found.latency_s, lanes, least_s=least_s),
            basis=found.basis,
            earlier=max(0, held - self._in_ledger),
            probe=self._probe.text if self._probe else None,
            canaries=0 if self._rows_asked.canaries is None else len(self._rows_asked.canaries),
            rows_cut=self._rows_cut,
            shared=len(self._rows_asked.sharing.shared),
            lane=getattr(self._teacher, "lane", None),
            remarks=tuple(self._remarks()),
            packs=self._packs,
            rows_to_send=self._rows_to_send,
            checks=self._rows_asked.checks if self._packing else 0,
            by_batch=by_batch,
            in_batch=self._in_batch,
        )

    @property
    def _endpoint(self) -> tuple[str, str] | None:
        """Endpoint and model, by which the ledger knows what was bought; None where the teacher does not name them."""
        endpoint, model = getattr(self._teacher, "endpoint", None), getattr(self._teacher, "model", None)
        return (endpoint, model) if endpoint and model else None

    def _of_the_same_form(self, replies: Iterable[Measured]) -> list[Measured]:
        """Replies to requests like those to send: what one row took tells little of what several take at once."""
        return [measured for measured in replies if (measured.rows > 1) == bool(self._packs)]

    def _estimate(self, earlier: Sequence[Measured]) -> Estimate:
        if hasattr(self._teacher, "batch_rows"):
            return COMPUTED_HERE
        return estimate(
            Load(self._to_send, self._rows_to_send, self._bytes_to_send),
            own=self._measured,
            earlier=earlier,
            traced=self._teacher.answer.trace,
            probed=self._probe is not None,
        )

    def _remarks(self) -> Iterator[str]:
        if getattr(self._teacher, "lane", "") is None and not getattr(self._teacher, "lane_is_given", True):
            yield "which lane its server has is found out when it is first asked; this is counted as for lane: json"
        scored = (getattr(self._teacher, "lane", None) or "").startswith(("logprobs:next", "logprobs:prompt"))
        if scored and self._to_send and not self._measured:
            yield "its lane reads several prompts a row, alike but for their last tokens: tokens are told too low"
        if self._tree is not None:
            yield "its labels are asked level by level; only the first question about each row is counted"

    def _measure(self, reply: Reply, *, sent_bytes: int = 0) -> list[Measured]:
        """What a reply took; nothing where it cannot be read or its tokens were not counted."""
        try:
            completion = self._teacher.read(reply)
        except BadReplyError:
            return []
        if not completion.input_tokens or completion.output_tokens is None:
            return []
        rows = reply.part.of if reply.part else 1
        return [Measured(completion.input_tokens, completion.output_tokens, reply.latency_s, sent_bytes, rows)]
