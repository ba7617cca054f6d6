"""The spelling part of query_baselines.py: our corrector beside symspell with the same words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from query_data import DATA, claim_line, esci_products, half_of, percent, queryner, table

from distill.eval.queries.metrics import estimates
from distill.eval.queries.spelling_metrics import spelling_tally
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.labeling.queries.query_checks import check_corrections, count_checks
from distill.labeling.queries.query_words import has_digit, words
from distill.labeling.queries.spelling import SpellingCorrector, SpellingOptions
from distill.labeling.queries.typo_channel import TypoChannel
from distill.labeling.queries.typo_fit import fit_typos
from distill.labeling.queries.word_counts import NUMBER, WordCounts

WRONG_SHARE = 0.13
Correct = Callable[[str], str]


class Pairs(NamedTuple):
    """Queries as typed and as meant."""

    queries: list[str]
    gold: list[str]


def spelling(limit: int | None) -> Iterator[str]:
    wrong = pl.read_parquet(DATA / "home_depot_spelling.parquet")
    right = pl.read_parquet(DATA / "home_depot_unflagged.parquet")["query"].to_list()
    titles = pl.read_parquet(DATA / "home_depot.parquet")["product_title"].unique(maintain_order=True).to_list()
    pairs = Pairs([*wrong["query"], *right], [*wrong["correction"], *right])
    if limit:
        keep = np.random.default_rng(0).permutation(len(pairs.queries))[:limit]
        pairs = Pairs(*([side[at] for at in keep] for side in pairs))
    counts = WordCounts.of(titles)
    yield (
        f"{sum(q != g for q, g in zip(*pairs, strict=True))} misspelled and "
        f"{sum(q == g for q, g in zip(*pairs, strict=True))} "
        f"good queries; truth: a search engine's corrections, not people. Words: {len(titles)} titles of the same "
        "shop."
    )
    yield from spelling_table(dict(spellers(counts, pairs)), pairs)


def spellers(counts: WordCounts, pairs: Pairs) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Each corrector, and how to run it over the queries."""
    yield "no change", lambda: list(pairs.queries)
    for margin in (0.0, 2.0, 4.0):
        yield f"ours, margin {margin:g}", lambda margin=margin: with_margin(counts, margin, pairs.queries)
    yield "ours, slips fitted (uses corrections of the other half)", lambda: fitted(counts, pairs)
    for name, correct in symspell(counts):
        yield name, lambda correct=correct: [correct(query) for query in pairs.queries]


def with_margin(counts: WordCounts, margin: float, queries: Sequence[str]) -> list[str]:
    corrector = SpellingCorrector(counts, options=SpellingOptions(margin=margin))
    return [corrector(query) for query in queries]


def fitted(counts: WordCounts, pairs: Pairs) -> list[str]:
    """Two halves by query, each corrected with slips fitted on the misspelled ones of the other."""
    half = [half_of(query) for query in pairs.queries]
    said = list(pairs.queries)
    for side in (0, 1):
        others = [(q, g) for q, g, h in zip(*pairs, half, strict=True) if h != side and q != g]
        corrector = SpellingCorrector(counts, channel=TypoChannel(fit_typos(others, wrong_share=WRONG_SHARE)))
        for at in (at for at, h in enumerate(half) if h == side):
            said[at] = corrector(pairs.queries[at])
    return said


def symspell(counts: WordCounts) -> Iterator[tuple[str, Correct]]:
    try:
        from symspellpy import SymSpell, Verbosity  # type: ignore[import-untyped]
    except ImportError:
        return
    speller = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    for word, count in counts.words.items():
        if count >= SpellingOptions().known_count:
            speller.create_dictionary_entry(word, count)
    for (one, other), count in counts.pairs.items():
        if one and other and NUMBER not in (one, other):
            speller.bigrams[f"{one} {other}"] = count
    speller.bigram_count_min = min(speller.bigrams.values())

    def by_word(query: str) -> str:
        changes = []
        for word in words(query):
            if not has_digit(word.text) and len(word.text) > 3:
                found = speller.lookup(word.text, Verbosity.TOP, max_edit_distance=2)
                changes += [(word.start, word.end, found[0].term)] if found and found[0].term != word.text else []
        for start, end, text in reversed(changes):
            query = query[:start] + text + query[end:]
        return query

    def compound(query: str) -> str:
        found = speller.lookup_compound(query, 2, ignore_term_with_digits=True, ignore_non_words=True)
        return found[0].term if found else query

    yield "symspell, word by word", by_word
    yield "symspell, compound", compound


def spelling_table(runs: dict[str, Callable[[], list[str]]], pairs: Pairs) -> Iterator[str]:
    names = ("corrected_right", "over_correction", "change_precision", "exact_match", "word_f05")
    tallies, lines = {}, []
    for name, run in runs.items():
        started = time.process_time()
        said = run()
        seconds = time.process_time() - started
        tallies[name] = spelling_tally(pairs.queries, pairs.gold, said)
        found = estimates(tallies[name], pairs.queries)
        lines.append([name, *(percent(found[metric]) for metric in names), f"{1000 * seconds / len(said):.1f}"])
        print(lines[-1], flush=True)
    yield table(
        [
            "corrector",
            "errors set right",
            "over-correction",
            "precision of changes",
            "exact match",
            "word F0.5",
            "ms a query",
        ],
        lines,
    )
    peer = "symspell, word by word"
    if peer in tallies:
        for metric in ("word_f05", "corrected_right"):
            yield claim_line("ours, margin 2", peer, tallies, pairs.queries, metric)


def brand_over_correction(limit: int | None) -> Iterator[str]:
    """Correctors of two shops' titles on queries with a human brand span, which are taken to be spelled right."""
    esci, _ = esci_products()
    titles = [
        *pl.read_parquet(DATA / "home_depot.parquet")["product_title"].unique(maintain_order=True),
        *esci["title"],
    ]
    queries, gold = queryner("dev")
    at = [place for place, spans in enumerate(gold) if spans][:limit]
    asked = [queries[place] for place in at]
    brands = [[asked[n][span.start : span.end] for span in gold[place]] for n, place in enumerate(at)]
    counts = WordCounts.of(titles)
    listed = BrandDictionary.from_products(esci["title"].to_list(), esci["brand"].fill_null("").to_list())
    runs: dict[str, Correct] = {
        "ours, margin 2": SpellingCorrector(counts),
        "ours, margin 2, brands of the catalogue kept": SpellingCorrector(counts, find_brands=listed.spans),
        **dict(symspell(counts)),
    }
    lines = []
    for name, correct in runs.items():
        said = [correct(query) for query in asked]
        found = estimates(spelling_tally(asked, asked, said, brands=brands), asked)
        spans = {query: [Span(*span, "brand") for span in listed.spans(query)] for query in asked}
        checked = check_corrections(pl.DataFrame({"query": asked, "correction": said}), correct=correct, brands=spans)
        passes = {line["check"]: line["share"] for line in count_checks(checked).iter_rows(named=True)}
        free = [f"{100 * passes[key]:.0f}" if passes[key] is not None else "–" for key in ("stands", "brands_stay")]
        lines.append([name, percent(found["brand_over_correction"]), percent(found["over_correction"]), *free])
    yield (
        f"{len(asked)} queries of queryner_dev that have a brand (truth: people), taken to be spelled right; words: "
        f"{len(titles)} titles of two shops. The last two columns need no label: shares of changed queries whose "
        "correction "
        "is not corrected again, and whose brands of the catalogue survive."
    )
    yield table(["corrector", "real brand changed", "query changed", "stands %", "catalogue brands stay %"], lines)
