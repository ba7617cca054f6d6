"""How good corrections of queries are. Texts are compared in NFKC, without case, and with white space made one."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from distill.eval.queries.metrics import Score, Tally, f_beta, ratio
from distill.labeling.answers.locating import folded

(_ALL, _WRONG, _WRONG_RIGHT, _GOOD, _GOOD_CHANGED, _CHANGED, _CHANGED_RIGHT, _RIGHT) = range(8)
(_EDIT_HITS, _EDITS_PREDICTED, _EDITS_GOLD, _BRANDED, _BRAND_CHANGED) = range(8, 13)


def spelling_tally(
    queries: Sequence[str],
    gold: Sequence[str],
    predicted: Sequence[str],
    *,
    brands: Sequence[Sequence[str]] | None = None,
) -> Tally:
    r"""Terms of the spelling metrics, a line a query.

    With t the query as typed, g what was meant, p the prediction:

    - ``corrected_right``: of queries with :math:`g \ne t`, the share with p = g (recall of errors).
    - ``left_alone``: of queries with g = t, the share with p = t; ``over_correction`` is the rest.
    - ``change_precision``: of queries with :math:`p \ne t`, the share with p = g.
    - ``exact_match``: of all queries, the share with p = g.
    - ``word_f05``: F with β = 1/2 of word edits from t, those to p against those to g, so that a wrong change counts
      more than a missed one (Ng et al. 2014, "The CoNLL-2014 Shared Task on Grammatical Error Correction"): see
      :func:`word_edits`.
    - ``brand_over_correction``: of queries with a real brand that g keeps, the share where p does not keep it; only
      where brands are given.

    Args:
        queries: As typed.
        gold: As meant.
        predicted: As predicted.
        brands: Real brands in each query, as written there; empty where it has none.
    """
    typed, meant, said = ([folded(text) for text in texts] for texts in (queries, gold, predicted))
    terms = np.zeros((len(typed), 13))
    for line, t, g, p in zip(terms, typed, meant, said, strict=True):
        wrong, changed, right = g != t, p != t, p == g
        line[:8] = (1, wrong, wrong and right, not wrong, not wrong and changed, changed, changed and right, right)
        predicted_edits, gold_edits = word_edits(t, p), word_edits(t, g)
        line[8:11] = len(predicted_edits & gold_edits), len(predicted_edits), len(gold_edits)
    scores: dict[str, Score] = {
        "corrected_right": ratio(_WRONG_RIGHT, _WRONG),
        "left_alone": lambda sums: 1 - ratio(_GOOD_CHANGED, _GOOD)(sums),
        "over_correction": ratio(_GOOD_CHANGED, _GOOD),
        "change_precision": ratio(_CHANGED_RIGHT, _CHANGED),
        "exact_match": ratio(_RIGHT, _ALL),
        "word_f05": f_beta(_EDIT_HITS, _EDITS_PREDICTED, _EDITS_GOLD, beta=0.5),
    }
    about = {"corrected_right": _WRONG, "left_alone": _GOOD, "over_correction": _GOOD, "change_precision": _CHANGED}
    if brands is not None:
        for line, names, g, p in zip(terms, brands, meant, said, strict=True):
            kept = [name for name in map(_squeezed, names) if name and name in _squeezed(g)]
            line[_BRANDED] = bool(kept)
            line[_BRAND_CHANGED] = any(name not in _squeezed(p) for name in kept)
        scores["brand_over_correction"] = ratio(_BRAND_CHANGED, _BRANDED)
        about["brand_over_correction"] = _BRANDED
    return Tally(terms, scores, {name: terms[:, column] for name, column in about.items()})


def word_edits(before: str, after: str) -> set[tuple[int, int, str]]:
    """Edits that make one text of another: words ``start`` to ``end`` (exclusive) replaced by a text.

    Words are aligned by their longest common runs; where as many words come as go, each is an edit of its own.
    """
    old, new = before.split(), after.split()
    edits = set()
    for tag, low, high, from_, to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if high - low == to - from_:
            edits |= {(low + at, low + at + 1, new[from_ + at]) for at in range(high - low)}
        else:
            edits.add((low, high, " ".join(new[from_:to])))
    return edits


def _squeezed(text: str) -> str:
    return "".join(folded(text).split())
