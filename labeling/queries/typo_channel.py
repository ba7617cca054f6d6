r"""A noisy channel for queries: how a meant text comes to be typed, as one model that scores, samples and is fitted.

The writer goes through the keys of the meant text (Hangul in keystrokes). At each key, and once at the end, a letter
too many may slip in (any number of times, each with its rate), or a space. Then the key is typed right or slips: a
neighbouring key, another letter, left out, doubled, swapped with the next, or with its run written as it sounds
(:data:`~distill.labeling.queries.typo_rates.SLIPS`). Digits and signs are never touched. The probability of a typed
text is the sum over all ways to it, by the forward recursion

.. math:: F_{i,j} = \sum_{a} P(a \mid i') \, F_{i',j'}

over actions that go from i' keys meant and j' typed to i and j (Kernighan, Church & Gale 1990, "A Spelling Correction
Program Based on a Noisy Channel Model", with edits anywhere in the word as in Brill & Moore 2000, "An Improved Error
Model for Noisy Channel Spelling Correction"). Over all typed texts it sums to one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from distill.labeling.queries.hangul import composed, keystrokes
from distill.labeling.queries.keyboards import ALPHABETS, layout_of, neighbours, wrong_layouts
from distill.labeling.queries.query_words import normalised_word
from distill.labeling.queries.sound_alikes import sound_alikes
from distill.labeling.queries.typo_rates import TypoRates

RIGHT = "right"
_NEVER = -1e9
_NEGLIGIBLE = 1e-16


class Action(NamedTuple):
    """One step of the writer: ``consumed`` keys of the meant text are typed as ``typed``."""

    slip: str
    probability: float
    consumed: int
    typed: str


class Place(NamedTuple):
    """What may happen before and at one key.

    Attributes:
        actions: Steps that are named one by one; ``right`` among them except at the end of the text.
        alphabet: Letters that may slip in here, and take the key's place; empty beside digits and signs.
        insertion: Probability of each of these letters too many.
        other: Probability of each of these letters in the key's place.
    """

    actions: tuple[Action, ...]
    alphabet: str
    insertion: float
    other: float


class TypoChannel:
    """P(typed | meant) for words and whole queries; deterministic, and safe to share between threads.

    Args:
        rates: How often each slip happens.
    """

    def __init__(self, rates: TypoRates | None = None) -> None:
        self.rates = rates or TypoRates()
        self._places = lru_cache(maxsize=65_536)(self._places_of)

    def log_prob(self, typed: str, meant: str) -> float:
        """Natural log of P(typed | meant); -1e9 for what the model cannot do, such as another digit.

        Both are compared in NFKC and casefold. Beginnings of ways of less than 1e-16 (about four slips) are left out.
        """
        typed, meant = normalised_word(typed), normalised_word(meant)
        likely = (1 - self.rates.layout) * self._forward(keystrokes(typed), keystrokes(meant))
        layouts = wrong_layouts(meant)
        likely += self.rates.layout * (layouts.count(typed) / len(layouts) if layouts else typed == meant)
        return math.log(likely) if likely > 0 else _NEVER

    def sample(self, meant: str, draw: random.Random) -> str:
        """Draws a typed text from P( · | meant). Case is kept; a capital letter is typed right."""
        if draw.random() < self.rates.layout:
            return draw.choice(wrong_layouts(meant) or [meant])
        keys, typed, at = keystrokes(meant), "", 0
        places = self.places(keys)
        while True:
            action = _drawn(places[at], draw)
            if action is None:
                return composed(typed) if keys != meant else typed
            typed += action.typed
            at += action.consumed

    def places(self, keys: str) -> tuple[Place, ...]:
        """What may happen at each key of a text in keystrokes, and at its end: ``len(keys) + 1`` places."""
        return self._places(keys)

    def _places_of(self, keys: str) -> tuple[Place, ...]:
        return tuple(self._place(keys, at) for at in range(len(keys) + 1))

    def _place(self, keys: str, at: int) -> Place:
        rates, before, key = self.rates, keys[at - 1 : at] if at else "", keys[at : at + 1]
        alphabet = _alphabet(key) or _alphabet(before)
        insertion = rates.insertion if alphabet else 0.0
        split = rates.split if _alphabet(key) and _alphabet(before) else 0.0
        slips = list(self._slips(keys, at))
        other = rates.other if _alphabet(key) else 0.0
        moves_on = 1 - insertion - split
        rest = 1 - other - sum(action.probability for action in slips)
        actions = [Action("split", split, 0, " ")] if split else []
        if key:
            actions += [Action(slip, likely * moves_on, taken, typed) for slip, likely, taken, typed in slips]
            actions.append(Action(RIGHT, rest * moves_on, 1, key))
        # Another letter: any of the alphabet but the right one.
        letters = max(1, len(alphabet))
        return Place(tuple(actions), alphabet, insertion / letters, other * moves_on / max(1, letters - 1))

    def _slips(self, keys: str, at: int) -> Iterator[Action]:
        rates, key, following = self.rates, keys[at : at + 1], keys[at + 1 : at + 2]
        if key == " ":
            yield Action("join", rates.join, 1, "")
        if not _alphabet(key):
            return
        beside = neighbours(key)
        for letter in beside:
            yield Action("neighbour", rates.neighbour / len(beside), 1, letter)
        yield Action("omission", rates.omission, 1, "")
        yield Action("doubling", rates.doubling, 1, key * 2)
        if following == key:
            yield Action("undoubling", rates.undoubling, 2, key)
        elif _alphabet(following):
            yield Action("transposition", rates.transposition, 2, following + key)
        alike = [rule for rule in sound_alikes().get(key, ()) if keys.startswith(rule[0], at)]
        for meant, written in alike:
            yield Action("sound", rates.sound / len(alike), len(meant), written)

    def _forward(self, typed: str, meant: str) -> float:
        places, width = self.places(meant), len(typed) + 1
        reached = [[0.0] * width for _ in range(len(meant) + 1)]
        reached[0][0] = 1.0
        for at, place in enumerate(places):
            line = reached[at]
            for done in range(width):
                here = line[done]
                if here < _NEGLIGIBLE:
                    continue
                for action in steps(place, typed, done, meant[at : at + 1]):
                    reached[at + action.consumed][done + len(action.typed)] += here * action.probability
        end = places[-1]
        return reached[-1][-1] * (1 - end.insertion * len(end.alphabet))


def steps(place: Place, typed: str, done: int, key: str) -> Iterator[Action]:
    """The steps from a place that agree with what was typed after ``done`` characters.

    Args:
        place: Of the meant text.
        typed: What was typed, in keystrokes.
        done: How many of its characters are explained already.
        key: The meant key at the place; empty at the end.
    """
    for action in place.actions:
        if typed.startswith(action.typed, done):
            yield action
    letter = typed[done : done + 1]
    if letter and letter in place.alphabet:
        yield Action("insertion", place.insertion, 0, letter)
        if place.other and letter != key:
            yield Action("other", place.other, 1, letter)


def _drawn(place: Place, draw: random.Random) -> Action | None:
    """A step drawn from a place; None for the end of the text."""
    at = draw.random()
    for action in place.actions:
        at -= action.probability
        if at < 0:
            return action
    at -= place.insertion * len(place.alphabet)
    if at < 0:
        return Action("insertion", place.insertion, 0, draw.choice(place.alphabet))
    if not place.other:
        return None
    key = next(action.typed for action in place.actions if action.slip == RIGHT)
    return Action("other", place.other, 1, draw.choice(place.alphabet.replace(key, "")))


def _alphabet(key: str) -> str:
    name = layout_of(key) if key else None
    return ALPHABETS[name] if name else ""
