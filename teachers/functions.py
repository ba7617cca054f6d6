"""Teachers that compute their answer from the row: labeling functions and declarative rules."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic_core import from_json, to_json

from distill.labeling.errors import BadReplyError, FunctionRaisedError
from distill.labeling.labeling_function import LabelingFunction, Stated, Verdict
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Reply, Request, RequestHead
from distill.teachers.local_batches import LocalBatches

_ENDPOINT = "function"
_ROWS_AT_ONCE = 256
_MAX_SHOWN_CHARS = 200


class FunctionTeacher:
    """Answers by calling a function on the row's inputs, through the same engine and parser as any teacher.

    A request is a digest of what the function's answers follow from, and the row's inputs as they are fenced in the
    prompt: cleaned, and cut where they were too long. Editing the guideline asks nothing again. Rows are answered in a
    thread, so that a slow function holds up no other teacher. A function that raises fails that row and no other.

    Attributes:
        free: Its answers are not kept in the ledger: working them out again costs less than looking them up.
        batch_rows: How many rows it answers at a time; the engine keeps it supplied and looks for no better limit.

    Args:
        name: Of the teacher.
        function: Takes a read-only mapping of the inputs; gives a :data:`~distill.labeling.labeling_function.Verdict`.
        family: Of the teacher.
        basis: Everything but the row that the function's answers follow from, as text.
        keep: Whether answers are kept in the ledger.
    """

    max_concurrency: int | None = None
    batch_rows = _ROWS_AT_ONCE

    def __init__(
        self,
        name: str,
        function: Callable[[Mapping[str, str]], Verdict],
        *,
        family: str,
        basis: str,
        keep: bool = False,
    ) -> None:
        self.name = name
        self.family = family
        self.answer = AnswerFormat(clauses=False)
        self.free = not keep
        self._function = function
        hashed = hashlib.blake2b(basis.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        self._start = f"{hashed} ".encode()
        self._heads: dict[int, RequestHead] = {}
        self._batches: LocalBatches[Request, Reply] | None = None

    @classmethod
    def of(
        cls,
        function: LabelingFunction,
        *,
        section: str = "",
        family: str | None = None,
        file: str = "",
        keep: bool = False,
    ) -> FunctionTeacher:
        """The teacher of a labeling function.

        Args:
            function: The function.
            section: What its name stands under, ``section.function``; empty where it was not found in a recipe.
            family: Of a function that names none; else it is the section's name, or its own.
            file: Digest of the file that it stands in, where what it calls and looks up stands too.
            keep: Whether answers are kept in the ledger.
        """
        name = f"{section}.{function.name}" if section else function.name
        said = f"{file} {function.name} {function.version!r} {function.code.hex()}"
        return cls(name, function, family=function.family or family or section or name, basis=said, keep=keep)

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the row's inputs down, after what stands for the function."""
        head = self._heads.get(sample)
        if head is None:
            head = self._heads[sample] = RequestHead(_ENDPOINT, self._start, sample=sample)
        values = {**prompt.values, **prompt.evidence} if prompt.evidence else prompt.values
        return head.request(to_json(values), row_id=prompt.row_id)

    def read(self, reply: Reply) -> Completion:
        """The body is what the function returned, as JSON."""
        try:
            probs = from_json(reply.body).get("probs")
        except (ValueError, AttributeError):
            raise BadReplyError(f"teacher {self.name}: no verdict, got {reply.body[:_MAX_SHOWN_CHARS]!r}") from None
        return Completion(reply.body, probs=probs, probs_source="none" if probs is None else "model")

    async def ask(self, request: Request) -> Reply:
        """Calls the function in a thread, together with the other rows that wait. It costs nothing.

        Raises:
            FunctionRaisedError: The function raised.
        """
        assert self._batches is not None, "open() comes before ask()"
        return await self._batches(request)

    async def open(self) -> None:
        """Makes the thread."""
        self._batches = LocalBatches(self._answers, most=_ROWS_AT_ONCE)

    async def close(self) -> None:
        """Ends the thread."""
        if self._batches is not None:
            await self._batches.close()
            self._batches = None

    def _answers(self, requests: Sequence[Request]) -> list[Any]:
        """A reply for each request, or the error that the row ends in."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply | FunctionRaisedError:
        values = from_json(request.body[len(self._start) :])
        began_s = time.perf_counter()
        try:
            body = _body(self._function(MappingProxyType(values)))
        except (Exception, SystemExit) as error:  # one row's surprise must not end the run
            return FunctionRaisedError(f"teacher {self.name}: {_last_line(error, list(values))}")
        return Reply(body, time.perf_counter() - began_s, cost_usd=0.0)


def _body(verdict: Any) -> str:
    if isinstance(verdict, Stated):
        return _json({"label": _plain(verdict.answer), "confidence": float(verdict.confidence)})
    if isinstance(verdict, Mapping) and _are_shares(verdict.values()):
        # Numbers of NumPy and the like become plain ones.
        return json.dumps({"probs": {str(label): float(value) for label, value in verdict.items()}})
    if isinstance(verdict, Mapping):
        given = {str(part): answer for part, answer in verdict.items() if answer is not None}
        told = {part: _plain(one.answer if isinstance(one, Stated) else one) for part, one in given.items()}
        sure = {part: float(one.confidence) for part, one in given.items() if isinstance(one, Stated)}
        return _json({"parts": {**told, "confidence": sure} if sure else told})
    return _json({"label": _plain(verdict)})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _are_shares(values: Iterable[Any]) -> bool:
    """Whether a mapping gives a number to each label."""
    return all(hasattr(value, "__float__") and not isinstance(value, bool) for value in values)


def _plain(answer: Any) -> Any:
    """An answer as JSON can hold it: sets, tuples and spans become lists, in a fixed order."""
    if isinstance(answer, set | frozenset):
        return sorted(map(str, answer))
    if hasattr(answer, "_asdict"):  # a span of ours, or any named tuple
        return dict(answer._asdict())
    if isinstance(answer, list | tuple):
        return [_plain(item) for item in answer]
    return answer


def _last_line(error: BaseException, inputs: list[str]) -> str:
    """The last line of the traceback, and where in the user's code it was raised."""
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name}, in {frames[-1].name})"
        if len(frames) > 1
        else ""
    )
    if isinstance(error, KeyError) and error.args and error.args[0] not in inputs:
        place += f"; the row has {', '.join(inputs)}: list what a function needs in task.inputs"
    return said + place
