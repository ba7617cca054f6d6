"""The ``aggregate`` section of a recipe."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

AggregateMethod = Literal["majority", "family_vote"]
"""How votes are merged; see :mod:`distill.labeling.aggregate`."""
AGGREGATE_METHODS: tuple[str, ...] = get_args(AggregateMethod)


class AggregateConfig(BaseModel):
    """The ``aggregate`` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: AggregateMethod = Field(
        "family_vote",
        description="family_vote: one share a family of teachers, soft; majority: one vote a teacher, hard",
    )
