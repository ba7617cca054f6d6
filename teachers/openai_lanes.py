"""Lanes of an OpenAI-compatible server: its ways of answering a closed question, and the choice among them."""

from __future__ import annotations

from typing import Protocol

from distill.labeling.errors import LaneMissingError
from distill.labeling.teacher import AnswerFormat, Capabilities, Completion, Prompt, Request
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai_connection import Exchange, Send


class OpenAILane(Protocol):
    """One way of asking and answering. What it sends is its own; servers, retries and the ledger are not.

    A lane that can ask about several rows in one request also has ``compile_pack(prompts, *, sample)``, which makes it;
    the answers are then :attr:`~distill.labeling.teacher.Completion.parts`.

    Attributes:
        answer: What is asked for.
        most_options: The most options of one question; None where any number will do.
    """

    answer: AnswerFormat
    most_options: int | None

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """As :meth:`~distill.labeling.teacher.Teacher.compile`."""
        ...

    def read(self, exchange: Exchange) -> Completion:
        """As :meth:`~distill.labeling.teacher.Teacher.read`; a ledger's reply is an exchange without headers."""
        ...

    async def ask(self, request: Request, send: Send) -> Exchange:
        """Sends a request; gives what the ledger is to keep, which :meth:`read` can read."""
        ...


def lanes_of(config: OpenAITeacherConfig, found: Capabilities) -> list[str]:
    """Names of the lanes that the recipe allows and the server has, the best first.

    A name is the lane and its dialect: ``decision:sglang``, ``logprobs:next``, ``json:json_schema``.
    """
    have = {
        "decision": [found.dialect or "openai"] if found.decision else [],
        "logprobs": list(found.logprobs),
        "json": [name for name in found.structured if config.structured in ("auto", name)],
    }
    return [f"{lane}:{dialect}" for lane in config.lanes for dialect in have[lane]]


def chosen_lane(config: OpenAITeacherConfig, found: Capabilities, *, kept: str | None) -> str:
    """The lane to take: that of earlier runs where it is still there, else the best.

    Raises:
        LaneMissingError: The server has none of those that the recipe allows.
    """
    names = lanes_of(config, found)
    if kept in names:
        return str(kept)
    if not names:
        remedy = "use lane: auto or json" if config.lane != "json" else "try structured: auto"
        raise LaneMissingError(f"lane: {config.lane}: the server does not have it; {remedy}")
    return names[0]


def build_lane(name: str, config: OpenAITeacherConfig, *, endpoint: str) -> OpenAILane:
    """Builds a lane by its name.

    Args:
        name: As :func:`lanes_of` writes it.
        config: The teacher's section.
        endpoint: Who answers, as the ledger knows it.
    """
    kind, _, dialect = name.partition(":")
    if kind == "decision":
        from distill.teachers.openai_decisions import DecisionLane

        return DecisionLane(config, endpoint=endpoint, dialect=dialect)
    if kind == "logprobs" and dialect == "sampled":
        from distill.teachers.openai_sampled import SampledLane

        return SampledLane(config, endpoint=endpoint)
    if kind == "logprobs":
        from distill.teachers.openai_scoring import ScoringLane

        return ScoringLane(config, endpoint=endpoint, method=dialect)
    from distill.teachers.openai_chat import ChatLane

    return ChatLane(config, endpoint=endpoint, structured=dialect)
