"""The seed of one row's answer."""

from __future__ import annotations

import hashlib


def row_seed(seed: int, *, sample: int, user: str) -> int:
    """A seed of 31 bits, which every server takes, from the recipe's seed, the row and the sample's index (BLAKE2b).

    One and the same seed for every row would draw every row's answer with the same random numbers.

    Args:
        seed: The recipe's.
        sample: Index of a deliberate repeat.
        user: The row's text.
    """
    text = f"{seed} {sample} {user}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, person=b"distill-seed-1").digest(), "big") >> 1
