"""How far people agree with each other, and whether a model agrees with them as well as one of them does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.agreement import judge_agreement
from distill.eval.chance_corrected import Reliability, panel_reliability
from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.people.alternative_annotator import AlternativeAnnotatorTest, alternative_annotator_test
from distill.eval.scored import collapse_votes
from distill.labeling.errors import DataError
from distill.labeling.task import Task

EPSILON = 0.2
"""What a trained, paid annotator costs more than a model, as a share of rows (the paper's value for experts)."""
MOST_PAIRS = 20
"""Pairs of two people, and of a person and a model, that are compared: those with most rows in common. A crowd has
thousands."""


@dataclass(frozen=True)
class PeopleAndModels:
    """Labels of people beside labels of models.

    Attributes:
        votes: ``row_id``, ``teacher`` (who), ``label``; those whose ``outcome`` is not ``labeled`` are left out.
        rows: ``row_id`` and ``group``.
        people: Names of those that are people.
        candidates: Names of those that might stand in for one; may be empty.
        task: Labels, and whether they are grades.
    """

    votes: pl.DataFrame
    rows: pl.DataFrame
    people: tuple[str, ...]
    candidates: tuple[str, ...]
    task: Task


class JudgePair(Frozen):
    """Two judges on the rows that both labeled."""

    first: str
    second: str
    people: int = Field(description="how many of the two are people")
    rows: int
    agreement: Estimate
    kappa: Estimate = Field(description="Cohen's kappa, unweighted")


class Candidate(Frozen):
    """A model beside people."""

    name: str
    rows: int = Field(description="rows that it and a person labeled")
    with_people: Reliability = Field(description="agreement of all people and it together")
    test: AlternativeAnnotatorTest | None = Field(None, description="None with fewer than two people")


class PeopleAgreement(Frozen):
    """People beside each other and beside models."""

    people: list[str]
    rows: int = Field(description="rows that a person labeled")
    reliability: Reliability = Field(description="agreement of people with each other")
    candidates: list[Candidate]
    pairs: list[JudgePair] = Field(description="those with most rows in common")
    pairs_left_out: int
    epsilon: float
    notes: list[str] = Field(default_factory=list, description="what to beware of")


def people_agreement(
    judged: PeopleAndModels, *, config: EvalConfig | None = None, epsilon: float = EPSILON, seed: int = 0
) -> PeopleAgreement:
    """Compares people with each other and each candidate with them.

    Args:
        judged: Who said what, and who is a person.
        config: Resamples and level of the intervals.
        epsilon: What a person costs more than a model, see :mod:`distill.eval.people.alternative_annotator`.
        seed: Of the resamples.

    Raises:
        DataError: There is no person, a name is both, or a label is outside the set.
    """
    config = config or EvalConfig()
    if not judged.people:
        raise DataError("agreement: nobody is named as a person; say who is one")
    if both := sorted({*judged.people} & {*judged.candidates}):
        raise DataError(f"agreement: {both} stand among people and among models; rename one of them")
    said = collapse_votes(judged.votes).filter(pl.col("teacher").is_in([*judged.people, *judged.candidates]))
    of_people = said.filter(pl.col("teacher").is_in(list(judged.people)))
    touched = of_people.select("row_id").unique(maintain_order=True)
    said = said.join(touched, on="row_id", how="semi")

    def together(names: Sequence[str]) -> Reliability:
        part = said.filter(pl.col("teacher").is_in(list(names)))
        return panel_reliability(part, judged.rows, task=judged.task, config=config, seed=seed)

    candidates = []
    for name in judged.candidates:
        rows = said.filter(pl.col("teacher") == name).height
        if rows:
            test = _test(said, name, judged, epsilon)
            candidates.append(Candidate(name=name, rows=rows, with_people=together([*judged.people, name]), test=test))
    pairs, left_out = _pairs(said, judged, config, seed)
    silent = [name for name in judged.candidates if name not in {one.name for one in candidates}]
    notes = [f"{', '.join(silent)} labeled none of the rows that people labeled"] if silent else []
    return PeopleAgreement(
        people=list(judged.people),
        rows=len(touched),
        reliability=together(judged.people),
        candidates=candidates,
        pairs=pairs,
        pairs_left_out=left_out,
        epsilon=epsilon,
        notes=notes,
    )


def _test(said: pl.DataFrame, name: str, judged: PeopleAndModels, epsilon: float) -> AlternativeAnnotatorTest | None:
    there = set(said["teacher"].unique())
    annotators = [person for person in judged.people if person in there]
    if len(annotators) < 2:
        return None
    return alternative_annotator_test(
        said, candidate=name, annotators=annotators, task=judged.task, groups=judged.rows, epsilon=epsilon
    )


def _pairs(said: pl.DataFrame, judged: PeopleAndModels, config: EvalConfig, seed: int) -> tuple[list[JudgePair], int]:
    """Pairs of two people, and of a person and a candidate, by rows in common; and how many were left out."""
    names = [name for name in (*judged.people, *judged.candidates) if name in set(said["teacher"].unique())]
    if len(names) < 2:
        return [], 0
    wide = said.pivot("teacher", index="row_id", values="label", maintain_order=True)
    there = wide.select(pl.col(names).is_not_null()).to_numpy().astype(np.float64)
    shared = (there.T @ there).astype(int)
    people = set(judged.people)
    wanted = [
        (int(shared[one, other]), names[one], names[other])
        for one, other in combinations(range(len(names)), 2)
        if shared[one, other] and names[one] in people
    ]
    wanted.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    kept = [pair for alike in (True, False) for pair in [p for p in wanted if (p[2] in people) is alike][:MOST_PAIRS]]
    gold = pl.lit(None, dtype=pl.String).alias("gold")
    rows = judged.rows.select("row_id", "group", gold)
    found = []
    for _, first, second in kept:
        two = said.filter(pl.col("teacher").is_in([first, second]))
        (pair,) = judge_agreement(two, rows, task=judged.task, config=config, seed=seed)
        found.append(
            JudgePair(
                first=first,
                second=second,
                people=1 + (second in people),
                rows=pair.rows,
                agreement=pair.agreement,
                kappa=pair.kappa,
            )
        )
    return found, len(wanted) - len(kept)
