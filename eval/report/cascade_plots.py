"""Plots and table of a cascade: what each threshold would send on, and what it would get wrong."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from distill.eval.page import markdown_table
from distill.eval.plots import Point, Reference, curve
from distill.eval.report.cascade_facts import CascadeFacts, CascadePoint
from distill.eval.wording import number, plural

_LEAST_ROWS = 10
"""Points that rest on fewer rows say nothing and are left out of the plots; the table has them."""


class CascadePlots(NamedTuple):
    """Wrong among the answers kept, and wrong among all rows, each against the share sent on."""

    among_kept: Markup
    among_all: Markup


def cascade_plots(facts: CascadeFacts | None) -> CascadePlots | None:
    """Draws the two; None where nothing was compared."""
    points = [] if facts is None else [point for point in facts.curve if point.rows >= _LEAST_ROWS]
    if facts is None or not points:
        return None
    points.sort(key=lambda point: point.sent)
    marked = next((at for at, point in enumerate(points) if point.threshold == facts.threshold), -1)
    sent = f"share of rows that {facts.strong} is asked about"
    kept = [
        Point(
            point.sent,
            1.0 - (point.right or 0.0),
            1.0,
            None,
            None if point.at_least is None else 1.0 - point.at_least,
            _said(point, facts),
        )
        for point in points
    ]
    lost = [Point(point.sent, point.lost or 0.0, 1.0, None, None, _said(point, facts)) for point in points]
    return CascadePlots(
        among_kept=curve(
            kept,
            title="Wrong among the answers kept, by threshold",
            labels=(sent, "wrong among kept"),
            reference=Reference(1.0 - facts.target, f"at most {100 * (1.0 - facts.target):g}%"),
            marked=marked,
        ),
        among_all=curve(
            lost,
            title="Rows that end with a wrong label of the cheap teacher, by threshold",
            labels=(sent, "kept and wrong, of all rows"),
            marked=marked,
        ),
    )


def cascade_markdown(facts: CascadeFacts, said: list[str]) -> list[str]:
    """The section as Markdown."""
    columns = ["sure at least", f"asked of {facts.strong}", "right among kept", "at least", "rows", "shown to do"]
    table: list[list[object]] = [
        [
            f"{point.threshold:.3g}" + (" (taken)" if point.threshold == facts.threshold else ""),
            number(point.sent, "accuracy"),
            number(point.right, "accuracy"),
            number(point.at_least, "accuracy"),
            point.rows,
            "yes" if point.passed else "no",
        ]
        for point in facts.curve
    ]
    return ["## Cascade", *said, *([markdown_table(columns, table)] if table else [])]


def _said(point: CascadePoint, facts: CascadeFacts) -> str:
    return (
        f"sure at least {point.threshold:.3g}: {facts.strong} is asked about {number(point.sent, 'accuracy')} of rows; "
        f"{number(point.right, 'accuracy')} of {plural(point.rows, 'row')} kept are right, at least "
        f"{number(point.at_least, 'accuracy')}" + ("; shown to do" if point.passed else "")
    )
