"""How a teacher is asked through its provider's batch jobs."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BatchConfig(BaseModel):
    """How a teacher is asked through its provider's batch jobs: at half the price, answered within 24 hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait: bool = Field(
        default=True,
        description="false submits jobs, takes what has ended and exits (3); the same command picks the rest up",
    )
    wait_s: float | None = Field(
        default=None, ge=0, description="exit so after this many seconds; null waits until every job has ended"
    )
    live_tail: bool = Field(
        default=False,
        description="ask live, at full price, what a job left over: rows of expired jobs, failed requests, re-asks",
    )
    live_tail_after_s: float | None = Field(
        default=None,
        gt=0,
        description="with live_tail: cancel a job that still runs after this many seconds, and ask the rest of it live",
    )
    most_requests: int | None = Field(
        default=None, ge=1, description="the most requests of one job; null takes the provider's limit"
    )
    grace_s: float = Field(
        default=60.0,
        ge=0,
        description="how long a job is looked for that was being submitted when a run was killed, before its requests "
        "are submitted anew; the provider's list may lag so long",
    )

    @model_validator(mode="after")
    def _tail_is_asked_for(self) -> BatchConfig:
        if self.live_tail_after_s is not None and not self.live_tail:
            raise ValueError("live_tail_after_s does nothing without live_tail: true; give both, or neither")
        return self

    @property
    def patience_s(self) -> float:
        """Seconds for which a run waits for jobs, infinite where it waits until they have ended."""
        if not self.wait:
            return 0.0
        return math.inf if self.wait_s is None else self.wait_s
