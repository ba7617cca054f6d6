"""The log-probability lane of servers that turn chats into tokens and score tokens which they are given: vLLM.

(SGLang's ``/tokenize`` knows no chats; it has a decision endpoint.)

The probability of a label is that of the model writing exactly it and then ending its turn:

    log P(label) = sum over its tokens t_i of log p(t_i | prompt, t_1 … t_(i-1)) + log p(end of turn | prompt, label)

with the distribution over labels made to sum to one. The end of the turn is part of it because without it a label that
begins another one ("exact", "exact match") would be counted wherever the other is meant. Nothing is made up for length:
this is the probability of the answer, and a long label that the model is sure of loses nothing, since its later tokens
have probability near one. First tokens alone would not do: labels often share theirs.

Two methods, of which the first reads each prompt once, through the server's prefix cache:

- ``next``: ``/completions`` with one prompt for every way in which labels part (the prompt, the prompt and a label's
  first token, …) and vLLM's ``logprob_token_ids`` for the log-probabilities of the tokens that come next in a label.
- ``prompt``: ``/completions`` with a prompt for every label and ``echo``, whose log-probabilities of the prompt's own
  tokens are read. vLLM leaves its prefix cache aside for them, so that it costs as many times more as there are labels.

vLLM's ``/generative_scoring`` is not used: in 0.32 it gives the probability of one single token a request, and so of no
label of several tokens. Nothing is held to a grammar, since log-probabilities are then those after its mask. vLLM
computes in the model's dtype: with ``--dtype bfloat16`` logits, and so probabilities, are rounded to about 1 in 100;
with float32 they agree with transformers to four decimals.

The chat template's kwargs go along (``extra_body: {chat_template_kwargs: {enable_thinking: false}}``), which a model
that thinks needs: its answer does not begin with a label otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.labeling.errors import BadReplyError, DataError
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Request, RequestHead
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.json_body import parsed_json
from distill.teachers.openai_body import encoded, tokens_read, tokens_written, usage_of, user_content
from distill.teachers.openai_connection import Exchange, Send
from distill.teachers.openai_errors import is_filtered, told

_TOKENIZE = "/../tokenize"
_COMPLETIONS = "/completions"
# A prompt is sent for every way in which labels part: beyond this, level by level is cheaper.
_MOST_OPTIONS = 64
# The most of ``logprob_token_ids`` in vLLM.
_MOST_TOKENS = 128
_MAX_HEADS = 128
_TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs", "add_special_tokens", "priority", "cache_salt")
_EXAMPLE = [{"role": "system", "content": "."}, {"role": "user", "content": "."}]

Tokens = tuple[int, ...]


class _Shared(NamedTuple):
    head: RequestHead
    prompt: Prompt


class ScoringLane:
    """Scores every label of a question.

    The request, as keys and the ledger know it, is the question: messages, options and method. What goes over the wire
    follows from it: the chat is turned into tokens by the server's ``/tokenize``, and then scored by one request (a few
    where labels have over 128 different tokens). The reply kept holds the log-probability of each token of each label,
    and not the response, which for some servers repeats the prompt.

    Args:
        config: The teacher's section.
        endpoint: Who answers, as the ledger knows it.
        method: ``next`` or ``prompt``.
    """

    def __init__(self, config: OpenAITeacherConfig, *, endpoint: str, method: str) -> None:
        self.answer = AnswerFormat(clauses=False, form="label")
        self.most_options: int | None = _MOST_OPTIONS
        self._config = config
        self._endpoint = endpoint
        self._method = method
        self._template = {name: config.extra_body[name] for name in _TEMPLATE_FIELDS if name in config.extra_body}
        self._heads: dict[tuple[int, int, int], _Shared] = {}
        self._labels: dict[tuple[str, ...], list[Tokens]] = {}

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the question down.

        Raises:
            DataError: The row has images, or the task has no closed set of labels.
        """
        if not prompt.options:
            raise DataError("log-probabilities need a closed set of labels, and the task has none; use lane: json")
        if prompt.images:
            raise DataError("prompts given as tokens hold no images; use lane: json, or decision")
        place = (id(prompt.system), id(prompt.options), sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            shared = self._heads[place] = _Shared(self._head(prompt, sample), prompt)
        request = shared.head.request(b"%b}]}" % user_content(prompt), row_id=prompt.row_id)
        request.prefix = prompt.prefix
        return request

    def _head(self, prompt: Prompt, sample: int) -> RequestHead:
        question = {
            "score": self._method,
            "model": self._config.model,
            **self._template,
            "options": list(prompt.options),
        }
        messages = b',"messages":[{"role":"system","content":%b},{"role":"user","content":' % encoded(prompt.system)
        start = encoded(question)[:-1] + messages
        return RequestHead(self._endpoint, start, sample=sample, model=self._config.model)

    async def ask(self, request: Request, send: Send) -> Exchange:
        """Turns the chat into tokens and scores every label.

        Raises:
            BadReplyError: The server does not give the log-probabilities that it is asked for.
        """
        question = parsed_json(request.body.decode("utf-8", "replace"))
        options = tuple(question["options"])
        labels = self._labels.get(options)
        if labels is None:
            labels = self._labels[options] = await self._tokens_of(options, send)
        prompt = await self._tokenized(send, messages=question["messages"])
        tally = _Tally()
        if self._method == "next":
            scores = await self._score_next(prompt, labels, send, tally)
        else:
            scores = await self._score_prompt(prompt, labels, send, tally)
        kept = {
            "object": "label_logprobs",
            "options": dict(zip(options, scores, strict=True)),
            "usage": {"prompt_tokens": tally.read, "completion_tokens": tally.written},
        }
        return Exchange(encoded(kept).decode(), kept, tally.latency_s, tally.headers)

    def read(self, exchange: Exchange) -> Completion:
        """Makes the scores a distribution.

        Raises:
            BadReplyError: A score is missing or no number.
        """
        parsed = exchange.parsed
        options = parsed.get("options") if isinstance(parsed, dict) else None
        if not isinstance(options, dict) or not options:
            raise BadReplyError(f"expected log-probabilities of labels, got {told(exchange.body, parsed)}")
        totals = {label: _total(label, scores) for label, scores in options.items()}
        most = max(totals.values())
        probs = {label: math.exp(total - most) for label, total in totals.items()}
        usage = usage_of(parsed)
        return Completion(
            text=max(totals, key=lambda label: totals[label]),
            input_tokens=tokens_read(usage),
            output_tokens=tokens_written(usage),
            probs=probs,
            probs_source="logprob",
        )

    # Tokens

    async def _tokenized(self, send: Send, **chat: Any) -> Tokens:
        exchange = await send(_TOKENIZE, encoded({"model": self._config.model, **self._template, **chat}))
        tokens = exchange.parsed.get("tokens") if isinstance(exchange.parsed, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise BadReplyError(f"expected tokens from /tokenize, got {told(exchange.body, exchange.parsed)}")
        return tuple(tokens)

    async def _tokens_of(self, options: Sequence[str], send: Send) -> list[Tokens]:
        """Each label's tokens as a reply, the one that ends the turn included."""
        start = await self._tokenized(send, messages=_EXAMPLE)
        return [await self._reply_tokens(option, start, send) for option in options]

    async def _reply_tokens(self, label: str, start: Tokens, send: Send) -> Tokens:
        """By the chat template: the same chat with the label as its reply, once left open and once ended.

        Where the template writes a past reply in another way than it begins a new one (it drops thinking, or the server
        knows no open reply), the label is taken by itself.
        """
        chat = [*_EXAMPLE, {"role": "assistant", "content": label}]
        ended = await self._tokenized(send, messages=chat, add_generation_prompt=False)
        left_open = await self._tokenized(send, messages=chat, add_generation_prompt=False, continue_final_message=True)
        if left_open != ended and left_open[: len(start)] == start and ended[: len(left_open)] == left_open:
            tokens, end = left_open[len(start) :], ended[len(left_open) :][:1]
        else:
            tokens = await self._tokenized(send, prompt=label, add_special_tokens=False)
            end = _what_follows(ended, tokens)
        if not tokens or not end:
            raise BadReplyError(f"the chat template does not say how a reply {label!r} ends; use lane: json")
        return (*tokens, *end)

    # Scores

    async def _score_next(
        self, prompt: Tokens, labels: Sequence[Tokens], send: Send, tally: _Tally
    ) -> list[list[float]]:
        steps = {(label[:place], label[place]) for label in labels for place in range(len(label))}
        found: dict[tuple[Tokens, int], float] = {}
        for batch in _batches(sorted(steps)):
            places = sorted({place for place, _ in batch})
            wanted = sorted({token for _, token in batch})
            body = {
                "model": self._config.model,
                "prompt": [[*prompt, *place] for place in places],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(wanted),
                "logprob_token_ids": wanted,
                "return_tokens_as_token_ids": True,
            }
            choices = await self._completions(body, len(places), send, tally)
            tops = {place: _top_of(choice) for place, choice in zip(places, choices, strict=True)}
            for place, token in batch:
                found[place, token] = _number(tops[place].get(f"token_id:{token}"))
        return [[found[label[:place], label[place]] for place in range(len(label))] for label in labels]

    async def _score_prompt(
        self, prompt: Tokens, labels: Sequence[Tokens], send: Send, tally: _Tally
    ) -> list[list[float]]:
        body = {
            "model": self._config.model,
            "prompt": [[*prompt, *label] for label in labels],
            "max_tokens": 0,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }
        choices = await self._completions(body, len(labels), send, tally)
        scores = []
        for label, choice in zip(labels, choices, strict=True):
            given = choice.get("logprobs")
            listed = given.get("token_logprobs") if isinstance(given, dict) else None
            own = listed[len(prompt) : len(prompt) + len(label)] if isinstance(listed, list) else []
            if len(own) < len(label):
                raise BadReplyError("expected log-probabilities of the prompt's tokens, got none; use lane: json")
            scores.append([_number(value) for value in own])
        return scores

    async def _completions(
        self, body: Mapping[str, Any], count: int, send: Send, tally: _Tally
    ) -> list[dict[str, Any]]:
        exchange = await send(_COMPLETIONS, encoded(body))
        parsed = exchange.parsed
        choices = parsed.get("choices") if isinstance(parsed, dict) else None
        if is_filtered(parsed) or not isinstance(choices, list) or len(choices) != count:
            raise BadReplyError(f"expected {count} scored prompts, got {told(exchange.body, parsed)}")
        if not all(isinstance(choice, dict) for choice in choices):
            raise BadReplyError(f"expected choices, got {told(exchange.body, parsed)}")
        tally.add(exchange)
        return sorted(choices, key=lambda choice: int(choice.get("index") or 0))


class _Tally:
    """What the exchanges of one question took."""

    def __init__(self) -> None:
        self.read = 0
        self.written = 0
        self.latency_s = 0.0
        self.headers: dict[str, str] = {}

    def add(self, exchange: Exchange) -> None:
        usage = usage_of(exchange.parsed)
        self.read += tokens_read(usage) or 0
        self.written += tokens_written(usage) or 0
        self.latency_s += exchange.latency_s
        self.headers = exchange.headers


def _what_follows(tokens: Tokens, part: Tokens) -> Tokens:
    """The token after the last occurrence of a part; none where it does not occur."""
    for start in range(len(tokens) - len(part), -1, -1):
        if part and tokens[start : start + len(part)] == part:
            return tokens[start + len(part) :][:1]
    return ()


def _batches(steps: Sequence[tuple[Tokens, int]]) -> Iterator[list[tuple[Tokens, int]]]:
    """Steps in batches that want no more different tokens than a server takes."""
    batch: list[tuple[Tokens, int]] = []
    wanted: set[int] = set()
    for step in steps:
        if step[1] not in wanted and len(wanted) == _MOST_TOKENS:
            yield batch
            batch, wanted = [], set()
        batch.append(step)
        wanted.add(step[1])
    yield batch


def _top_of(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    given = choice.get("logprobs")
    tops = given.get("top_logprobs") if isinstance(given, dict) else None
    return tops[0] if isinstance(tops, list) and tops and isinstance(tops[0], dict) else {}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise BadReplyError(f"expected the log-probability of a label's token, got {value!r:.80}; use lane: json")
    return float(value)


def _total(label: str, scores: Any) -> float:
    if not isinstance(scores, list) or not scores:
        raise BadReplyError(f"expected log-probabilities of {label!r}, got {scores!r:.80}")
    return math.fsum(_number(score) for score in scores)
