"""What is sent to Gemini: bodies of ``generateContent`` and of ``decisions``, written without the SDK.

Two fields of a ``generateContent`` body are no part of what arrives: ``model``, which the SDK puts into the address,
and ``options``, the labels that log-probabilities are read for. They stand in it so that the key covers them. The tier
and a cached prefix are put in on the way out: they change the price and not the answer, so the key does not hold them.

Specification: ai.google.dev/api/generate-content, and the request types of google-genai 3.6.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from distill.labeling.errors import DataError
from distill.labeling.prompts.image import is_address, read_image
from distill.labeling.teacher import Prompt
from distill.teachers.gemini_config import GeminiTeacherConfig
from distill.teachers.row_seed import row_seed

GeminiLane = Literal["decision", "logprobs", "json"]

MOST_OPTIONS = 255
"""Options of one choice question."""

MOST_QUESTIONS = 1000
"""Questions of one decision request."""

SINGLE_QUESTION = "item"
"""Id of the question of a request about one row; those of a pack are ``1``, ``2``, …"""

_MOST_LOGPROBS = 20
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ASK = "Which label does the item get, by the instruction above?"


def encoded(value: Any) -> bytes:
    """JSON without spaces, in UTF-8."""
    return _ENCODE(value).encode("utf-8", "replace")


def generate_start(config: GeminiTeacherConfig, prompt: Prompt, *, lane: GeminiLane) -> bytes:
    """The start of a body that rows share: everything up to the text of the row.

    Args:
        config: The teacher's section.
        prompt: Of any of the rows; what differs between them is not read.
        lane: ``logprobs`` states the options, which the server ignores and the reply is read by.

    Returns:
        JSON up to the row's text, which follows as a JSON string.
    """
    fields: dict[str, Any] = {"model": model_path(config.model)}
    if lane == "logprobs":
        fields["options"] = list(prompt.options)
    fields |= {
        name: value for name, value in config.extra_body.items() if name != "generationConfig" and value is not None
    }
    fields["systemInstruction"] = {"parts": [{"text": prompt.system}]}
    return encoded(fields)[:-1] + b',"contents":[{"role":"user","parts":[{"text":'


def generation_start(config: GeminiTeacherConfig, prompt: Prompt, *, lane: GeminiLane) -> bytes:
    """``generationConfig`` without its closing brace, which a row's seed may come before.

    Args:
        config: The teacher's section; its ``extra_body`` comes last and so decides.
        prompt: For the schema of the answer.
        lane: ``logprobs`` asks for log-probabilities, every other lane for JSON of that schema.
    """
    fields: dict[str, Any] = {"maxOutputTokens": config.output_limit}
    if config.temperature is not None:
        fields["temperature"] = config.temperature
    if lane == "logprobs":
        fields |= {"responseLogprobs": True, "logprobs": _MOST_LOGPROBS}
    else:
        fields |= {"responseMimeType": "application/json", "responseJsonSchema": prompt.schema}
    if config.thinking is not None:
        thinking = {
            "thinkingBudget": config.thinking.budget,
            "thinkingLevel": config.thinking.level.upper() if config.thinking.level else None,
            "includeThoughts": config.thinking.summaries or None,
        }
        fields["thinkingConfig"] = {name: value for name, value in thinking.items() if value is not None}
    fields |= config.extra_body.get("generationConfig") or {}
    return encoded({name: value for name, value in fields.items() if value is not None})[:-1]


def generate_rest(config: GeminiTeacherConfig, prompt: Prompt, generation: bytes, *, sample: int) -> bytes:
    """What comes after the shared start: the row, its images, its turns, and how to answer.

    Args:
        config: The teacher's section.
        prompt: The question.
        generation: As :func:`generation_start` gives it.
        sample: Index of a deliberate repeat.

    Raises:
        DataError: An image cannot be read.
    """
    parts = [encoded(prompt.user), b"}"]
    parts += [b"," + encoded(_image_part(reference)) for reference in prompt.images]
    parts.append(b"]}")
    for role, text in prompt.turns:
        turn = {"role": "model" if role == "assistant" else "user", "parts": [{"text": text}]}
        parts.append(b"," + encoded(turn))
    parts += [b'],"generationConfig":', generation]
    given = config.extra_body.get("generationConfig") or {}
    if config.seed is not None and "seed" not in given:
        parts.append(b',"seed":%d' % row_seed(config.seed, sample=sample, user=prompt.user))
    parts.append(b"}}")
    return b"".join(parts)


def decision_start(config: GeminiTeacherConfig, prompt: Prompt) -> bytes:
    """The start of a decision's body that rows share: the instruction, ahead of the items that are judged by it.

    It is given as input and not as each question's instructions: the input is read and paid for once a request, and
    what sellers write stays out of the place where instructions stand.
    """
    return b'{"model":%b,"input":[%b' % (encoded(config.model), encoded({"type": "text", "text": prompt.system}))


def decision_rest(prompts: Sequence[Prompt], *, packed: bool) -> bytes:
    """What comes after the shared start: the items, and a question for each.

    Args:
        prompts: Questions with the same instruction and options.
        packed: Whether they are a pack, also where it is one of one.

    Raises:
        DataError: More or fewer options than a question can have, or an image cannot be read.
    """
    options = prompts[0].options
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise DataError(
            f"row {prompts[0].row_id}: a decision takes 2 to {MOST_OPTIONS} options, got {len(options)}; set lane: json"
        )
    blocks: list[dict[str, Any]] = []
    questions: dict[str, Any] = {}
    for number, prompt in enumerate(prompts, 1):
        # The last line of a prompt says which mark its item stands between.
        item, _, which = prompt.user.rpartition("\n\n")
        blocks.append({"type": "text", "text": item or which})
        blocks += [_image_block(reference) for reference in prompt.images]
        questions[str(number) if packed else SINGLE_QUESTION] = {
            "type": "choice",
            "instructions": f"{which} {_ASK}" if item else _ASK,
            "criteria": dict(options),
        }
    return b"".join(b"," + encoded(block) for block in blocks) + b'],"questions":' + encoded(questions) + b"}"


def model_path(model: str) -> str:
    """A model's name as the address has it."""
    return model if "/" in model else f"models/{model}"


def options_asked(body: Mapping[str, Any]) -> list[str]:
    """Options of a body's questions, which are the same for all."""
    if "questions" in body:
        return list(next(iter(body["questions"].values()))["criteria"])
    return list(body.get("options") or ())


def _image_part(reference: str) -> dict[str, Any]:
    if is_address(reference):
        return {"fileData": {"mimeType": _kind(reference), "fileUri": reference}}
    image = read_image(reference)
    return {"inlineData": {"mimeType": image.mime_type, "data": base64.b64encode(image.data).decode("ascii")}}


def _image_block(reference: str) -> dict[str, Any]:
    if is_address(reference):
        return {"type": "image", "uri": reference, "mime_type": _kind(reference)}
    image = read_image(reference)
    return {"type": "image", "data": base64.b64encode(image.data).decode("ascii"), "mime_type": image.mime_type}


def _kind(address: str) -> str:
    """What an address ends in; JPEG where it does not say, as most product images are."""
    guessed = mimetypes.guess_type(urlsplit(address).path)[0] or ""
    return guessed if guessed.startswith("image/") else "image/jpeg"
