"""Makes a tiny Llama chat model, so that serving paths can be tried without a download or a GPU.

Random weights behind a real tokenizer and chat template: it proves that requests, schemas, usage counts and errors go
through a server such as vLLM, and nothing about quality.

    python benchmarks/tiny_llama.py /tmp/tiny-llama
    python -m vllm.entrypoints.openai.api_server --model /tmp/tiny-llama --served-model-name tiny …
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[1] / "recipes" / "quickstart"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> Iterator[str]:
    """The quickstart's listings, replies and guideline, from which the tokenizer learns its merges."""
    import polars as pl

    rows = pl.read_parquet(QUICKSTART / "pairs.parquet")
    for column in ("query", "title", "attributes", "description"):
        yield from rows[column].drop_nulls()
    yield (QUICKSTART / "guideline.md").read_text(encoding="utf-8")
    yield from (QUICKSTART / "careful.jsonl").read_text(encoding="utf-8").splitlines()


def train_tokenizer(vocab_size: int):
    """A byte-level BPE with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make(folder: Path, *, hidden: int = 256, layers: int = 4, vocab_size: int = 4096, seed: int = 7) -> int:
    """Writes the model and its tokenizer into a folder; gives the number of parameters.

    Heads are 64 wide, which every attention kernel of vLLM's CPU back end supports. Weights are ten times as wide as
    usual: at 0.02 attention is so even that the answer hardly depends on the row, and every row gets one label.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(vocab_size)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    count = make(
        options.folder,
        hidden=options.hidden,
        layers=options.layers,
        vocab_size=options.vocab_size,
        seed=options.seed,
    )
    print(f"{options.folder}: {count / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
