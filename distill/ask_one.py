"""One real question to one teacher, and everything that came of it: ``distill doctor RECIPE --teacher NAME``."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.engine.learned_lanes import keep_lane, settled_lane
from distill.labeling.errors import CAUSES, UsageError
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.recipe import Recipe, require_sections

if TYPE_CHECKING:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.teacher import Teacher

_ROWS_READ = 1000
_SAMPLE = {
    "query": "wireless noise cancelling headphones",
    "title": "Over-ear Bluetooth headphones with active noise cancelling, 40 h battery",
    "brand": "Acme",
    "category": "Electronics > Headphones",
    "attributes": "color: black; connection: Bluetooth 5.3",
    "description": "Wireless headphones that cancel noise on planes and trains.",
}
_ANSWERED = ("labeled", "explained", "abstained")
_OF_THE_VOTE = (
    *("row_id", "outcome", "label", "probs_source", "probs_clipped", "trace", "trace_order", "trace_problems"),
    *("clauses", "reason", "cause", "input_tokens", "output_tokens", "cost_usd", "latency_s", "from_ledger"),
)


@dataclass(frozen=True)
class OneAnswer:
    """What came of one question.

    Attributes:
        teacher: Who was asked.
        model: Its model; None for a teacher without one.
        endpoint: Who answers for it.
        row_id: The row asked about.
        row_from: Where that row comes from, in words.
        lane: How its answers are had, as it settled with its server.
        outcome: How it ended, see :data:`~distill.labeling.vote.Outcome`.
        label: The label given; answers of other kinds in words.
        probs: Distribution over the labels.
        probs_source: Where that comes from.
        probs_clipped: Whether part of it stands at the least that the provider reports.
        trace: The reasoning.
        trace_order: When it was written.
        trace_problems: What is wrong with it.
        clauses: Clauses cited.
        reason: Why there is no label.
        cause: Name of what went wrong.
        input_tokens: As the provider counted them.
        output_tokens: Likewise.
        cost_usd: What the answer cost when it was bought; None where that is not known.
        price: What tokens cost and who says so, in words.
        latency_s: Seconds that the answer took when it was bought.
        from_ledger: Whether the ledger had it, so that nothing was paid now.
        elapsed_s: Seconds that all of this took.
    """

    teacher: str
    model: str | None
    endpoint: str | None
    row_id: str
    row_from: str
    lane: str
    outcome: str
    label: str | None
    probs: dict[str, float] | None
    probs_source: str
    probs_clipped: bool
    trace: str | None
    trace_order: str | None
    trace_problems: list[str] | None
    clauses: list[str] | None
    reason: str | None
    cause: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    price: str
    latency_s: float | None
    from_ledger: bool
    elapsed_s: float

    @property
    def answered(self) -> bool:
        """Whether the teacher gave an answer that can be used."""
        return self.outcome in _ANSWERED

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"answered": self.answered, **asdict(self)}

    def to_text(self) -> str:
        """One line a fact."""
        lines = [
            ("teacher", f"{self.teacher}: {self.model or 'no model'} at {self.endpoint or 'no address'}"),
            ("question", f"row {self.row_id}, {self.row_from}"),
            ("lane", self.lane),
            ("outcome", self.outcome + (f": {self.label}" if self.label else "")),
        ]
        if self.reason:
            lines.append(("reason", self.reason))
        if self.cause:
            lines.append(("which means", CAUSES.get(self.cause, self.cause)))
        if self.answered:
            lines += self._answer_lines()
        lines += [("tokens", _tokens(self.input_tokens, self.output_tokens)), ("price", self.price)]
        cost = "unknown" if self.cost_usd is None else f"${self.cost_usd:.6f}"
        lines.append(("cost", f"{cost} when it was bought; nothing now" if self.from_ledger else cost))
        lines.append(("time", self._time()))
        return "\n".join(f"{name:<12} {text}" for name, text in lines)

    def _answer_lines(self) -> list[tuple[str, str]]:
        if self.probs is None:
            probs = "none: a bare label" if self.label else "none"
        else:
            stated = ", ".join(f"{label} {value:.3f}" for label, value in self.probs.items())
            clipped = "; clipped: a part was not given" if self.probs_clipped else ""
            probs = f"{stated} (from: {self.probs_source}{clipped})"
        lines = [("probs", probs)]
        if self.trace is None:
            lines.append(("trace", "none"))
        else:
            order = {"before": "before the label", "after": "after the label", "given": "for a label that was shown"}
            problems = ", ".join(self.trace_problems or ()) or "nothing found wrong"
            lines.append(("trace", f"{self.trace} ({order[self.trace_order or 'before']}; {problems})"))
        return [*lines, ("clauses", ", ".join(self.clauses or ()) or "none")]

    def _time(self) -> str:
        if self.latency_s is None:
            return f"{self.elapsed_s:.2f} s, without an answer"
        if self.from_ledger:
            return f"{self.latency_s:.2f} s when it was bought; served from the ledger now, --fresh asks anew"
        return f"{self.latency_s:.2f} s"


def ask_one(recipe: Recipe, name: str, *, fresh: bool = False) -> OneAnswer:
    """Asks one teacher of a recipe one question, as a run would.

    The question goes through the ledger like any other: what it holds is not paid for again, and what is asked here is
    not asked again by the run.

    Args:
        recipe: The recipe.
        name: The teacher's name in it.
        fresh: Ask the server also where the ledger has the answer. That answer is shown and not kept, since the
            ledger keeps the first one.

    Raises:
        UsageError: The recipe has no task or no such teacher, or its rows cannot be used.
        LedgerError: The ledger cannot be used.
    """
    from distill.stages import ledger_path

    require_sections(recipe, ("task", "teachers"), stage="doctor --teacher")
    if name not in recipe.teachers:
        raise UsageError(f"--teacher: got {name!r}; the recipe has {', '.join(recipe.teachers)}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, Ledger(ledger_path(recipe.ledger)) as ledger:
        teacher = _teacher(recipe, name)
        asked, row, row_from = _question(recipe, teacher, Path(scratch))
        if not fresh:
            vote = _ask(teacher, asked, row, ledger)
            lane = _lane(teacher, ledger)
        else:
            with Ledger(Path(scratch) / "fresh.sqlite") as aside:
                _settled_alike(teacher, ledger, aside)
                vote = _ask(teacher, asked, row, aside)
                lane = _lane(teacher, aside)
    return _answer(recipe, teacher, vote, row_from=row_from, lane=lane, elapsed_s=time.perf_counter() - began)


def _teacher(recipe: Recipe, name: str) -> Teacher:
    from distill.stages import build_teachers

    return build_teachers(recipe.model_copy(update={"teachers": {name: recipe.teachers[name]}}))[0]


def _question(recipe: Recipe, teacher: Teacher, scratch: Path) -> tuple[AskedRows, pl.DataFrame, str]:
    """What is asked: how, the row as a table of one line, and where it comes from."""
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.rows.load import load_rows

    assert recipe.task is not None
    task, table = Task.from_config(recipe.task), scratch / "rows.parquet"
    config = recipe.labeling.model_copy(
        update={"samples": 1, "canaries": None, "watch": None, "near_duplicates": "ask", "retries": 0}
    )
    if recipe.data is None:
        values = {column: _SAMPLE.get(column, "") for column in task.inputs}
        facts = {
            "row_id": "sample",
            "group": "sample",
            "split": "pool",
            "gold": task.labels[0] if task.closed else None,
        }
        pl.DataFrame([{**values, **facts}]).write_parquet(table)
        config, splits = config.model_copy(update={"examples": None}), None
    else:
        # Examples are chosen among all rows; otherwise a few rows hold the first one.
        limit = None if config.examples else _ROWS_READ
        load_rows(recipe.data, task=task, out=table, seed=recipe.seed, slices=recipe.eval.slices, limit=limit)
        splits = config.splits
    asked = AskedRows(pl.scan_parquet(table), task=task, config=config, seed=recipe.seed, splits=splits)
    prompter = asked.prompter(teacher.answer)
    for batch in asked:
        for place, row in enumerate(batch.iter_rows(named=True)):
            if prompter.not_asked(row) is None:
                where = "a built-in sample, since the recipe has no data" if recipe.data is None else "of its data"
                return asked, batch[place], where
    raise UsageError(f"--teacher: none of the first {asked.rows} rows can be asked about; give rows with a label")


def _ask(teacher: Teacher, asked: AskedRows, row: pl.DataFrame, ledger: Ledger) -> dict[str, Any]:
    from distill.labeling.engine.engine import LabelingRun

    votes: list[pl.DataFrame] = []
    run = LabelingRun(task=asked.task, teachers=[teacher], ledger=ledger, config=asked.config, prompter=asked.prompter)
    run.run([row], on_votes=votes.append)
    lines = pl.concat(votes).rows(named=True)
    if asked.task.closed:
        return lines[0]
    # One question, of which each part has a line with its share: told as one.
    answers = [_said(line) for line in lines]
    whole = {
        name: None if any(line[name] is None for line in lines) else sum(line[name] for line in lines)
        for name in ("input_tokens", "output_tokens", "cost_usd")
    }
    return lines[0] | whole | {"label": "; ".join(answer for answer in answers if answer) or None}


def _said(line: dict[str, Any]) -> str:
    """A line's answer in words, with its part."""
    name = f"{line['part']}: " if line["part"] else ""
    if line["outcome"] != "labeled":
        return f"{name}{line['outcome']}" if name else ""
    if line["spans"] is not None:
        shown = [f"{span['text']} ({span['link'] or span['type']})" for span in line["spans"]]
        return f"{name}{', '.join(shown) or 'none'}"
    found = next(line[column] for column in ("label", "labels", "texts", "text") if line[column] is not None)
    return f"{name}{found if isinstance(found, str) else ', '.join(found) or 'none'}"


