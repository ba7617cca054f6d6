"""The file that teacher log-probabilities are kept in: blocks that are whole or not there.

Layout, everything little-endian::

    file    = magic, u32 length of the header, header (JSON), u32 its CRC, block*
    block   = "BLK1", u32 sequences, u64 length of the payload, u32 its CRC, u32 CRC of the four fields before
    payload = a line for every sequence (SEQUENCE), their keys (UTF-8), their counters, their entries
    counter = u8 (u16 where there are more than 255 draws): distinct tokens at a position
    entry   = id * draws + (count - 1) in as few whole bytes as hold vocabulary * draws - 1

At 32 draws an entry takes three bytes up to a vocabulary of 524,288 and four beyond; there is no limit. A block is
written with one call and synced: whoever is killed loses at most the last one, and a block that is cut short is told
from one that is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distill.labeling.errors import StudentError
from distill.students.logprobs.token_draws import TokenDraws
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint

MAGIC = b"DSTLOGP\n"
FORMAT_VERSION = 1
MOST_DRAWS = 65535
SEQUENCE = np.dtype(
    [
        ("key", "<u8"),  # hash of the key
        ("digest", "<u8"),  # hash of the token numbers up to the last position
        ("start", "<u4"),  # position in the sequence of the first token that is stored
        ("length", "<u4"),  # positions stored
        ("key_end", "<u4"),  # where the key ends within the block's keys
        ("entry", "<u8"),  # number within the block of the first entry
    ]
)
_BLOCK_MAGIC = b"BLK1"
_BLOCK = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
BLOCK_HEADER_BYTES = _BLOCK.size + _CRC.size


@dataclass(frozen=True)
class LogprobsHeader:
    """What a file of teacher log-probabilities holds.

    Attributes:
        teacher: Name of the model.
        tokenizer: Of the tokenizer whose numbers the sequences are made of.
        vocabulary: Token numbers go from 0 to ``vocabulary - 1``; whatever the model's output has beyond (rows that
            pad it to a round size) is left out before the softmax.
        draws: Draws at every position. 32 in strata vary less than 50 independent ones (benchmarks/sparse_logprobs.py).
        temperature: The teacher's logits were divided by it before the softmax.
        seed: Of the draws.
        format_version: Of the file.
    """

    teacher: str
    tokenizer: TokenizerFingerprint
    vocabulary: int
    draws: int = 32
    temperature: float = 1.0
    seed: int = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= MOST_DRAWS:
            raise StudentError(f"teacher log-probabilities: draws must be 1 to {MOST_DRAWS}, got {self.draws}")
        if self.vocabulary < 1 or self.temperature <= 0:
            raise StudentError(
                "teacher log-probabilities: vocabulary and temperature must be above 0, got "
                f"{self.vocabulary} and {self.temperature}"
            )

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry."""
        return max(1, ((self.vocabulary * self.draws - 1).bit_length() + 7) // 8)

    @property
    def counter(self) -> np.dtype:
        """Type of the number of distinct tokens at a position."""
        return np.dtype("<u1") if self.draws <= 255 else np.dtype("<u2")

    def to_bytes(self) -> bytes:
        """The beginning of a file."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        return MAGIC + _CRC.pack(len(text)) + text + _CRC.pack(zlib.crc32(text))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> LogprobsHeader:
        """Takes up the JSON of a file's header."""
        tokenizer = TokenizerFingerprint.from_dict(found["tokenizer"])
        return cls(**{**{field.name: found[field.name] for field in fields(cls)}, "tokenizer": tokenizer})


class Block(NamedTuple):
    """Where a block's parts begin in the file.

    Attributes:
        start: Of the block.
        sequences: How many it holds.
        table: Begin of its lines.
        end: Of the block.
        crc: Of its payload.
    """

    start: int
    sequences: int
    table: int
    end: int
    crc: int


class StoredSequence(NamedTuple):
    """One sequence on its way into a block.

    Attributes:
        key: What it is looked up by.
        digest: From :func:`token_digest`.
        start: Position of the first token that is stored.
        draws: One position for every token from there on.
    """

    key: str
    digest: int
    start: int
    draws: TokenDraws


def key_hash(key: str) -> int:
    """64 bits of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def token_digest(tokens: Sequence[int] | np.ndarray) -> int:
    """64 bits of a sequence of token numbers."""
    numbers = np.asarray(tokens, dtype="<u4")
    return int.from_bytes(hashlib.blake2b(numbers.tobytes(), digest_size=8).digest(), "little")


def read_header(path: Path, file: BinaryIO) -> LogprobsHeader:
    """Reads a file's header and stops behind it.

    Raises:
        StudentError: It is another kind of file, damaged, or written by a newer distill.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise StudentError(
            f"{path}: no file of teacher log-probabilities; name the teacher as teacher_logprobs.model to have it made"
        )
    length = int.from_bytes(file.read(4), "little")
    text, crc = file.read(length), file.read(4)
    if len(crc) < 4 or zlib.crc32(text) != int.from_bytes(crc, "little"):
        raise StudentError(f"{path}: the header is damaged; make the file again")
    found = json.loads(text)
    if found["format_version"] > FORMAT_VERSION:
        raise StudentError(
            f"{path}: format {found['format_version']}, distill reads up to {FORMAT_VERSION}; upgrade distill"
        )
    return LogprobsHeader.from_dict(found)


def pack_block(sequences: Sequence[StoredSequence], header: LogprobsHeader) -> bytes:
    """A block of sequences, as it stands in the file."""
    keys = [item.key.encode() for item in sequences]
    entries = np.array([len(item.draws.ids) for item in sequences], dtype=np.int64)
    table = np.zeros(len(sequences), dtype=SEQUENCE)
    table["key"] = [key_hash(item.key) for item in sequences]
    table["digest"] = [item.digest for item in sequences]
    table["start"] = [item.start for item in sequences]
    table["length"] = [len(item.draws.distinct) for item in sequences]
    table["key_end"] = np.cumsum([len(key) for key in keys])
    table["entry"] = np.cumsum(entries) - entries
    counters = [item.draws.distinct.astype(header.counter).tobytes() for item in sequences]
    codes = np.concatenate([item.draws.ids * header.draws + item.draws.counts - 1 for item in sequences])
    packed = codes.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : header.entry_bytes].tobytes()
    payload = b"".join([table.tobytes(), *keys, *counters, packed])
    head = _BLOCK.pack(_BLOCK_MAGIC, len(sequences), len(payload), zlib.crc32(payload))
    return head + _CRC.pack(zlib.crc32(head)) + payload


