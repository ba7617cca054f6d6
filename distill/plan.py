"""What a run would ask, what the ledger already holds, and what the rest costs: before anything is sent."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from distill.labeling.errors import BadReplyError
from distill.labeling.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.teacher import Reply, Request, Teacher
from distill.recipe import Recipe, require_sections

if TYPE_CHECKING:
    from distill.labeling.asked_rows import AskedRows
    from distill.teachers.config import TeacherConfig

_MEASURED_REPLIES = 500
_ENOUGH_REPLIES = 20
# Bytes of UTF-8 a token, over the tokenizers in use: English runs at 4 to 4.5, Korean and JSON at 2.5 to 3.5.
_BYTES_PER_TOKEN = (2.5, 4.5)
# Tokens of a short JSON answer, and of one with a trace, without any reply to go by.
_SHORT_ANSWER_TOKENS = (8, 80)
_TRACED_ANSWER_TOKENS = (60, 400)
_Z95 = 1.96


class Interval(NamedTuple):
    """From a low to a high estimate."""

    low: float
    high: float


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
        canaries: Of the rows, those with a planted order.
        rows_cut: Rows of which an input is too long and is shown in part.
        shared: Rows that are not asked since they take a near-duplicate's answer; not among ``rows``.
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
    canaries: int = 0
    rows_cut: int = 0
    shared: int = 0


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
        notes = [f"{teacher.teacher}: {teacher.basis}" for teacher in self.teachers if teacher.to_send]
        notes += _said_of_rows(self.teachers[0]) if self.teachers else []
        budget = "no budget is set" if self.budget_usd is None else f"the budget is ${self.budget_usd:,.2f}"
        return "\n".join([*(line.rstrip() for line in table), "", *notes, f"ledger {self.ledger}; {budget}"])


def make_plan(recipe: Recipe, *, limit: int | None = None) -> Plan:
    """Reads the rows, writes every request and looks it up in the ledger. Sends nothing.

    Args:
        recipe: What would be run.
        limit: As in :func:`distill.run`.

    Raises:
        UsageError: The recipe lacks rows, a task or teachers, or the rows cannot be used.
        LedgerError: The ledger cannot be read.
    """
    from distill.labeling.asked_rows import AskedRows
    from distill.labeling.rows import load_rows
    from distill.secrets import with_secrets
    from distill.stages import ledger_path
    from distill.teachers.registry import build_teacher

    require_sections(recipe, ("data", "task", "teachers"), stage="plan")
    assert recipe.data is not None and recipe.task is not None
    task = Task.from_config(recipe.task)
    path = ledger_path(recipe.ledger)
    plans = []
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.parquet"
        load_rows(recipe.data, task=task, out=table, seed=recipe.seed, slices=recipe.eval.slices, limit=limit)
        config = recipe.labeling
        asked = AskedRows(pl.scan_parquet(table), task=task, config=config, seed=recipe.seed, splits=config.splits)
        # A plan must not leave a ledger behind where there was none.
        with Ledger(path if path.exists() else Path(scratch) / "empty.sqlite") as ledger:
            for name, teacher_config in recipe.teachers.items():
                teacher = build_teacher(name, with_secrets(teacher_config, where=f"teachers.{name}"))
                tally = _Tally(teacher, ledger, asked)
                for batch in asked:
                    tally.add(batch)
                plans.append(tally.plan(teacher_config))
    return Plan(ledger=path, teachers=tuple(plans), budget_usd=recipe.labeling.budget_usd)


class _Tally:
    """Counts the requests of one teacher, and learns from the replies that the ledger holds."""

    def __init__(self, teacher: Teacher, ledger: Ledger, asked: AskedRows) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.asked = asked
        self._prompter = asked.prompter(teacher.answer)
        self.rows_cut = 0
        self.rows = self.without_reply = self.duplicates = self.in_ledger = self.to_send = 0
        self.bytes_to_send = 0
        self.measured: list[tuple[float, float, float]] = []
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
                self.bytes_to_send += _payload_bytes(request)
            elif len(self.measured) < _MEASURED_REPLIES:
                self._measure(request, held[key])

    def _requests(self, batch: pl.DataFrame) -> Iterator[Request | None]:
        for row in batch.iter_rows(named=True):
            prompt = self._prompter(row)
            self.rows_cut += bool(prompt.cut)
            for sample in range(self.asked.config.samples):
                yield self.teacher.compile(prompt, sample=sample)

    def plan(self, config: TeacherConfig) -> TeacherPlan:
        """Puts what was counted into a plan."""
        enough = len(self.measured) >= _ENOUGH_REPLIES
        if enough:
            ratio, output, latency = (_mean_interval([line[column] for line in self.measured]) for column in range(3))
            basis = f"from {len(self.measured)} replies of this teacher in the ledger"
        else:
            ratio = Interval(1 / _BYTES_PER_TOKEN[1], 1 / _BYTES_PER_TOKEN[0])
            output = Interval(*(_TRACED_ANSWER_TOKENS if self.teacher.answer.trace else _SHORT_ANSWER_TOKENS))
            latency = None
            basis = "from the length of the requests; after a first run with --limit the ledger tells more"
        sent = Interval(self.bytes_to_send * ratio.low, self.bytes_to_send * ratio.high)
        received = Interval(self.to_send * output.low, self.to_send * output.high)
        concurrency = self.asked.config.concurrency
        lanes = self.teacher.max_concurrency or (concurrency if isinstance(concurrency, int) else None)
        return TeacherPlan(
            teacher=self.teacher.name,
            rows=self.rows,
            duplicates=self.duplicates,
            in_ledger=self.in_ledger,
            without_reply=self.without_reply,
            to_send=self.to_send,
            input_tokens=sent,
            output_tokens=received,
            cost_usd=_cost(config, sent, received),
            time_s=_time(self.to_send, latency, lanes),
            basis=basis,
            canaries=0 if self.asked.canaries is None else len(self.asked.canaries),
            rows_cut=self.rows_cut,
            shared=len(self.asked.sharing.shared),
        )

    def _measure(self, request: Request, reply: Reply) -> None:
        try:
            completion = self.teacher.read(reply)
        except BadReplyError:
            return
        if completion.input_tokens and completion.output_tokens is not None:
            ratio = completion.input_tokens / _payload_bytes(request)
            self.measured.append((ratio, completion.output_tokens, reply.latency_s))


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


def _payload_bytes(request: Request) -> int:
    return len(json.dumps(request.payload, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _mean_interval(values: Sequence[float]) -> Interval:
    """95% interval of a mean by the normal approximation, cut at zero."""
    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(count - 1, 1) / count)
    return Interval(max(0.0, mean - _Z95 * spread), mean + _Z95 * spread)


def _cost(config: TeacherConfig, sent: Interval, received: Interval) -> Interval | None:
    if config.type == "recorded":
        return Interval(0.0, 0.0)
    price = config.price
    if price is None:
        return None
    low, high = (
        (tokens_in * price.input_usd_per_mtok + tokens_out * price.output_usd_per_mtok) / 1e6
        for tokens_in, tokens_out in zip(sent, received, strict=True)
    )
    return Interval(low, high)


def _time(requests: int, latency: Interval | None, lanes: int | None) -> Interval | None:
    """Seconds, were the server to bear as many requests at once as are allowed."""
    if requests == 0:
        return Interval(0.0, 0.0)
    if latency is None or lanes is None:
        return None
    return Interval(requests * latency.low / lanes, requests * latency.high / lanes)


def _cells(plan: TeacherPlan) -> tuple[str, ...]:
    counts = (plan.rows, plan.duplicates, plan.in_ledger, plan.without_reply, plan.to_send)
    cost = "unknown" if plan.cost_usd is None else _range(plan.cost_usd, "${:,.2f}")
    time_s = "unknown" if plan.time_s is None else _range(plan.time_s, "{:,.0f} s")
    tokens = (_range(plan.input_tokens, "{:,.0f}"), _range(plan.output_tokens, "{:,.0f}"))
    return (plan.teacher, *(f"{count:,}" for count in counts), *tokens, cost, time_s)


def _range(interval: Interval, pattern: str) -> str:
    low, high = pattern.format(interval.low), pattern.format(interval.high)
    return low if low == high else f"{low}–{high}"
