r"""Sets a trained query encoder right on rows that it has not learned from: thresholds, and confidences that are true.

The threshold of a spelling is found on held-out queries that are right. Their scores :math:`s_i` (how probable it is
that a letter is wrong, or that a corrector's best reading was meant) are sorted, and it is the
:math:`\lceil (n + 1)(1 - r) \rceil`-th smallest: of a new right query like those, the chance to be above it is at most
r, whatever the network (split conformal prediction: Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random
World"; Lei et al. 2018). With fewer than :math:`1/r - 1` of them nothing can be promised; the greatest score, or the
usual threshold where that is more, has to do, and :attr:`PartInfo.threshold_source` stays ``none``.

Thresholds of lists are those of the highest mean F1 over rows; that of spans the one of the highest F1 of all spans
together, each F1 taken as the mean with those of the thresholds beside it, since a few hundred rows have few brands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.task import Task
from distill.students.calibration import FEWEST_ROWS, fit_calibration
from distill.students.config import EncoderConfig
from distill.students.queries.asked_task import HeadKind, head_kind, part_name
from distill.students.queries.config import OVER_CORRECTION
from distill.students.queries.letters import changes
from distill.students.queries.part_answers import DEFAULT_THRESHOLDS, Answer
from distill.students.queries.part_targets import ANSWERS, gold_answers
from distill.students.queries.parts_info import PartInfo, two_classes
from distill.students.queries.tree_softmax import NOTHING

if TYPE_CHECKING:
    from distill.students.config import StudentConfig
    from distill.students.student import Student
    from distill.students.training_set import TrainingSet

_GRID: Mapping[str, np.ndarray] = {
    "paths": np.arange(5, 101, 5) / 100,
    "labels": np.arange(5, 100, 5) / 100,
    "spans": np.arange(5, 85, 5) / 100,
    "ranking": np.array([0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5]),
}


def first_infos(task: Task, facts: Mapping[str, int]) -> dict[str, PartInfo]:
    """The usual thresholds, and no calibration."""
    return {
        part_name(single): PartInfo(
            DEFAULT_THRESHOLDS[head_kind(single)], learned=facts.get(f"rows_{part_name(single)}", 0)
        )
        for single in task.singles
    }


def fit_parts(
    student: Student, config: StudentConfig, gold: pl.DataFrame | None, training: TrainingSet
) -> dict[str, PartInfo]:
    """Thresholds and calibration of each part, on audit rows where enough have gold, else on the validation rows.

    Args:
        student: As it was trained.
        config: Its section.
        gold: Rows of split ``audit`` with ``gold``.
        training: What it learned from and stopped by.
    """
    assert student.info.parts is not None
    audit = None if gold is None else gold_answers(gold, student.task)
    sources = [("audit gold", audit), ("validation", training.validation)]
    tables = [(source, table) for source, table in sources if table is not None and table.height]
    found = dict(student.info.parts)
    for source, table in tables:
        missing = {name for name, info in found.items() if not info.rows}
        if not missing:
            break
        truths = [json.loads(answers) for answers in table[ANSWERS]]
        known = {name: [number for number, truth in enumerate(truths) if name in truth] for name in missing}
        enough = {name: rows for name, rows in known.items() if len(rows) >= FEWEST_ROWS}
        tried = {name: _tried(student, name, found[name]) for name in enough}
        answers = student.part_answers(table, tried) if tried else {}
        for name, rows in enough.items():
            held = HeldOut(student, name, table[rows], [truths[number][name] for number in rows], source)
            by_threshold = [[own[number] for number in rows] for own in answers[name]]
            found[name] = _fit(held, found[name], dict(zip(tried[name], by_threshold, strict=True)), config)
    return found


class HeldOut(NamedTuple):
    """Rows that a part is set right on.

    Attributes:
        student: As it was trained.
        name: The part.
        rows: Rows of which it is known.
        truth: What is known, see :mod:`distill.students.queries.part_targets`.
        source: ``audit gold`` or ``validation``.
    """

    student: Student
    name: str
    rows: pl.DataFrame
    truth: list[Any]
    source: str

    @property
    def single(self) -> Task:
        """The part's task."""
        return next(one for one in self.student.task.singles if part_name(one) == self.name)


def _tried(student: Student, name: str, info: PartInfo) -> list[float]:
    """Thresholds to compare; of a spelling the one that lets every edit through, which gives the scores."""
    single = next(one for one in student.task.singles if part_name(one) == name)
    kind = head_kind(single)
    if student.info.type == "causal":
        return [info.threshold]
    if kind == "edits":
        return [0.0]
    grid = _GRID[kind].tolist() if kind in _GRID and (single.several or kind == "spans") else []
    return list(dict.fromkeys([info.threshold, *grid]))


