"""What tokens cost: the section of a recipe, and the rates of a price table."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PriceConfig(BaseModel):
    """What tokens cost, in US dollars a million tokens; ``0`` alone says that they cost nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_usd_per_mtok: float = Field(ge=0, description="a million input tokens, in US dollars")
    output_usd_per_mtok: float = Field(ge=0, description="a million output tokens, thinking included, in US dollars")
    cached_input_usd_per_mtok: float | None = Field(
        None,
        ge=0,
        description="a million input tokens served from the provider's prefix cache; by default as any input",
    )
    batch_factor: float = Field(0.5, gt=0, le=1, description="what a batch job pays of these prices")
    flex_factor: float = Field(0.5, gt=0, le=1, description="what the flex tier pays of these prices")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_a_price(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
            return {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}
        return value


def or_nothing(schema: dict[str, Any]) -> None:
    """Tells editors that the bare 0 is a price, too."""
    schema["anyOf"].append({"const": 0})
