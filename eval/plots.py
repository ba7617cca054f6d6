"""Plots as SVG, drawn for a page: colours come from the page's style sheet, so that they follow light and dark.

Every plot has words for those who hear the page, and a title on every mark, which browsers show on hover. All text is
escaped; the results are safe to put into a page as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from distill.eval.svg import NARROW_PX, cut, dot, drawing, line, tag, text, text_width

_LONGEST_LABEL = 34
DEEPEST_SHADE = 0.5
"""Opacity of a full cell: deeper, and the number on it would be too faint in the light page or the dark one."""


@dataclass(frozen=True)
class Whisker:
    """One line of a dot-and-whisker plot.

    Attributes:
        label: Name at the left.
        value: The dot; None draws none.
        low: Start of the whisker; None draws none.
        high: Its end.
        said: The numbers in words, shown beside the line and on hover.
        strong: Draw it in the accent colour.
        hollow: Draw the dot as a ring, for what is there to compare with.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    said: str
    strong: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Segment:
    """A part of a stacked bar: how much, what it is called, and the class that colours it."""

    amount: float
    label: str
    style: str


class Reference(NamedTuple):
    """A dashed line to compare with."""

    value: float
    label: str


class Point(NamedTuple):
    """A mark of a square plot: place, weight of the mark (0 to 1), interval of y, words on hover."""

    x: float
    y: float
    weight: float
    low: float | None
    high: float | None
    said: str


@dataclass(frozen=True)
class _Frame:
    """Where values go on a dot-and-whisker plot."""

    low: float
    high: float
    left: float
    right: float
    width: float
    narrow: bool

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        spread = self.high - self.low
        step = next((step for step in _STEPS if spread / step <= 6.01), spread / 5)
        return [round(self.low + step * i, 10) for i in range(round(spread / step) + 1)]


_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


def dot_whisker(rows: Sequence[Whisker], *, title: str, width: int = 760, reference: Reference | None = None) -> Markup:
    """Shares with their intervals, one line each, on one axis.

    Args:
        rows: From top to bottom.
        title: What the plot shows, for those who hear it.
        width: In pixels; below :data:`NARROW_PX` labels stand above their line instead of beside it.
        reference: A dashed line to compare with.
    """
    frame = _frame(rows, reference, width)
    step, top = (46 if frame.narrow else 34), 24
    bottom = top + step * len(rows)
    parts = []
    for tick in frame.ticks():
        parts.append(line(frame.x(tick), top - 6, frame.x(tick), bottom, style="grid"))
        parts.append(text(frame.x(tick), bottom + 17, f"{100 * tick:.0f}%", anchor="middle", style="small muted"))
    if reference is not None:
        x = frame.x(reference.value)
        late = x > width * 0.6
        parts.append(line(x, top - 6, x, bottom, style="reference"))
        parts.append(
            text(
                x + (4 if late else -4),
                top - 11,
                reference.label,
                anchor="end" if late else "start",
                style="small muted",
            )
        )
    for index, row in enumerate(rows):
        parts.append(_whisker(row, top + step * index + (step * 0.68 if frame.narrow else step / 2), frame))
    spoken = "; ".join(f"{row.label}: {row.said}" for row in rows)
    return drawing(*parts, title=title, spoken=spoken, size=(width, bottom + 24))


def stacked_bars(bars: Sequence[tuple[str, Sequence[Segment]]], *, title: str, width: int = 760) -> Markup:
    """One bar a line, cut into shares of its own total.

    Args:
        bars: Label and segments.
        title: What the plot shows.
        width: In pixels; below :data:`NARROW_PX` labels stand above their bar.
    """
    narrow = width < NARROW_PX
    left = 8.0 if narrow else 8 + min(240, max((text_width(label) for label, _ in bars), default=0) + 14)
    step, parts = (46 if narrow else 34), []
    for index, (label, segments) in enumerate(bars):
        y = step * index + (24 if narrow else 8)
        name = cut(label, _LONGEST_LABEL)
        parts.append(text(8, y - 6, name) if narrow else text(left - 12, y + 13, name, anchor="end"))
        total = sum(segment.amount for segment in segments) or 1.0
        x = left
        for segment in segments:
            if not segment.amount:
                continue
            long = max(1.5, segment.amount / total * (width - left - 8))
            said = f"{label}: {segment.label} {segment.amount:,.0f} ({100 * segment.amount / total:.1f}%)"
            parts.append(tag("rect", title=said, class_=segment.style, x=x, y=y, width=long, height=18, rx=2))
            x += long
    spoken = "; ".join(
        f"{label}: " + ", ".join(f"{segment.label} {segment.amount:,.0f}" for segment in segments if segment.amount)
        for label, segments in bars
    )
    return drawing(*parts, title=title, spoken=spoken, size=(width, step * len(bars) + 6))


