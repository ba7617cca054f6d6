"""Why judges disagree on a row: a slip, a wrong gold label, the guideline, one family's leaning, or the listing.

Every contested row gets a score from 0 to 1 for each cause, from evidence that can be read off the votes, and the cause
of the highest score where that is at least one half. The scores are rules of thumb with their reasons written out, not
probabilities: they sort rows for a person who decides, and a row whose evidence is thin stays ``unclear``.

*Voices* are families where there are two or more, since judges of one family are one opinion, and judges otherwise.

=================== ================================================================================================
cause               evidence
=================== ================================================================================================
gold_error          all voices agree with each other, are sure, and gold says something else
slip                one judge stands alone, and hardly ever gives this label where the others give theirs; its own
                    repeats differ
leaning             one voice stands alone, and often gives this label where the others give theirs
guideline           both sides cite the same clause, or clauses that collide; voices split evenly
missing_information judges say in their reasons that the listing does not tell; fields of the listing are empty
=================== ================================================================================================
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, get_args

import polars as pl

from distill.eval.scored import said_in_full
from distill.labeling.task import Task

RowCause = Literal["gold_error", "slip", "leaning", "guideline", "missing_information", "unclear"]
ROW_CAUSES: tuple[RowCause, ...] = get_args(RowCause)

DIAGNOSIS_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "group": pl.String(),
    "cause": pl.String(),
    "score": pl.Float64(),
    "evidence": pl.String(),
    "label": pl.String(),
    "gold": pl.String(),
    "odd_one": pl.String(),
    **{f"{cause}_score": pl.Float64() for cause in ROW_CAUSES if cause != "unclear"},
}
"""Columns of :func:`diagnose`: the cause with its score and evidence in words, the label that most voices give, gold,
the judge or family that stands alone, and the score of each cause."""

_SAID_MISSING = re.compile(
    r"\b(?:(?:does|do|did)(?:n['’]t| not) (?:say|state|mention|specify|list|tell|give|indicate)|not (?:stated|"
    r"mentioned|specified|given|listed|clear|indicated)|un(?:stated|specified|clear|known)|no (?:mention|information|"
    r"indication|details?)|missing|silent (?:on|about)|(?:cannot|can['’]t) (?:tell|confirm|verify))\b",
    re.IGNORECASE,
)
_RARE, _OFTEN = 0.05, 0.3
_LEAST_TO_LEAN = 10


@dataclass(frozen=True)
class _Row:
    """One contested row: its votes, the label of each voice, and what the listing holds."""

    row_id: str
    group: str
    gold: str | None
    votes: Sequence[Mapping[str, Any]]
    voices: Mapping[str, str]
    empty: Sequence[str]


@dataclass(frozen=True)
class _Found:
    score: float
    evidence: str
    odd_one: str | None = None


_NOTHING = _Found(0.0, "")


def diagnose(votes: pl.DataFrame, rows: pl.DataFrame, *, task: Task) -> pl.DataFrame:
    """Says of every contested row what is likely behind it.

    Contested is a row on which two judges differ, or all of two or more agree and gold says something else.

    Args:
        votes: The votes table; ``clauses``, ``trace``, ``probs``, ``family`` and repeats (``sample``) are used where
            they are there.
        rows: ``row_id``, ``group``, the task's inputs and, where known, ``gold``.
        task: What was asked.

    Returns:
        A line a contested row with the columns of :data:`DIAGNOSIS_SCHEMA`, highest score first.
    """
    contested = _contested(votes, rows, task)
    leanings = _Leanings.of(votes, rows)
    repeats = _repeats(votes)
    lines = [_line(row, leanings, repeats) for row in contested]
    return pl.DataFrame(lines, schema=DIAGNOSIS_SCHEMA).sort("score", "row_id", descending=[True, False])


def cause_counts(diagnosed: pl.DataFrame) -> dict[str, int]:
    """Rows by cause, all causes named."""
    found = Counter(diagnosed["cause"].to_list())
    return {cause: found[cause] for cause in ROW_CAUSES}


def _line(row: _Row, leanings: _Leanings, repeats: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    found: dict[str, _Found] = {
        "gold_error": _gold_error(row),
        "slip": _slip(row, leanings, repeats),
        "leaning": _leaning(row, leanings),
        "guideline": _guideline(row),
        "missing_information": _missing(row),
    }
    best = max(found, key=lambda cause: found[cause].score)
    top = found[best]
    sure = top.score >= 0.5
    return {
        "row_id": row.row_id,
        "group": row.group,
        "cause": best if sure else "unclear",
        "score": round(top.score, 3),
        "evidence": top.evidence if sure else "no cause has much to speak for it",
        "label": _commonest(row.voices.values()),
        "gold": row.gold,
        "odd_one": top.odd_one if sure else None,
        **{f"{cause}_score": round(one.score, 3) for cause, one in found.items()},
    }


def _gold_error(row: _Row) -> _Found:
    said = set(row.voices.values())
    if row.gold is None or len(said) != 1 or row.gold in said or len(row.votes) < 2:
        return _NOTHING
    (label,) = said
    sure = [float(max(vote["probs"])) for vote in row.votes if vote["probs"]]
    confidence = sum(sure) / len(sure) if sure else 0.8
    # Two voices that share a mistake are no rarity; each further one makes it less likely.
    score = confidence * (1.0 - 0.5 ** (len(row.voices) - 1)) ** 0.5
    told = f"all {len(row.voices)} voices say {label}, gold says {row.gold}"
    return _Found(score, told + (f"; mean confidence {confidence:.2f}" if sure else ""))


def _slip(row: _Row, leanings: _Leanings, repeats: Mapping[tuple[str, str], int]) -> _Found:
    alone = _stands_alone({str(vote["teacher"]): str(vote["label"]) for vote in row.votes})
    if alone is None:
        return _NOTHING
    name, own, theirs = alone
    rate, seen = leanings.rate(name, own, theirs)
    score = 0.9 * max(0.0, 1.0 - rate / (2 * _OFTEN)) if seen >= _LEAST_TO_LEAN else 0.5
    if rate > _RARE:
        score *= 0.6
    told = f"{name} alone says {own} where the others say {theirs}"
    told += f", as in {rate:.0%} of {seen} such rows" if seen >= _LEAST_TO_LEAN else ""
    if repeats.get((row.row_id, name), 1) > 1:
        score, told = min(1.0, score + 0.2), f"{told}; its own repeats differ"
    return _Found(score, told, name)


def _leaning(row: _Row, leanings: _Leanings) -> _Found:
    alone = _stands_alone(row.voices)
    if alone is None:
        return _NOTHING
    name, own, theirs = alone
    rate, seen = leanings.rate(name, own, theirs)
    if seen < _LEAST_TO_LEAN or rate <= _RARE:
        return _NOTHING
    told = f"{name} alone says {own}, as in {rate:.0%} of {seen} rows where the others say {theirs}"
    return _Found(min(1.0, 0.4 + 0.6 * rate / _OFTEN), told, name)


def _guideline(row: _Row) -> _Found:
    sides: dict[str, set[str]] = defaultdict(set)
    for vote in row.votes:
        sides[str(vote["label"])].update(vote["clauses"] or ())
    cited = [clauses for clauses in sides.values() if clauses]
    counts = sorted(Counter(row.voices.values()).values(), reverse=True)
    even = counts[1] / counts[0] if len(counts) > 1 else 0.0
    if len(cited) < 2:
        told = f"voices split {' to '.join(map(str, counts))}" if even else ""
        return _Found(0.55 * even, told)
    shared = set.intersection(*cited)
    if shared:
        return _Found(0.55 + 0.35 * even, f"both sides cite {', '.join(sorted(shared))}")
    told = " against ".join(f"{label}: {', '.join(sorted(clauses))}" for label, clauses in sides.items() if clauses)
    return _Found(0.45 + 0.35 * even, f"clauses collide, {told}")


def _missing(row: _Row) -> _Found:
    traced = [vote for vote in row.votes if vote["trace"]]
    saying = [vote for vote in traced if _SAID_MISSING.search(vote["trace"])]
    share = len(saying) / len(traced) if traced else 0.0
    # One judge's word alone is thinner than that of several.
    score = (0.55 if len(traced) == 1 else 0.75) * share + (0.2 if row.empty else 0.0) * (share > 0)
    told = f"{len(saying)} of {len(traced)} reasons say that the listing does not tell" if saying else ""
    if told and row.empty:
        told += f"; empty: {', '.join(row.empty)}"
    return _Found(score, told)


def _stands_alone(labels: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Who differs from two or more others that all agree: its name, its label, theirs."""
    counts = Counter(labels.values())
    if len(labels) < 3 or len(counts) != 2:
        return None
    (theirs, many), (own, few) = counts.most_common()
    if few != 1 or many < 2:
        return None
    return next(name for name, label in labels.items() if label == own), own, theirs