def _fit(held: HeldOut, info: PartInfo, answers: Mapping[float, Sequence[Answer]], config: StudentConfig) -> PartInfo:
    kind = head_kind(held.single)
    if kind == "edits" and isinstance(config, EncoderConfig):
        info = _spelling_threshold(held, info, answers[0.0], wanted=config.over_correction or OVER_CORRECTION)
        own: Sequence[Answer] = held.student.part_answers(held.rows, {held.name: [info.threshold]})[held.name][0]
    else:
        scored = _scored(answers, held.truth, kind) if len(answers) > 1 else {}
        # Of a list of texts no held-out one may be in the vocabulary, and then no threshold is better than another.
        if scored and max(scored.values()) > 0:
            best = [at for at, score in scored.items() if score == max(scored.values())]
            at = min(best, key=lambda at: (abs(at - info.threshold), at))
            info = replace(info, threshold=at, threshold_source=held.source)
        own = answers[info.threshold]
    right = np.array([_right(answer, known, kind) for answer, known in zip(own, held.truth, strict=True)])
    calibration = fit_calibration(
        two_classes(np.array([answer.probability for answer in own])),
        np.stack([1.0 - right, right], axis=1),
        group=held.rows["group"].to_numpy(),
        source=held.source,
        weight=held.rows["weight"].to_numpy() if "weight" in held.rows.columns else None,
    )
    return replace(info, calibration=calibration, rows=len(own), right=float(right.mean()))


def _spelling_threshold(held: HeldOut, info: PartInfo, answers: Sequence[Answer], *, wanted: float) -> PartInfo:
    texts = held.rows[held.student.task.source].cast(pl.String).fill_null("")
    right = [not changes(text, _best(known)) for text, known in zip(texts, held.truth, strict=True)]
    scores = np.sort([answer.score for answer, kept in zip(answers, right, strict=True) if kept])
    threshold, shown = right_query_threshold(scores, rate=wanted, usual=info.threshold)
    changed = [
        answer.score > threshold and changes(text, answer.value)
        for answer, text, kept in zip(answers, texts, right, strict=True)
        if kept
    ]
    return replace(
        info,
        threshold=threshold,
        threshold_source=held.source if shown else "none",
        over_corrected=float(np.mean(changed)) if changed else None,
        right_queries=len(scores),
        wanted=wanted,
    )


def right_query_threshold(scores: np.ndarray, *, rate: float, usual: float) -> tuple[float, bool]:
    """The threshold that right queries pass at most so often, and whether there were enough of them to say so.

    Args:
        scores: ``[n]``, sorted.
        rate: r.
        usual: Where there are too few, the threshold is at least this.
    """
    rank = math.ceil((len(scores) + 1) * (1.0 - rate))
    if rank > len(scores):
        return max([usual, *(float(score) for score in scores[-1:])]), False
    return float(scores[rank - 1]), True


def _best(truth: Sequence[Any]) -> str:
    return str(max(truth, key=lambda pair: pair[1])[0]) if truth else ""


def _right(answer: Answer, truth: Sequence[Any], kind: HeadKind) -> float:
    """How far an answer is the truth, from 0 to 1."""
    if answer.value is None:
        return 0.0
    if kind in ("edits", "text"):
        return float(sum(share for text, share in truth if folded(text) == folded(answer.value)))
    if kind == "spans":
        known = {(start, end) for start, end, _, support in truth if support > 0.5}
        return float({(span.start, span.end) for span in answer.value} == known)
    if kind == "paths" and isinstance(answer.value, str):
        return float(sum(share for label, share in truth if label == answer.value))
    known_texts = _known(truth, kind)
    given = {folded(text) for text in answer.value}
    if kind == "ranking":
        return len(given & known_texts) / len(given) if given else float(not known_texts)
    return float(given == known_texts)


def _known(truth: Sequence[Any], kind: HeadKind) -> set[str]:
    """The truth as a set: of shares of one, those at least half as great as the greatest."""
    least = 0.0 if kind == "ranking" else 0.5
    if kind == "paths":
        least = 0.5 * max((share for _, share in truth), default=0.0)
    return {folded(text) for text, share in truth if share >= least and text != NOTHING}


def _scored(answers: Mapping[float, Sequence[Answer]], truth: Sequence[Any], kind: HeadKind) -> dict[float, float]:
    """How good the answers of each threshold are."""
    if kind != "spans":
        return {at: _mean_f1(given, truth, kind) for at, given in answers.items()}
    tried = sorted(answers)
    scores = [span_f1(answers[at], truth) for at in tried]
    near = [scores[max(0, place - 1) : place + 2] for place in range(len(tried))]
    return {at: float(np.mean(own)) for at, own in zip(tried, near, strict=True)}


def span_f1(answers: Sequence[Answer], truth: Sequence[Any]) -> float:
    """``2 * hits / (given + known)`` over the spans of all rows; 0 without any."""
    hits = total = 0
    for answer, known in zip(answers, truth, strict=True):
        wanted = {(start, end) for start, end, _, support in known if support > 0.5}
        given = {(span.start, span.end) for span in answer.value}
        hits, total = hits + len(given & wanted), total + len(given) + len(wanted)
    return 2 * hits / total if total else 0.0


def _mean_f1(answers: Sequence[Answer], truth: Sequence[Any], kind: HeadKind) -> float:
    scores = []
    for answer, known in zip(answers, truth, strict=True):
        given, wanted = {folded(text) for text in answer.value}, _known(known, kind)
        total = len(given) + len(wanted)
        scores.append(2 * len(given & wanted) / total if total else 1.0)
    return float(np.mean(scores)) if scores else 0.0