def _server_of(teacher: Teacher) -> dict[str, str] | None:
    endpoint, model = getattr(teacher, "endpoint", None), getattr(teacher, "model", None)
    return {"endpoint": endpoint, "model": model, "teacher": teacher.name} if endpoint and model else None


def _settled_alike(teacher: Teacher, ledger: Ledger, aside: Ledger) -> None:
    """A fresh answer is had the same way as the one in the ledger."""
    server = _server_of(teacher)
    if server and (before := settled_lane(ledger, **server)):
        keep_lane(aside, before, **server)


def _lane(teacher: Teacher, ledger: Ledger) -> str:
    server = _server_of(teacher)
    settled = settled_lane(ledger, **server) if server else None
    return settled.lane if settled else teacher.answer.form


def _answer(
    recipe: Recipe, teacher: Teacher, vote: dict[str, Any], *, row_from: str, lane: str, elapsed_s: float
) -> OneAnswer:
    from distill.doctor import price_said
    from distill.teachers.config import section_of
    from distill.teachers.model_config import ModelTeacherConfig

    assert recipe.task is not None
    config = recipe.teachers[section_of(teacher.name, recipe.teachers) or teacher.name]
    probs = vote["probs"]
    return OneAnswer(
        teacher=teacher.name,
        model=getattr(teacher, "model", None),
        endpoint=getattr(teacher, "endpoint", None),
        row_from=row_from,
        lane=lane,
        probs=None if probs is None else dict(zip(recipe.task.labels, probs, strict=True)),
        price=price_said(config) if isinstance(config, ModelTeacherConfig) else "nobody is paid",
        elapsed_s=elapsed_s,
        **{name: vote[name] for name in _OF_THE_VOTE},
    )


def _tokens(read: int | None, written: int | None) -> str:
    said = (("unknown" if count is None else f"{count:,}") for count in (read, written))
    return "{} in, {} out".format(*said)
