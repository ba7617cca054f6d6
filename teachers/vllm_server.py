"""One vLLM server: started, waited for, watched, started again when it dies, and stopped."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distill.labeling.errors import LocalServerError
from distill.teachers.guarded_process import GuardedProcess, status_text
from distill.teachers.vllm_command import environment, server_command
from distill.teachers.vllm_config import VLLMTeacherConfig

if TYPE_CHECKING:
    import aiohttp

_LOOK_EVERY_S = 0.25
_WATCH_EVERY_S = 5.0
_HEALTH_TIMEOUT_S = 5.0
_SICK_LOOKS = 3
_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0
# One that stayed up for so long died of something else than the last time.
_STEADY_S = 600.0


class VLLMServer:
    """A server on a free port of the loopback interface.

    The port is kept from others by a socket that is bound to it and does not listen, so that the server is found at
    the same address when it is started again. It is known to be ours, and not another that took the port, by a name
    for the model that nobody else has.

    Args:
        config: The teacher's section.
        where: Who wants it, for messages.
        devices: The GPUs that it may see.
        log: Where it writes to.
    """

    def __init__(self, config: VLLMTeacherConfig, *, where: str, devices: Sequence[str], log: Path) -> None:
        self._config = config
        self._where = where
        self._log = log
        self._environment = environment(config, devices=devices)
        self._place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        port = self._place.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        self._mark = f"distill-{secrets.token_hex(6)}"
        base = config.served_name if config.adapter is None else config.model
        self._command = server_command(config, port=port, names=[base, self._mark])
        self._process: GuardedProcess | None = None
        self._watching: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._changed = asyncio.Event()
        self._tail = ""
        self.up = False
        self.gone: LocalServerError | None = None
        self.starts = 0

    @property
    def base_url(self) -> str:
        """Its address, the same after it was started again."""
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        return self._process.pid if self._process is not None and self._process.alive else None

    async def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            LocalServerError: It ended before it answered, or took too long; with the end of its log.
        """
        import aiohttp

        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S))
        await self._launch()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stops it and everything that it started."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._end_process()
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._place.close()

    async def changed(self) -> None:
        """Waits until it comes up, goes down or is given up."""
        await self._changed.wait()

    async def is_healthy(self) -> bool:
        """Whether it says just now that it is well."""
        return self._session is not None and await self._status("/health") == 200

    async def _launch(self) -> None:
        self._note(f"start {self.starts + 1} at {self._address}")
        self.starts += 1
        process = self._process = GuardedProcess(self._command, env=self._environment, log=self._log)
        ended = asyncio.ensure_future(process.ended())
        try:
            deadline = time.monotonic() + self._config.start_timeout_s
            while not ended.done() and time.monotonic() < deadline:
                if await self.is_healthy() and await self._is_ours():
                    self._set(up=True)
                    return
                await asyncio.wait([ended], timeout=_LOOK_EVERY_S)
        finally:
            status = ended.result() if ended.done() and not ended.cancelled() else None
            ended.cancel()
            await asyncio.wait([ended])
            if not self.up:
                await self._end_process()
        if status is None:
            what = f"is not up after {self._config.start_timeout_s:g} s; raise start_timeout_s"
        else:
            what = f"ended with {status_text(status)} before it was up"
        raise LocalServerError(f"{self._where}: the vLLM server {what}; its log {self._log} ends in:\n{self._tail}")

    async def _watch(self) -> None:
        """Starts it again whenever it dies, until it has died too often in a row."""
        deaths = 0
        while True:
            assert self._process is not None
            how = await self._until_dead(self._process)
            deaths = 1 if time.monotonic() - self._process.started_s >= _STEADY_S else deaths + 1
            self._set(up=False)
            while not self.up:
                if deaths > self._config.restarts:
                    self._give_up(f"{how}; it was started {self.starts} times")
                    return
                self._note(f"{how}; starting it again, {deaths} of {self._config.restarts}")
                await self._end_process()
                await asyncio.sleep(min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** (deaths - 1)))
                try:
                    await self._launch()
                except LocalServerError as error:
                    deaths, how = deaths + 1, str(error).partition("; its log")[0]

    async def _until_dead(self, process: GuardedProcess) -> str:
        """Waits until the server has ended, or says itself that its engine has; says how."""
        ended = asyncio.ensure_future(process.ended())
        sick = 0
        try:
            while sick < _SICK_LOOKS:
                await asyncio.wait([ended], timeout=_WATCH_EVERY_S)
                if ended.done():
                    return f"it ended with {status_text(ended.result())}"
                # Only what it says counts: one that is busy may be late with an answer.
                sick = sick + 1 if await self._status("/health") not in (200, None) else 0
            return "it says that its engine is dead"
        finally:
            ended.cancel()

    def _give_up(self, how: str) -> None:
        tail = f"its log {self._log} ends in:\n{self._tail}"
        self.gone = LocalServerError(f"{self._where}: the vLLM server keeps dying: {how}; {tail}")
        self._note(f"{how}; given up")
        self._set(up=False)

    def _set(self, *, up: bool) -> None:
        self.up = up
        self._changed.set()
        self._changed = asyncio.Event()

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._tail = process.log_tail()
            await _whole(process.stop)

    async def _status(self, path: str) -> int | None:
        import aiohttp

        assert self._session is not None
        with suppress(aiohttp.ClientError, OSError):
            async with self._session.get(self._address + path) as response:
                return response.status
        return None

    async def _is_ours(self) -> bool:
        import aiohttp

        assert self._session is not None
        with suppress(aiohttp.ClientError, OSError, ValueError):
            async with self._session.get(f"{self.base_url}/models") as response:
                return self._mark in await response.text()
        return False

    def _note(self, text: str) -> None:
        with suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} distill: {text}\n")


async def _whole(function: Callable[[], object]) -> None:
    """Runs a blocking function in a thread to its end, whether or not the caller is cancelled meanwhile."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
