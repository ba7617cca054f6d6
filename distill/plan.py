"""What a run would ask, what the ledger already holds, and what the rest costs: before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.errors import BadReplyError
from distill.labeling.learned_lanes import settle_as_before
from distill.labeling.learned_limits import learned_limit
from distill.labeling.ledger import Ledger, Source
from distill.labeling.ledger_admin import count_replies, recent_replies
from distill.labeling.limits import MOST_IN_FLIGHT
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request, Teacher
from distill.plan_cascade import Foreseen, foresee, from_least
from distill.plan_estimates import Interval, Measured, cost_usd, estimate, in_flight, quota_s, time_s
from distill.recipe import Recipe, require_sections

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
        without_reply: Rows that a recorded teacher has no reply for.
        to_send: Distinct requests that would be sent.
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
        to_send_least: Of ``to_send``, what is sent whatever the cheap teacher of a cascade says: the calibration rows.
            Tokens, cost and time then begin at what these take. None outside of a cascade.
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
    to_send_least: int | None = None


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
            if probe_requests:
                paid = [teacher for teacher in teachers if recipe.teachers[teacher.name].type != "recorded"]
                probes = _probe(asked, paid, ledger=ledger, requests=probe_requests)
            for teacher in teachers:
                settle_as_before(teacher, ledger)
            if config.cascade is not None:
                with Ledger(Path(scratch) / "foreseen.sqlite") as foreseen_ledger:
                    foreseen = foresee(asked, teachers=teachers, ledger=ledger, scratch=foreseen_ledger)
            for teacher in teachers:
                most, least = _Tally(teacher, ledger, asked, probe=probes.get(teacher.name)), None
                if foreseen is not None and teacher.name in foreseen.sent:
                    least = _Tally(teacher, ledger, asked)
                for batch in asked:
                    most.add(batch if foreseen is None else foreseen.possible(batch, teacher.name))
                    if foreseen is not None and least is not None:
                        least.add(foreseen.certain(batch, teacher.name))
                plan = most.plan(recipe.teachers[teacher.name])
                plans.append(plan if least is None else from_least(plan, least.plan(recipe.teachers[teacher.name])))
    return Plan(ledger=path, teachers=tuple(plans), budget_usd=recipe.labeling.budget_usd)


def _probe(asked: AskedRows, teachers: Sequence[Teacher], *, ledger: Ledger, requests: int) -> dict[str, ProbeResult]:
    from distill.plan_probe import probe

    return probe(asked, teachers=teachers, ledger=ledger, requests=requests) if teachers else {}


class _Tally:
    """Counts the requests of one teacher, and learns from the replies that the ledger holds."""

    def __init__(self, teacher: Teacher, ledger: Ledger, asked: AskedRows, *, probe: ProbeResult | None = None) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.asked = asked
        self.probe = probe
        self._prompter = asked.prompter(teacher.answer)
        self.rows_cut = 0
        self.rows = self.without_reply = self.duplicates = self.in_ledger = self.to_send = 0
        self.bytes_to_send = 0
        self.measured: list[Measured] = []
        self._seen: set[bytes] = set()

    def add(self, batch: pl.DataFrame) -> None:
        """Counts the requests of a batch of rows."""
        fresh: dict[bytes, Request] = {}
        for request in self._requests(batch):
            self.rows += 1
            if request is None:
                self.without_reply += 1
            elif request.key in self._seen:
                self.duplicates += 1
            else:
                self._seen.add(request.key)
                fresh[request.key] = request
        held = self.ledger.get_many(fresh)
        self.in_ledger += len(held)
        self.to_send += len(fresh) - len(held)
        for key, request in fresh.items():
            if key not in held:
                self.bytes_to_send += len(request.body)
            elif len(self.measured) < _MEASURED_REPLIES:
                self.measured += self._measured(held[key], sent_bytes=len(request.body))

    def _requests(self, batch: pl.DataFrame) -> Iterator[Request | None]:
        for row in batch.iter_rows(named=True):
            prompt = self._prompter(row)
            self.rows_cut += bool(prompt.cut)
            for sample in range(self.asked.config.samples):
                yield self.teacher.compile(prompt, sample=sample)

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
            learned = learned_limit(self.ledger, endpoint=server[0], model=server[1])
        found = estimate(
            self.to_send,
            self.bytes_to_send,
            own=self.measured,
            earlier=recent,
            traced=self.teacher.answer.trace,
            probed=self.probe is not None,
        )
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
            time_s=time_s(self.to_send, found.latency_s, lanes, least_s=least_s),
            basis=found.basis,
            earlier=max(0, held - self.in_ledger),
            probe=self.probe.text if self.probe else None,
            canaries=0 if self.asked.canaries is None else len(self.asked.canaries),
            rows_cut=self.rows_cut,
            shared=len(self.asked.sharing.shared),
        )

    def _measured(self, reply: Reply, *, sent_bytes: int = 0) -> list[Measured]:
        """What a reply took; nothing where it cannot be read or its tokens were not counted."""
        try:
            completion = self.teacher.read(reply)
        except BadReplyError:
            return []
        if not completion.input_tokens or completion.output_tokens is None:
            return []
        return [Measured(completion.input_tokens, completion.output_tokens, reply.latency_s, sent_bytes)]


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
    if plan.to_send_least is not None and plan.to_send:
        notes.append(
            "asked about the calibration rows in any case, and about the others only where the cheap teacher of the "
            f"cascade is unsure, as far as its answers are known: {plan.to_send_least:,} are certain"
        )
    if plan.to_send:
        notes.append(plan.basis)
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
    tokens = (_range(plan.input_tokens, "{:,.0f}"), _range(plan.output_tokens, "{:,.0f}"))
    return (plan.teacher, *(f"{count:,}" for count in counts), to_send, *tokens, cost, time_s)


def _range(interval: Interval, pattern: str) -> str:
    low, high = pattern.format(interval.low), pattern.format(interval.high)
    return low if low == high else f"{low}–{high}"
