"""Draws are unbiased; the file keeps them, resumes, and tells damage from a cut."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.students.logprobs.file import BLOCK_HEADER_BYTES, LogprobsHeader
from distill.students.logprobs.loss import TokenTargets, sparse_cross_entropy
from distill.students.logprobs.store import LogprobsWriter, SparseLogprobs
from distill.students.logprobs.token_draws import TokenDraws, counted, draw_tokens, stratified_uniforms
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint

ANY = TokenizerFingerprint(
    size=100, vocabulary="v", merges="m", segmentation="s", special_tokens="t", chat_template="c"
)


def header(**changes: object) -> LogprobsHeader:
    return LogprobsHeader(**{"teacher": "t", "tokenizer": ANY, "vocabulary": 100, "draws": 50, "seed": 3, **changes})  # type: ignore[arg-type]


def zipf(positions: int, vocabulary: int, *, seed: int = 0) -> torch.Tensor:
    """Log-probabilities that fall with the rank as language models' do, the ranks shuffled at every position."""
    random = np.random.default_rng(seed)
    ranks = np.argsort(random.random((positions, vocabulary)), axis=1) + 1
    return torch.from_numpy(-1.2 * np.log(ranks)).float()


def estimate(draws: TokenDraws, *, vocabulary: int, draws_each: int) -> np.ndarray:
    """``[n, V]``: count / N."""
    dense = np.zeros((len(draws.distinct), vocabulary))
    dense[np.repeat(np.arange(len(draws.distinct)), draws.distinct), draws.ids] = draws.counts / draws_each
    return dense


def fill(path: Path, *, rows: range, block: int = 3, **changes: object) -> None:
    """Writes sequences of 4 tokens told of, ``block`` of them a block."""
    with LogprobsWriter(path, header(**changes)) as writer:
        for row in rows:
            if f"row-{row}" not in writer:
                writer.draw(f"row-{row}", list(range(row, row + 7)), start=2, logits=zipf(4, 100, seed=row))
            if row % block == block - 1:
                writer.flush()


def test_counts_of_one_distribution_by_hand() -> None:
    """p = (.5, .3, .2), cumulated (.5, .8, 1): of .1 .3 .6 .7 .9 two lie below .5, two below .8, one below 1."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = draw_tokens(logits, np.array([[0.1, 0.3, 0.6, 0.7, 0.9]]))
    assert (found.distinct.tolist(), found.ids.tolist(), found.counts.tolist()) == ([3], [0, 1, 2], [2, 2, 1])


def test_temperature_flattens() -> None:
    """At temperature 2, p = (.8, .2) becomes (2, 1)/3: the numbers .6 and .7 part there."""
    logits = torch.tensor([[0.8, 0.2]]).log()
    assert draw_tokens(logits, np.array([[0.6, 0.7]]), temperature=2.0).counts.tolist() == [1, 1]
    assert draw_tokens(logits, np.array([[0.6, 0.7]])).counts.tolist() == [2]


def test_a_token_that_cannot_come_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    ends = np.array([[0.0, 0.5, np.nextafter(1.0, 0.0)]])
    assert draw_tokens(logits, ends).ids.tolist() == [1, 3]


def test_small_probabilities_are_not_rounded_away() -> None:
    """A token of probability 1e-9 behind one of nearly 1: in float32 the first alone would fill the whole interval."""
    logits = torch.tensor([[0.0, np.log(1e-9)]]).float()
    assert draw_tokens(logits, np.array([[0.5, 1 - 0.5e-9]])).ids.tolist() == [0, 1]


def test_every_share_is_unbiased_and_the_top_is_not() -> None:
    """The mean of M = 4,000 estimates of every one of 300 probabilities lies within 4.5 standard errors; the error of a
    mean of M×N independent draws, sqrt(p(1-p)/MN), bounds that of stratified ones. 4.5 is passed by chance with
    probability 300 × 7e-6 = 0.002, and the seed is fixed. Keeping the 12 most probable misses the tail's mass whole."""
    positions, draws, vocabulary = 4000, 50, 300
    logits = zipf(1, vocabulary)
    probs = logits.double().softmax(-1).numpy()[0]
    uniforms = stratified_uniforms("x", seed=1, positions=positions, draws=draws)
    found = draw_tokens(logits.expand(positions, -1), uniforms)
    mean = estimate(found, vocabulary=vocabulary, draws_each=draws).mean(axis=0)
    errors = np.sqrt(probs * (1 - probs) / (positions * draws))
    assert np.abs((mean - probs) / errors).max() < 4.5
    top = np.where(probs >= np.sort(probs)[-12], probs, 0.0)
    assert np.abs((top / top.sum() - probs) / errors).max() > 100


