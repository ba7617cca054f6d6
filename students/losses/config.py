"""The ``loss`` of a student's section: a name, or a mapping with the loss's settings.

``loss: gce`` and ``loss: {type: gce, q: 0.7}`` say the same. What each computes is in
:mod:`distill.students.losses.distributions`, :mod:`distill.students.losses.noise` and
:mod:`distill.students.losses.pairs`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

LossName = Literal[
    "soft_ce",
    "hard_ce",
    "forward_kl",
    "reverse_kl",
    "jsd",
    "gce",
    "sce",
    "elr",
    "forward_correction",
    "rps",
    "emd",
    "margin_mse",
    "listwise",
]

_TEMPERATURE = Field(
    1.0, gt=0.0, description="softens teacher and student alike; the loss is multiplied by its square (Hinton 2015)"
)


class SmallLoss(BaseModel):
    """Leaves the rows of greatest loss out of each batch: noisy labels are learned last (Han et al. 2018).

    The keep rate is co-teaching's, ``1 - drop * min(epoch / ramp_epochs, 1)``, with epochs from 0, but on one network:
    it chooses its own rows. Rows of source ``human`` are always kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop: float = Field(0.2, gt=0.0, lt=1.0, description="share of the weak rows left out; about the share mislabeled")
    ramp_epochs: int = Field(1, ge=1, description="epochs over which that share grows from 0")


class _Loss(BaseModel):
    """What every loss has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    small_loss: SmallLoss | None = Field(
        None, description="leave the weak rows of greatest loss out of every batch, more of them from epoch to epoch"
    )


class SoftCe(_Loss):
    """Cross-entropy to the distribution."""

    type: Literal["soft_ce"] = "soft_ce"
    temperature: float = _TEMPERATURE


class HardCe(_Loss):
    """Cross-entropy to the distribution's top label."""

    type: Literal["hard_ce"] = "hard_ce"


class ForwardKl(_Loss):
    """KL(teacher || student): covers all that the teacher holds possible."""

    type: Literal["forward_kl"] = "forward_kl"
    temperature: float = _TEMPERATURE


class ReverseKl(_Loss):
    """KL(student || teacher): may leave out what the teacher holds possible, never adds what it does not."""

    type: Literal["reverse_kl"] = "reverse_kl"
    temperature: float = _TEMPERATURE


class Jsd(_Loss):
    """Generalised Jensen-Shannon divergence, between the two KLs."""

    type: Literal["jsd"] = "jsd"
    beta: float = Field(0.5, gt=0.0, lt=1.0, description="the teacher's share of the mixture; near 0 forward KL")
    temperature: float = _TEMPERATURE


class Gce(_Loss):
    """Generalised cross-entropy: between cross-entropy (q near 0) and mean absolute error (q = 1)."""

    type: Literal["gce"] = "gce"
    q: float = Field(0.7, gt=0.0, le=1.0, description="near 0 cross-entropy, 1 mean absolute error")


class Sce(_Loss):
    """Symmetric cross-entropy: cross-entropy and its reverse."""

    type: Literal["sce"] = "sce"
    alpha: float = Field(1.0, ge=0.0, description="share of cross-entropy")
    beta: float = Field(1.0, ge=0.0, description="share of reverse cross-entropy, the part that tolerates noise")
    log_zero: float = Field(-4.0, lt=0.0, description="what log 0 counts as, and the least a log of a target may be")


class Elr(_Loss):
    """Early-learning regularisation: holds on to what was predicted before noise was learned by heart."""

    type: Literal["elr"] = "elr"
    strength: float = Field(3.0, ge=0.0, description="lambda: how hard earlier predictions hold")
    momentum: float = Field(0.7, ge=0.0, lt=1.0, description="beta: how slowly the memory of predictions moves")


class ForwardCorrection(_Loss):
    """Cross-entropy of what the source would say: the student's distribution through the source's confusions."""

    type: Literal["forward_correction"] = "forward_correction"
    matrices: dict[str, tuple[tuple[float, ...], ...]] | None = Field(
        None,
        description="for each source of train_on, a row a true label: how the source's label falls; where not given "
        "they are estimated from the rows of split train that have both gold and the source's label",
    )
    shrinkage: float = Field(
        10.0, ge=0.0, description="rows' worth of trust in a matrix with even confusions, for labels with few rows"
    )

    @field_validator("matrices")
    @classmethod
    def _rows_are_distributions(
        cls, value: dict[str, tuple[tuple[float, ...], ...]] | None
    ) -> dict[str, tuple[tuple[float, ...], ...]] | None:
        for source, matrix in (value or {}).items():
            for row in matrix:
                if len(row) != len(matrix) or min(row) < 0.0 or abs(sum(row) - 1.0) > 1e-3:
                    raise ValueError(
                        f"matrices.{source}: a matrix has a line a label, each line as many shares that sum to one, "
                        f"got {list(row)}"
                    )
        return value


class Rps(_Loss):
    """Ranked probability score of ordered labels."""

    type: Literal["rps"] = "rps"


class Emd(_Loss):
    """Earth mover's distance of ordered labels."""

    type: Literal["emd"] = "emd"
    power: Literal[1, 2] = Field(2, description="1 for the distance itself, 2 for its squared form")


class _PairLoss(_Loss):
    pointwise: float = Field(1.0, ge=0.0, description="share of soft cross-entropy added, which keeps probabilities")
    strength: float = Field(1.0, gt=0.0, description="share of the loss between rows of a query")
    rows_together: int = Field(8, ge=2, description="rows of a query that share a batch, at most")


class MarginMse(_PairLoss):
    """Squared error of grade differences between rows of a query."""

    type: Literal["margin_mse"] = "margin_mse"


class Listwise(_PairLoss):
    """Cross-entropy between the orders of a query's rows (ListNet)."""

    type: Literal["listwise"] = "listwise"
    scale: float = Field(0.25, gt=0.0, description="grade difference (of 0 to 1) that counts as e times as relevant")


AnyLoss = Annotated[
    SoftCe
    | HardCe
    | ForwardKl
    | ReverseKl
    | Jsd
    | Gce
    | Sce
    | Elr
    | ForwardCorrection
    | Rps
    | Emd
    | MarginMse
    | Listwise,
    Field(discriminator="type"),
]


def _named(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


LossConfig = Annotated[AnyLoss, BeforeValidator(_named, json_schema_input_type=LossName | AnyLoss)]
"""A loss's name or its settings; always the settings once it is read."""


class Pruning(BaseModel):
    """Confident learning: rows whose label others like them contradict are left out before training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["confident_learning"] = Field("confident_learning", description="how rows are found")
    folds: int = Field(5, ge=2, description="parts, cut by group; each is judged by a model of the others")
    most: float = Field(0.3, gt=0.0, lt=1.0, description="share of the weak rows that may go, at most")
