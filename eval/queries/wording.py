"""Names of the query tasks' metrics, what each means, and which are shown first."""

from __future__ import annotations

_LEVELS = range(1, 9)
QUERY_TITLES: dict[str, str] = {
    "corrected_right": "misspelled, set right",
    "left_alone": "right, left alone",
    "over_correction": "right, but changed",
    "brand_over_correction": "real brands changed",
    "change_precision": "changes that are right",
    "exact_match": "exactly right",
    "word_f05": "word F0.5",
    "span_f1": "span F1",
    "span_precision": "span precision",
    "span_recall": "span recall",
    "word_f1": "word F1",
    "linked_f1": "linked F1",
    "false_brand": "brand where none is",
    "micro_f1": "micro F1",
    "hierarchical_f1": "hierarchical F1",
    "list_f1": "same texts, F1",
    "list_precision": "texts that are given",
    "list_recall": "given texts found",
    "recall": "recall at 10",
    "recall_change": "recall gained",
    "ndcg": "nDCG at 10",
    "ndcg_change": "nDCG gained",
    "better": "queries better",
    "worse": "queries worse",
    "drift": "new ones irrelevant",
    "category_drift": "new ones of other categories",
    **{f"accuracy_{level}": f"accuracy, level {level}" for level in _LEVELS},
}
QUERY_MEANINGS: dict[str, str] = {
    "corrected_right": "of misspelled queries, the share corrected to what was meant",
    "left_alone": "of queries with nothing wrong, the share that is not changed",
    "over_correction": "of queries with nothing wrong, the share that is changed (lower is better)",
    "brand_over_correction": "of queries with a real brand, the share whose correction loses it (lower is better)",
    "change_precision": "of queries that it changes, the share changed to what was meant",
    "exact_match": "of all queries, the share whose answer is the true one, case and spaces apart",
    "word_f05": "F of word edits, where a wrong change counts more than a missed one (CoNLL-2014)",
    "span_f1": "F1 of spans with the right start, end and type",
    "span_precision": "of spans named, the share that is right",
    "span_recall": "of true spans, the share found",
    "word_f1": "F1 of words marked, so that a span cut short is a part of a hit",
    "linked_f1": "F1 of the list's brands named, wherever they stand",
    "false_brand": "of queries without a brand, the share in which one is named (lower is better)",
    "micro_f1": "F1 of labels over all queries together",
    "hierarchical_f1": "F1 with the branches above each label counted too, so that a near miss is a part of a hit",
    "list_f1": "F1 of texts that are among the true ones; other good rewrites count as wrong",
    "list_precision": "of texts given, the share among the true ones",
    "list_recall": "of true texts, the share given",
    "recall": "of relevant products, the share that BM25 finds in the first 10 with query and expansions",
    "recall_change": "that less the same with the query alone",
    "ndcg": "nDCG of the first 10 that BM25 finds with query and expansions; unjudged products count as irrelevant",
    "ndcg_change": "that less the same with the query alone",
    "better": "share of queries whose nDCG goes up",
    "worse": "share of queries whose nDCG goes down (lower is better)",
    "drift": "of judged products that expansions newly bring up, the share that is irrelevant (lower is better)",
    "category_drift": "of products that they newly bring up, the share of a category that the query's own do not have "
    "(lower is better)",
    **{
        f"accuracy_{level}": f"share of queries whose first category agrees with a true one down to level {level}"
        for level in _LEVELS
    },
}
QUERY_PERCENT = frozenset(QUERY_TITLES) - {"word_f05", "recall", "recall_change", "ndcg", "ndcg_change"}
