"""The slow mode of a causal student: it writes its trace, and labels in the light of it where it learned to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

if TYPE_CHECKING:
    from distill.students.causal.network import CausalNetwork
    from distill.students.network import Example


class Reasoned(NamedTuple):
    """What a student wrote and how it then scored the labels.

    Attributes:
        logits: ``[N, K]`` float32.
        traces: One a row; empty where the student wrote nothing.
    """

    logits: np.ndarray
    traces: list[str]


def reason(
    network: CausalNetwork,
    rows: pl.DataFrame,
    *,
    batch_size: int,
    mixed: Callable[[np.ndarray], np.ndarray] = lambda logits: logits,
) -> Reasoned:
    """Writes a trace for each row, greedily, and scores the labels.

    ``before_label``: the scores are those after the trace and the answer mark. A trace that does not end within
    ``trace_tokens`` is cut there, and the mark is put after it all the same. ``after_label`` and ``multitask``: the
    scores are those of the fast mode, and the trace goes with the most probable label (``after_label``) or stands by
    itself (``multitask``).

    Args:
        network: A student that learned from traces, in evaluation mode.
        rows: The task's inputs.
        batch_size: Sequences written at once.
        mixed: What the network's scores become before they are given, and before a trace is written for one of them.
    """
    use = network.config.traces
    if use == "before_label":
        prompts = network.prompt.read(rows, asked="trace_then_label")
        written = write(network, prompts, batch_size=batch_size, stop=network.prompt.answer_mark_ids)
        mark = network.prompt.answer_mark_ids
        asked = [[*prompt, *words, *mark] for prompt, words in zip(prompts, written, strict=True)]
        logits = mixed(score(network, [_example(ids) for ids in asked], batch_size=batch_size))
        return Reasoned(logits, _texts(network, written))
    examples = network.read(rows)
    logits = mixed(score(network, examples, batch_size=batch_size))
    if use == "after_label":
        codes = [network.prompt.code_ids[number] for number in logits.argmax(axis=1)]
        starts = [[*example["input_ids"], code] for example, code in zip(examples, codes, strict=True)]
    else:
        starts = network.prompt.read(rows, asked="trace")
    return Reasoned(logits, _texts(network, write(network, starts, batch_size=batch_size)))


def score(network: CausalNetwork, examples: Sequence[Example], *, batch_size: int) -> np.ndarray:
    """Scores the labels at the end of each example, ``[N, K]`` float32, those of like length together."""
    scores = np.zeros((len(examples), len(network.labels)), dtype=np.float32)
    device = next(network.model.parameters()).device
    for part in _by_length([network.size(example) for example in examples], batch_size):
        batch = network.collate([examples[number] for number in part])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        scores[part] = network.forward(network.model, batch).logits.float().cpu().numpy()
    return scores


def write(
    network: CausalNetwork,
    prompts: Sequence[list[int]],
    *,
    batch_size: int,
    stop: Sequence[int] = (),
    most: int | None = None,
) -> list[list[int]]:
    """Goes on from each prompt with the likeliest token, up to the end token, ``stop``, or ``most``.

    Args:
        network: The student.
        prompts: Token ids.
        batch_size: Prompts gone on from at once, padded on the left.
        stop: Token ids that end a continuation; they are not part of it.
        most: Tokens of a continuation; ``trace_tokens`` where not given.

    Returns:
        The new tokens of each, without what ended them.
    """
    model: Any = network.model
    longest_answer = most or network.config.trace_tokens
    pad, end = network.tokenizer.pad_token_id, network.tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=longest_answer + len(stop),
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=end,
    )
    criteria = StoppingCriteriaList([_EndsWith(stop)] if stop else [])
    written: list[list[int]] = [[] for _ in prompts]
    for part in _by_length([len(ids) for ids in prompts], batch_size):
        longest = max(len(prompts[number]) for number in part)
        missing = [longest - len(prompts[number]) for number in part]
        ids = [[pad] * count + prompts[number] for number, count in zip(part, missing, strict=True)]
        mask = [[0] * count + [1] * (longest - count) for count in missing]
        device = model.whole.device
        out = model.whole.generate(
            torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=settings,
            stopping_criteria=criteria,
        )
        for number, new in zip(part, out[:, longest:].tolist(), strict=True):
            written[number] = _until(new, end=int(end), stop=stop)[:longest_answer]
    return written


class _EndsWith(StoppingCriteria):
    """Ends each sequence by itself once its last tokens are these."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which sequences are done, ``[B]``."""
        tail = input_ids[:, -len(self._tokens) :]
        return (tail == torch.tensor(self._tokens, device=tail.device)).all(dim=1)


def _until(tokens: list[int], *, end: int, stop: Sequence[int]) -> list[int]:
    """Tokens before the first end token or the first ``stop``."""
    last = tokens.index(end) if end in tokens else len(tokens)
    if stop:
        places = range(last - len(stop) + 1)
        last = next((place for place in places if tokens[place : place + len(stop)] == list(stop)), last)
    return tokens[:last]


def _example(ids: list[int]) -> Example:
    return {"input_ids": ids, "label_at": [len(ids) - 1]}


def _texts(network: CausalNetwork, written: Sequence[list[int]]) -> list[str]:
    return [str(network.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in written]


def _by_length(sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
