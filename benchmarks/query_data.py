"""Research data and table cells that the benchmarks of query understanding share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from distill.eval.intervals import Estimate
from distill.eval.queries.metrics import Tally, paired_claim
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.rows.row_draw import draw

DATA = Path(os.environ.get("DISTILL_DATA", "."))


def esci_products() -> tuple[pl.DataFrame, Catalogue]:
    columns = ["product_id", "title", "brand", "category_path"]
    parts = [pl.read_parquet(DATA / name).select(columns) for name in ("esci_us.parquet", "esci_art_llm_only.parquet")]
    products = pl.concat(parts).unique("product_id", maintain_order=True)
    return products, Catalogue(products, category="category_path", product_id="product_id")


def queryner(part: str) -> tuple[list[str], list[list[Span]]]:
    lines = [json.loads(line) for line in (DATA / f"queryner_{part}.jsonl").read_text().splitlines()]
    return [line["query"] for line in lines], [list(bio_spans(line)) for line in lines]


def bio_spans(line: dict[str, Any]) -> Iterator[Span]:
    """Spans of ``creator`` as characters; tokens are found in the query one after another."""
    at, start, end = 0, None, 0
    for token, label in zip([*line["tokens"], ""], [*line["labels"], "O"], strict=True):
        if label != "I-creator" and start is not None:
            yield Span(start, end, "brand")
            start = None
        place = line["query"].find(token, at)
        if label == "B-creator" and place >= 0:
            start = place
        at = end = max(place, at) + len(token)


def tagged_spans(spans: Sequence[dict[str, Any]]) -> Iterator[Span]:
    current: Span | None = None
    for span in spans:
        if span["tag"] == "I-BRAND" and current:
            current = current._replace(end=span["end"])
            continue
        if current:
            yield current
        current = Span(span["start"], span["end"], "brand") if span["tag"] == "B-BRAND" else None
    if current:
        yield current


def names_of(queries: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[str]:
    return [query[span.start : span.end] for query, found in zip(queries, spans, strict=True) for span in found]


def half_of(text: str) -> int:
    return int(draw([text], seed=0, purpose="half")[0] < 0.5)


def percent(found: Estimate) -> str:
    if found.value is None:
        return "–"
    interval = (
        f" ({100 * found.low:.1f} to {100 * found.high:.1f})"
        if found.low is not None and found.high is not None
        else ""
    )
    return f"{100 * found.value:.1f}{interval}"


def claim_line(name: str, peer: str, tallies: dict[str, Tally], groups: Sequence[str], metric: str) -> str:
    claim = paired_claim(tallies[name], tallies[peer], groups, metric=metric)
    return (
        f"{name} against {peer}, {metric}: {100 * claim.difference:+.1f}, lower bound "
        f"{100 * (claim.lower or 0):+.1f} at 95%, "
        f"one-sided p {claim.p_value:.4f}."
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class Place(NamedTuple):
    """Where a recipe of ``query_students.py`` writes its files, and what there is for it."""

    folder: Path
    seed: int
    replies: Path | None
    """A recorded model's replies, by query; None where they are not at hand."""

    def write(self, name: str, lines: Iterable[dict[str, Any]]) -> str:
        """Writes rows where the recipe's relative path finds them."""
        path = self.folder / name
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return name
