"""The strong teacher of a cascade in a plan: how many rows it gets is known only when the cheap one has answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from distill.plan_estimates import Interval

if TYPE_CHECKING:
    from distill.plan import TeacherPlan


def from_least(most: TeacherPlan, least: TeacherPlan) -> TeacherPlan:
    """The plan of a teacher that is asked about some rows for certain, and at most about all.

    Args:
        most: Where it is asked about every row.
        least: Where it is asked about the calibration rows alone.
    """
    return replace(
        most,
        to_send_least=least.to_send,
        input_tokens=_spanned(least.input_tokens, most.input_tokens) or most.input_tokens,
        output_tokens=_spanned(least.output_tokens, most.output_tokens) or most.output_tokens,
        cost_usd=_spanned(least.cost_usd, most.cost_usd),
        time_s=_spanned(least.time_s, most.time_s),
    )


def _spanned(least: Interval | None, most: Interval | None) -> Interval | None:
    return None if least is None or most is None else Interval(least.low, most.high)
