"""Fixtures for every folder of tests."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does, and is no property of the code.
settings.register_profile("distill", deadline=None)
settings.load_profile("distill")

# A shell that starts the tests in the background has Ctrl-C ignored, here and in every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(path: Path) -> ModuleType:
    """Loads a file that is no test: the import mode of the tests puts no folder on the path."""
    name = f"distill_tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def fake_batches() -> Any:
    """A provider's batch jobs in memory (``tests/labeling/fake_batches.py``)."""
    return _load(Path(__file__).parent / "labeling" / "fake_batches.py").FakeBatches()


@pytest.fixture
def batch_server() -> Iterator[Any]:
    """An imitation of OpenAI's batch jobs (``tests/teachers/batch_server.py``)."""
    folder = Path(__file__).parent / "teachers"
    fault_server = _load(folder / "fault_server.py")
    server = _load(folder / "batch_server.py").BatchServer(
        lambda request, kind: fault_server.completion(request, kind, "", fault_server.fitting_answer)
    )
    yield server
    server.stop()


@pytest.fixture
def make_fault_server() -> Iterator[Callable[..., Any]]:
    """Starts servers that fail as told (``tests/teachers/fault_server.py``) and stops them after the test."""
    module = _load(Path(__file__).parent / "teachers" / "fault_server.py")
    servers: list[Any] = []

    def make(**arguments: Any) -> Any:
        servers.append(module.FaultServer(**arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A vLLM to be started by teachers: ``fake_vllm.section(env={"FAKE_VLLM_DIES": "10"})``, ``.starts()``."""
    monkeypatch.delenv("DISTILL_VLLM_PYTHON", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for setting, seconds in (("_FIRST_REST_S", 0.01), ("_LOOK_EVERY_S", 0.02), ("_WATCH_EVERY_S", 0.05)):
        monkeypatch.setattr(f"distill.teachers.vllm_server.{setting}", seconds)
    monkeypatch.setattr("distill.teachers.vllm_offline._FIRST_REST_S", 0.01)
    return _load(Path(__file__).parent / "teachers" / "vllm_stand_in.py").FakeVLLM(tmp_path)


@pytest.fixture
def fault_server(make_fault_server: Callable[..., Any]) -> Any:
    """One server that fails as told: ``fault_server.script("500", "429:0.01")``, ``.on("some title", "never")``."""
    return make_fault_server()


@pytest.fixture
def gemini_server() -> Iterator[Any]:
    """An imitation of Google's service (``tests/teachers/gemini_server.py``): ``gemini_server.script("minute:3")``."""
    server = _load(Path(__file__).parent / "teachers" / "gemini_server.py").GeminiServer()
    yield server
    server.stop()


@pytest.fixture
def make_lane_server() -> Iterator[Callable[..., Any]]:
    """Starts servers that give probabilities (``tests/teachers/lane_server.py``) and stops them after the test."""
    module = _load(Path(__file__).parent / "teachers" / "lane_server.py")
    servers: list[Any] = []

    def make(**arguments: Any) -> Any:
        servers.append(module.LaneServer(**arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
