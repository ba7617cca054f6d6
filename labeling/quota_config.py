"""Limits of use in a recipe: of one teacher, or of the whole run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class QuotaConfig(BaseModel):
    """What may be used, a minute and in all. What the ledger holds counts for nothing.

    A minute's quota is kept by pacing: in no sixty seconds is more sent than it says. A quota in all ends the run
    cleanly, as a budget does; each run of the command may use as much again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(default=None, ge=1, description="requests sent a minute, failed ones too")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="input and output tokens together, a minute")
    usd_per_minute: float | None = Field(default=None, gt=0, description="US dollars a minute; needs a price")
    requests: int | None = Field(default=None, ge=0, description="requests sent in all, failed ones too")
    tokens: int | None = Field(default=None, ge=0, description="input and output tokens together, in all")
