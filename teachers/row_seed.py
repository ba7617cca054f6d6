"""The seed of a row's sample, drawn from the recipe's."""

from __future__ import annotations

import hashlib


def row_seed(seed: int, sample: int, user: str) -> int:
    """31 bits, which every server takes, by BLAKE2b of the seed, the sample's index and the row's text.

    One and the same seed for every row would draw every row's answer with the same random numbers.
    """
    text = f"{seed} {sample} {user}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, person=b"distill-seed-1").digest(), "big") >> 1
