"""Draws that hang on a row's id and the seed only: not on the order of rows, nor on what was appended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def draw(row_ids: Iterable[str], *, seed: int, purpose: str) -> NDArray[np.float64]:
    """Draws a number for each row, uniform over [0, 1).

    Args:
        row_ids: The rows.
        seed: Other seeds draw otherwise.
        purpose: Draws for different purposes are independent.

    Returns:
        ``[n]``: the first 53 bits of BLAKE2b of purpose, seed and id.
    """
    prefix = f"{purpose}\x1f{seed}\x1f".encode()
    found = (
        int.from_bytes(hashlib.blake2b(prefix + row_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        for row_id in row_ids
    )
    return (np.fromiter(found, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53
