"""Fixtures for tests of teachers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_lane_server() -> Iterator[Callable[..., Any]]:
    """Starts servers that give probabilities (``lane_server.py``) and stops them after the test."""
    name, path = "distill_tests_lane_server", Path(__file__).parent / "lane_server.py"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    servers: list[Any] = []

    def make(**arguments: Any) -> Any:
        servers.append(sys.modules[name].LaneServer(**arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
