"""The ``labeling`` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distill.labeling.cascade_config import CascadeConfig
from distill.labeling.quota_config import QuotaConfig


class FailureStop(BaseModel):
    """When a teacher that keeps failing is given up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(
        default=0.5, gt=0, le=1, description="share of the last rows asked that failed or did not fit"
    )
    of_last: int = Field(default=50, ge=1, description="how many of the last rows asked it is taken over")


class CanaryConfig(BaseModel):
    """Rows with planted orders, asked like any other and never labeled, that show who obeys a listing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0.01, gt=0, le=0.2, description="canaries per row asked; never more than 2,000 in all")
    at_least: int = Field(
        default=20, ge=0, le=2000, description="canaries however few the rows; never more than there are rows"
    )


class WatchConfig(BaseModel):
    """When a teacher is paused whose quality on gold rows is shown to be below a line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Literal["accuracy", "positive_accuracy"] = Field(
        default="accuracy", description="accuracy: the gold label itself; positive_accuracy: positive label or not"
    )
    below: float = Field(gt=0, lt=1, description="the line; a teacher is paused when it is 95% sure to be below it")
    after: int = Field(default=50, ge=1, description="gold rows answered before anybody is paused")


class ExamplesConfig(BaseModel):
    """Gold rows of split train that are shown to teachers with their labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=4, ge=1, le=32, description="examples in a prompt, shared out evenly over the labels")
    similar: Literal["query", "row"] = Field(
        default="query",
        description="what has to resemble: the query (all rows of a query then share their examples, and the server's "
        "prefix cache) or the whole row",
    )
    tokens: int = Field(default=150, ge=20, description="token budget of one example; long fields are cut first")


class RowsPerRequestConfig(BaseModel):
    """Asking about several rows of a query in one request, and the check of what that does to the answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    most: int = Field(default=8, ge=1, le=32, description="the most rows of one request; they share their first input")
    check: float = Field(
        default=0.05, ge=0, le=1, description="share of the rows that are asked alone as well; never more than 500"
    )
    check_at_least: int = Field(
        default=30, ge=0, le=500, description="rows asked alone as well however few the rows; 0 with check: 0 for none"
    )


def _most_alone(value: Any) -> Any:
    return {"most": value} if isinstance(value, int) and not isinstance(value, bool) else value


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
    canaries: CanaryConfig | None = Field(
        default=None, description="mix in rows with planted orders and report who obeyed; {} takes the defaults"
    )
    watch: WatchConfig | None = Field(
        default=None,
        description="ask gold rows of splits train and audit at random places, many of them early, and pause a teacher "
        "that does badly on them",
    )
    rows_per_request: (
        Annotated[RowsPerRequestConfig, BeforeValidator(_most_alone, json_schema_input_type=int | RowsPerRequestConfig)]
        | None
    ) = Field(
        default=None,
        description="ask about several rows of a query in one request, where the teacher can; a number n is short for "
        "{most: n}",
    )
    near_duplicates: Literal["ask", "share"] = Field(
        default="ask",
        description="share: rows that differ only in case, spacing or plural of the query get one answer; rows with a "
        "gold label are always asked",
    )
    near_duplicate_order: Literal["any", "same"] = Field(
        default="same",
        description="any: queries with the same words in another order share too; of all near-duplicates these share "
        "wrongly most often",
    )
    near_duplicate_audit: float = Field(
        default=0.1, ge=0, le=1, description="share of the rows that would share an answer which are asked all the same"
    )
    examples: ExamplesConfig | None = Field(
        default=None, description="show teachers similar gold rows of split train with their labels; {} for defaults"
    )
    cascade: CascadeConfig | None = Field(
        default=None,
        description="ask a cheap teacher first, and a strong one only where that one is not sure enough to be right as "
        "often as wanted",
    )
    row_tokens: int | None = Field(
        default=None,
        ge=50,
        description="token budget of a row's inputs, longest fields cut first; null cuts fields at 4,000 characters",
    )
