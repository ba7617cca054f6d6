"""Training in the processes of a torchrun that the user started, on one machine or on several.

``torchrun --nnodes=2 … -m distill train RECIPE``, the same line on every machine, starts the command in every process.
The first process runs it. The others *follow*: they take part in each training that it begins, and end when it ends.

They hear of both through the store at which torchrun's processes meet, which is new with every start, so that nothing
an earlier run left behind can mislead them. The job of a training is read from its folder, which every machine has to
see under the same path.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.labeling.errors import DistillError, StudentError

if TYPE_CHECKING:
    from distill.students.job import FitProgress, Job, JobResult

_POLL_S = 0.2
_LAST_WORDS_S = 30.0
"""How long the processes wait for each other when they end: one that is gone early takes the others' store along."""
_ENDED, _LEFT = "ended", "left"


def in_torchrun() -> bool:
    """Whether this is one of several processes of torchrun. Says so without importing torch."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def together(command: Callable[[], None]) -> None:
    """Runs a command; inside a torchrun in its first process alone, with all of them in its trainings.

    For a script that trains: ``together(main)`` instead of ``main()``, and torchrun starts it.

    Raises:
        SystemExit: In a process that followed, with the first one's status, or that of an error that only it met.
    """
    if not in_torchrun():
        command()
        return
    world = World.of_torchrun()
    if world.process > 0:
        try:
            status = world.follow()
        except DistillError as error:
            print(f"error: {error}", file=sys.stderr)
            status = error.exit_code
        sys.exit(status)
    token = _WORLD.set(world)
    status = 1
    try:
        command()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        raise
    finally:
        _WORLD.reset(token)
        world.end(status)


def current_world() -> World | None:
    """The processes that train together with this one; None where it is alone.

    Raises:
        StudentError: It is one of several that do not know of each other.
    """
    world = _WORLD.get()
    if world is None and in_torchrun():
        raise StudentError(
            f"training: process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} of torchrun came here on its own; "
            "start distill train by torchrun, or have your script call distill.students.world.together(main)"
        )
    return world


class World:
    """The processes of one torchrun.

    Args:
        store: A store of torch.distributed that all of them see, with nothing of ours in it.
        processes: How many there are.
        process: Which one this is; 0 leads.
    """

    def __init__(self, store: Any, *, processes: int, process: int) -> None:
        self.processes = processes
        self.process = process
        self._store = store
        self._trainings = 0

    @classmethod
    def of_torchrun(cls) -> World:
        """Those that torchrun started with this one."""
        from torch.distributed import PrefixStore, rendezvous

        store, process, processes = next(iter(rendezvous("env://")))
        # torchrun may start its processes anew beside the same store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(PrefixStore(f"distill/{attempt}", store), processes=processes, process=process)

    def train(self, job: Job, on_progress: Callable[[FitProgress], None] | None) -> JobResult:
        """In the first process: trains with all of them."""
        from distill.students.train import train

        self._store.set(f"job/{self._trainings}", str(job.folder.resolve()))
        self._trainings += 1
        result = train(job, on_progress=on_progress)
        _all_done()
        return result

    def end(self, status: int) -> None:
        """In the first process: lets the others go. After a failure it waits for none: they may be stuck in a step."""
        with contextlib.suppress(RuntimeError):  # where torchrun is gone already, so is the store
            self._store.set(_ENDED, str(status))
            if status == 0:
                self._wait(lambda: self._store.add(_LEFT, 0) == self.processes - 1, _LAST_WORDS_S)
                _leave_group()

    def follow(self) -> int:
        """In any other process: takes part in every training of the first.

        Returns:
            The first one's status.

        Raises:
            StudentError: A training failed here and not there, or its folder is not to be seen from here.
        """
        while True:
            self._wait(lambda: self._store.check([f"job/{self._trainings}"]) or self._store.check([_ENDED]))
            if not self._store.check([f"job/{self._trainings}"]):
                status = int(self._store.get(_ENDED))
                self._store.add(_LEFT, 1)
                _leave_group()
                return status
            folder = Path(self._store.get(f"job/{self._trainings}").decode())
            self._trainings += 1
            try:
                self._take_part(folder)
            except DistillError:
                # Most errors meet every process, and the first one knows how to tell them.
                if not self._wait(lambda: self._store.check([_ENDED]), _LAST_WORDS_S):
                    raise

    def _take_part(self, folder: Path) -> None:
        from distill.students.job import Job
        from distill.students.train import train

        if not folder.is_dir():
            raise StudentError(
                f"training: {folder}: not to be seen by process {self.process} of {self.processes}, on "
                f"{platform.node()}; put the run folder (--out) where every machine sees it under the same path"
            )
        train(Job.read(folder))
        _all_done()

    def _wait(self, is_so: Callable[[], bool], seconds: float | None = None) -> bool:
        """Asks again and again: a wait inside the store would not let Ctrl-C through."""
        until = None if seconds is None else time.monotonic() + seconds
        while not is_so():
            if until is not None and time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True


_WORLD: ContextVar[World | None] = ContextVar("world", default=None)


def _all_done() -> None:
    """Waits for the others: one that goes on early, and ends, takes connections down that another still uses."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()


def _leave_group() -> None:
    """Takes the group down that the Trainer set up. Not before the end: torch cannot set it up twice by one store."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
