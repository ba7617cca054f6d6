"""What a lead should do first, in plain words, from the numbers of a review."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.wording import plural, share

if TYPE_CHECKING:
    from distill.eval.guideline.clauses import Cause
    from distill.eval.guideline.review import Boundary, Judge, Review

_ONE_WAY = 0.85
_CLEAR_BORDER = 0.6
_FEW_FOR_A_VERDICT = 8


class Advice(Frozen):
    """One thing to do, and why."""

    title: str = Field(description="what to do, as an imperative")
    why: str = Field(description="the evidence, in words")
    clauses: tuple[str, ...] = ()
    row_ids: tuple[str, ...] = Field((), description="rows to look at first")


def advise(found: Review) -> list[Advice]:
    """Turns causes, one-way borders, silent judges and unused clauses into things to do, most worth first."""
    advice = [_for_cause(cause, found) for cause in found.causes]
    advice += _for_leaning_judges(found)
    advice += _for_silent_judges(found)
    advice += _for_coverage(found)
    if not advice:
        advice.append(
            Advice(
                title="Nothing stands out",
                why=f"{plural(found.conflicts, 'disagreement')} over {plural(found.rows, 'row')}, spread so thinly "
                "that no clause and no border between labels explains more than its share.",
            )
        )
    return advice


def _for_cause(cause: Cause, found: Review) -> Advice:
    border = next(iter(cause.boundaries), "|")
    left, right = border.split("|", 1)
    titles = {account.id: account.title for account in found.clauses}
    named = [f"{name} ({titles[name]})" if titles.get(name) else name for name in cause.clauses]
    shares = (
        f"{share(cause.share)} of the disagreement between judges who cite clauses "
        f"({cause.conflicts} of {found.citable})"
    )
    if len(cause.clauses) == 2:
        title = f"Say where {named[0]} ends and {named[1]} begins"
        why = f"One judge cites the one, another the other, on the same row: {shares}."
    else:
        clear = cause.boundaries.get(border, 0) >= _CLEAR_BORDER * cause.conflicts
        title = f"Settle {named[0]}: " + (
            f"say when it makes a row {left} and when {right}" if clear else "it takes part in several borders"
        )
        why = f"Rows where it is cited hold {shares}."
        if cause.splits:
            why += f" In {cause.splits} of them both sides cite it, so it is read in two ways."
        if rivals := [name for name, number in cause.against.items() if number >= 3][:4]:
            why += f" Against it, the other side leans on {', '.join(rivals)} more than usual."
    why += f" The usual border is {left} or {right} ({cause.boundaries.get(border, 0)} of {cause.conflicts})."
    return Advice(
        title=title, why=why + _one_way(cause) + _gold(cause), clauses=cause.clauses, row_ids=tuple(cause.row_ids[:5])
    )


def _one_way(cause: Cause) -> str:
    said, number = next(iter(cause.sides.items()), ("", 0))
    if cause.conflicts < _FEW_FOR_A_VERDICT or number < _ONE_WAY * cause.conflicts:
        return ""
    return f" It is nearly always the same way round ({said}: {number} of {cause.conflicts}): a reading, not slips."


def _gold(cause: Cause) -> str:
    known = sum(cause.gold.values())
    if known < 3:
        return ""
    label, number = next(iter(cause.gold.items()))
    return f" Where a gold label is known it is most often {label} ({number} of {known})."


def _for_leaning_judges(found: Review) -> list[Advice]:
    advice = []
    for boundary in found.boundaries:
        for lean in boundary.leans:
            total = lean.first_takes_left + lean.second_takes_left
            most = max(lean.first_takes_left, lean.second_takes_left)
            if total < max(_FEW_FOR_A_VERDICT, 0.05 * found.conflicts) or most < _ONE_WAY * total:
                continue
            lenient, strict = (lean.first, lean.second) if most == lean.first_takes_left else (lean.second, lean.first)
            advice.append(_lean_advice(boundary, lenient, strict, counts=(most, total), ordered=found.ordered))
    return advice[:3]


def _lean_advice(boundary: Boundary, left: str, right: str, *, counts: tuple[int, int], ordered: bool) -> Advice:
    most, total = counts
    manner = f"{right} is the stricter of the two" if ordered else "the two draw the line differently"
    return Advice(
        title=f"Bring {left} and {right} together on {boundary.left} or {boundary.right}",
        why=f"Where they disagree on it, {left} says {boundary.left} and {right} says {boundary.right} in {most} of "
        f"{total} rows: {manner}, as a habit. Decide whose line is the intended one and write it into the guideline.",
    )


def _for_silent_judges(found: Review) -> list[Advice]:
    silent: list[Judge] = [judge for judge in found.judges if judge.citing == 0]
    hidden = found.conflicts - found.citable
    if not silent or not found.clauses or not hidden:
        return []
    names = " and ".join(judge.name for judge in silent)
    return [
        Advice(
            title=f"Have {names} cite clauses",
            why=f"{hidden} of {found.conflicts} disagreements involve a judge who cites none, so they cannot be put to "
            "any clause's account.",
        )
    ]


def _for_coverage(found: Review) -> list[Advice]:
    advice = []
    if found.uncovered_row_ids:
        advice.append(
            Advice(
                title="Look at the rows that no clause covers",
                why=f"For {plural(len(found.uncovered_row_ids), 'row')} ({share(found.uncovered)}) no judge found a "
                "clause to cite: the guideline may be silent on them.",
                row_ids=tuple(found.uncovered_row_ids[:5]),
            )
        )
    if found.never_cited:
        advice.append(
            Advice(
                title=f"Keep or drop {', '.join(found.never_cited)}",
                why="No judge ever cites "
                + ("it" if len(found.never_cited) == 1 else "them")
                + ". A clause that nobody needs makes the rest harder to remember.",
                clauses=tuple(found.never_cited),
            )
        )
    return advice
