"""A student that was exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.errors import MissingDependencyError, StudentError
from distill.students.network import Example, Network, Output

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.student_info import StudentInfo

EXPORT_FILE = "export.json"
MODEL_FILE = "model.onnx"
LOGITS = "logits"
INSTALL = "pip install 'distill[export]'"


@dataclass(frozen=True)
class ExportedModel:
    """What ``export.json`` says under ``model``: enough to run it with ONNX Runtime alone.

    Attributes:
        file: The model, beside this file.
        precision: ``fp32`` or ``int8``.
        inputs: For each input its type and axes, such as ``{"type": "int64", "axes": ["batch", "length"]}``; an axis
            that is a number is always of that size.
        outputs: Names; ``logits`` ``[batch, labels]`` float32 is the first. They are not calibrated: what turns them
            into probabilities is in ``distill_student.json``.
        opset: Of ONNX.
        kept_fp32: What an INT8 model holds in fp32, in words.
    """

    file: str
    precision: str
    inputs: dict[str, dict[str, Any]]
    outputs: tuple[str, ...]
    opset: int
    kept_fp32: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> ExportedModel:
        """Reads ``export.json``.

        Raises:
            StudentError: It is not whole.
        """
        try:
            found = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))["model"]
            return cls(**{**found, "outputs": tuple(found["outputs"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudentError(f"{folder / EXPORT_FILE}: cannot be read ({error}); export the student again") from error


class OnnxNetwork:
    """Implements what prediction needs of :class:`distill.students.network.Network`; it cannot be trained.

    Args:
        reader: The network that was exported, as far as it reads and lays out rows.
        session: An ``onnxruntime.InferenceSession``; it may be run by several threads at once.
        exported: What ``export.json`` says.
    """

    bf16_speeds_up = False
    batches_in_threads = True
    """ONNX Runtime is given one thread a batch: two batches at once keep two cores busier than one batch on both."""

    def __init__(self, reader: Network, session: Any, exported: ExportedModel) -> None:
        import torch

        self.model: torch.nn.Module = torch.nn.Identity()
        self._reader = reader
        self._session = session
        self._exported = exported

    @classmethod
    def from_folder(cls, folder: Path, info: StudentInfo) -> OnnxNetwork:
        """Loads an exported student.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            StudentError: The folder is not whole.
        """
        exported = ExportedModel.read(folder)
        return cls(reader_of(folder, info), open_session(folder / exported.file), exported)

    @property
    def reader(self) -> Network:
        """The network that was exported, as far as it reads and lays out rows."""
        return self._reader

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """As the student that was exported."""
        return self._reader.read(rows)

    def size(self, example: Example) -> int:
        """As the student that was exported."""
        return self._reader.size(example)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """As the student that was exported."""
        return self._reader.collate(examples)

    def forward(self, model: Any, batch: Mapping[str, Tensor]) -> Output:
        """Scores a batch on the CPU; ``model`` means nothing here."""
        import torch

        given = {name: batch[name].cpu().numpy() for name in self._exported.inputs}
        found = dict(zip(self._exported.outputs, self._session.run(list(self._exported.outputs), given), strict=True))
        tensors = {name: torch.from_numpy(values) for name, values in found.items()}
        return Output(tensors.pop(LOGITS), extra=tensors)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Never called: an export is not trained."""

    def is_head(self, name: str) -> bool:
        """Never called: an export is not trained."""
        return False

    def save(self, folder: Path) -> None:
        """Refuses.

        Raises:
            StudentError: Always.
        """
        raise StudentError(f"{folder}: an export cannot be saved as a student; copy its folder")


def reader_of(folder: Path, info: StudentInfo) -> Network:
    """The network of an exported student without its weights, to read and lay out rows.

    Raises:
        StudentError: The folder is not whole, or students of this type are not exported.
    """
    if info.type == "dcn":
        from distill.students.dcn_network import DcnNetwork

        return DcnNetwork.reader(folder)
    if info.type == "encoder" and info.asked is not None:
        from distill.students.queries.encoder import QueryNetwork
        from distill.students.student_info import task_of_info

        return QueryNetwork.reader(folder, task=task_of_info(folder, info), max_length=info.max_length or 512)
    if info.type == "encoder":
        from distill.students.encoder import EncoderNetwork
        from distill.students.text import PairTemplate

        return EncoderNetwork.reader(
            folder,
            template=PairTemplate(info.inputs),
            max_length=info.max_length or 512,
            match_tokens=bool(info.config.get("match_tokens")) and len(info.inputs) > 1,
        )
    raise StudentError(
        f"{folder}: a student of type {info.type!r} is not run by ONNX Runtime; give the original folder"
    )


def open_session(path: Path) -> Any:
    """Opens a model with ONNX Runtime on the CPU.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        StudentError: The model cannot be read.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", needed_for=f"{path}", install=INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, which share no ancestor
        raise StudentError(f"{path}: cannot be loaded by ONNX Runtime ({error}); export the student again") from error
