"""What records of facts have in common: a report's JSON is made of them, and read again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A record that does not change and has no fields but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
