"""A model behind vLLM servers that are started for the run."""

from __future__ import annotations

from typing import Any

from distill.labeling.errors import ConnectionFailedError
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Reply, Request
from distill.teachers.openai import OpenAITeacher
from distill.teachers.openai_config import OpenAITeacherConfig
from distill.teachers.vllm_config import VLLMTeacherConfig
from distill.teachers.vllm_fleet import VLLMFleet
from distill.teachers.vllm_identity import endpoint_of_engine

# Where nothing listens; stands for the servers until there are any. No part of a request: the endpoint is set.
_NOWHERE = "http://127.0.0.1:9/v1"


class VLLMTeacher:
    """Starts vLLM servers when it is opened, and asks them as :class:`~distill.teachers.openai.OpenAITeacher` does.

    A server that dies is started again (:class:`~distill.teachers.vllm_server.VLLMServer`), and requests wait for it
    meanwhile; those that it was answering fail as connections that broke, which the engine sends again. Where every
    server is given up the teacher stops, and the others go on.

    The endpoint in a request's key names the model and what of its settings can change an answer
    (:mod:`distill.teachers.vllm_identity`), so that neither another port nor more servers pay for anything again.

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.
        fleet: Servers that it shares with others; its own where none are given.
    """

    def __init__(self, name: str, config: VLLMTeacherConfig, *, fleet: VLLMFleet | None = None) -> None:
        self.fleet = fleet or VLLMFleet(name, config)
        self._asking = OpenAITeacher(name, _section(config))
        self._is_open = False

    def __getattr__(self, name: str) -> Any:
        """What it has in common with the teacher that it asks through: name, family, budget, probing, …"""
        if name.startswith("_"):  # before there is one, or a private matter of its own
            raise AttributeError(name)
        return getattr(self._asking, name)

    def __repr__(self) -> str:
        """Name, model and endpoint."""
        return f"VLLMTeacher({self.name!r}, model={self.model!r}, endpoint={self.endpoint!r})"

    @property
    def answer(self) -> AnswerFormat:
        """What it is asked to write, as settled."""
        return self._asking.answer

    @answer.setter
    def answer(self, value: AnswerFormat) -> None:
        self._asking.answer = value

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        """Writes the prompt as a chat completion request; needs no server."""
        return self._asking.compile(prompt, sample=sample)

    def read(self, reply: Reply) -> Completion:
        """Takes the answer out of a chat completion.

        Raises:
            BadReplyError: The body is not a chat completion.
        """
        return self._asking.read(reply)

    async def ask(self, request: Request) -> Reply:
        """Sends one request, once a server is up.

        Raises:
            TeacherError: As :meth:`OpenAITeacher.ask`; LocalServerError where all servers have been given up.
        """
        await self.fleet.until_up()
        try:
            return await self._asking.ask(request)
        except ConnectionFailedError:
            # So that the engine's next try, which is one of a few, finds a server, and so that what waits for a place
            # in flight does not run into the same wall before the death is noticed.
            await self.fleet.until_healthy()
            raise

    async def open(self) -> None:
        """Starts the servers and waits until they answer.

        Raises:
            LocalServerError: One does not come up; with the end of its log.
            MissingDependencyError: The interpreter has no vLLM.
            UsageError: There are too few GPUs, or no such interpreter.
        """
        base_urls = await self.fleet.acquire()
        self._is_open = True
        try:
            self._asking.serve_from(base_urls)
            await self._asking.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops the servers, unless another teacher wants them."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self._asking.close()
        finally:
            await self.fleet.release()


def _section(config: VLLMTeacherConfig) -> OpenAITeacherConfig:
    """The settings that a teacher of type openai has, taken over under their names."""
    shared = OpenAITeacherConfig.model_fields.keys() & type(config).model_fields.keys() - {"type", "endpoint", "model"}
    return OpenAITeacherConfig(
        model=config.served_name,
        endpoint=endpoint_of_engine(config, scheme="vllm"),
        base_url=_NOWHERE,
        **{field: getattr(config, field) for field in shared},
    )
