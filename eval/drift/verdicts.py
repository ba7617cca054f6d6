"""The verdicts of a comparison in words, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from distill.eval.drift.config import DriftConfig
from distill.eval.drift.facts import Comparison, Part, PartVerdict, Quality, Verdict
from distill.eval.wording import number, share

_NAMES: dict[Part, str] = {"inputs": "The rows", "predictions": "The student's answers", "quality": "Expected quality"}
_SHOWN = 4
_MEASURES = {
    "length": "words in {column}",
    "empty": "empty {column}",
    "unseen words": "words of {column} that the other set never has",
    "unseen values": "values of {column} that the other set never has",
    "words": "single words of {column}",
    "values": "values of {column}",
    "numbers": "{column}",
    "whole row": "whole rows",
    "labels": "labels given",
    "share": "{column}",
    "expected right": "how often it expects to be right",
}


def measure_title(one: Comparison) -> str:
    """What was compared, in words: ``words in query``."""
    return _MEASURES.get(one.measure, one.measure).format(column=one.column)


def part_verdicts(
    comparisons: Sequence[Comparison], quality: Quality | None, config: DriftConfig, *, groups: tuple[int, int]
) -> tuple[PartVerdict, ...]:
    """A verdict on each part that was looked at."""
    found = []
    for part in ("inputs", "predictions", "quality"):
        own = [one for one in comparisons if one.part == part]
        if own:
            found.append(_verdict(part, own, quality, config, groups))
    return tuple(found)


def _verdict(
    part: Part, own: Sequence[Comparison], quality: Quality | None, config: DriftConfig, groups: tuple[int, int]
) -> PartVerdict:
    name = _NAMES[part]
    if min(groups) < config.few_groups:
        said = (
            f"{name}: cannot tell. There are {groups[0]:,} groups in the reference and {groups[1]:,} in the current "
            f"set; with fewer than {config.few_groups} in either, chance alone takes sets far apart."
        )
        more = "Wait for more queries, or compare a longer time."
        return PartVerdict(part=part, verdict="cannot tell", said=said, next=(more,))
    moved = sorted((one for one in own if one.verdict == "moved"), key=lambda one: (one.adjusted_p, -one.size))
    if not moved:
        return PartVerdict(part=part, verdict="steady", said=_steady(name, own, config))
    named = [measure_title(one) for one in moved[:_SHOWN]]
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    verdict: Verdict = "moved"
    said = f"{name} moved: {', '.join(named)}{more}."
    if part == "quality" and quality is not None:
        said = f"{name} moved: {_expected(quality)}."
    return PartVerdict(part=part, verdict=verdict, said=said, next=_next(part, quality))


def _steady(name: str, own: Sequence[Comparison], config: DriftConfig) -> str:
    small = [one for one in own if one.adjusted_p <= config.alpha]
    widest = max(config.smallest, *(one.size_by_chance for one in own))
    said = f"{name}: steady. Nothing differs by more than groups that are exchanged by chance do"
    if small:
        named = ", ".join(measure_title(one) for one in small[:_SHOWN])
        least = number(config.smallest, "accuracy")
        said = f"{name}: steady. {named[0].upper()}{named[1:]} differ for sure, but by less than {least} of the rows"
    return f"{said}; the coarsest comparison sees no shift below {number(widest, 'accuracy')} of the rows."


def _expected(quality: Quality) -> str:
    return (
        f"{quality.student} expects to be right on {share(quality.expected_current)} of the current rows, on "
        f"{share(quality.expected_reference)} of the reference's. This is its own expectation, no accuracy"
    )


def _next(part: Part, quality: Quality | None) -> tuple[str, ...]:
    label = (
        "Have people label some of the current rows, drawn so that the numbers stay honest (distill label-next), "
        "and compare again with them: only that gives an accuracy."
    )
    ask = "Ask the teachers about the current rows: add them to data.rows, and run the recipe again."
    retrain = "Train again on their answers; what is in the ledger costs nothing."
    look = "Look at the rows and words that tell the sets apart first: a broken feed looks like this too."
    if part == "inputs":
        return look, ask, retrain
    if part == "predictions":
        return "See whether the rows moved as well; if not, the student or what feeds it changed.", label
    worse = quality is None or (quality.difference.value or 0.0) < 0
    return (label, ask, retrain) if worse else (label,)
