"""What answers cost: prices of hosted models as of a date, and the one function that turns tokens into dollars.

A price comes from the recipe, else from the user's own table (``DISTILL_PRICES`` names a file in the format of
``prices.yaml``), else from ``prices.yaml`` beside this file. A model that is in none of them has no known price, and
its cost is unknown: never zero. A server of one's own is in no table; the recipe's ``price: 0`` says that it is free.
"""

from __future__ import annotations

import os
import re
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.labeling.errors import UsageError
from distill.teachers.price_config import PriceConfig

Tier = Literal["standard", "batch", "flex"]

TABLE = Path(__file__).with_name("prices.yaml")
USER_TABLE = "DISTILL_PRICES"
"""Environment variable that names a user's own table."""

# A dated or numbered snapshot of a model costs what the model does.
_SNAPSHOT = r"(?:-\d{4}-\d{2}-\d{2}|-\d{8}|-\d{3}|-latest)?"


class Usage(NamedTuple):
    """Tokens of one answer, as the provider counted them; None where it did not say.

    Attributes:
        input: Read, those from the prefix cache included.
        output: Written, thinking included.
        cached: Of the input, those served from the prefix cache.
    """

    input: int | None
    output: int | None
    cached: int = 0


class KnownPrice(NamedTuple):
    """A price and where it comes from, in words."""

    price: PriceConfig
    source: str


class ModelPrice(PriceConfig):
    """One line of a table."""

    model: str = Field(min_length=1, description="name of the model; dated snapshots of it cost the same")
    checked: date = Field(description="when the source was read")
    until: date | None = Field(None, description="last day of this price; the line after it holds then")

    def fits(self, model: str, today: date) -> bool:
        """Whether this is the price of a model on a day."""
        return (self.until is None or today <= self.until) and bool(
            re.fullmatch(re.escape(self.model) + _SNAPSHOT, model, re.IGNORECASE)
        )


class Provider(BaseModel):
    """A provider of a table: who is asked there, and what its models cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hosts: tuple[str, ...] = Field(min_length=1, description="hosts of its addresses")
    source: str = Field(description="where its prices stand")
    models: tuple[ModelPrice, ...] = Field(min_length=1)


class PriceTable(BaseModel):
    """A price table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    providers: tuple[Provider, ...]


def cost_usd(usage: Usage, price: PriceConfig | None, *, tier: Tier = "standard") -> float | None:
    """Dollars for the tokens of an answer; None where the price or a count is not known.

    ``((input - cached) * p_in + cached * p_cached + output * p_out) / 10^6``, times the factor of the tier.

    Args:
        usage: The tokens.
        price: Their price.
        tier: How they were bought.
    """
    if price is None or usage.input is None or usage.output is None:
        return None
    cached = min(usage.cached, usage.input)
    cached_rate = price.cached_input_usd_per_mtok
    read = (usage.input - cached) * price.input_usd_per_mtok
    read += cached * (price.input_usd_per_mtok if cached_rate is None else cached_rate)
    factor = {"standard": 1.0, "batch": price.batch_factor, "flex": price.flex_factor}[tier]
    return factor * (read + usage.output * price.output_usd_per_mtok) / 1e6


def find_price(
    model: str, *, host: str | None, given: PriceConfig | None = None, today: date | None = None
) -> KnownPrice | None:
    """Finds what a model's tokens cost; None where nothing says.

    Args:
        model: Its name, as the provider lists it.
        host: Host of the address that is asked; None where there is none.
        given: The recipe's price, which wins.
        today: For prices that end; by default today.

    Raises:
        UsageError: The user's table cannot be read.
    """
    if given is not None:
        return KnownPrice(given, "the recipe")
    if host is None:
        return None
    own = os.environ.get(USER_TABLE)
    for path in (*([Path(own)] if own else []), TABLE):
        for provider in _table(path).providers:
            if host.lower() not in provider.hosts:
                continue
            for line in provider.models:
                if line.fits(model, today or date.today()):
                    return KnownPrice(line, f"{provider.source}, read {line.checked.isoformat()}")
    return None


@lru_cache(maxsize=8)
def _table(path: Path) -> PriceTable:
    import yaml

    try:
        return PriceTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = "; ".join(_problem(error)) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"{path}: cannot be read as a price table: {told}; correct it or unset {USER_TABLE}") from None


def _problem(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
