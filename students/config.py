"""The ``students`` section of a recipe: what learns, from what, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distill.students.causal.config import (
    TINY,
    LoraSection,
    Quantization,
    TeacherLogprobsSection,
    TinySection,
    TraceUse,
)
from distill.students.losses.config import LossConfig, Pruning, SoftCe
from distill.students.queries.config import CorrectorSection, SpansSection, SyntheticSection
from distill.students.traces.config import TracesConfig
from distill.students.training.trainer_options import check_trainer_options
from distill.students.wide_config import WideSection

HUMAN = "human"
"""In ``train_on``: gold labels of split ``train``."""
LABELS = "labels"
"""In ``train_on``: the merged labels of every split but ``test``, and of split ``audit`` only groups without gold."""

Head = Literal["nominal", "ordered"]
Precision = Literal["auto", "fp32", "bf16"]


class Checkpoint(BaseModel):
    """How often a training is saved, so that the same command goes on where a killed one stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_s: float | None = Field(None, gt=0.0, description="save when so many seconds have passed since the last time")
    every_steps: int | None = Field(None, ge=1, description="save after every so many steps")

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Checkpoint:
        if (self.every_s is None) == (self.every_steps is None):
            raise ValueError("checkpoint needs every_s or every_steps, one of them; or set checkpoint: null for none")
        return self


class AbstainConfig(BaseModel):
    """When a student may say that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    risk: float = Field(
        0.05, gt=0.0, lt=1.0, description="greatest share of wrong labels among the rows that are answered"
    )
    confidence: float = Field(
        0.9, gt=0.5, lt=1.0, description="how sure it is that the risk is kept to, over draws of the held-out queries"
    )


class _TrainingConfig(BaseModel):
    """What every trained student has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_on: tuple[str, ...] = Field(
        (LABELS,),
        min_length=1,
        description="where targets come from: human (gold of split train), labels (the merged labels of every split "
        "but test, and of audit only queries without gold), or the name of a teacher; of several, the first that has a "
        "target for a row gives it",
    )
    match_people: bool = Field(
        False,
        description="map the merged labels first so that they fit people's labels of split train (a temperature, or a "
        "scale and a bias for each label): for a teacher that is stricter than people, or too sure",
    )
    human_share: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="people's share of the target of a row that has a merged label too; 0.5 is the mean of both",
    )
    loss: LossConfig = Field(SoftCe(), description="what is minimised: a loss's name, or a mapping with its settings")
    head: Head = Field(
        "nominal", description="nominal gives every label a score of its own, ordered one score for all grades"
    )
    human_weight: float = Field(
        1.0, gt=0.0, description="how many times as hard as others a row pulls whose target is people's"
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of every target that is spread evenly over the labels"
    )
    confidence_weight: bool = Field(
        False, description="weigh every row by the confidence of its target as well as by its own weight"
    )
    n_eff_weight: bool = Field(
        False, description="weigh every row by the effective votes behind its target; people's like the best of them"
    )
    prune: Pruning | None = Field(
        None, description="leave rows out before training whose label others like them contradict; {} for the defaults"
    )
    weight_decay: float = Field(0.01, ge=0.0, description="decoupled (AdamW) decay of every matrix")
    warmup: float = Field(0.1, ge=0.0, lt=1.0, description="share of all steps in which the learning rate rises")
    validation: float = Field(
        0.0, ge=0.0, lt=0.9, description="share of the groups held out of training, to stop early and to calibrate on"
    )
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better validation loss; needs validation"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the whole training; as many as torch would take where not given"
    )
    abstain: AbstainConfig | None = Field(
        None,
        description="mark predictions that are not sure enough, such as {risk: 0.05, confidence: 0.9}; the threshold "
        "is found on the gold labels of split audit",
    )

    checkpoint: Checkpoint | None = Field(
        Checkpoint(every_s=300.0),
        description="how often to save the training; one that was killed goes on from there, to the same weights",
    )
    trainer: dict[str, Any] = Field(
        {},
        description="settings handed to Hugging Face's TrainingArguments: fsdp, gradient_accumulation_steps, optim, …",
    )

    @field_validator("trainer")
    @classmethod
    def _known_to_the_trainer(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_trainer_options(value)
        return value

    @field_validator("train_on", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("train_on")
    @classmethod
    def _sources_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"train_on repeats a source: {list(value)}; name each once")
        return value

    @model_validator(mode="after")
    def _people_have_labels_beside_them(self) -> _TrainingConfig:
        if self.match_people and LABELS not in self.train_on:
            raise ValueError(f"match_people maps merged labels, train_on has {list(self.train_on)}; add labels to it")
        if self.human_share < 1.0 and not {HUMAN, LABELS} <= set(self.train_on):
            raise ValueError(f"human_share needs train_on: [human, labels], got {list(self.train_on)}")
        return self

    @model_validator(mode="after")
    def _early_stopping_has_rows(self) -> _TrainingConfig:
        if self.early_stopping is not None and self.validation == 0.0:
            raise ValueError("early_stopping needs held-out groups, got validation: 0; set validation: 0.1")
        return self


class DcnConfig(_TrainingConfig):
    """A deep & cross network on hashed text features: the baseline rung."""

    type: Literal["dcn"] = "dcn"
    devices: Literal[1] = Field(1, description="always one process: the network is small")
    epochs: int = Field(12, ge=1, description="passes over the training rows")
    lr: float = Field(2e-3, gt=0.0, description="highest learning rate")
    batch_size: int = Field(32, ge=1, description="rows a step")
    weight_decay: float = Field(0.01, ge=0.0, description="decoupled (AdamW) decay of every matrix")
    buckets: int = Field(65536, ge=16, description="rows of the hashed embedding table")
    embedding_dim: int = Field(16, ge=1, description="width of an embedding")
    cross_layers: int = Field(2, ge=0, description="cross layers: each raises the degree of the interactions by one")
    hidden: tuple[int, ...] = Field((256, 128), description="widths of the deep part")
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="share of the deep part's units dropped in training")
    wide: WideSection | None = Field(
        WideSection(),
        description="a linear model on how query and listing match, mixed into the scores; null for none, and there is "
        "none where the task has one input or its answers are no single label",
    )


