"""A linear model on how query and listing match, beside a student's network: wide and deep.

Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems". There both are trained together; here the linear
model is fitted by itself on the same labels, and its scores are mixed into those of the trained network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.students.matching import match_feature_names, match_features
from distill.students.similarity import SIMILARITY_FOLDER, SIMILARITY_NAMES, Similarity
from distill.students.wide_config import WideSection

WIDE_FILE = "wide.json"
DEFAULT_SHARE = 0.5
"""Where nothing held out shows another share to be better."""
_SHARES = tuple(step / 10 for step in range(11))
MOST_ROWS = 50_000
"""Rows that some twenty coefficients a label are fitted on, at most."""
_MAX_CHARACTERS = 2000
_TOGETHER = 2048
"""Rows whose texts, and the states of whose tokens, are in memory together: some 100 MB."""
_FARTHEST = 4.0
"""Standard deviations from the mean that a feature counts for, at most."""
_FEWEST_GROUPS = 5
"""Held-out groups below which their losses say nothing of the share."""


@dataclass(frozen=True)
class WidePart:
    """A fitted linear model.

    Attributes:
        inputs: The query's column, then the listing's.
        names: Of the features, in the order of the coefficients.
        centre: ``[F]`` means of the training rows.
        scale: ``[F]`` standard deviations.
        weights: ``[F, K]``.
        bias: ``[K]``.
        share: Of its scores in the student's.
        similarity: The sentence encoder behind the last features; None without one.
    """

    inputs: tuple[str, ...]
    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    share: float
    similarity: Similarity | None = None

    def logits(self, rows: pl.DataFrame, *, bf16: bool = False) -> np.ndarray:
        """Scores of the labels, ``[N, K]`` float32.

        Args:
            rows: The inputs.
            bf16: As for :meth:`Similarity.features`.
        """
        features = wide_features(rows, self.inputs, similarity=self.similarity, bf16=bf16)
        return (self._standard(features) @ self.weights + self.bias).astype(np.float32)

    def mixed(self, deep: np.ndarray, wide: np.ndarray) -> np.ndarray:
        """The student's scores from those of its network and these, ``[N, K]`` float32."""
        return mix(deep, wide, self.share).astype(np.float32)

    @property
    def parameters(self) -> int:
        """Coefficients, and the parameters of the sentence encoder."""
        encoder = 0 if self.similarity is None else self.similarity.parameters
        return self.weights.size + self.bias.size + encoder

    def save(self, folder: Path) -> None:
        """Writes ``wide.json``, and the sentence encoder in a folder beside it."""
        found = {
            "inputs": self.inputs,
            "features": self.names,
            "share": self.share,
            "similarity": SIMILARITY_FOLDER if self.similarity is not None else None,
            **{name: getattr(self, name).tolist() for name in ("centre", "scale", "weights", "bias")},
        }
        (folder / WIDE_FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if self.similarity is not None:
            self.similarity.save(folder / SIMILARITY_FOLDER)

    @classmethod
    def load(cls, folder: Path) -> WidePart | None:
        """Reads what :meth:`save` wrote; None where a student has none.

        Raises:
            StudentError: It is not whole.
        """
        path = folder / WIDE_FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            centre, scale, weights, bias = (np.array(found[name]) for name in ("centre", "scale", "weights", "bias"))
            inputs, names = tuple(found["inputs"]), tuple(found["features"])
            part = cls(inputs, names, centre, scale, weights, bias, share=float(found["share"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudentError(f"{path}: cannot be read ({error}); copy it again, or train the student again") from None
        if names != tuple(wide_names(inputs, similar=bool(found.get("similarity")))):
            raise StudentError(f"{path}: has features that this version does not know; train the student again")
        if found.get("similarity"):
            return replace(part, similarity=Similarity.load(folder / str(found["similarity"])))
        return part

    def _standard(self, features: np.ndarray) -> np.ndarray:
        return np.clip((features - self.centre) / self.scale, -_FARTHEST, _FARTHEST)


def fit_wide(section: WideSection, rows: pl.DataFrame, *, inputs: Sequence[str], seed: int) -> WidePart:
    """Fits the linear model by maximum likelihood of soft labels under an L2 penalty (multinomial logistic regression).

    Args:
        section: Its settings.
        rows: Inputs, ``target`` List[f64] and ``weight``; a sample of 50,000 where there are more.
        inputs: The query's column, then the listing's.
        seed: Of the sample.

    Raises:
        StudentError: The sentence encoder cannot be loaded.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]
    from scipy.special import log_softmax  # type: ignore[import-untyped]

    if rows.height > MOST_ROWS:
        rows = rows.sample(MOST_ROWS, seed=seed)
    similarity = Similarity.load(section.similarity) if section.similarity is not None else None
    features = wide_features(rows, inputs, similarity=similarity)
    target, weight = np.array(rows["target"].to_list()), rows["weight"].to_numpy()
    weight = weight / weight.sum()
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    standard = np.clip((features - centre) / scale, -_FARTHEST, _FARTHEST)
    (width, classes), start = (features.shape[1], target.shape[1]), np.log(weight @ target + 1e-6)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-classes].reshape(width, classes), parameters[-classes:]
        log_probs = log_softmax(standard @ weights + bias, axis=1)
        value = -float(weight @ (target * log_probs).sum(axis=1)) + section.penalty / 2 * float((weights**2).sum())
        # Of a target that sums to one; the gradient of log softmax.
        slope = weight[:, None] * (np.exp(log_probs) - target)
        return value, np.concatenate([(standard.T @ slope + section.penalty * weights).ravel(), slope.sum(axis=0)])

    found = minimize(loss, np.concatenate([np.zeros(width * classes), start]), jac=True, method="L-BFGS-B").x
    return WidePart(
        tuple(inputs),
        tuple(wide_names(inputs, similar=similarity is not None)),
        centre,
        scale,
        found[:-classes].reshape(width, classes),
        found[-classes:],
        share=DEFAULT_SHARE if section.share is None else section.share,
        similarity=similarity,
    )


def best_share(
    deep: np.ndarray, wide: np.ndarray, target: np.ndarray, *, group: np.ndarray, weight: np.ndarray
) -> float:
    """The linear model's share in the scores: a half, or another that held-out rows show to be better.

    The share nearest to a half whose mean log loss is within one standard error of the best share's, both losses taken
    on the same rows, the error over groups: a handful of queries moves nothing, thousands decide.

    Args:
        deep: ``[N, K]`` scores of the network on rows that neither learned from.
        wide: ``[N, K]`` scores of the linear model.
        target: ``[N, K]`` what is right, summing to one.
        group: ``[N]`` groups of the rows.
        weight: ``[N]`` of the rows.
    """
    from scipy.special import log_softmax

    names, numbers = np.unique(group, return_inverse=True)
    if len(names) < _FEWEST_GROUPS:
        return DEFAULT_SHARE
    by_group = []
    for share in _SHARES:
        loss = -(target * log_softmax(mix(deep, wide, share), axis=1)).sum(axis=1)
        by_group.append(np.bincount(numbers, weights=weight * loss, minlength=len(names)))
    losses = np.array(by_group) * len(names) / weight.sum()  # [shares, groups]; the mean over groups is the mean loss
    best = int(losses.mean(axis=1).argmin())
    excess = losses - losses[best]
    error = excess.std(axis=1, ddof=1) / np.sqrt(len(names))
    allowed = [share for number, share in enumerate(_SHARES) if excess[number].mean() <= error[number]]
    return min(allowed, key=lambda share: abs(share - DEFAULT_SHARE))


def mix(deep: np.ndarray, wide: np.ndarray, share: float) -> np.ndarray:
    """Scores of both, ``[N, K]``: a weighted product of the two distributions."""
    return (1.0 - share) * deep + share * wide


def wide_names(inputs: Sequence[str], *, similar: bool) -> list[str]:
    """Names of the columns of :func:`wide_features`."""
    return [*match_feature_names(inputs), *(SIMILARITY_NAMES if similar else ())]


def wide_features(
    rows: pl.DataFrame, inputs: Sequence[str], *, similarity: Similarity | None = None, bf16: bool = False
) -> np.ndarray:
    """Match features of each row, and how near query and first listing input are, ``[N, F]``.

    Args:
        rows: The inputs; a missing value counts as empty.
        inputs: The query's column, then the listing's.
        similarity: A sentence encoder.
        bf16: As for :meth:`Similarity.features`.
    """
    parts = [
        _features(rows[start : start + _TOGETHER], inputs, similarity=similarity, bf16=bf16)
        for start in range(0, rows.height, _TOGETHER)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(wide_names(inputs, similar=similarity is not None))))


def _features(rows: pl.DataFrame, inputs: Sequence[str], *, similarity: Similarity | None, bf16: bool) -> np.ndarray:
    texts = [
        [text[:_MAX_CHARACTERS] for text in row]
        for row in rows.select(pl.col(list(inputs)).cast(pl.String).fill_null("")).iter_rows()
    ]
    names = match_feature_names(inputs)
    found = np.array([match_features(query, listing) for query, *listing in texts], dtype=np.float64).reshape(
        len(texts), len(names)
    )
    if similarity is None:
        return found
    near = similarity.features([row[0] for row in texts], [row[1] for row in texts], bf16=bf16)
    return np.column_stack([found, near])
