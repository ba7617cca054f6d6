"""The log-probability lane of hosted servers, which give the likeliest alternatives of each token that they write."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.labeling.errors import BadReplyError, DataError
from distill.labeling.teacher import AnswerFormat, Completion, Prompt, Request, RequestHead
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.json_body import parsed_json
from distill.teachers.openai_body import encoded, sampling, turns_of, usage_of, user_content, with_extra
from distill.teachers.openai_chat import read_chat
from distill.teachers.openai_connection import CHAT, Exchange, Send
from distill.teachers.openai_errors import is_filtered, told
from distill.teachers.row_seed import row_seed

_MAX_TOKENS = 64
_TOP = 20
_MAX_HEADS = 128
_AROUND = " \t\r\n\"'`*.,:"
_END = re.compile(r"|<[|｜].*[|｜]>|</?(?:s|eos|end_of_turn)>", re.DOTALL)


class _Shared(NamedTuple):
    head: RequestHead
    prompt: Prompt


class SampledLane:
    """Has the model write the bare label, and reads the probability of every label off the way it was written.

    The request, as keys and the ledger know it, holds the options beside the chat completion that is sent, and so does
    the reply that is kept: they are what the tokens are matched with.

    ``extra_body: {top_logprobs: 5}`` is for servers that give fewer alternatives than 20.

    Args:
        config: The teacher's section.
        endpoint: Who answers, as the ledger knows it.
    """

    most_options: int | None = None

    def __init__(self, config: OpenAITeacherConfig, *, endpoint: str) -> None:
        self.answer = AnswerFormat(clauses=False, form="label")
        self._config = config
        self._endpoint = endpoint
        self._seeded = config.seed is not None and "seed" not in config.extra_body
        self._heads: dict[tuple[int, int, int], _Shared] = {}

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as a chat completion with log-probabilities, beside its options.

        Raises:
            DataError: An image cannot be read, or the task has no closed set of labels.
        """
        if not prompt.options:
            raise DataError("log-probabilities need a closed set of labels, and the task has none; use lane: json")
        place = (id(prompt.system), id(prompt.options), sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            shared = self._heads[place] = _Shared(self._head(prompt, sample), prompt)
        parts = [user_content(prompt), b"}", turns_of(prompt), b"]"]
        if self._seeded:
            parts.append(b',"seed":%d' % row_seed(self._config.seed or 0, sample=sample, user=prompt.user))
        parts.append(b"}}")
        request = shared.head.request(b"".join(parts), row_id=prompt.row_id)
        request.prefix = prompt.prefix
        return request

    def _head(self, prompt: Prompt, sample: int) -> RequestHead:
        settings = sampling(self._config) | {"max_tokens": self._config.max_tokens or _MAX_TOKENS}
        settings |= {"logprobs": True, "top_logprobs": _TOP}
        start = b'{"options":%b,"request":%b' % (
            encoded(list(prompt.options)),
            encoded(with_extra(settings, self._config))[:-1],
        )
        start += b',"messages":[{"role":"system","content":%b},{"role":"user","content":' % encoded(prompt.system)
        return RequestHead(self._endpoint, start, sample=sample, model=self._config.model)

    async def ask(self, request: Request, send: Send) -> Exchange:
        """Sends the chat completion; gives its response beside the options."""
        asked = parsed_json(request.body.decode("utf-8", "replace"))
        exchange = await send(CHAT, encoded(asked["request"]))
        if not isinstance(exchange.parsed, dict):
            raise BadReplyError(f"expected a chat completion, got {told(exchange.body, exchange.parsed)}")
        if is_filtered(exchange.parsed):
            return exchange
        kept = {"options": asked["options"], "response": exchange.parsed, "usage": usage_of(exchange.parsed)}
        return exchange._replace(body=encoded(kept).decode(), parsed=kept)

    def read(self, exchange: Exchange) -> Completion:
        """Reads the distribution off; without one where the text written has nothing to do with any label.

        Raises:
            BadReplyError: The response is not a chat completion, or a log-probability is no number.
        """
        parsed = exchange.parsed
        if is_filtered(parsed):
            return Completion(text="", finish="filtered")
        if not isinstance(parsed, dict) or "response" not in parsed:
            raise BadReplyError(f"expected a chat completion, got {told(exchange.body, parsed)}")
        response = parsed["response"]
        completion = read_chat(encoded(response).decode(), response)
        if completion.finish in ("stop", "length"):
            steps = list(_steps(response["choices"][0].get("logprobs")))
            masses = label_masses(steps, parsed["options"])
            if masses is not None:
                completion.probs, completion.probs_clipped = masses
                completion.probs_source = "logprob"
        return completion


class Step(NamedTuple):
    """A token that was written, and the alternatives.

    Attributes:
        token: Its text.
        logprob: Its log-probability.
        others: Text and log-probability of the likeliest other tokens in its place.
    """

    token: str
    logprob: float
    others: Sequence[tuple[str, float]]


class Masses(NamedTuple):
    """Probability of each label, and whether one was guessed."""

    probs: dict[str, float]
    clipped: bool


def label_masses(steps: Sequence[Step], options: Sequence[str]) -> Masses | None:
    """Probability of each label, by the tree of what was written and what could have been written instead.

    At every token the text so far, with each alternative in its place, is the beginning of some labels: the mass of
    the alternative (the product of the probabilities along the way) is theirs. Where it is the beginning of several,
    how they share it is not known: each gets the same part. What was written to its end is the label that it spells. A
    label that appears nowhere gets the least mass that was reported, or an equal part of what is left of the whole
    where that is less. Both guesses are marked as clipped. Case and what stands around a label do not count.

    Args:
        steps: What was written.
        options: The labels.

    Returns:
        None where no label appears at all.
    """
    labels = {option: option.strip(_AROUND).casefold() for option in options}
    masses = dict.fromkeys(options, 0.0)
    clipped = False
    written, so_far, left, least = "", 0.0, 0.0, 1.0

    def give(text: str, mass: float, *, ended: bool) -> int:
        begins = text.lstrip(_AROUND).casefold()
        spelled = begins.rstrip(_AROUND)
        fit = [option for option, form in labels.items() if (form == spelled if ended else form.startswith(begins))]
        fit = fit or [option for option, form in labels.items() if form == spelled]
        for option in fit:
            masses[option] += mass / len(fit)
        return len(fit)

    for step in steps:
        left += math.exp(so_far) * max(0.0, 1.0 - math.exp(step.logprob) - sum(math.exp(lp) for _, lp in step.others))
        for token, logprob in step.others:
            mass = math.exp(so_far + logprob)
            least = min(least, mass)
            ended = _END.fullmatch(token) is not None
            clipped |= give(written if ended else written + token, mass, ended=ended) > 1
        if _END.fullmatch(step.token):
            break
        begins = (written + step.token).lstrip(_AROUND).casefold()
        if not any(form.startswith(begins) or form == begins.rstrip(_AROUND) for form in labels.values()):
            break  # it goes on after the label, or was never one
        written, so_far = written + step.token, so_far + step.logprob
    give(written, math.exp(so_far), ended=True)
    if not any(masses.values()):
        return None
    missing = [option for option, mass in masses.items() if mass == 0]
    for option in missing:
        masses[option] = min(least, left / len(missing))
    return Masses(masses, clipped or bool(missing))


def _steps(given: Any) -> Iterator[Step]:
    content = given.get("content") if isinstance(given, dict) else None
    for entry in content if isinstance(content, list) else []:
        token, logprob = _entry(entry)
        others = [_entry(other) for other in entry.get("top_logprobs") or ()]
        yield Step(token, logprob, [other for other in others if other[0] != token])


def _entry(entry: Mapping[str, Any]) -> tuple[str, float]:
    logprob = entry.get("logprob") if isinstance(entry, dict) else None
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or math.isnan(logprob):
        raise BadReplyError(f"expected a token and its log-probability, got {entry!r:.120}")
    return str(entry.get("token") or ""), min(0.0, float(logprob))