def reliability(points: Sequence[Point], *, title: str) -> Markup:
    """How sure against how often right. On the diagonal the two are the same; below it, it is too sure."""
    plot = _Square("how sure it says it is", "how often it is right")
    parts = [*plot.frame(), line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), style="reference")]
    for point in points:
        x, y = plot.x(point.x), plot.y(point.y)
        marks = [dot(x, y, 3 + 5 * math.sqrt(point.weight), style="dot strong")]
        if point.low is not None and point.high is not None:
            marks.insert(0, line(x, plot.y(point.low), x, plot.y(point.high), style="whisker strong"))
        parts.append(tag("g", *marks, title=point.said))
    return drawing(*parts, title=title, spoken="; ".join(point.said for point in points), size=plot.size)


def curve(
    points: Sequence[Point],
    *,
    title: str,
    labels: tuple[str, str],
    reference: Reference | None = None,
    marked: int | None = None,
) -> Markup:
    """A line through shares; the y axis is cut to where the line runs.

    Args:
        points: In order of x.
        title: What the plot shows.
        labels: Of the x and the y axis.
        reference: A dashed line across to compare with.
        marked: Place of the point that counts; the others are then drawn as rings.
    """
    top = max((point.y for point in points), default=1.0)
    top = max(top, reference.value) if reference else top
    plot = _Square(*labels, highest=next((end for end in (0.1, 0.2, 0.4, 0.6, 0.8) if end >= top), 1.0))
    at = [(plot.x(point.x), plot.y(point.y)) for point in points]
    path = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(at))
    marks = []
    for number, ((x, y), point) in enumerate(zip(at, points, strict=True)):
        ring = marked is not None and number != marked
        parts = [dot(x, y, 6 if number == marked else 3.5, style="dot hollow" if ring else "dot strong")]
        if point.high is not None:
            high = plot.y(min(point.high, plot.highest))
            parts.insert(0, line(x, y, x, high, style="whisker" if ring else "whisker strong"))
        marks.append(tag("g", *parts, title=point.said))
    if marked is not None and 0 <= marked < len(marks):
        marks.append(marks.pop(marked))  # on top of its neighbours
    across = []
    if reference is not None:
        y = plot.y(reference.value)
        across = [line(plot.left, y, plot.right, y, style="reference")]
        across.append(text(plot.left + 4, y - 5, reference.label, style="small muted"))
    spoken = "; ".join(point.said for point in points)
    path = tag("path", class_="curve", d=path)
    return drawing(*plot.frame(), *across, path, *marks, title=title, spoken=spoken, size=plot.size)


