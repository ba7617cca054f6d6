"""What a teacher is: who answers requests, and what goes to it and comes back.

Prompts, requests, replies and completions are not changed once they are made. They are not frozen, though: a frozen
dataclass takes three times as long to make, and several are made a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

ProbsAsked = Literal["none", "confidence", "distribution"]
AnswerForm = Literal["json", "label", "decision"]
TraceOrder = Literal["before", "after", "given"]
"""When a trace is written: ``before`` the label, ``after`` it, or for a label that was ``given``, not its writer's."""
ProbsSource = Literal["decision", "logprob", "samples", "verbal", "model", "none"]
"""Where a distribution comes from.

``decision``: the provider's decision endpoint stated it. ``logprob``: from the log-probabilities of the labels.
``samples``: shares among repeated samples. ``verbal``: stated by the model in its answer. ``model``: a classifier's
own, calibrated or not, or stated by a labeling function. ``none``: a bare label.
"""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What a teacher is asked to write.

    Attributes:
        form: ``json`` is an object with the label and whatever else is asked for; ``label`` is the bare label and
            nothing else, whose log-probabilities are read; ``decision`` writes nothing: a decision endpoint gives the
            probabilities. Only ``json`` carries a trace, clauses or stated probabilities.
        trace: Reasoning besides the label.
        trace_order: Whether it is written before the label (and may decide it) or after (and explains it). ``given``
            asks for no label at all: the row's known label is shown, and is to be explained.
        clauses: Ids of the clauses that decided. Has no effect without a guideline that numbers its clauses.
        probs: ``distribution`` asks for a probability per label, ``confidence`` for one of the label given.
        trace_tokens: How long the trace may be, in tokens; None sets no limit.
    """

    trace: bool = False
    clauses: bool = True
    probs: ProbsAsked = "none"
    form: AnswerForm = "json"
    trace_order: TraceOrder = "before"
    trace_tokens: int | None = None

    @property
    def explains(self) -> bool:
        """Whether a known label is shown and explained, and none is given: such an answer is never a vote."""
        return self.trace and self.trace_order == "given"


@dataclass(slots=True)
class Prompt:
    """A question about one row, before any provider's dialect.

    Attributes:
        row_id: The row asked about. Recorded teachers look their reply up by it; it is no part of what is sent.
        system: Instruction, guideline and answer format: the same for every row, so that servers cache the prefix.
        user: The row, fenced as data.
        schema: JSON schema of the answer; empty where the form is not ``json``.
        turns: Further messages, ``(role, text)``: an answer that did not fit, and what was wrong with it.
        prefix: What rows that begin alike have in common: the first input. Servers of one model share rows out by it.
        cut: Inputs of the row that were too long and are shown in part. For counting; no part of what is sent.
        options: The labels that may be answered, with what each means (empty where nothing says): what a decision
            endpoint is given as its criteria, and what log-probabilities are taken of.
        values: The row's inputs by name, cleaned, as fenced in ``user``: for teachers that compute instead of reading.
        images: Addresses or paths of the row's images, see :mod:`distill.labeling.prompts.image`.
        examples: Texts of judged items that ``user`` shows before the item.
        items: Rows asked about: 1, but for what :meth:`~distill.labeling.prompts.prompt.Prompter.pack` writes. The
            answer may be so many times as long.
        known_label: The label that is shown and to be explained; empty where a label is asked for.
        source: The input that spans and texts are of, as the rows table has it, for what counts its characters; empty
            where one label is asked for. No part of what is sent.
        evidence: What the row's evidence columns say by name, cleaned, as fenced before the item.
    """

    row_id: str
    system: str
    user: str
    schema: Mapping[str, Any]
    turns: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    cut: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    items: int = 1
    known_label: str = ""
    source: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Request:
    """What is sent, byte for byte.

    Attributes:
        endpoint: Who answers: the address of the service, without credentials.
        rest: The body, or what of it comes after ``start``.
        sample: Index of a deliberate repeat, from 0.
        row_id: For messages, and for recorded teachers; no part of the key.
        model: What the ledger notes as sold; no part of the key, since the body names it.
        key: 16 bytes that change with anything that can change the answer, and with nothing else: BLAKE2b-128 of
            endpoint, sample and body. Worked out where it is not given (:class:`RequestHead` gives it).
        prefix: As in :class:`Prompt`; no part of the key.
        start: Bytes that the body shares with other requests, kept once: most requests are only looked up by their key.
    """

    endpoint: str
    rest: bytes
    sample: int = 0
    row_id: str = ""
    model: str = ""
    key: bytes = b""
    prefix: str = ""
    start: bytes = b""

    def __post_init__(self) -> None:
        if not self.key:
            self.key = _hashed(self.endpoint, self.sample, self.body).digest()

    @property
    def body(self) -> bytes:
        """Everything but the endpoint that can change the answer (messages, schema, sampling, model), as it is sent."""
        return self.start + self.rest


class RequestHead:
    """The first bytes of a body, which many requests share: encoded once and hashed once.

    With a guideline of 4 KB that is most of what a request costs to write.

    Args:
        endpoint: As in :class:`Request`.
        start: The shared bytes.
        sample: As in :class:`Request`.
        model: As in :class:`Request`.
    """

    def __init__(self, endpoint: str, start: bytes, *, sample: int = 0, model: str = "") -> None:
        self.start = start
        self._endpoint = endpoint
        self._sample = sample
        self._model = model
        self._state = _hashed(endpoint, sample, start)

    def request(self, rest: bytes, *, row_id: str = "") -> Request:
        """Makes the request whose body is the shared start and this rest."""
        state = self._state.copy()
        state.update(rest)
        return Request(self._endpoint, rest, self._sample, row_id, self._model, state.digest(), start=self.start)


def _hashed(endpoint: str, sample: int, body: bytes) -> hashlib.blake2b:
    """The body stands last, so that its start can be hashed ahead; lengths keep the parts apart."""
    address = endpoint.encode("utf-8", "surrogatepass")
    head = b"%d %d %s " % (sample, len(address), address)
    return hashlib.blake2b(head + body, digest_size=16, person=b"distill-req-2")


class Part(NamedTuple):
    """Which part of a reply answers a row that was asked about together with others.

    Attributes:
        place: The row's place in the request, from 0.
        of: Rows that the request asked about; 1 where the row was asked about alone.
        pack: Key of the request.
    """

    place: int
    of: int
    pack: bytes


@dataclass(slots=True)
class Reply:
    """What came back, raw, as the ledger keeps it.

    Attributes:
        body: The provider's response as text, unparsed.
        latency_s: Seconds from sending to the whole answer.
        cost_usd: What it cost by the prices known when it was bought; None where no price is known.
        completion: The body as the teacher that bought it read it, so that it is not read twice. Not kept.
        quiet_s: Seconds for which the service says that its quota is used up, 0 where it does not. Not kept.
        part: Which part of it is meant, where it was found by the key of a row that was asked about with others.
    """

    body: str
    latency_s: float = 0.0
    cost_usd: float | None = None
    completion: Completion | None = field(default=None, compare=False, repr=False)
    quiet_s: float = field(default=0.0, compare=False)
    part: Part | None = None


Finish = Literal["stop", "length", "filtered", "refused"]


@dataclass(slots=True)
class Completion:
    """A reply read by its teacher: the provider's envelope is gone, the answer is not parsed yet.

    Attributes:
        text: What the model wrote.
        reasoning: What it thought before, where the provider returns it apart from the text.
        finish: Why it ended.
        input_tokens: As the provider counted them, None where it did not.
        output_tokens: Likewise.
        probs: Probability of each option, as the provider or its log-probabilities state it, before it is made to
            sum to one; None where there is none and the text is to be parsed. With it the text need not be an answer.
        probs_source: Where ``probs`` comes from.
        probs_clipped: Whether some option's probability was not given and stands at what the others leave or at the
            least that the provider reports.
        others: Texts of further samples of the same request. The distribution is then that of all of them.
        parts: The answer to each row of a request about several, in the order of the rows, where the provider keeps
            them apart; None where they are to be read from the text.
    """

    text: str
    reasoning: str | None = None
    finish: Finish = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    probs: Mapping[str, float] | None = None
    probs_source: ProbsSource = "none"
    probs_clipped: bool = False
    others: tuple[str, ...] = ()
    parts: tuple[Completion, ...] | None = None


class Capabilities(NamedTuple):
    """What a server was found to do for a model: what :meth:`ProbingTeacher.probe` returns.

    Attributes:
        decision: It has a decision endpoint: a probability per option, no output tokens.
        logprobs: How probabilities of whole labels can be had, the best first: ``next`` (of chosen tokens after
            prompts given as tokens), ``prompt`` (of the tokens of prompts that end in a label) or ``sampled`` (of the
            tokens written and their likeliest alternatives); empty where they cannot.
        structured: How it can be held to a schema; a constraint that it silently ignores is not in it.
        most_options: The most options of one question; None where no limit is known.
        dialect: Which wire format its decision endpoint speaks, where there are several.
    """

    decision: bool = False
    logprobs: tuple[str, ...] = ()
    structured: tuple[str, ...] = ()
    most_options: int | None = None
    dialect: str = ""


@runtime_checkable
class Teacher(Protocol):
    """Answers requests. The engine drives it: ``compile`` → (ledger?) → ``ask`` → ledger → ``read``.

    A teacher may also have ``budget_usd`` (float) and ``quota`` (:class:`~distill.labeling.quota_config.QuotaConfig`),
    what it may use, ``endpoint`` and ``model`` (str), by which the limit found is kept for the next run, and
    ``most_options`` (int), the most options that one question may have: more are asked level by level
    (:mod:`distill.labeling.prompts.option_tree`).

    Where ``packs`` (bool) is true, several rows may be asked about in one request. It is compiled from one prompt that
    holds them all, which wants ``answer.form`` to be ``json``; or by the teacher's own ``compile_pack(prompts, *,
    sample)``, where it has one, and ``read`` then gives :attr:`Completion.parts`.

    One that computes in this process may say how many rows it takes at a time (``batch_rows``: int; twice as many are
    then asked at once, so that one batch gathers while another is worked on) and that its answers are ``free`` (bool):
    cheaper to work out again than to look up, so that they are not written to the ledger.

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

        A body is returned only when ``read`` can read it; what was read may be handed over with it.

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


@runtime_checkable
class ProbingTeacher(Protocol):
    """A teacher that finds out what its server does, and then settles on a lane. The other half of :class:`Teacher`.

    The engine calls ``probe`` after ``open``, then ``settle`` with what was found; the lane settled on is kept by
    endpoint and model, so that a plan knows it without a network, and a server that learns something new does not make
    every answer be paid for again.
    """

    endpoint: str
    model: str

    async def probe(self) -> Capabilities:
        """Finds out what the server does; a request or a few, none of them about a row.

        Raises:
            TeacherError: It cannot be reached, or ignores a constraint that was asked for.
        """
        ...

    def settle(self, found: Capabilities, *, kept: str | None = None) -> str:
        """Chooses the lane: sets ``answer``, and says by name which one it is.

        Args:
            found: What the server does.
            kept: The lane of earlier runs, to be taken again wherever ``found`` still has it.
        """
        ...
