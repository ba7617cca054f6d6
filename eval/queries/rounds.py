"""Rounds of a task whose answers are no single label: what each part gained, and when no part gains any more.

A line of the ladder tells of a student and part in a round its quality, its gain over the round before, and what is
said of it without any label (:class:`~distill.eval.label_free.LabelFreeEstimate`). What stands here is beside that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.queries.facts import Check, TeacherClaim


class PartRound(Frozen):
    """One student on one part after one round."""

    student: str
    part: str = Field(description="the task's type where it has no parts")
    right: Estimate | None = Field(
        None, description="share of test queries answered as gold has it, on the scale of agreement; None without gold"
    )
    agreement_gain: Estimate | None = Field(
        None, description="how much more often it says what the merged labels say than after the round before, paired"
    )
    same_as_before: Estimate | None = Field(
        None, description="how often it says what the student of the round before said: self-agreement, no quality"
    )
    checks: list[Check] = Field(default_factory=list, description="what its answers pass without any label")
    check_gains: dict[str, Estimate] = Field(
        default_factory=dict, description="how much more often its answers pass each check than after the round before"
    )
    claims: list[TeacherClaim] = Field(
        default_factory=list,
        description="student at least as good as teacher, by the part's metric; empty without truth",
    )
    check_claims: list[TeacherClaim] = Field(default_factory=list, description="the same by each check")
    gain_since: Estimate | None = Field(
        None, description="of the deciding student: gain over the round named in since, by the part's metric"
    )
    since: int | None = Field(None, description="the last round in which the part had a shown gain; 0 where none had")
    over_random: Estimate | None = Field(
        None, description="of the deciding student: the same less a student of as many random rows (rounds.control)"
    )


def is_shown(gain: Estimate | None) -> bool:
    """Whether a gain's interval lies above zero; one that cannot be told is not shown."""
    return gain is not None and gain.low is not None and gain.low > 0


@dataclass
class PartsWatch:
    """Tells when rounds have ceased to gain on every part: the rule by which a run ends by itself.

    Each part is compared with the last round that had a shown gain *on it*. A round gained where any part has a shown
    gain; after ``patience`` rounds in a row without one it is over. A part that got worse ends nothing by itself. With
    four parts that stand still, one round in ten shows a gain by chance, which costs a round and claims nothing.

    Attributes:
        patience: Rounds in a row in which no part has a shown gain, after which it is over.
        since: The round to compare with, by part; 0 for those that are not in it.
        without: Rounds without a shown gain on any part since then.
    """

    patience: int
    since: dict[str, int] = field(default_factory=dict)
    without: int = 0

    def over(self, number: int, gains: Mapping[str, Estimate | None]) -> bool:
        """Takes in what each part gained in a round over its round ``since``.

        Returns:
            Whether it is over.
        """
        gained = [part for part, gain in gains.items() if is_shown(gain)]
        self.since |= dict.fromkeys(gained, number)
        self.without = 0 if gained else self.without + 1
        return self.without >= self.patience
