"""Whether two tokenizers give a text the same numbers: hashes of the parts that decide it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_PARTS = ("vocabulary", "merges", "segmentation", "special_tokens")
"""The parts that decide which number a piece of text gets; ``chat_template`` decides which text is written."""
_NAMES = (*TOKEN_PARTS, "chat_template")


@dataclass(frozen=True)
class TokenizerFingerprint:
    """Hashes of a tokenizer's parts, and how many numbers it knows.

    Attributes:
        size: Numbers of tokens go from 0 to ``size - 1``; added tokens count.
        vocabulary: Of every token and its number.
        merges: Of the merges of a BPE, in order, or the scores of a unigram model; of nothing for other models.
        segmentation: Of what is done to a text before and after: normaliser, pre-tokenizer, post-processor.
        special_tokens: Of the roles (beginning, end, padding, ...) and the numbers of their tokens.
        chat_template: Of the chat template.
    """

    size: int
    vocabulary: str
    merges: str
    segmentation: str
    special_tokens: str
    chat_template: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenizerFingerprint:
        """Reads a tokenizer; one without a fast implementation has merges and segmentation of nothing."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        parts: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
        model = parts.get("model") or {}
        vocabulary = tokenizer.get_vocab()
        special = {role: tokenizer.convert_tokens_to_ids(token) for role, token in _special_tokens(tokenizer).items()}
        return cls(
            size=max(vocabulary.values(), default=-1) + 1,
            vocabulary=_digest(sorted(vocabulary.items(), key=lambda item: item[1])),
            merges=_digest(model.get("merges") or (model.get("vocab") if model.get("type") == "Unigram" else None)),
            segmentation=_digest([parts.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")]),
            special_tokens=_digest(special),
            chat_template=_digest(getattr(tokenizer, "chat_template", None)),
        )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TokenizerFingerprint:
        """Takes up what :func:`dataclasses.asdict` gave."""
        return cls(size=int(found["size"]), **{name: str(found[name]) for name in _NAMES})

    def differences(self, other: TokenizerFingerprint, *, parts: tuple[str, ...] = _NAMES) -> list[str]:
        """Names of the parts that differ, of those asked for."""
        return [name for name in parts if getattr(self, name) != getattr(other, name)]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    roles = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
    found = {role: getattr(tokenizer, role, None) for role in roles}
    return {role: str(token) for role, token in found.items() if token is not None}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
