"""A model in vLLM's offline engine: rows in batches, without a server; and exact probabilities of labels."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.labeling.errors import BadReplyError, ConnectionFailedError, LocalServerError, RequestRejectedError
from distill.labeling.teacher import Completion, Prompt, Reply, Request
from distill.teachers.guarded_process import GuardedProcess, status_text
from distill.teachers.local_batches import LocalBatches
from distill.teachers.row_seed import row_seed
from distill.teachers.vllm_command import engine_settings, environment, find_vllm, interpreter
from distill.teachers.vllm_config import VLLMOfflineConfig
from distill.teachers.vllm_identity import endpoint_of_engine

_WORKER = Path(__file__).with_name("vllm_worker.py")
_LOGS = Path(".distill/logs")
_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0


class VLLMOfflineTeacher:
    """Asks vLLM's ``LLM`` in a worker process (:mod:`distill.teachers.vllm_worker`), many rows at a time.

    In the *logprobs* lane nothing is written. For each label y the engine reads prompt and label, and gives

        log P(y, end of turn | prompt) = sum of log P(token | prompt and tokens before)

    over the label's tokens and the token that ends the turn; over the labels they are then made to sum to one. All
    tokens count, so that a label which begins another one is told apart from it. vLLM takes the softmax in float32, but
    of logits that a bfloat16 model has rounded to 8 bits, which shows: ``dtype: float32`` is exact.

    In the *json* lane it writes the answer, held to the schema.

    A worker that dies is started again and given its batch once more; a row that kills it every time fails alone.

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.
    """

    def __init__(self, name: str, config: VLLMOfflineConfig) -> None:
        self.name = name
        self.family = config.family
        self.answer = config.answer
        # The next batch gathers while one is at work.
        self.max_concurrency: int | None = config.max_concurrency or 2 * config.batch_size
        self.budget_usd = config.budget_usd
        self.quota = config.quota
        self.model = config.served_name
        self.endpoint = endpoint_of_engine(config, scheme="vllm-offline")
        self._config = config
        self._scoring = config.settled_lane == "logprobs"
        self._worker = _Worker(name, config)
        self._batches: LocalBatches[Request, dict[str, Any] | Exception] | None = None

    def __repr__(self) -> str:
        """Name, model and endpoint."""
        return f"VLLMOfflineTeacher({self.name!r}, model={self.model!r}, endpoint={self.endpoint!r})"

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as an item of the worker's batches."""
        config = self._config
        turns = [("system", prompt.system), ("user", prompt.user), *prompt.turns]
        template = ({"enable_thinking": False} if self._scoring else {}) | config.chat_template_kwargs
        item: dict[str, Any] = {
            "messages": [{"role": role, "content": text} for role, text in turns],
            "template": template,
            "adapter": config.adapter,
        }
        if self._scoring:
            item["labels"] = list(prompt.options)
        else:
            sampling = {"max_tokens": config.token_limit, "temperature": config.temperature, "n": config.samples}
            if config.seed is not None:
                sampling["seed"] = row_seed(config.seed, sample=sample, user=prompt.user)
            item["sampling"] = {key: value for key, value in sampling.items() if value is not None}
            item["schema"] = dict(prompt.schema) or None
        body = json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        request = Request(self.endpoint, body, sample, prompt.row_id, self.model)
        request.prefix = prompt.prefix
        return request

    def read(self, reply: Reply) -> Completion:
        """Takes the worker's result apart.

        Raises:
            BadReplyError: It is none.
        """
        try:
            result = json.loads(reply.body)
            completion = _scored(result["logprobs"]) if "logprobs" in result else _written(result)
            completion.input_tokens, completion.output_tokens = result["input_tokens"], result["output_tokens"]
            return completion
        except (ValueError, KeyError, TypeError) as error:
            raise BadReplyError(f"teacher {self.name}: expected a result of the worker, got {error!r}") from None

    async def ask(self, request: Request) -> Reply:
        """Has the request done with whatever else is asked at the time.

        Raises:
            ConnectionFailedError: The worker died over it.
            RequestRejectedError: It does not fit the model, or vLLM refuses it.
            LocalServerError: The worker cannot be started again.
        """
        assert self._batches is not None, "open() comes before ask()"
        began_s = time.perf_counter()
        result = await self._batches(request)
        assert isinstance(result, dict)  # errors have been raised
        if problem := result.get("error"):
            raise RequestRejectedError(f"teacher {self.name}: {problem}")
        price, cost = self._config.price, None
        if price is not None:
            read, written = result["input_tokens"], result["output_tokens"]
            cost = (read * price.input_usd_per_mtok + written * price.output_usd_per_mtok) / 1e6
        return Reply(json.dumps(result, ensure_ascii=False), time.perf_counter() - began_s, cost)

    async def open(self) -> None:
        """Starts the worker and waits until the model is loaded.

        Raises:
            LocalServerError: It does not come up; with the end of its log.
            MissingDependencyError: The interpreter has no vLLM.
        """
        await asyncio.to_thread(find_vllm, self._config, needed_for=f"teacher {self.name}")
        opening = asyncio.ensure_future(asyncio.to_thread(self._worker.start))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._worker.close)
            await asyncio.wait([opening])
            raise
        self._batches = LocalBatches(self._worker.answer, most=self._config.batch_size)

    async def close(self) -> None:
        """Ends the worker; what it is working on is lost."""
        await asyncio.to_thread(self._worker.close)
        if self._batches is not None:
            await self._batches.close()
            self._batches = None


