"""Query understanding without a model: what labeling functions alone reach on real queries, beside symspell.

    DISTILL_DATA=... python benchmarks/query_baselines.py [--out FILE] [--only spelling,brand] [--limit N]

These are the figures that a student has to beat. Nothing is trained on the sets' labels except where a line says so.
The corrector was built while looking at 1,000 of its 9,410 queries, whose errors led to the letter model and the rule
for plurals; the tagger's thresholds were chosen on queryner_train. Intervals are 95%, by query. symspellpy
(`pip install symspellpy`) is a peer, not a dependency: without it its lines are left out. Seconds are of processor
time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from query_baselines_spelling import brand_over_correction, spelling
from query_data import DATA, esci_products, half_of, names_of, percent, queryner, table, tagged_spans

from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.eval.metrics import auc_of_ranked, rank_scores
from distill.eval.queries.brand_metrics import brand_tally
from distill.eval.queries.category_metrics import category_tally
from distill.eval.queries.expansion_metrics import Searched, expanded_ranking, expansion_tally
from distill.eval.queries.metrics import Tally, estimates
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.category_vote import vote_categories
from distill.labeling.queries.expansion import merge_expansions, plain_rewrites, title_terms
from distill.labeling.queries.query_checks import check_expansions

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}  # Reddy et al. 2022, the shopping queries data set


def brand(limit: int | None) -> Iterator[str]:
    products, catalogue = esci_products()
    queries, gold = queryner("dev")
    queries, gold = queries[:limit], gold[:limit]
    train_queries, train = queryner("train")
    people = names_of(train_queries, train)
    from_catalogue = BrandDictionary.from_products(catalogue.titles, catalogue.brands)
    both = BrandDictionary([*catalogue.brands, *people])
    both.learn_trust(catalogue.titles, catalogue.brands)
    plain, labeled = BrandDictionary(catalogue.brands), BrandDictionary(people)
    near = [found.brand_shares() for found in catalogue.near_all(queries)]
    runs = {
        "catalogue's brands, all trusted": [plain(query) for query in queries],
        "catalogue's brands, trust learned": [from_catalogue(query) for query in queries],
        "catalogue's brands, trust and retrieval": [from_catalogue(q, n) for q, n in zip(queries, near, strict=True)],
        "brands of queryner_train (human labels)": [labeled(query) for query in queries],
        "both (human labels)": [both(query, shares) for query, shares in zip(queries, near, strict=True)],
    }
    yield (
        f"queryner_dev: {len(queries)} queries, {sum(map(bool, gold))} with a brand; truth: people, who reach "
        ".78–.86 against one "
        f"another's gold. The catalogue has {len(products)} products and {len(from_catalogue)} brands, "
        f"{share_known(from_catalogue, queries, gold):.0%} of the true spans among them; queryner_train's "
        f"{len(train_queries)} queries hold {len(set(people))}, "
        f"{share_known(labeled, queries, gold):.0%}."
    )
    yield brand_table(queries, gold, runs, groups=queries)
    yield from brand_x5(catalogue, limit)


def brand_x5(catalogue: Catalogue, limit: int | None) -> Iterator[str]:
    """Russian: queries that begin alike (what one shopper typed letter by letter) stay on one side."""
    table_ = pl.read_parquet(DATA / "x5_russian_query_ner.parquet")
    queries = table_["query"].to_list()
    gold = [list(tagged_spans(spans)) for spans in table_["spans"].to_list()]
    side = [half_of(query[:4]) for query in queries]
    learn = [at for at, half in enumerate(side) if half]
    test = [at for at, half in enumerate(side) if not half][:limit]
    people = names_of([queries[at] for at in learn], [gold[at] for at in learn])
    asked, true = [queries[at] for at in test], [gold[at] for at in test]
    by_sound = BrandDictionary(catalogue.brands, transliterate=True)
    labeled = BrandDictionary(people)
    runs = {
        "ESCI's brands by sound": [by_sound(query) for query in asked],
        "brands of the other half (human labels)": [labeled(query) for query in asked],
    }
    yield (
        f"x5_russian_query_ner: {len(asked)} queries, {sum(map(bool, true))} with a brand; truth: people. Queries "
        "that share "
        f"their first four letters are one group, and on one side. The other half names {len(set(people))} brands, "
        f"{share_known(labeled, asked, true):.0%} of the true spans. There is no Russian "
        "catalogue: ESCI's "
        "brands, found by sound, are all that needs no label."
    )
    yield brand_table(asked, true, runs, groups=[query[:4] for query in asked])


def share_known(brands: BrandDictionary, queries: Sequence[str], gold: Sequence[Sequence[Span]]) -> float:
    names = names_of(queries, gold)
    plain = BrandDictionary(brands.names)
    return sum(any(s.start == 0 and s.end == len(name) for s in plain.tag(name)) for name in names) / max(1, len(names))


def brand_table(
    queries: Sequence[str], gold: Sequence[Sequence[Span]], runs: dict[str, list[list[Span]]], *, groups: Sequence[str]
) -> str:
    names = ("span_f1", "span_precision", "span_recall", "word_f1", "false_brand")
    lines = []
    for name, said in runs.items():
        found = estimates(brand_tally(queries, gold, said), groups)
        lines.append([name, *(percent(found[metric]) for metric in names)])
    return table(["tagger", "span F1", "precision", "recall", "word F1", "brand where none is"], lines)


def category(limit: int | None) -> Iterator[str]:
    esci = pl.read_parquet(DATA / "esci_us.parquet")
    _, catalogue = esci_products()
    exact = esci.filter(pl.col("exact") == 1, pl.col("category_path").fill_null("") != "")
    queries = exact["query"].unique(maintain_order=True).to_list()[:limit]
    judged = dict(esci.group_by("query").agg("product_id").iter_rows())
    gold = [main_categories(exact.filter(pl.col("query") == query)["category_path"].to_list()) for query in queries]
    found = catalogue.search(queries, k=100)
    others = [
        [hit for hit in hits if catalogue.product_ids[hit.product] not in judged[query]]
        for query, hits in zip(queries, found, strict=True)
    ]
    runs = {
        "vote of the top 10": [[v.category for v in vote_categories(catalogue, hits[:10])] for hits in found],
        "vote of the top 10, judged products left out": [
            [v.category for v in vote_categories(catalogue, hits[:10])] for hits in others
        ],
    }
    names = ("accuracy_1", "accuracy_2", "accuracy_3", "micro_f1", "macro_f1", "hierarchical_f1")
    lines = []
    for name, said in runs.items():
        scores = estimates(category_tally(gold, said), queries)
        lines.append([name, *(percent(scores[metric]) for metric in names)])
    yield (
        f"esci_us: {len(queries)} queries; truth: categories that at least a fifth of the products have that "
        "people call exact. "
        "The catalogue is small and made of judged products, most of them this query's: the second line leaves "
        "those out."
    )
    yield table(["vote", "level 1", "level 2", "level 3", "micro F1", "macro F1", "hierarchical F1"], lines)
    yield from category_multilingual()


def main_categories(paths: Sequence[str]) -> list[str]:
    counts = {path: paths.count(path) for path in dict.fromkeys(paths)}
    return [path for path, count in counts.items() if count >= 0.2 * len(paths)] or [
        max(counts, key=counts.__getitem__)
    ]


def category_multilingual() -> Iterator[str]:
    pairs = pl.read_parquet(DATA / "query_category_multilingual.parquet")
    paths = pairs["category_path"].unique(maintain_order=True).to_list()
    catalogue = Catalogue(pl.DataFrame({"title": paths}), brand=None, category=None)
    place = {path: at for at, path in enumerate(paths)}
    hits = catalogue.search(pairs["origin_query"].to_list(), k=len(paths))
    scores = np.array(
        [dict(found).get(place[path], 0.0) for found, path in zip(hits, pairs["category_path"], strict=True)]
    )
    english = (pairs["language"] == "en").to_numpy()
    lines = []
    for name, rows in (("all ten languages", np.ones(len(pairs), bool)), ("English", english), ("others", ~english)):
        part = pairs.filter(pl.Series(rows))
        area = auc_estimate(scores[rows], part["label"].to_numpy() == 1, part["origin_query"].to_list())
        lines.append([name, str(rows.sum()), f"{100 * (scores[rows] > 0).mean():.0f}", percent(area)])
    yield (
        f"query_category_multilingual: {len(pairs)} pairs of a query and an English category path, yes or no "
        "(truth: people). No "
        "catalogue comes with it, so that nothing can be retrieved and nobody can vote: BM25 of the query over "
        "the paths' own "
        "words is what needs no label. AUC, 50 is chance."
    )
    yield table(["rows", "pairs", "share a word %", "AUC"], lines)


def auc_estimate(scores: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> Estimate:
    resamples = Resamples.of(np.array(groups, dtype=object), count=1000, seed=0)
    ranked = rank_scores(scores, positive)
    value = float(auc_of_ranked(ranked, np.ones((1, len(scores))))[0])
    draws = resamples.map_weights(lambda weights: auc_of_ranked(ranked, weights))
    return estimate(value, draws, Size(len(scores), resamples.groups), level=0.95, proportion=True)


def expansion(limit: int | None) -> Iterator[str]:
    esci = pl.read_parquet(DATA / "esci_us.parquet")
    products, catalogue = esci_products()
    queries = esci["query"].unique(maintain_order=True).to_list()[:limit]
    sources = {
        "plain rewrites": {query: [e.text for e in plain_rewrites(query)] for query in queries},
        "terms of the titles found": {query: [e.text for e in title_terms(catalogue, query)] for query in queries},
    }
    sources["both, fused"] = {
        query: merge_expansions([plain_rewrites(query), title_terms(catalogue, query)], most=5) for query in queries
    }
    checked = {query: check_expansions(catalogue, query, texts) for query, texts in sources["both, fused"].items()}
    sources["both, that pass the checks"] = {q: [c.expansion for c in found if c.kept] for q, found in checked.items()}
    base = bare(catalogue, esci, products, queries)
    names = ("recall_change", "ndcg_change", "better", "worse", "drift", "category_drift")
    lines = []
    for name, texts in sources.items():
        found = estimates(searched_tally(esci, products, catalogue, texts), queries)
        given = sum(map(len, texts.values())) / len(queries)
        lines.append([name, f"{given:.1f}", *(percent(found[metric]) for metric in names)])
    yield (
        f"esci_us: {len(queries)} queries over {len(products)} products; truth: people (gain E 1, S .1, C .01, I "
        "0; recall counts E; "
        f"products that nobody judged count nothing). Without expansions {base}. Expansions are searched alone "
        "and fused by their BM25 scores, "
        "all of them together with half the query's weight."
    )
    yield table(
        [
            "source",
            "expansions a query",
            "recall@10 change",
            "nDCG@10 change",
            "queries better",
            "worse",
            "new ones irrelevant",
            "new category",
        ],
        lines,
    )
    yield planted_drift(catalogue, queries, sources["both, fused"])


def planted_drift(catalogue: Catalogue, queries: Sequence[str], expansions: dict[str, list[str]]) -> str:
    """Whether the checks notice expansions that were made for another query."""
    dropped = given = 0
    for at, query in enumerate(queries):
        foreign = expansions[queries[(at + len(queries) // 2) % len(queries)]]
        checks = check_expansions(catalogue, query, foreign)
        dropped, given = dropped + sum(not check.kept for check in checks), given + len(checks)
    return f"Of {given} expansions planted from another query the checks drop {100 * dropped / given:.0f}%."


def bare(catalogue: Catalogue, esci: pl.DataFrame, products: pl.DataFrame, queries: Sequence[str]) -> str:
    found = estimates(searched_tally(esci, products, catalogue, {query: [] for query in queries}), queries)
    return f"recall@10 is {percent(found['recall'])} and nDCG@10 {percent(found['ndcg'])}"


def searched_tally(
    esci: pl.DataFrame, products: pl.DataFrame, catalogue: Catalogue, expansions: dict[str, list[str]]
) -> Tally:
    categories = dict(products.select("product_id", pl.col("category_path").fill_null("")).iter_rows())
    searched = []
    for query, texts in expansions.items():
        judged = esci.filter(pl.col("query") == query)
        gains = {product: GAINS[label] for product, label in judged.select("product_id", "esci_label").iter_rows()}
        before, after = (expanded_ranking(catalogue, query, given) for given in ([], texts))
        relevant = [product for product, gain in gains.items() if gain == GAINS["E"]]
        searched.append(Searched(before, after, gains, relevant, categories))
    return expansion_tally(searched)


SECTIONS: dict[str, tuple[str, Callable[[int | None], Iterator[str]]]] = {
    "spelling": ("Spelling", spelling),
    "brands_kept": ("Spelling: over-correction of real brands", brand_over_correction),
    "brand": ("Brand", brand),
    "category": ("Category", category),
    "expansion": ("Expansion", expansion),
}


WITHOUT_LABELS = """
## What a student can be trained on without a human label

| task | rows | from what |
|---|---|---|
| spelling | `home_depot`'s titles and search terms, misspelled by `synthetic_typos` | titles, queries |
| brand | queries of `esci_us` and `queryner_train` (spans unread): tags by dictionary; teachers | catalogue brands |
| category | queries of `esci_us`: the vote of the products found; teachers | catalogue categories |
| expansion | queries of `esci_us`, expanded by teachers, filtered by `check_expansions` | titles alone |
| Russian brand, multilingual category | teachers only: there is no catalogue in these languages | – |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/query_baselines.md"))
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--limit", type=int, default=None, help="queries a set, to try it out")
    given = parser.parse_args()
    parts = ["# Query understanding without a model", "\n".join((__doc__ or "").split("\n\n")[2:]).strip()]
    for name in given.only.split(","):
        title, section = SECTIONS[name]
        parts += [f"## {title}", *section(given.limit)]
        print("\n\n".join(parts[-4:]), flush=True)
        given.out.write_text("\n\n".join([*parts, WITHOUT_LABELS.strip()]) + "\n")


if __name__ == "__main__":
    main()
