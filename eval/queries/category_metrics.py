"""How good categories of queries are, where categories are places in a tree and a query may have several."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from distill.eval.metrics import Floats
from distill.eval.queries.metrics import Score, Tally, f_beta, ratio

SEPARATOR = ">"
_FLAT = 6


def category_tally(
    gold: Sequence[Collection[str]], predicted: Sequence[Sequence[str]], *, separator: str = SEPARATOR
) -> Tally:
    r"""Terms of the category metrics, a line a query. Labels are paths such as ``Home > Kitchen > Kettles``.

    - ``accuracy_1``, ``accuracy_2``, …: of queries with a true category of at least d levels, the share whose first
      prediction agrees with one of the true ones in the first d parts. A prediction that stops above d is wrong there.
    - ``micro_f1``: :math:`2 \sum_q |P_q \cap G_q| / \sum_q (|P_q| + |G_q|)` over sets of whole labels.
    - ``macro_f1``: the mean of each label's F1, over labels that occur in gold or in predictions; in a resample, over
      those that occur in it.
    - ``hierarchical_f1``: the same as ``micro_f1`` with each label's ancestors added to both sets, so that a near miss
      in the tree is a part of a hit (Kiritchenko, Matwin, Nock & Famili 2006).

    Args:
        gold: True categories by query; queries with none count only against what is predicted for them.
        predicted: Predicted ones by query, best first; empty for no answer.
        separator: Between the parts of a path.
    """
    true = [{_path(label, separator) for label in labels} for labels in gold]
    said = [[_path(label, separator) for label in labels] for labels in predicted]
    depth = max((len(path) for paths in true for path in paths), default=0)
    names = sorted({path for paths in [*true, *said] for path in paths})
    place = {path: at for at, path in enumerate(names)}
    levels, labels = _FLAT, _FLAT + 2 * depth
    terms = np.zeros((len(true), labels + 3 * len(names)))
    for line, paths, ranked in zip(terms, true, said, strict=True):
        line[:3] = len(paths & set(ranked)), len(set(ranked)), len(paths)
        wide, narrow = _with_ancestors(ranked), _with_ancestors(paths)
        line[3:6] = len(wide & narrow), len(wide), len(narrow)
        for level in range(1, depth + 1):
            deep = {path[:level] for path in paths if len(path) >= level}
            line[levels + 2 * level - 2] = bool(deep) and bool(ranked) and ranked[0][:level] in deep
            line[levels + 2 * level - 1] = bool(deep)
        for column, group in enumerate((paths & set(ranked), set(ranked), paths)):
            line[[labels + 3 * place[path] + column for path in group]] = 1
    scores: dict[str, Score] = {
        f"accuracy_{level}": ratio(levels + 2 * level - 2, levels + 2 * level - 1) for level in range(1, depth + 1)
    }
    counted = {f"accuracy_{level}": terms[:, levels + 2 * level - 1] for level in range(1, depth + 1)}
    scores |= {"micro_f1": f_beta(0, 1, 2), "macro_f1": _macro(labels), "hierarchical_f1": f_beta(3, 4, 5)}
    return Tally(terms, scores, counted)


def _macro(start: int) -> Score:
    def score(sums: Floats) -> Floats:
        by_label = sums[..., start:].reshape(*sums.shape[:-1], -1, 3)
        occurs = by_label[..., 1] + by_label[..., 2]
        each = np.divide(2 * by_label[..., 0], occurs, out=np.zeros_like(occurs), where=occurs > 0)
        present = (occurs > 0).sum(axis=-1)
        return np.divide(each.sum(axis=-1), present, out=np.full(present.shape, np.nan), where=present > 0)

    return score


def _path(label: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip().casefold() for part in label.split(separator) if part.strip())


def _with_ancestors(paths: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