class _Worker:
    """The worker process: started, asked, started again. One thread uses it; another may close it."""

    def __init__(self, name: str, config: VLLMOfflineConfig) -> None:
        self._name = name
        self._config = config
        self._log = (config.log or _LOGS / f"vllm-{name}.log").absolute()
        self._process: GuardedProcess | None = None
        self._closing = False
        self._deaths = 0

    def start(self) -> None:
        """Starts it and waits until it is ready.

        Raises:
            LocalServerError: It ended first, or was closed, or took too long.
        """
        if self._closing:
            raise LocalServerError(f"teacher {self._name}: its worker has been closed")
        config = self._config
        command = [interpreter(config), str(_WORKER)]
        process = self._process = GuardedProcess(command, env=environment(config), log=self._log, piped=True)
        watchdog = _Deadline(config.start_timeout_s, process)
        try:
            lora = {config.adapter: config.lora[config.adapter]} if config.adapter else {}
            engine = engine_settings(config.model_copy(update={"lora": lora}))
            answer = self._exchange({"engine": engine, "lora": lora})
        except ConnectionFailedError as error:
            late = f", which took longer than start_timeout_s, {config.start_timeout_s:g} s" if watchdog.struck else ""
            raise LocalServerError(
                f"teacher {self._name}: the vLLM worker did not come up{late}: {error}; its log {self._log} ends in:\n"
                f"{process.log_tail()}"
            ) from None
        finally:
            watchdog.end()
        assert answer.get("ready")

    def answer(self, requests: Sequence[Request]) -> Sequence[dict[str, Any] | Exception]:
        """The results of a batch. A batch over which the worker dies is tried once more before it is given back.

        Raises:
            ConnectionFailedError: The worker died twice.
            LocalServerError: It cannot be started again.
        """
        line = {"items": [json.loads(request.body) for request in requests]}
        for attempt in (1, 2):
            if self._process is None or not self._process.alive:
                self._restart()
            try:
                results = self._exchange(line)["results"]
            except ConnectionFailedError:
                self._deaths += 1
                if attempt == 2 or self._closing or len(requests) == 1:
                    raise
            else:
                self._deaths = 0
                return list(results)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        self._closing = True
        if self._process is not None:
            self._process.stop()

    def _restart(self) -> None:
        if self._deaths > self._config.restarts:
            tail = self._process.log_tail() if self._process is not None else ""
            raise LocalServerError(
                f"teacher {self._name}: the vLLM worker died {self._deaths} times in a row; its log {self._log} ends "
                f"in:\n{tail}"
            )
        if self._process is not None:
            self._process.stop()
        time.sleep(min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** max(0, self._deaths - 1)))
        self.start()

    def _exchange(self, line: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        try:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            said = process.stdout.readline()
        except (OSError, ValueError):  # a broken pipe, or one closed by another thread
            said = b""
        answer = json.loads(said) if said.endswith(b"\n") else {}
        if answer and "fatal" not in answer:
            return dict(answer)
        how = answer.get("fatal") or f"it ended with {status_text(process.stop())}"
        if "fatal" in answer:
            process.stop()
        raise ConnectionFailedError(f"teacher {self._name}: the vLLM worker died: {how}")


class _Deadline:
    """Kills a process that is not done in time."""

    def __init__(self, seconds: float, process: GuardedProcess) -> None:
        import threading

        self.struck = False
        self._process = process
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True
        self._timer.start()

    def _strike(self) -> None:
        self.struck = True
        self._process.kill()

    def end(self) -> None:
        """It is done."""
        self._timer.cancel()


def _written(result: Mapping[str, Any]) -> Completion:
    first, *others = result["texts"]
    return Completion(first, finish=result["finish"], others=tuple(others))


def _scored(logprobs: Mapping[str, float]) -> Completion:
    """The distribution over labels: softmax of their log-probabilities, from the largest so that none underflows."""
    most = max(logprobs.values())
    weights = {label: math.exp(value - most) for label, value in logprobs.items()}
    total = math.fsum(weights.values())
    probs = {label: weight / total for label, weight in weights.items()}
    best = max(probs, key=lambda label: probs[label])
    return Completion(best, probs=probs, probs_source="logprob")
