"""Stored teacher log-probabilities: the room they take, their bias, and what students learn from them.

``python benchmarks/sparse_logprobs.py``; the loss's time and memory are in ``sparse_loss.py``. Written to
``benchmarks/results/sparse_logprobs.md``:

- bytes and entries a token, on the distributions of a small GPT trained here on listings (crowdflower's from
  ``$DISTILL_DATA``, else the quickstart's), and on made-up ones over 151,936 tokens;
- how far the expected estimate is from the distribution, of the k most probable tokens and of draws, and how much an
  estimate varies;
- students of one size and three seeds, taught by labels, by whole distributions, by draws and by the most probable
  tokens: divergence from the teacher on texts that neither saw, with intervals over those texts.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from distill.students.causal.config import TinySection
from distill.students.causal.network import LanguageModel
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.logprobs.file import LogprobsHeader
from distill.students.logprobs.loss import IGNORED, TokenTargets
from distill.students.logprobs.store import LogprobsWriter, SparseLogprobs
from distill.students.logprobs.teacher import TeacherSequence, store_logprobs
from distill.students.logprobs.token_draws import TokenDraws, counted, draw_tokens, stratified_uniforms
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "sparse_logprobs.md"
VOCABULARY, LENGTH, TOP = 2048, 64, 12
SEEDS = (0, 1, 2)
_ESTIMATES = 200


class World(NamedTuple):
    """A trained teacher and texts, as token numbers, that it did not see."""

    source: str
    tokenizer: Any
    teacher: LanguageModel
    learn: list[list[int]]
    held_out: list[list[int]]


def texts() -> tuple[str, list[str]]:
    """Listings, in a fixed random order."""
    data = os.environ.get("DISTILL_DATA")
    if data:
        rows = pl.read_parquet(Path(data) / "crowdflower.parquet").unique("product_title", maintain_order=True)
        source, found = (
            "crowdflower",
            (rows["product_title"] + ". " + rows["product_description"].fill_null("")).to_list(),
        )
    else:
        rows = pl.read_parquet(ROOT / "recipes" / "quickstart" / "pairs.parquet").unique("title", maintain_order=True)
        columns = ("title", "attributes", "description")
        source, found = (
            "quickstart",
            rows.select(pl.concat_str(columns, separator=". ", ignore_nulls=True)).to_series().to_list(),
        )
    order = np.random.default_rng(0).permutation(len(found))
    return source, [found[place] for place in order]


def made_world(steps: int) -> World:
    """Trains the teacher on three fifths of the texts."""
    source, found = texts()
    cut = len(found) * 3 // 5
    tokenizer = tiny_tokenizer(found[:cut], vocabulary=VOCABULARY)
    end = int(tokenizer.eos_token_id)
    sequences = [[*ids, end][:LENGTH] for ids in tokenizer(found).input_ids if len(ids) >= 8]
    cut = len(sequences) * 3 // 5
    rest = len(sequences) * 9 // 10
    torch.manual_seed(0)
    teacher = LanguageModel(tiny_model(TinySection(hidden=128, layers=3, heads=4, vocabulary=VOCABULARY), tokenizer))
    fit(teacher, sequences[:cut], lambda batch: labels_of(batch), steps=steps, seed=0, lr=2e-3)
    return World(source, tokenizer, teacher, sequences[cut:rest][:800], sequences[rest:][:200])


def fit(
    model: LanguageModel,
    sequences: list[list[int]],
    targets_of: Callable[[list[int]], TokenTargets],
    *,
    steps: int,
    seed: int,
    lr: float = 3e-3,
    dense_teacher: LanguageModel | None = None,
) -> None:
    """AdamW, cosine decay, 16 sequences a step; ``targets_of`` gives what is learned of the sequences numbered."""
    fit.sequences = sequences  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.1)
    random, order = np.random.default_rng(seed), np.zeros(0, np.int64)
    model.train()
    for _ in range(steps):
        if len(order) < 16:
            order = random.permutation(len(sequences))
        batch, order = order[:16].tolist(), order[16:]
        ids, mask, at = laid_out([sequences[number] for number in batch])
        if dense_teacher is None:
            loss = model(ids, mask, at, targets=targets_of(batch)).loss / len(at)
        else:
            with torch.no_grad():
                probs = dense_teacher(ids, mask, at).logits.softmax(-1)
            loss = -(probs * model(ids, mask, at).logits.log_softmax(-1)).sum() / len(at)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def laid_out(sequences: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and mask ``[S, L]``, and the flattened positions that predict tokens 1 to the last."""
    longest = max(map(len, sequences))
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in sequences])
    mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in sequences])
    at = torch.tensor(
        [row * longest + place for row, tokens in enumerate(sequences) for place in range(len(tokens) - 1)]
    )
    return ids, mask, at