class _Leanings:
    """How often a judge or a family gives one label where all the others together give another."""

    def __init__(self, given: Mapping[str, Counter[tuple[str, str]]], faced: Mapping[str, Counter[str]]) -> None:
        self._given = given
        self._faced = faced

    @classmethod
    def of(cls, votes: pl.DataFrame, rows: pl.DataFrame) -> _Leanings:
        said = said_in_full(votes, rows)
        given: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        faced: dict[str, Counter[str]] = defaultdict(Counter)
        for _, votes_of_row in _by_row(said):
            judges = {vote["teacher"]: vote["label"] for vote in votes_of_row}
            voices = _voices(votes_of_row)
            # Without families the voices are the judges, who must not be counted twice.
            for labels in (judges,) if voices.keys() == judges.keys() else (judges, voices):
                for name, own in labels.items():
                    others = {label for other, label in labels.items() if other != name}
                    if len(others) == 1 and len(labels) > 2:
                        (theirs,) = others
                        faced[name][theirs] += 1
                        given[name][own, theirs] += own != theirs
        return cls(given, faced)

    def rate(self, name: str, own: str, theirs: str) -> tuple[float, int]:
        """Share of the rows where the others say ``theirs`` on which ``name`` says ``own``, and how many those are."""
        seen = self._faced[name][theirs] if name in self._faced else 0
        return (self._given[name][own, theirs] / seen if seen else 0.0), seen


