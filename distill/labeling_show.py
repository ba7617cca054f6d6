"""A labeling run as a person and a log see it: a line of figures a teacher, and events as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distill.progress import Progress

if TYPE_CHECKING:
    from distill.labeling.engine.progress import BatchProgress, TeacherProgress
    from distill.labeling.engine.progress import Progress as LabelingProgress

_SNAPSHOT_EVERY_S = 10.0
_CAUSES_SHOWN = 2


class LabelingShow:
    """Takes the engine's reports; shows each teacher's, and writes events and a snapshot every ten seconds to a log.

    Args:
        progress: Where to show them.
        note: Writes one event to the log: its name, and facts by keyword.
    """

    def __init__(self, progress: Progress, note: Callable[..., None]) -> None:
        self._progress = progress
        self._note = note
        self._next_snapshot_s = _SNAPSHOT_EVERY_S

    def __call__(self, state: LabelingProgress) -> None:
        """Takes one report."""
        for teacher in state.teachers:
            self._progress.step(
                teacher.name,
                done=teacher.tally.done,
                total=teacher.total,
                note=describe(teacher),
                left_s=teacher.left_s,
            )
        for event in state.events:
            self._note(f"labeling_{event.kind}", teacher=event.teacher, at_s=event.at_s, **event.facts)
        if state.elapsed_s >= self._next_snapshot_s:
            self._next_snapshot_s = state.elapsed_s + _SNAPSHOT_EVERY_S
            teachers = {teacher.name: _snapshot(teacher) for teacher in state.teachers}
            self._note("labeling_snapshot", at_s=round(state.elapsed_s, 3), teachers=teachers)


def describe(teacher: TeacherProgress) -> str:
    """How a teacher is getting on, on one line: rates, cost and its forecast, retries by cause, what it waits for."""
    tally = teacher.tally
    notes = [f"{teacher.rows_per_s:,.0f} rows/s"]
    if teacher.tokens_per_s >= 1:
        notes.append(f"{teacher.tokens_per_s:,.0f} tokens/s")
    if tally.cost_usd:
        forecast = teacher.forecast_usd
        more = forecast is not None and forecast > tally.cost_usd
        notes.append(f"${tally.cost_usd:,.4f}" + (f" of about ${forecast:,.2f}" if more else ""))
    if tally.ledger_hits:
        notes.append(f"{tally.ledger_hits:,} from the ledger")
    notes += [f"{count:,} × {cause}" for cause, count in tally.retries.most_common(_CAUSES_SHOWN)]
    if teacher.batch is not None:
        notes += _jobs(teacher.batch)
    if teacher.in_flight:
        notes.append(f"{teacher.in_flight:,} of {tally.limit:,} in flight")
    if teacher.paused_s:
        notes.append(f"waiting {teacher.paused_s:.0f} s for the server")
    elif tally.quota_waits and teacher.in_flight < tally.limit and tally.stopped is None:
        notes.append(f"held by {max(tally.quota_waits, key=tally.quota_waits.__getitem__).rpartition('.')[2]}")
    if tally.stopped is not None:
        notes.append(f"stopped: {tally.stop_cause}")
    return " · ".join(notes)


def _jobs(batch: BatchProgress) -> list[str]:
    notes = [f"{batch.gathered:,} gathered"] if batch.gathered else []
    if batch.jobs:
        jobs = "1 batch job" if batch.jobs == 1 else f"{batch.jobs:,} batch jobs"
        notes.append(f"{jobs}, {batch.done:,} of {batch.requests:,} requests done")
    return notes


def _snapshot(teacher: TeacherProgress) -> dict[str, Any]:
    from distill.labeling.engine.progress import facts_of

    found: dict[str, Any] = {
        **facts_of(teacher.tally),
        "done": teacher.tally.done,
        "total": teacher.total,
        "in_flight": teacher.in_flight,
        "limit": teacher.tally.limit,
        "rows_per_s": round(teacher.rows_per_s, 1),
        "tokens_per_s": round(teacher.tokens_per_s, 1),
        "left_s": None if teacher.left_s is None else round(teacher.left_s, 1),
        "forecast_usd": None if teacher.forecast_usd is None else round(teacher.forecast_usd, 4),
        "paused_s": round(teacher.paused_s, 1),
    }
    if teacher.batch is not None:
        found["batch"] = teacher.batch._asdict()
    return found