def unpack_entries(raw: np.ndarray, header: LogprobsHeader) -> tuple[np.ndarray, np.ndarray]:
    """Ids and counts, int64 ``[E]`` each, of packed entries (uint8)."""
    wide = np.zeros((len(raw) // header.entry_bytes, 8), dtype=np.uint8)
    wide[:, : header.entry_bytes] = raw.reshape(-1, header.entry_bytes)
    ids, counts = np.divmod(wide.view("<u8").reshape(-1).astype(np.int64), header.draws)
    return ids, counts + 1


def scan_blocks(path: Path, file: BinaryIO) -> tuple[list[Block], int]:
    """Walks over the blocks from where the file stands, without reading their payloads.

    Returns:
        The whole blocks, and where the last of them ends: what is behind was cut short while it was written.

    Raises:
        StudentError: A block's header is damaged.
    """
    size = os.fstat(file.fileno()).st_size
    blocks: list[Block] = []
    end = file.tell()
    while end + BLOCK_HEADER_BYTES <= size:
        file.seek(end)
        head, check = file.read(_BLOCK.size), file.read(_CRC.size)
        magic, sequences, length, crc = _BLOCK.unpack(head)
        if magic != _BLOCK_MAGIC or zlib.crc32(head) != int.from_bytes(check, "little"):
            raise StudentError(damaged(path, end))
        table = end + BLOCK_HEADER_BYTES
        if table + length > size:
            break
        blocks.append(Block(end, sequences, table, table + length, crc))
        end = table + length
    return blocks, end


def damaged(path: Path, offset: int) -> str:
    """What to say of a block that is not as it was written."""
    return (
        f"{path}: the block at byte {offset:,} is damaged; what is before it is whole: cut the file there with "
        f"`truncate -s {offset} {path}` and make the rest again"
    )
