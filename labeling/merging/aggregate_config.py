"""The ``aggregate`` section of a recipe: one kind of settings a method."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from distill.labeling.errors import DataError
from distill.labeling.rows.data_config import Split

GOLD_SPLITS: tuple[Split, ...] = ("train", "audit")
"""Splits whose gold calibrates merged labels; never ``test``, on which they are measured."""


class StudentVoteConfig(BaseModel):
    """A student that joins the vote; see :mod:`distill.labeling.merging.student_vote`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: int = Field(
        5, ge=2, le=50, description="parts of the groups; each row is predicted by a student of the other parts' rows"
    )
    name: str | None = Field(
        None,
        description="a student of the recipe, of type dcn, whose settings it has; a logistic regression on the same "
        "features where none is given, which is cheaper",
    )


class MergeSettings(BaseModel):
    """What every method takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clause_agreement: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="how much a vote is turned up where others cite the same clauses for the same label, and down "
        "where they cite them for another: its weight lies in 1 ± this; 0 does not look at clauses",
    )
    gold: bool | tuple[Literal["train", "audit"], ...] = Field(
        False,
        description="calibrate how sure merged labels are by people's labels of splits train and audit, or of the one "
        "named; labels stay. Off by default, so that what is learned from teachers alone holds nothing of people's",
    )
    student: StudentVoteConfig | None = Field(
        None, description="let a student vote too, trained on the labels merged without it; {} for the defaults"
    )

    checks: tuple[Literal["expansions"], ...] = Field(
        (),
        description="answers that fail a check on data.catalogue are left out of the vote: expansions that find "
        "nothing, or other products than the query and of other categories",
    )

    @property
    def gold_splits(self) -> tuple[Split, ...]:
        """Splits whose gold calibrates; none where it is off."""
        if isinstance(self.gold, bool):
            return GOLD_SPLITS if self.gold else ()
        return self.gold

    def of_votes_alone(self) -> Self:
        """The same without gold and without a student."""
        return self.model_copy(update={"gold": False, "student": None})


class MajorityConfig(MergeSettings):
    """One hard vote a teacher."""

    type: Literal["majority"] = Field("majority", description="one vote a teacher, families or not")


class FamilyVoteConfig(MergeSettings):
    """One soft share a family."""

    type: Literal["family_vote"] = Field("family_vote", description="one share a family of teachers, soft")


class WeightedFamilyVoteConfig(MergeSettings):
    """A share a family, by how well it agrees with the other families."""

    type: Literal["weighted_family_vote"] = Field(
        "weighted_family_vote", description="families weigh what their agreement with the other families says, soft"
    )
    prior_rows: float = Field(
        100.0,
        ge=0,
        description="rows of average agreement that are added to what a family shows, so that few rows weigh little",
    )
    least_lead: float = Field(
        0.5,
        ge=0,
        le=1,
        description="by how much of an average vote a label must lead to be the more probable; nearer ones count as "
        "tied, since weights are estimates",
    )


class EmSettings(MergeSettings):
    """What the methods that iterate take."""

    steps: int = Field(200, ge=1, description="the most EM steps")
    tolerance: float = Field(1e-5, gt=0, description="stops when a row's distribution moves by less on average")


class DawidSkeneConfig(EmSettings):
    """A confusion matrix a voter."""

    type: Literal["dawid_skene"] = Field(
        "dawid_skene", description="the confusions of each voter, learned from the votes: for crowds of people"
    )
    confusions: Literal["auto", "full", "one_coin", "by_distance"] = Field(
        "auto",
        description="full: a matrix a voter; one_coin: one accuracy a voter; by_distance: misses fade with the "
        "distance between grades; auto: by_distance for ordered labels, else full",
    )
    prior: float = Field(
        0.3,
        ge=0,
        description="votes of each label by which a voter's confusions are drawn to those of all voters; 0 for none",
    )
    temperature: float = Field(
        1.0, gt=0, description="divides the evidence of the votes: above 1 believes them less independent"
    )


class MaceConfig(EmSettings):
    """Voters that know, or spam."""

    type: Literal["mace"] = Field("mace", description="finds voters who do not try, by their habits (MACE)")
    restarts: int = Field(5, ge=0, description="random starts beside the one from the votes; the likeliest end is kept")
    trust_prior: float = Field(0.5, gt=0, description="votes added to knowing and to spamming (a Beta prior)")
    habit_prior: float = Field(
        1.0, gt=0, description="votes added to each label of a spammer's habit (a Dirichlet prior)"
    )


class GladConfig(MergeSettings):
    """Able voters and hard rows."""

    type: Literal["glad"] = Field("glad", description="an ability a voter and a difficulty a row (GLAD)")
    steps: int = Field(50, ge=1, description="the most EM steps")
    tolerance: float = Field(1e-4, gt=0, description="stops when a row's distribution moves by less on average")


class LabelModelConfig(EmSettings):
    """Rules that mostly abstain."""

    type: Literal["label_model"] = Field(
        "label_model", description="rules that abstain and that each know one label: the precision of each, learned"
    )
    prior_votes: float = Field(
        10.0, ge=0, description="votes by which the precision of a rule is drawn to the average rule"
    )
    balance: tuple[float, ...] | None = Field(
        None, description="shares of the labels, in order, where they are known; the votes' own, evened out, otherwise"
    )


class AutoConfig(MergeSettings):
    """By what the votes look like."""

    type: Literal["auto"] = Field(
        "auto",
        description="dawid_skene for a crowd whose voters err on their own, label_model for rules that each know one "
        "label, weighted_family_vote for everything else",
    )


def _with_type(value: Any) -> Any:
    """Settings without a method are those of the default one, as a recipe without the section has it."""
    return {"type": "family_vote", **value} if isinstance(value, dict) and "type" not in value else value


AggregateConfig = Annotated[
    MajorityConfig
    | FamilyVoteConfig
    | WeightedFamilyVoteConfig
    | DawidSkeneConfig
    | MaceConfig
    | GladConfig
    | LabelModelConfig
    | AutoConfig,
    Field(discriminator="type"),
    BeforeValidator(_with_type),
]
"""The ``aggregate`` section of a recipe; see :mod:`distill.labeling.merging.aggregate`."""

_ADAPTER: TypeAdapter[Any] = TypeAdapter(AggregateConfig)
AGGREGATE_METHODS: tuple[str, ...] = tuple(
    model.model_fields["type"].default
    for model in (
        MajorityConfig,
        FamilyVoteConfig,
        WeightedFamilyVoteConfig,
        DawidSkeneConfig,
        MaceConfig,
        GladConfig,
        LabelModelConfig,
        AutoConfig,
    )
)


def merge_settings(method: Any) -> Any:
    """Settings of a method from its name, from a mapping as in a recipe, or as they are.

    Raises:
        DataError: There is no such method or setting.
    """
    if isinstance(method, MergeSettings):
        return method
    given = {"type": method} if isinstance(method, str) else dict(method)
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        if given.get("type") not in AGGREGATE_METHODS:
            raise DataError(
                f"aggregate.type: no method {given.get('type')!r}; there are {', '.join(AGGREGATE_METHODS)}"
            ) from None
        said = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        raise DataError(f"aggregate: {said}") from None
