"""A run folder: what a run wrote, what it was made from, and who may write to it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distill.labeling.errors import RunFolderError

if TYPE_CHECKING:
    import polars as pl

MANIFEST = "manifest.json"
STAGES = "stages.json"
_DIGEST_ROWS = 100_000


@dataclass(frozen=True)
class StageRecord:
    """What is known of a stage that ended.

    Attributes:
        fingerprint: Hash of everything that the stage read.
        outputs: Size in bytes and BLAKE2 digest of each file written, by path inside the folder.
        final: False where running again may do better (a teacher was down, the budget ended).
        facts: Measurements to keep (seconds, rows per second, counts).
        seconds: How long it took.
    """

    fingerprint: str
    outputs: dict[str, tuple[int, str]]
    final: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class RunFolder:
    """Paths, stage records, lock and log of one run.

    Reading needs no lock; writing happens inside ``with folder.locked(recipe_name):``.

    Args:
        path: The folder; made when it is first locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = path / "rows.parquet"
        self.rows_summary = path / "rows.json"
        self.annotations = path / "annotations.parquet"
        self.votes = path / "votes.parquet"
        self.failures = path / "failures.jsonl"
        self.canaries = path / "canaries.parquet"
        self.labels = path / "labels.parquet"
        self.evaluations = path / "evaluations.json"
        self.ladder = path / "ladder.json"
        self.rounds = path / "rounds.json"
        self.label_free = path / "label_free.json"
        self.few_labels = path / "few_labels.json"
        self.monitor = path / "monitor.json"
        self.monitor_rows = path / "monitor_rows.parquet"
        self.report = path / "report.html"
        self.review = path / "review.html"
        self.recipe = path / "recipe.yaml"
        self.log = path / "log.jsonl"

    def student(self, name: str) -> Path:
        """Folder of one student."""
        return self.path / "students" / name

    def predictions(self, name: str) -> Path:
        """Table of one student's predictions."""
        return self.path / "predictions" / f"{name}.parquet"

    def monitor_predictions(self, name: str) -> Path:
        """Table of one student's predictions on the rows of today."""
        return self.path / "predictions" / "monitor" / f"{name}.parquet"

    def round(self, number: int) -> RunFolder:
        """Folder of one round of distillation, laid out as a run's."""
        return RunFolder(self.path / "rounds" / f"{number:02d}")

    def locked(self, recipe_name: str) -> RunLock:
        """Takes the folder for writing, for the length of a ``with``.

        Raises:
            RunFolderError: Another process has it, or another recipe made it.
        """
        return RunLock(self, recipe_name)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made of; empty before the first run."""
        return _read_json(self.path / MANIFEST)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the manifest."""
        write_json(self.path / MANIFEST, manifest)

    @property
    def stages(self) -> list[str]:
        """Keys of the stages that ended, in the order in which they first did."""
        return list(_read_json(self.path / STAGES))

    def stage(self, key: str) -> StageRecord | None:
        """What is known of a stage, None where it never ended."""
        raw = _read_json(self.path / STAGES).get(key)
        if raw is None:
            return None
        outputs = {name: (int(size), str(digest)) for name, (size, digest) in raw.pop("outputs").items()}
        return StageRecord(outputs=outputs, **raw)

    def is_current(self, key: str, fingerprint: str) -> bool:
        """Whether a stage ended well on the same inputs and its files are still what it wrote."""
        record = self.stage(key)
        if record is None or not record.final or record.fingerprint != fingerprint:
            return False
        return all(self._holds(name, size, digest) for name, (size, digest) in record.outputs.items())

    def record(self, key: str, record: StageRecord) -> None:
        """Notes that a stage ended."""
        stages = _read_json(self.path / STAGES)
        stages[key] = asdict(record)
        write_json(self.path / STAGES, stages)

    def take_over(self, key: str, fingerprint: str, other: RunFolder) -> bool:
        """Takes over a stage of another folder that ended well on the same inputs: its files by hard links.

        Args:
            key: Of the stage.
            fingerprint: Of all that it reads, which both folders' must agree on.
            other: The folder that has done it.

        Returns:
            Whether there was one to take over.
        """
        if not other.is_current(key, fingerprint):
            return False
        mine, record = self.stage(key), other.stage(key)
        assert record is not None
        for name in mine.outputs if mine else ():
            (self.path / name).unlink(missing_ok=True)
        for name in record.outputs:
            link_file(other.path / name, self.path / name)
        self.record(key, record)
        return True

    def describe_outputs(self, paths: Sequence[Path]) -> dict[str, tuple[int, str]]:
        """Size and digest of files, and of all files below folders, by path inside the run folder.

        Below a folder ``README.md`` is left out: a student's card is written again when it has been measured, and is
        an output of that stage.
        """
        below = ([file for file in sorted(path.rglob("*")) if file.name != "README.md"] for path in paths)
        files = [
            file for path, found in zip(paths, below, strict=True) for file in (found if path.is_dir() else [path])
        ]
        return {
            str(file.relative_to(self.path)): (file.stat().st_size, file_digest(file))
            for file in files
            if file.is_file()
        }

    def note(self, event: str, **facts: Any) -> None:
        """Appends one event to ``log.jsonl``."""
        line = json.dumps({"time": _now(), "event": event, **facts}, ensure_ascii=False, default=str)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _holds(self, name: str, size: int, digest: str) -> bool:
        file = self.path / name
        return file.is_file() and file.stat().st_size == size and file_digest(file) == digest