def test_strata_vary_less_than_independent_draws() -> None:
    """The variance of a share, summed over tokens, against the exact (1 - sum p²)/N of independent draws."""
    positions, draws, vocabulary = 2000, 50, 300
    logits = zipf(1, vocabulary)
    probs = logits.double().softmax(-1).numpy()[0]
    uniforms = stratified_uniforms("y", seed=1, positions=positions, draws=draws)
    found = draw_tokens(logits.expand(positions, -1), uniforms)
    shares = estimate(found, vocabulary=vocabulary, draws_each=draws)
    variance = ((shares - probs) ** 2).sum(axis=1).mean()
    assert variance < 0.75 * (1 - (probs**2).sum()) / draws


def test_expected_gradient_is_that_of_the_whole_distribution() -> None:
    """Mean gradient over M = 3,000 files' worth of draws: sum over logits of (estimate - p) · d/dW has a standard error
    that falls as 1/sqrt(M); the mean lies within 4.5 of them of the dense gradient, in each of 40 × 3 numbers."""
    copies, draws, vocabulary = 3000, 8, 40
    random = torch.Generator().manual_seed(5)
    hidden = torch.randn(1, 3, generator=random, dtype=torch.float64)
    embedding = torch.randn(vocabulary, 3, generator=random, dtype=torch.float64)
    probs = zipf(1, vocabulary, seed=2).double().softmax(-1)
    whole = embedding.clone().requires_grad_()
    (-(probs * (hidden @ whole.T).log_softmax(-1)).sum()).backward()
    uniforms = stratified_uniforms("z", seed=1, positions=copies, draws=draws)
    found = draw_tokens(probs.log().expand(copies, -1), uniforms)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(found.distinct)]))
    shares = torch.from_numpy(found.counts / draws)
    ones, labels = torch.ones(copies, dtype=torch.float64), torch.full((copies,), -100)
    targets = TokenTargets(offsets, torch.from_numpy(found.ids), shares, ones, labels, 0 * ones)
    sparse = embedding.clone().requires_grad_()
    sparse_cross_entropy(hidden.expand(copies, -1), sparse, targets, chunk_tokens=512).loss.backward()
    assert whole.grad is not None and sparse.grad is not None
    # d/dW_v = (softmax_v - share_v) h, and Var share_v <= p (1 - p) / N.
    errors = (probs[0] * (1 - probs[0]) / (copies * draws)).sqrt()[:, None] * hidden.abs()
    assert float(((sparse.grad - whole.grad) / errors).abs().max()) < 4.5


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(8))
    store = SparseLogprobs(path)
    assert (len(store), store.tokens, list(store.keys())) == (8, 32, [f"row-{row}" for row in range(8)])
    for row in range(8):
        uniforms = stratified_uniforms(f"row-{row}", seed=3, positions=4, draws=50)
        drawn = draw_tokens(zipf(4, 100, seed=row), uniforms)
        found = store.read(f"row-{row}", tokens=list(range(row, row + 7)))
        assert found.start == 2
        assert np.array_equal(np.diff(found.offsets), drawn.distinct)
        assert np.array_equal(found.ids, drawn.ids)
        np.testing.assert_array_equal(found.shares, (drawn.counts / 50).astype(np.float32))
    store.verify()
    assert store.torn_bytes == 0
    assert "row-8" not in store and "row-3" in store


