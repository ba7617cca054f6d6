"""What an encoder learns from its teachers' reasoning, beside the label."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DrawTo = Literal["none", "trace", "input_with_trace"]
DrawBy = Literal["agreement", "contrast"]


class TracesConfig(BaseModel):
    """The ``traces`` of an encoder: a head for the cited clauses, and what its pooled state is drawn to.

    Only training rows whose teacher gave a trace or cited a clause take part; the others learn their label as ever.
    Nothing of it is read when the student predicts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clauses: float = Field(
        1.0, ge=0.0, description="weight of the head that learns which clauses of the guideline were cited; 0 for none"
    )
    fewest_citations: int = Field(
        5, ge=1, description="clauses cited in fewer training rows than this are too rare to be learned"
    )
    draw_to: DrawTo = Field(
        "none",
        description="what the pooled state is drawn to: trace, the trace's embedding by the untrained base; "
        "input_with_trace, the student's own reading of the row with its trace (about three times the time)",
    )
    draw_by: DrawBy = Field(
        "agreement",
        description="agreement: be like what it is drawn to (the cosine to a trace, the label that was read with one); "
        "contrast: be more like it than like the others of the batch",
    )
    weight: float = Field(0.5, ge=0.0, description="weight of the loss that draws the state; see draw_to")
    temperature: float = Field(0.1, gt=0.0, description="divides the cosines of draw_by: contrast")
    trace_tokens: int = Field(64, ge=8, description="tokens of a trace that are read, where draw_to reads any")

    @model_validator(mode="after")
    def _something_is_learned(self) -> TracesConfig:
        if self.clauses == 0.0 and (self.draw_to == "none" or self.weight == 0.0):
            raise ValueError("traces teach nothing with clauses: 0 and draw_to: none; give one, or leave traces out")
        return self
