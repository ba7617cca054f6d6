"""Answers that are distributions: stated by a decision endpoint, read off log-probabilities, or counted."""

from __future__ import annotations

import math
from dataclasses import replace

from distill.labeling.answers.parsing import Answer, AnswerError, parse_answer
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Completion


def answer_of_probs(completion: Completion, *, task: Task) -> Answer:
    """The answer of a completion that carries probabilities: the most probable label, the first of equals.

    Args:
        completion: With ``probs``, by option. Options that it does not name have none.
        task: What was asked.

    Raises:
        AnswerError: An option is not a label, a probability is no number from 0, or they are all 0.
    """
    stated = completion.probs or {}
    if unknown := [option for option in stated if option not in task.labels]:
        raise AnswerError(f"probabilities: got the options {unknown}; expected {', '.join(task.labels)}")
    probs = [float(stated.get(label, 0.0)) for label in task.labels]
    total = math.fsum(probs)
    if not math.isfinite(total) or total <= 0 or min(probs) < 0:
        raise AnswerError(f"probabilities: got {dict(stated)}, which is no distribution over {', '.join(task.labels)}")
    probs = [value / total for value in probs]
    label = task.labels[probs.index(max(probs))]
    return Answer(label=label, probs=probs, probs_source=completion.probs_source)


def answer_of_samples(completion: Completion, *, task: Task, answer: AnswerFormat) -> Answer:
    """The answer of a completion that was sampled several times: each label's share of the samples that can be read.

    The label is the most frequent one, of equals the one that was written first; trace and clauses are those of the
    first sample that gave it. Where most samples cannot tell, the answer is that it cannot tell.

    Args:
        completion: With ``others``.
        task: What was asked.
        answer: What it was asked to write.

    Raises:
        AnswerError: No sample can be read; the first one's fault.
    """
    answers: list[Answer] = []
    fault: AnswerError | None = None
    for text in (completion.text, *completion.others):
        try:
            answers.append(parse_answer(text, task=task, answer=answer))
        except AnswerError as error:
            fault = fault or error
    if not answers:
        assert fault is not None
        raise fault
    counts = {label: sum(one.label == label for one in answers) for label in (one.label for one in answers)}
    winner = max(counts, key=lambda label: counts[label])  # dicts keep the order of the answers
    first = next(one for one in answers if one.label == winner)
    if winner is None:
        return first
    told = sum(count for label, count in counts.items() if label is not None)
    return replace(first, probs=[counts.get(label, 0) / told for label in task.labels], probs_source="samples")