def _contested(votes: pl.DataFrame, rows: pl.DataFrame, task: Task) -> list[_Row]:
    said = said_in_full(votes, rows)
    listing = [name for name in task.inputs[1:] if name in rows.columns]
    apart = said.group_by("row_id").agg(
        pl.col("label").n_unique(), pl.len(), pl.col("gold").first(), one=pl.first("label")
    )
    apart = apart.filter(
        (pl.col("len") > 1)
        & ((pl.col("label") > 1) | (pl.col("gold").is_not_null() & (pl.col("gold") != pl.col("one"))))
    )
    texts = rows.select("row_id", *(pl.col(name).cast(pl.String).fill_null("") for name in listing))
    chosen = said.join(apart.select("row_id"), on="row_id", how="semi").join(texts, on="row_id", how="left")
    found = []
    for _, lines in _by_row(chosen):
        first = lines[0]
        found.append(
            _Row(
                row_id=first["row_id"],
                group=first["group"],
                gold=first["gold"],
                votes=lines,
                voices=_voices(lines),
                empty=[name for name in listing if not first[name].strip()],
            )
        )
    return found


def _by_row(said: pl.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for row_id, votes in groupby(said.sort("row_id", "teacher").iter_rows(named=True), key=itemgetter("row_id")):
        yield row_id, list(votes)


def _voices(votes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Label of each family on a row, those that are split left out; of each judge where one family spoke."""
    of_family: dict[str, set[str]] = defaultdict(set)
    for vote in votes:
        of_family[vote["family"]].add(vote["label"])
    agreed = {family: next(iter(labels)) for family, labels in of_family.items() if len(labels) == 1}
    if len(of_family) > 1 and agreed:
        return agreed
    return {vote["teacher"]: vote["label"] for vote in votes}


def _repeats(votes: pl.DataFrame) -> dict[tuple[str, str], int]:
    """How many different labels a judge gave to a row over its repeats; only where more than one."""
    labeled = votes.filter(pl.col("outcome") == "labeled")
    counts = labeled.group_by("row_id", "teacher").agg(pl.col("label").n_unique()).filter(pl.col("label") > 1)
    return {(row_id, teacher): count for row_id, teacher, count in counts.iter_rows()}


def _commonest(labels: Any) -> str:
    return str(Counter(labels).most_common(1)[0][0])
