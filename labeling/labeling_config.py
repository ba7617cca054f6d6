"""The ``labeling`` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill.labeling.quota_config import QuotaConfig


class FailureStop(BaseModel):
    """When a teacher that keeps failing is given up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(
        default=0.5, gt=0, le=1, description="share of the last rows asked that failed or did not fit"
    )
    of_last: int = Field(default=50, ge=1, description="how many of the last rows asked it is taken over")


class LabelingConfig(BaseModel):
    """How teachers are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(default=1, ge=1, le=100, description="answers per row and teacher, each bought apart")
    concurrency: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="requests in flight per teacher; auto finds what the server bears"
    )
    retries: int = Field(default=5, ge=0, description="how often a request that failed is sent again")
    reasks: int = Field(
        default=1, ge=0, description="how often a teacher is asked again whose answer does not fit the schema"
    )
    budget_usd: float | None = Field(
        default=None, ge=0, description="what this run may spend; what the ledger holds is free"
    )
    quota: QuotaConfig | None = Field(
        default=None, description="requests, tokens and dollars a minute and in all, over all teachers"
    )
    splits: tuple[Literal["pool", "train", "audit", "test"], ...] = Field(
        default=("pool", "train", "audit"), min_length=1, description="splits whose rows are asked"
    )
    stop_after_failures: FailureStop | None = Field(
        default=FailureStop(), description="when a teacher that keeps failing is given up; null never does"
    )