class EncoderConfig(_TrainingConfig):
    """A pretrained encoder that reads the query and the listing together."""

    type: Literal["encoder"] = "encoder"
    base: str = Field(
        "roberta-base",
        description="a Hugging Face id, a folder, or package:NAME/FOLDER for one inside an installed Python package",
    )
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    lr: float = Field(3e-5, gt=0.0, description="highest learning rate")
    batch_size: int = Field(32, ge=1, description="rows a step, over all devices")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="as many rows of like length a step as fill so many tokens; batch_size counts for nothing then",
    )
    max_length: int = Field(128, ge=16, description="tokens of a pair; the listing is cut first, the query never")
    match_tokens: bool = Field(
        True, description="put tokens before the listing that tell where in it the query's words were found"
    )
    dropout: float | None = Field(
        None, ge=0.0, lt=1.0, description="share of units dropped in training; the base's own where not given"
    )
    head_lr_factor: float = Field(
        1.0, gt=0.0, description="the new head learns at so many times lr; more than 1 where there are few steps"
    )
    wide: WideSection | None = Field(
        WideSection(),
        description="a linear model on how query and listing match, mixed into the scores; null for none, and there is "
        "none where the task has one input or its answers are no single label",
    )
    traces: TracesConfig | None = Field(
        None, description="what is learned from the teachers' reasoning beside the label; nothing where not given"
    )
    weights: dict[str, Annotated[float, Field(ge=0.0)]] | None = Field(
        None,
        description="of a query task: how much each part counts, such as {spelling: 1, brand: 0.5}; 1 where not given",
    )
    synthetic: SyntheticSection | None = Field(
        None, description="of a task with spelling: further rows that are made, such as {typos: 1.0}"
    )
    spans: SpansSection | None = Field(None, description="of a task with spans or a brand: how they are found")
    corrector: CorrectorSection | None = Field(
        None,
        description="of a task with spelling: choose among the corrections of a noisy channel over the words of the "
        "shop's titles, such as {titles: titles.csv}, instead of editing letters",
    )
    over_correction: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="of a task with spelling: greatest share of right queries that may be changed, 0.02 where not "
        "given; the threshold is found on held-out queries",
    )
    precision: Precision = Field("auto", description="auto takes bf16 where the processor or GPU computes in it")
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="processes (GPUs, where there are any); more than one starts torchrun; auto takes every GPU"
    )

    @model_validator(mode="after")
    def _batches_hold_a_row(self) -> EncoderConfig:
        if self.batch_tokens is not None and self.batch_tokens < self.max_length:
            raise ValueError(
                f"batch_tokens: {self.batch_tokens} does not hold a row of max_length {self.max_length}; raise it"
            )
        return self


