"""Time and peak memory of the loss on sparse teacher distributions: `python benchmarks/sparse_loss.py`.

Forward and backward beside a plain loss, torch's, TRL's and Liger's where they can be imported (``pip install trl
liger-kernel``). Each runs in a process of its own, in turns. On a machine with CUDA the shapes are those of a model of
8 billion parameters and a vocabulary of 151,936; else they are reduced. Written to
``benchmarks/results/sparse_loss.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distill.students.logprobs.loss import IGNORED, TokenTargets, sparse_cross_entropy
from distill.students.logprobs.token_draws import counted

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "sparse_loss.md"
_ENTRIES = 12


class Shape(NamedTuple):
    """Of the loss to be measured."""

    tokens: int
    hidden: int
    vocabulary: int
    dtype: str
    repeats: int


FULL = Shape(8192, 4096, 151_936, "bfloat16", 10)
REDUCED = Shape(2048, 256, 32_768, "float32", 5)


def way_matmul(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> None:
    """The three products that no exact way can do without, in parts of 1,024 tokens, and nothing else."""
    total = torch.zeros_like(weight)
    for part in hidden.detach().split(1024):
        logits = part @ weight.detach().T
        logits @ weight.detach()
        total.addmm_(logits.T, part)


def way_plain_hard(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    return functional.cross_entropy((hidden @ weight.T).float(), labels)


def way_plain_soft(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    said = (hidden @ weight.T).float().log_softmax(-1)
    rows = torch.repeat_interleave(torch.arange(len(hidden)), soft.offsets.diff()).to(hidden.device)
    return -(soft.shares * said[rows, soft.ids]).sum() / len(hidden)


def way_torch_hard(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    found: Tensor = functional.linear_cross_entropy(hidden, weight, labels, options=options)
    return found


def way_trl_hard(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    # Defaults of TRL 1.16: 4,096 tokens by 8,192 words at a time.
    return -ChunkedLogProbFunction.apply(hidden, weight, None, labels, 1.0, 8192, None, 1.0, ())[0].mean()


def way_liger_hard(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    found: Tensor = LigerFusedLinearCrossEntropyLoss()(weight, hidden, labels)
    return found


def way_ours_hard(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    return sparse_cross_entropy(hidden, weight, hard_targets(labels)).loss


def way_ours_soft(hidden: Tensor, weight: Tensor, labels: Tensor, soft: TokenTargets) -> Tensor:
    return sparse_cross_entropy(hidden, weight, soft).loss


WAYS: dict[str, tuple[str, str, Callable[..., Tensor | None]]] = {
    "matmul": ("the three products alone", "", way_matmul),
    "plain_hard": ("plain, whole logits", "label", way_plain_hard),
    "torch_hard": ("torch linear_cross_entropy, in chunks", "label", way_torch_hard),
    "trl_hard": ("TRL ChunkedLogProbFunction", "label", way_trl_hard),
    "liger_hard": ("Liger fused linear cross-entropy", "label", way_liger_hard),
    "ours_hard": ("sparse_cross_entropy", "label", way_ours_hard),
    "plain_soft": ("plain, whole logits", "12 shares", way_plain_soft),
    "ours_soft": ("sparse_cross_entropy", "12 shares", way_ours_soft),
}


def hard_targets(labels: Tensor) -> TokenTargets:
    none, size = torch.zeros(0, dtype=torch.int64, device=labels.device), len(labels)
    zeros = torch.zeros(size, device=labels.device)
    return TokenTargets(torch.zeros(size + 1, dtype=torch.int64), none, none.float(), zeros, labels, zeros + 1)


def drawn_targets(shape: Shape, device: str) -> TokenTargets:
    """Twelve random tokens at every position."""
    ids = np.sort(np.random.default_rng(0).integers(0, shape.vocabulary, (shape.tokens, _ENTRIES)), axis=1)
    drawn, size = counted(ids), shape.tokens
    return TokenTargets(
        torch.from_numpy(np.concatenate([[0], np.cumsum(drawn.distinct)])),
        torch.from_numpy(drawn.ids),
        torch.from_numpy((drawn.counts / _ENTRIES).astype(np.float32)),
        torch.ones(size),
        torch.full((size,), IGNORED),
        torch.zeros(size),
    ).to(torch.device(device))


def measure(way: str, shape: Shape) -> dict[str, Any]:
    """Forward and backward in this process: seconds of each repeat, and the peak above the inputs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    dtype = getattr(torch, shape.dtype)
    hidden = torch.randn(shape.tokens, shape.hidden, device=device, dtype=dtype).requires_grad_()
    weight = (
        (torch.randn(shape.vocabulary, shape.hidden, device=device) * shape.hidden**-0.5).to(dtype).requires_grad_()
    )
    labels = torch.randint(0, shape.vocabulary, (shape.tokens,), device=device)
    soft = drawn_targets(shape, device)
    seconds, value = [], None
    reset_peak(device)
    before = held(device)
    for repeat in range(shape.repeats + 1):
        hidden.grad = weight.grad = None
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        loss = WAYS[way][2](hidden, weight, labels, soft)
        if loss is not None:
            loss.backward()
            value = float(loss.detach())
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat:  # the first warms up
            seconds.append(time.perf_counter() - began)
        del loss
    return {"seconds": seconds, "peak": highest(device) - before, "value": value}


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def held(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else status("VmRSS")


def highest(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def losses(shape: Shape, rounds: int) -> list[list[str]]:
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--measure", way, "--shape", ",".join(map(str, shape))]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            if done.returncode:
                found[way] = {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:90]}
                continue
            one = json.loads(done.stdout.strip().splitlines()[-1])
            kept = found.setdefault(way, {**one, "seconds": []})
            kept["seconds"] += one["seconds"]
    base = statistics.median(found["matmul"]["seconds"])
    lines = []
    for way, (name, target, _) in WAYS.items():
        one = found[way]
        if "failed" in one:
            lines.append([name, target, "not measured", "", "", one["failed"]])
            continue
        middle = statistics.median(one["seconds"])
        value = "" if one["value"] is None else f"{one['value']:.5f}"
        lines.append(
            [name, target, f"{middle * 1000:,.0f}", f"{middle / base:.2f}", f"{one['peak'] / 2**30:.2f}", value]
        )
    return lines


def report(lines: list[list[str]], shape: Shape) -> str:
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    head = ["way", "target", "ms", "× the products", "peak, GiB", "loss"]
    text = f"""# The loss on sparse teacher distributions

Written by `benchmarks/sparse_loss.py` on {date.today()}: {platform.machine()}, {on}, torch {torch.__version__},
{torch.get_num_threads()} thread(s). {shape.tokens:,} tokens, width {shape.hidden:,}, vocabulary {shape.vocabulary:,},
{shape.dtype}; the whole logits take {shape.tokens * shape.vocabulary / 2**28:.2f} GiB in float32, the gradient of
the embedding {shape.vocabulary * shape.hidden / 2**28:.2f} GiB.

Forward and backward, median of all repeats; each way in a process of its own, in turns. Peak: above the inputs, the two
gradients included.

"""
    text += "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines]) + "\n"
    if not torch.cuda.is_available():
        text += """
No figure here was taken on a GPU. On one, this script takes 8,192 tokens, width 4,096, vocabulary 151,936 and bfloat16.
Published on an H100 at that size, by others: TRL in chunks 167 ms and 13.1 GiB, Liger 192 ms and 6.1 GiB, the bare
products 42 ms.
"""
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="turns")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--shape", help="tokens,hidden,vocabulary,dtype,repeats")
    options = parser.parse_args()
    shape = FULL if torch.cuda.is_available() else REDUCED
    if options.shape:
        tokens, hidden, vocabulary, dtype, repeats = options.shape.split(",")
        shape = Shape(int(tokens), int(hidden), int(vocabulary), dtype, int(repeats))
    if options.measure:
        print(json.dumps(measure(options.measure, shape)))
        return
    options.out.write_text(report(losses(shape, options.rounds), shape), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
