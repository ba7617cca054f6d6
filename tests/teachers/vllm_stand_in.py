"""A vLLM that is none (the folder ``fake_vllm``): started as the real one is, by its module's name.

Tests of teachers and of recipes take it from the fixture ``fake_vllm`` in ``tests/conftest.py``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FAKE = Path(__file__).parent / "fake_vllm"


class FakeVLLM:
    """What a teacher's section needs to start the fake, and what the servers that were started left word of."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.log = folder / "logs" / "vllm.log"

    def section(self, *, env: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
        variables = {"PYTHONPATH": str(FAKE), "FAKE_VLLM_NOTES": str(self.notes), **(env or {})}
        common = {"model": "org/tiny", "family": "tiny", "python": sys.executable, "start_timeout_s": 60}
        return {**common, "log": str(self.log), "env": variables, **settings}

    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.notes.glob("*.json"))]

    def processes(self) -> list[int]:
        """Every server that was started, and the process that each started in turn."""
        return [start[who] for start in self.starts() for who in ("pid", "child")]

    def none_is_left(self, *, within_s: float = 20.0) -> bool:
        deadline = time.monotonic() + within_s
        while any(map(is_running, self.processes())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return not any(map(is_running, self.processes()))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that nobody has waited for yet still has its number.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
