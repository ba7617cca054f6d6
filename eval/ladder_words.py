"""The ladder as cells of a table: the same words in terminal, Markdown and HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.eval.prediction_powered import PredictionPowered
from distill.eval.wording import dollars, interval, is_percent, metric_title, number, quantity, seconds

if TYPE_CHECKING:
    from distill.eval.ladder import Ladder, LadderRow

POWERED = "with guesses for the rest"
POWERED_GAIN = "gain, with guesses"
AGREES = "agrees with teachers"
EXPECTS = "expects of itself"
COST = "labels cost"
_WHERE_KNOWN = frozenset({POWERED, POWERED_GAIN, AGREES, EXPECTS, COST})
"""Columns that are left out where no rung has anything in them."""
_NOTHING = "–"


def ladder_cells(ladder: Ladder) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells, as text. The first two columns name the rung; the rest are numbers.

    Columns of estimates and of cost are there where any rung has one.
    """
    first = ladder.rows[0] if ladder.rows else None
    mixed = len({(row.metric, row.positive) for row in ladder.rows}) > 1
    title = (
        "quality"
        if first is None or mixed
        else metric_title(first.metric, positive=first.positive, truth_source=first.truth_source)
    )
    columns: list[tuple[str, list[str]]] = [
        ("student", [_who(row) for row in ladder.rows]),
        ("trained on", [row.trained_on or _NOTHING for row in ladder.rows]),
        (title, [_quality(row, mixed=mixed) for row in ladder.rows]),
        (POWERED, [powered_cell(row.powered, row.metric) for row in ladder.rows]),
        ("gain", [interval(row.gain, row.metric, signed=True) if row.gain else _NOTHING for row in ladder.rows]),
        (POWERED_GAIN, [powered_cell(row.powered_gain, row.metric, signed=True) for row in ladder.rows]),
        ("AUC", [_auc(row) for row in ladder.rows]),
        (AGREES, [agrees_cell(row) for row in ladder.rows]),
        (EXPECTS, [expects_cell(row) for row in ladder.rows]),
        ("truth", [row.truth_source for row in ladder.rows]),
        ("size", [_size(row) for row in ladder.rows]),
        ("speed", [quantity(row.pairs_per_s, " pairs/s") if row.pairs_per_s else _NOTHING for row in ladder.rows]),
        ("training", [seconds(row.train_s) for row in ladder.rows]),
        (COST, [cost_cell(row) for row in ladder.rows]),
        (cost_title(ladder), [cost_per_point_cell(row) for row in ladder.rows]),
    ]
    parts = any(row.part for row in ladder.rows)
    known = frozenset(name for name, _ in columns[1:]) if parts else _WHERE_KNOWN | {cost_title(ladder)}
    shown = [(name, cells) for name, cells in columns if name not in known or any(cell != _NOTHING for cell in cells)]
    return [name for name, _ in shown], [list(line) for line in zip(*(cells for _, cells in shown), strict=True)]


def agrees_cell(row: LadderRow) -> str:
    """How far it agrees with its teachers where nobody labeled: no accuracy, and no interval, to keep it short."""
    found = row.estimate and row.estimate.agreement
    return _NOTHING if not found else number(found.value, "accuracy")


def expects_cell(row: LadderRow) -> str:
    """What it expects of itself, and whether that was checked."""
    found = row.estimate and row.estimate.expected
    if row.estimate is None or not found or found.value is None:
        return _NOTHING
    checked = {True: "", False: " refuted", None: " unchecked"}[row.estimate.believable]
    return f"{number(found.value, 'accuracy')}{checked}"


def powered_cell(found: PredictionPowered | None, metric: str, *, signed: bool = False) -> str:
    """The estimate from labels and guesses, and how many labels alone would be as good."""
    if found is None:
        return _NOTHING
    worth = f", as {found.as_good_as:,} labels" if found.as_good_as is not None else ""
    return f"{interval(found.estimate, metric, signed=signed)}{worth}"


def cost_cell(row: LadderRow) -> str:
    """What the labels that it learned from cost; nothing is said where people gave them."""
    return dollars(row.cost_usd) if row.is_student and row.cost_usd else _NOTHING


def cost_per_point_cell(row: LadderRow) -> str:
    """What a point of its gain cost."""
    return _NOTHING if row.cost_per_point is None else dollars(row.cost_per_point)


def cost_title(ladder: Ladder) -> str:
    """Names the unit: a percentage point, or a hundredth of what is no percentage."""
    percent = all(is_percent(row.metric) for row in ladder.rows)
    return "cost per point" if percent else "cost per 0.01"


def _who(row: LadderRow) -> str:
    return row.full_name + (f" ({row.kind})" if row.kind == "teacher" else "")


def _quality(row: LadderRow, *, mixed: bool) -> str:
    said = interval(row.quality, row.metric)
    return f"{said} {metric_title(row.metric, positive=row.positive, truth_source=row.truth_source)}" if mixed else said


def _auc(row: LadderRow) -> str:
    auc = row.others.get("auc")
    return f"{auc.value:.3f}" if auc and auc.value is not None else _NOTHING


def _size(row: LadderRow) -> str:
    parts = [quantity(row.parameters)] if row.parameters else []
    if row.size_mb is not None:
        parts.append(f"{row.size_mb:,.0f} MB" if row.size_mb >= 10 else f"{row.size_mb:.1f} MB")
    return ", ".join(parts) or "–"
