"""Runs a program, and ends it with everything that it started once whoever asked for it is gone.

    python process_guard.py FD GRACE_S PROGRAM ARGUMENTS…

FD is one end of a socket pair whose other end the owner holds: a lifeline. When the owner closes it or dies, also of
``kill -9``, the program's process group gets SIGTERM, and SIGKILL where it is still there after GRACE_S. When the
program ends by itself, what is left of its group is killed. The exit status is the program's, or 128 and the signal's
number. It stands alone, since it is run as a script by its path: it imports nothing of distill.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

_LOOK_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Runs the program to its end, or to the owner's."""
    lifeline = socket.socket(fileno=int(arguments[0]))
    lifeline.set_inheritable(False)
    owner = os.getppid()
    asked_to_end: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    try:
        program = subprocess.Popen(arguments[2:], start_new_session=True, preexec_fn=_dying_with_me())
    except OSError as error:
        print(f"{arguments[2]}: {error}", file=sys.stderr)
        return 127
    _let_go_of_its_pipes()
    with suppress(OSError):
        lifeline.sendall(b"%d\n" % program.pid)
    # The program is not reaped before its group is killed: until then no other group can have its number.
    while not _has_ended(program.pid):
        readable, _, _ = select.select([lifeline], [], [], _LOOK_EVERY_S)
        # A fork of the owner may hold its end of the lifeline open; the parent changes all the same when it dies.
        if (readable and not _more(lifeline)) or asked_to_end or os.getppid() != owner:
            _end(program.pid, grace_s=float(arguments[1]))
            break
    _send(program.pid, signal.SIGKILL)
    status = program.wait()
    return status if status >= 0 else 128 - status


def _dying_with_me() -> Callable[[], None] | None:
    """Has Linux kill the program when this process dies, which nobody is left to tell it of (prctl(2))."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _let_go_of_its_pipes() -> None:
    """The program alone holds its input and output, so that the owner sees at once when they end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _more(lifeline: socket.socket) -> bytes:
    try:
        return lifeline.recv(64)
    except OSError:
        return b""


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(pid: int, *, grace_s: float) -> None:
    _send(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while not _has_ended(pid) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)


def _send(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
