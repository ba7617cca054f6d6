"""A local imitation of the endpoints that give probabilities, which fails as it is told to.

Decisions in three dialects, tokenize and completions that score tokens, chat completions with log-probabilities or held
to a schema.

Its model writes one of the labels that it has weights for and ends its turn: after a prefix that several labels share,
each next token has the mass of the labels that go on with it. So the probability of a whole label is its weight.

A token is a character; in chat completions three, so that labels that share their first characters share a token.

Faults, a string each: an HTTP status, ``html``, ``half_json``, ``cut`` (the connection ends within the body), ``drop``
(before it), ``nan`` (a probability is no number), ``missing`` (the first option has none), ``unknown`` (an option that
was not given), ``refusal``.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Mapping
from typing import Any

from aiohttp import web

START, END = 1, 2
# The last two are the options of the teacher's own probe.
WEIGHTS = {"exact": 0.5, "exact match": 0.2, "substitute": 0.2, "irrelevant": 0.1, "tool": 0.02, "plant": 0.01}
_NEVER = -9999.0
_CHUNK = 3


class LaneServer:
    """Runs on a free port of the loopback interface, in a thread of its own.

    Args:
        has: Endpoints and fields that it has: ``openai``, ``sglang``, ``systemone`` (decisions), ``next``, ``prompt``
            (scoring), ``sampled`` (log-probabilities of what is written).
        honours: Constraints that it keeps to: ``json_schema``, ``structured_outputs``, ``guided_json``,
            ``json_object``. It ignores the others without a word.
        rejects: Constraints that it answers with 400.
        weights: Of what its model may write; options that it does not know share what is left of one.

    Attributes:
        base_url: For a teacher's ``base_url``.
        requests: Path and body of the requests that came in, in order.
    """

    def __init__(
        self,
        *,
        has: tuple[str, ...] = (),
        honours: tuple[str, ...] = ("json_schema",),
        rejects: tuple[str, ...] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.has = has
        self.honours = honours
        self.rejects = rejects
        self.weights = dict(WEIGHTS if weights is None else weights)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._faults: dict[str, list[str]] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="lane-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the lane server did not start"

    def script(self, path: str, *faults: str) -> None:
        """The next requests to a path meet these, in the order in which they come."""
        self._faults.setdefault(path, []).extend(faults)

    def paths(self) -> list[str]:
        """Paths of the requests so far."""
        return [path for path, _ in self.requests]

    def stop(self) -> None:
        """Ends it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        body = json.loads(await http.read())
        self.requests.append((http.path, body))
        faults = self._faults.get(http.path)
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            return _error(int(fault), f"scripted {fault}")
        if fault == "drop":
            assert http.transport is not None
            http.transport.close()
            return web.Response()
        handlers = {
            "/tokenize": self._tokenize,
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/v1/decisions": self._decisions,
            "/v1/systemone": self._systemone,
        }
        found = handlers[http.path](body, fault) if http.path in handlers else None
        if not isinstance(found, dict):
            return _error(*(found or (404, "Not Found")))
        return await _sent(http, json.dumps(found), fault)

    # Decisions

    def _shares(self, options: list[str], fault: str) -> dict[str, float]:
        known = {option: self.weights[option] for option in options if option in self.weights}
        unknown = [option for option in options if option not in known]
        left = max(0.0, 1 - sum(known.values()))
        shares = {option: known.get(option, left / max(1, len(unknown))) for option in options}
        shares = {option: share / sum(shares.values()) for option, share in shares.items()}
        if fault == "nan":
            shares[options[0]] = math.nan
        if fault == "missing":
            del shares[options[0]]
        if fault == "unknown":
            shares["something else"] = 0.1
        return shares

    def _decisions(self, body: dict[str, Any], fault: str) -> Any:
        if "openai" in self.has:
            return self._openai(body, fault)
        return self._sglang(body, fault) if "sglang" in self.has else None

    def _openai(self, body: dict[str, Any], fault: str) -> Any:
        answers = []
        for question in body["questions"]:
            if set(question) != {"type", "name", "instructions", "choices"} or len(question["choices"]) > 255:
                return 400, "bad question"
            if fault == "refusal":
                answers.append({"type": "refusal", "name": question["name"]})
                continue
            shares = self._shares([choice["value"] for choice in question["choices"]], fault)
            answer = {"type": "choice", "name": question["name"], "choice": max(shares, key=shares.__getitem__)}
            answer["probabilities"] = [{"value": name, "probability": share} for name, share in shares.items()]
            answers.append({**answer, "confidence": max(shares.values())})
        usage = {"input_tokens": 70, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 20}}
        return {"model": body["model"], "answers": answers, "usage": usage}

    def _sglang(self, body: dict[str, Any], fault: str) -> Any:
        answers = {}
        for question in body["questions"]:
            if set(question) != {"type", "id", "question", "options"} or len(question["options"]) > 26:
                return 400, "1 validation error: extra fields not permitted"
            shares = self._shares([option["name"] for option in question["options"]], fault)
            answers[question["id"]] = {"type": "choice", "probabilities": shares, "label_mass": 0.97}
        return {"object": "decisions", "answers": answers, "usage": {"prompt_tokens": 50, "completion_tokens": 0}}

    def _systemone(self, body: dict[str, Any], fault: str) -> Any:
        if "systemone" not in self.has:
            return 501, "The model does not support the structured decision API"
        answers = {}
        for name, question in body["questions"].items():
            if len(question["criteria"]) > 26:
                return 400, "at most 26 options for this model"
            shares = self._shares(list(question["criteria"]), fault)
            best = max(shares, key=shares.__getitem__)
            answers[name] = {"type": "choice", "choice": best, "probabilities": shares, "confidence": shares[best]}
        return {"object": "structured_decision", "answers": answers, "usage": {"input_tokens": 9, "output_tokens": 1}}

    # Tokens

    def _tokenize(self, body: dict[str, Any], _: str) -> Any:
        if not {"next", "prompt"} & set(self.has):
            return None
        if "prompt" in body:
            return {"tokens": [ord(character) for character in body["prompt"]]}
        tokens: list[int] = []
        for message in body["messages"]:
            tokens += [START, ord(message["role"][0]), *map(ord, message["content"]), END, ord("\n")]
        if body.get("continue_final_message"):
            tokens = tokens[:-2]
        if body.get("add_generation_prompt", True):
            tokens += [START, ord("a")]
        return {"tokens": tokens}

    def _mass(self, reply: str) -> float:
        return sum(weight for label, weight in self._labels() if label.startswith(reply))

    def _labels(self) -> list[tuple[str, float]]:
        return [(label + chr(END), weight) for label, weight in self.weights.items()]

    def _next(self, tokens: list[int], token: int) -> float:
        start = max(place for place, seen in enumerate(tokens) if seen == START) + 2
        reply = "".join(map(chr, tokens[start:]))
        mass = self._mass(reply)
        going_on = self._mass(reply + chr(token))
        return math.log(going_on / mass) if mass and going_on else _NEVER

    def _completions(self, body: dict[str, Any], fault: str) -> Any:
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            if body.get("echo"):
                if "prompt" not in self.has:
                    return 400, "echo is not supported"
                start = max(place for place, seen in enumerate(tokens) if seen == START) + 2
                listed = [None if at < start else self._next(tokens[:at], token) for at, token in enumerate(tokens)]
                if fault == "nan":
                    listed[-1] = math.nan
                choices.append({"index": index, "logprobs": {"token_logprobs": listed}})
                continue
            wanted = body["logprob_token_ids"] if "next" in self.has else []
            top = {f"token_id:{token}": self._next(tokens, token) for token in wanted}
            if fault == "nan":
                top = dict.fromkeys(top, math.nan)
            if fault == "missing":
                top.popitem()
            choices.insert(0, {"index": index, "logprobs": {"top_logprobs": [top]}})  # in no order, as is allowed
        usage = {"prompt_tokens": sum(map(len, body["prompt"])), "completion_tokens": len(choices)}
        return {"choices": choices, "usage": usage}

    # Chat

    def _chat(self, body: dict[str, Any], fault: str) -> Any:
        if body.get("logprobs") and "sampled" in self.has:
            return self._written(fault)
        kind, schema = _constraint(body)
        if kind in self.rejects:
            return 400, f"response_format of type {kind} is not supported"
        text = "Hello there!"
        if kind in self.honours:
            text = json.dumps({"label": self._first_of(schema["properties"]["label"]["enum"]) if schema else "?"})
        choices = [{"index": index, "message": {"content": text}} for index in range(body.get("n", 1))]
        return {"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 3}}

    def _first_of(self, options: list[str]) -> str:
        return max(options, key=lambda option: self.weights.get(option, 0.0))

    def _written(self, fault: str) -> Any:
        text, content = "", []
        while True:
            pieces: dict[str, float] = {}
            for label, weight in self._labels():
                if label.startswith(text):
                    piece = label[len(text) : len(text) + _CHUNK]
                    pieces[piece] = pieces.get(piece, 0.0) + weight
            total = sum(pieces.values())
            listed = [_token(piece, math.log(mass / total)) for piece, mass in pieces.items()]
            listed.sort(key=lambda entry: -entry["logprob"])
            chosen = max(pieces, key=pieces.__getitem__)
            if fault == "nan":
                listed[0]["logprob"] = math.nan
            if chosen == chr(END):
                break
            content.append({**listed[0], "top_logprobs": listed})
            text += chosen
            if text.endswith(chr(END)):
                break
        message = {"role": "assistant", "content": text.removesuffix(chr(END))}
        choice = {"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": len(content)}}


def _token(piece: str, logprob: float) -> dict[str, Any]:
    return {"token": piece.replace(chr(END), "") or "<|im_end|>", "logprob": logprob}


def _constraint(body: dict[str, Any]) -> tuple[str, Any]:
    if "response_format" in body:
        wanted = body["response_format"]
        return wanted["type"], wanted.get("json_schema", {}).get("schema")
    if "structured_outputs" in body:
        return "structured_outputs", body["structured_outputs"]["json"]
    return ("guided_json", body["guided_json"]) if "guided_json" in body else ("none", None)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


async def _sent(http: web.Request, body: str, fault: str) -> web.StreamResponse:
    if fault == "html":
        return web.Response(text="<html><title>Sign in</title></html>", content_type="text/html")
    if fault == "half_json":
        return web.Response(text=body[: len(body) // 2], content_type="application/json")
    if fault != "cut":
        return web.Response(text=body, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(http)
    await response.write(body.encode()[: len(body) // 2])
    assert http.transport is not None
    http.transport.close()
    return response
