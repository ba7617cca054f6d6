"""Plots of rounds: quality with its interval by what was paid for it.

Beside it stands the control's student or, of a part of several, how often the student says what its teachers say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from distill.eval.intervals import Estimate
from distill.eval.queries.rounds_words import PartStory
from distill.eval.rounds import RoundFacts, RoundsFacts
from distill.eval.svg import dot, drawing, line, tag, text
from distill.eval.wording import dollars, interval, number, plural

_TOP, _BOTTOM_ROOM, _LEFT, _RIGHT_ROOM = 14, 48, 56, 18
_LINES = 5
_OF_LISTS = ("ndcg", "list_f1")
_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_APART_PX = 5.0
"""How far the control stands beside the student, so that two whiskers at one cost are two."""


@dataclass(frozen=True)
class _Mark:
    x: float
    value: float
    low: float
    high: float
    said: str


def rounds_plot(facts: RoundsFacts, *, width: int, height: int = 280) -> Markup | None:
    """Quality by cost so far, or by rows asked where answers cost nothing or their price is not known.

    Args:
        facts: The rounds.
        width: In pixels.
        height: Likewise.

    Returns:
        None where fewer than two rounds were measured.
    """
    by_cost = _known_cost(facts)
    chosen = [mark for one in facts.rounds if (mark := _chosen(one, facts.student, by_cost=by_cost))]
    random = [mark for one in facts.rounds if (mark := _random(one, by_cost=by_cost))]
    if len(chosen) < 2:
        return None
    title = f"Quality of {facts.student} by {'cost' if by_cost else 'rows asked'}"
    curve = _Curve(title, facts.deciding[0].metric, by_cost, chosen, random)
    return _drawn(curve, width=width, height=height)


def part_plot(facts: RoundsFacts, story: PartStory, *, width: int, height: int = 220) -> Markup | None:
    """One part's quality over rounds, and hollow how often the student says what the merged labels say.

    Of ranked lists the second is left out: two good lists have few texts in common, and it would lie near zero.

    Args:
        facts: The rounds.
        story: The part.
        width: In pixels.
        height: Likewise.

    Returns:
        None where fewer than two rounds were measured.
    """
    by_cost = _known_cost(facts)
    by_number = {one.number: one for one in facts.rounds}
    chosen, agreeing = [], []
    for row, _ in story.of(facts.student):
        one = by_number[row.round or 0]
        if mark := _mark(one, row.quality, story.metric, by_cost=by_cost):
            chosen.append(mark)
        agreement = row.estimate.agreement if row.estimate and story.metric not in _OF_LISTS else None
        if agreement and (mark := _mark(one, agreement, "accuracy", by_cost=by_cost, what=", says as merged")):
            agreeing.append(mark)
    if len(chosen) < 2:
        return None
    title = f"{story.part}: quality of {facts.student} by {'cost' if by_cost else 'queries asked'}"
    return _drawn(_Curve(title, story.metric, by_cost, chosen, agreeing), width=width, height=height)


@dataclass(frozen=True)
class _Curve:
    """What is drawn: filled marks on a line, and hollow ones beside them."""

    title: str
    metric: str
    by_cost: bool
    filled: list[_Mark]
    hollow: list[_Mark]


def _drawn(curve: _Curve, *, width: int, height: int) -> Markup:
    chosen, metric, by_cost = curve.filled, curve.metric, curve.by_cost
    marks = [*chosen, *curve.hollow]
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    step = next((step for step in _STEPS if (high - low) / step <= _LINES), high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if high - low < step:  # nothing moved, and no interval is wider than nothing
        low, high = low - step, high + step
    last = max(mark.x for mark in marks) * 1.04 or 1.0
    right, bottom = width - _RIGHT_ROOM, height - _BOTTOM_ROOM

    def x(value: float) -> float:
        return _LEFT + value / last * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP)

    parts = []
    for tick in range(round((high - low) / step) + 1):
        value = low + step * tick
        parts.append(line(_LEFT, y(value), right, y(value), style="grid"))
        parts.append(text(_LEFT - 6, y(value) + 4, number(value, metric), anchor="end", style="small muted"))
    for mark in chosen:
        at = dollars(mark.x) if by_cost else f"{mark.x:,.0f}"
        parts.append(text(x(mark.x), bottom + 17, at, anchor="middle", style="small muted"))
    axis = "cost of all answers so far" if by_cost else "rows asked so far, held-out ones aside"
    parts.append(text((_LEFT + right) / 2, height - 8, axis, anchor="middle", style="small muted"))
    path = " ".join(f"{'L' if at else 'M'}{x(mark.x):.1f} {y(mark.value):.1f}" for at, mark in enumerate(chosen))
    parts.append(tag("path", class_="curve", d=path))
    for shift, style, drawn in ((_APART_PX, " hollow", curve.hollow), (0.0, " strong", chosen)):
        for mark in drawn:
            across = x(mark.x) + shift
            whisker = line(across, y(mark.low), across, y(mark.high), style="whisker" if shift else "whisker strong")
            parts.append(tag("g", whisker, dot(across, y(mark.value), 5.0, style=f"dot{style}"), title=mark.said))
    return drawing(*parts, title=curve.title, spoken="; ".join(mark.said for mark in marks), size=(width, height))


def _chosen(one: RoundFacts, student: str, *, by_cost: bool) -> _Mark | None:
    row = next((row for row in one.students if row.name == student), None)
    return None if row is None else _mark(one, row.quality, row.metric, by_cost=by_cost)


def _mark(one: RoundFacts, found: Estimate, metric: str, *, by_cost: bool, what: str = "") -> _Mark | None:
    """A figure of a round at the place of what was paid so far; None where it has no interval."""
    if found.value is None or found.low is None or found.high is None:
        return None
    paid = f"{plural(one.rows_in_all, 'row')} asked, {dollars(one.cost_in_all_usd)}"
    said = f"round {one.number}{what}: {interval(found, metric)} after {paid}"
    at = one.cost_in_all_usd if by_cost else one.rows_in_all
    return _Mark(float(at or 0.0), found.value, found.low, found.high, said)


def _known_cost(facts: RoundsFacts) -> bool:
    """Whether what was paid is known, and something was."""
    paid = [one.cost_in_all_usd for one in facts.rounds]
    return all(cost is not None for cost in paid) and bool(paid) and (paid[-1] or 0.0) > 0


def _random(one: RoundFacts, *, by_cost: bool) -> _Mark | None:
    """The control, at the place of the round that it stands beside."""
    quality = one.control.student.quality if one.control else None
    if one.control is None or quality is None or quality.value is None or quality.low is None or quality.high is None:
        return None
    said = f"round {one.number}, random rows: {interval(quality, one.control.student.metric)}"
    at = one.cost_in_all_usd if by_cost else one.rows_in_all
    return _Mark(float(at or 0.0), quality.value, quality.low, quality.high, said)
