"""Writes a student's network as ONNX, in fp32 or INT8."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from distill.labeling.errors import MissingDependencyError, StudentError
from distill.students.network import Network
from distill.students.onnx_network import INSTALL, LOGITS, MODEL_FILE, ExportedModel
from distill.students.similarity import STATES, Similarity

if TYPE_CHECKING:
    from torch import Tensor

OPSET = 17
_AXES = {"letter_": "letters", "word_": "words"}
_TYPES = {"torch.int64": "int64", "torch.float32": "float32", "torch.bool": "bool"}


class Int8Scheme(NamedTuple):
    """What an INT8 model holds in fp32. The rest of its matrix products is INT8, weights scaled per output channel.

    Attributes:
        kept_fp32: In words.
        embeddings: Whether embedding tables are kept: they cost room and no time.
        head: Whether the last product, which gives the logits, is kept.
        outer: Share of the products kept at either end of the network, where errors weigh most; half keeps them all.
    """

    kept_fp32: str
    embeddings: bool = True
    head: bool = True
    outer: float = 0.0


_NOTHING_KEPT = Int8Scheme("normalisations alone", embeddings=False, head=False)
INT8_SCHEMES = {
    "encoder": (
        _NOTHING_KEPT,
        Int8Scheme("embeddings", head=False),
        Int8Scheme("embeddings and the head"),
        Int8Scheme("embeddings, the head, and the products of the first and last sixth", outer=1 / 6),
    ),
    # Nearly all of its weights are the embedding table, and its time goes into hashing.
    "dcn": (_NOTHING_KEPT, Int8Scheme("all matrix products", embeddings=False, outer=0.5)),
}
"""By type of student, from the smallest model to the most faithful; which one to take is measured. A sentence encoder
beside a student is written by the scheme of the same place for ``encoder``."""


def write_onnx(network: Network, path: Path, *, inputs: Sequence[str]) -> ExportedModel:
    """Writes a network as ONNX in fp32, with any number of rows and any length.

    Args:
        network: A loaded student's; it is moved to the CPU and set to evaluation.
        path: File to write.
        inputs: The task's inputs.

    Returns:
        How to run it. Further heads are outputs after ``logits``, by name.

    Raises:
        MissingDependencyError: ``onnx`` is not installed.
        StudentError: The architecture cannot be traced.
    """
    import torch

    _require("onnx")
    model: Any = network.model.to("cpu").eval()
    attending: Any = getattr(model, "trunk", model)
    if hasattr(attending, "set_attn_implementation"):
        attending.set_attn_implementation("eager")
    short, long = _samples(network, inputs)
    with torch.inference_mode():
        said = [network.forward(model, batch) for batch in (short, long)]
    extra = sorted(said[1].extra)
    outputs = (LOGITS, *extra)
    axes = {name: _axes(short[name].shape, long[name].shape, length=_length(name)) for name in long}
    shapes = [[output.logits.shape, *(output.extra[name].shape for name in extra)] for output in said]
    # What is scored at every letter or piece has as many lines as the input of letters or pieces.
    lengths = {(short[name].shape[1], long[name].shape[1]): _length(name) for name in long if long[name].ndim > 1}
    scored = {
        name: _axes(few, many, length=lengths.get((few[1], many[1]), "length"))
        for name, few, many in zip(outputs, *shapes, strict=True)
    }
    moving = {
        name: {at: axis for at, axis in enumerate(found) if isinstance(axis, str)}
        for name, found in {**axes, **scored}.items()
    }
    _trace(_traceable(network, tuple(long), extra), path, given=long, outputs=outputs, moving=moving)
    types = {name: _TYPES[str(tensor.dtype)] for name, tensor in long.items()}
    described = {name: {"type": types[name], "axes": axes[name]} for name in long}
    return ExportedModel(MODEL_FILE, "fp32", described, outputs, OPSET)


def write_similarity(similarity: Similarity, folder: Path, *, scheme: Int8Scheme | None) -> None:
    """Writes a sentence encoder as ONNX, with its tokenizer: what :meth:`Similarity.load` reads.

    Args:
        similarity: A loaded student's; it is moved to the CPU.
        folder: Where; what is there is replaced.
        scheme: What an INT8 model keeps in fp32; None for fp32.

    Raises:
        MissingDependencyError: ``onnx`` or ``onnxruntime`` is not installed.
        StudentError: The architecture cannot be traced.
    """
    _require("onnx")
    model, batch = similarity.traceable()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    similarity.save_tokenizer(folder)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / MODEL_FILE
        moving = {name: {0: "batch", 1: "length"} for name in (*batch, STATES)}
        _trace(model, whole, given=batch, outputs=(STATES,), moving=moving)
        if scheme is None:
            shutil.copyfile(whole, folder / MODEL_FILE)
        else:
            _quantise(whole, folder / MODEL_FILE, scheme)


def write_int8(source: Path, target: Path, *, exported: ExportedModel, scheme: Int8Scheme) -> ExportedModel:
    """Quantises an ONNX model of :func:`write_onnx`: weights once, activations as they come.

    Weights are INT8, symmetric, with a scale per output channel. Activations are UINT8, and their scale is that of the
    whole batch, so that a row's logits depend a little on the rows beside it
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Args:
        source: The fp32 model.
        target: File to write.
        exported: How the fp32 model is run.
        scheme: What stays in fp32.

    Raises:
        MissingDependencyError: ``onnx`` or ``onnxruntime`` is not installed.
    """
    _quantise(source, target, scheme)
    return replace(exported, precision="int8", kept_fp32=scheme.kept_fp32)


def _quantise(source: Path, target: Path, scheme: Int8Scheme) -> None:
    _require("onnx")
    _require("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, _silent():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul"] if scheme.embeddings else ["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_kept_products(prepared, scheme),
        )


def _trace(
    model: Any,
    path: Path,
    *,
    given: Mapping[str, Tensor],
    outputs: Sequence[str],
    moving: Mapping[str, Mapping[int, str]],
) -> None:
    """Writes what a module does with tensors in the order of ``given``; ``moving`` names the axes of any size."""
    import torch

    try:
        with _silent():
            torch.onnx.export(
                model,
                tuple(given.values()),
                str(path),
                input_names=list(given),
                output_names=list(outputs),
                dynamic_axes=moving,
                opset_version=OPSET,
                # The newer exporter's graph cannot be quantised by quantize_dynamic.
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise StudentError(
            f"export: this network cannot be written as ONNX ({reason}); serve the student as it is"
        ) from error


def _kept_products(path: Path, scheme: Int8Scheme) -> list[str]:
    """Names of the products with weights that a scheme keeps in fp32."""
    import onnx

    graph = onnx.load(str(path)).graph
    weights = {tensor.name for tensor in graph.initializer}
    names = [
        # The quantiser turns a Gemm into a MatMul of this name before it looks at what to leave out.
        f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    ]
    outer = round(len(names) * scheme.outer)
    kept = [*names[:outer], *names[len(names) - outer :]]
    return [*kept, names[-1]] if scheme.head and names else kept


def _samples(network: Network, inputs: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One short row and two long ones, laid out: which axes differ is what may vary."""
    texts = [["a"] * len(inputs), *([["red lamp 12 "[place:] * 20] * len(inputs) for place in (0, 3)])]
    rows = pl.DataFrame(texts, schema=dict.fromkeys(inputs, pl.String), orient="row")
    short, *long = network.read(rows)
    return network.collate([short]), network.collate(long)


def _length(name: str) -> str:
    """What the length of an input is called: a text has more letters than pieces."""
    return next((axis for start, axis in _AXES.items() if name.startswith(start)), "length")


def _axes(short: Sequence[int], long: Sequence[int], *, length: str) -> list[str | int]:
    names = ["batch", *[length] * (len(long) - 1)]
    return [size if size == other else name for name, size, other in zip(names, long, short, strict=True)]


def _traceable(network: Network, inputs: Sequence[str], extra: Sequence[str]) -> Any:
    import torch

    class Traceable(torch.nn.Module):
        """The network with tensors in the place of names, which is all that tracing knows."""

        def __init__(self) -> None:
            super().__init__()
            self.model = network.model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            found = network.forward(self.model, dict(zip(inputs, tensors, strict=True)))
            return (found.logits, *(found.extra[name] for name in extra))

    # Not the inner model alone: the wrapper would put it back in training mode.
    return Traceable().eval()


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingDependencyError(package, needed_for="export to ONNX", install=INSTALL)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Tracing and quantising warn of things that the check on real rows tells better."""
    root, level = logging.getLogger(), logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
