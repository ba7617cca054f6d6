"""Categories: labels that are paths, ``A > B > C``, and the tree that they make.

A node is a path, or the beginning of one. The probability of a node is the sum of those of the labels at and below it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

SEPARATOR = " > "
"""Stands between the parts of a label that is a path."""

_AROUND = re.compile(r"\s*>\s*")
_SPACES = re.compile(r"\s+")


class CategoryTree:
    """The tree of a label set. Labels that are no paths are leaves beside each other.

    Args:
        labels: In the task's order. A label may lie above another one: it then stands for itself alone.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._place = {label: place for place, label in enumerate(self.labels)}

    @cached_property
    def below(self) -> dict[str, tuple[int, ...]]:
        """Places of the labels at and below each node, by node; parents stand before what is below them."""
        found: dict[str, list[int]] = {}
        for place, label in enumerate(self.labels):
            for node in path_of(label):
                found.setdefault(node, []).append(place)
        return {node: tuple(places) for node, places in found.items()}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Nodes directly below each node, in order; those of the first level stand under the empty text."""
        found: dict[str, list[str]] = {}
        for node in self.below:
            found.setdefault(SEPARATOR.join(node.split(SEPARATOR)[:-1]), []).append(node)
        return {node: tuple(children) for node, children in found.items()}

    def find(self, stated: str) -> str | None:
        """The node that a text stands for; None where there is none, or several.

        Taken: a path with any spaces around ``>``, in any case; the last part of one, where only one label ends so. A
        branch with one label below it is that label.
        """
        node = self._forms.get(_form(stated)) or self._endings.get(_form(stated))
        if node is not None and node not in self._place and len(self.below[node]) == 1:
            return self.labels[self.below[node][0]]
        return node

    @cached_property
    def _forms(self) -> dict[str, str]:
        # A label goes before a branch that is written alike.
        return {_form(node): node for node in sorted(self.below, key=lambda node: node in self._place)}

    @cached_property
    def _endings(self) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for label in self.labels:
            found.setdefault(_form(label.rsplit(SEPARATOR, 1)[-1]), []).append(label)
        return {ending: labels[0] for ending, labels in found.items() if len(labels) == 1}

    def shares(self, node: str) -> dict[int, float]:
        """What a vote for a node gives to each label, by place.

        All to the label itself; a branch shares evenly among the labels below it. So a vote for a branch supports the
        branch wholly, and each label under it in part.
        """
        if node in self._place:
            return {self._place[node]: 1.0}
        places = self.below[node]
        return dict.fromkeys(places, 1 / len(places))


@lru_cache(maxsize=16)
def tree_of_labels(labels: tuple[str, ...]) -> CategoryTree:
    """The tree of a label set, made once."""
    return CategoryTree(labels)


def path_of(label: str) -> list[str]:
    """The nodes on the way to a label, from the first level to the label itself."""
    parts = label.split(SEPARATOR)
    return [SEPARATOR.join(parts[: depth + 1]) for depth in range(len(parts))]


def read_categories(source: Path | Sequence[str]) -> tuple[str, ...]:
    """Reads categories: one a line of a file, or a list.

    Parts of a path are parted by ``>``. Empty lines, and those that begin with ``#``, are left out.

    Raises:
        ValueError: The file cannot be read, there are fewer than two, or one repeats.
    """
    if isinstance(source, Path):
        try:
            lines = source.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source}: cannot be read as UTF-8 text ({error}); give one category a line") from None
        lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    else:
        lines = list(source)
    labels = [_AROUND.sub(SEPARATOR, _SPACES.sub(" ", unicodedata.normalize("NFC", line)).strip()) for line in lines]
    if len(labels) < 2:
        raise ValueError(f"need at least two categories, got {labels}")
    if repeated := {label for label in labels if labels.count(label) > 1} if len(set(labels)) < len(labels) else ():
        raise ValueError(f"categories repeat: {sorted(repeated)[:5]}; name each once")
    return tuple(labels)


def _form(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).strip(" \t\r\n\"'`*.")
    return _AROUND.sub(SEPARATOR, _SPACES.sub(" ", plain)).casefold()