def labels_of(batch: list[int]) -> TokenTargets:
    """The texts' own next tokens."""
    labels = torch.tensor([token for number in batch for token in fit.sequences[number][1:]])  # type: ignore[attr-defined]
    return hard_targets(labels)


def hard_targets(labels: Tensor) -> TokenTargets:
    none, size = torch.zeros(0, dtype=torch.int64, device=labels.device), len(labels)
    zeros = torch.zeros(size, device=labels.device)
    return TokenTargets(torch.zeros(size + 1, dtype=torch.int64), none, none.float(), zeros, labels, zeros + 1)


def soft_targets(draws: TokenDraws, shares: np.ndarray) -> TokenTargets:
    size = len(draws.distinct)
    return TokenTargets(
        torch.from_numpy(np.concatenate([[0], np.cumsum(draws.distinct)])),
        torch.from_numpy(draws.ids),
        torch.from_numpy(shares.astype(np.float32)),
        torch.ones(size),
        torch.full((size,), IGNORED),
        torch.zeros(size),
    )


# ---------------------------------------------------------------------------------------------------- room and bias


@torch.no_grad()
def logits_on(world: World, sequences: list[list[int]]) -> Iterator[Tensor]:
    for first in range(0, len(sequences), 16):
        ids, mask, at = laid_out(sequences[first : first + 16])
        yield world.teacher(ids, mask, at).logits


def room(world: World, folder: Path) -> list[list[str]]:
    """Entries and bytes a token, files and all."""
    logits = torch.cat(list(logits_on(world, world.held_out)))
    cases = [(f"GPT on {world.source}, vocabulary {VOCABULARY:,}", logits)]
    for power in (1.4, 1.6, 2.0):
        made = torch.from_numpy(-power * np.log(np.arange(1, 151_937))).float().expand(256, -1)
        cases.append((f"rank^-{power}, vocabulary 151,936", made))
    lines = []
    for name, whole in cases:
        probs = whole.double().softmax(-1)
        entropy = float(-(probs * probs.clamp(min=1e-300).log()).sum(-1).mean())
        for draws in (32, 50):
            path = folder / f"{len(lines)}.logprobs"
            header = LogprobsHeader("bench", TokenizerFingerprint.of(world.tokenizer), whole.shape[1], draws)
            with LogprobsWriter(path, header) as writer:
                for first in range(0, len(whole), 63):
                    part = whole[first : first + 63]
                    writer.draw(f"row-{first:06d}", [0] * (len(part) + 1), start=1, logits=part)
            store = SparseLogprobs(path)
            each = store.entries / store.tokens
            lines.append([name, f"{entropy:.2f}", str(draws), f"{each:.1f}", f"{store.bytes_per_token:.1f}"])
    return lines


