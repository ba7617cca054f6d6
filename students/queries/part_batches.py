"""Targets of the heads of a query encoder, as numbers of an example and as tensors of a batch.

They stand in an example under ``part:what``, and keep their names in a batch, padded:

======== =====================================================================================
head     in a batch
======== =====================================================================================
edits    ``replace``, ``append`` ``[B, 3, N]`` and ``share`` ``[B, 3]``: up to three corrections; with a corrector
         as others, the options being its readings
spans    ``marks`` ``[B, T, M]`` of pieces or words, distributions; nothing on padding
others   ``ids``, ``shares`` ``[B, most]``: options and the share of each; share 0 is padding
======== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.labeling.answers.locating import folded
from distill.students.network import Example
from distill.students.queries.asked_task import head_kind
from distill.students.queries.bio import Marked, marked_places, marks_of
from distill.students.queries.letters import changes, edits_to, letters_of

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.queries.encoder import QueryNetwork
    from distill.students.queries.readings import Readings

CORRECTIONS = 3
"""Corrections of a row that are learned, those with the most weight."""
_MOST_UNSAID = 0.5
"""A row whose corrections cannot be said teaches nothing of spelling: to learn the rest would be to learn to keep."""


class TargetMaker:
    """Makes the targets of a network's heads.

    Args:
        network: Whose heads.
    """

    def __init__(self, network: QueryNetwork) -> None:
        self._network = network
        self._places: dict[str, dict[str, int]] = {}
        for name, single in network.parts.items():
            kind = head_kind(single)
            if kind == "paths":
                options: Sequence[str] = network.options(name).options
            elif kind == "labels":
                options = single.labels
            elif kind == "ranking":
                options = [folded(text) for text in network.vocabulary.texts[name]]
            else:
                continue
            self._places[name] = {option: place for place, option in enumerate(options)}

    def targets(self, example: Example, source: str, answers: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Targets of an example; of a part without an answer they are there and say nothing.

        Args:
            example: As the network read it.
            source: The text that spans and corrections are of.
            answers: By part, see :mod:`distill.students.queries.part_targets`.
        """
        found: dict[str, np.ndarray] = {}
        for name, single in self._network.parts.items():
            kind, answer = head_kind(single), answers.get(name)
            if kind == "edits" and self._network.vocabulary.readings is not None:
                own = _reading(self._network.vocabulary.readings, source, answer or ())
            elif kind == "edits":
                own = self._edits(example, source, answer or ())
            elif kind == "spans":
                own = _marks(example, answer, types=len(single.types))
            else:
                own = self._options(name, answer, kind)
            found |= {f"{name}:{what}": numbers for what, numbers in own.items()}
        return found

    def _edits(self, example: Example, source: str, answer: Sequence[Any]) -> dict[str, np.ndarray]:
        alphabet = self._network.vocabulary.alphabet
        assert alphabet is not None
        length = len(example["letter_ids"])
        replace, append = (np.zeros((CORRECTIONS, length), dtype=np.int64) for _ in range(2))
        share = np.zeros(CORRECTIONS, dtype=np.float32)
        letters = letters_of(source).letters
        place, unsaid = 0, 0.0
        for text, weight in sorted(answer, key=lambda pair: -pair[1])[:CORRECTIONS]:
            if changes(source, text):
                numbers = alphabet.numbers(edits_to(letters, text)) if len(letters) < length else None
                if numbers is None:
                    unsaid += weight
                    continue
                replace[place], append[place] = numbers
            share[place] = weight
            place += 1
        if unsaid >= _MOST_UNSAID:
            share[:] = 0.0
        elif share.sum() > 0:
            share /= share.sum()
        return {"replace": replace.ravel(), "append": append.ravel(), "share": share}

    def _options(self, name: str, answer: Sequence[Any] | None, kind: str) -> dict[str, np.ndarray]:
        places = self._places[name]
        pairs = list(answer or ())
        if kind == "ranking":
            pairs = [(folded(text), weight) for text, weight in pairs]
            if answer is not None and not pairs:
                # Beside the texts the head has one option that stands for none.
                return {"ids": np.array([len(places)]), "shares": np.ones(1, dtype=np.float32)}
        known = [(places[text], weight) for text, weight in pairs if text in places]
        shares = np.array([weight for _, weight in known], dtype=np.float32)
        if kind == "ranking" and shares.sum() > 0:
            shares /= shares.sum()
        return {"ids": np.array([place for place, _ in known], dtype=np.int64), "shares": shares}


def padded_targets(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Lays targets out in a batch; nothing where the examples have none."""
    import torch

    found = {}
    for name in (name for name in examples[0] if ":" in name):
        what = name.rpartition(":")[2]
        if what in ("replace", "append"):
            arrays = [example[name].reshape(CORRECTIONS, -1).T for example in examples]
        elif what == "marks":
            arrays = [example[name].reshape(len(marked_places(example).starts), -1) for example in examples]
        else:
            arrays = [example[name] for example in examples]
        longest = max(len(array) for array in arrays)
        table = np.zeros((len(arrays), max(longest, 1), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for line, array in enumerate(arrays):
            table[line, : len(array)] = array
        tensor = torch.from_numpy(table)
        found[name] = tensor.transpose(1, 2) if what in ("replace", "append") else tensor
    return found


def _reading(readings: Readings, source: str, answer: Sequence[Any]) -> dict[str, np.ndarray]:
    """A correction that no reading is, or begins, teaches that none of them is better than the query."""
    pairs = sorted(answer, key=lambda pair: -pair[1])[:CORRECTIONS]
    total = sum(weight for _, weight in pairs)
    return {
        "ids": np.array([readings.nearest(source, text) for text, _ in pairs], dtype=np.int64),
        "shares": np.array([weight / total for _, weight in pairs], dtype=np.float32),
    }


def _marks(example: Example, answer: Sequence[Any] | None, *, types: int) -> dict[str, np.ndarray]:
    spans = [Marked(*span) for span in answer or ()]
    return {"marks": marks_of(spans, **marked_places(example)._asdict(), types=types).ravel()}
