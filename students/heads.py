"""Further heads on an encoder's pooled state, beside the one for the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.labeling.errors import StudentError
from distill.students.network import Output

HEADS_FILE = "heads.safetensors"
"""Beside ``model.safetensors``, which stays what ``AutoModelForSequenceClassification`` loads."""


class Heads(nn.Module):
    """Stands where a sequence classifier has its last linear layer, and puts what further heads say after its scores.

    One tensor ``[..., K + sum of widths + D]`` goes through the classifier, whichever its architecture: the label's
    scores, each further head's, and the state ``[..., D]`` that they are read from. So the whole remains one module for
    the distributed wrappers, and every parameter is used in its forward pass.

    Args:
        label: The classifier's own last layer, ``D`` to ``K``.
        widths: Scores of each further head, by name.
    """

    def __init__(self, label: nn.Linear, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.label = label
        self.further = nn.ModuleDict({name: nn.Linear(label.in_features, width) for name, width in widths.items()})

    def forward(self, state: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., K + sum of widths + D]``."""
        return torch.cat([self.label(state), *(head(state) for head in self.further.values()), state], dim=-1)

    def split(self, scores: Tensor) -> Output:
        """Takes what the classifier gave apart again."""
        names = list(self.further)
        widths = [self.label.out_features, *(_width(self.further[name]) for name in names), self.label.in_features]
        logits, *further, pooled = scores.split(widths, dim=-1)
        return Output(logits, pooled, MappingProxyType(dict(zip(names, further, strict=True))))


def put_on(model: nn.Module, widths: Mapping[str, int], *, labels: int) -> Heads:
    """Puts :class:`Heads` where ``model`` has the layer that scores the labels.

    Their weights are drawn from torch's global generator.

    Raises:
        StudentError: The model has no such layer.
    """
    path, layer = _label_layer(model, labels)
    heads = Heads(layer, widths).to(layer.weight)
    model.set_submodule(path, heads)
    return heads


@contextmanager
def taken_off(model: nn.Module, heads: Heads) -> Iterator[None]:
    """Puts the label's own layer back for a while, so that the model saves itself as it was loaded."""
    path = next(name for name, module in model.named_modules() if module is heads)
    model.set_submodule(path, heads.label)
    try:
        yield
    finally:
        model.set_submodule(path, heads)


def save(heads: Heads, folder: Path) -> None:
    """Writes the further heads to :data:`HEADS_FILE`; none, no file."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.further.state_dict().items()}
    if kept:
        save_file(kept, folder / HEADS_FILE)


def load(model: nn.Module, folder: Path, *, labels: int) -> Heads | None:
    """Puts the heads of a folder on a model; None where it has none.

    Raises:
        StudentError: The file is not whole, or does not fit the model.
    """
    path = folder / HEADS_FILE
    if not path.exists():
        return None
    try:
        found = load_file(path)
        heads = put_on(model, {name: len(found[f"{name}.bias"]) for name in _names(found)}, labels=labels)
        heads.further.load_state_dict(found)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise StudentError(f"{path}: the heads cannot be read ({error}); train the student again") from error
    return heads


def _names(found: Mapping[str, Tensor]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in found})


def _width(head: nn.Module) -> int:
    assert isinstance(head, nn.Linear)
    return head.out_features


def _label_layer(model: nn.Module, labels: int) -> tuple[str, nn.Linear]:
    """The last linear layer outside the base that gives as many scores as there are labels."""
    base = f"{getattr(model, 'base_model_prefix', '')}."
    for name, module in reversed(list(model.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == labels and not name.startswith(base):
            return name, module
    raise StudentError(
        f"traces: {type(model).__name__} has no linear layer that scores its {labels} labels, so that no further head "
        "can be put beside it; leave traces out, or choose another base"
    )
