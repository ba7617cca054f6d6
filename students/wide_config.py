"""The ``wide`` part of a student: a linear model beside the network."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class WideSection(BaseModel):
    """A linear model on how query and listing match, whose scores are mixed into the network's.

    A network that has seen a hundred queries knows those queries; a linear model of some twenty numbers cannot learn
    them by heart. Beside each other they do better on new queries than either (docs/log.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="share of the linear model in the scores; where not given, a half, or another share where held-out "
        "queries show it to be better",
    )
    similarity: str | None = Field(
        None,
        description="a sentence encoder (an id, a folder, or package:NAME/FOLDER): how near it finds the query and the "
        "listing's first input, whole and token by token, becomes features; it is kept in the student's folder and "
        "never trained",
    )
    penalty: float = Field(0.03, gt=0.0, description="weight of the squared coefficients beside the mean loss of a row")
