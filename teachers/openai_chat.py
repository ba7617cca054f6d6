"""The json lane: a chat completion that writes an object, held to its schema by the server."""

from __future__ import annotations

from typing import Any, NamedTuple

from distill.labeling.errors import BadReplyError
from distill.labeling.teacher import Completion, Finish, Prompt, Request, RequestHead
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai_body import (
    constraint,
    encoded,
    sampling,
    tokens_read,
    tokens_written,
    turns_of,
    usage_of,
    user_content,
    with_extra,
)
from distill.teachers.openai_connection import CHAT, Exchange, Send
from distill.teachers.openai_errors import is_filtered, told
from distill.teachers.row_seed import row_seed

_MAX_HEADS = 128
_FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "filtered"}


class _Shared(NamedTuple):
    head: RequestHead
    prompt: Prompt


class ChatLane:
    """Asks ``POST {base_url}/chat/completions``, one request a row.

    Args:
        config: The teacher's section.
        endpoint: Who answers, as the ledger knows it.
        structured: How the server is held to the schema; see :func:`~distill.teachers.openai_body.constraint`.
    """

    most_options: int | None = None

    def __init__(self, config: OpenAITeacherConfig, *, endpoint: str, structured: str) -> None:
        self.answer = config.answer
        self._config = config
        self._endpoint = endpoint
        self._structured = structured
        self._seeded = config.seed is not None and "seed" not in config.extra_body
        self._heads: dict[tuple[int, int, int, int], _Shared] = {}

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as a chat completion request."""
        shared = self._shared(prompt, sample)
        parts = [user_content(prompt), b"}", turns_of(prompt), b"]"] if prompt.turns else [user_content(prompt), b"}]"]
        if self._seeded:
            parts.append(b',"seed":%d' % row_seed(self._config.seed or 0, sample=sample, user=prompt.user))
        parts.append(b"}")
        request = shared.head.request(b"".join(parts), row_id=prompt.row_id)
        request.prefix = prompt.prefix
        return request

    async def ask(self, request: Request, send: Send) -> Exchange:
        """Sends the request as it is."""
        return await send(CHAT, request.body)

    def read(self, exchange: Exchange) -> Completion:
        """Takes the answer out of a chat completion."""
        return read_chat(exchange.body, exchange.parsed)

    def _shared(self, prompt: Prompt, sample: int) -> _Shared:
        """What every request with this system text and schema begins with: all but the row, its turns and its seed."""
        # By identity, since comparing 4 KB a row costs more than encoding the row. What is kept keeps its ids taken.
        place = (id(prompt.system), id(prompt.schema), prompt.items, sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            shared = self._heads[place] = _Shared(self._head(prompt, sample), prompt)
        return shared

    def _head(self, prompt: Prompt, sample: int) -> RequestHead:
        config = self._config
        settings = sampling(config, items=prompt.items)
        if config.samples_per_request > 1:
            settings["n"] = config.samples_per_request
        settings |= constraint(self._structured, prompt.schema, endpoint=self._endpoint)
        start = encoded(with_extra(settings, config))
        messages = b',"messages":[{"role":"system","content":%b},{"role":"user","content":' % encoded(prompt.system)
        return RequestHead(self._endpoint, start[:-1] + messages, sample=sample, model=config.model)


def read_chat(body: str, parsed: Any) -> Completion:
    """Takes the answer out of a chat completion; those of further choices are its ``others``.

    Raises:
        BadReplyError: The body is not a chat completion: an HTML page, half a JSON, no choices.
    """
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    listed = choices if isinstance(choices, list) else []
    message = message_of(listed[0]) if listed else None
    if message is None:
        if is_filtered(parsed):
            return Completion(text="", finish="filtered")
        raise BadReplyError(
            f"expected a chat completion, got {told(body, parsed)}; is base_url an OpenAI-compatible server's (it "
            "usually ends in /v1)?"
        )
    usage = usage_of(parsed)
    text = text_of(message.get("content"))
    finish = _FINISHES.get(str(listed[0].get("finish_reason")), "stop")
    if refusal := text_of(message.get("refusal")):
        text, finish = text or refusal, "refused"
    return Completion(
        text=text,
        reasoning=text_of(message.get("reasoning_content") or message.get("reasoning")) or None,
        finish=finish,
        input_tokens=tokens_read(usage),
        output_tokens=tokens_written(usage),
        others=tuple(text_of((message_of(other) or {}).get("content")) for other in listed[1:]),
    )


def message_of(choice: Any) -> dict[str, Any] | None:
    """The message of one of a chat completion's choices, None where it has none."""
    message = choice.get("message") if isinstance(choice, dict) else None
    return message if isinstance(message, dict) else None


def text_of(content: Any) -> str:
    """Content is a text, None, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
