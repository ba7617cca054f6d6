"""How a model behind an OpenAI-compatible server is asked a closed question."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distill.teachers.model_config import ModelTeacherConfig

Structured = Literal[
    "auto", "json_schema", "json_schema_unbounded", "structured_outputs", "guided_json", "json_object", "none"
]


class LaneConfig(ModelTeacherConfig):
    """Settings of the lane, for servers that somebody else runs and for those that are started for a run."""

    lane: Literal["auto", "decision", "logprobs", "json"] = Field(
        "auto",
        description="how a closed question is answered. decision: a decision endpoint gives the probabilities, nothing "
        "is written; logprobs: the probabilities of the labels as the answer, from the model itself; json: a written "
        "object. auto takes the first that the server has; traces, probs, clauses: true and samples_per_request only "
        "json can carry, so that asking for one of them means json",
    )
    probe: bool = Field(
        True,
        description="before the first row, ask the server a few words to find out which lanes it has and whether it "
        "keeps to the schema; false takes lane as given, auto as json",
    )
    structured: Structured = Field(
        "json_schema",
        description="how the server is held to the format; auto takes the first that it keeps to. For servers that "
        "know less: a schema without minimum, maximum and maxItems, any JSON object, nothing but the prompt; for vLLM "
        "also its own fields, structured_outputs, and guided_json before 0.12",
    )
    samples_per_request: int = Field(
        1, ge=1, le=128, description="answers drawn in one request (n), whose shares are the distribution"
    )
    most_options: int | None = Field(
        None,
        ge=2,
        description="more labels than this are asked level by level; by default as many as the lane's endpoint takes",
    )

    @property
    def needs_json(self) -> bool:
        """Whether something is asked for that only a written object carries."""
        return bool(
            self.traces or self.rationale_for or self.clauses or self.probs != "none" or self.samples_per_request > 1
        )

    @property
    def lanes(self) -> tuple[str, ...]:
        """Lanes that will do, the best first."""
        if self.lane != "auto":
            return (self.lane,)
        return ("json",) if self.needs_json else ("decision", "logprobs", "json")

    @model_validator(mode="after")
    def _lane_can_carry_it(self) -> LaneConfig:
        if self.lane in ("decision", "logprobs") and self.needs_json:
            raise ValueError(
                f"lane {self.lane} gives probabilities and nothing written; leave traces, probs, clauses: true, "
                "samples_per_request and batch out, or use lane: json"
            )
        if self.samples_per_request > 1 and self.temperature == 0:
            raise ValueError("samples_per_request: samples at temperature 0 are all alike; give temperature")
        if self.structured == "auto" and not self.probe:
            raise ValueError("structured: auto finds out by asking; leave probe at true, or name what the server knows")
        return self
