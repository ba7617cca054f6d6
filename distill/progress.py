"""Progress for a person: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol

from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Told how far a run is."""

    def started(self, stage: str) -> None:
        """A stage begins."""

    def skipped(self, stage: str) -> None:
        """A stage has nothing to do: nothing that it reads has changed."""

    def finished(self, stage: str, summary: str, seconds: float) -> None:
        """A stage ended; ``summary`` is one line for a person."""

    def warn(self, text: str) -> None:
        """Something that a person should know, and that does not stop the run."""

    def step(self, what: str, *, done: float, total: float | None, note: str = "", left_s: float | None = None) -> None:
        """How far one piece of a stage is.

        Args:
            what: Names the piece: a teacher, a student.
            done: Units done.
            total: Units in all, None where it is not known.
            note: Rates and amounts, to be shown behind the bar.
            left_s: Seconds left, where they are known better than from ``done``.
        """


class SilentProgress:
    """Shows nothing: for library use."""

    def started(self, stage: str) -> None:
        """Does nothing."""

    def skipped(self, stage: str) -> None:
        """Does nothing."""

    def finished(self, stage: str, summary: str, seconds: float) -> None:
        """Does nothing."""

    def warn(self, text: str) -> None:
        """Does nothing."""

    def step(self, what: str, *, done: float, total: float | None, note: str = "", left_s: float | None = None) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class TitledProgress:
    """Progress whose stages carry the name of what they are a part of: ``round 1: label``."""

    progress: Progress
    title: str

    def started(self, stage: str) -> None:
        """Passes on."""
        self.progress.started(f"{self.title}: {stage}")

    def skipped(self, stage: str) -> None:
        """Passes on."""
        self.progress.skipped(f"{self.title}: {stage}")

    def finished(self, stage: str, summary: str, seconds: float) -> None:
        """Passes on."""
        self.progress.finished(f"{self.title}: {stage}", summary, seconds)

    def warn(self, text: str) -> None:
        """Passes on."""
        self.progress.warn(f"{self.title}: {text}")

    def step(self, what: str, *, done: float, total: float | None, note: str = "", left_s: float | None = None) -> None:
        """Passes on."""
        self.progress.step(what, done=done, total=total, note=note, left_s=left_s)


class TerminalProgress:
    """Shows progress on a stream; a context manager.

    On a terminal each piece of a stage has a bar with its rate and the time left. Elsewhere (a log file, CI) a
    line is written for each stage, and for a long piece one every ten seconds.

    Args:
        stream: Where to write; standard error in the CLI, so that results stay alone on standard output.
    """

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s: dict[str, float] = {}

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bars()

    def started(self, stage: str) -> None:
        """A stage begins: its bars come below this line."""
        self._stop_bars()
        self._console.print(f"[bold]{stage:<22}[/bold] …", markup=True)

    def skipped(self, stage: str) -> None:
        """One line."""
        self._stop_bars()
        self._console.print(f"[bold]{stage:<22}[/bold] [dim]unchanged, kept[/dim]")

    def finished(self, stage: str, summary: str, seconds: float) -> None:
        """One line with what came out and how long it took."""
        self._stop_bars()
        self._console.print(f"[bold green]{stage:<22}[/bold green] {escape(summary)} [dim]({seconds:.1f} s)[/dim]")

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self._console.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def step(self, what: str, *, done: float, total: float | None, note: str = "", left_s: float | None = None) -> None:
        """Moves the bar of one piece, or writes a line where there is no terminal."""
        if not self._console.is_terminal:
            left = "" if not left_s else f" · {duration(left_s)} left"
            self._write_line(what, done=done, total=total, note=note + left)
            return
        if self._bars is None:
            self._bars = _bars(self._console)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, note=note)
        self._bars.update(self._tasks[what], completed=done, total=total, note=note)

    def _write_line(self, what: str, *, done: float, total: float | None, note: str) -> None:
        now = time.monotonic()
        ended = total is not None and done >= total
        if not ended and now - self._last_line_s.setdefault(what, now) < _LINE_EVERY_S:
            return
        self._last_line_s[what] = now
        share = f" of {total:,.0f} ({done / total:.0%})" if total else ""
        self._console.print(f"  {what:<20} {done:,.0f}{share}  {note}", markup=False)

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()
        self._last_line_s.clear()


def duration(seconds: float) -> str:
    """Seconds in the units that matter: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("  {task.description:<20}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
        transient=False,
        refresh_per_second=5,
    )
