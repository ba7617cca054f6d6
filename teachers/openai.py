"""A model behind a server that speaks OpenAI's protocols (vLLM, SGLang, llama.cpp, hosted services)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from distill.labeling.errors import BadReplyError, LaneMissingError, TeacherError
from distill.labeling.teacher import Capabilities, Completion, Prompt, Reply, Request
from distill.teachers.batch_config import batch_settings
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.json_body import parsed_json
from distill.teachers.openai_batches import OpenAIBatches
from distill.teachers.openai_body import token_usage
from distill.teachers.openai_connection import Exchange, OpenAIConnection, endpoint_of
from distill.teachers.openai_errors import Refusal, quiet_s
from distill.teachers.openai_lanes import OpenAILane, build_lane, chosen_lane
from distill.teachers.openai_probe import find_lanes, still_bears, unprobed
from distill.teachers.prices import Tier, cost_usd

if TYPE_CHECKING:
    import aiohttp

__all__ = ["OpenAITeacher", "endpoint_of"]


class OpenAITeacher:
    """Asks one model, over one pool of connections, on the best lane that its server has for a closed question.

    Lanes (:mod:`distill.teachers.openai_lanes`), best first: a decision endpoint, log-probabilities of the labels, a
    written JSON object. Which one it is is found out before the first row (:meth:`probe`) and kept in the ledger;
    until then, and in a plan before the first run, it asks as the json lane does.

    With several servers each request goes to one of them (:class:`~distill.teachers.servers.Servers`), and to another
    where that one cannot be reached. Their answers are one teacher's: the key holds the group's endpoint, not the
    server's.

    The ``seed`` sent is drawn from the recipe's seed, the row and the sample's index. One and the same seed for every
    row would draw every row's answer with the same random numbers: measured on vLLM with a random model at
    temperature 1, 50 of 50 rows then got the same label. At temperature 0 a repeat (``sample`` above 0) is mostly
    answered alike: give samples a temperature.

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.

    Attributes:
        lane: The lane's name, such as ``logprobs:next``; None before it is settled.
        lane_is_given: Whether the recipe says it, so that nothing is to be found out.
        packs: Whether it can be asked about several rows in one request.
        most_options: The most options of one question; None for any number.
        probe_pause_s: Seconds between attempts where the server is not ready while it is being probed.
    """

    probe_pause_s = 2.0

    def __init__(self, name: str, config: OpenAITeacherConfig) -> None:
        self.name = name
        self.family = config.family
        self.max_concurrency = config.max_concurrency
        self.budget_usd = config.budget_usd
        self.quota = config.quota
        self.model = config.model
        self.lane: str | None = None
        self.lane_is_given = not config.probe or config.lanes == ("json",)
        self.batch = batch_settings(config.batch)
        self.batches = OpenAIBatches(self, config)
        self._config = config
        known = config.known_price
        self._price = known.price if known else None
        self._tier: Tier = "flex" if config.extra_body.get("service_tier") == "flex" else "standard"
        self._connection = OpenAIConnection(name, config)
        self.endpoint = self._connection.endpoint
        self._found: Capabilities | None = None
        structured = "json_schema" if config.structured == "auto" else config.structured
        self._take(build_lane(f"json:{structured}", config, endpoint=self.endpoint))

    def __repr__(self) -> str:
        """Name, model and address; never the key."""
        return f"OpenAITeacher({self.name!r}, model={self.model!r}, endpoint={self.endpoint!r})"

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as a request of the lane. The API key, headers and timeout are no part of it.

        ``max_tokens`` is for one row: a request about several may be answered with so many times as much.
        """
        return self._lane.compile(prompt, sample=sample)

    @property
    def compile_pack(self) -> Callable[..., Request] | None:
        """Asks about several rows in one request: ``compile_pack(prompts, sample=…)``; None where the lane cannot."""
        return getattr(self._lane, "compile_pack", None)

    def read(self, reply: Reply) -> Completion:
        """Takes the answer out of a reply.

        Raises:
            BadReplyError: The body is not what the lane's protocol says: an HTML page, half a JSON, no choices.
        """
        return self._read(Exchange(reply.body, parsed_json(reply.body), reply.latency_s, {}))

    def _read(self, exchange: Exchange) -> Completion:
        try:
            return self._lane.read(exchange)
        except BadReplyError as error:
            raise BadReplyError(self._connection.say(str(error))) from None

    async def ask(self, request: Request) -> Reply:
        """Sends one request, once: again only to another server, where no connection was made to the first.

        Raises:
            TeacherError: By kind, as in :mod:`distill.labeling.errors`; the message holds no secret.
        """
        try:
            exchange = await self._connection.with_a_server(request.prefix, partial(self._lane.ask, request))
        except BadReplyError as error:  # between the steps of a lane that takes several
            raise BadReplyError(self._connection.say(str(error))) from None
        completion = self._read(exchange)
        self._connection.answered = True
        cost = cost_usd(token_usage(exchange.parsed), self._price, tier=self._tier)
        return Reply(exchange.body, exchange.latency_s, cost, completion, quiet_s=quiet_s(exchange.headers))

    async def probe(self) -> Capabilities:
        """Finds out which lanes the server has, as far as the recipe allows them, and whether it keeps to a schema.

        A teacher that has been settled only sees whether its lane still bears: one or two requests.

        Raises:
            TeacherError: The server cannot be reached, refuses the key, or ignores the schema
                (:class:`~distill.labeling.errors.ConstraintIgnoredError`).
        """
        config, connection = self._config, self._connection
        if not config.probe:
            return unprobed(config)
        pause = partial(asyncio.sleep, self.probe_pause_s)
        lane, found = self.lane, self._found
        if lane is not None and found is not None and await still_bears(lane, config, connection, pause=pause):
            return found
        return await find_lanes(config, connection, pause=pause)

    def settle(self, found: Capabilities, *, kept: str | None = None) -> str:
        """Takes the lane of earlier runs where the server still has it, else the best that it has.

        Raises:
            LaneMissingError: It has none of those that the recipe allows.
        """
        try:
            self.lane = chosen_lane(self._config, found, kept=kept)
        except LaneMissingError as error:
            raise LaneMissingError(self._connection.say(str(error))) from None
        self._found = found
        self._take(build_lane(self.lane, self._config, endpoint=self.endpoint))
        return self.lane

    def _take(self, lane: OpenAILane) -> None:
        self._lane = lane
        self.answer = lane.answer
        self.packs = hasattr(lane, "compile_pack") or (
            lane.answer.form == "json" and self._config.samples_per_request == 1
        )
        self.most_options = self._config.most_options or lane.most_options

    def serve_from(self, base_urls: Sequence[str]) -> None:
        """Takes other servers than the section's, of the same model; before it is opened."""
        self._connection.serve_from(base_urls)

    def batch_reply(self, body: str) -> Reply:
        """The reply in a result of a batch job, at the price of one. How long it took is not known.

        Raises:
            BadReplyError: As :meth:`read`.
        """
        parsed = parsed_json(body)
        completion = self._read(Exchange(body, parsed, 0.0, {}))
        self._connection.answered = True
        return Reply(body, 0.0, cost_usd(token_usage(parsed), self._price, tier="batch"), completion)

    def request(
        self, method: str, path: str, *, timeout_s: float, **options: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Sends a request to another path of the first server; see :meth:`OpenAIConnection.request`."""
        return self._connection.request(method, path, timeout_s=timeout_s, **options)

    async def refused(self, refusal: Refusal) -> TeacherError:
        """The error that a status other than 200 of the first server means."""
        return await self._connection.refused(refusal)

    def say(self, problem: str) -> str:
        """A message with the teacher before it and its secrets taken out."""
        return self._connection.say(problem)

    async def list_models(self) -> list[str]:
        """Names of the models that every server says it serves; none where one has no such list. Costs nothing.

        Raises:
            TeacherError: One cannot be reached, or refuses the key.
        """
        return await self._connection.list_models()

    async def open(self) -> None:
        """Opens the pool of connections."""
        await self._connection.open()

    async def close(self) -> None:
        """Closes the pool of connections."""
        await self._connection.close()
