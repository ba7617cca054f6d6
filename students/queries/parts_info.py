"""What a student of a query task keeps of each part: its threshold, its calibration, and how well it did on both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.students.calibration import Calibration, calibrated

_LEAST = 1e-6


@dataclass(frozen=True)
class PartInfo:
    """One part.

    Attributes:
        threshold: What :mod:`distill.students.queries.part_answers` compares scores with.
        threshold_source: ``audit gold`` or ``validation``, the held-out rows it was found on; ``none`` for the usual
            one.
        calibration: Of the confidence, on two classes: wrong and right.
        rows: Held-out rows that both were found on.
        right: Share of those rows that were answered exactly; of lists of texts, of the texts given, how many the truth
            has. None without any.
        over_corrected: Of a spelling, the share of right queries among them that the threshold lets change; None
            elsewhere.
        right_queries: How many those are.
        wanted: Of a spelling, the share asked for.
        learned: Training rows of which the part was known.
    """

    threshold: float
    threshold_source: str = "none"
    calibration: Calibration = field(default_factory=lambda: Calibration(method="none"))
    rows: int = 0
    right: float | None = None
    over_corrected: float | None = None
    right_queries: int = 0
    wanted: float | None = None
    learned: int = 0

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> PartInfo:
        """Reads it back from JSON."""
        return cls(**{**found, "calibration": Calibration.of_dict(found["calibration"])})

    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
        """``[N]``: how probable it is that answers are right, from what the network itself says of them, ``[N]``."""
        return np.asarray(calibrated(two_classes(probabilities), self.calibration)[:, 1])


def two_classes(probabilities: np.ndarray) -> np.ndarray:
    """``[N, 2]`` scores of wrong and right, of which the softmax gives the probabilities back."""
    known = np.clip(np.asarray(probabilities, dtype=np.float64), _LEAST, 1.0 - _LEAST)
    return np.stack([np.zeros_like(known), np.log(known) - np.log1p(-known)], axis=1)


def parts_told(parts: Mapping[str, PartInfo]) -> str:
    """One line: of how many rows each part was learned, and how it did on held-out rows."""
    said = []
    for name, info in parts.items():
        text = f"{name} from {info.learned:,} rows"
        if info.over_corrected is not None and info.wanted is not None:
            shown = "" if info.threshold_source != "none" else ", too few to promise it"
            text += (
                f", changes {info.over_corrected:.1%} of {info.right_queries:,} right queries (at most "
                f"{info.wanted:.1%} wanted{shown})"
            )
        said.append(text)
    return "; ".join(said)
