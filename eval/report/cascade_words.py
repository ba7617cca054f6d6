"""How a cascade went, in plain words."""

from __future__ import annotations

from distill.eval.intervals import FEW_GROUPS
from distill.eval.report.cascade_facts import CascadeFacts, Spent
from distill.eval.wording import count, dollars, interval, number, plural, quantity, share

_RIGHT = {
    "agreement": "the label that {strong} gives",
    "accuracy": "the gold label",
    "positive_precision": "positive by gold too, where they say positive",
}


def cascade_said(facts: CascadeFacts | None) -> list[str]:
    """A sentence or two each: what was kept, what that is worth, what was saved."""
    if facts is None:
        return []
    return [line for line in (_kept(facts), _worth(facts), _saved(facts)) if line]


def right_means(facts: CascadeFacts) -> str:
    """What a right answer is."""
    return _RIGHT[facts.measure].format(strong=facts.strong)


def _kept(facts: CascadeFacts) -> str:
    cheap, strong = facts.cheap, facts.strong
    goal = f"{_percent(facts.target)} of the answers kept are to be {right_means(facts)}"
    if facts.threshold is not None:
        return (
            f"{cheap} was asked first and is kept where it is at least {number(facts.threshold, 'accuracy')} sure: on "
            f"{count(facts.kept)} of {plural(facts.rows, 'row')} ({_percent(facts.kept / max(1, facts.rows))}). Only "
            f"the others went to {strong}. {goal[0].upper()}{goal[1:]}, which "
            f"{plural(facts.judged, 'calibration row')} in "
            f"{plural(facts.calibration_groups, 'group')} show with {_percent(facts.confidence)} confidence."
        )
    if facts.stopped is not None and not facts.curve:
        return f"No threshold was set, and most rows were not asked about: {facts.stopped}."
    said = (
        f"No threshold of {cheap} is shown to do: {goal}, with {_percent(facts.confidence)} confidence, and "
        f"{plural(facts.judged, 'calibration row')} in {plural(facts.calibration_groups, 'group')} do not show it at "
        f"any sureness. So {strong} answers every row, and {cheap} was not asked beyond those."
    )
    if facts.rows_needed is not None:
        return (
            said
            + f" About {count(facts.rows_needed)} calibration rows would probably do, if the others are like these."
        )
    if facts.calibration_groups < FEW_GROUPS:
        return said + " They are too few to tell how many would do."
    return said + " More of them would hardly help: a lower target or a better cheap teacher would."


def _worth(facts: CascadeFacts) -> str:
    if facts.threshold is None:
        return ""
    said = (
        f"On the rows that the threshold was set on, {share(facts.in_calibration)} of the kept answers are right; that "
        f"reads a little high, since it was chosen there. Over all of them, kept or sent on, {share(facts.same_label)} "
        f"carry {facts.strong}’s own label."
    )
    if facts.held_out.value is not None:
        said += (
            f" On {plural(facts.held_out.rows, 'other row')} with gold, {share(facts.held_out)} of the kept answers "
            "are right by gold."
        )
    if facts.against_strong.value is not None:
        change = interval(facts.against_strong, "accuracy", signed=True)
        said += f" Against {facts.strong} alone, accuracy by gold changes by {change} points on the calibration rows."
    return said


def _saved(facts: CascadeFacts) -> str:
    if not facts.asked_all:
        return ""
    saved = 1.0 - facts.asked_strong / facts.asked_all
    said = (
        f"{facts.strong} gave {plural(facts.asked_strong, 'answer')} instead of {count(facts.asked_all)}: "
        f"{_percent(saved)} fewer, for {plural(facts.asked_cheap, 'answer')} of {facts.cheap}."
    )
    for spent, say in ((facts.usd, dollars), (facts.tokens, _tokens)):
        if spent.cascade and spent.all_strong is not None:
            said += f" Together they took {say(spent.cascade)}; {facts.strong} alone would have taken about "
            said += f"{say(spent.all_strong)}{_times(spent)}."
            return said
    if facts.usd.cascade == 0:
        return said + " The answers cost nothing, and their tokens were not counted, so the saving is told in answers."
    return said + " What the answers cost is not known: give the teachers a price to see it in dollars."


def _times(spent: Spent) -> str:
    if not spent.cascade or not spent.all_strong:
        return ""
    return f", {spent.all_strong / spent.cascade:.1f} times as much"


def _tokens(value: float | None) -> str:
    return f"{quantity(value)} tokens"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"
