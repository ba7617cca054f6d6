"""The deep & cross network as a student: hashed features in, a saved folder out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.students.config import DcnConfig
from distill.students.features import dense_names, hash_rows, slot_names
from distill.students.network import Example, Output
from distill.students.training.example_store import ExampleStore

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS = "model.safetensors"
_SHAPE = "dcn_config.json"


class DcnNetwork:
    """Implements :class:`distill.students.network.Network` with :class:`distill.students.dcn.DeepCrossNetwork`.

    Args:
        config: Its sizes.
        labels: How many labels there are.
        inputs: The query's column, then the listing's.
    """

    bf16_speeds_up = False
    cpu_tokens = 16_384
    """As for :data:`distill.students.scoring.CPU_TOKENS`: a feature costs far less than a token of an encoder."""

    def __init__(self, config: DcnConfig, *, labels: int, inputs: Sequence[str]) -> None:
        from distill.students.dcn import DeepCrossNetwork

        self._config = config
        self._inputs = list(inputs)
        self._labels = labels
        self.model: nn.Module = DeepCrossNetwork(
            buckets=config.buckets,
            slots=len(slot_names(inputs)),
            dense=len(dense_names(inputs)),
            labels=labels,
            embedding_dim=config.embedding_dim,
            cross_layers=config.cross_layers,
            hidden=config.hidden,
            dropout=config.dropout,
            ordered=config.head == "ordered",
        )

    @classmethod
    def from_folder(cls, folder: Path) -> DcnNetwork:
        """Loads a trained student.

        Raises:
            StudentError: The folder is not whole.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            shape = json.loads((folder / _SHAPE).read_text(encoding="utf-8"))
            network = cls(DcnConfig.model_validate(shape["config"]), labels=shape["labels"], inputs=shape["inputs"])
            network.model.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise StudentError(f"{folder}: no DCN can be loaded ({error}); train the student again") from error
        return network

    @property
    def reading(self) -> list[object]:
        """All that the examples of a row follow from, beside the row: what kept examples are found by."""
        return ["dcn", self._inputs, self._config.buckets]

    @classmethod
    def reader(cls, folder: Path) -> DcnNetwork:
        """What reads the rows of a trained student, without its weights.

        Raises:
            StudentError: The folder is not whole.
        """
        import torch

        try:
            shape = json.loads((folder / _SHAPE).read_text(encoding="utf-8"))
            with torch.device("meta"):
                network = cls(DcnConfig.model_validate(shape["config"]), labels=shape["labels"], inputs=shape["inputs"])
        except (OSError, ValueError, KeyError) as error:
            raise StudentError(f"{folder}: no DCN can be read ({error}); export the student again") from error
        return network

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Hashes the text features of each row."""
        hashed = hash_rows(rows, inputs=self._inputs, buckets=self._config.buckets)
        return [{"slots": slots, "dense": dense} for slots, dense in zip(hashed.slots, hashed.dense, strict=True)]

    def size(self, example: Example) -> int:
        """Features of the longest slot."""
        return max(map(len, example["slots"]), default=0)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pads every slot to the longest."""
        import torch

        lengths = np.array([[len(slot) for slot in example["slots"]] for example in examples])
        filled = np.arange(max(1, lengths.max())) < lengths[:, :, None]
        ids = np.zeros(filled.shape, dtype=np.int64)
        ids[filled] = np.concatenate([slot for example in examples for slot in example["slots"]])
        mask = filled.astype(np.float32)
        dense = np.stack([example["dense"] for example in examples])
        return {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask), "dense": torch.from_numpy(dense)}

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """Scores a batch."""
        return Output(model(**batch))

    def prepare(self, examples: Sequence[Example]) -> None:
        """Standardises the numbers by the training rows' mean and deviation."""
        import torch

        if isinstance(examples, ExampleStore):  # as they lie there: a million small arrays would take 0.2 KB each
            numbers = np.concatenate(list(examples.values("dense"))).reshape(len(examples), -1)
        else:
            numbers = np.stack([example["dense"] for example in examples])
        self.model.standardise(torch.from_numpy(numbers))  # type: ignore[operator]

    def is_head(self, name: str) -> bool:
        """Nothing is pretrained, and all learns alike."""
        return False

    def save(self, folder: Path) -> None:
        """Writes the weights (safetensors) and the sizes (JSON)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / _WEIGHTS)
        shape = {"config": self._config.model_dump(mode="json"), "labels": self._labels, "inputs": self._inputs}
        (folder / _SHAPE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
