"""The vLLM servers of one model, shared by the teachers that want the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distill.labeling.errors import LocalServerError
from distill.teachers.model_config import ModelTeacherConfig
from distill.teachers.vllm_command import device_groups, find_vllm, visible_devices
from distill.teachers.vllm_config import VLLMTeacherConfig
from distill.teachers.vllm_server import VLLMServer

_LOOKS = 100
_LOOK_EVERY_S = 0.1
_LOGS = Path(".distill/logs")
# What a teacher asks, and how: no part of the server.
_OF_THE_TEACHER = {*ModelTeacherConfig.model_fields, "adapter", "endpoint", "structured", "extra_body", "timeout_s"} - {
    "model"
}


def same_servers(one: VLLMTeacherConfig, other: VLLMTeacherConfig) -> bool:
    """Whether two teachers can share servers: all but what they ask, and which adapter answers, is the same."""
    return one.model_dump(exclude=_OF_THE_TEACHER) == other.model_dump(exclude=_OF_THE_TEACHER)


class VLLMFleet:
    """Starts the servers when the first teacher wants them, and stops them after the last.

    With several GPUs each server has some of them for itself: copies of the model, over which requests are shared out.

    Args:
        name: Of the teacher whose section it is, for messages and the log's name.
        config: Its section.
    """

    def __init__(self, name: str, config: VLLMTeacherConfig) -> None:
        self.config = config
        self._name = name
        self._users = 0
        self._starting: asyncio.Task[tuple[str, ...]] | None = None
        self.servers: list[VLLMServer] = []

    async def acquire(self) -> tuple[str, ...]:
        """Has the servers started, unless they are, and waits until they answer.

        Returns:
            Their addresses.

        Raises:
            LocalServerError: One does not come up; none is left running.
            MissingDependencyError: The interpreter has no vLLM.
            UsageError: There are too few GPUs, or no such interpreter.
        """
        self._users += 1
        try:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
            return await asyncio.shield(self._starting)
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Stops the servers where nobody else wants them."""
        self._users -= 1
        if self._users:
            return
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            with suppress(BaseException):  # it was told to whoever waited for it
                await starting
        servers, self.servers = self.servers, []
        await asyncio.gather(*(server.stop() for server in servers))

    async def until_up(self) -> None:
        """Waits until a server answers, while they are being started again.

        Raises:
            LocalServerError: All of them have been given up.
        """
        while not any(server.up for server in self.servers):
            gone = [server.gone for server in self.servers if server.gone is not None]
            if len(gone) == len(self.servers):
                raise gone[0] if gone else LocalServerError(f"teacher {self._name}: its servers have been stopped")
            waiting = [asyncio.ensure_future(server.changed()) for server in self.servers]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waiting:
                    wait.cancel()

    async def until_healthy(self) -> None:
        """Waits until a server says that it is well, a death that was not noticed yet included; not for ever.

        Raises:
            LocalServerError: All of them have been given up.
        """
        for _ in range(_LOOKS):
            await self.until_up()
            if any(await asyncio.gather(*(server.is_healthy() for server in self.servers))):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _start(self) -> tuple[str, ...]:
        where = f"teacher {self._name}"
        await asyncio.to_thread(find_vllm, self.config, needed_for=where)
        groups = device_groups(self.config, await asyncio.to_thread(visible_devices, self.config), where=where)
        self.servers = [
            VLLMServer(self.config, where=where, devices=devices, log=self._log(number, groups))
            for number, devices in enumerate(groups)
        ]
        ends = await asyncio.gather(*(server.start() for server in self.servers), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end
        return tuple(server.base_url for server in self.servers)

    def _log(self, number: int, groups: Sequence[object]) -> Path:
        if self.config.log is None:
            return (_LOGS / f"vllm-{self._name}-{number}.log").absolute()
        path = self.config.log
        return path.absolute() if len(groups) == 1 else path.absolute().with_stem(f"{path.stem}-{number}")
