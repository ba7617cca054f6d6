"""Parts of the ``causal`` student's section: what is adapted, and the small GPT that is made where none is given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TraceUse = Literal["none", "multitask", "before_label", "after_label"]
"""What a causal student does with the teachers' reasoning traces; see :mod:`distill.students.causal.objective`."""

Quantization = Literal["8bit", "4bit"]

TINY = "tiny"
"""As ``base``: a small GPT with random weights, its vocabulary learned from the training rows."""


class LoraSection(BaseModel):
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) instead of a full training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of an adapter")
    alpha: float = Field(32.0, gt=0.0, description="adapters are scaled by alpha / r")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of an adapter's inputs dropped in training")
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="names of the modules that get one; all-linear is every matrix but the output's"
    )
    merge: bool = Field(
        True,
        description="save whole weights with the adapters added in; false saves the adapters alone, beside no base",
    )


class TinySection(BaseModel):
    """A Llama of a few million parameters with a byte-level vocabulary, both new. It knows no language at first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: int = Field(2048, ge=300, description="tokens at most: 256 bytes, three special ones, learned merges")
    hidden: int = Field(128, ge=8, description="width of a layer")
    layers: int = Field(4, ge=1, description="layers")
    heads: int = Field(
        2, ge=1, description="attention heads; vLLM wants hidden / heads to be 32, 64, 80, 96, 112 or 128"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TinySection:
        if self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ValueError(
                f"hidden / heads must be a whole even number, got {self.hidden} / {self.heads}; set heads: 2"
            )
        return self


class TeacherLogprobsSection(BaseModel):
    """What a large language model expects at each token of the answer, drawn from and kept in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="the file; see docs/teacher_logprobs.md")
    model: str | None = Field(
        None,
        description="a Hugging Face id or folder of a language model with the base's tokenizer: it reads, before the "
        "training, what the file lacks; without it the file is taken as it is",
    )
    weight: float = Field(1.0, gt=0.0, description="weight of the loss beside the label's")
    draws: int = Field(
        32, ge=1, le=65535, description="draws a token: more vary less and take more room; of what is made, not read"
    )
    temperature: float = Field(1.0, gt=0.0, description="flattens the teacher; of what is made, not read")