class CausalConfig(_TrainingConfig):
    """A small GPT that answers with a label, or reasons and then answers; see docs/causal.md."""

    type: Literal["causal"] = "causal"
    base: str = Field(
        "Qwen/Qwen3-0.6B",
        description="a Hugging Face id, a folder, package:NAME/FOLDER for one inside an installed Python package, or "
        "tiny for one that is made on the spot",
    )
    tiny: TinySection = Field(default_factory=TinySection, description="how large a tiny base is")
    traces: TraceUse = Field(
        "none",
        description="none: learns labels alone; multitask: labels, and apart from them to write the teacher's trace "
        "(distilling step-by-step); before_label: also to write the trace and then the label; after_label: the label "
        "and then the trace",
    )
    trace_weight: float = Field(1.0, ge=0.0, description="weight of the written words' loss beside the label's")
    trace_tokens: int = Field(96, ge=8, description="tokens of a trace; longer ones are cut")
    answer_tokens: int | None = Field(
        None,
        ge=16,
        description="of a query task: tokens of an answer in JSON, 192 where not given; longer ones are cut",
    )
    teacher_logprobs: TeacherLogprobsSection | None = Field(
        None, description="also learn what a large language model with the same tokenizer expects at each answer token"
    )
    wide: WideSection | None = Field(
        None,
        description="a linear model on how query and listing match, mixed into the scores: worth it where rows are "
        "few, and not in the model that a server of language models serves; none where not given",
    )
    lora: LoraSection | None = Field(None, description="train adapters only; the whole model where not given")
    quantization: Quantization | None = Field(
        None, description="hold the frozen base in 8 or 4 bits while adapters are trained (QLoRA); needs lora"
    )
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    lr: float = Field(1e-4, gt=0.0, description="highest learning rate; a whole pretrained model wants 1e-5 to 5e-5")
    batch_size: int = Field(32, ge=1, description="rows a step, over all devices")
    max_length: int = Field(256, ge=64, description="tokens of a prompt; the listing is cut first, the query never")
    precision: Precision = Field("auto", description="auto takes bf16 where the processor or GPU computes in it")
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="processes (GPUs, where there are any); more than one starts torchrun; auto takes every GPU"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> CausalConfig:
        if self.quantization is not None and self.lora is None:
            raise ValueError(f"quantization: {self.quantization} freezes the base, got no lora; add lora: {{r: 16}}")
        if self.base == TINY and self.lora is not None:
            raise ValueError("base: tiny has random weights, which adapters cannot make up for; leave lora out")
        return self


StudentConfig = Annotated[DcnConfig | EncoderConfig | CausalConfig, Field(discriminator="type")]
"""One entry of the ``students`` section."""