class RunLock:
    """Keeps a run folder to one process. The lock is the system's, so it dies with the process that holds it."""

    def __init__(self, folder: RunFolder, recipe_name: str) -> None:
        from filelock import FileLock

        self.folder = folder
        self.recipe_name = recipe_name
        self._lock = FileLock(str(folder.path / ".lock"), timeout=0)

    def __enter__(self) -> RunFolder:
        from filelock import Timeout

        path = self.folder.path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"{path}: is a file, not a folder; give another --out") from None
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be made: {error.strerror}; give another --out") from None
        try:
            self._lock.acquire()
        except Timeout:
            holder = _read_json(path / ".lock.json").get("pid", "unknown")
            raise RunFolderError(
                f"{path}: another run (process {holder}) is writing here; wait for it, or give another --out"
            ) from None
        try:
            self._refuse_strangers()
        except BaseException:
            self._lock.release()
            raise
        write_json(path / ".lock.json", {"pid": os.getpid(), "since": _now()})
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self.folder.path / ".lock.json").unlink(missing_ok=True)
        self._lock.release()

    def _refuse_strangers(self) -> None:
        path = self.folder.path
        made_by = self.folder.manifest.get("name")
        if made_by is None:
            strangers = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
            if strangers:
                raise RunFolderError(
                    f"{path}: holds files that no run wrote ({', '.join(strangers[:3])}); give an empty or new --out"
                )
        elif made_by != self.recipe_name:
            raise RunFolderError(
                f"{path}: was made by the recipe {made_by!r}, this one is {self.recipe_name!r}; give another --out, "
                f"or rename the recipe back"
            )


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def link_file(source: Path, target: Path) -> None:
    """Makes a file stand at a second place without a second copy, where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def path_digest(path: Path) -> str:
    """Digest of a file, or of all files below a folder with their names, or of all that match a pattern."""
    if path.is_file():
        return file_digest(path)
    files = sorted(path.rglob("*")) if path.is_dir() else sorted(path.parent.glob(path.name))
    return fingerprint([[file.name, file_digest(file)] for file in files if file.is_file()])


def table_digest(table: pl.LazyFrame) -> str:
    """Digest of a table's values, for tables of which some columns are to be left out of it."""
    hasher = hashlib.blake2b(digest_size=16)
    # Slices of a fixed size, so that equal tables give equal digests however their files are laid out.
    for start in itertools.count(step=_DIGEST_ROWS):
        part = table.slice(start, _DIGEST_ROWS).collect()
        hasher.update(part.rechunk().write_ipc(None, compression="uncompressed").getvalue())
        if len(part) < _DIGEST_ROWS:
            return hasher.hexdigest()
    raise AssertionError("unreachable: the loop ends with the table")


def lines_digest(table: pl.LazyFrame) -> str:
    """Digest of a table's rows as text, a line each: the same however its file is laid out, for tables of any size."""
    hasher = hashlib.blake2b(repr(table.collect_schema()).encode(), digest_size=16)
    for part in table.collect_batches(maintain_order=True):
        hasher.update(part.write_ndjson().encode())
    return hasher.hexdigest()


def fingerprint(parts: Any) -> str:
    """BLAKE2b-128 of plain values, as hex: equal values give equal fingerprints."""
    body = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replaces a file whole: a reader, or a kill, finds the old or the new one and nothing between."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
