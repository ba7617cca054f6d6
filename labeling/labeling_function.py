"""Labeling functions: plain Python functions that label a row or abstain, in the vocabulary of Snorkel.

Ratner et al. 2017, "Snorkel: Rapid Training Data Creation with Weak Supervision" (arXiv:1711.10160).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeAlias, overload

ABSTAIN = None
"""What a labeling function returns where it cannot tell."""

Row: TypeAlias = Mapping[str, str]
"""A row's inputs by name, as the task names them: text, empty where nothing is known. It cannot be written to."""
ClosedVerdict: TypeAlias = str | Mapping[str, float] | None
"""What a labeling function says of one label of a closed set: it, a probability per label, or :data:`ABSTAIN`."""
Verdict: TypeAlias = str | Mapping[str, Any] | Sequence[Any] | AbstractSet[str] | None
"""What a labeling function says, by the kind of the task, or :data:`ABSTAIN`.

One label: a label, or a probability per label. Several: a list or set of labels, empty for none, or the probability of
each to be among them. A text: the text. A ranked list: texts, the best first. Spans: a list of substrings of the input,
of ``(start, end)`` or ``(start, end, type)``, or of mappings with ``text``, ``start``, ``end``, ``type``, ``link``;
empty for none. Several parts: a mapping of such answers by part; a part that is left out, or None, is one that it
cannot tell. :class:`Stated` wraps an answer of no single label to say how sure the function is of it.
"""


class Stated(NamedTuple):
    """An answer of a labeling function to a task of no single label, and how likely it is right, from 0 to 1.

    In a mapping by part each part may have its own.
    """

    answer: Any
    confidence: float


class LabelingFunction:
    """A function that labels a row or abstains, with the name and family of the teacher that it becomes.

    Made by :func:`labeling_function`; can be called like the function itself, so that it can be tried on one row.

    Attributes:
        name: Of the teacher.
        family: Functions that look at the same evidence err together and share a family; None where its section of
            the recipe, or its own name, says so.
        version: Changes its answers' keys: for what its own file does not show, such as a word list read elsewhere.
        function: The function itself.
    """

    def __init__(
        self, function: Callable[[Row], Verdict], *, name: str, family: str | None = None, version: str = ""
    ) -> None:
        self.name = name
        self.family = family
        self.version = version
        self.function = function
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function  # where inspect looks for the source

    def __call__(self, row: Row) -> Verdict:
        """What it says of a row."""
        return self.function(row)

    def __repr__(self) -> str:
        return f"LabelingFunction({self.name!r})"

    @property
    def code(self) -> bytes:
        """What its answers follow from: its source, or its bytecode where it has none (typed into a prompt)."""
        try:
            return inspect.getsource(self.function).encode("utf-8", "surrogatepass")
        except (OSError, TypeError):
            code: Any = getattr(self.function, "__code__", None)
            return (
                repr((code.co_code, code.co_consts, code.co_names)).encode() if code else repr(self.function).encode()
            )


@overload
def labeling_function(function: Callable[[Row], Verdict]) -> LabelingFunction: ...


@overload
def labeling_function(
    *, name: str | None = None, family: str | None = None, version: str = ""
) -> Callable[[Callable[[Row], Verdict]], LabelingFunction]: ...


def labeling_function(
    function: Callable[[Row], Verdict] | None = None,
    *,
    name: str | None = None,
    family: str | None = None,
    version: str = "",
) -> LabelingFunction | Callable[[Callable[[Row], Verdict]], LabelingFunction]:
    """Makes a labeling function of a plain one.

    It takes the row (a read-only mapping of the task's inputs and evidence to text) and returns a label, a probability
    per label, or :data:`ABSTAIN`; for tasks of other kinds see :data:`Verdict`. The same row has to get the same
    answer, whatever was asked before.

    Example::

        @distill.labeling_function(family="wording")
        def spare_part(row):
            return "complement" if "replacement" in row["title"].casefold() else distill.ABSTAIN

    Args:
        function: The function, where the decorator stands without brackets.
        name: Of the teacher; the function's own where none is given.
        family: As in :class:`LabelingFunction`.
        version: As in :class:`LabelingFunction`.
    """

    def made(plain: Callable[[Row], Verdict]) -> LabelingFunction:
        own = str(name or getattr(plain, "__name__", "function"))
        return LabelingFunction(plain, name=own, family=family, version=version)

    return made if function is None else made(function)
