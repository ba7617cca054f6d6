"""The decision lane: an endpoint that gives a probability per option and writes nothing.

Three wire formats of one idea:

- ``openai``: ``POST /decisions`` with ``input`` and a list of questions whose options are ``choices`` (a ``value`` and
  a ``description``); answers are a list, probabilities a list of ``{value, probability}``. At most 255 options.
- ``sglang``: ``POST /decisions`` too, with ``id``, ``question`` and ``options`` (``name``, ``description``); answers
  by id, probabilities by name. At most 26 options.
- ``systemone``: ``POST /systemone`` with ``state`` and questions by id whose options are ``criteria``; answers by id,
  probabilities by name. vLLM serves it for a few architectures, at most 26 options.

Tried against a real server: ``systemone``, with vLLM 0.32. Written by documentation and source, tried against an
imitation only: ``openai`` (a public beta, which may change) and ``sglang``. So answers are read tolerantly, in any of
the forms.

The instruction and the guideline are the input that all questions share, and the row is the question: servers evaluate
the input once and keep it in their prefix cache, and a row is judged alike whether it is asked alone or with others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from distill.labeling.errors import BadReplyError, DataError
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Request, RequestHead
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai_body import encoded, image_urls, tokens_read, tokens_written, usage_of, with_extra
from distill.teachers.openai_connection import Exchange, Send
from distill.teachers.openai_errors import is_filtered, told

Dialect = Literal["openai", "sglang", "systemone"]
DIALECTS: tuple[Dialect, ...] = ("openai", "sglang", "systemone")

_MOST_OPTIONS = {"openai": 255, "sglang": 26, "systemone": 26}
_MAX_HEADS = 128
# Probabilities are rounded to two decimals by some services; below this something was left out.
_WHOLE = 0.97


class _Shared(NamedTuple):
    head: RequestHead
    prompt: Prompt


class DecisionLane:
    """Asks a decision endpoint, one question a row.

    Args:
        config: The teacher's section.
        endpoint: Who answers, as the ledger knows it.
        dialect: One of :data:`DIALECTS`.
    """

    def __init__(self, config: OpenAITeacherConfig, *, endpoint: str, dialect: str) -> None:
        self.answer = AnswerFormat(clauses=False, form="decision")
        self.most_options: int | None = _MOST_OPTIONS[dialect]
        self._config = config
        self._endpoint = endpoint
        self._dialect = dialect
        self._path = "/systemone" if dialect == "systemone" else "/decisions"
        self._heads: dict[tuple[int, int], _Shared] = {}

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Asks about one row.

        Raises:
            DataError: An image cannot be read, or the task has no closed set of labels.
        """
        if prompt.images:
            return self._request(self._head(prompt, sample, image_urls(prompt)), [prompt])
        return self._request(self._shared(prompt, sample), [prompt])

    def compile_pack(self, prompts: Sequence[Prompt], *, sample: int) -> Request:
        """Asks about several rows in one request, a question each; they share system text and options.

        Raises:
            DataError: A row has images, which belong to a request as a whole.
        """
        if any(prompt.images for prompt in prompts):
            raise DataError("rows with images cannot be asked about in one request; ask about each alone")
        return self._request(self._shared(prompts[0], sample), prompts)

    async def ask(self, request: Request, send: Send) -> Exchange:
        """Sends the request as it is."""
        return await send(self._path, request.body)

    def read(self, exchange: Exchange) -> Completion:
        """Takes the probabilities out of a response.

        Raises:
            BadReplyError: There is no answer, or a probability is no number from 0 to 1.
        """
        parsed = exchange.parsed
        if is_filtered(parsed):
            return Completion(text="", finish="filtered")
        answers = _answers_of(parsed)
        if not answers:
            raise BadReplyError(f"expected answers to a decision, got {told(exchange.body, parsed)}")
        parts = [_completion_of(answers.get(f"q{place}")) for place in range(len(answers))]
        usage = usage_of(parsed)
        whole = parts[0] if len(parts) == 1 else Completion(text="", parts=tuple(parts))
        whole.input_tokens, whole.output_tokens = tokens_read(usage), tokens_written(usage)
        return whole

    def _request(self, head: RequestHead, prompts: Sequence[Prompt]) -> Request:
        options = prompts[0].options
        if not options:
            raise DataError("a decision needs a closed set of labels, and the task has none; use lane: json")
        asked = [_question(self._dialect, f"q{place}", prompt) for place, prompt in enumerate(prompts)]
        listed = b"{%b}}" if self._dialect == "systemone" else b"[%b]}"
        request = head.request(listed % b",".join(asked), row_id=prompts[0].row_id)
        request.prefix = prompts[0].prefix
        return request

    def _shared(self, prompt: Prompt, sample: int) -> RequestHead:
        place = (id(prompt.system), sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            shared = self._heads[place] = _Shared(self._head(prompt, sample, []), prompt)
        return shared.head

    def _head(self, prompt: Prompt, sample: int, images: Sequence[str]) -> RequestHead:
        body: dict[str, Any] = {"model": self._config.model}
        body |= _input(self._dialect, prompt.system, images)
        start = encoded(with_extra(body, self._config))[:-1] + b',"questions":'
        return RequestHead(self._endpoint, start, sample=sample, model=self._config.model)


def _input(dialect: str, system: str, images: Sequence[str]) -> dict[str, Any]:
    if dialect == "systemone":
        return {"state": system, **({"images": list(images)} if images else {})}
    if not images:
        return {"input": system}
    if dialect == "sglang":
        return {"input": system, "images": [{"url": url} for url in images]}
    parts = [{"type": "input_image", "image_url": url} for url in images]
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": system}, *parts]}]}


def _question(dialect: str, name: str, prompt: Prompt) -> bytes:
    options, text = prompt.options, prompt.user
    if dialect == "systemone":
        criteria = {option: meaning or None for option, meaning in options.items()}
        question = {"type": "choice", "instructions": text, "criteria": criteria}
        return b"%b:%b" % (encoded(name), encoded(question))
    if dialect == "sglang":
        named = [_described("name", option, meaning) for option, meaning in options.items()]
        return encoded({"id": name, "type": "choice", "question": text, "options": named})
    choices = [_described("value", option, meaning) for option, meaning in options.items()]
    return encoded({"type": "choice", "name": name, "instructions": text, "choices": choices})


def _described(key: str, option: str, meaning: str) -> dict[str, str]:
    return {key: option, "description": meaning} if meaning else {key: option}


def _answers_of(parsed: Any) -> Mapping[str, Any]:
    answers = parsed.get("answers") if isinstance(parsed, dict) else None
    if isinstance(answers, dict):
        return answers
    if not isinstance(answers, list):
        return {}
    named = {}
    for place, answer in enumerate(answers):
        name = answer.get("name") or answer.get("id") if isinstance(answer, dict) else None
        named[str(name or f"q{place}")] = answer
    return named


def _completion_of(answer: Any) -> Completion:
    if not isinstance(answer, dict):
        raise BadReplyError(f"expected an answer to each question, got {answer!r:.200}")
    if answer.get("type") == "refusal":
        return Completion(text=str(answer.get("reason") or ""), finish="refused")
    choice = answer.get("choice")
    text = choice if isinstance(choice, str) else ""
    probs = dict(_probabilities(answer.get("probabilities")))
    if not probs:
        if text:  # a label without probabilities is a label all the same
            return Completion(text=text)
        raise BadReplyError(f"expected probabilities, got {answer!r:.200}")
    return Completion(
        text=text or max(probs, key=lambda option: probs[option]),
        probs=probs,
        probs_source="decision",
        probs_clipped=math.fsum(probs.values()) < _WHOLE,
    )


def _probabilities(stated: Any) -> Iterator[tuple[str, float]]:
    """Pairs of option and probability, whether they are stated by name or as a list."""
    if isinstance(stated, dict):
        pairs = list(stated.items())
    elif isinstance(stated, list):
        pairs = [
            (item.get("value", item.get("name", item.get("label"))), item.get("probability"))
            for item in stated
            if isinstance(item, dict)
        ]
    else:
        return
    for option, value in pairs:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= 1 + 1e-6:
            raise BadReplyError(f"expected a probability for {option!r}, got {value!r:.80}")
        yield str(option), float(value)
