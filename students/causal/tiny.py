"""A small GPT made on the spot, for where nothing can be downloaded: vocabulary learned from texts, random weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from distill.students.causal.pretrained import attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.students.causal.config import TinySection

_END, _TURN, _TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DIGITS_ALONE = r"\p{N}"
_POSITIONS = 4096


def tiny_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE (Sennrich et al. 2016) with a ChatML template. The same texts give the same vocabulary.

    Digits stand alone, as in Llama and Qwen: sizes and counts are compared by their digits then, not by luck of merges.

    Args:
        texts: What its merges are learned from; any other text is still written in bytes.
        vocabulary: Tokens at most.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_DIGITS_ALONE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END, _TURN, _TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=_TURN_END,
        pad_token=_END,
        additional_special_tokens=[_TURN],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHATML
    return tokenizer


def tiny_model(section: TinySection, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A Llama with weights drawn from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=section.hidden,
            intermediate_size=section.hidden * 8 // 3 // 32 * 32 or 32,
            num_hidden_layers=section.layers,
            num_attention_heads=section.heads,
            num_key_value_heads=section.heads,
            max_position_embeddings=_POSITIONS,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
            **attention(),
        )
    )
