"""What a student of a query task learns from: rows, each with an answer to some of the parts.

A table has a column :data:`ANSWERS`, JSON by part, without the parts of which nothing is known:

======== =========================================================================================================
head     answer
======== =========================================================================================================
edits    ``[[text, share], …]``, corrections with the weight behind each, summing to one
spans    ``[[start, end, type, support], …]``, code points of the source and the type's place; ``[]`` for none
paths    ``[[label, share], …]``, summing to one; ``""`` says that none is right
labels   ``[[label, share], …]``, the probability of each by itself; ``[]`` for none
ranking  ``[[text, support], …]``, the best first; ``[]`` for none
======== =========================================================================================================
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.errors import StudentError
from distill.labeling.merging.merge_answers import merge_answers
from distill.labeling.task import Task
from distill.students.config import HUMAN, LABELS, EncoderConfig, StudentConfig
from distill.students.queries.asked_task import head_kind, part_name
from distill.students.queries.tree_softmax import NOTHING
from distill.students.training_set import TrainingSet, held_out, learnable, nothing_left

ANSWERS = "answers"
UNANSWERED = "unanswered"
"""Source of rows that are taken to have no spans, since nobody said anything."""
MOST_TEXTS = 10_000
"""Texts that a list is chosen from, the most frequent ones."""


class Answered(NamedTuple):
    """What a source says of one part of a row."""

    answer: list[Any]
    source: str
    confidence: float | None
    n_eff: float | None
    pull: float = 1.0


def part_targets(
    config: StudentConfig,
    rows: pl.DataFrame,
    *,
    labels: pl.DataFrame | None,
    votes: pl.DataFrame | None,
    task: Task,
    seed: int,
) -> TrainingSet:
    """Collects the answers of every row that no student is measured or calibrated on.

    As :func:`distill.students.training_set.training_set`, part by part: of several sources the first that has an answer
    to a part gives it. Tables have ``row_id``, ``group``, the task's inputs, :data:`ANSWERS`, ``target`` List[f64]: how
    hard the row pulls in each part (0 where nothing is known of it, mean 1 over the rows of which something is),
    ``weight`` and ``source``, that of its first part. With ``synthetic`` typos, further rows of which only the
    spelling is known.

    Raises:
        StudentError: A source has no table, or no row is left.
    """
    usable = learnable(rows)
    found: dict[str, dict[str, Answered]] = {}
    for source in config.train_on:
        for row_id, part, answered in _answers(source, usable, labels=labels, votes=votes, task=task):
            found.setdefault(row_id, {}).setdefault(part, answered)
    _take_for_none(found, usable, config=config, task=task)
    names = [part_name(single) for single in task.singles]
    kept = usable.filter(pl.col("row_id").is_in(list(found)) & (pl.col("weight") > 0))
    if kept.is_empty():
        raise StudentError(nothing_left(list(config.train_on), rows))
    lines = [_line(found[row_id], names, config) for row_id in kept["row_id"]]
    kept = kept.select("row_id", "group", *task.inputs, pl.col("weight") / pl.col("weight").mean())
    kept = kept.hstack(
        pl.DataFrame(lines, schema={ANSWERS: pl.String, "target": pl.List(pl.Float64), "source": pl.String})
    )
    kept = _even(kept, len(names))
    out = held_out(kept["group"], share=config.validation, seed=seed)
    train, validation = kept.filter(~out), kept.filter(out)
    if isinstance(config, EncoderConfig) and config.synthetic is not None:
        from distill.students.queries.swapped_names import with_names
        from distill.students.queries.synthetic_rows import with_typos

        misspelled = with_typos(train, config.synthetic, task=task, seed=seed)[train.height :]
        train = pl.concat([with_names(train, config.synthetic.names, task=task, seed=seed), misspelled])
    return TrainingSet(train, validation)


def gold_answers(rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Rows with ``gold``, with what people said as :data:`ANSWERS`; rows without any are left out."""
    known: dict[str, dict[str, list[Any]]] = {}
    for row_id, part, answered in _human(rows, task):
        known.setdefault(row_id, {})[part] = answered.answer
    answers = pl.DataFrame(
        [(row_id, json.dumps(parts, ensure_ascii=False)) for row_id, parts in known.items()],
        schema={"row_id": pl.String, ANSWERS: pl.String},
        orient="row",
    )
    return rows.join(answers, on="row_id", how="inner", maintain_order="left")


