"""What teachers have in common that are classifiers running in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic_core import from_json

from distill.labeling.errors import BadReplyError, DataError, DistillError, MissingDependencyError, UnknownModelError
from distill.labeling.teacher import AnswerFormat, Completion, Reply, Request, RequestHead
from distill.teachers.local_batches import LocalBatches

_BLOCK_BYTES = 1 << 20
_BATCHES_AT_ONCE = 8
_DIGITS = 7


class LocalModelTeacher(ABC):
    """A classifier in this process: gives a distribution over its labels, a batch of rows at a time.

    The reply holds the model's own labels, and ``label_map`` is applied when it is read: correcting it computes nothing
    again. Answers are kept in the ledger like any others, by what the model is and what it reads.

    Attributes:
        batch_rows: How many rows it takes at a time, several batches of the model: those of like length are scored
            together.

    Args:
        name: Of the teacher.
        family: Of the teacher.
        label_map: The model's labels in the task's words.
        batch_size: Rows scored at once.
    """

    max_concurrency: int | None = None

    def __init__(self, name: str, *, family: str, label_map: Mapping[str, str], batch_size: int) -> None:
        self.name = name
        self.family = family
        self.answer = AnswerFormat(clauses=False)
        self.batch_rows = _BATCHES_AT_ONCE * batch_size
        self._label_map = label_map
        self._heads: dict[int, RequestHead] = {}
        self._batches: LocalBatches[Request, Reply] | None = None

    @property
    @abstractmethod
    def identity(self) -> Sequence[str]:
        """What stands for the model and its settings in a request: a kind, and what changes its answers."""

    @abstractmethod
    def load(self) -> None:
        """Loads the model. Called in a thread."""

    @abstractmethod
    def score(self, parts: Sequence[bytes]) -> Sequence[Mapping[str, float]]:
        """A probability per label of the model for each of some rows, as :meth:`request` wrote them down."""

    @abstractmethod
    def unload(self) -> None:
        """Lets go of the model."""

    def request(self, rest: bytes, *, sample: int, row_id: str) -> Request:
        """The request whose body is what stands for the model, and what it reads of the row."""
        head = self._heads.get(sample)
        if head is None:
            kind, *settings = self.identity
            head = self._heads[sample] = RequestHead(kind, json.dumps(settings).encode(), sample=sample)
        return head.request(rest, row_id=row_id)

    def read(self, reply: Reply) -> Completion:
        """The probabilities, under the task's labels; those of labels that become one are added up."""
        try:
            stated = from_json(reply.body)["probs"]
            probs: dict[str, float] = {}
            for label, probability in stated.items():
                mapped = self._label_map.get(label, label)
                probs[mapped] = probs.get(mapped, 0.0) + probability
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadReplyError(f"teacher {self.name}: no probabilities, got {reply.body[:80]!r}") from None
        return Completion(reply.body, probs=probs, probs_source="model")

    async def ask(self, request: Request) -> Reply:
        """Scores the row together with others that wait. It costs nothing."""
        assert self._batches is not None, "open() comes before ask()"
        return await self._batches(request)

    async def open(self) -> None:
        """Loads the model.

        Raises:
            UnknownModelError: It cannot be loaded; the other teachers go on.
            MissingDependencyError: What it needs is not installed.
        """
        try:
            await asyncio.to_thread(self.load)
        except MissingDependencyError:
            raise
        except (OSError, ValueError, RuntimeError, DistillError) as error:
            said = " ".join(str(error).split())[:400]
            raise UnknownModelError(f"teacher {self.name}: the model cannot be loaded, {said}") from error
        self._batches = LocalBatches(self._replies, most=self.batch_rows)

    async def close(self) -> None:
        """Ends the thread and lets go of the model."""
        if self._batches is not None:
            await self._batches.close()
            self._batches = None
        self.unload()

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        began_s = time.perf_counter()
        start = {request.sample: len(self._heads[request.sample].start) for request in requests}
        found = self.score([request.body[start[request.sample] :] for request in requests])
        each_s = (time.perf_counter() - began_s) / len(requests)
        return [
            Reply(json.dumps({"probs": {label: round(p, _DIGITS) for label, p in probs.items()}}), each_s, cost_usd=0.0)
            for probs in found
        ]


def folder_digest(folder: Path) -> str:
    """BLAKE2b-128 of a folder's files and their names, wherever it lies; of all but its card, which answers nothing.

    Raises:
        DataError: There is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path")
    state = hashlib.blake2b(digest_size=16)
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
            state.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size} ".encode())
            with file.open("rb") as content:
                while block := content.read(_BLOCK_BYTES):
                    state.update(block)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read, {error}") from None
    return state.hexdigest()
