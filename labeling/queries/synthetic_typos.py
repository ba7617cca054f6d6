"""Misspelled queries made from good ones, to train a spelling student without labels."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

import polars as pl

from distill.labeling.queries.protected_spans import FindSpans, protected_spans
from distill.labeling.queries.typo_channel import TypoChannel

_TRIES = 400


def synthetic_typos(
    queries: Sequence[str],
    *,
    channel: TypoChannel | None = None,
    find_brands: FindSpans | None = None,
    share: float = 0.5,
    seed: int = 0,
) -> pl.DataFrame:
    """Queries as they might have been typed, with what was meant.

    A misspelled line is a draw from P(typed | meant, typed ≠ meant) of the channel, so that hard and easy slips come
    in the channel's own mix. Numbers, units, model numbers and brands come out as they went in. Each query's draw
    follows from the seed and the query alone: more or other queries beside it change nothing.

    Args:
        queries: Queries that are taken to be right; a few wrong ones among them do little harm.
        channel: How slips happen.
        find_brands: Spans of brands in a query, as in
            :func:`~distill.labeling.queries.protected_spans.protected_spans`.
        share: Share of lines to misspell; the others stay, since a student has to learn to leave alone.
        seed: Of the draws.

    Returns:
        ``query`` (as typed), ``correction`` (as given) and ``changed``, in the order given. A query with nothing to
        misspell stays as it is.
    """
    channel = channel or TypoChannel()
    lines = []
    for meant in queries:
        draw = random.Random(hashlib.blake2b(f"{seed}\x1f{meant}".encode("utf-8", "surrogatepass")).digest())
        typed = meant if draw.random() >= share else misspelled(meant, channel, draw, find_brands=find_brands)
        lines.append((typed, meant, typed != meant))
    schema = {"query": pl.String(), "correction": pl.String(), "changed": pl.Boolean()}
    return pl.DataFrame(lines, schema=schema, orient="row")


def misspelled(meant: str, channel: TypoChannel, draw: random.Random, *, find_brands: FindSpans | None = None) -> str:
    """One query with at least one slip outside its protected spans; itself where there is none to be had."""
    parts = list(_parts(meant, protected_spans(meant, find_brands)))
    if not any(free and any(map(str.isalpha, part)) for part, free in parts):
        return meant
    for _ in range(_TRIES):
        typed = "".join(channel.sample(part, draw) if free else part for part, free in parts)
        # A space lost at an end is no misspelling that anybody could see.
        if typed.split() != meant.split():
            return typed
    return meant


def _parts(query: str, spans: Iterable[tuple[int, int]]) -> Iterable[tuple[str, bool]]:
    """The query in pieces: text, and whether slips may touch it. Spaces beside a protected span belong to it."""
    at = 0
    for start, end in [*spans, (len(query), len(query))]:
        piece = query[at:start]
        inner = piece.strip()
        lead = len(piece) - len(piece.lstrip())
        if inner:
            yield piece[:lead], False
            yield inner, True
            yield piece[lead + len(inner) :], False
        else:
            yield piece, False
        yield query[start:end], False
        at = end
