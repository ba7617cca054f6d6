"""Rows that differ only in how the query is written, so that one answer may do for all of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.labeling.rows.row_draw import draw

_BATCH_ROWS = 20_000

_APOSTROPHES = re.compile("['’‘`´]")
_BREAKS = re.compile(r"[\s_\-‐-―,;:!?()\[\]{}|/]+")
_HANGUL = re.compile(r"[가-힣]")
_DIGIT_BESIDE_LETTER = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")
_LATIN = re.compile(r"[a-z]{4,}")
# With one of these, the order of words says who is for what: a doll for a dress, a dress for a doll.
_RELATIONS = frozenset(
    ["for", "with", "without", "to", "of", "from", "in", "on", "over", "under", "not", "no", "vs", "by"]
)


@lru_cache(maxsize=65_536)
def query_form(query: str, *, any_order: bool = True) -> str:
    """What stays of a query when case, spacing, plural and, unless told otherwise, word order are left out.

    Latin words are brought to the singular by their ending and sorted; words in Hangul are joined, since spacing is
    free there, and keep their order. Order is also kept with two or more numbers (5 by 7 is not 7 by 5) and beside
    words such as *for* and *without*. Signs within words stay: ``c++`` is not ``c``, ``1.5`` is not ``15``.
    """
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", query).casefold())
    # A slash between digits is a fraction.
    text = re.sub(r"(?<=\d)/(?=\d)", "⁄", text)
    words = [word.strip('.&"') or word for word in _BREAKS.split(_DIGIT_BESIDE_LETTER.sub(" ", text)) if word]
    words = [_singular(word) for word in words]
    ordered = (
        not any_order or sum(any(map(str.isdigit, word)) for word in words) > 1 or not _RELATIONS.isdisjoint(words)
    )
    hangul = "".join(word for word in words if _HANGUL.search(word))
    others = [word for word in words if not _HANGUL.search(word)]
    return " ".join([hangul, *(others if ordered else sorted(others))]).strip()


def _singular(word: str) -> str:
    if not _LATIN.fullmatch(word) or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1]


@dataclass(frozen=True)
class Sharing:
    """Which rows take another row's answer.

    Attributes:
        shared: ``row_id`` and ``shared_from``: rows that are not asked, and whose answer they take.
        audited: Likewise, of rows that could share and are asked all the same, to see how often sharing is wrong.
    """

    shared: pl.DataFrame
    audited: pl.DataFrame

    @classmethod
    def none(cls) -> Sharing:
        """Nobody shares."""
        empty = pl.DataFrame(schema={"row_id": pl.String, "shared_from": pl.String})
        return cls(empty, empty)


def find_sharing(
    rows: pl.LazyFrame, *, inputs: Sequence[str], audit: float, seed: int, any_order: bool = True
) -> Sharing:
    """Finds rows whose other inputs are the same and whose queries have the same :func:`query_form`.

    Rows that are the same to the letter are left alone: their requests are one request anyway. The row that is asked is
    one with gold where there is one, and else the first by a draw: neither the order of rows nor the seed changes it.

    Args:
        rows: ``row_id``, ``gold`` and the inputs; 17 bytes a row are held in memory, and the ids of rows that share.
        inputs: The task's inputs, the query first.
        audit: Share of the sharers to be asked all the same.
        seed: Of the choice of these.
        any_order: Whether queries with the same words in another order are near-duplicates too.
    """
    table = _twins(rows, inputs, any_order=any_order)
    if table.is_empty():
        return Sharing.none()
    ids = table["row_id"]
    # The seed stays out: another seed must not choose other rows to pay for.
    table = table.with_columns(turn=pl.Series(draw(ids, seed=0, purpose="share")), gold=pl.col("gold").is_not_null())
    table = table.sort("cluster", "gold", "turn", "row_id", descending=[False, True, False, False])
    first = table.group_by("cluster", maintain_order=True).first().select("cluster", "content", shared_from="row_id")
    able = table.join(first, on="cluster", suffix="_asked", maintain_order="left").filter(
        ~pl.col("gold") & (pl.col("content") != pl.col("content_asked"))
    )
    asked = pl.Series(draw(able["row_id"], seed=seed, purpose="audit") < audit, dtype=pl.Boolean)
    pairs = able.select("row_id", "shared_from")
    return Sharing(shared=pairs.filter(~asked), audited=pairs.filter(asked))


def _twins(rows: pl.LazyFrame, inputs: Sequence[str], *, any_order: bool) -> pl.DataFrame:
    """Rows whose cluster holds at least two different contents."""
    query, rest = inputs[0], list(inputs[1:])
    clusters, contents = array("Q"), array("Q")
    for batch in rows.select("row_id", *inputs).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
        others = batch.with_columns(_others=pl.concat_str([pl.lit(""), *rest], separator="\x1f"))["_others"].to_list()
        for text, other in zip(batch[query].to_list(), others, strict=True):
            clusters.append(_digest(query_form(text, any_order=any_order), other))
            contents.append(_digest(text.strip(), other))
    cluster, content = np.frombuffer(clusters, dtype=np.uint64), np.frombuffer(contents, dtype=np.uint64)
    at = _several(cluster, content)
    hashes = pl.DataFrame({"_at": at, "cluster": cluster[at], "content": content[at]})
    found = rows.select("row_id", "gold").with_row_index("_at").filter(pl.col("_at").is_in(hashes["_at"].implode()))
    return hashes.with_columns(pl.col("_at").cast(pl.UInt32)).join(found.collect(), on="_at")


def _several(cluster: NDArray[np.uint64], content: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Positions of the rows of clusters with more than one content."""
    if not len(cluster):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(cluster[order]) != 0))
    lowest, highest = (ufunc.reduceat(content[order], starts) for ufunc in (np.minimum, np.maximum))
    sizes = np.diff(np.append(starts, len(order)))
    return np.sort(order[np.repeat(lowest != highest, sizes)])


def _digest(query: str, others: str) -> int:
    text = f"{query}\x1e{others}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
