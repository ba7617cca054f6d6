"""Teacher log-probabilities on disk, a few drawn tokens at every position: written once, read at random.

:class:`LogprobsWriter` appends, and goes on where it was killed; :class:`SparseLogprobs` reads by key and position
through a memory map. What is drawn and why it is unbiased: :mod:`distill.students.logprobs.token_draws`. The bytes:
:mod:`distill.students.logprobs.file`. About 12 distinct tokens and 40 bytes a token for ordinary language models.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distill.labeling.errors import StudentError
from distill.students.logprobs.file import (
    SEQUENCE,
    Block,
    LogprobsHeader,
    StoredSequence,
    damaged,
    key_hash,
    pack_block,
    read_header,
    scan_blocks,
    token_digest,
    unpack_entries,
)
from distill.students.logprobs.token_draws import TokenDraws, draw_tokens, stratified_uniforms
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_TOKENS = 16384
"""Positions a block, about 0.6 MB: what a kill loses at most, and what is checked together."""


class TokenDistributions(NamedTuple):
    """Estimates of a teacher's distributions at consecutive positions of a sequence.

    Attributes:
        start: Position in the sequence of the first token that is told of; what is told at position ``p`` is the
            distribution of token ``p`` given the tokens before it.
        offsets: ``[n + 1]`` int64, where each position's entries begin and the last one's end.
        ids: ``[E]`` int64, token numbers, ascending within a position.
        shares: ``[E]`` float32, estimated probabilities; they sum to one at every position.
    """

    start: int
    offsets: np.ndarray
    ids: np.ndarray
    shares: np.ndarray


class SparseLogprobs:
    """Reads a file of teacher log-probabilities.

    Args:
        path: The file. One that a writer is still appending to can be read: what is whole when it is opened is seen.

    Attributes:
        path: The file.
        header: What it holds.
        torn_bytes: Bytes behind the last whole block, left by a writer that was killed; 0 as a rule.

    Raises:
        StudentError: There is none, it is another kind of file, or the header of a block is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.header = read_header(path, file)
                self._blocks, end = scan_blocks(path, file)
                self.torn_bytes = os.fstat(file.fileno()).st_size - end
        except OSError as error:
            raise StudentError(
                f"{path}: cannot be read ({error.strerror}); name the teacher as model to have it made"
            ) from error
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._checked = np.zeros(len(self._blocks), dtype=bool)
        self._index()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, key: str) -> bool:
        return self._line(key) is not None

    @property
    def tokens(self) -> int:
        """Positions that are told of."""
        return int(self._lines["length"].sum())

    @property
    def entries(self) -> int:
        """Distinct tokens over all positions."""
        return int(self._entry_counts.sum())

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the file for each position, all overhead included."""
        return self._bytes.size / max(1, self.tokens)

    def keys(self) -> Iterator[str]:
        """Keys in the order that they were written in."""
        return (self._key(line) for line in range(len(self)))

    def read(
        self, key: str, *, tokens: Sequence[int] | np.ndarray | None = None, first: int = 0, last: int | None = None
    ) -> TokenDistributions:
        """Distributions of a sequence.

        Args:
            key: What it was written under.
            tokens: The sequence as the student has it: checked against the one that the teacher read, up to the last
                position stored.
            first: First of the stored positions to read, from 0.
            last: One behind the last; all where None.

        Raises:
            StudentError: There is no such key, the tokens differ, or the bytes are damaged.
        """
        line = self._line(key)
        if line is None:
            raise StudentError(
                f"{self.path}: no sequence {key!r} among {len(self):,}; name the teacher as model to have it made"
            )
        record = self._lines[line]
        start, length = int(record["start"]), int(record["length"])
        if tokens is not None and token_digest(tokens[: start + length]) != record["digest"]:
            raise StudentError(
                f"{self.path}: sequence {key!r}: the teacher read other tokens than the student has; the prompt, the "
                "target text or the cut at max_length has changed since: make the file again"
            )
        self._check(int(self._block_of[line]))
        first, last, _ = slice(first, last).indices(length)
        counters = self._counters(line, length)
        ends = np.concatenate([[0], np.cumsum(counters, dtype=np.int64)])
        begin, end = ends[first], ends[max(first, last)]
        width = self.header.entry_bytes
        place = int(self._entry_places[line])
        ids, counts = unpack_entries(self._bytes[place + begin * width : place + end * width], self.header)
        shares = (counts / self.header.draws).astype(np.float32)
        return TokenDistributions(start + first, ends[first : max(first, last) + 1] - begin, ids, shares)

    def refuse_other_tokenizer(self, tokenizer: TokenizerFingerprint, *, whose: str) -> None:
        """Raises where token numbers do not mean the same.

        Args:
            tokenizer: Of the student.
            whose: What to call it in the message.

        Raises:
            StudentError: It differs, naming the parts that do.
        """
        differing = self.header.tokenizer.differences(tokenizer)
        if differing:
            raise StudentError(
                f"{self.path}: the tokenizer of {whose} is another than the one these log-probabilities are of "
                f"(teacher {self.header.teacher}): {', '.join(differing)} differ; distil from a teacher with the same "
                "tokenizer, or make the file again with this one's"
            )

    def verify(self) -> None:
        """Reads every byte.

        Raises:
            StudentError: A block is damaged; names the first one.
        """
        for number in range(len(self._blocks)):
            self._check(number)

    def _index(self) -> None:
        tables = [self._table(block) for block in self._blocks]
        self._lines = np.concatenate(tables) if tables else np.zeros(0, dtype=SEQUENCE)
        self._block_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        counter, width = self.header.counter.itemsize, self.header.entry_bytes
        key_places, counter_places, entry_places, entry_counts = [], [], [], []
        for block, table in zip(self._blocks, tables, strict=True):
            keys = block.table + table.nbytes
            counters = keys + int(table["key_end"][-1])
            lengths = table["length"].astype(np.int64)
            entries = counters + int(lengths.sum()) * counter
            starts = table["entry"].astype(np.int64)
            key_places.append(keys + np.concatenate([[0], table["key_end"][:-1].astype(np.int64)]))
            counter_places.append(counters + (np.cumsum(lengths) - lengths) * counter)
            entry_places.append(entries + starts * width)
            entry_counts.append(np.diff(starts, append=(block.end - entries) // width))
        self._key_places = _joined(key_places)
        self._counter_places = _joined(counter_places)
        self._entry_places = _joined(entry_places)
        self._entry_counts = _joined(entry_counts)
        self._order = np.argsort(self._lines["key"], kind="stable")
        self._hashes = self._lines["key"][self._order]

    def _table(self, block: Block) -> np.ndarray:
        size = block.sequences * SEQUENCE.itemsize
        return np.frombuffer(self._bytes[block.table : block.table + size].tobytes(), dtype=SEQUENCE)

    def _line(self, key: str) -> int | None:
        wanted = key_hash(key)
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return None
        line = int(self._order[place])
        return line if self._key(line) == key else None

    def _key(self, line: int) -> str:
        # The lengths of keys follow from where they end, which starts anew in every block.
        record, place = self._lines[line], int(self._key_places[line])
        first = line == 0 or self._block_of[line - 1] != self._block_of[line]
        size = int(record["key_end"]) - (0 if first else int(self._lines[line - 1]["key_end"]))
        return self._bytes[place : place + size].tobytes().decode()

    def _counters(self, line: int, length: int) -> np.ndarray:
        place = int(self._counter_places[line])
        raw = self._bytes[place : place + length * self.header.counter.itemsize]
        return np.frombuffer(raw.tobytes(), dtype=self.header.counter)

    def _check(self, number: int) -> None:
        """Compares a block with its checksum, once."""
        if not self._checked[number]:
            block = self._blocks[number]
            if zlib.crc32(self._bytes[block.table : block.end].tobytes()) != block.crc:
                raise StudentError(damaged(self.path, block.start))
            self._checked[number] = True


class LogprobsWriter:
    """Appends sequences to a file of teacher log-probabilities; a context manager.

    A file that is there is gone on with: :meth:`__contains__` tells what it has, so that nothing is asked twice, and
    what a killed writer left half written is cut off. The same sequences in the same order give the same bytes,
    wherever it was interrupted.

    Args:
        path: The file.
        header: What it is to hold.

    Raises:
        StudentError: The file there holds something else, is damaged, or another process is writing to it.
    """

    def __init__(self, path: Path, header: LogprobsHeader) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        self.header = header
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StudentError(
                f"{path}: another process is writing to it; wait for it, or give another path"
            ) from error
        try:
            self._hashes = self._resume() if path.exists() else self._begin()
            self._file = path.open("ab")
        except BaseException:
            self._lock.release()
            raise
        self._pending: list[StoredSequence] = []
        self._pending_tokens = 0

    def __contains__(self, key: str) -> bool:
        return key_hash(key) in self._hashes

    def __enter__(self) -> LogprobsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def draw(self, key: str, tokens: Sequence[int] | np.ndarray, *, start: int, logits: Tensor) -> None:
        """Draws at every position and appends what was drawn.

        Args:
            key: To look it up by; once in a file.
            tokens: The sequence, up to the last token that is told of at least.
            start: Position of the first token that is told of; at least 1, since nothing tells of the first.
            logits: ``[n, V]``, of tokens ``start`` to ``start + n - 1``: ``logits[i]`` come from the output at position
                ``start + i - 1``. Log-probabilities do as well.

        Raises:
            StudentError: As for :meth:`add`, or there are fewer logits than the vocabulary.
        """
        self.draw_in_parts(key, tokens, start=start, parts=[logits])

    def draw_in_parts(
        self, key: str, tokens: Sequence[int] | np.ndarray, *, start: int, parts: Iterable[Tensor]
    ) -> None:
        """As :meth:`draw`, of logits that come a few positions at a time: the same draws, in less memory.

        Args:
            key: To look it up by; once in a file.
            tokens: The sequence, up to the last token that is told of at least.
            start: Position of the first token that is told of.
            parts: ``[n_i, V]`` each, in the order of the positions, without a gap.

        Raises:
            StudentError: As for :meth:`draw`.
        """
        drawn: list[TokenDraws] = []
        # The sequence's draws do not depend on how its positions are parted.
        most = max(0, len(tokens) - start)
        uniforms = stratified_uniforms(key, seed=self.header.seed, positions=most, draws=self.header.draws)
        place = 0
        for logits in parts:
            if logits.shape[-1] < self.header.vocabulary:
                raise StudentError(
                    f"{self.path}: sequence {key!r}: the vocabulary has {self.header.vocabulary:,} tokens, got logits "
                    f"of {logits.shape[-1]:,}; give the whole distribution, not its most probable tokens"
                )
            known = logits[:, : self.header.vocabulary]
            self._refuse_misplaced(key, start=start, length=place + len(known), tokens=len(tokens))
            wanted = uniforms[place : place + len(known)]
            drawn.append(draw_tokens(known, wanted, temperature=self.header.temperature))
            place += len(known)
        self.add(
            key, tokens, start=start, draws=TokenDraws(*(np.concatenate(part) for part in zip(*drawn, strict=True)))
        )

    def add(self, key: str, tokens: Sequence[int] | np.ndarray, *, start: int, draws: TokenDraws) -> None:
        """Appends what was drawn elsewhere; see :meth:`draw`.

        Raises:
            StudentError: The key is there, the draws do not fit the tokens or the header.
        """
        length = len(draws.distinct)
        where = f"{self.path}: sequence {key!r}"
        if key in self:
            raise StudentError(f"{where}: is there already; give every sequence a key of its own")
        self._refuse_misplaced(key, start=start, length=length, tokens=len(tokens))
        if draws.ids.max() >= self.header.vocabulary or draws.counts.sum() != length * self.header.draws:
            raise StudentError(
                f"{where}: expected {self.header.draws} draws a position of ids under {self.header.vocabulary:,}, got "
                f"{draws.counts.sum() / length:g} draws of ids up to {draws.ids.max():,}"
            )
        self._hashes.add(key_hash(key))
        self._pending.append(StoredSequence(key, token_digest(tokens[: start + length]), start, draws))
        self._pending_tokens += length
        if self._pending_tokens >= _BLOCK_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Makes what was added durable, as one block."""
        if self._pending:
            self._file.write(pack_block(self._pending, self.header))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._pending, self._pending_tokens = [], 0

    def close(self) -> None:
        """Writes what is left and lets the file go."""
        try:
            self.flush()
        finally:
            self._file.close()
            self._lock.release()

    def _refuse_misplaced(self, key: str, *, start: int, length: int, tokens: int) -> None:
        if start < 1 or length < 1 or start + length > tokens:
            raise StudentError(
                f"{self.path}: sequence {key!r}: positions {start} to {start + length - 1} of {tokens} tokens; the "
                "first token is told of by nothing, and what is told of must be in the sequence"
            )

    def _begin(self) -> set[int]:
        draft = self.path.with_name(f".{self.path.name}.tmp")
        draft.write_bytes(self.header.to_bytes())
        os.replace(draft, self.path)
        return set()

    def _resume(self) -> set[int]:
        found = SparseLogprobs(self.path)
        if found.header != self.header:
            here, there = asdict(self.header), asdict(found.header)
            differing = [
                f"{name} ({there[name]} there, {here[name]} now)" for name in here if here[name] != there[name]
            ]
            raise StudentError(
                f"{self.path}: holds log-probabilities made otherwise: {'; '.join(differing)}; give another path, or "
                "delete the file"
            )
        whole = found.path.stat().st_size - found.torn_bytes
        if found._blocks:
            try:
                found._check(len(found._blocks) - 1)
            except StudentError:
                # After a power cut the last block may have its length and not its bytes; it is made again.
                whole = found._blocks[-1].start
        os.truncate(self.path, whole)
        kept = SparseLogprobs(self.path)
        return {int(value) for value in kept._hashes}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
