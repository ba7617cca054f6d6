"""A Gemini model, asked through google-genai: ``generateContent``, or the decision endpoint for closed questions."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from distill.labeling.engine.batch_service import BatchService
from distill.labeling.engine.limits import backoff_s
from distill.labeling.errors import (
    BadReplyError,
    ConnectionFailedError,
    RateLimitError,
    RequestRejectedError,
    SchemaRejectedError,
    TeacherError,
    TeacherTimeoutError,
    UnknownModelError,
)
from distill.labeling.teacher import AnswerFormat, Capabilities, Completion, Prompt, Reply, Request, RequestHead
from distill.teachers.batch_config import batch_settings
from distill.teachers.gemini_batches import GeminiBatches
from distill.teachers.gemini_body import (
    MOST_OPTIONS,
    MOST_QUESTIONS,
    GeminiLane,
    decision_rest,
    decision_start,
    generate_rest,
    generate_start,
    generation_start,
    options_asked,
)
from distill.teachers.gemini_cache import PrefixCache
from distill.teachers.gemini_client import GeminiClient, NoAnswerError, RefusedError, as_failure, require_sdk
from distill.teachers.gemini_config import GeminiTeacherConfig
from distill.teachers.gemini_errors import as_error, blames_cache, one_line
from distill.teachers.gemini_read import (
    UnreadableReplyError,
    completion_of,
    usage_of,
    with_options,
)
from distill.teachers.json_body import parsed_json
from distill.teachers.prices import Tier, cost_usd

_MAX_HEADS = 128
_PROBES = 3
_LONGEST_PROBE_WAIT_S = 30.0
_FORMS = {
    "decision": AnswerFormat(form="decision", clauses=False),
    "logprobs": AnswerFormat(form="label", clauses=False),
}
_PROBE: dict[str, Any] = {
    "input": [{"type": "text", "text": "A red shoe."}],
    "questions": {"color": {"type": "choice", "instructions": "Which color?", "criteria": {"red": "", "blue": ""}}},
}


class _Shared(NamedTuple):
    head: RequestHead
    generation: bytes
    prompt: Prompt


class GeminiTeacher:
    """Asks a Gemini model, one request a row, or one for several rows of a query in the decision lane.

    It has three lanes (see ``lane`` in :class:`~distill.teachers.gemini_config.GeminiTeacherConfig`); which one a
    model has beyond plain JSON is found by :meth:`probe`. The ``seed`` sent is drawn from the recipe's, the row and the
    sample's index, for the reason given in :class:`~distill.teachers.openai.OpenAITeacher`.

    Built against an imitation of the service that follows google-genai's own types; see ``docs/gemini.md``.

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.

    Raises:
        MissingDependencyError: google-genai is not installed.

    Attributes:
        packs: Whether rows of one query may share a request (:meth:`compile_pack`).
        most_packed: The most rows of one request.
        batch: How batch jobs are used; None where it is asked live.
        batches: The provider's batch jobs.
    """

    most_packed = MOST_QUESTIONS

    def __init__(self, name: str, config: GeminiTeacherConfig) -> None:
        require_sdk()
        self.name = name
        self.family = config.family
        self.max_concurrency = config.max_concurrency
        self.budget_usd = config.budget_usd
        self.quota = config.quota
        self.model = config.model
        self.endpoint = f"{config.base_url}/{config.api_version}"
        self.batch = batch_settings(config.batch)
        self.batches: BatchService = GeminiBatches(self)
        self._config = config
        known = config.known_price
        self._price = known.price if known else None
        self._client: GeminiClient | None = None
        self._cache: PrefixCache | None = None
        self._answered = False
        self._heads: dict[tuple[int, int, int, int], _Shared] = {}
        self._take("json" if config.lane == "auto" else config.lane)

    def __repr__(self) -> str:
        """Name, model and address; never the key."""
        return f"GeminiTeacher({self.name!r}, model={self.model!r}, endpoint={self.endpoint!r})"

    # Lanes

    async def probe(self) -> Capabilities:
        """Finds out whether the model makes decisions, by one small one, where its lane depends on that.

        Raises:
            TeacherError: The service cannot be reached or refuses the key; or the model makes no decisions, where the
                recipe asks for that lane.
        """
        decision = False
        if self._may_decide:
            try:
                await self._patiently_decide({"model": self.model, **_PROBE})
                decision = True
            except (UnknownModelError, RequestRejectedError, SchemaRejectedError):
                if self._config.lane == "decision":
                    raise
        return Capabilities(
            decision=decision, structured=("json_schema",), most_options=MOST_OPTIONS if decision else None
        )

    def settle(self, found: Capabilities, *, kept: str | None = None) -> str:
        """Chooses the lane: the recipe's; or the one of earlier runs; or decisions where the model makes them."""
        lane: GeminiLane
        if self._config.lane != "auto":
            lane = self._config.lane
        elif not (self._may_decide and found.decision) or kept == "json":
            lane = "json"
        else:
            lane = "decision"
        self._take(lane)
        return lane

    @property
    def packs(self) -> bool:
        """Whether rows of one query may share a request in the lane that it has settled on."""
        return self._lane == "decision"

    @property
    def _may_decide(self) -> bool:
        config = self._config
        spoken = config.traces or config.rationale_for or config.probs != "none" or bool(config.batch)
        return config.lane == "decision" or (config.lane == "auto" and not spoken)

    def _take(self, lane: GeminiLane) -> None:
        self._lane: GeminiLane = lane
        self.answer = _FORMS.get(lane, self._config.answer)
        self._heads.clear()

    # Requests and replies

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as a body of the lane's endpoint.

        The API key, the tier, the cache and the timeout are no part of it: they change the price or the wait, and a row
        is not to be paid for again because of them.

        Raises:
            DataError: An image cannot be read, or a decision cannot have so many options.
        """
        shared = self._shared(prompt, sample)
        if self._lane == "decision":
            rest = decision_rest([prompt], packed=False)
        else:
            rest = generate_rest(self._config, prompt, shared.generation, sample=sample)
        request = shared.head.request(rest, row_id=prompt.row_id)
        request.prefix = prompt.prefix
        return request

    def compile_pack(self, prompts: Sequence[Prompt], *, sample: int) -> Request:
        """Writes several rows as one decision request, a question each; :attr:`Completion.parts` are the answers.

        Args:
            prompts: At most :attr:`most_packed`, with the same instruction and options: rows of one query.
            sample: Index of a deliberate repeat.

        Raises:
            DataError: As :meth:`compile`.
        """
        if self._lane != "decision" or not 1 <= len(prompts) <= MOST_QUESTIONS:
            raise ValueError(
                f"packs: {len(prompts)} rows in the lane {self._lane}; packs are decisions about 1 to 1000"
            )
        head = self._shared(prompts[0], sample).head
        request = head.request(decision_rest(prompts, packed=True), row_id=prompts[0].row_id)
        request.prefix = prompts[0].prefix
        return request

    def read(self, reply: Reply) -> Completion:
        """Takes the answer out of a response.

        Raises:
            BadReplyError: The body is not what the protocol says.
        """
        return self._read(reply.body)

    async def ask(self, request: Request) -> Reply:
        """Sends one request, once; again only where the kept guideline turns out to be gone, which costs nothing.

        Raises:
            TeacherError: By kind, as in :mod:`distill.labeling.errors`; the message holds no secret.
        """
        body = json.loads(request.body)
        options, questions = options_asked(body), len(body.get("questions") or ())
        started = time.perf_counter()
        raw = await (self._decided(body) if questions else self._generated(body))
        return self.reply_of(raw, options, latency_s=time.perf_counter() - started, questions=questions)

    def reply_of(
        self,
        raw: str,
        options: Sequence[str] = (),
        *,
        latency_s: float = 0.0,
        questions: int = 0,
        tier: Tier | None = None,
    ) -> Reply:
        """Makes a reply of a raw response.

        Args:
            raw: The response's text.
            options: Those asked about, for a decision or log-probabilities.
            latency_s: Seconds that it took.
            questions: Questions that a decision has to answer.
            tier: How it was bought, by default as the recipe says; decisions have one tier only.

        Raises:
            BadReplyError: It cannot be read, or answers less than was asked.
        """
        response = parsed_json(raw)
        if not isinstance(response, dict):
            raise BadReplyError(self.say(f"expected a JSON object, got {one_line(raw) or 'an empty body'}"))
        body = with_options(raw, options)
        completion = self._read(body)
        if completion.finish != "filtered" and len(completion.parts or "1") < questions:
            got = len(completion.parts or "1")
            raise BadReplyError(self.say(f"expected answers to {questions} questions, got {got}"))
        self._answered = True
        if tier is None:
            tier = "standard" if questions else self._config.tier
        cost = cost_usd(usage_of(response), self._price, tier=tier)
        return Reply(body, latency_s, cost, completion)

    def _read(self, body: str) -> Completion:
        try:
            return completion_of(body)
        except UnreadableReplyError as error:
            raise BadReplyError(
                self.say(f"expected a response of {self.model}, got {error}: {one_line(body)}")
            ) from None

    async def _decided(self, body: dict[str, Any]) -> str:
        try:
            return await self.client.decide(body)
        except Exception as error:
            raise self.failure(error) from None

    async def _generated(self, body: dict[str, Any]) -> str:
        model = str(body.pop("model"))
        body.pop("options", None)
        if self._config.tier != "standard":
            body["serviceTier"] = self._config.tier
        system = body["systemInstruction"]["parts"][0]["text"]
        kept = await self._cache.name_for(system) if self._cache else None
        if kept:
            try:
                return await self.client.generate(model, _by_cache(body, kept))
            except RefusedError as error:
                if not blames_cache(error.refusal):
                    raise self.failure(error) from None
                assert self._cache is not None
                self._cache.forget(system, kept)
            except Exception as error:
                raise self.failure(error) from None
        try:
            return await self.client.generate(model, body)
        except Exception as error:
            raise self.failure(error) from None

    async def _patiently_decide(self, body: dict[str, Any]) -> None:
        """Decides, again after a busy moment: a probe that failed would cost the teacher the whole run."""
        for attempt in range(_PROBES):
            try:
                await self._decided(body)
                return
            except TeacherError as error:
                asked_s = error.retry_after_s if isinstance(error, RateLimitError) else None
                wait_s = backoff_s(attempt, random.uniform) if asked_s is None else asked_s
                if not error.retryable or attempt == _PROBES - 1 or wait_s > _LONGEST_PROBE_WAIT_S:
                    raise
            await asyncio.sleep(wait_s)

    # The service

    @property
    def client(self) -> GeminiClient:
        """The open client."""
        assert self._client is not None, "open() comes first"
        return self._client

    async def open(self) -> None:
        """Makes the client and its connections; nothing is sent."""
        config = self._config
        self._client = GeminiClient(config)
        if config.cache is not None:
            self._cache = PrefixCache(self._client, model=self.model, ttl_s=config.cache.ttl_s, say=self.say)

    async def close(self) -> None:
        """Deletes what is kept at the provider and closes the connections."""
        if self._cache is not None:
            await self._cache.close()
            self._cache = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def list_models(self) -> list[str]:
        """Names of the models that the key may use. Costs nothing.

        Raises:
            TeacherError: The service cannot be reached, or refuses the key.
        """
        try:
            pager = await self.client.aio.models.list(config={"page_size": 1000})
            return [str(model.name).removeprefix("models/") async for model in pager]
        except Exception as error:
            raise self.failure(error) from None

    def failure(self, error: Exception) -> Exception:
        """The error of our tree that an exception of the SDK or of :class:`GeminiClient` stands for."""
        error = as_failure(error) if not isinstance(error, RefusedError | NoAnswerError) else error
        if isinstance(error, RefusedError):
            return as_error(error.refusal, name=self.name, model=self.model, say=self.say, answered=self._answered)
        if isinstance(error, json.JSONDecodeError):  # a refusal that calls itself JSON and is none
            return BadReplyError(self.say(f"expected JSON, got {one_line(error.doc) or 'an empty body'}"))
        if not isinstance(error, NoAnswerError):
            return error
        if error.timed_out:
            do = "raise timeout_s, or lower max_tokens or max_concurrency"
            return TeacherTimeoutError(self.say(f"no whole answer within {self._config.wait_s:g} s; {do}"))
        problem = f"the connection failed, got {one_line(str(error))}; is base_url right?"
        return ConnectionFailedError(self.say(problem), sent=error.sent)

    def say(self, problem: str) -> str:
        """Puts the teacher in front of a message, and takes the key out of it."""
        key = self._config.api_key.get_secret_value()
        problem = problem.replace(key, "***") if len(key) >= 4 else problem
        return f"teacher {self.name} ({self.endpoint}): {problem}"

    def _shared(self, prompt: Prompt, sample: int) -> _Shared:
        """What every request with this system text, schema and options begins with, and how it is to be answered."""
        # By identity, since comparing 4 KB a row costs more than encoding the row. What is kept keeps its ids taken.
        place = (id(prompt.system), id(prompt.schema), id(prompt.options), sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            if self._lane == "decision":
                start, generation = decision_start(self._config, prompt), b""
            else:
                start = generate_start(self._config, prompt, lane=self._lane)
                generation = generation_start(self._config, prompt, lane=self._lane)
            head = RequestHead(self.endpoint, start, sample=sample, model=self.model)
            shared = self._heads[place] = _Shared(head, generation, prompt)
        return shared


def _by_cache(body: dict[str, Any], name: str) -> dict[str, Any]:
    """The body with its system text replaced by the cached content that holds it."""
    return {field: value for field, value in body.items() if field != "systemInstruction"} | {"cachedContent": name}
