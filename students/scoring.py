"""Scores examples in batches of like length: the inner loop of every prediction, on torch or on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from distill.students.network import LABELS, Example, Network, Output

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Made = TypeVar("Made")

CPU_TOKENS = 1024
"""Padded tokens of a batch on a CPU. What a layer makes of more of them no longer fits a core's cache."""
GPU_TOKENS = 65_536
"""Padded tokens of a batch on a GPU, which wants many at once."""
MOST_ROWS = 1024


def like_lengths(sizes: Sequence[int], *, rows: int | None, tokens: int) -> list[np.ndarray]:
    """Sorts rows by length and cuts them into batches, so that little is padding.

    Args:
        sizes: Length of every row.
        rows: Rows of a batch; None for as many as come to ``tokens`` when all are padded to the longest of them.
        tokens: At most so many padded tokens where ``rows`` is None; a single row may have more.

    Returns:
        Row numbers of each batch; every row is in one of them.
    """
    order = np.argsort(sizes, kind="stable")
    if rows is not None:
        return [order[start : start + rows] for start in range(0, len(order), rows)]
    batches, start = [], 0
    for place, number in enumerate(order):
        # Lengths rise, so that this row is the longest so far.
        if place - start >= MOST_ROWS or (place - start + 1) * max(1, sizes[number]) > max(tokens, sizes[number]):
            batches.append(order[start:place])
            start = place
    return [*batches, order[start:]] if len(order) else []


def score(
    network: Network,
    examples: Sequence[Example],
    *,
    device: torch.device,
    rows: int | None,
    bf16: bool,
    threads: int | None,
) -> dict[str, np.ndarray]:
    """Scores examples: ``labels`` ``[N, K]`` and each of :attr:`Output.extra`, float32 in their order.

    Args:
        network: What scores; with ``batches_in_threads`` it is called for several batches at once, on a thread each,
            and with ``cpu_tokens`` batches on a CPU have so many tokens.
        examples: As the network read them.
        device: Where the network is.
        rows: As for :func:`like_lengths`.
        bf16: Whether to autocast.
        threads: Batches at once where the network takes several; all cores where not given.
    """
    scored = in_batches(network, examples, _scores, device=device, rows=rows, bf16=bf16, threads=threads)
    widths = {name: values.shape[1] for name, values in scored[0][1].items()} if scored else {LABELS: 0}
    scores = {name: np.zeros((len(examples), width), dtype=np.float32) for name, width in widths.items()}
    for part, of_batch in scored:
        for name, values in of_batch.items():
            scores[name][part] = values
    return scores


def in_batches(
    network: Network,
    examples: Sequence[Example],
    make: Callable[[Output, np.ndarray], Made],
    *,
    device: torch.device,
    rows: int | None,
    bf16: bool,
    threads: int | None,
) -> list[tuple[np.ndarray, Made]]:
    """Reads examples in batches of like length, and keeps what is made of each batch's output.

    Args:
        network: As for :func:`score`.
        examples: As the network read them.
        make: Called with a batch's output and the numbers of its examples, in inference mode and maybe on several
            threads at once.
        device: Where the network is.
        rows: As for :func:`like_lengths`.
        bf16: Whether to autocast.
        threads: As for :func:`score`.

    Returns:
        The numbers of each batch's examples and what was made of it; every example is in one of them.
    """
    import torch

    sizes = [network.size(example) for example in examples]
    tokens = GPU_TOKENS if device.type == "cuda" else getattr(network, "cpu_tokens", CPU_TOKENS)
    batches = like_lengths(sizes, rows=rows, tokens=tokens)

    def one(part: np.ndarray) -> Made:
        # Both are settings of a thread.
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            batch = network.collate([examples[number] for number in part])
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            return make(network.forward(network.model, moved), part)

    at_once = (threads or cores()) if getattr(network, "batches_in_threads", False) else 1
    if at_once > 1 and len(batches) > 1:
        with ThreadPoolExecutor(at_once) as pool:
            # The longest first, so that no thread is left with one of them at the end.
            made = list(pool.map(one, reversed(batches)))[::-1]
    else:
        made = [one(part) for part in batches]
    return list(zip(batches, made, strict=True))


def _scores(output: Output, part: np.ndarray) -> dict[str, np.ndarray]:
    said = {LABELS: output.logits, **output.extra}
    return {name: tensor.float().cpu().numpy() for name, tensor in said.items()}


def ahead(items: Iterable[Item], make: Callable[[Item], Made], *, threads: int | None) -> Iterator[Made]:
    """Makes each item on a thread of its own while the one before is in use.

    Tokenising and copying release Python's lock, and so does scoring: one goes on during the other.

    Args:
        items: Taken one further than was asked for, and no more.
        make: Called in the order of the items, never twice at once.
        threads: CPU threads allowed; with 1 nothing runs beside the caller.
    """
    if threads == 1:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            coming = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
