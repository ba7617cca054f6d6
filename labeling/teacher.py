"""What a teacher is: who answers requests, and what goes to it and comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

ProbsAsked = Literal["none", "confidence", "distribution"]


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What a teacher is asked to write besides the label.

    Attributes:
        trace: Reasoning, written before the label.
        clauses: Ids of the clauses that decided. Has no effect without a guideline that numbers its clauses.
        probs: ``distribution`` asks for a probability per label, ``confidence`` for one of the label given.
    """

    trace: bool = False
    clauses: bool = True
    probs: ProbsAsked = "none"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question about one row, before any provider's dialect.

    Attributes:
        row_id: The row asked about. Recorded teachers look their reply up by it; it is no part of what is sent.
        system: Instruction, guideline and answer format: the same for every row, so that servers cache the prefix.
        user: The row, fenced as data.
        schema: JSON schema of the answer.
        turns: Further messages, ``(role, text)``: an answer that did not fit, and what was wrong with it.
        cut: Inputs of the row that were too long and are shown in part. For counting; no part of what is sent.
    """

    row_id: str
    system: str
    user: str
    schema: Mapping[str, Any]
    turns: tuple[tuple[str, str], ...] = ()
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is sent, as the provider will see it.

    Attributes:
        endpoint: Who answers: the address of the service, without credentials.
        payload: Everything else that can change the answer (messages, schema, sampling, model), JSON-serialisable.
        sample: Index of a deliberate repeat, from 0.
        row_id: For messages only; no part of the key.
    """

    endpoint: str
    payload: Mapping[str, Any]
    sample: int = 0
    row_id: str = field(default="", compare=False)

    @cached_property
    def key(self) -> bytes:
        """16 bytes that change with anything that can change the answer, and with nothing else.

        BLAKE2b-128 of the canonical JSON (sorted keys, no spaces, UTF-8) of endpoint, payload and sample.
        """
        body = json.dumps(
            [self.endpoint, self.payload, self.sample], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=16, person=b"distill-req-1").digest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, raw, as the ledger keeps it.

    Attributes:
        body: The provider's response as text, unparsed.
        latency_s: Seconds from sending to the whole answer.
        cost_usd: What it cost by the prices known when it was bought; None where no price is known.
    """

    body: str
    latency_s: float = 0.0
    cost_usd: float | None = None


Finish = Literal["stop", "length", "filtered", "refused"]


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply read by its teacher: the provider's envelope is gone, the answer is not parsed yet.

    Attributes:
        text: What the model wrote.
        reasoning: What it thought before, where the provider returns it apart from the text.
        finish: Why it ended.
        input_tokens: As the provider counted them, None where it did not.
        output_tokens: Likewise.
    """

    text: str
    reasoning: str | None = None
    finish: Finish = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None


@runtime_checkable
class Teacher(Protocol):
    """Answers requests. The engine drives it: ``compile`` → (ledger?) → ``ask`` → ledger → ``read``.

    Attributes:
        name: Its name in the recipe, as votes carry it.
        family: Models that share ancestry share a family.
        answer: What it is asked to write besides the label.
        max_concurrency: The most requests in flight that it can bear; None lets the engine find out.
    """

    name: str
    family: str
    answer: AnswerFormat
    max_concurrency: int | None

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        """Writes the prompt in the provider's dialect; None where this teacher has no answer for the row.

        Pure: the same prompt gives the same request, whatever was asked before.
        """
        ...

    def read(self, reply: Reply) -> Completion:
        """Takes the provider's envelope off a raw reply. Pure, so that a fix here re-pays nothing.

        Raises:
            BadReplyError: The body is not what the protocol says.
        """
        ...

    async def ask(self, request: Request) -> Reply:
        """Sends one request, once: the engine retries.

        A body is returned only when ``read`` can read it.

        Raises:
            TeacherError: By kind, as in :mod:`distill.labeling.errors`.
        """
        ...

    async def open(self) -> None:
        """Gets ready (connection pool). Called once, inside the event loop, before the first ``ask``."""
        ...

    async def close(self) -> None:
        """Lets go of what ``open`` took."""
        ...
