"""Makes a file of teacher log-probabilities: a language model reads sequences, and what it expects is drawn from.

The teacher and the student must number tokens alike. Only what is learned is stored: the answer's tokens, not the
prompt's. A server's ``prompt_logprobs`` give the most probable tokens alone, from which nothing unbiased can be drawn;
vLLM gives the whole distribution when it is started with ``max_logprobs=-1`` and asked for ``prompt_logprobs=-1``
(:func:`logprobs_of_vllm`), at a cost in Python objects that suits small vocabularies and checks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distill.labeling.errors import StudentError
from distill.students.logprobs.file import token_digest
from distill.students.logprobs.store import LogprobsWriter

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.causal.network import LanguageModel

_LEAST_MASS = 0.99
"""Of the probabilities that a server gave: below, it gave the most probable tokens only."""
_CHUNK_BYTES = 256 << 20
_BATCH_TOKENS = 8192
_SORTED_TOGETHER = 512


class TeacherSequence(NamedTuple):
    """A text for the teacher to read.

    Attributes:
        key: From :func:`sequence_key`, or any string that is used once.
        tokens: Its token numbers.
        start: Position of the first token that is to be learned; at least 1. All from there on are.
    """

    key: str
    tokens: Sequence[int]
    start: int


def sequence_key(row_id: str, tokens: Sequence[int] | np.ndarray) -> str:
    """Key of a sequence made from a row: the same row with another prompt or answer is another sequence."""
    return f"{row_id}#{token_digest(tokens):016x}"


def store_logprobs(
    teacher: LanguageModel,
    sequences: Iterable[TeacherSequence],
    writer: LogprobsWriter,
    *,
    batch_tokens: int = _BATCH_TOKENS,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Lets a teacher read sequences and appends what it expects at every position from ``start`` on.

    The logits of a batch are never there at once: the output layer runs over a few hundred positions at a time.

    Args:
        teacher: Wraps a Hugging Face causal language model; runs where its parameters are, in their type.
        sequences: Those that the writer has already are passed over, so the same call goes on after a kill.
        writer: Where they go.
        batch_tokens: Tokens read at once, padding included.
        on_progress: Called with the number of sequences written so far, after every batch.

    Returns:
        Sequences written.

    Raises:
        StudentError: A sequence does not fit its start, or the teacher's vocabulary is smaller than the header's.
    """
    import torch

    device = next(teacher.parameters()).device
    written, was_training = 0, teacher.training
    teacher.eval()
    try:
        with torch.inference_mode():
            missing = (item for item in sequences if item.key not in writer)
            for batch in _batches(missing, most=batch_tokens):
                _store_batch(teacher, batch, writer, device)
                written += len(batch)
                if on_progress is not None:
                    on_progress(written)
    finally:
        teacher.train(was_training)
    return written


def logprobs_of_vllm(prompt_logprobs: Any, *, start: int, vocabulary: int) -> Tensor:
    """Log-probabilities ``[n, V]`` of the tokens from ``start`` on, for :meth:`LogprobsWriter.draw`.

    Args:
        prompt_logprobs: Of a ``RequestOutput``: for each token of the prompt a mapping from token number to an object
            with ``logprob``, or vLLM's ``FlatLogprobs`` of the same.
        start: Position of the first token to be learned; at least 1.
        vocabulary: Token numbers go from 0 to ``vocabulary - 1``; others are left out.

    Raises:
        StudentError: The distributions are cut to their most probable tokens, which would bias the student.
    """
    import torch

    length = len(prompt_logprobs)
    dense = torch.full((length - start, vocabulary), -torch.inf)
    for row, position in enumerate(range(start, length)):
        ids, values = _at(prompt_logprobs, position)
        known = ids < vocabulary
        dense[row, ids[known]] = values[known]
    mass = dense.double().exp().sum(dim=-1)
    if float(mass.min()) < _LEAST_MASS:
        raise StudentError(
            f"vLLM: the log-probabilities at a position add up to {float(mass.min()):.3f}: the most probable tokens "
            "alone make a student too sure; start it with max_logprobs=-1 and ask for prompt_logprobs=-1, or let a "
            "local teacher read the texts (store_logprobs)"
        )
    return dense


def _at(prompt_logprobs: Any, position: int) -> tuple[Tensor, Tensor]:
    import torch

    if hasattr(prompt_logprobs, "start_indices"):
        place = slice(prompt_logprobs.start_indices[position], prompt_logprobs.end_indices[position])
        return torch.tensor(prompt_logprobs.token_ids[place]), torch.tensor(prompt_logprobs.logprobs[place])
    found = prompt_logprobs[position]
    return torch.tensor(list(found)), torch.tensor([float(value.logprob) for value in found.values()])


def _batches(sequences: Iterator[TeacherSequence], *, most: int) -> Iterator[list[TeacherSequence]]:
    """Sequences of like length together, taken from stretches so that little waits and a kill loses little."""
    while stretch := list(itertools.islice(sequences, _SORTED_TOGETHER)):
        stretch.sort(key=lambda item: len(item.tokens))
        batch: list[TeacherSequence] = []
        for item in stretch:
            if batch and (len(batch) + 1) * len(item.tokens) > most:
                yield batch
                batch = []
            batch.append(item)
        yield batch


def _store_batch(teacher: LanguageModel, batch: Sequence[TeacherSequence], writer: LogprobsWriter, device: Any) -> None:
    import torch

    for item in batch:
        if not 1 <= item.start < len(item.tokens):
            raise StudentError(
                f"{writer.path}: sequence {item.key!r}: nothing to learn from position {item.start} of "
                f"{len(item.tokens)} tokens; start at the answer's first token"
            )
    longest = max(len(item.tokens) for item in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        ids[row, : len(item.tokens)] = torch.tensor(item.tokens)
        mask[row, : len(item.tokens)] = 1
    hidden = teacher(ids.to(device), mask.to(device))
    chunk = max(1, _CHUNK_BYTES // (8 * writer.header.vocabulary))
    for row, item in enumerate(batch):
        # What is expected at a position is said by the state before it; the last state expects what is not there.
        states = hidden[row, item.start - 1 : len(item.tokens) - 1]
        writer.draw_in_parts(
            item.key,
            item.tokens,
            start=item.start,
            parts=(teacher.scores(states[first : first + chunk]) for first in range(0, len(states), chunk)),
        )
