"""Clauses of judges who cite none, read off their reasons: named by number, or said in the clause's own words.

An attributed clause is a guess. It is used only for judges who never cite one themselves, and is marked as attributed
wherever it is shown. How often the guess is right was measured on the 1,920 reasons of the quickstart's ``careful``,
which cites clauses itself (``benchmarks/attributed_clauses.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from distill.labeling.guideline import Clause, Guideline

LIKENESS = 0.15
"""Cosine of a reason and a clause from which the clause is attributed: the lowest of those tried at which three of four
are clauses that the judge cited itself, on one half of the quickstart's queries; measured on the other half."""
MOST_CLAUSES = 2
"""Clauses attributed by likeness to one reason, at most."""
_NUMBER = re.compile(r"(?<![\w-])[A-Z]{1,3}\d{1,3}(?![\w-])")


def attribute_clauses(said: pl.DataFrame, rows: pl.DataFrame, *, guideline: Guideline) -> pl.DataFrame:
    """Fills ``clauses`` of judges who give reasons and never cite.

    Args:
        said: ``row_id``, ``teacher``, ``trace``, ``clauses``; a line a judge and row.
        rows: The rows table: a number that stands in the listing ("Galaxy S2") names no clause.
        guideline: Whose clauses are looked for.

    Returns:
        ``said`` with ``clauses`` filled and a column ``attributed``, true where they were.
    """
    cites = (pl.col("clauses").list.len().fill_null(0) > 0).any().over("teacher")
    silent = said.with_row_index("_line").filter(~cites & (pl.col("trace").fill_null("") != ""))
    if silent.is_empty() or not guideline.clauses:
        return said.with_columns(attributed=pl.lit(False))
    texts = {
        row["row_id"]: row
        for row in rows.filter(pl.col("row_id").is_in(silent["row_id"].to_list())).iter_rows(named=True)
    }
    named = [
        _named(trace, guideline, texts.get(row_id, {}).values())
        for row_id, trace in silent.select("row_id", "trace").iter_rows()
    ]
    alike = clauses_alike(silent["trace"].to_list(), guideline.clauses)
    found = [by_number or by_words for by_number, by_words in zip(named, alike, strict=True)]
    filled = silent.select("_line", attributed_clauses=pl.Series(found, dtype=pl.List(pl.String)))
    filled = filled.filter(pl.col("attributed_clauses").list.len() > 0)
    joined = said.with_row_index("_line").join(filled, on="_line", how="left", maintain_order="left")
    return joined.with_columns(
        clauses=pl.coalesce("attributed_clauses", "clauses"), attributed=pl.col("attributed_clauses").is_not_null()
    ).drop("_line", "attributed_clauses")


def clauses_alike(traces: Sequence[str], clauses: Sequence[Clause], *, least: float = LIKENESS) -> list[list[str]]:
    """Ids of the clauses whose text a reason resembles, the likest first.

    TF-IDF of character 3- to 5-grams within words, with logarithmic term counts and inverse document frequencies over
    clauses and reasons together, so that words which every reason holds say nothing; cosine.

    Args:
        traces: The reasons.
        clauses: Their titles and texts are compared.
        least: Cosine below which nothing is attributed.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rules = [f"{clause.title}. {clause.text}" for clause in clauses]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    vectors = vectorizer.fit_transform([*rules, *traces])
    likeness = (vectors[len(rules) :] @ vectors[: len(rules)].T).toarray()
    order = (-likeness).argsort(axis=1, kind="stable")[:, :MOST_CLAUSES]
    return [
        [clauses[k].id for k in places if row[k] >= least] for row, places in zip(likeness, order.tolist(), strict=True)
    ]


def _named(trace: str, guideline: Guideline, listing: Iterable[object]) -> list[str]:
    numbers = [number for number in dict.fromkeys(_NUMBER.findall(trace)) if number in guideline.by_id]
    if not numbers:
        return []
    shown = set(_NUMBER.findall(" ".join(str(text).upper() for text in listing)))
    return [number for number in numbers if number not in shown]


def attribution_quality(
    attributed: Mapping[str, Sequence[str]], cited: Mapping[str, Sequence[str]]
) -> tuple[int, int, int, int]:
    """Compares guesses with what was really cited, row by row.

    Returns:
        Rows that got a guess; clauses guessed; of those, cited too; clauses cited in all rows.
    """
    guessed = sum(map(len, attributed.values()))
    right = sum(len(set(names) & set(cited[row])) for row, names in attributed.items())
    return sum(map(bool, attributed.values())), guessed, right, sum(map(len, cited.values()))
