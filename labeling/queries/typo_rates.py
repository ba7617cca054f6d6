"""How often each kind of slip happens, per place where it could."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SLIPS = (
    "neighbour",
    "other",
    "omission",
    "doubling",
    "undoubling",
    "transposition",
    "insertion",
    "sound",
    "join",
    "split",
)
"""Slips inside a text; ``layout`` is one of the whole text."""


class TypoRates(BaseModel):
    """Probability of each slip at a place where it is possible (a key, a pair of keys, a gap between keys).

    The defaults give 13% of queries of 22 keys at least one slip, in the range of 10 to 15% that Cucerzan & Brill 2004
    ("Spelling correction as an iterative process that exploits the collective knowledge of web users") report for web
    queries. The mix is the authors' reading of Damerau 1964 (80% of misspellings are one omission, insertion,
    substitution or transposition) with sound-alikes and spacing beside it; they are no measurement. Fit them where
    there are pairs: :func:`distill.labeling.queries.typo_fit.fit_typos`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbour: float = Field(0.0008, ge=0, le=0.1, description="a key beside the right one is hit")
    other: float = Field(0.0004, ge=0, le=0.1, description="any other letter of the alphabet is written")
    omission: float = Field(0.0014, ge=0, le=0.1, description="a key is left out")
    doubling: float = Field(0.0004, ge=0, le=0.1, description="a key is hit twice")
    undoubling: float = Field(0.01, ge=0, le=0.3, description="of a doubled letter one is left out")
    transposition: float = Field(0.0007, ge=0, le=0.1, description="two keys in a row change places")
    insertion: float = Field(0.0006, ge=0, le=0.1, description="a letter too many in a gap")
    sound: float = Field(0.002, ge=0, le=0.3, description="a run of letters is written as another that sounds alike")
    join: float = Field(0.004, ge=0, le=0.3, description="a space is left out")
    split: float = Field(0.0003, ge=0, le=0.1, description="a space too many inside a word")
    layout: float = Field(0.0005, ge=0, le=0.1, description="the whole text is typed in another keyboard layout")

    def scaled(self, factor: float) -> TypoRates:
        """The same mix, every rate times ``factor`` (held at its bound)."""
        bounds = {name: field.metadata[1].le for name, field in TypoRates.model_fields.items()}
        return TypoRates(**{name: min(rate * factor, bounds[name]) for name, rate in self.model_dump().items()})
