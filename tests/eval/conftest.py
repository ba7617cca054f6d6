"""Tables for the tests of eval, and a browser to look at reports with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.guideline import Guideline
from distill.labeling.task import Task
from distill.labeling.vote import Vote, votes_frame

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"
LABELS = ("exact", "substitute", "complement", "irrelevant")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def task() -> Task:
    return Task(labels=LABELS, inputs=("query", "title"), positive="exact", ordered=True)


@pytest.fixture(scope="session")
def quickstart_task() -> Task:
    inputs = ("query", "title", "brand", "category", "attributes", "description")
    guideline = Guideline.load(QUICKSTART / "guideline.md")
    return Task(labels=LABELS, inputs=inputs, positive="exact", ordered=True, guideline=guideline)


@pytest.fixture(scope="session")
def quickstart_rows() -> pl.DataFrame:
    pairs = pl.read_parquet(QUICKSTART / "pairs.parquet")
    inputs = ("query", "title", "brand", "category", "attributes", "description")
    return pairs.select(
        "row_id",
        "split",
        *(pl.col(name).fill_null("") for name in inputs),
        "lang",
        "planted",
        group="query_id",
        gold="label",
        weight=pl.lit(1.0),
    )


@pytest.fixture(scope="session")
def quickstart_votes() -> pl.DataFrame:
    votes = []
    for teacher in ("careful", "literal", "quick"):
        for line in (QUICKSTART / f"{teacher}.jsonl").read_text(encoding="utf-8").splitlines():
            recorded = json.loads(line)
            answer = json.loads(recorded["reply"])
            votes.append(
                Vote(
                    row_id=recorded["row_id"],
                    teacher=teacher,
                    family="recorded-llm",
                    outcome="labeled",
                    label=answer["label"],
                    trace=answer.get("trace"),
                    clauses=answer.get("clauses"),
                )
            )
    return votes_frame(votes)


def _rows(gold: list[str | None], **columns: list[Any]) -> pl.DataFrame:
    count = len(gold)
    table = {
        "row_id": [f"r{i:03d}" for i in range(count)],
        "group": [f"g{i}" for i in range(count)],
        "split": ["test"] * count,
        "gold": gold,
        "weight": [1.0] * count,
        "query": [f"query {i}" for i in range(count)],
        "title": [f"title {i}" for i in range(count)],
    }
    return pl.DataFrame({**table, **columns}, schema_overrides={"gold": pl.String})


@pytest.fixture
def make_rows() -> Callable[..., pl.DataFrame]:
    """Rows r000, r001 … in groups of their own: ``make_rows(gold, group=[…], lang=[…])``."""
    return _rows


@pytest.fixture
def make_votes() -> Callable[..., pl.DataFrame]:
    """Votes from ``(row, teacher, label, clauses)``, where a label of None is an abstention."""

    def make(*said: tuple[Any, ...], **same: Any) -> pl.DataFrame:
        votes = []
        for row, teacher, label, *rest in said:
            fields: dict[str, Any] = {"clauses": rest[0] if rest else None, "family": teacher, **same}
            outcome = "labeled" if label else "abstained"
            votes.append(Vote(row_id=row, teacher=teacher, outcome=outcome, label=label, **fields))
        return votes_frame(votes)

    return make


@dataclass
class Page:
    """A page in a browser: evaluates expressions, and keeps every complaint of the console."""

    socket: Any
    loop: asyncio.AbstractEventLoop
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    _number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), 20))

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, code=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        ready = "document.readyState === 'complete' ? done(1) : addEventListener('load', () => done(1))"
        self.evaluate(f"new Promise(done => {ready})")

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self.socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, said = message.get("method"), message.get("params", {})
        level = {"Log.entryAdded": lambda: said["entry"]["level"], "Runtime.consoleAPICalled": lambda: said["type"]}
        if kind == "Runtime.exceptionThrown" or (kind in level and level[kind]() in ("error", "warning", "assert")):
            self.complaints.append(json.dumps(said))
        elif kind == "Network.requestWillBeSent":
            self.requested.append(said["request"]["url"])


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of headless chromium, driven over its own debugging protocol."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    import aiohttp

    profile = tempfile.mkdtemp(prefix="distill-browser-")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    browser = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    loop = asyncio.new_event_loop()

    async def connect() -> tuple[Any, Any]:
        port = _port(Path(profile))
        session = aiohttp.ClientSession()
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(each for each in await answer.json() if each["type"] == "page")
        return session, await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)

    try:
        session, socket = loop.run_until_complete(connect())
        yield Page(socket, loop)
        loop.run_until_complete(socket.close())
        loop.run_until_complete(session.close())
    finally:
        browser.terminate()
        browser.wait(10)
        loop.close()
        shutil.rmtree(profile, ignore_errors=True)


def _port(profile: Path) -> int:
    """The port that chromium chose; it writes it to its profile once it listens."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            return int((profile / "DevToolsActivePort").read_text().split()[0])
        time.sleep(0.02)
    raise TimeoutError("chromium did not start")
