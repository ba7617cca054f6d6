"""A program that this process starts and that never outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from distill.labeling.errors import LocalServerError

_GUARD = Path(__file__).with_name("process_guard.py")
_GRACE_S = 10.0
_GUARD_STARTS_WITHIN_S = 30.0
_LOG_LINES = 20
_LONGEST_LOG_LINE = 300


class GuardedProcess:
    """Starts a program under a guard (:mod:`distill.teachers.process_guard`) which ends it when this process does.

    The program leads a process group of its own: Ctrl-C in the terminal does not reach it, and whatever it starts is
    ended with it. What it writes to its error output is appended to a log; so is its output, unless it is piped.

    Args:
        command: The program and its arguments.
        env: Its environment, whole.
        log: Where it writes to.
        piped: Whether its input and output are pipes that this process holds: ``stdin`` and ``stdout``.
        grace_s: How long it may take to end after SIGTERM, before it is killed.

    Raises:
        LocalServerError: It cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        piped: bool = False,
        grace_s: float = _GRACE_S,
    ) -> None:
        self.log = log
        self.started_s = time.monotonic()
        self._grace_s = grace_s
        self._lifeline, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as written:
            self._log_from = written.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(theirs.fileno()), f"{grace_s:g}", *command],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else written,
                stderr=written,
                pass_fds=[theirs.fileno()],
                env=dict(env),
                start_new_session=True,
            )
        self.pid = self._pid(command[0])
        self._lifeline.setblocking(False)

    @property
    def stdin(self) -> IO[bytes]:
        """Its input, where it is piped."""
        assert self._guard.stdin is not None
        return self._guard.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its output, where it is piped."""
        assert self._guard.stdout is not None
        return self._guard.stdout

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._guard.poll() is None

    async def ended(self) -> int:
        """Waits until it has ended; gives its exit status, 128 and the signal's number where a signal ended it."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while await loop.sock_recv(self._lifeline, 64):
                pass
        while (status := self._guard.poll()) is None:  # it closes the lifeline as the last thing before it exits
            await asyncio.sleep(0.01)
        return status

    def stop(self) -> int:
        """Ends it and what it started; blocks until they are gone. Gives its exit status."""
        with suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not read by it yet
                    pipe.close()
        try:
            return self._guard.wait(self._grace_s + 5)
        except subprocess.TimeoutExpired:  # stuck in the kernel; the guard's death kills the program
            self._guard.kill()
            return self._guard.wait()
        finally:
            self._lifeline.close()

    def kill(self) -> None:
        """Kills the program at once; its guard then tidies up."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines that it wrote, for an error message."""
        with suppress(OSError), self.log.open("rb") as written:
            written.seek(self._log_from)
            lines = written.read().decode("utf-8", "replace").splitlines()
            kept = [line[:_LONGEST_LOG_LINE] for line in lines if line.strip()][-_LOG_LINES:]
            return "\n".join(f"    {line}" for line in kept)
        return ""

    def _pid(self, program: str) -> int:
        self._lifeline.settimeout(_GUARD_STARTS_WITHIN_S)
        try:
            line = self._lifeline.recv(64)
        except OSError:
            line = b""
        if not line.strip().isdigit():
            self.stop()
            raise LocalServerError(f"{program}: cannot be started, its log ends in:\n{self.log_tail()}")
        return int(line)


def status_text(status: int) -> str:
    """How a program ended, in words."""
    if status <= 128:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(status - 128).name}"
    except ValueError:
        return f"exit status {status}"
