"""The run report: one HTML page for people, the same numbers as Markdown and JSON for pull requests and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from distill.eval.drift.report import drift_markdown, drift_words
from distill.eval.evaluation import Evaluation
from distill.eval.ladder import ladder_cells
from distill.eval.page import markdown_cell, markdown_table, render_page, write_forms
from distill.eval.people.words import people_markdown
from distill.eval.plots import (
    Point,
    Reference,
    Segment,
    Whisker,
    curve,
    dot_whisker,
    heat_map,
    reliability,
    stacked_bars,
)
from distill.eval.report.cascade_plots import CascadePlots, cascade_markdown, cascade_plots
from distill.eval.report.estimate_words import UnlabeledWords
from distill.eval.report.facts import RunFacts, RunReport, gather
from distill.eval.report.student_words import StudentWords
from distill.eval.report.words import Words, put_in_words
from distill.eval.rounds_plots import rounds_plot
from distill.eval.wording import interval, number, plural, share
from distill.labeling.vote import OUTCOMES

_WIDE_PX, _NARROW_PX = 920, 340
_ROWS_AT_ONCE = 200
"""Rows laid out before a reader asks for more, as ``PAGE`` of ``tables.js``: the others wait hidden."""
_MOST_JUDGE_PLOTS = 12
"""Pairs of judges drawn; the JSON has all."""
Pair = tuple[Markup, Markup]


@dataclass(frozen=True)
class _Plots:
    """Plots of the page; pairs are drawn for wide and for narrow screens."""

    ladder: Pair | None = None
    outcomes: Pair | None = None
    cascade: CascadePlots | None = None
    rounds: Pair | None = None
    confusion: Markup | None = None
    reliability: Markup | None = None
    risk: Markup | None = None
    confusions: dict[str, Markup] = field(default_factory=dict)
    judges: list[Markup] = field(default_factory=list)
    slices: dict[str, Pair] = field(default_factory=dict)


def write_run_report(path: Path, report: RunReport) -> list[Path]:
    """Writes a run's report.

    Args:
        path: The HTML file; Markdown and JSON get its name with ``.md`` and ``.json``.
        report: What it is made of.

    Returns:
        The three files.

    Raises:
        DataError: Tables that do not fit each other.
    """
    facts = gather(report)
    words = put_in_words(facts)
    page = render_page(
        "run_report.html.j2",
        facts=facts,
        said=words,
        plots=_plots(facts, words),
        drift=drift_words(facts.drift) if facts.drift else None,
        stem=path.stem,
        text_length=report.config.text_length,
        rows_at_once=_ROWS_AT_ONCE,
    )
    return write_forms(path, page, markdown=run_markdown(facts, words), facts=facts)


def run_markdown(facts: RunFacts, words: Words) -> str:
    """The report as Markdown: headline, tables, the ten hardest rows."""
    parts = [f"# {markdown_cell(words.headline, longest=300)}", markdown_cell(words.lede, longest=900)]
    parts += [f"> {markdown_cell(alert, longest=400)}" for alert in words.alerts]
    if facts.ladder.rows:
        columns, lines = ladder_cells(facts.ladder)
        parts += ["## Ladder", markdown_table(columns, [list(line) for line in lines]), facts.ladder.caption()]
    if facts.rounds is not None and words.rounds is not None:
        parts += [
            "## Rounds",
            *facts.rounds.lines(),
            markdown_table(words.rounds[0], [[*line] for line in words.rounds[1]]),
        ]
    if words.few is not None:
        parts += ["## A few labels", markdown_cell(words.few.lede, longest=1200), markdown_table(*words.few.quality)]
        parts += [markdown_table(*table) for table in (words.few.differences, words.few.further) if table]
    parts += _markdown_of_teachers(facts, words)
    if words.unlabeled is not None:
        parts += _markdown_unlabeled(words.unlabeled)
    parts += _markdown_of_merging(words)
    if words.people is not None:
        parts += people_markdown(words.people)
    evaluation = facts.evaluations.get(words.shown or "")
    if evaluation is not None:
        parts += _markdown_of(evaluation, words)
    if words.students is not None:
        parts += _markdown_of_students(words.students)
    if facts.drift is not None:
        parts.append(drift_markdown(facts.drift, level=2).rstrip())
    parts += _markdown_of_orders(facts, words)
    if facts.examples:
        shown = facts.inputs[:2]
        lines_shown: list[list[object]] = [
            [e.row_id, *(e.inputs[name] for name in shown), *(said or "–" for said in (e.truth, e.predicted, e.merged))]
            for e in facts.examples[:10]
        ]
        columns = ["row", *shown, "truth", "predicted", "merged"]
        parts += ["## Rows worth reading", words.examples, markdown_table(columns, lines_shown)]
    if facts.files:
        links = [[link.holds, link.href] for link in facts.files]
        parts += ["## Files", markdown_table(["what", "where"], links)]
    if words.data:
        parts += ["## What came in", markdown_table(["", ""], [list(line) for line in words.data])]
    return "\n\n".join(parts) + "\n"


def _markdown_of_teachers(facts: RunFacts, words: Words) -> list[str]:
    """What was asked and of whom: teachers, labeling functions, the cascade, and how far judges agree."""
    parts: list[str] = []
    if facts.teachers:
        columns = ["teacher", "asked", *words.outcomes_seen, "cost", "from ledger"]
        table: list[list[object]] = [
            [t.name, t.asked, *(t.outcomes[name] for name in words.outcomes_seen), words.costs[t.name], t.from_ledger]
            for t in facts.teachers
        ]
        parts += ["## Teachers", markdown_table(columns, table), *words.asking]
    if facts.functions:
        table = [list(line) for line in words.function_cells]
        parts += ["## Labeling functions", words.functions, markdown_table(list(words.function_columns), table)]
    if facts.cascade is not None:
        parts += cascade_markdown(facts.cascade, words.cascade)
    if facts.pairs:
        table = [
            [f"{p.first} – {p.second}", p.rows, share(p.agreement), interval(p.kappa, "kappa")] for p in facts.pairs
        ]
        parts += ["## Agreement", *words.agreement, markdown_table(["pair", "rows", "same label", "kappa"], table)]
    return parts


def _markdown_of_orders(facts: RunFacts, words: Words) -> list[str]:
    """Who did what planted text asked for: in rows of the data, and in copies that the run made."""
    parts: list[str] = []
    if facts.canaries:
        table: list[list[object]] = [
            [c.name, c.planted, c.breached, share(c.rate), share(c.usual)] for c in facts.canaries
        ]
        columns = ["judge", "planted rows", "gave in", "breach rate", "same error without a plant"]
        parts += ["## Listings that give orders", words.canaries, markdown_table(columns, table)]
    if facts.obeyed:
        table = [[o.name, o.asked, o.tried, o.breached, share(o.rate), share(o.moved)] for o in facts.obeyed]
        columns = ["teacher", "planted copies", "tried", "obeyed", "breach rate", "moved to a third answer"]
        parts += ["## Orders planted by this run", words.obeyed, markdown_table(columns, table)]
    return parts


def _markdown_unlabeled(said: UnlabeledWords) -> list[str]:
    parts = ["## Without labels", markdown_cell(said.lede, longest=600)]
    if said.students is not None:
        notes = "\n".join(f"- {markdown_cell(note, longest=400)}" for note in said.notes)
        parts += [markdown_table(*said.students), notes]
    parts += [said.ranking] if said.ranking else []
    return parts + ([markdown_table(*said.teachers)] if said.teachers else [])


def _markdown_of_merging(words: Words) -> list[str]:
    if not (words.merging or words.panel):
        return []
    parts = ["## Merging", *words.merging, *words.panel]
    for title, columns, lines in words.panel_tables:
        parts += [f"**{title}**", markdown_table(columns, [list(line) for line in lines])]
    return parts


def _markdown_of_students(said: StudentWords) -> list[str]:
    parts = ["## What the students learned from", said.made_lede, markdown_table(*said.made)]
    return [
        *parts,
        markdown_table(*said.sure),
        *(markdown_cell(line, longest=400) for line in said.sure_lines),
    ]


def _markdown_of(evaluation: Evaluation, words: Words) -> list[str]:
    numbers: list[list[object]] = [
        [words.metric_titles[name], interval(evaluation.metrics[name], name), meaning]
        for name, meaning in words.metrics
        if name in evaluation.metrics
    ]
    confusion: list[list[object]] = [
        [f"true {label}", *(f"{cell:,.0f}" for cell in line)]
        for label, line in zip(evaluation.labels, evaluation.confusion, strict=True)
    ]
    parts = [f"## {markdown_cell(words.shown)}", words.calibration]
    parts.append(markdown_table(["metric", "value", "meaning"], numbers))
    parts.append(markdown_table(["", *(markdown_cell(label) for label in evaluation.labels)], confusion))
    if evaluation.slices:
        metric = "positive_accuracy" if evaluation.positive else "accuracy"
        table: list[list[object]] = [
            [f"{s.column}: {s.value}", s.rows, interval(s.metrics[metric], metric)] for s in evaluation.slices
        ]
        parts.append(markdown_table(["slice", "rows", words.metric_titles[metric]], table))
    return parts


def _plots(facts: RunFacts, words: Words) -> _Plots:
    evaluation = facts.evaluations.get(words.shown or "")
    ladder, outcomes = _ladder_plot(facts, words), _outcome_bars(facts)
    cascade, rounds = cascade_plots(facts.cascade), _rounds_plot(facts)
    judges = _judge_plots(facts, words.shown)
    if evaluation is None:
        return _Plots(ladder=ladder, outcomes=outcomes, cascade=cascade, rounds=rounds, judges=judges)
    return _Plots(
        ladder=ladder,
        outcomes=outcomes,
        cascade=cascade,
        rounds=rounds,
        confusion=_confusion(evaluation, words.shown or ""),
        reliability=_reliability(evaluation),
        risk=_risk(evaluation),
        confusions={name: _confusion(other, name) for name, other in facts.evaluations.items() if name != words.shown},
        slices=_slice_plots(facts, evaluation),
        judges=judges,
    )


def _ladder_plot(facts: RunFacts, words: Words) -> Pair | None:
    if not facts.ladder.rows:
        return None
    best = facts.ladder.best
    rows = [
        Whisker(
            label=row.full_name,
            value=row.quality.value,
            low=row.quality.low,
            high=row.quality.high,
            said=interval(row.quality, row.metric),
            strong=best is not None and row.full_name == best.full_name,
            hollow=not row.is_student,
        )
        for row in facts.ladder.rows
    ]
    floor = facts.ladder.baseline
    reference = None if floor is None else Reference(floor, f"commonest answer {100 * floor:.1f}%")
    title = f"Ladder: {words.metric} with {words.level} intervals"
    wide, narrow = (dot_whisker(rows, title=title, width=px, reference=reference) for px in (_WIDE_PX, _NARROW_PX))
    return wide, narrow


def _rounds_plot(facts: RunFacts) -> Pair | None:
    if facts.rounds is None:
        return None
    wide, narrow = (rounds_plot(facts.rounds, width=px) for px in (_WIDE_PX, _NARROW_PX))
    return None if wide is None or narrow is None else (wide, narrow)


def _outcome_bars(facts: RunFacts) -> Pair | None:
    if not facts.teachers:
        return None
    bars = [
        (teacher.name, [Segment(teacher.outcomes[name], name, f"o-{name}") for name in OUTCOMES])
        for teacher in facts.teachers
    ]
    wide, narrow = (stacked_bars(bars, title="Outcomes by teacher", width=px) for px in (_WIDE_PX, _NARROW_PX))
    return wide, narrow


def _confusion(evaluation: Evaluation, name: str) -> Markup:
    return heat_map(
        evaluation.confusion, evaluation.labels, title=f"Confusion of {name}", axes=("truth", f"{name} says")
    )


def _judge_plots(facts: RunFacts, shown: str | None) -> list[Markup]:
    students = facts.students.keys() - {shown}
    drawn = [pair for pair in facts.confusions if pair.first not in students][:_MOST_JUDGE_PLOTS]
    return [
        heat_map(
            pair.table,
            facts.labels_of_task,
            title=f"{pair.first} beside {pair.second}, on {plural(pair.rows, 'row')} that both labeled",
            axes=(f"{pair.first} says", f"{pair.second} says"),
        )
        for pair in drawn
    ]


def _reliability(evaluation: Evaluation) -> Markup | None:
    if not evaluation.reliability:
        return None
    most = max(found.correct.rows for found in evaluation.reliability)
    points = [
        Point(
            found.confidence,
            found.correct.value or 0.0,
            found.correct.rows / most,
            found.correct.low,
            found.correct.high,
            f"{plural(found.correct.rows, 'row')} {100 * found.confidence:.0f}% sure: right {share(found.correct)}",
        )
        for found in evaluation.reliability
    ]
    return reliability(points, title="How sure against how often right")


def _risk(evaluation: Evaluation) -> Markup | None:
    if not evaluation.risk_coverage:
        return None
    points = [
        Point(p.coverage, p.risk, 1.0, None, None, f"keep {100 * p.coverage:.0f}%: {100 * p.risk:.1f}% wrong")
        for p in evaluation.risk_coverage
    ]
    return curve(points, title="Errors among the surest answers", labels=("share of rows kept", "wrong among them"))


def _slice_plots(facts: RunFacts, evaluation: Evaluation) -> dict[str, Pair]:
    metric = facts.ladder.rows[0].metric if facts.ladder.rows else "accuracy"
    overall = evaluation.metrics[metric].value
    reference = None if overall is None else Reference(overall, f"all rows {number(overall, metric)}")
    plots: dict[str, Pair] = {}
    for column in dict.fromkeys(found.column for found in evaluation.slices):
        rows = []
        for found in evaluation.slices:
            if found.column == column:
                value = found.metrics[metric]
                said = f"{interval(value, metric)}, {plural(found.rows, 'row')}"
                rows.append(Whisker(found.value, value.value, value.low, value.high, said))
        wide, narrow = (
            dot_whisker(rows, title=f"By {column}", width=px, reference=reference) for px in (_WIDE_PX, _NARROW_PX)
        )
        plots[column] = (wide, narrow)
    return plots