def test_positions_are_read_at_random(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(5))
    store = SparseLogprobs(path)
    whole, part = store.read("row-4"), store.read("row-4", first=1, last=3)
    begin, end = whole.offsets[1], whole.offsets[3]
    assert part.start == 3 and part.offsets.tolist() == (whole.offsets[1:4] - begin).tolist()
    assert part.ids.tolist() == whole.ids[begin:end].tolist()
    assert len(store.read("row-4", first=4).ids) == 0


@pytest.mark.parametrize(
    ("vocabulary", "draws", "size"),
    # bytes that hold vocabulary × draws - 1: 255, 65,535, 7.6M, 13.1M, 26M, 2^32 × 300 (41 bits)
    [(256, 1, 1), (256, 256, 2), (151_936, 50, 3), (262_144, 50, 3), (262_144, 100, 4), (2**32, 300, 6)],
)
def test_an_entry_takes_as_few_bytes_as_hold_it(tmp_path: Path, vocabulary: int, draws: int, size: int) -> None:
    """The largest id, drawn at every draw, and the smallest come back from any vocabulary."""
    path = tmp_path / "t.logprobs"
    made = header(vocabulary=vocabulary, draws=draws)
    assert made.entry_bytes == size
    ids = np.array([[vocabulary - 1] * draws, [0] * draws])
    with LogprobsWriter(path, made) as writer:
        writer.add("a", [0, 1, 2], start=1, draws=counted(ids))
    found = SparseLogprobs(path).read("a")
    assert found.ids.tolist() == [vocabulary - 1, 0] and found.shares.tolist() == [1.0, 1.0]


def test_a_token_takes_about_forty_bytes(tmp_path: Path) -> None:
    """Probabilities that fall as rank^-1.6 over 151,936 tokens (entropy 2.7 nats) at the 32 draws of the default: 13
    distinct tokens of three bytes, one byte for their number, and a share of what a sequence takes beside (44 / 64)."""
    path = tmp_path / "t.logprobs"
    logits = torch.from_numpy(-1.6 * np.log(np.arange(1, 151_937))).float().expand(64, -1)
    with LogprobsWriter(path, LogprobsHeader("t", ANY, 151_936)) as writer:
        for row in range(3):
            writer.draw(f"row-{row}", range(65), start=1, logits=logits)
    store = SparseLogprobs(path)
    each = store.entries / store.tokens
    assert 12 < each < 14
    assert store.bytes_per_token == pytest.approx(3 * each + 1 + 44 / 64, abs=3.0)  # the file's header, over 192 tokens
    assert store.bytes_per_token < 45


def test_a_resumed_file_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    """Cut at every byte of the last block: the reader sees what is whole, and the writer makes the rest again."""
    whole = tmp_path / "whole.logprobs"
    fill(whole, rows=range(9))
    expected = whole.read_bytes()
    last_block = SparseLogprobs(whole)._blocks[-1].start
    for size in [last_block, last_block + 1, last_block + BLOCK_HEADER_BYTES, last_block + 200, len(expected) - 1]:
        path = tmp_path / f"cut-{size}.logprobs"
        path.write_bytes(expected[:size])
        store = SparseLogprobs(path)
        assert (len(store), store.torn_bytes) == (6, size - last_block)
        fill(path, rows=range(9))
        assert path.read_bytes() == expected


def test_a_power_cut_that_left_zeros_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(9))
    expected = path.read_bytes()
    path.write_bytes(expected[:-40] + bytes(40))
    fill(path, rows=range(9))
    assert path.read_bytes() == expected


_WRITES = """
from pathlib import Path
import numpy as np
from distill.students.logprobs.file import LogprobsHeader
from distill.students.logprobs.store import LogprobsWriter
from distill.students.logprobs.token_draws import counted
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint

def write(path, rows):
    header = LogprobsHeader("t", TokenizerFingerprint(100, "v", "m", "s", "t", "c"), 100)
    with LogprobsWriter(Path(path), header) as writer:
        for row in rows:
            if f"row-{row}" not in writer:
                writer.add(f"row-{row}", [1, 2, 3], start=1, draws=counted(np.full((2, 32), row % 100)))
            if row % 3 == 2:
                writer.flush()
"""