def bias(world: World, repeats: int) -> list[list[str]]:
    """Distance of the expected estimate from the distribution (half the sum of differences), and its spread."""
    logits = torch.cat(list(logits_on(world, world.held_out)))
    logits = logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))[:200]]
    probs = logits.double().softmax(-1).numpy()
    lines = []
    for k in (TOP, 50):
        kept = np.where(probs >= np.sort(probs, axis=1)[:, -k, None], probs, 0.0)
        estimate = kept / kept.sum(1, keepdims=True)
        off = np.abs(estimate - probs).sum(1) / 2
        spread = ((estimate - probs) ** 2).sum(1).mean()
        lines.append(
            [f"{k} most probable, renormalised", str(k), f"{off.mean():.4f}", "0 (all of it bias)", f"{spread:.5f}"]
        )
    for name, draws in (("32 stratified draws", 32), ("50 stratified draws", 50), ("50 independent draws", 50)):
        mean, spread, entries = np.zeros_like(probs), 0.0, 0.0
        for number in range(repeats):
            if "independent" in name:
                uniforms = np.sort(np.random.default_rng(number).random((len(probs), draws)), axis=1)
            else:
                uniforms = stratified_uniforms(str(number), seed=0, positions=len(probs), draws=draws)
            found = draw_tokens(logits, uniforms)
            estimate = np.zeros_like(probs)
            estimate[np.repeat(np.arange(len(probs)), found.distinct), found.ids] = found.counts / draws
            mean += estimate / repeats
            spread += ((estimate - probs) ** 2).sum(1).mean() / repeats
            entries += found.distinct.mean() / repeats
        off = np.abs(mean - probs).sum(1).mean() / 2
        # E|mean - p| of a normal error of the independent draws' size: what no bias at all would show at most.
        chance = (np.sqrt(2 / np.pi) * np.sqrt(probs * (1 - probs) / (repeats * draws))).sum(1).mean() / 2
        lines.append([name, f"{entries:.1f}", f"{off:.4f}", f"{chance:.4f}", f"{spread:.5f}"])
    return lines


# --------------------------------------------------------------------------------------------------------- students


def files(world: World, folder: Path) -> dict[str, Callable[[list[int]], TokenTargets]]:
    """What each way of keeping the teacher gives for the sequences of a batch."""
    fingerprint = TokenizerFingerprint.of(world.tokenizer)
    sequences = [TeacherSequence(str(number), tokens, 1) for number, tokens in enumerate(world.learn)]
    paths = {"32 stratified draws": folder / "strata.logprobs", "50 independent draws": folder / "independent.logprobs"}
    with LogprobsWriter(paths["32 stratified draws"], LogprobsHeader("bench", fingerprint, VOCABULARY)) as writer:
        store_logprobs(world.teacher, sequences, writer)
    top: list[tuple[TokenDraws, np.ndarray]] = []
    with LogprobsWriter(paths["50 independent draws"], LogprobsHeader("bench", fingerprint, VOCABULARY, 50)) as writer:
        random = np.random.default_rng(0)
        for key, tokens, _ in sequences:
            (logits,) = logits_on(world, [list(tokens)])
            drawn = draw_tokens(logits, np.sort(random.random((len(logits), 50)), axis=1))
            writer.add(key, tokens, start=1, draws=drawn)
            values, ids = logits.softmax(-1).topk(TOP)
            top.append((counted(ids.numpy()), (values / values.sum(1, keepdim=True)).numpy()))

    def stored(path: Path) -> Callable[[list[int]], TokenTargets]:
        store = SparseLogprobs(path)
        return lambda batch: TokenTargets.of([store.read(str(n), tokens=world.learn[n]) for n in batch])

    def most_probable(batch: list[int]) -> TokenTargets:
        found = [top[number] for number in batch]
        draws = TokenDraws(*(np.concatenate(part) for part in zip(*(item[0] for item in found), strict=True)))
        return soft_targets(draws, np.concatenate([item[1].reshape(-1) for item in found]))

    return {
        "labels alone": labels_of,
        "whole distributions": labels_of,
        **{name: stored(path) for name, path in paths.items()},
        f"{TOP} most probable, renormalised": most_probable,
    }


