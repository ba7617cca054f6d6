"""Rates of slips from a sample of pairs (typed, meant)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from distill.labeling.queries.hangul import keystrokes
from distill.labeling.queries.keyboards import wrong_layouts
from distill.labeling.queries.query_words import normalised_word
from distill.labeling.queries.typo_channel import RIGHT, Action, TypoChannel, steps
from distill.labeling.queries.typo_rates import SLIPS, TypoRates

_ROUNDS = 2
_PRIOR_PLACES = 500.0
_RAREST = 1e-6


def fit_typos(
    pairs: Iterable[tuple[str, str]], *, start: TypoRates | None = None, wrong_share: float | None = None
) -> TypoRates:
    """Fits rates by hard EM: each pair is aligned by its likeliest path, and slips are counted along the paths.

    ``rate = (slips + 500 · start) / (places where it is possible + 500)``, so that a handful of pairs moves rates
    little. Pairs that no path connects (another digit, another word order) are left out. A sample holds as many wrong
    ones as somebody put into it; ``wrong_share`` says how many of the queries are wrong in life.

    Args:
        pairs: (typed, meant); equal ones count as typed right.
        start: Rates to begin from and to shrink to.
        wrong_share: Share of texts with a slip at the lengths of the sample; None to take the sample's own.

    Returns:
        Fitted rates.
    """
    start = start or TypoRates()
    normal = [(normalised_word(typed), normalised_word(meant)) for typed, meant in pairs]
    rates = start
    for _ in range(_ROUNDS):
        rates = _counted(normal, TypoChannel(rates), start)
    if wrong_share is None:
        return rates
    return _rescaled(rates, [meant for _, meant in normal], wrong_share)


def align(channel: TypoChannel, typed: str, meant: str) -> list[tuple[int, Action]] | None:
    """The likeliest way from a meant text to a typed one, both in keystrokes: steps with the key that each begins at.

    Args:
        channel: How slips happen, with the chance of each.
        typed: What was typed.
        meant: What was meant.

    Returns:
        None where the channel knows no way.
    """
    places, width = channel.places(meant), len(typed) + 1
    best: list[list[tuple[float, tuple[int, int, Action] | None]]] = [
        [(0.0, None)] * width for _ in range(len(meant) + 1)
    ]
    best[0][0] = (1.0, None)
    for at, place in enumerate(places):
        for done in range(width):
            here = best[at][done][0]
            if not here:
                continue
            for action in steps(place, typed, done, meant[at : at + 1]):
                there = best[at + action.consumed]
                if here * action.probability > there[done + len(action.typed)][0]:
                    there[done + len(action.typed)] = (here * action.probability, (at, done, action))
    path, step = [], best[-1][-1][1]
    if step is None:
        return [] if not typed and not meant else None
    while step is not None:
        at, done, action = step
        path.append((at, action))
        step = best[at][done][1]
    return path[::-1]


def _counted(pairs: list[tuple[str, str]], channel: TypoChannel, start: TypoRates) -> TypoRates:
    slips: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    for typed, meant in pairs:
        layouts = wrong_layouts(meant)
        if layouts:
            possible["layout"] += 1
        if typed != meant and typed in layouts:
            slips["layout"] += 1
            continue
        keys = keystrokes(meant)
        path = align(channel, keystrokes(typed), keys)
        if path is None:
            continue
        slips.update(action.slip for _, action in path if action.slip != RIGHT)
        for place in channel.places(keys):
            possible.update({action.slip for action in place.actions})
            possible.update(["insertion"] * bool(place.insertion) + ["other"] * bool(place.other))
    return _with_prior(slips, possible, start)


def _with_prior(slips: Counter[str], possible: Counter[str], start: TypoRates) -> TypoRates:
    bounds = {name: field.metadata[1].le for name, field in TypoRates.model_fields.items()}
    fitted = {}
    for name in (*SLIPS, "layout"):
        rate = (slips[name] + _PRIOR_PLACES * getattr(start, name)) / (possible[name] + _PRIOR_PLACES)
        fitted[name] = min(max(rate, _RAREST), bounds[name])
    return TypoRates(**fitted)


def _rescaled(rates: TypoRates, meant: list[str], wrong_share: float) -> TypoRates:
    """Multiplies all rates so that the mean probability of a slip over the texts is ``wrong_share`` (bisection)."""
    low, high = 1e-4, 1e2
    for _ in range(16):  # to a fifth of a thousandth
        middle = (low * high) ** 0.5
        wrong = sum(1 - _right(TypoChannel(rates.scaled(middle)), text) for text in meant) / max(1, len(meant))
        low, high = (middle, high) if wrong < wrong_share else (low, middle)
    return rates.scaled((low * high) ** 0.5)


def _right(channel: TypoChannel, meant: str) -> float:
    likely = 1.0
    places = channel.places(keystrokes(meant))
    for place in places[:-1]:
        likely *= next(action.probability for action in place.actions if action.slip == RIGHT)
    return likely * (1 - places[-1].insertion * len(places[-1].alphabet)) * (1 - channel.rates.layout)