def spelling_pairs(table: pl.DataFrame, part: str, *, source: str) -> Iterator[tuple[str, list[str]]]:
    """Texts of a table with their corrections; texts of which nothing is known have none."""
    for text, answers in table.select(pl.col(source).fill_null(""), ANSWERS).iter_rows():
        yield text, [corrected for corrected, _ in json.loads(answers).get(part, ())]


def span_texts(table: pl.DataFrame, part: str, *, source: str) -> Iterator[tuple[str, list[Any]]]:
    """Texts of a table with their spans; texts of which nothing is known have none."""
    for text, answers in table.select(pl.col(source).fill_null(""), ANSWERS).iter_rows():
        yield text, json.loads(answers).get(part, [])


def expansion_vocabulary(table: pl.DataFrame, part: str) -> tuple[str, ...]:
    """Texts that were given in a part, the most frequent first, each by form once; at most :data:`MOST_TEXTS`."""
    counts: Counter[str] = Counter()
    written: dict[str, str] = {}
    for answers in table[ANSWERS]:
        for text, _ in json.loads(answers).get(part, ()):
            counts[folded(text)] += 1
            written.setdefault(folded(text), text)
    ranked = sorted(counts, key=lambda form: (-counts[form], form))
    return tuple(written[form] for form in ranked[:MOST_TEXTS])


def _line(parts: Mapping[str, Answered], names: Sequence[str], config: StudentConfig) -> dict[str, Any]:
    pulls = []
    for name in names:
        answered = parts.get(name)
        pull = 0.0 if answered is None else answered.pull
        if answered is not None:
            pull *= answered.confidence if config.confidence_weight and answered.confidence is not None else 1.0
            pull *= answered.n_eff if config.n_eff_weight and answered.n_eff is not None else 1.0
            pull *= config.human_weight if answered.source == HUMAN else 1.0
        pulls.append(pull)
    first = next(parts[name].source for name in names if name in parts)
    said = {name: parts[name].answer for name in names if name in parts}
    return {ANSWERS: json.dumps(said, ensure_ascii=False), "target": pulls, "source": first}


def _take_for_none(
    found: dict[str, dict[str, Answered]], rows: pl.DataFrame, *, config: StudentConfig, task: Task
) -> None:
    """Adds "none" for rows of which no source knows spans, where the section says how hard that pulls."""
    pull = config.spans.unanswered if isinstance(config, EncoderConfig) and config.spans is not None else 0.0
    if pull == 0:
        return
    for single in task.singles:
        if head_kind(single) == "spans":
            for row_id in rows["row_id"]:
                found.setdefault(row_id, {}).setdefault(part_name(single), Answered([], UNANSWERED, None, None, pull))


def _even(table: pl.DataFrame, parts: int) -> pl.DataFrame:
    """Scales how hard rows pull to mean 1 over the rows of which something is known, part by part."""
    columns = []
    for part in range(parts):
        pull = pl.col("target").list.get(part)
        mean = pull.filter(pull > 0).mean().fill_null(1.0)
        columns.append(pull / mean)
    return table.with_columns(target=pl.concat_list(columns))