class Judged(NamedTuple):
    """Of each held-out sequence: divergence from the teacher, the student's highest probability and its hits."""

    divergence: np.ndarray
    confidence: np.ndarray
    right: np.ndarray


@torch.no_grad()
def judged(world: World, model: LanguageModel) -> Judged:
    divergence, confidence, right = [], [], []
    for tokens in world.held_out:
        ids, mask, at = laid_out([tokens])
        teacher, student = (each(ids, mask, at).logits.log_softmax(-1) for each in (world.teacher, model))
        divergence.append(float((teacher.exp() * (teacher - student)).sum(-1).mean()))
        confidence.append(float(student.exp().amax(-1).mean()))
        right.append(float((student.argmax(-1) == ids[0, 1:]).float().mean()))
    return Judged(np.array(divergence), np.array(confidence), np.array(right))


def students(world: World, folder: Path, steps: int) -> list[list[str]]:
    ways = files(world, folder)
    found: dict[str, list[Judged]] = {name: [] for name in ways}
    for seed in SEEDS:
        for name, targets_of in ways.items():
            torch.manual_seed(seed)
            section = TinySection(hidden=64, layers=2, heads=2, vocabulary=VOCABULARY)
            model = LanguageModel(tiny_model(section, world.tokenizer))
            whole = world.teacher if name == "whole distributions" else None
            fit(model, world.learn, targets_of, steps=steps, seed=seed, dense_teacher=whole)
            found[name].append(judged(world, model))
            print(f"seed {seed}: {name}: {found[name][-1].divergence.mean():.4f}", file=sys.stderr, flush=True)
    reference = np.mean([each.divergence for each in found["whole distributions"]], axis=0)
    lines = []
    for name, seeds in found.items():
        mean = np.mean([each.divergence for each in seeds], axis=0)
        low, high = interval(mean - reference)
        over = np.mean([each.confidence.mean() - each.right.mean() for each in seeds])
        spread = statistics.stdev(each.divergence.mean() for each in seeds)
        difference = (
            "" if name == "whole distributions" else f"{(mean - reference).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        )
        lines.append([name, f"{mean.mean():.4f}", f"{spread:.4f}", difference, f"{over:+.4f}"])
    return lines


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% by bootstrap over sequences."""
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(2000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


# ----------------------------------------------------------------------------------------------------------- the report


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines])


def report(source: str, *, rooms: list[list[str]], biases: list[list[str]], taught: list[list[str]]) -> str:
    return f"""# Stored teacher log-probabilities

Written by `benchmarks/sparse_logprobs.py` on {date.today()}: {platform.machine()}, {os.cpu_count()} cores, no GPU used,
torch {torch.__version__}.

## Room

With the file's header, keys and checksums; sequences of 63 tokens.

{table(["distributions", "entropy, nats", "draws", "entries a token", "bytes a token"], rooms)}

## Bias and spread

200 held-out positions of the GPT on {source}, {_ESTIMATES} estimates of each. Truth source: the teacher's whole
distribution. Off: half the sum of differences between the mean estimate and the distribution. Chance: what independent
draws without any bias would show.

{table(["kept", "entries", "off", "chance", "squared error of one estimate"], biases)}

## Students

Of one size, three seeds, the same steps and order. Truth source: the teacher's whole distributions on texts that
neither saw (the last column: those texts' own tokens); intervals of 95% by bootstrap over the texts.

{table(["taught by", "KL from the teacher", "sd of seeds", "beside whole distributions", "confidence - hits"], taught)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="of a student; the teacher has twice as many")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = made_world(2 * options.steps)
        print("the teacher is trained", file=sys.stderr, flush=True)
        rooms, biases = room(world, folder), bias(world, _ESTIMATES)
        print("room and bias are measured", file=sys.stderr, flush=True)
        taught = students(world, folder, options.steps)
    options.out.write_text(report(world.source, rooms=rooms, biases=biases, taught=taught), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
