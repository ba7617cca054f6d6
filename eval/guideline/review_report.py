"""The guideline review as one HTML page for leads and PMs, with the same numbers as Markdown and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup

from distill.eval.config import ReportConfig
from distill.eval.guideline.advice import Advice
from distill.eval.guideline.clusters import Theme
from distill.eval.guideline.edit_trial import Tried
from distill.eval.guideline.history import GuidelineHistory
from distill.eval.guideline.review import Boundary, Review, TellingRow
from distill.eval.intervals import Estimate
from distill.eval.page import markdown_cell, markdown_table, render_page, write_forms
from distill.eval.plots import Whisker, dot_whisker
from distill.eval.report.headline import Tile
from distill.eval.wording import count, dollars, interval, plural, share

_WIDE_PX, _NARROW_PX = 920, 340
LIKELY_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "gold_error": "all judges agree, and the gold label says something else: look at the gold label first",
        "slip": "one judge stands alone and hardly ever does so: a slip, settled by asking again",
        "leaning": "one judge or family stands alone and often does so: a leaning, settled with that judge",
        "guideline": "judges who follow the guideline still differ: a clause to settle",
        "missing_information": "judges say that the listing does not tell: say what to do then",
        "unclear": "nothing speaks clearly for one of these",
    }
)
"""What each cause of :mod:`distill.eval.guideline.diagnosis` means, for the reader."""
_EXAMPLES_BY_ADVICE = 2


@dataclass(frozen=True)
class _Step:
    """A piece of advice with the rows that show it."""

    advice: Advice
    rows: list[TellingRow]


@dataclass(frozen=True)
class _Theme:
    """A theme with the rows to read."""

    theme: Theme
    rows: list[TellingRow]


@dataclass(frozen=True)
class _Words:
    """Sentences and small tables of the page."""

    headline: str
    lede: str
    tiles: list[Tile]
    level: str
    causes: str
    clauses: str
    cause_names: list[str]
    picks: dict[str, tuple[str, list[tuple[str, str]]]]
    borders: dict[str, list[str]]
    gold_known: bool
    likely: list[tuple[str, str, int]]
    attributed: str


def write_review_report(
    path: Path,
    review: Review,
    *,
    name: str,
    config: ReportConfig | None = None,
    report_href: str | None = None,
    adjudicate_href: str | None = None,
    tried: Tried | None = None,
) -> list[Path]:
    """Writes a guideline review.

    Args:
        path: The HTML file; Markdown and JSON get its name with ``.md`` and ``.json``.
        review: What it shows.
        name: Of the run or the set of votes.
        config: How many rows, and how long a cell may be.
        report_href: Address of the run report, relative to this one; None without one.
        adjudicate_href: Likewise of the page on which a person decides.
        tried: Edits that were tried; None without.

    Returns:
        The three files.
    """
    config = config or ReportConfig()
    words = _put_in_words(review, config)
    page = render_page(
        "review_report.html.j2",
        name=name,
        review=review,
        said=words,
        steps=_steps(review),
        themes=_themes(review),
        history_said=history_words(review.history) if review.history else "",
        rows=review.telling[: config.examples],
        plots={"causes": _cause_plot(review), "borders": _border_plot(review)},
        reliability=_reliability(review),
        report_href=report_href,
        adjudicate_href=adjudicate_href,
        tried=tried,
        text_length=config.text_length,
        stem=path.stem,
    )
    return write_forms(path, page, markdown=review_markdown(review, name=name), facts=review)


def review_markdown(review: Review, *, name: str) -> str:
    """The review as Markdown: headline, what to do, causes, clauses, borders, judges."""
    parts = [f"# Guideline review: {markdown_cell(name)}", markdown_cell(_headline(review), longest=400)]
    parts += ["## What to do first"]
    parts += [
        "\n".join(
            f"{i}. **{markdown_cell(a.title, longest=300)}.** {markdown_cell(a.why, longest=900)}"
            for i, a in enumerate(review.advice, 1)
        )
    ]
    if review.causes:
        lines: list[list[object]] = [
            [cause_name(cause.clauses), cause.conflicts, share(cause.share), ", ".join(cause.against)]
            for cause in review.causes
        ]
        lines.append(["none of these", review.unexplained, "", ""])
        parts += [
            "## Where disagreement comes from",
            markdown_table(["clause", "disagreements", "share", "set against"], lines),
        ]
    if review.themes:
        lines = [[theme.name, theme.rows, share(theme.share), theme.border] for theme in review.themes]
        parts += ["## Themes", markdown_table(["theme", "rows", "share", "border"], lines)]
    if review.clauses:
        lines = [
            [f"{c.id} {c.title}", sum(c.citations.values()), c.conflicts, share(c.rate), share(c.excess), c.splits]
            for c in review.clauses
        ]
        columns = ["clause", "citations", "disagreements", "rate", "excess share", "both sides cite it"]
        parts += ["## Clauses", markdown_table(columns, lines)]
    if review.history:
        parts += ["## Guideline history", markdown_cell(history_words(review.history), longest=900)]
        parts += [
            markdown_table(
                ["from", "to", "clause", "change", "before", "after"],
                [
                    [step.old, step.new, change.id, change.kind, change.before, change.after]
                    for step in review.history.steps
                    for change in step.changes
                ],
            )
        ]
    lines = [[f"{b.left} or {b.right}", b.conflicts, share(b.share)] for b in review.boundaries]
    parts += ["## Borders between labels", markdown_table(["border", "disagreements", "share"], lines)]
    lines = [[name.replace("_", " "), number, LIKELY_WORDS[name]] for name, number in review.likely.items()]
    parts += ["## What is likely behind the rows", markdown_table(["likely", "rows", "what it means"], lines)]
    lines = [[name, interval(value, "kappa")] for name, value in _reliability(review)]
    parts += ["## All judges together", markdown_table(["coefficient", "value"], lines)]
    lines = [[f"{p.first} – {p.second}", p.rows, share(p.agreement), interval(p.kappa, "kappa")] for p in review.pairs]
    parts += ["## Judges", markdown_table(["pair", "rows", "same label", "kappa"], lines)]
    if review.slices:
        lines = [[f"{s.column}: {s.value}", s.rows, s.conflicts, share(s.agreement)] for s in review.slices]
        parts += ["## Agreement by slice", markdown_table(["part", "rows", "disagreements", "same label"], lines)]
    return "\n\n".join(parts) + "\n"


def _reliability(review: Review) -> list[tuple[str, Estimate]]:
    found = review.reliability
    return [
        ("Krippendorff’s alpha" + (" (ordinal)" if found.ordered else ""), found.alpha),
        ("Fleiss’ kappa" + (" (weighted)" if found.ordered else ""), found.kappa),
        ("Gwet’s AC2" if found.ordered else "Gwet’s AC1", found.ac),
    ]


def history_words(history: GuidelineHistory) -> str:
    """What earlier versions mean for the votes, in words."""
    said = f"Of {plural(history.votes, 'label')} by judges who read a guideline, {count(history.current)} are of the "
    said += f"version in force and {count(history.stale)} of an earlier one"
    said += f"; {count(history.unknown)} are of a version that was not given." if history.unknown else "."
    if history.stale:
        said += (
            " Citing a clause that changed since or is gone, words that no longer hold: "
            f"{plural(history.touched, 'stale label')} on {plural(history.touched_rows, 'row')}."
        )
        if history.stale_usd is None or history.touched_usd is None:
            said += " What they cost is not known."
        else:
            said += f" These cost {dollars(history.touched_usd)}, all stale ones {dollars(history.stale_usd)}."
        said += (
            " Judges read the whole text, so a run asks every stale one again; “distill plan” says what that will cost "
            "and what the ledger holds."
        )
    return said + (f" Beware: {history.note}." if history.note else "")


def cause_name(clauses: tuple[str, ...]) -> str:
    """``E4``, or ``S1 against I1``."""
    return " against ".join(clauses)


def _put_in_words(review: Review, config: ReportConfig) -> _Words:
    level = f"{100 * review.agreement.level:g}%"
    return _Words(
        headline=_headline(review),
        lede=_lede(review),
        tiles=_tiles(review),
        level=level,
        causes=_causes(review),
        clauses=_clauses(review),
        cause_names=[cause_name(cause.clauses) for cause in review.causes],
        picks=_picks(review, config),
        borders={f"{border.left}|{border.right}": _leans(border) for border in review.boundaries},
        gold_known=any(row.gold for row in review.telling),
        likely=[(cause, LIKELY_WORDS[cause], count) for cause, count in review.likely.items()],
        attributed=_attributed(review),
    )


def _headline(review: Review) -> str:
    agree = f"Judges give the same label in {100 * (review.agreement.value or 0):.1f}% of comparisons"
    if not review.causes:
        return f"{agree}; no clause stands out behind the rest"
    first = review.causes[0]
    what = f"clause {first.clauses[0]}" if len(first.clauses) == 1 else f"the border of {' and '.join(first.clauses)}"
    return f"{agree}; {what} is behind {100 * (first.share.value or 0):.0f}% of the disagreement that clauses explain"


def _lede(review: Review) -> str:
    said = (
        f"{plural(len(review.judges), 'judge')}, {plural(review.rows, 'row')} in {plural(review.groups, 'group')} "
        f"judged by at least two of them; on {count(review.rows_apart)} rows they are not of one mind."
    )
    if review.clauses and review.citable < review.conflicts:
        said += (
            f" {count(review.citable)} of {count(review.conflicts)} disagreements are between judges who both cite "
            "clauses; only those can be put to a clause’s account."
        )
    return said


def _tiles(review: Review) -> list[Tile]:
    ends = review.agreement
    spread = (
        f"{100 * ends.low:.1f}% to {100 * ends.high:.1f}%" if ends.low is not None and ends.high is not None else ""
    )
    tiles = [
        Tile("same label", f"{100 * (ends.value or 0):.1f}%", f"{spread}, over {count(review.units)} comparisons"),
        Tile("rows apart", count(review.rows_apart), f"of {count(review.rows)} with two judges or more"),
    ]
    if review.boundaries:
        worst = review.boundaries[0]
        tiles.append(
            Tile("hardest border", f"{worst.left} | {worst.right}", f"{share(worst.share)} of all disagreement")
        )
    if review.causes:
        first = review.causes[0]
        tiles.append(
            Tile("first clause to settle", cause_name(first.clauses), f"{share(first.share)} of what clauses explain")
        )
    return tiles


def _causes(review: Review) -> str:
    if not review.causes:
        return "No clause, and no border between two clauses, holds more disagreement than its use alone would give."
    return (
        f"Each disagreement between judges who cite clauses goes to one account only, so that shares add up: "
        f"{count(review.citable - review.unexplained)} of {count(review.citable)} are put to a clause, "
        f"{count(review.unexplained)} to none. “S1 against I1” means that one judge cites the one and another the "
        "other."
    )


def _clauses(review: Review) -> str:
    used = len(review.clauses) - len(review.never_cited)
    said = f"{used} of {plural(len(review.clauses), 'clause')} were cited."
    return (
        said + " Excess is what is left of a clause’s share after what its sheer use would give; near zero, it is "
        "not to blame."
    )


def _attributed(review: Review) -> str:
    guessed = [f"{judge.name} ({judge.attributed:.0%} of its rows)" for judge in review.judges if judge.attributed]
    if not guessed:
        return ""
    return (
        f"{' and '.join(guessed)} cites no clauses; they were read off the reasons, by number or by likeness to the "
        "clause’s text. They are guesses: on a judge who cites, about three of four were clauses that it cited itself."
    )


def _leans(border: Boundary) -> list[str]:
    lines = []
    for lean in border.leans[:6]:
        forth, back = lean.first_takes_left, lean.second_takes_left
        taker, other = (lean.first, lean.second) if forth >= back else (lean.second, lean.first)
        lines.append(f"{taker} says {border.left} and {other} {border.right} in {max(forth, back)} of {forth + back}")
    return lines


def _picks(review: Review, config: ReportConfig) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    rows = review.telling[: config.examples]
    picks: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    causes = Counter(row.cause for row in rows)
    options = [(str(i), cause_name(cause.clauses)) for i, cause in enumerate(review.causes) if causes[i]]
    if options:
        picks["cause"] = ("any cause", options)
    labels = sorted({voice.label for row in rows for voice in row.said}, key=review.labels.index)
    likely = Counter(row.likely for row in rows)
    picks["likely"] = ("anything behind it", [(name, name.replace("_", " ")) for name in review.likely if likely[name]])
    picks["labels"] = ("any label", [(label, label) for label in labels])
    return picks


def _steps(review: Review) -> list[_Step]:
    by_id = {row.row_id: row for row in review.telling}
    causes = {cause.clauses: index for index, cause in enumerate(review.causes)}
    steps, used = [], set()
    for advice in review.advice:
        cause = causes.get(advice.clauses)
        fitting = [row for row in review.telling if cause is not None and row.cause == cause and row.row_id not in used]
        traced = sorted(fitting, key=lambda row: -sum(bool(voice.trace) for voice in row.said))
        rows = (
            traced[:_EXAMPLES_BY_ADVICE]
            if cause is not None
            else [by_id[i] for i in advice.row_ids if i in by_id][:_EXAMPLES_BY_ADVICE]
        )
        used |= {row.row_id for row in rows}
        steps.append(_Step(advice, rows))
    return steps


def _themes(review: Review) -> list[_Theme]:
    by_id = {row.row_id: row for row in review.telling}
    return [_Theme(theme, [by_id[row_id] for row_id in theme.telling]) for theme in review.themes]


def _cause_plot(review: Review) -> tuple[Markup, Markup] | None:
    if not review.causes:
        return None
    titles = {clause.id: clause.title for clause in review.clauses}
    rows = [
        Whisker(
            label=cause_name(cause.clauses)
            if len(cause.clauses) > 1
            else f"{cause.clauses[0]} {titles[cause.clauses[0]]}",
            value=cause.share.value,
            low=cause.share.low,
            high=cause.share.high,
            said=share(cause.share),
            strong=index == 0,
        )
        for index, cause in enumerate(review.causes)
    ]
    wide, narrow = (
        dot_whisker(rows, title="Share of explained disagreement by cause", width=px) for px in (_WIDE_PX, _NARROW_PX)
    )
    return wide, narrow


def _border_plot(review: Review) -> tuple[Markup, Markup] | None:
    if not review.boundaries:
        return None
    rows = [
        Whisker(f"{b.left} | {b.right}", b.share.value, b.share.low, b.share.high, share(b.share), strong=index == 0)
        for index, b in enumerate(review.boundaries)
    ]
    wide, narrow = (
        dot_whisker(rows, title="Share of all disagreement by border", width=px) for px in (_WIDE_PX, _NARROW_PX)
    )
    return wide, narrow
