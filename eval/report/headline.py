"""What stands at the top of a run report: headline, lede, tiles and alerts."""

from __future__ import annotations

from dataclasses import dataclass

from distill.eval.evaluation import Evaluation
from distill.eval.ladder import LadderRow
from distill.eval.report.asking_words import PLACE_LEVEL
from distill.eval.report.facts import RunFacts
from distill.eval.wording import (
    TRUTH_WORDS,
    count,
    dollars,
    interval,
    is_percent,
    metric_title,
    number,
    plural,
    quantity,
    seconds,
)


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page: its name, itself, and what it means."""

    name: str
    value: str
    note: str


def _claim(row: LadderRow) -> str:
    said, positive = number(row.quality.value, row.metric), row.positive
    if row.truth_source == "teacher":
        return {
            "positive_accuracy": f"agrees with the teachers’ merged labels, {positive} or not, on {said} of test rows",
            "accuracy": f"gives the teachers’ merged label to {said} of test rows",
        }.get(row.metric, f"reaches {said} {metric_title(row.metric)} against the teachers’ merged labels")
    return {
        "positive_accuracy": f"tells {positive} from the rest on {said} of test rows",
        "accuracy": f"gives the right label to {said} of test rows",
        "auc": f"ranks {positive} above the rest with an AUC of {said}",
    }.get(row.metric, f"reaches {said} {metric_title(row.metric)} on the test rows")


def headline_said(facts: RunFacts) -> str:
    """The run in one line: what its best student reaches, or how far the run got without one."""
    best = facts.ladder.best
    if best is not None:
        return f"{best.name} {_claim(best)}"
    if facts.labels is not None:
        return f"{plural(facts.labels.rows, 'row')} labeled by {plural(len(facts.teachers), 'teacher')}; no student yet"
    return "Nothing was measured yet"


def lede_said(facts: RunFacts) -> str:
    """What stands behind the headline: truth, rows, interval, baseline, and what the labels cost."""
    best = facts.ladder.best
    if best is None:
        return "There is no trained student with a measured quality in this run."
    quality = best.quality
    said = f"Measured against {TRUTH_WORDS[best.truth_source]}, on {plural(quality.rows, 'row')} in "
    said += f"{plural(quality.groups, 'group')}."
    if quality.low is not None and quality.high is not None:
        ends = f"{number(quality.low, best.metric)} and {number(quality.high, best.metric)}"
        said += f" Were the test groups drawn anew, the figure would mostly fall between {ends}"
        said += f" ({100 * quality.level:g}% interval)."
    if best.powered is not None and facts.few_labels is not None:
        both = interval(best.powered.estimate, best.metric)
        said += f" Those are a part of {plural(facts.few_labels.rows, 'test row')}; with guesses for the rest it is"
        said += f" {both}."
    if facts.ladder.baseline is not None:
        said += f" Always giving the commonest answer would reach {number(facts.ladder.baseline, best.metric)}."
    said += _cost_said(best)
    if best.truth_source == "teacher":
        said += " This is agreement with those who taught it and reads high; it ranks students and is no accuracy."
    return said


def _cost_said(best: LadderRow) -> str:
    took = f", in {seconds(best.train_s)} of training" if best.train_s is not None else ""
    if best.trained_on == "human":
        return f" It learned from labels by people{took}."
    price = "of unknown cost" if best.cost_usd is None else f"that cost {dollars(best.cost_usd)}"
    return f" It learned from labels {price}{took}." if best.trained_on else ""


def tiles_of(facts: RunFacts) -> list[Tile]:
    """Quality, gain, cost, rows labeled and speed, each where it is known."""
    best, tiles = facts.ladder.best, []
    if best is not None:
        ends = best.quality
        spread = f"{number(ends.low, best.metric)} to {number(ends.high, best.metric)}" if ends.low is not None else ""
        title = metric_title(best.metric, positive=best.positive, truth_source=best.truth_source)
        tiles.append(Tile(title, number(ends.value, best.metric), f"{spread}, truth: {best.truth_source}"))
        if best.gain is not None:
            said = interval(best.gain, best.metric, signed=True).split(" ", 1)
            unit = " points" if is_percent(best.metric) else ""
            tiles.append(
                Tile(f"gain over {best.gain_over}", said[0] + unit, said[1].strip("()") if len(said) > 1 else "")
            )
    if facts.teachers:
        known = [teacher.cost_usd for teacher in facts.teachers if teacher.cost_usd is not None]
        missing = sum(teacher.answered - teacher.priced for teacher in facts.teachers)
        value = dollars(sum(known)) if known else "unknown"
        note = f"{plural(missing, 'answer')} of unknown price" if missing else "every answer’s price is known"
        tiles.append(Tile("cost of the teachers’ answers", value, note))
    if facts.labels is not None:
        note = f"by {plural(len(facts.teachers), 'teacher')}"
        if facts.labels.mean_n_eff is not None:
            note += f", worth {facts.labels.mean_n_eff:.1f} independent votes a row"
        tiles.append(Tile("rows labeled", count(facts.labels.rows), note))
    if best is not None and best.pairs_per_s:
        tiles.append(Tile("speed here", quantity(best.pairs_per_s, "/s"), f"{quantity(best.parameters)} parameters"))
    return tiles


def alerts_said(facts: RunFacts, evaluation: Evaluation | None) -> list[str]:
    """What a reader has to know before trusting the numbers, a sentence each; empty where there is nothing.

    Args:
        facts: Of the run.
        evaluation: Of the student that the page shows; None without one.
    """
    alerts = []
    for row in facts.ladder.rows:
        if row.is_student and row.unanswered:
            alerts.append(
                f"{row.name} has no prediction for {plural(row.unanswered, 'test row')}; its numbers leave them out."
            )
    for teacher in facts.teachers:
        asked = teacher.asked - teacher.spared
        lost = asked - sum(teacher.outcomes[name] for name in ("labeled", "abstained", "explained"))
        if asked and lost > 0.05 * asked:
            alerts.append(f"{teacher.name} gave no usable answer on {plural(lost, 'line')} of {count(asked)}.")
    alerts += [
        f"{name} was paused: its quality on gold rows fell below the line."
        for name, found in facts.asking.quality.items()
        if found.paused
    ]
    alerts += [
        f"{name} labels a row by its place among those asked about together; lower labeling.rows_per_request."
        for name, packed in facts.asking.packing.items()
        if packed.place is not None and packed.place.p < PLACE_LEVEL
    ]
    if facts.labels is not None and facts.labels.warning:
        alerts.append(f"How votes were merged: {facts.labels.warning}.")
    best = facts.ladder.best
    if best and best.gain and best.gain.low is not None and best.gain.low <= 0:
        alerts.append(f"The gain over {best.gain_over} is not shown to be one: its interval includes zero.")
    if evaluation is not None and evaluation.groups < 20:
        alerts.append(f"Only {evaluation.groups} test groups: every interval here is rough.")
    return alerts
