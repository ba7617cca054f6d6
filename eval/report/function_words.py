"""What labeling functions did, in plain words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from distill.eval.labeling_functions import FunctionFacts
from distill.eval.wording import count, interval, plural

COLUMNS = ("function", "gives", "coverage", "overlap", "conflict", "accuracy", "gold rows")
"""Of :func:`function_cells`."""


def functions_said(functions: Sequence[FunctionFacts]) -> str:
    """What they cover, and who is the weakest; empty without any."""
    if not functions:
        return ""
    rows = max(one.rows for one in functions)
    said = f"{plural(len(functions), 'labeling function')} looked at {count(rows)} rows each and abstained where they "
    said += "cannot tell, which is no failure."
    if silent := [one.name for one in functions if not one.labeled]:
        said += f" Never said anything: {', '.join(silent)}."
    known = [one for one in functions if one.accuracy.value is not None]
    if not known:
        return said + " No row that they labeled has gold, so nothing is said of accuracy."
    worst = min(known, key=lambda one: one.accuracy.value or 0.0)
    return (
        f"{said} On rows with gold the weakest is {worst.name}, right on {interval(worst.accuracy, 'accuracy')} of "
        f"{count(worst.accuracy.rows)}. Functions are usually written with an eye on some of these rows, and read high "
        "on those."
    )


def function_cells(one: FunctionFacts) -> list[str]:
    """A line of the table, under :data:`COLUMNS`."""
    right = interval(one.accuracy, "accuracy") if one.accuracy.value is not None else "–"
    shares = [f"{100 * share:.1f}%" for share in (one.coverage, one.overlap, one.conflict)]
    failed = f" ({count(one.failed)} failed)" if one.failed else ""
    return [one.name, (", ".join(one.polarity) or "–") + failed, *shares, right, count(one.accuracy.rows)]
