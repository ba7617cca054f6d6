"""The run report of a task whose answers are no single label: a section a part, as HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.ladder import Ladder
from distill.eval.page import markdown_cell, markdown_table, render_page, write_forms
from distill.eval.plots import Whisker, dot_whisker
from distill.eval.queries.facts import PartMeasurement
from distill.eval.queries.report_words import (
    PartWords,
    QueryWords,
    checks_table,
    mistakes_table,
    numbers_table,
    put_in_words,
    slices_table,
)
from distill.eval.queries.rounds_words import RoundsWords
from distill.eval.report.facts import FileLink
from distill.eval.report.labeling_facts import TeacherFacts
from distill.eval.rounds import RoundsFacts
from distill.eval.rounds_plots import part_plot
from distill.eval.wording import interval

_WIDE_PX, _NARROW_PX = 920, 340
Pair = tuple[Markup, Markup]


class PartMerged(Frozen):
    """What merging made of one part."""

    part: str | None
    rows: int
    labeled: int
    ties: int
    n_eff: float = Field(description="independent votes that the votes on a row are worth")
    confidence: float
    method: str


class PartOutcomes(Frozen):
    """How one teacher's questions ended on one part."""

    teacher: str
    family: str
    part: str | None
    outcomes: dict[str, int]


class QueryFacts(Frozen):
    """Everything that the report shows. This is what ``report.json`` holds."""

    name: str
    parts: list[PartMeasurement]
    ladder: Ladder
    teachers: list[TeacherFacts]
    outcomes: list[PartOutcomes]
    merged: list[PartMerged]
    checks: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="expansions left out before merging, by teacher and reason"
    )
    summary: dict[str, Any]
    manifest: dict[str, Any]
    files: list[FileLink] = Field(default_factory=list)
    level: float
    rounds: RoundsFacts | None = Field(
        None, description="what each round asked, cost and gained; parts are of the last"
    )


@dataclass(frozen=True)
class _Rounds:
    """The rounds as the template shows them: words, and a plot a part."""

    said: RoundsWords
    plots: list[Pair | None]


@dataclass(frozen=True)
class _Section:
    """A part as the template shows it."""

    facts: PartMeasurement
    said: PartWords
    plot: Pair | None


def write_query_report(path: Path, facts: QueryFacts) -> list[Path]:
    """Writes the report.

    Args:
        path: The HTML file; Markdown and JSON get its name with ``.md`` and ``.json``.
        facts: What it shows.

    Returns:
        The three files.
    """
    words = put_in_words(facts)
    sections = [_Section(part, said, _plot(part)) for part, said in zip(facts.parts, words.parts, strict=True)]
    page = render_page(
        "query_report.html.j2", facts=facts, said=words, sections=sections, rounds=_rounds(facts), stem=path.stem
    )
    return write_forms(path, page, markdown=query_markdown(facts, words), facts=facts)


def query_markdown(facts: QueryFacts, words: QueryWords) -> str:
    """The report as Markdown."""
    parts = [f"# {markdown_cell(words.headline, longest=300)}", markdown_cell(words.lede, longest=900)]
    parts += [f"> {markdown_cell(alert, longest=400)}" for alert in words.alerts]
    for part, said in zip(facts.parts, words.parts, strict=True):
        parts += [f"## {said.title}", markdown_cell(said.lede, longest=900), markdown_table(*numbers_table(part))]
        parts += ["\n".join(f"- {markdown_cell(claim, longest=400)}" for claim in said.claims)] if said.claims else []
        if checks := checks_table(part):
            parts += [said.checks, markdown_table(*checks)]
            parts += ["\n".join(f"- {markdown_cell(claim, longest=400)}" for claim in said.check_claims)]
        if slices := slices_table(part):
            parts.append(markdown_table(*slices))
        if part.mistakes:
            parts += [markdown_cell(said.mistakes, longest=400), markdown_table(*mistakes_table(part))]
    if words.rounds is not None:
        parts += ["## Round by round", *words.rounds.lines, markdown_table(*words.rounds.rounds)]
        for one in words.rounds.parts:
            parts += [f"### {one.title}", markdown_table(*one.figures)]
            parts += [markdown_table(*one.claims)] if one.claims else []
    if words.students is not None:
        parts += ["## What the students took", markdown_table(*words.students)]
    if words.answers is not None:
        parts += ["## What the teachers answered", *words.merging, markdown_table(*words.answers)]
    if words.merged is not None:
        parts.append(markdown_table(*words.merged))
    if facts.files:
        parts += ["## Files", markdown_table(["what", "where"], [[link.holds, link.href] for link in facts.files])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plot(part: PartMeasurement) -> Pair | None:
    """Everybody's main metric with its interval."""
    rows = [
        Whisker(
            label=one.name,
            value=found.value,
            low=found.low,
            high=found.high,
            said=interval(found, part.metric),
            strong=one.name == part.shown,
            hollow=one.kind in ("teacher", "labels", "function"),
        )
        for one in part.evaluations
        if (found := one.metrics.get(part.metric)) is not None and found.value is not None
    ]
    if not rows:
        return None
    title = f"{part.part}: {part.metric.replace('_', ' ')}"
    wide, narrow = (dot_whisker(rows, title=title, width=px) for px in (_WIDE_PX, _NARROW_PX))
    return wide, narrow


def _rounds(facts: QueryFacts) -> _Rounds | None:
    said = put_in_words(facts).rounds
    if facts.rounds is None or said is None:
        return None
    plots: list[Pair | None] = []
    for part in said.parts:
        wide, narrow = (part_plot(facts.rounds, part.story, width=px) for px in (_WIDE_PX, _NARROW_PX))
        plots.append((wide, narrow) if wide is not None and narrow is not None else None)
    return _Rounds(said, plots)


def plain(value: Any) -> Any:
    """A value as JSON holds it, so that what is written and what is shown are one."""
    if isinstance(value, Mapping):
        return {str(key): plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
