"""A comparison of two sets of rows for people: a page, Markdown, and the section of a run report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from distill.eval.drift.facts import Comparison, DriftReport, Quality, SetFacts
from distill.eval.drift.verdicts import measure_title
from distill.eval.intervals import Estimate
from distill.eval.page import markdown_cell, markdown_table, render_page, write_whole
from distill.eval.plots import Whisker, dot_whisker
from distill.eval.wording import interval, number, plural, share

_WIDE_PX, _NARROW_PX = 920, 340
_MOST_LINES = 14
_SHOWN_WORDS = 8
_VALUES_SHOWN = 12
_SLICES_SHOWN = 10
_LEAST_CONTRIBUTION = 0.02
_DISTANCES = {"psi": "PSI", "jensen_shannon": "JS", "kolmogorov_smirnov": "KS"}


class Table(NamedTuple):
    """A table in words."""

    columns: list[str]
    lines: list[list[str]]


class DriftWords(NamedTuple):
    """A comparison in words, for every form of it."""

    headline: str
    lede: str
    sets: Table
    verdicts: list[tuple[str, str, list[str]]]
    comparisons: Table
    quality: Table | None
    quality_notes: list[str]
    values: Table | None
    words: Table | None
    told: list[str]
    telling: Table | None
    slices: Table | None
    notes: list[str]
    plot: tuple[Markup, Markup] | None


def drift_words(report: DriftReport) -> DriftWords:
    """Puts a comparison in words, tables and a plot."""
    lede = (
        f"{plural(report.current.rows, 'row')} of {plural(report.current.groups, 'group')} ({report.current.name}) "
        f"against {plural(report.reference.rows, 'row')} of {plural(report.reference.groups, 'group')} "
        f"({report.reference.name}). {100 * report.current.common:.0f}% of today's rows are of groups that the "
        "reference has too."
    )
    return DriftWords(
        headline=_headline(report),
        lede=lede,
        sets=_sets(report.reference, report.current),
        verdicts=[(one.verdict, one.said, list(one.next)) for one in report.verdicts],
        comparisons=_comparisons(report.comparisons),
        quality=None if report.quality is None else _quality(report.quality),
        quality_notes=[] if report.quality is None else list(report.quality.notes),
        values=_values(report),
        words=_words(report),
        told=_told(report),
        telling=_telling(report),
        slices=_slices(report),
        notes=_notes(report),
        plot=_plot(report.comparisons),
    )


def drift_markdown(report: DriftReport, *, level: int = 1) -> str:
    """The comparison as Markdown.

    Args:
        report: What was found.
        level: Of the heading.
    """
    said = drift_words(report)
    mark, below = "#" * level, "#" * (level + 1)
    parts = [f"{mark} {markdown_cell(said.headline, longest=300)}", markdown_cell(said.lede, longest=900)]
    for verdict, words, following in said.verdicts:
        parts.append(f"**{verdict}.** {markdown_cell(words, longest=900)}")
        parts += ["\n".join(f"- {markdown_cell(one, longest=400)}" for one in following)] if following else []
    parts += [f"{below} What was compared", markdown_table(*said.comparisons)]
    if said.quality is not None:
        parts += [f"{below} Quality", markdown_table(*said.quality)]
        parts += [markdown_cell(note, longest=400) for note in said.quality_notes]
    for title, table in (
        ("Where it sits", said.slices),
        ("Values", said.values),
        ("Words", said.words),
        ("Rows least like the reference", said.telling),
    ):
        if table is not None:
            parts += [f"{below} {title}", markdown_table(*table)]
    parts += [markdown_cell(line, longest=900) for line in (*said.told, *said.notes)]
    return "\n\n".join(parts) + "\n"


def write_drift_report(path: Path, report: DriftReport, *, name: str) -> Path:
    """Writes the comparison as HTML or, where the name ends in ``.md``, as Markdown.

    Args:
        path: The file.
        report: What was found.
        name: Of the run or student that was watched.
    """
    if path.suffix == ".md":
        return write_whole(path, drift_markdown(report))
    return write_whole(path, render_page("drift_report.html.j2", drift=drift_words(report), name=name))


def _headline(report: DriftReport) -> str:
    moved = [one.part for one in report.verdicts if one.verdict == "moved"]
    if "inputs" in moved:
        return "Today's rows do not look like the reference"
    if "predictions" in moved:
        return "Today's rows look like the reference, and the student answers otherwise"
    if moved:
        return "Today's rows look like the reference, and the student expects to be right more or less often"
    if report.verdict == "steady":
        return "Today's rows still look like the reference"
    return "Too few groups to tell whether today's rows look like the reference"


def _sets(reference: SetFacts, current: SetFacts) -> Table:
    lines = [
        [
            one.name,
            f"{one.rows_read:,}",
            f"{one.rows:,}",
            f"{one.groups:,}",
            f"{100 * one.common:.0f}%",
            one.note or "–",
        ]
        for one in (reference, current)
    ]
    return Table(["set", "rows read", "rows compared", "groups", "rows of common groups", "left out"], lines)


def _comparisons(found: Sequence[Comparison]) -> Table:
    columns = ["what", "then", "now", "difference", "shift", "by chance below", *_DISTANCES.values(), "p", "verdict"]
    return Table(columns, [_line(one) for one in _ranked(found)])


def _ranked(found: Sequence[Comparison]) -> list[Comparison]:
    order = {"moved": 0, "steady": 1, "cannot tell": 1}
    return sorted(found, key=lambda one: (order[one.verdict], one.adjusted_p, -one.size))


def _line(one: Comparison) -> list[str]:
    return [
        measure_title(one),
        _value(one.reference, one.unit),
        _value(one.current, one.unit),
        _apart(one.difference, one.unit),
        number(one.size, "accuracy"),
        number(one.size_by_chance, "accuracy"),
        *(f"{one.distances[name].value:.3f}" if name in one.distances else "–" for name in _DISTANCES),
        f"{one.adjusted_p:.3f}",
        one.verdict,
    ]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return number(value, "accuracy") if unit == "share" else f"{value:,.3g}"


def _apart(found: Estimate | None, unit: str) -> str:
    if found is None:
        return "–"
    return interval(found, "accuracy" if unit == "share" else "auc", signed=True)


def _quality(found: Quality) -> Table:
    lines = [
        ["how often it expects to be right, then", share(found.expected_reference), "none: its own confidence"],
        ["the same, now", share(found.expected_current), "none: its own confidence"],
        ["difference", interval(found.difference, "accuracy", signed=True), "none: its own confidence"],
    ]
    gold = found.truth_source
    if found.measured_reference is not None:
        lines.append(["share right on the reference's gold", share(found.measured_reference), gold])
    if found.gap is not None:
        lines.append(["how far its confidence lay above that", interval(found.gap, "accuracy", signed=True), gold])
    if found.reweighted is not None:
        worth = f"{gold}, on rows weighted to look like today's (worth {found.effective_rows or 0:,.0f} rows)"
        lines.append(["on rows like the current ones the reference's gold says", share(found.reweighted), worth])
    if found.measured_current is not None:
        lines.append(["share right on today's gold", share(found.measured_current), gold])
    return Table(["reading", "value", "truth"], lines)


def _values(report: DriftReport) -> Table | None:
    if not report.values:
        return None
    ranked = sorted(report.values, key=lambda one: -abs(one.current - one.reference))[:_VALUES_SHOWN]
    lines = [
        [
            f"{one.column}: {one.value}",
            number(one.reference, "accuracy"),
            number(one.current, "accuracy"),
            interval(one.difference, "accuracy", signed=True),
            one.state if one.state != "both" else "–",
        ]
        for one in ranked
    ]
    return Table(["value", "then", "now", "difference", "new or gone"], lines)


def _words(report: DriftReport) -> Table | None:
    sure = [one for one in report.words if one.sure]
    ranked = sorted(sure, key=lambda one: -abs(one.current - one.reference))[: 2 * _SHOWN_WORDS]
    if not ranked:
        return None
    lines = [
        [f"{one.column}: {one.word}", number(one.reference, "accuracy"), number(one.current, "accuracy")]
        for one in ranked
    ]
    return Table(["word", "rows with it then", "now"], lines)


def _told(report: DriftReport) -> list[str]:
    whole = report.whole
    if whole is None or not whole.telling:
        return []
    said = f"A classifier tells today's rows from the reference with an AUC of {interval(whole.auc, 'auc')}."
    now, then = ", ".join(whole.toward_current), ", ".join(whole.toward_reference)
    return [f"{said} What speaks most for today: {now or 'nothing'}. For the reference: {then or 'nothing'}."]


def _telling(report: DriftReport) -> Table | None:
    if report.whole is None or not report.whole.telling:
        return None
    names = list(report.whole.telling[0].inputs)[:3]
    lines = [
        [one.row_id, *(one.inputs[name] or "–" for name in names), number(one.score, "accuracy")]
        for one in report.whole.telling
    ]
    return Table(["row", *names, "looks like today"], lines)


def _slices(report: DriftReport) -> Table | None:
    if report.whole is None:
        return None
    told = [one for one in report.whole.slices if one.contribution >= _LEAST_CONTRIBUTION][:_SLICES_SHOWN]
    if not told:
        return None
    lines = [
        [
            f"{one.column}: {one.value or '(empty)'}",
            number(one.reference, "accuracy"),
            number(one.current, "accuracy"),
            f"{100 * one.contribution:.0f}%",
        ]
        for one in told
    ]
    return Table(["slice", "rows then", "rows now", "part of the difference"], lines)


def _notes(report: DriftReport) -> list[str]:
    notes = [
        f"Whole groups were exchanged between the sets {report.exchanges:,} times; p is adjusted for the number of "
        f"comparisons. Moved is what differs by more than that with p at most {report.alpha:g}, and by at least "
        f"{100 * report.smallest:g}% of the rows. The shift is the share of the rows that would have to change to make "
        "the sets alike."
    ]
    for one in (report.reference, report.current):
        notes += [f"{one.name}: {one.note}."] if one.note else []
    return [*notes, *report.notes]


def _plot(found: Sequence[Comparison]) -> tuple[Markup, Markup] | None:
    ranked = [one for one in _ranked(found) if max(one.size, one.size_by_chance) > 0][:_MOST_LINES]
    if not ranked:
        return None
    title = "Shift of each comparison, and what exchanged groups give"
    # On a phone the words stand above the line beside the name, where there is room for little.
    wide = [_whisker(one, f"{_size(one.size)}, by chance below {_size(one.size_by_chance)}") for one in ranked]
    narrow = [_whisker(one, f"{_size(one.size)} ({_size(one.size_by_chance)})") for one in ranked]
    return dot_whisker(wide, title=title, width=_WIDE_PX), dot_whisker(narrow, title=title, width=_NARROW_PX)


def _whisker(one: Comparison, said: str) -> Whisker:
    moved = one.verdict == "moved"
    high = max(0.0, one.size_by_chance)
    return Whisker(measure_title(one), one.size, 0.0, high, said, strong=moved, hollow=not moved)


def _size(value: float) -> str:
    return number(value, "accuracy")
