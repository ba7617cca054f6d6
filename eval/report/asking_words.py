"""How the asking went, in plain words."""

from __future__ import annotations

from distill.eval.report.asking_facts import AskingFacts, CheckedShare, ObeyedFacts, PackingFacts
from distill.eval.wording import count, number, plural, share

PLACE_LEVEL = 0.01
"""An effect of the place is said to be one below this p."""


def obeyed_said(obeyed: list[ObeyedFacts]) -> str:
    """Who obeyed the canaries of the run."""
    if not obeyed:
        return ""
    known = [found for found in obeyed if found.tried]
    opening = "Orders to the rater were planted in copies of some rows, asked like any row and never made labels. "
    if not known:
        return opening + "No copy has an answer beside that of its row, so no breach can be told."
    worst = max(known, key=lambda found: found.rate.value or 0)
    if not worst.breached:
        return opening + (
            f"Nobody gave the planted answer to a row that it had answered otherwise; with {worst.tried} such rows "
            f"the true rate of {worst.name} may still be up to {number(worst.rate.high, 'accuracy')}."
        )
    said = (
        f"{worst.name} obeyed most: on {worst.breached} of {plural(worst.tried, 'copy', 'copies')} it gave the planted "
    )
    said += f"answer though it says otherwise of the row without the plant, a rate of {share(worst.rate)}. "
    said += f"To a third answer it moved on {share(worst.moved)}, which is its mere wavering."
    phrase, (breached, tried) = max(worst.by_plant.items(), key=lambda item: (item[1][0] / item[1][1], item[1][0]))
    return opening + said + f" The phrasing that worked best: {phrase} ({breached} of {tried})."


def asking_said(asking: AskingFacts) -> list[str]:
    """Quality, shared answers, long rows, several rows at once; a line each, none where there is nothing to say."""
    lines = []
    for name, found in asking.quality.items():
        if not found.trials:
            continue
        said = (
            f"{name} on the gold rows asked along the way: {_checked(found)} right ({found.metric.replace('_', ' ')}; "
        )
        said += f"interval good at any time), the line is {100 * found.below:g}%."
        lines.append(said + (" It fell below the line and was paused." if found.paused else ""))
    if asking.shared:
        said = f"{plural(asking.shared, 'row')} took the answer of a near-duplicate."
        for name, wrong in asking.sharing_wrong.items():
            if wrong.trials:
                said += f" Asked all the same, {name} gave another label to {_checked(wrong)}."
        lines.append(said)
    most = max(asking.requests_cut.values(), default=0)
    if most:
        fields = ", ".join(f"{name} {count(times)} times" for name, times in asking.fields_cut.items())
        lines.append(f"{plural(most, 'row')} were too long and shown in part ({fields}).")
    lines += [_packing_said(name, found) for name, found in asking.packing.items() if found.packs]
    return lines


def _packing_said(name: str, found: PackingFacts) -> str:
    """Several rows at once: what it saved, and whether it moved labels."""
    said = f"{name} answered {plural(found.rows, 'row')} in {plural(found.packs, 'request')} about several at once"
    times = {"tokens": "the tokens", "cost": "the money"}
    saving = [f"{ratio:.1f} times {times[what]}" for what, ratio in found.saving.items() if ratio is not None]
    said += f"; alone a row takes {' and '.join(saving)}." if saving else "."
    if found.asked_alone:
        said += f" {plural(found.asked_alone, 'row')} had no answer there and had to be asked about alone."
    if found.moved.trials:
        said += f" Asked alone as well, {_checked(found.moved)} got another label"
        halves = [_checked(found.moved_at[half]) for half in ("first_half", "second_half")]
        said += f": {halves[0]} in the first half of a request, {halves[1]} in the second."
    if (place := found.place) is not None:
        verdict = (
            "The place in a request moves the label"
            if place.p < PLACE_LEVEL
            else "No clear effect of the place was found"
        )
        said += f" {verdict} (chi-square {place.statistic:.1f} at {place.freedom} degrees of freedom, p = {place.p:.2g}"
        said += f", {plural(place.packs, 'request')})"
        if found.positive_at:
            first, last = (_checked(found.positive_at[end]) for end in ("first", "last"))
            said += f": positive are {first} at the first place and {last} at the last"
        said += "."
    return said


def _checked(found: CheckedShare) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "none"
    ends = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    return f"{found.successes} of {found.trials}, {100 * found.value:.1f}% ({ends})"
