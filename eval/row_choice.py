"""Which rows to ask teachers about next, so that the next student learns most from what the answers cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

ChoiceRule = Literal["uncertainty", "disagreement", "diversity", "frequency", "random"]
"""Why a row is asked about: the student is unsure of it, students differ, it is unlike what was asked, it is asked
often by shoppers, or by a plain draw."""


def choose_rows(
    rows: pl.DataFrame,
    *,
    count: int,
    rules: Mapping[ChoiceRule, float],
    predictions: pl.DataFrame | None = None,
    asked: pl.DataFrame | None = None,
    inputs: Sequence[str] = (),
    seed: int = 0,
) -> pl.DataFrame:
    """Chooses rows to ask about, each rule its share of them.

    Args:
        rows: Candidates, none of them asked before: ``row_id``, ``group``, ``weight`` and the inputs.
        count: Rows wanted; all of them where there are fewer.
        rules: Share of the choice by rule; they are scaled to sum to one.
        predictions: ``student``, ``row_id``, ``probs`` of one or several students on the candidates; None before there
            is one, when rules that need them draw at random instead.
        asked: Rows asked before, with the inputs, that diversity keeps away from.
        inputs: Columns that diversity reads.
        seed: Of every draw.

    Returns:
        ``row_id``, ``rule`` (that drew it) and ``score`` (by that rule, nullable), the most wanted first.
    """
    raise NotImplementedError
