"""Other clients, each asked to label the same rows: run by ``engine_throughput.py`` in the client's own environment.

    PEER/bin/python benchmarks/peer_clients.py openai http://127.0.0.1:8000/v1 questions.json 256

Each is used as its manual says for many requests at once, with its limits raised so that they are not what is measured:
no retries, as many connections as requests in flight, nothing logged. Prints a line of JSON: seconds, labels, version.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Ask = Callable[[list[dict[str, str]]], Awaitable[str]]


def run_openai(base_url: str, questions: list[list[dict[str, str]]], in_flight: int) -> tuple[float, int]:
    """The vendor's own client. Of its 1,000 connections it keeps 100 open by default; here it keeps all."""
    from openai import AsyncOpenAI

    try:
        import httpx2 as httpx
    except ImportError:  # before version 3
        import httpx

    async def main() -> tuple[float, int]:
        limits = httpx.Limits(max_connections=4 * in_flight, max_keepalive_connections=4 * in_flight)
        async with AsyncOpenAI(
            base_url=base_url, api_key="none", max_retries=0, http_client=httpx.AsyncClient(limits=limits, timeout=60)
        ) as client:

            async def ask(messages: list[dict[str, str]]) -> str:
                reply = await client.chat.completions.create(
                    model="stub",
                    messages=messages,
                    max_tokens=512,
                    temperature=0.0,
                )
                return reply.choices[0].message.content

            return await _pool(ask, questions, in_flight)

    return asyncio.run(main())


def run_litellm(base_url: str, questions: list[list[dict[str, str]]], in_flight: int) -> tuple[float, int]:
    """``litellm.acompletion``, which uses aiohttp underneath."""
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False

    async def ask(messages: list[dict[str, str]]) -> str:
        reply = await litellm.acompletion(
            model="openai/stub",
            messages=messages,
            base_url=base_url,
            api_key="none",
            num_retries=0,
            max_tokens=512,
            temperature=0.0,
        )
        return reply.choices[0].message.content

    return asyncio.run(_pool(ask, questions, in_flight))


def run_distilabel(base_url: str, questions: list[list[dict[str, str]]], in_flight: int) -> tuple[float, int]:
    """A pipeline of one step whose batches are as large as what may be in flight; start and stop included."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(name="peer") as pipeline:
        load = LoadDataFromDicts(
            data=[{"system_prompt": system["content"], "instruction": user["content"]} for system, user in questions],
            batch_size=in_flight,
        )
        model = OpenAILLM(
            model="stub",
            base_url=base_url,
            api_key="none",
            max_retries=0,
            generation_kwargs={"max_new_tokens": 512, "temperature": 0.0},
        )
        load >> TextGeneration(llm=model, use_system_prompt=True, input_batch_size=in_flight)
    began_s = time.perf_counter()
    table = pipeline.run(use_cache=False)["default"]["train"]
    labels = sum(bool(_label(text)) for text in table["generation"])
    return time.perf_counter() - began_s, labels


async def _pool(ask: Ask, questions: list[list[dict[str, str]]], in_flight: int) -> tuple[float, int]:
    waiting = iter(questions)
    labels = []

    async def work() -> None:
        for messages in waiting:
            labels.append(_label(await ask(messages)))

    began_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return time.perf_counter() - began_s, len(labels)


def _label(text: str) -> Any:
    return json.loads(text)["label"]


_CLIENTS = {"openai": run_openai, "litellm": run_litellm, "distilabel": run_distilabel}

if __name__ == "__main__":
    name, address, path, count = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        asked = json.load(file)
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a client prints is no part of the result
    seconds, answered = _CLIENTS[name](address, asked, int(count))
    result = {"seconds": seconds, "labels": answered, "version": importlib.metadata.version(name)}
    os.write(output, (json.dumps(result) + "\n").encode())
