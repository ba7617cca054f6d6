"""How good brand spans are: as spans, as words, and as brands that they are linked to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from distill.eval.queries.metrics import Score, Tally, f_beta, ratio
from distill.labeling.answers.locating import folded
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.query_words import words

(_HITS, _PREDICTED, _GOLD, _WORD_HITS, _WORDS_PREDICTED, _WORDS_GOLD, _LINK_HITS, _LINKS_PREDICTED, _LINKS_GOLD) = (
    range(9)
)
_BARE, _BARE_TAGGED = 9, 10


def brand_tally(
    queries: Sequence[str],
    gold: Sequence[Collection[Span]],
    predicted: Sequence[Collection[Span]],
    *,
    linked: tuple[Sequence[Collection[str]], Sequence[Collection[str]]] | None = None,
) -> Tally:
    """Terms of the brand metrics, a line a query. All are micro: hits, predictions and gold are summed over queries.

    - ``span_f1``, ``span_precision``, ``span_recall``: a hit is a span with the same start, end and label (CoNLL-2003).
    - ``word_f1``: a hit is a word that both mark with the same label: partial credit for a span that is cut short.
    - ``linked_f1``: a hit is a brand of the list that both name, wherever it stands; only where names are given.
    - ``false_brand``: of queries without a brand, the share in which one is tagged.

    Args:
        queries: The texts.
        gold: True spans by query.
        predicted: Predicted spans by query.
        linked: Names of brands by query, true and predicted; compared without case.
    """
    terms = np.zeros((len(queries), 11))
    for line, query, true, said in zip(terms, queries, gold, predicted, strict=True):
        line[:3] = _overlap(set(true), set(said))
        line[3:6] = _overlap(_marked(query, true), _marked(query, said))
        line[_BARE], line[_BARE_TAGGED] = not true, not true and bool(said)
    scores: dict[str, Score] = {
        "span_f1": f_beta(_HITS, _PREDICTED, _GOLD),
        "span_precision": ratio(_HITS, _PREDICTED),
        "span_recall": ratio(_HITS, _GOLD),
        "word_f1": f_beta(_WORD_HITS, _WORDS_PREDICTED, _WORDS_GOLD),
        "false_brand": ratio(_BARE_TAGGED, _BARE),
    }
    counted = {"span_precision": terms[:, _PREDICTED], "span_recall": terms[:, _GOLD], "false_brand": terms[:, _BARE]}
    if linked is not None:
        for line, true_names, said_names in zip(terms, *linked, strict=True):
            line[6:9] = _overlap(set(map(folded, true_names)), set(map(folded, said_names)))
        scores["linked_f1"] = f_beta(_LINK_HITS, _LINKS_PREDICTED, _LINKS_GOLD)
    return Tally(terms, scores, counted)


def _overlap(
    true: set[object] | set[str] | set[Span], said: set[object] | set[str] | set[Span]
) -> tuple[int, int, int]:
    return len({*true} & {*said}), len(said), len(true)


def _marked(query: str, spans: Collection[Span]) -> set[object]:
    """Words that overlap a span, with its label."""
    return {
        (word.start, span.label)
        for word in words(query)
        for span in spans
        if word.start < span.end and span.start < word.end
    }