def _answers(
    source: str, rows: pl.DataFrame, *, labels: pl.DataFrame | None, votes: pl.DataFrame | None, task: Task
) -> Iterator[tuple[str, str, Answered]]:
    if source == HUMAN:
        yield from _human(rows.filter(pl.col("split") == "train"), task)
        return
    if source == LABELS:
        if labels is None:
            raise StudentError("train_on: 'labels' needs merged labels, got none; run the aggregate stage first")
        merged = labels
    else:
        known = [] if votes is None else votes["teacher"].unique().sort().to_list()
        if votes is None or source not in known:
            named = ", ".join([HUMAN, LABELS, *known])
            raise StudentError(f"train_on: no votes of a teacher {source!r}; name one of: {named}")
        own = votes.filter(pl.col("teacher") == source)
        merged = merge_answers(own, task=task, method="majority").labels
    for single in task.singles:
        lines = merged if single.part is None else merged.filter(pl.col("part") == single.part)
        lines = lines.filter(pl.col(single.answer_column).is_not_null())
        for line in lines.join(rows.select("row_id"), on="row_id", how="semi").iter_rows(named=True):
            answer = _of_label(line, single)
            if answer is not None:
                known_of = (line.get("confidence"), line.get("n_eff"))
                yield line["row_id"], part_name(single), Answered(answer, source, *known_of)


def _human(rows: pl.DataFrame, task: Task) -> Iterator[tuple[str, str, Answered]]:
    for row_id, gold in rows.filter(pl.col("gold").is_not_null()).select("row_id", "gold").iter_rows():
        value = task.parse_gold(gold)
        for single in task.singles:
            own = value.get(single.part) if task.parts else value
            if own is None:
                continue
            column = single.answer_column
            line: dict[str, Any] = {column: own}
            if column == "spans":
                line = {column: [span._asdict() for span in own]}
            answer = _of_label(line, single)
            if answer is not None:
                yield str(row_id), part_name(single), Answered(answer, HUMAN, 1.0, None)


def _of_label(line: Mapping[str, Any], single: Task) -> list[Any] | None:
    """The answer of a line of labels, whose columns are those of ``ANSWER_LABEL_SCHEMA`` as far as they are known."""
    column, kind = single.answer_column, head_kind(single)
    given = line[column]
    support = line.get("support")
    candidates = [(one["text"], one["share"]) for one in line.get("candidates") or ()]
    if column == "label":
        shares = line.get("probs")
        pairs = [(given, 1.0)] if shares is None else list(zip(single.labels, shares, strict=True))
        return [[label, share] for label, share in pairs if share > 0]
    if column == "spans":
        place = {name: number for number, name in enumerate(single.types)}
        weights = support or [1.0] * len(given)
        return [
            [span["start"], span["end"], place[span["type"]], min(1.0, weight)]
            for span, weight in zip(given, weights, strict=True)
            if span["type"] in place
        ]
    if column == "text":
        return _to_one(candidates or [(given, 1.0)])
    if column == "texts":
        return [[text, weight] for text, weight in zip(given, support or [1.0] * len(given), strict=True)]
    if kind == "labels":
        pairs = candidates or list(zip(given, support or [1.0] * len(given), strict=True))
        return [[label, min(1.0, share)] for label, share in pairs if label in single.labels]
    if not given:
        return [[NOTHING, 1.0]]
    return _to_one(_leaves(candidates or [(label, 1.0) for label in given], single)) or None


def _leaves(pairs: Sequence[tuple[str, float]], single: Task) -> list[tuple[str, float]]:
    """Shares of labels; a branch shares evenly among the labels below it."""
    tree, found = single.tree, dict.fromkeys(single.labels, 0.0)
    for name, share in pairs:
        if name in found:
            found[name] += share
        elif tree is not None and name in tree.below:
            for place, part in tree.shares(name).items():
                found[single.labels[place]] += share * part
    return [(label, share) for label, share in found.items() if share > 0]


def _to_one(pairs: Sequence[tuple[str, float]]) -> list[list[Any]]:
    total = sum(share for _, share in pairs)
    return [[text, share / total] for text, share in pairs if share > 0] if total > 0 else []