def heat_map(table: Sequence[Sequence[float]], labels: Sequence[str], *, title: str, axes: tuple[str, str]) -> Markup:
    """A confusion matrix: each line is shaded by its own shares, the diagonal in one colour, errors in another.

    Args:
        table: Counts by true label (line) and predicted label (column).
        labels: Of both.
        title: What the plot shows.
        axes: What lines and columns are.
    """
    side = max(44, min(76, 320 // max(1, len(labels))))
    down = cut(f"{axes[0]} ↓", 24)
    widest = max(text_width(down) * 0.9, *(text_width(cut(label, 16)) for label in labels))
    left, top = min(160.0, widest + 16), 44
    parts = [
        text(left + side * len(labels) / 2, 12, f"{axes[1]} →", anchor="middle", style="small muted"),
        text(left - 8, 32, down, anchor="end", style="small muted"),
    ]
    spoken = []
    for i, counts in enumerate(table):
        total, y = sum(counts) or 1.0, top + side * i
        parts.append(text(left - 8, y + side / 2 + 4, cut(labels[i], 16), anchor="end"))
        parts.append(text(left + side * (i + 0.5), 32, cut(labels[i], side // 7), anchor="middle", style="small"))
        for j, cell in enumerate(counts):
            said = f"{labels[i]} called {labels[j]}: {cell:,.0f} ({100 * cell / total:.0f}% of {labels[i]})"
            spoken.append(said)
            box = tag(
                "rect",
                class_="heat-right" if i == j else "heat-wrong",
                fill_opacity=f"{0.06 + (DEEPEST_SHADE - 0.06) * cell / total:.3f}",
                x=left + side * j,
                y=y,
                width=side - 2,
                height=side - 2,
                rx=3,
            )
            words = text(left + side * (j + 0.5) - 1, y + side / 2 + 4, f"{cell:,.0f}", anchor="middle")
            parts.append(tag("g", box, words, title=said))
    size = (left + side * len(labels) + 4, top + side * len(labels) + 4)
    return drawing(*parts, title=title, spoken="; ".join(spoken), size=size)


class _Square:
    """The frame of a plot of shares against shares."""

    size = (340, 300)
    left, right, top, bottom = 50, 326, 12, 252

    def __init__(self, x_label: str, y_label: str, *, highest: float = 1.0) -> None:
        self.labels, self.highest = (x_label, y_label), highest

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        return self.bottom - share / self.highest * (self.bottom - self.top)

    def frame(self) -> list[str]:
        parts = []
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, y = self.x(tick), self.y(tick * self.highest)
            parts += [
                line(x, self.top, x, self.bottom, style="grid"),
                line(self.left, y, self.right, y, style="grid"),
                text(x, self.bottom + 16, f"{100 * tick:.0f}%", anchor="middle", style="small muted"),
                text(self.left - 6, y + 4, f"{100 * tick * self.highest:g}%", anchor="end", style="small muted"),
            ]
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.bottom + 38, self.labels[0], anchor="middle", style="small muted"))
        turn = f"translate(11 {(self.top + self.bottom) / 2:.0f}) rotate(-90)"
        words = text(0, 0, self.labels[1], anchor="middle", style="small muted")
        return [*parts, tag("g", words, transform=turn)]


def _frame(rows: Sequence[Whisker], reference: Reference | None, width: int) -> _Frame:
    narrow = width < NARROW_PX
    known = [end for row in rows for end in (row.value, row.low, row.high) if end is not None and math.isfinite(end)]
    known += [reference.value] if reference else []
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spread = max(high - low, 0.05)
    step = next((step for step in _STEPS if spread / step <= 5), spread / 5)
    low = max(0.0, math.floor((low - spread * 0.04) / step) * step)
    high = min(1.0, math.ceil((high + spread * 0.02) / step) * step)
    widest = max((text_width(cut(row.label, _LONGEST_LABEL)) for row in rows), default=0)
    said = max((text_width(row.said) for row in rows), default=0) * 0.92
    left = 14.0 if narrow else 8 + min(250.0, widest + 14)
    right = width - (14.0 if narrow else said + 24)
    return _Frame(low, high, left, right, width, narrow)


def _whisker(row: Whisker, y: float, frame: _Frame) -> str:
    strength = " strong" if row.strong else ""
    name = cut(row.label, 24 if frame.narrow else _LONGEST_LABEL)
    if frame.narrow:
        parts = [text(4, y - 14, name, style=f"name{strength}")]
        parts.append(text(frame.width - 4, y - 14, row.said, anchor="end", style=f"small{strength}"))
    else:
        parts = [text(frame.left - 14, y + 4.5, name, anchor="end", style=f"name{strength}")]
        parts.append(text(frame.right + 16, y + 4.5, row.said, style=f"small{strength}"))
    if row.low is not None and row.high is not None:
        parts.append(line(frame.x(row.low), y, frame.x(row.high), y, style=f"whisker{strength}"))
    if row.value is not None:
        ring = " hollow" if row.hollow else ""
        parts.append(dot(frame.x(row.value), y, 5.5, style=f"dot{strength}{ring}"))
    return tag("g", *parts, title=f"{row.label}: {row.said}")
