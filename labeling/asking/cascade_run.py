"""Runs a cascade: two teachers on calibration rows, the cheap one on the rest, the strong one where that is unsure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.asking.cascade import Choice, choose_threshold
from distill.labeling.asking.cascade_votes import CASCADE_CAUSE, answers_of, judged_rows, kept_rows
from distill.labeling.cascade_config import CascadeConfig
from distill.labeling.engine.budget import Budget
from distill.labeling.engine.engine import LabelingRun, OnProgress, OnVotes
from distill.labeling.engine.jobs import Watch
from distill.labeling.engine.progress import LabelingResult, Progress, TeacherTally
from distill.labeling.errors import DataError, UsageError
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.rows.row_draw import draw
from distill.labeling.teacher import Teacher
from distill.labeling.vote import Vote, votes_frame

_GOLD_SPLITS = ("train", "audit")
_LINES_PER_FRAME = 10_000


@dataclass(frozen=True)
class CascadeFacts:
    """How a cascade went.

    Attributes:
        config: What was asked for.
        calibration: Ids of the rows on which both were asked.
        judged: Of those, rows whose answers could be compared.
        choice: The threshold, and how it was found; None where the run stopped before.
        rows: Rows in all, calibration and sharers of an answer left out of neither.
        kept: Rows whose answer of the cheap teacher stands without the strong one.
        stopped: Why it ended before every row was dealt with; None where it did not.
    """

    config: CascadeConfig
    calibration: list[str]
    judged: int
    choice: Choice | None
    rows: int
    kept: int
    stopped: str | None

    def said(self) -> str:
        """How it went, in a few words."""
        cheap, strong = self.config.order
        if self.choice is None:
            return "no threshold of the cascade was set"
        if self.choice.threshold is None:
            return f"no threshold of {cheap} was shown to do, {strong} answers every row"
        return f"{cheap} was sure ({self.choice.threshold:.3g}) of {self.kept:,} of {self.rows:,} rows"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts: dict[str, Any] = self.config.model_dump(mode="json", exclude={"calibration"})
        facts |= {name: getattr(self, name) for name in ("calibration", "judged", "rows", "kept", "stopped")}
        choice = self.choice
        return facts | {
            "threshold": choice and choice.threshold,
            "correlation": choice and choice.correlation,
            "rows_needed": choice and choice.rows_needed,
            "steps": [step.to_dict() for step in choice.steps] if choice else [],
        }


def calibration_rows(asked: AskedRows, config: CascadeConfig) -> pl.DataFrame:
    """The rows on which both teachers are asked: whole groups, by a draw that hangs on their names alone.

    Args:
        asked: The rows.
        config: How many, and what they are measured against: for gold only rows of splits train and audit that have
            it are drawn.

    Returns:
        ``row_id``, ``group``, ``split`` and ``gold``.

    Raises:
        DataError: Gold is needed and no row has it.
    """
    able = asked.askable()
    if config.measure != "agreement":
        able = able.filter(pl.col("gold").is_not_null() & pl.col("split").is_in(_GOLD_SPLITS))
        if able.is_empty():
            raise DataError(
                f"labeling.cascade.measure: got {config.measure}, and no row of splits train and audit that is asked "
                "has a gold label; give some, ask those splits (labeling.splits), or take measure: agreement"
            )
    sizes = able.group_by("group").len().sort("group")
    sizes = sizes.with_columns(turn=pl.Series(draw(sizes["group"], seed=asked.seed, purpose="cascade")))
    sizes = sizes.sort("turn").with_columns(before=pl.col("len").cum_sum() - pl.col("len"))
    chosen = sizes.filter(pl.col("before") < config.calibration)
    return able.join(chosen, on="group", how="semi")


def run_cascade(
    asked: AskedRows,
    *,
    teachers: Sequence[Teacher],
    ledger: Ledger,
    on_votes: OnVotes,
    on_progress: OnProgress | None = None,
    watch: Watch | None = None,
) -> tuple[LabelingResult, CascadeFacts]:
    """Asks two teachers one after the other, as ``labeling.cascade`` says.

    Every row gets a line of each teacher. One that was not asked for since the other's answer does is ``unsent`` with
    the cause ``cascade``. The threshold follows from the answers on the calibration rows and from nothing else: run
    again, the ledger gives the same answers, the same threshold, and nothing is paid.

    Where no threshold is shown to do, the cheap teacher is not asked beyond the calibration rows: the strong one
    answers every row. Where a teacher is stopped on the way, nobody is asked any further: the rows left are unsent for
    the same cause, and the same command goes on.

    Args:
        asked: The rows, and how they are asked.
        teachers: The two that the cascade names.
        ledger: Where replies are kept.
        on_votes: Takes votes, those on canaries included.
        on_progress: Takes how each part is getting on.
        watch: As :class:`~distill.labeling.engine.engine.LabelingRun` takes it.

    Raises:
        UsageError: A teacher is missing.
        DataError: There is nothing to measure against, or the cheap teacher never says how sure it is.
    """
    config = asked.config.cascade
    assert config is not None
    cheap, strong = _in_order(teachers, config)
    parts = _Parts(asked, ledger=ledger, on_votes=on_votes, on_progress=on_progress, watch=watch)
    rows = asked.askable().select("row_id")
    drawn = calibration_rows(asked, config)
    answers = parts.ask([cheap, strong], drawn["row_id"], canaries=drawn.clear()["row_id"])
    choice, judged = None, 0
    if parts.stopped is None:
        choice, judged = _choose(asked, config, answers, drawn, share=len(drawn) / len(rows))
    kept = _ask_the_rest(parts, cheap, strong, rows=rows["row_id"], drawn=drawn["row_id"], choice=choice)
    sharers = asked.sharing.shared["shared_from"]
    facts = CascadeFacts(
        config=config,
        calibration=drawn["row_id"].to_list(),
        judged=judged,
        choice=choice,
        rows=len(rows) + len(sharers),
        kept=len(kept) + int(sharers.is_in(kept.implode()).sum()),
        stopped=parts.stopped,
    )
    return parts.result([cheap, strong]), facts


def _in_order(teachers: Sequence[Teacher], config: CascadeConfig) -> tuple[Teacher, Teacher]:
    """The cheap teacher and the strong one."""
    by_name = {teacher.name: teacher for teacher in teachers}
    if set(by_name) != set(config.order):
        raise UsageError(
            f"labeling.cascade.order: got {list(config.order)}, the teachers are {list(by_name)}; name both"
        )
    return by_name[config.order[0]], by_name[config.order[1]]


def _ask_the_rest(
    parts: _Parts, cheap: Teacher, strong: Teacher, *, rows: pl.Series, drawn: pl.Series, choice: Choice | None
) -> pl.Series:
    """Asks about every row that is not a calibration row, as the threshold says.

    Args:
        parts: Asks.
        cheap: The teacher who is asked first.
        strong: The other one.
        rows: ``row_id`` of all rows that are asked.
        drawn: Of the calibration rows, on which both were asked.
        choice: The threshold; None where a teacher was stopped before there was one.

    Returns:
        ``row_id`` of the rows whose answer by the cheap teacher is kept.
    """
    rest = rows.filter(~rows.is_in(drawn.implode()))
    if choice is None:
        parts.leave([cheap, strong], rest)
        return rest.clear()
    if choice.threshold is None:
        parts.spare(cheap, rest, f"no threshold of {cheap.name} was shown to do, so {strong.name} answers every row")
        parts.ask([strong], rest, canaries=rows)
        return rest.clear()
    said = answers_of(parts.ask([cheap], rest, canaries=rows), task=parts.asked.task, by=parts.cascade.by)
    kept = kept_rows(said, choice.threshold)
    kept = kept.filter(kept.is_in(rest.implode()))
    unsure = rest.filter(~rest.is_in(kept.implode()))
    parts.spare(strong, kept, f"{cheap.name} was sure")
    if parts.stopped is None:
        parts.ask([strong], unsure, canaries=pl.concat([unsure, drawn]))
    else:
        parts.leave([strong], unsure)
    return kept


def _choose(
    asked: AskedRows, config: CascadeConfig, answers: pl.DataFrame, drawn: pl.DataFrame, *, share: float
) -> tuple[Choice, int]:
    """The threshold, and how many rows it rests on."""
    cheap, strong = (
        answers_of(answers.filter(pl.col("teacher") == name), task=asked.task, by=config.by) for name in config.order
    )
    if config.measure == "agreement":
        truth = drawn.join(strong.select("row_id", truth="label"), on="row_id", how="left", maintain_order="left")
    else:
        truth = drawn.with_columns(truth="gold")
    judged = judged_rows(cheap, truth, task=asked.task, config=config)
    choice = choose_threshold(judged, target=config.target, confidence=config.confidence, judged_share=share)
    return choice, len(judged.wrong)


@dataclass
class _Parts:
    """The runs of the engine that make up a cascade, with one budget, and what they gave together."""

    asked: AskedRows
    ledger: Ledger
    on_votes: OnVotes
    on_progress: OnProgress | None
    watch: Watch | None
    stopped: str | None = None
    results: list[LabelingResult] = field(default_factory=list)
    lines: dict[str, Counter[str]] = field(default_factory=dict)
    _cause: str = "paused"

    def __post_init__(self) -> None:
        config = self.asked.config
        assert config.cascade is not None
        self.cascade = config.cascade
        self._budget = Budget(config.budget_usd, quota=config.quota)

    def ask(self, teachers: Sequence[Teacher], row_ids: pl.Series, *, canaries: pl.Series) -> pl.DataFrame:
        """Asks about some rows, and about the canaries made of some, and returns what decides of the votes."""
        chosen = _SomeRows(self.asked, row_ids, canaries)
        kept = [votes_frame([])]

        def take(votes: pl.DataFrame) -> None:
            kept.append(votes)
            self.on_votes(votes)

        if chosen.height:
            run = LabelingRun(
                task=self.asked.task,
                teachers=teachers,
                ledger=self.ledger,
                config=self.asked.config,
                prompter=self.asked.prompter,
                watch=self.watch,
            )
            result = run.run(chosen, on_votes=take, on_progress=self._later(), budget=self._budget)
            self.results.append(result)
            for name, tally in result.teachers.items():
                if tally.stopped is not None and self.stopped is None:
                    self.stopped, self._cause = f"{name}: {tally.stopped}", tally.stop_cause or "paused"
        return pl.concat(votes.select("row_id", "teacher", "outcome", "label", "probs") for votes in kept)

    def spare(self, teacher: Teacher, row_ids: pl.Series, reason: str) -> None:
        """Ends rows that this teacher is not asked about, since another one answers them."""
        self._end(teacher, row_ids, reason, CASCADE_CAUSE)

    def leave(self, teachers: Sequence[Teacher], row_ids: pl.Series) -> None:
        """Ends rows that nobody is asked about any more, since a teacher was stopped."""
        for teacher in teachers:
            self._end(teacher, row_ids, f"the cascade goes no further: {self.stopped}", self._cause)

    def _end(self, teacher: Teacher, row_ids: pl.Series, reason: str, cause: str) -> None:
        guideline, samples = self.asked.task.guideline, range(self.asked.config.samples)
        for part in row_ids.to_frame().iter_slices(_LINES_PER_FRAME):
            votes = [
                Vote(row_id, teacher.name, teacher.family, "unsent", sample, reason, cause=cause)
                for (row_id,) in part.iter_rows()
                for sample in samples
            ]
            frame = votes_frame(votes).with_columns(
                guideline_version=pl.lit(guideline and guideline.version, pl.String)
            )
            self.lines.setdefault(teacher.name, Counter())["unsent"] += len(frame)
            self.on_votes(frame)

    def result(self, teachers: Sequence[Teacher]) -> LabelingResult:
        """The counts of all parts together."""
        tallies = {}
        for name in (teacher.name for teacher in teachers):
            own = [result.teachers[name] for result in self.results if name in result.teachers]
            tallies[name] = _together([*own, TeacherTally(outcomes=self.lines.get(name, Counter()))])
        return LabelingResult(
            teachers=tallies,
            stopped="budget" if any(result.stopped for result in self.results) else None,
            elapsed_s=sum(result.elapsed_s for result in self.results),
        )

    def _later(self) -> OnProgress | None:
        """Takes progress of a part as that of the whole: the time before it counts."""
        before_s, on_progress = sum(result.elapsed_s for result in self.results), self.on_progress
        if on_progress is None:
            return None

        def show(state: Progress) -> None:
            on_progress(replace(state, elapsed_s=state.elapsed_s + before_s))

        return show


class _SomeRows:
    """Those of the rows asked that are wanted now, in the order of asking."""

    in_order = True

    def __init__(self, asked: AskedRows, row_ids: pl.Series, sources: pl.Series) -> None:
        self._asked = asked
        planted = asked.canaries
        if planted is not None:
            row_ids = pl.concat([row_ids, planted.filter(pl.col("source").is_in(sources.implode()))["row_id"]])
        self._ids = row_ids.to_frame("row_id")
        self.height = len(row_ids)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for batch in self._asked:
            wanted = batch.join(self._ids, on="row_id", how="semi", maintain_order="left")
            if len(wanted):
                yield wanted


def _together(tallies: Sequence[TeacherTally]) -> TeacherTally:
    """Adds up counts; of limits and stops the last counts."""
    total = TeacherTally()
    for tally in tallies:
        for name in ("requests_sent", "ledger_hits", "input_tokens", "output_tokens", "cost_usd", "unpriced", "reasks"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.cut_rows += tally.cut_rows
        for counts in ("outcomes", "retries", "cut_fields"):
            getattr(total, counts).update(getattr(tally, counts))
        for name, seconds in tally.quota_waits.items():
            total.quota_waits[name] = total.quota_waits.get(name, 0.0) + seconds
        total.stopped, total.stop_cause = total.stopped or tally.stopped, total.stop_cause or tally.stop_cause
        total.limit = tally.limit or total.limit
    return total