def test_kill_loses_at_most_the_last_block(tmp_path: Path) -> None:
    path, whole = tmp_path / "t.logprobs", tmp_path / "u.logprobs"
    written: dict[str, Callable[[Path, range], None]] = {}
    exec(_WRITES, written)
    script = f"{_WRITES}\nwrite({str(path)!r}, range(6))\nprint('six', flush=True)\nwrite({str(path)!r}, range(10**9))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"six\n"
        process.send_signal(signal.SIGKILL)
    found = len(SparseLogprobs(path))
    assert found >= 6 and found % 3 == 0
    for each in (path, whole):
        written["write"](each, range(found + 3))
    assert path.read_bytes() == whole.read_bytes()


def test_damage_is_found_and_placed(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(9))
    sound = path.read_bytes()
    second = SparseLogprobs(path)._blocks[1]
    path.write_bytes(sound[: second.end - 5] + bytes([sound[second.end - 5] ^ 1]) + sound[second.end - 4 :])
    store = SparseLogprobs(path)
    assert len(store.read("row-0").ids) > 0
    for act in (store.verify, lambda: store.read("row-4")):
        with pytest.raises(
            StudentError, match=f"block at byte {second.start:,} is damaged.*truncate -s {second.start}"
        ):
            act()
    path.write_bytes(sound[: second.start + 5] + b"\xff" + sound[second.start + 6 :])
    with pytest.raises(StudentError, match=f"block at byte {second.start:,} is damaged"):
        SparseLogprobs(path)
    path.write_bytes(sound[:30] + b"\xff" + sound[31:])
    with pytest.raises(StudentError, match="header is damaged"):
        SparseLogprobs(path)
    path.write_bytes(b"PAR1" + sound)
    with pytest.raises(StudentError, match="no file of teacher log-probabilities"):
        SparseLogprobs(path)
    with pytest.raises(StudentError, match=r"cannot be read \(No such file"):
        SparseLogprobs(tmp_path / "none")


def test_misuse_of_a_writer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(3))
    with pytest.raises(StudentError, match=r"draws \(50 there, 20 now\)"):
        LogprobsWriter(path, header(draws=20))
    with LogprobsWriter(path, header()) as writer:
        with pytest.raises(StudentError, match="another process is writing"):
            LogprobsWriter(path, header())
        with pytest.raises(StudentError, match="is there already"):
            writer.draw("row-1", range(7), start=2, logits=zipf(4, 100))
        with pytest.raises(StudentError, match="told of by nothing"):
            writer.draw("new", range(7), start=0, logits=zipf(4, 100))
        with pytest.raises(StudentError, match="positions 5 to 8 of 7 tokens"):
            writer.draw("new", range(7), start=5, logits=zipf(4, 100))
        with pytest.raises(StudentError, match="give the whole distribution, not its most probable"):
            writer.draw("new", range(7), start=2, logits=zipf(4, 20))
        with pytest.raises(StudentError, match="ids under 100, got 50 draws of ids up to 100"):
            writer.add("new", range(7), start=2, draws=counted(np.full((1, 50), 100)))
    with pytest.raises(StudentError, match="draws must be 1 to 65535, got 0"):
        header(draws=0)
    assert len(SparseLogprobs(path)) == 3


def test_other_tokens_or_another_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.logprobs"
    fill(path, rows=range(3))
    store = SparseLogprobs(path)
    # Behind the last stored position (2 + 4 = 6 tokens) the sequences may differ.
    store.read("row-1", tokens=[1, 2, 3, 4, 5, 6, 99])
    with pytest.raises(StudentError, match="other tokens than the student has"):
        store.read("row-1", tokens=[1, 2, 3, 4, 5, 7, 7])
    with pytest.raises(StudentError, match="no sequence 'row-9' among 3"):
        store.read("row-9")
    store.refuse_other_tokenizer(ANY, whose="students.small")
    other = TokenizerFingerprint(
        size=100, vocabulary="v", merges="other", segmentation="s", special_tokens="t", chat_template="other"
    )
    with pytest.raises(StudentError, match=r"students\.small .*merges, chat_template differ"):
        store.refuse_other_tokenizer(other, whose="students.small")
