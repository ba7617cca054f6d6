"""Finds out which lanes an OpenAI-compatible server has, by asking it a few words before the first row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from distill.labeling.answers.parsing import find_json_object
from distill.labeling.errors import (
    BadReplyError,
    ConstraintIgnoredError,
    OverloadedError,
    RequestRejectedError,
    SchemaRejectedError,
    TeacherError,
    UnknownModelError,
    WrongKeyError,
)
from distill.labeling.teacher import Capabilities, Completion, Prompt
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai_chat import ChatLane
from distill.teachers.openai_connection import OpenAIConnection
from distill.teachers.openai_decisions import DIALECTS
from distill.teachers.openai_lanes import build_lane

_ATTEMPTS = 3
_STRUCTURED = ("json_schema", "structured_outputs", "guided_json", "json_object")
_SCORING = ("next", "prompt", "sampled")

# An answer that no model gives by itself.
_ODD_LABEL = "zq7-vermilion"
_ODD_SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": [_ODD_LABEL]}},
    "required": ["label"],
    "additionalProperties": False,
}
# OpenAI wants the word JSON in the messages where json_object is asked for; no model would write any here.
_GREETING = Prompt("probe", "You greet people, in plain words and never as JSON.", "Hello!", _ODD_SCHEMA)
_QUESTION = Prompt(
    "probe",
    "You sort items into a closed set of labels: `plant` or `tool`. Write the label alone.",
    "a hammer",
    {},
    options={"plant": "", "tool": ""},
)
# What a server answers that lacks a field. One that lacks a path says 404; some gateways 500.
_LACKS_FIELD = (BadReplyError, RequestRejectedError, SchemaRejectedError)

Pause = Callable[[], Awaitable[None]]
Got = TypeVar("Got")


def unprobed(config: OpenAITeacherConfig) -> Capabilities:
    """What the recipe says that the server does, where it is not to be asked."""
    structured = "json_schema" if config.structured == "auto" else config.structured
    if config.lane == "decision":
        return Capabilities(decision=True, dialect="openai")
    if config.lane == "logprobs":
        return Capabilities(logprobs=("sampled",))
    return Capabilities(structured=(structured,))


async def find_lanes(config: OpenAITeacherConfig, connection: OpenAIConnection, *, pause: Pause) -> Capabilities:
    """Looks for the lanes that the recipe allows, the best first, until one is found.

    Args:
        config: The teacher's section.
        connection: Open.
        pause: Waits between attempts where the server is not ready.

    Raises:
        ConstraintIgnoredError: It keeps to no schema, or not to the one that the recipe names.
        TeacherError: It cannot be reached, refuses the key, or refuses what is asked.
    """
    for lane in config.lanes:
        if lane == "decision":
            for dialect in DIALECTS:
                if await _bears(f"decision:{dialect}", config, connection, pause):
                    return Capabilities(decision=True, dialect=dialect)
        elif lane == "logprobs":
            for method in _SCORING:
                if await _bears(f"logprobs:{method}", config, connection, pause):
                    return Capabilities(logprobs=(method,))
        else:
            return Capabilities(structured=(await _structured(config, connection, pause),))
    return Capabilities()


async def still_bears(lane: str, config: OpenAITeacherConfig, connection: OpenAIConnection, *, pause: Pause) -> bool:
    """Whether the server still has the lane that was settled on.

    Raises:
        TeacherError: It cannot be reached, or refuses the key.
    """
    kind, _, dialect = lane.partition(":")
    if kind != "json":
        return await _bears(lane, config, connection, pause)
    return await _keeps_to(dialect, config, connection, pause)


async def _bears(lane: str, config: OpenAITeacherConfig, connection: OpenAIConnection, pause: Pause) -> bool:
    """Whether a lane gives a distribution over the options of a question."""
    built = build_lane(lane, config, endpoint=connection.endpoint)

    async def attempt() -> Completion:
        request = built.compile(_QUESTION, sample=0)
        return built.read(await connection.with_a_server("", partial(built.ask, request)))

    try:
        completion = await _tried(attempt, pause)
    except _LACKS_FIELD as error:
        # `distill serve` decides between the labels of its student alone, and says so of any other question.
        return lane.startswith("decision:") and "unknown_options" in str(error)
    except (OverloadedError, UnknownModelError):
        if lane == "logprobs:sampled":  # which is a path that every server has
            raise
        return False
    except WrongKeyError:
        # A key that may chat need not be one that may decide. Where only this will do, what the server says is said.
        if lane == "logprobs:sampled" or len(config.lanes) == 1:
            raise
        return False
    return completion.probs is not None and set(completion.probs) <= set(_QUESTION.options)


async def _structured(config: OpenAITeacherConfig, connection: OpenAIConnection, pause: Pause) -> str:
    if config.structured == "none":
        return "none"
    if config.structured != "auto":
        if await _keeps_to(config.structured, config, connection, pause):
            return config.structured
        raise ConstraintIgnoredError(
            connection.say(
                f"the server takes structured: {config.structured} and then does not keep to it; use structured: auto, "
                "or none to rely on the prompt"
            )
        )
    for dialect in _STRUCTURED:
        try:
            if await _keeps_to(dialect, config, connection, pause):
                return dialect
        except (RequestRejectedError, SchemaRejectedError):
            continue
    raise ConstraintIgnoredError(
        connection.say(
            f"the server keeps to none of {', '.join(_STRUCTURED)}; use structured: none to rely on the prompt"
        )
    )


async def _keeps_to(dialect: str, config: OpenAITeacherConfig, connection: OpenAIConnection, pause: Pause) -> bool:
    """Whether a greeting is answered with an object that only the constraint can have brought about.

    An answer that ended at ``max_tokens`` before it said anything (a model that thinks) tells nothing, and is believed.
    """
    if dialect == "none":
        return True
    one = config.model_copy(update={"samples_per_request": 1})
    lane = ChatLane(one, endpoint=connection.endpoint, structured=dialect)

    async def attempt() -> Completion:
        request = lane.compile(_GREETING, sample=0)
        return lane.read(await connection.with_a_server("", partial(lane.ask, request)))

    completion = await _tried(attempt, pause)
    text = completion.text.strip()
    if completion.finish == "length" and (not text or (dialect == "json_object" and text.startswith("{"))):
        return True
    found = find_json_object(text)
    if found is None:
        return False
    return dialect == "json_object" or found.get("label") == _ODD_LABEL


async def _tried(attempt: Callable[[], Awaitable[Got]], pause: Pause) -> Got:
    """Attempts a few times while the server says that it is not ready."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await attempt()
        except TeacherError as error:
            if not error.retryable or isinstance(error, BadReplyError):
                raise
        await pause()
    return await attempt()
