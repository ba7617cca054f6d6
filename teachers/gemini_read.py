"""Gemini's replies: what was answered, how probable it is, how many tokens it took."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distill.labeling.teacher import Completion, Finish
from distill.teachers.gemini_body import SINGLE_QUESTION
from distill.teachers.json_body import parsed_json
from distill.teachers.prices import Usage

_FINISHES: dict[str, Finish] = {
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "MODEL_ARMOR",
        ),
        "filtered",
    ),
}


class UnreadableReplyError(ValueError):
    """A body that is not what the protocol says; the message says what it is instead."""


def with_options(raw: str, options: Sequence[str]) -> str:
    """The body kept for a response: as it is, or with the options asked about, else missing ones could not be told."""
    return f'{{"options":{json.dumps(list(options), ensure_ascii=False)},"response":{raw}}}' if options else raw


def completion_of(body: str) -> Completion:
    """Reads a reply of any lane.

    Args:
        body: A response of ``generateContent``; or, as :func:`with_options` writes it, one of ``decisions`` or one with
            log-probabilities.

    Raises:
        UnreadableReplyError: It is something else.
    """
    reply = parsed_json(body)
    if not isinstance(reply, dict):
        raise UnreadableReplyError("no JSON object")
    options: list[str] = reply["options"] if isinstance(reply.get("options"), list) else []
    response = reply.get("response") if options else reply
    if not isinstance(response, dict):
        raise UnreadableReplyError("no response beside the options")
    if "answers" in response or "prompt_feedback" in response:
        return _decided(response, options)
    completion, candidate = _generated(response)
    if options and completion.finish == "stop":
        _read_logprobs(completion, candidate, options)
    return completion


def usage_of(response: Mapping[str, Any]) -> Usage:
    """Tokens of a response of ``generateContent`` (``usageMetadata``) or ``decisions`` (``usage``)."""
    counted = response.get("usageMetadata")
    if isinstance(counted, dict):
        read, written = _count(counted, "promptTokenCount"), _count(counted, "candidatesTokenCount")
        thought = _count(counted, "thoughtsTokenCount")
        if written is None and thought is None:
            # A blocked prompt has no candidates, and zero counts are left out of the JSON.
            written = None if read is None else 0
        output = None if written is None and thought is None else (written or 0) + (thought or 0)
        return Usage(read, output, _count(counted, "cachedContentTokenCount") or 0)
    counted = response.get("usage")
    if isinstance(counted, dict):
        written = (_count(counted, "total_output_tokens") or 0) + (_count(counted, "total_thought_tokens") or 0)
        return Usage(_count(counted, "total_input_tokens"), written, _count(counted, "total_cached_tokens") or 0)
    return Usage(None, None)


def _generated(response: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
    usage = usage_of(response)
    candidates = response.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(candidate, dict):
        if reason := _blocked(response.get("promptFeedback"), "blockReason", "blockReasonMessage"):
            return Completion(reason, finish="filtered", input_tokens=usage.input, output_tokens=usage.output), {}
        raise UnreadableReplyError("neither candidates nor a reason for blocking")
    content = candidate.get("content")
    listed = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in listed or () if isinstance(part, dict) and isinstance(part.get("text"), str)]
    finish_reason = str(candidate.get("finishReason") or "STOP")
    finish = _FINISHES.get(finish_reason, "stop")
    text = "".join(part["text"] for part in parts if not part.get("thought"))
    if finish == "filtered":
        text = _blocked(candidate, "finishReason", "finishMessage") or text
    completion = Completion(
        text=text,
        reasoning="".join(part["text"] for part in parts if part.get("thought")).strip() or None,
        finish=finish,
        input_tokens=usage.input,
        output_tokens=usage.output,
    )
    return completion, candidate


def _decided(response: dict[str, Any], options: Sequence[str]) -> Completion:
    usage = usage_of(response)
    if reason := _blocked(response.get("prompt_feedback"), "block_reason", "block_reason_message"):
        return Completion(reason, finish="filtered", input_tokens=usage.input, output_tokens=usage.output)
    answers = response.get("answers")
    if not isinstance(answers, dict) or not answers:
        raise UnreadableReplyError("no answers")
    if SINGLE_QUESTION in answers:
        completion = _chosen(answers[SINGLE_QUESTION], options)
        completion.input_tokens, completion.output_tokens = usage.input, usage.output
        return completion
    try:
        numbers = sorted(int(name) for name in answers)
    except ValueError:
        numbers = []
    if numbers != list(range(1, len(answers) + 1)):
        raise UnreadableReplyError(f"answers to {', '.join(list(answers)[:8])}")
    parts = tuple(_chosen(answers[str(number)], options) for number in numbers)
    return Completion("", input_tokens=usage.input, output_tokens=usage.output, parts=parts)


def _chosen(answer: Any, options: Sequence[str]) -> Completion:
    """One answer of a decision. Options without a probability share what the others leave."""
    if not isinstance(answer, dict) or not isinstance(answer.get("choice"), str):
        raise UnreadableReplyError("an answer that is no choice")
    given = answer.get("probabilities")
    stated = {name: float(p) for name, p in given.items() if _is_probability(p)} if isinstance(given, dict) else {}
    if not stated and _is_probability(answer.get("confidence")):
        stated = {answer["choice"]: float(answer["confidence"])}
    if not stated:
        raise UnreadableReplyError("an answer without probabilities")
    missing = [option for option in options if option not in stated]
    left = max(0.0, 1.0 - math.fsum(stated.values()))
    stated |= {option: left / len(missing) for option in missing}
    return Completion(answer["choice"], probs=stated, probs_source="decision", probs_clipped=bool(missing))


def _read_logprobs(completion: Completion, candidate: dict[str, Any], options: Sequence[str]) -> None:
    """Sets the distribution over the options from the log-probabilities of the tokens, where there are any."""
    result = candidate.get("logprobsResult")
    if not isinstance(result, dict):
        return
    chosen = [one for one in result.get("chosenCandidates") or () if isinstance(one, dict)]
    tops = [one.get("candidates") or () for one in result.get("topCandidates") or () if isinstance(one, dict)]
    steps = [
        Step(str(one.get("token") or ""), _tokens(top)) for one, top in zip(chosen, tops, strict=False) if _tokens(top)
    ]
    if found := label_probs(steps, options):
        completion.probs, completion.probs_clipped = found
        completion.probs_source = "logprob"


class Step(NamedTuple):
    """One token that was written.

    Attributes:
        token: Its text.
        alternatives: Log-probability of each token that might have been written, this one among them.
    """

    token: str
    alternatives: Mapping[str, float]


def label_probs(steps: Sequence[Step], options: Sequence[str]) -> tuple[dict[str, float], bool] | None:
    """Probabilities of whole labels, from the alternatives along the one path that was sampled.

    At each token of the label that was written, an alternative that leads to exactly one label gives that label the
    probability of the path so far times its own. One that several labels begin with, off the path, is shared out
    among them evenly: what they would continue with was not sampled. A label that no alternative leads to stands at
    the least probability that was reported on the way to it.

    Args:
        steps: The tokens written, in order.
        options: The labels.

    Returns:
        Probability of each label (not normalised), and whether any had to be shared out or bounded; None where the
        text is no label.
    """
    probs = dict.fromkeys(options, 0.0)
    bounds: dict[str, float] = {}
    path, so_far, clipped = 1.0, "", False
    for step in steps:
        open_labels = [option for option in options if option.startswith(so_far)]
        if len(open_labels) <= 1 or not step.alternatives:
            break
        least = path * math.exp(min(step.alternatives.values()))
        for token, logprob in step.alternatives.items():
            begun = (so_far + token).strip()
            led_to = [option for option in open_labels if begun and option.startswith(begun)]
            if token == step.token:
                continue
            for option in led_to:
                probs[option] += path * math.exp(logprob) / len(led_to)
                clipped = clipped or len(led_to) > 1
        for option in open_labels:
            bounds[option] = least
        written = step.token.lstrip() if not so_far else step.token
        path *= math.exp(step.alternatives.get(step.token, min(step.alternatives.values())))
        so_far += written
    final = [option for option in options if so_far and option.startswith(so_far.rstrip())]
    if not final:
        return None
    winner = final[0] if len(final) == 1 else next((one for one in final if one == so_far.rstrip()), None)
    if winner is None:
        return None
    probs[winner] += path
    for option in options:
        if probs[option] == 0.0:
            probs[option] = bounds.get(option, 0.0)
            clipped = True
    return probs, clipped


def _tokens(top: Any) -> dict[str, float]:
    listed = [one for one in top if isinstance(one, dict) and isinstance(one.get("token"), str)]
    return {
        one["token"]: float(one["logProbability"])
        for one in listed
        if isinstance(one.get("logProbability"), int | float)
    }


def _blocked(feedback: Any, reason: str, message: str) -> str:
    if not isinstance(feedback, dict) or not feedback.get(reason):
        return ""
    words = str(feedback.get(message) or "").strip()
    return f"{feedback[reason]}: {words}" if words else str(feedback[reason])


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _count(counted: Mapping[str, Any], field: str) -> int | None:
    value = counted.get(field)
    return value if isinstance(value, int) else None
