"""What a run would ask, what the ledger already holds, and what the rest costs: before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from distill.labeling.batch_journal import BatchJournal
from distill.labeling.errors import BadReplyError, DataError
from distill.labeling.learned_lanes import settle_as_before
from distill.labeling.learned_limits import learned_limit
from distill.labeling.ledger import Ledger, Source
from distill.labeling.ledger_admin import count_replies, recent_replies
from distill.labeling.limits import MOST_IN_FLIGHT
from distill.labeling.option_tree import start_walk, tree_of
from distill.labeling.packs import Gatherer, Packing
from distill.labeling.row_order import ALONE_COLUMN
from distill.labeling.task import Task
from distill.labeling.teacher import Prompt, Reply, Request, Teacher
from distill.plan_cascade import Foreseen, foresee, from_least
from distill.plan_estimates import (
    COMPUTED_HERE,
    Interval,
    Load,
    Measured,
    cost_usd,
    estimate,
    in_flight,
    quota_s,
    time_s,
)
from distill.plan_rounds import foresee_rounds
from distill.recipe import Recipe, require_sections
from distill.teachers.config import section_of
from distill.teachers.model_config import ModelTeacherConfig

if TYPE_CHECKING:
    from distill.labeling.asked_rows import AskedRows
    from distill.plan_probe import ProbeResult
    from distill.teachers.config import TeacherConfig

_MEASURED_REPLIES = 500


@dataclass(frozen=True)
class TeacherPlan:
    """What one teacher would be asked.

    Attributes:
        teacher: Its name.
        rows: Rows of the splits that are asked, times samples.
        duplicates: Of those, requests that are the same as another one: asked once.
        in_ledger: Distinct requests whose reply is held already: free.
        without_reply: Rows that a recorded teacher has no reply for, or whose label cannot be shown to a teacher that
            is to explain it.
        to_send: Distinct requests that would be sent; one about several rows is one.
        input_tokens: Of what would be sent.
        output_tokens: Of what would come back.
        cost_usd: None where the price is not known.
        time_s: None where no reply of this teacher tells how long it takes.
        basis: What the estimates rest on.
        earlier: Answers of this teacher that the ledger holds to other requests: of an earlier guideline or prompt, or
            on other rows. None of them answers what is to be sent.
        probe: How the probe went, one line; None where there was none.
        canaries: Of the rows, those with a planted order.
        rows_cut: Rows of which an input is too long and is shown in part.
        shared: Rows that are not asked since they take a near-duplicate's answer; not among ``rows``.
        lane: How it answers, where it has several ways and one is settled on; None otherwise.
        remarks: What else the numbers rest on.
        packs: Of the requests to send, those about several rows.
        rows_to_send: Rows times samples that the requests to send ask about.
        checks: Of ``rows``, those that are asked alone beside others.
        by_batch: Whether it goes by the provider's batch jobs: the cost is that of jobs, and the time not estimated.
        in_batch: Distinct requests that are in a job that earlier runs submitted: they are waited for, not sent again.
        to_send_least: Of ``to_send``, what is sent for certain: in a cascade whatever the cheap teacher says, in rounds
            the first one. Tokens, cost and time then begin at what these take. None where all is certain.
        least_why: Why not all is certain, in words.
    """

    teacher: str
    rows: int
    duplicates: int
    in_ledger: int
    without_reply: int
    to_send: int
    input_tokens: Interval
    output_tokens: Interval
    cost_usd: Interval | None
    time_s: Interval | None
    basis: str
    earlier: int = 0
    probe: str | None = None
    canaries: int = 0
    rows_cut: int = 0
    shared: int = 0
    lane: str | None = None
    remarks: tuple[str, ...] = ()
    packs: int = 0
    rows_to_send: int = 0
    checks: int = 0
    by_batch: bool = False
    in_batch: int = 0
    to_send_least: int | None = None
    least_why: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would ask of each teacher.

    Attributes:
        ledger: The ledger that was looked at.
        teachers: One entry each, in the order of the recipe.
        budget_usd: What the recipe allows to spend.
    """

    ledger: Path
    teachers: tuple[TeacherPlan, ...]
    budget_usd: float | None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ledger": str(self.ledger),
            "budget_usd": self.budget_usd,
            "teachers": [asdict(teacher) for teacher in self.teachers],
        }

    def to_text(self) -> str:
        """A table for a person."""
        heads = (
            "teacher",
            "rows",
            "same",
            "in ledger",
            "no reply",
            "to send",
            "tokens in",
            "tokens out",
            "cost",
            "time",
        )
        lines = [heads, *(_cells(teacher) for teacher in self.teachers)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        table = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
        notes = [f"{teacher.teacher}: {note}" for teacher in self.teachers for note in _notes(teacher)]
        notes += _said_of_rows(self.teachers[0]) if self.teachers else []
        budget = "no budget is set" if self.budget_usd is None else f"the budget is ${self.budget_usd:,.2f}"
        return "\n".join([*(line.rstrip() for line in table), "", *notes, f"ledger {self.ledger}; {budget}"])


def make_plan(recipe: Recipe, *, limit: int | None = None, probe_requests: int = 0) -> Plan:
    """Reads the rows, writes every request and looks it up in the ledger. Sends nothing but the probe asked for.

    Args:
        recipe: What would be run.
        limit: As in :func:`distill.run`.
        probe_requests: How many rows each teacher is asked about first, so that cost and time can be told from the
            replies. These are in the ledger, and paid for once.

    Raises:
        UsageError: The recipe lacks rows, a task or teachers, or the rows cannot be used.
        LedgerError: The ledger cannot be read.
    """
    from distill.labeling.asked_rows import AskedRows
    from distill.labeling.rows import load_rows
    from distill.stages import build_teachers, ledger_path

    require_sections(recipe, ("data", "task", "teachers"), stage="plan")
    assert recipe.data is not None and recipe.task is not None
    task = Task.from_config(recipe.task)
    path = ledger_path(recipe.ledger)
    plans = []
    probes: dict[str, ProbeResult] = {}
    foreseen: Foreseen | None = None
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.parquet"
        load_rows(recipe.data, task=task, out=table, seed=recipe.seed, slices=recipe.eval.slices, limit=limit)
        config = recipe.labeling
        asked = AskedRows(pl.scan_parquet(table), task=task, config=config, seed=recipe.seed, splits=config.splits)
        # A plan must not leave a ledger behind where there was none.
        with Ledger(path if path.exists() or probe_requests else Path(scratch) / "empty.sqlite") as ledger:
            teachers = build_teachers(recipe)
            for teacher in teachers:
                settle_as_before(teacher, ledger)
            if probe_requests:
                paid = [teacher for teacher in teachers if isinstance(_config_of(teacher, recipe), ModelTeacherConfig)]
                probes = _probe(asked, paid, ledger=ledger, requests=probe_requests)
            if config.cascade is not None:
                with Ledger(Path(scratch) / "foreseen.sqlite") as foreseen_ledger:
                    foreseen = foresee(asked, teachers=teachers, ledger=ledger, scratch=foreseen_ledger)
            if recipe.rounds is not None:
                foreseen = foresee_rounds(pl.read_parquet(table), recipe, teachers=[one.name for one in teachers])
            for teacher in teachers:
                most, least = _Tally(teacher, ledger, asked, probe=probes.get(teacher.name)), None
                if foreseen is not None and teacher.name in foreseen.sent:
                    least = _Tally(teacher, ledger, asked)
                for batch in asked:
                    most.add(batch if foreseen is None else foreseen.possible(batch, teacher.name))
                    if foreseen is not None and least is not None:
                        least.add(foreseen.certain(batch, teacher.name))
                section = _config_of(teacher, recipe)
                most.end()
                plan = most.plan(section)
                plans.append(
                    plan
                    if least is None or foreseen is None
                    else from_least(plan, least.plan(section), why=foreseen.why)
                )
    return Plan(ledger=path, teachers=tuple(plans), budget_usd=recipe.labeling.budget_usd)


def _config_of(teacher: Teacher, recipe: Recipe) -> TeacherConfig:
    section = section_of(teacher.name, recipe.teachers)
    assert section is not None, "teachers are built from sections"
    return recipe.teachers[section]


def _probe(asked: AskedRows, teachers: Sequence[Teacher], *, ledger: Ledger, requests: int) -> dict[str, ProbeResult]:
    from distill.plan_probe import probe

    return probe(asked, teachers=teachers, ledger=ledger, requests=requests) if teachers else {}


class _Asked(NamedTuple):
    """A row as it is asked: the key that the ledger knows it by, and what would ask about it alone."""

    key: bytes
    prompt: Prompt
    request: Request


class _Tally:
    """Counts the requests of one teacher, and learns from the replies that the ledger holds."""

    def __init__(self, teacher: Teacher, ledger: Ledger, asked: AskedRows, *, probe: ProbeResult | None = None) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.asked = asked
        self.probe = probe
        self._prompter = asked.prompter(teacher.answer)
        self.packing = Packing.of(teacher, self._prompter, asked.config)
        self._gatherer: Gatherer[_Asked] | None = self.packing.gatherer() if self.packing else None
        self.rows_cut = 0
        self.rows = self.without_reply = self.duplicates = self.in_ledger = self.to_send = 0
        self.in_batch = self.bytes_to_send = self.packs = self.rows_to_send = 0
        self.measured: list[Measured] = []
        self._seen: set[bytes] = set()
        self._tree = tree_of(teacher, asked.task)
        self._free = bool(getattr(teacher, "free", False))

    def add(self, batch: pl.DataFrame) -> None:
        """Counts the requests of a batch of rows."""
        fresh: dict[bytes, _Asked] = {}
        for asked in self._requests(batch):
            self.rows += 1
            if asked is None:
                self.without_reply += 1
            elif asked.key in self._seen:
                self.duplicates += 1
            else:
                self._seen.add(asked.key)
                fresh[asked.key] = asked
        held = {} if self._free else self.ledger.get_many(fresh)
        self.in_ledger += len(held)
        in_batch = BatchJournal(self.ledger).in_open_jobs(fresh.keys() - held.keys())
        self.in_batch += len(in_batch)
        alone: list[_Asked] = []
        for key, asked in fresh.items():
            if (reply := held.get(key)) is not None:
                self._learn(reply, asked.request)
            elif key in in_batch:
                continue
            elif self.packing is None or self._gatherer is None or key == asked.request.key:
                self._send(asked.request)
            else:
                company = self.packing.company(asked.prompt, sample=asked.request.sample)
                alone += self._pack(self._gatherer.add(asked, company=company, row_id=asked.prompt.row_id))
        self._ask_alone(alone)

    def end(self) -> None:
        """Counts what still waits for company."""
        if self._gatherer is not None:
            self._ask_alone(self._pack(self._gatherer.release()))

    def _requests(self, batch: pl.DataFrame) -> Iterator[_Asked | None]:
        for row in batch.iter_rows(named=True):
            if self._prompter.not_asked(row) is not None:
                yield from [None] * self.asked.config.samples
                continue
            check = row.get(ALONE_COLUMN, False)
            if check and self.packing is None:
                continue
            prompt = self._prompter(row)
            self.rows_cut += bool(prompt.cut) and not check
            for sample in range(1 if check else self.asked.config.samples):
                asked = start_walk(self._tree, prompt).prompt if self._tree else prompt
                try:
                    request = self.teacher.compile(asked, sample=sample)
                except DataError:  # an image that cannot be read, which fails its row when it is asked
                    request = None
                if request is None:
                    yield None
                elif self.packing is not None and not check and self._tree is None and self.packing.takes(prompt):
                    yield _Asked(self.packing.row_key(request), prompt, request)
                else:
                    yield _Asked(request.key, asked, request)

    def _send(self, request: Request, *, rows: int = 1) -> None:
        self.to_send += 1
        self.rows_to_send += rows
        self.bytes_to_send += len(request.body)

    def _pack(self, groups: list[list[_Asked]]) -> list[_Asked]:
        """Counts the requests about several rows, written as the engine would.

        Returns:
            The rows that found no company.
        """
        assert self.packing is not None
        alone: list[_Asked] = []
        for group in groups:
            if len(group) == 1:
                alone += group
                continue
            group.sort(key=lambda asked: asked.key)
            request = self.packing.request([asked.prompt for asked in group], sample=group[0].request.sample)
            if request is not None:
                self.packs += 1
                self._send(request, rows=len(group))
        return alone

    def _ask_alone(self, rows: list[_Asked]) -> None:
        held = self.ledger.get_many(asked.request.key for asked in rows)
        for asked in rows:
            key = asked.request.key
            if key in held:
                self.in_ledger += 1
                self._learn(held[key], asked.request)
            elif key in self._seen:  # it is asked alone for another reason
                self.duplicates += 1
            else:
                self._seen.add(key)
                self._send(asked.request)

    def _learn(self, reply: Reply, request: Request) -> None:
        """Learns from a reply to a request of this plan; from one about several rows once."""
        if len(self.measured) < _MEASURED_REPLIES and (reply.part is None or reply.part.place == 0):
            several = reply.part is not None and reply.part.of > 1
            self.measured += self._measured(reply, sent_bytes=0 if several else len(request.body))

    def plan(self, config: TeacherConfig) -> TeacherPlan:
        """Puts what was counted into a plan."""
        labeling = self.asked.config
        server = getattr(self.teacher, "endpoint", None), getattr(self.teacher, "model", None)
        held, recent = 0, []
        learned = None
        if self.to_send and server[0] and server[1]:
            source = Source(server[0], server[1], self.teacher.name)
            held = count_replies(self.ledger, source)
            replies = recent_replies(self.ledger, source, most=_MEASURED_REPLIES)
            recent = [measured for reply in replies for measured in self._measured(reply)]
            if self.packs:  # what one row took tells little of what several take at once, and the other way round
                recent = [measured for measured in recent if measured.rows > 1]
                self.measured = [measured for measured in self.measured if measured.rows > 1]
            else:
                recent = [measured for measured in recent if measured.rows == 1]
                self.measured = [measured for measured in self.measured if measured.rows == 1]
            learned = learned_limit(self.ledger, endpoint=server[0], model=server[1])
        if hasattr(self.teacher, "batch_rows"):
            found = COMPUTED_HERE
        else:
            found = estimate(
                Load(self.to_send, self.rows_to_send, self.bytes_to_send),
                own=self.measured,
                earlier=recent,
                traced=self.teacher.answer.trace,
                probed=self.probe is not None,
            )
        by_batch = bool(getattr(config, "batch", False))
        cost = cost_usd(config, found.input_tokens, found.output_tokens)
        quotas = [getattr(self.teacher, "quota", None), labeling.quota]
        tokens = found.input_tokens.low + found.output_tokens.low
        least_s = quota_s(quotas, requests=self.to_send, tokens=tokens, usd=cost.low if cost else None)
        lanes = in_flight(labeling.concurrency, self.teacher.max_concurrency, learned, most=MOST_IN_FLIGHT)
        return TeacherPlan(
            teacher=self.teacher.name,
            rows=self.rows,
            duplicates=self.duplicates,
            in_ledger=self.in_ledger,
            without_reply=self.without_reply,
            to_send=self.to_send,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            cost_usd=cost,
            time_s=None if by_batch else time_s(self.to_send, found.latency_s, lanes, least_s=least_s),
            basis=found.basis,
            earlier=max(0, held - self.in_ledger),
            probe=self.probe.text if self.probe else None,
            canaries=0 if self.asked.canaries is None else len(self.asked.canaries),
            rows_cut=self.rows_cut,
            shared=len(self.asked.sharing.shared),
            lane=getattr(self.teacher, "lane", None),
            remarks=tuple(self._remarks()),
            packs=self.packs,
            rows_to_send=self.rows_to_send,
            checks=self.asked.checks if self.packing else 0,
            by_batch=by_batch,
            in_batch=self.in_batch,
        )

    def _remarks(self) -> Iterator[str]:
        if getattr(self.teacher, "lane", "") is None and not getattr(self.teacher, "lane_is_given", True):
            yield "which lane its server has is found out when it is first asked; this is counted as for lane: json"
        scored = (getattr(self.teacher, "lane", None) or "").startswith(("logprobs:next", "logprobs:prompt"))
        if scored and self.to_send and not self.measured:
            yield "its lane reads several prompts a row, alike but for their last tokens: tokens are told too low"
        if self._tree is not None:
            yield "its labels are asked level by level; only the first question about each row is counted"

    def _measured(self, reply: Reply, *, sent_bytes: int = 0) -> list[Measured]:
        """What a reply took; nothing where it cannot be read or its tokens were not counted."""
        try:
            completion = self.teacher.read(reply)
        except BadReplyError:
            return []
        if not completion.input_tokens or completion.output_tokens is None:
            return []
        rows = reply.part.of if reply.part else 1
        return [Measured(completion.input_tokens, completion.output_tokens, reply.latency_s, sent_bytes, rows)]


def _said_of_rows(plan: TeacherPlan) -> list[str]:
    """What all teachers have in common: canaries, rows that share, rows that are cut."""
    said = []
    if plan.canaries:
        said.append(f"{plan.canaries:,} of the rows are canaries: they carry a planted order and never become labels")
    if plan.shared:
        said.append(f"{plan.shared:,} further rows are not asked: they take the answer of a near-duplicate")
    if plan.rows_cut:
        said.append(f"{plan.rows_cut:,} rows are too long and are shown in part")
    return said


def _notes(plan: TeacherPlan) -> list[str]:
    """What is to be said below the table."""
    notes = [plan.probe] if plan.probe else []
    notes += plan.remarks
    if plan.packs:
        said = f"the {plan.to_send:,} requests to send ask about {plan.rows_to_send:,} rows, {plan.packs:,} of them "
        notes.append(f"{said}about several at once; {plan.checks:,} rows are asked alone as well, to compare")
    if plan.by_batch and plan.to_send:
        notes.append("it goes by batch jobs, at their price; the provider answers each within 24 h")
    if plan.in_batch:
        notes.append(f"{plan.in_batch:,} requests are in open batch jobs: waited for, and not sent again")
    if plan.to_send_least is not None and plan.to_send:
        notes.append(f"{plan.least_why}: {plan.to_send_least:,} are certain")
    if plan.to_send:
        notes.append(plan.basis)
        if plan.cost_usd is None:
            notes.append(
                f"its cost is unknown, not zero; give teachers.{plan.teacher}.price (0 where it costs nothing)"
            )
        if plan.earlier:
            notes.append(
                f"the ledger holds {plan.earlier:,} answers of it to other requests (an earlier guideline or prompt, "
                f"other rows); none of them answers the {plan.to_send:,} to send"
            )
    return notes


def _cells(plan: TeacherPlan) -> tuple[str, ...]:
    counts = (plan.rows, plan.duplicates, plan.in_ledger, plan.without_reply)
    least = plan.to_send if plan.to_send_least is None else plan.to_send_least
    to_send = _range(Interval(least, plan.to_send), "{:,.0f}")
    cost = "unknown" if plan.cost_usd is None else _range(plan.cost_usd, "${:,.2f}")
    time_s = "unknown" if plan.time_s is None else _range(plan.time_s, "{:,.0f} s")
    if plan.by_batch:
        time_s = "within 24 h" if plan.to_send or plan.in_batch else "0 s"
    tokens = (_range(plan.input_tokens, "{:,.0f}"), _range(plan.output_tokens, "{:,.0f}"))
    return (plan.teacher, *(f"{count:,}" for count in counts), to_send, *tokens, cost, time_s)


def _range(interval: Interval, pattern: str) -> str:
    low, high = pattern.format(interval.low), pattern.format(interval.high)
    return low if low == high else f"{low}–{high}"
