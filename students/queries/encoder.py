"""An encoder that answers all parts of a query task in one pass: a shared trunk, and a head for each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import EncoderConfig
from distill.students.encoder import read_base, set_dropout
from distill.students.network import Example, Output
from distill.students.queries.asked_task import part_name, reading_order
from distill.students.queries.letters import letters_of
from distill.students.queries.model import dropout_of, load_trunk, model_with_heads
from distill.students.queries.reading_examples import padded_readings, reading_pieces
from distill.students.queries.readings import written
from distill.students.queries.span_words import WORD_LETTERS
from distill.students.queries.tree_softmax import TreeSoftmax
from distill.students.queries.vocabulary import Vocabulary
from distill.students.text import PairTemplate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

WEIGHTS_FILE = "parts.safetensors"
"""Beside ``model.safetensors``, which stays the trunk that ``AutoModel`` loads."""
MOST_LETTERS = 512
"""Letters of a text that are spelled; the rest stays."""
_RESERVED_TOKENS = 8
_PADDING = {"letter_ids": 0, "letter_pieces": 0, "word_first": -1, "word_last": -1, "word_letters": 0, "word_names": 0}


class QueryNetwork:
    """Implements :class:`distill.students.network.Network` for tasks whose answers are no single label.

    Its scores are those of the first part in :attr:`Output.logits`, and of the others in :attr:`Output.extra`, see
    :meth:`scores`.

    Args:
        model: A :class:`~distill.students.queries.heads.QueryModel`; anything where only rows are read.
        tokenizer: A fast tokenizer, which knows where in a text a piece was read.
        task: What is answered.
        vocabulary: What the heads say.
        max_length: Tokens of a row.
    """

    bf16_speeds_up = True
    vocabulary_can_be_cut = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: Task,
        vocabulary: Vocabulary,
        max_length: int,
    ) -> None:
        self.model: nn.Module = model
        self.task = task
        self.vocabulary = vocabulary
        self.parts = {part_name(single): single for single in task.singles}
        self._tokenizer = tokenizer
        self._template = PairTemplate(reading_order(task))
        self._max_length = max_length
        self._words = vocabulary.spans.reader(task)
        self._whole: dict[str, bool] = {}
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True

    @classmethod
    def from_base(cls, config: EncoderConfig, *, task: Task, rows: pl.LazyFrame) -> QueryNetwork:
        """Puts new heads on a pretrained encoder.

        Args:
            config: The student's section.
            task: What is answered.
            rows: Training rows, from which the heads' vocabulary comes.

        Raises:
            StudentError: The base cannot be found or is no encoder.
        """
        source, model_config, tokenizer = read_base(config.base)
        set_dropout(model_config, config.dropout)
        trunk = load_trunk(source, name=config.base, config=model_config)
        limit = getattr(model_config, "max_position_embeddings", None) or config.max_length
        vocabulary = Vocabulary.of(task, rows, config)
        dropout = dropout_of(model_config)
        network = cls(trunk, tokenizer, task=task, vocabulary=vocabulary, max_length=min(config.max_length, limit))
        network.model = model_with_heads(trunk, network, dropout=dropout, named=True)
        return network

    @classmethod
    def from_folder(cls, folder: Path, *, task: Task, max_length: int) -> QueryNetwork:
        """Loads a trained student.

        Raises:
            StudentError: The folder is not whole.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        network = cls.reader(folder, task=task, max_length=max_length)
        trunk = load_trunk(str(folder), name=str(folder))
        try:
            model: Any = model_with_heads(trunk, network, dropout=0.0, named=False)
            model.heads.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise StudentError(
                f"{folder / WEIGHTS_FILE}: the heads cannot be read ({error}); train the student again"
            ) from error
        network.model = model
        return network

    @classmethod
    def reader(cls, folder: Path, *, task: Task, max_length: int) -> QueryNetwork:
        """What reads the rows of a trained student, without its weights.

        Raises:
            StudentError: The folder is not whole.
        """
        from torch import nn
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: not a whole student ({error}); train the student again") from error
        vocabulary = Vocabulary.load(folder)
        return cls(nn.Identity(), tokenizer, task=task, vocabulary=vocabulary, max_length=max_length)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What reads the rows."""
        return self._tokenizer

    def options(self, name: str) -> TreeSoftmax:
        """The options of a part that is one or several paths."""
        single = self.parts[name]
        return TreeSoftmax(single.labels, nothing=single.several)

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Tokenises; beside the pieces, where each was read, and the letters with the piece that each is in.

        ``starts`` and ``ends`` are code points of the source, -1 for pieces that are not of it.
        """
        if rows.is_empty():
            return []
        queries, listings = self._template.render(rows)
        limit = self._max_length - _RESERVED_TOKENS
        cut = [self._cut(query, limit) if len(query) > limit else query for query in queries]
        readings = self.vocabulary.readings
        if readings is not None:
            shown = [written(readings.of(query))[0] for query in queries]
            listings = shown if listings is None else [" ".join(pair) for pair in zip(shown, listings, strict=True)]
        encoded = self._tokenizer(
            cut,
            text_pair=listings,
            truncation=True if listings is None else "only_second",
            max_length=self._max_length,
            return_offsets_mapping=True,
            split_special_tokens=True,
            verbose=False,
        )
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        examples: list[Example] = []
        for number, query in enumerate(queries):
            example: Example = {name: encoded[name][number] for name in names}
            offsets = encoded["offset_mapping"][number]
            if listings is not None:
                own = encoded.sequence_ids(number)
                offsets = [place if part == 0 else (0, 0) for place, part in zip(offsets, own, strict=True)]
            example["starts"] = [start if end > start else -1 for start, end in offsets]
            example["ends"] = [end if end > start else -1 for start, end in offsets]
            if readings is not None:
                second = [
                    place if part == 1 else (0, 0)
                    for place, part in zip(encoded["offset_mapping"][number], encoded.sequence_ids(number), strict=True)
                ]
                example["reading_pieces"] = reading_pieces(readings, query, example, second=second).ravel()
                example["reading_numbers"] = readings.numbers(query, whole=self._read_whole).ravel()
            if self.vocabulary.alphabet is not None:
                letters, origins = letters_of(query)
                example["letter_ids"] = self.vocabulary.alphabet.ids(letters[:MOST_LETTERS])
                example["letter_pieces"] = [0, *_pieces(origins[:MOST_LETTERS], example["starts"])]
            if self._words is not None:
                example |= self._words.read(query, starts=example["starts"], ends=example["ends"])
            examples.append(example)
        return examples

    def size(self, example: Example) -> int:
        """Tokens."""
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pads to the longest example; targets that the objective put in come along."""
        import torch

        from distill.students.queries.part_batches import padded_targets

        names = [name for name in self._tokenizer.model_input_names if name in examples[0]]
        trunk = [{name: example[name] for name in names} for example in examples]
        batch = dict(self._tokenizer.pad(trunk, padding=True, return_tensors="pt"))
        for name, filling in _PADDING.items():
            if name in examples[0]:
                longest = max(len(example[name]) for example in examples)
                table = np.full((len(examples), longest), filling, dtype=np.int64)
                for line, example in enumerate(examples):
                    table[line, : len(example[name])] = example[name]
                batch[name] = torch.from_numpy(table)
        if self._words is not None:
            batch["word_letters"] = batch["word_letters"].unflatten(1, (-1, WORD_LETTERS))
        if self.vocabulary.readings is not None:
            batch |= padded_readings(examples)
        return {**batch, **padded_targets(examples)}

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """Scores a batch."""
        from distill.students.queries.heads import HEAD_INPUTS, TRUNK_INPUTS
        from distill.students.queries.span_head import WORD_INPUTS

        read = (*TRUNK_INPUTS, *HEAD_INPUTS, *WORD_INPUTS)
        found = model(**{name: batch[name] for name in read if name in batch})
        first, *others = self.parts
        return Output(found[first], extra={name: found[name] for name in others})

    def scores(self, output: Output) -> dict[str, Tensor]:
        """The scores of every part, by its name."""
        return {next(iter(self.parts)): output.logits, **output.extra}

    def prepare(self, examples: Sequence[Example]) -> None:
        """Fits the weights of what is known of readings, which the network then adds to."""
        if self.vocabulary.readings is not None:
            from distill.students.queries.reading_fit import fit_choosers

            fit_choosers(self.model, examples)

    def is_head(self, name: str) -> bool:
        """What begins from nothing."""
        from distill.students.queries.heads import is_new

        return is_new(name)

    def save(self, folder: Path) -> None:
        """Writes the trunk as ``AutoModel`` loads it, and the heads apart."""
        from safetensors.torch import save_file

        model: Any = self.model
        self._tokenizer.save_pretrained(folder)
        model.trunk.save_pretrained(folder)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in model.heads.state_dict().items()},
            folder / WEIGHTS_FILE,
        )
        self.vocabulary.save(folder)

    def _read_whole(self, word: str) -> bool:
        if word not in self._whole:
            # With the space before it that a word has within a text, which some tokenizers read with it.
            pieces = self._tokenizer.tokenize(f" {word}", add_special_tokens=False)
            self._whole[word] = len(pieces) <= 1
        return self._whole[word]

    def _cut(self, text: str, limit: int) -> str:
        offsets = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        ends = [end for _, end in offsets["offset_mapping"]]
        return text if len(ends) <= limit else text[: ends[limit - 1]]


def _pieces(origins: Sequence[int], starts: Sequence[int]) -> list[int]:
    """The piece that each letter is in: the last that starts before it; letters of one character take turns.

    An uncased tokenizer reads a syllable as several jamo, which all start at the syllable.
    """
    own = [number for number, start in enumerate(starts) if start >= 0]
    if not own:
        return [0] * len(origins)
    places = np.array([starts[number] for number in own])
    last = np.searchsorted(places, origins, side="right") - 1
    found, before, turn = [], -1, 0
    for origin, at in zip(origins, last, strict=True):
        turn = turn + 1 if origin == before else 0
        before = origin
        first = int(np.searchsorted(places, places[at], side="left")) if at >= 0 else 0
        found.append(own[min(first + turn, max(int(at), 0))])
    return found
