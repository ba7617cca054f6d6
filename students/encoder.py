"""A pretrained encoder with a classification head over query and listing (a cross-encoder)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from distill.labeling.errors import DataError, StudentError
from distill.labeling.packaged_folder import packaged_folder
from distill.students.config import EncoderConfig
from distill.students.first_token import read_first_token_only
from distill.students.match_tokens import MatchTokens
from distill.students.network import Example, Output
from distill.students.text import PairTemplate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.students.heads import Heads

_RESERVED_TOKENS = 8
"""Left free of the query: the special tokens of a pair (at most four in known models) and room for the listing."""


class EncoderNetwork:
    """Implements :class:`distill.students.network.Network` with a Hugging Face sequence classifier.

    Args:
        model: A sequence classifier.
        tokenizer: Its tokenizer.
        template: How a row is written out.
        max_length: Tokens of a pair.
        match_tokens: Whether rows carry match tokens; the tokenizer knows them then.
    """

    bf16_speeds_up = True
    vocabulary_can_be_cut = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: PairTemplate,
        max_length: int,
        match_tokens: MatchTokens | None = None,
    ) -> None:
        read_first_token_only(model)
        self.model: nn.Module = model
        self._tokenizer = tokenizer
        self._template = template
        self._max_length = max_length
        self._match_tokens = match_tokens
        self._heads: Heads | None = None
        # Says on every batch otherwise that padding while tokenizing is quicker, which it is not for like lengths.
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True

    @classmethod
    def from_base(cls, config: EncoderConfig, *, labels: Sequence[str], inputs: Sequence[str]) -> EncoderNetwork:
        """Puts a new head for ``labels`` on a pretrained encoder.

        Raises:
            StudentError: The base cannot be found or is no encoder.
        """
        from distill.students.ordered_head import put_ordered_head

        source, model_config, tokenizer = read_base(config.base)
        model_config.num_labels = len(labels)
        model_config.id2label = dict(enumerate(labels))
        model_config.label2id = {label: number for number, label in enumerate(labels)}
        model_config.problem_type = "single_label_classification"
        set_dropout(model_config, config.dropout)
        model = _load_model(source, name=config.base, config=model_config)
        if config.head == "ordered":
            put_ordered_head(model, outside=model.base_model_prefix)
        limit = getattr(model_config, "max_position_embeddings", None) or config.max_length
        template, length = PairTemplate(tuple(inputs)), min(config.max_length, limit)
        matching = MatchTokens(inputs, tokenizer) if config.match_tokens and len(inputs) > 1 else None
        if matching is not None:
            matching.teach(model)
        return cls(model, tokenizer, template=template, max_length=length, match_tokens=matching)

    @classmethod
    def from_folder(
        cls, folder: Path, *, template: PairTemplate, max_length: int, match_tokens: bool
    ) -> EncoderNetwork:
        """Loads a trained student.

        Raises:
            StudentError: The folder is not whole.
        """
        from distill.students import heads

        network = cls.reader(folder, template=template, max_length=max_length, match_tokens=match_tokens)
        network.model = _load_model(str(folder), name=str(folder))
        network._heads = heads.load(network.model, folder, labels=network.labels)
        return network

    @classmethod
    def reader(cls, folder: Path, *, template: PairTemplate, max_length: int, match_tokens: bool) -> EncoderNetwork:
        """What reads the rows of a trained student, without its weights.

        Raises:
            StudentError: The folder is not whole.
        """
        from torch import nn
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: no tokenizer can be read ({error}); train the student again") from error
        matching = MatchTokens(template.inputs, tokenizer) if match_tokens else None
        return cls(nn.Identity(), tokenizer, template=template, max_length=max_length, match_tokens=matching)

    @property
    def reading(self) -> list[object]:
        """All that the examples of a row follow from, beside the row: what kept examples are found by."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        said = json.loads(backend.to_str()) if backend is not None else self._tokenizer.get_vocab()
        # Set anew by every call, so that they say nothing of this tokenizer.
        said = {name: value for name, value in said.items() if name not in ("truncation", "padding")}
        digest = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()
        names = sorted(self._tokenizer.model_input_names)
        return ["encoder", digest, names, self._template.inputs, self._max_length, self._match_tokens is not None]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What reads the rows, and may read more than them."""
        return self._tokenizer

    @property
    def longest(self) -> int:
        """Tokens that the base can read at once, however few of them rows are given."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or 512
        # The tokenizer knows of positions kept for padding; where it knows nothing it says a huge number.
        return min(int(self._tokenizer.model_max_length), positions)

    @property
    def labels(self) -> int:
        """How many labels are scored."""
        config: Any = self.model.config
        return int(config.num_labels)

    def put_on(self, widths: Mapping[str, int]) -> None:
        """Puts further heads on the pooled state; :meth:`forward` gives it and their scores from then on.

        Args:
            widths: Scores of each, by name.

        Raises:
            StudentError: There is no place for them in this architecture.
        """
        from distill.students import heads

        self._heads = heads.put_on(self.model, widths, labels=self.labels)

    def take_off(self, name: str) -> None:
        """Takes a head off that :meth:`put_on` put on."""
        assert self._heads is not None
        del self._heads.further[name]

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Tokenises; the listing is cut first, and the query only where it alone is longer than ``max_length``.

        A listing that spells a special token out, such as ``[SEP]``, gets its letters, not the token.
        """
        if rows.is_empty():
            return []
        queries, listings = self._template.render(rows)
        length = self._max_length - len(self._match_tokens or ())
        limit = length - _RESERVED_TOKENS
        cut = [self._cut(query, limit) if len(query) > limit else query for query in queries]
        encoded = self._tokenizer(
            cut,
            text_pair=listings,
            truncation=True if listings is None else "only_second",
            max_length=length,
            split_special_tokens=True,
            verbose=False,
        )
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        examples = [{name: encoded[name][number] for name in names} for number in range(rows.height)]
        if self._match_tokens is not None:
            texts = rows.select(pl.col(self._template.inputs).cast(pl.String).fill_null("")).iter_rows()
            for number, (example, (query, *listing)) in enumerate(zip(examples, texts, strict=True)):
                _insert(example, self._match_tokens.ids(query, listing), encoded.sequence_ids(number))
        return examples

    def size(self, example: Example) -> int:
        """Tokens."""
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pads to the longest example."""
        return dict(self._tokenizer.pad(list(examples), padding=True, return_tensors="pt"))

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """Scores a batch; the pooled state is there where further heads were put on it."""
        scores = model(**batch).logits
        return Output(scores) if self._heads is None else self._heads.split(scores)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Nothing to learn from the examples but by gradient."""

    def is_head(self, name: str) -> bool:
        """The classifier, and the pooler before it: sentence encoders are pretrained without the use of theirs."""
        return "pooler" in name or not name.startswith(f"{self.model.base_model_prefix}.")

    def save(self, folder: Path) -> None:
        """Writes what ``AutoModelForSequenceClassification`` and ``AutoTokenizer`` load, an ordered head too.

        Further heads are written apart.
        """
        from distill.students import heads
        from distill.students.ordered_head import plain_state

        model: Any = self.model
        self._tokenizer.save_pretrained(folder)
        if self._heads is None:
            model.save_pretrained(folder, state_dict=plain_state(model))
            return
        with heads.taken_off(model, self._heads):
            model.save_pretrained(folder, state_dict=plain_state(model))
        heads.save(self._heads, folder)

    def _cut(self, text: str, limit: int) -> str:
        offsets = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        ends = [end for _, end in offsets["offset_mapping"]]
        return text if len(ends) <= limit else text[: ends[limit - 1]]


def base_folder(base: str) -> str:
    """Resolves ``package:NAME/FOLDER`` to the folder, without importing the package; anything else is returned as is.

    Raises:
        StudentError: The package is not installed, or has no such folder.
    """
    try:
        return packaged_folder(base)
    except DataError as error:
        raise StudentError(f"encoder: base {error}") from None


def _insert(example: Example, ids: list[int], segments: list[int | None]) -> None:
    """Puts ids before the first token of the listing, or at the end where the listing has none."""
    place = segments.index(1) if 1 in segments else len(segments)
    filling = {"input_ids": ids}
    for name, values in example.items():
        neighbour = values[min(place, len(values) - 1)]
        example[name] = [*values[:place], *filling.get(name, [neighbour] * len(ids)), *values[place:]]


def _load_model(source: str, *, name: str, config: Any = None) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForSequenceClassification

    # On a CPU the fused attention's backward pass takes 1.9 times as long as the plain one in bfloat16 (docs/log.md).
    attention = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
    settings = {"config": config, "dtype": torch.float32, **attention}
    try:
        return AutoModelForSequenceClassification.from_pretrained(source, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudentError(not_an_encoder(name, error)) from error


class Base(NamedTuple):
    """A pretrained encoder before its weights are read."""

    source: str
    config: Any
    tokenizer: Any


def read_base(base: str) -> Base:
    """The configuration and tokenizer of a section's ``base``.

    Raises:
        StudentError: It cannot be found or is no encoder.
    """
    from transformers import AutoConfig, AutoTokenizer

    source = base_folder(base)
    try:
        return Base(source, AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError) as error:
        raise StudentError(not_an_encoder(base, error)) from error


def set_dropout(config: Any, share: float | None) -> None:
    """Sets whatever the architecture calls its dropouts; None leaves the base's own."""
    if share is None:
        return
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, share)


def not_an_encoder(base: str, error: Exception) -> str:
    """What to say of a base that cannot be loaded, where it was looked for, and what to give instead."""
    reason = str(error).strip().split("\n")[0][:300]
    tried = "as a folder" if Path(base).exists() else "as a folder (there is none), the Hugging Face cache, and the Hub"
    return (
        f"encoder: base {base!r}: cannot be loaded as an encoder; tried {tried}: {reason}; give the folder "
        "of an encoder, an id while online, or package:NAME/FOLDER for one inside an installed package"
    )
