"""What the heads' scores of a query encoder say: an answer to each part, and how probable it is by the network itself.

======= ============================================================ ================================================
head    answer                                                       probability before calibration
======= ============================================================ ================================================
edits   the most probable edit at every letter, where some letter    product over letters of what was chosen
        is wrong with more than the threshold; else the source
        with a corrector: its most probable reading, where that      the reading's
        is meant with more than the threshold; else the source
spans   the most probable mark of every piece or word that is in     product over the source's pieces or words
        a span with more than the threshold; at 0, the most
        probable mark of all
paths   the most probable label; where several may be right, those   the labels' sum
        at least ``threshold`` times as probable as the best
labels  those more probable than the threshold                       product over labels of what was decided
ranking texts at least as probable as the threshold, while more      the texts' sum
        probable than "none"; the best first
======= ============================================================ ================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distill.labeling.answers.locating import folded, plain_text
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task
from distill.students.network import Example
from distill.students.queries.asked_task import HeadKind, head_kind
from distill.students.queries.bio import OUTSIDE, Marked, marked_places, spans_of
from distill.students.queries.letters import Edits, edited, letters_of
from distill.students.queries.tree_softmax import NOTHING

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.queries.encoder import QueryNetwork
    from distill.students.queries.readings import Readings

DEFAULT_THRESHOLDS: dict[HeadKind, float] = {
    "edits": 0.5,
    "spans": 0.5,
    "paths": 0.5,
    "labels": 0.5,
    "ranking": 0.05,
    "text": 0.0,
}
_CANDIDATES = 5
_LEAST_SHARE = 0.01
_NO_READING = 1e-9
"""At most so much falls to a reading that is not there."""


class Answer(NamedTuple):
    """A part's answer.

    Attributes:
        value: ``str`` (a label or text), ``list[str]`` or ``list[SpanAnswer]``.
        probability: Of the answer, before calibration.
        score: What the threshold is compared with: of a spelling, how probable it is that some letter is wrong; with a
            corrector, that the best of its readings was meant.
        support: Probability of each label, text or span of a list.
        candidates: Labels or texts that are probable, the most probable first.
        probs: Distribution over the task's labels, where the answer is one.
        outcome: ``labeled``; of a student that writes also ``invalid`` and ``abstained``, which have no value.
    """

    value: Any
    probability: float
    score: float = 0.0
    support: list[float] | None = None
    candidates: list[tuple[str, float]] | None = None
    probs: list[float] | None = None
    outcome: str = "labeled"


def answers_of(
    network: QueryNetwork,
    name: str,
    scores: Tensor,
    *,
    examples: Sequence[Example],
    sources: Sequence[str],
    threshold: float,
) -> list[Answer]:
    """Answers to one part of a batch.

    Args:
        network: Whose scores.
        name: The part.
        scores: Of its head, float32 on the CPU.
        examples: The rows as the network read them.
        sources: The text that spans and corrections are of.
        threshold: Of the part.
    """
    single = network.parts[name]
    kind = head_kind(single)
    if kind == "edits" and network.vocabulary.readings is not None:
        return _chosen(network.vocabulary.readings, scores, sources, threshold)
    if kind == "edits":
        return _corrections(network, scores, examples, sources, threshold)
    if kind == "spans":
        return _spans(single, scores, examples, sources, threshold)
    if kind == "paths":
        probs = network.options(name).log_probs(scores).exp().double().numpy()
        return [_paths(single, line, threshold) for line in probs]
    if kind == "labels":
        return [_labels(single, line, threshold) for line in scores.double().sigmoid().numpy()]
    texts = network.vocabulary.texts[name]
    probs = scores.double().softmax(dim=-1).numpy()
    return [_ranking(single, line, texts, source, threshold) for line, source in zip(probs, sources, strict=True)]


def _corrections(
    network: QueryNetwork, scores: Tensor, examples: Sequence[Example], sources: Sequence[str], threshold: float
) -> list[Answer]:
    alphabet = network.vocabulary.alphabet
    assert alphabet is not None
    parts = scores.split([len(alphabet.replace), len(alphabet.append)], dim=-1)
    log_probs = [part.log_softmax(dim=-1) for part in parts]
    tops = [part.max(dim=-1) for part in log_probs]
    keep = (log_probs[0][..., 0] + log_probs[1][..., 0]).double().numpy()
    chosen = (tops[0].values + tops[1].values).double().numpy()
    at = [top.indices.numpy() for top in tops]
    found = []
    for row, (example, source) in enumerate(zip(examples, sources, strict=True)):
        length = len(example["letter_ids"])
        wrong = float(-np.expm1(keep[row, :length].min()))
        replace, append = (numbers[row, :length] for numbers in at)
        text = plain_text(source)
        if wrong > threshold and (replace.any() or append.any()):
            letters = letters_of(source).letters
            rest = [alphabet.replace[0]] * (len(letters) + 1 - length)
            edits = Edits(
                [*(alphabet.replace[number] for number in replace), *rest],
                [*(alphabet.append[number] for number in append), *rest],
            )
            corrected = edited(letters, edits)
            if corrected and folded(corrected) != folded(source):
                candidates = sorted([(corrected, wrong), (text, 1.0 - wrong)], key=lambda pair: -pair[1])
                found.append(Answer(corrected, float(np.exp(chosen[row, :length].sum())), wrong, candidates=candidates))
                continue
        found.append(Answer(text, float(np.exp(keep[row, :length].sum())), wrong, candidates=[(text, 1.0 - wrong)]))
    return found


def _chosen(readings: Readings, scores: Tensor, sources: Sequence[str], threshold: float) -> list[Answer]:
    """The best reading where it is probable enough itself: that the query is wrong does not say which was meant."""
    found = []
    for line, source in zip(scores.double().softmax(dim=-1).numpy(), sources, strict=True):
        best = 1 + int(line[1:].argmax())
        score = float(line[best]) if line[best] > _NO_READING else 0.0
        order = [int(place) for place in np.argsort(-line, kind="stable")[:_CANDIDATES]]
        candidates = [
            (readings.text(source, place), float(line[place])) for place in order if line[place] >= _LEAST_SHARE
        ]
        chosen = best if score > threshold else 0
        found.append(Answer(readings.text(source, chosen), float(line[chosen]), score, candidates=candidates))
    return found


def _spans(
    single: Task, scores: Tensor, examples: Sequence[Example], sources: Sequence[str], threshold: float
) -> list[Answer]:
    log_probs = scores.log_softmax(dim=-1).double().numpy()
    marks = log_probs.argmax(axis=-1)
    if threshold > 0:
        named = -np.expm1(log_probs[..., OUTSIDE]) > threshold
        marks = np.where(named, 1 + log_probs[..., OUTSIDE + 1 :].argmax(axis=-1), OUTSIDE)
    best = np.take_along_axis(log_probs, marks[..., None], axis=-1)[..., 0]
    link = single.brands.link if single.brands is not None else lambda text: None
    found = []
    for row, (example, source) in enumerate(zip(examples, sources, strict=True)):
        starts, ends = marked_places(example)
        own = np.array(starts) >= 0
        probability = float(np.exp(best[row, : len(starts)][own].sum()))
        if (marks[row, : len(starts)][own] == OUTSIDE).all():
            found.append(Answer([], probability, support=[]))
            continue
        spans = spans_of(marks[row, : len(starts)].tolist(), source, starts=starts, ends=ends)[: single.most]
        inside = -np.expm1(log_probs[row, : len(starts), OUTSIDE])
        support = [
            float(np.mean([inside[piece] for piece in range(len(starts)) if _shares(span, starts[piece], ends[piece])]))
            for span in spans
        ]
        answers = []
        for span in spans:
            text = source[span.start : span.end]
            answers.append(SpanAnswer(span.start, span.end, text, single.types[span.type], link(text)))
        found.append(Answer(answers, probability, support=support))
    return found


def _shares(span: Marked, start: int, end: int) -> bool:
    return start >= 0 and start < span.end and end > span.start


def _paths(single: Task, probs: np.ndarray, threshold: float) -> Answer:
    if not single.several:
        best = int(probs.argmax())
        return Answer(single.labels[best], float(probs[best]), probs=probs.tolist())
    options = (*single.labels, NOTHING)
    order = np.argsort(-probs, kind="stable")
    if options[order[0]] == NOTHING:
        return Answer([], float(probs[order[0]]), support=[], candidates=_likely(single.labels, probs[:-1]))
    kept = [place for place in order[: single.most + 1] if probs[place] >= threshold * probs[order[0]]]
    places = sorted(place for place in kept if options[place] != NOTHING)[: single.most]
    support = [float(probs[place]) for place in places]
    labels = [single.labels[place] for place in places]
    return Answer(labels, sum(support), support=support, candidates=_likely(single.labels, probs[:-1]))


def _labels(single: Task, probs: np.ndarray, threshold: float) -> Answer:
    order = [int(place) for place in np.argsort(-probs, kind="stable")[: single.most] if probs[place] > threshold]
    places = sorted(order)
    chosen = np.zeros(len(probs), dtype=bool)
    chosen[places] = True
    probability = float(np.where(chosen, probs, 1.0 - probs).prod())
    support = [float(probs[place]) for place in places]
    return Answer(
        [single.labels[place] for place in places],
        probability,
        support=support,
        candidates=_likely(single.labels, probs),
    )


def _ranking(single: Task, probs: np.ndarray, texts: Sequence[str], source: str, threshold: float) -> Answer:
    nothing = float(probs[-1])
    # One more than is wanted, since the source itself may be among them.
    count = min(single.most + 1, len(texts))
    order = np.argpartition(-probs[:-1], count - 1)[:count]
    order = order[np.lexsort((order, -probs[order]))]
    own = folded(source)
    kept = [
        place for place in order if probs[place] >= threshold and probs[place] > nothing and folded(texts[place]) != own
    ]
    kept = kept[: single.most]
    support = [float(probs[place]) for place in kept]
    probability = sum(support) if kept else max(nothing, 1.0 - float(probs[:-1].max()))
    candidates = [(texts[place], float(probs[place])) for place in order if probs[place] >= _LEAST_SHARE]
    return Answer([texts[place] for place in kept], probability, support=support, candidates=candidates)


def _likely(labels: Sequence[str], probs: np.ndarray) -> list[tuple[str, float]]:
    order = np.argsort(-probs, kind="stable")[:_CANDIDATES]
    return [(labels[place], float(probs[place])) for place in order if probs[place] >= _LEAST_SHARE]
