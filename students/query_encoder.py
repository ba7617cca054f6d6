"""An encoder that answers all parts of a query task in one pass: a shared trunk, and a head for each part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.asked_task import head_kind, part_name, reading_order
from distill.students.config import EncoderConfig
from distill.students.encoder import not_an_encoder, read_base, set_dropout
from distill.students.letters import Alphabet, letters_of
from distill.students.network import Example, Output
from distill.students.part_targets import ANSWERS, expansion_vocabulary, spelling_pairs
from distill.students.reading_examples import padded_readings, reading_pieces
from distill.students.readings import FIRST_WEIGHTS, Readings, written
from distill.students.span_vocabulary import SpanVocabulary
from distill.students.span_words import WORD_LETTERS, WordReader
from distill.students.text import PairTemplate
from distill.students.tree_softmax import TreeSoftmax

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

PARTS_FILE = "parts.json"
"""In a student's folder: what the heads read and write."""
WEIGHTS_FILE = "parts.safetensors"
"""Beside ``model.safetensors``, which stays the trunk that ``AutoModel`` loads."""
MOST_LETTERS = 512
"""Letters of a text that are spelled; the rest stays."""
_RESERVED_TOKENS = 8
_NAMES_TOGETHER = 256
_PADDING = {"letter_ids": 0, "letter_pieces": 0, "word_first": -1, "word_last": -1, "word_letters": 0, "word_names": 0}


class Vocabulary(NamedTuple):
    """What heads say beyond the task: learned from the training rows.

    Attributes:
        alphabet: Of a spelling head that edits letters; None without one.
        texts: What a list of texts is chosen from, by part.
        spans: What spans are marked on.
        readings: Of a spelling head that chooses among corrections; None without one.
    """

    alphabet: Alphabet | None
    texts: Mapping[str, tuple[str, ...]]
    spans: SpanVocabulary = SpanVocabulary()
    readings: Readings | None = None


class QueryNetwork:
    """Implements :class:`distill.students.network.Network` for tasks whose answers are no single label.

    Its scores are those of the first part in :attr:`Output.logits`, and of the others in :attr:`Output.extra`, see
    :meth:`scores`.

    Args:
        model: A :class:`~distill.students.query_heads.QueryModel`; anything where only rows are read.
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
        trunk = _load_trunk(source, name=config.base, config=model_config)
        limit = getattr(model_config, "max_position_embeddings", None) or config.max_length
        vocabulary = _vocabulary(task, rows, config)
        dropout = _dropout(model_config)
        network = cls(trunk, tokenizer, task=task, vocabulary=vocabulary, max_length=min(config.max_length, limit))
        network.model = _with_heads(trunk, network, dropout=dropout, named=True)
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
        trunk = _load_trunk(str(folder), name=str(folder))
        try:
            model: Any = _with_heads(trunk, network, dropout=0.0, named=False)
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
            found = json.loads((folder / PARTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudentError(f"{folder}: not a whole student ({error}); train the student again") from error
        alphabet = found["alphabet"] and Alphabet(**{name: tuple(value) for name, value in found["alphabet"].items()})
        texts = {name: tuple(value) for name, value in found["texts"].items()}
        words = found.get("words")  # what was trained before words were read has none
        spans = SpanVocabulary(None if words is None else tuple(words), bool(found.get("listed")))
        readings = Readings.load(folder) if found.get("corrector") else None
        vocabulary = Vocabulary(alphabet, texts, spans, readings)
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

        from distill.students.part_batches import padded_targets

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
        from distill.students.query_heads import HEAD_INPUTS, TRUNK_INPUTS
        from distill.students.span_head import WORD_INPUTS

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
            from distill.students.reading_fit import fit_choosers

            fit_choosers(self.model, examples)

    def is_head(self, name: str) -> bool:
        """What begins from nothing."""
        from distill.students.query_heads import is_new

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
        alphabet = self.vocabulary.alphabet
        said = {
            "alphabet": alphabet and {name: getattr(alphabet, name) for name in ("letters", "replace", "append")},
            "texts": self.vocabulary.texts,
            "words": self.vocabulary.spans.letters,
            "listed": self.vocabulary.spans.listed,
            **({"corrector": True} if self.vocabulary.readings is not None else {}),
        }
        if self.vocabulary.readings is not None:
            self.vocabulary.readings.save(folder)
        (folder / PARTS_FILE).write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

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


def _vocabulary(task: Task, rows: pl.LazyFrame, config: EncoderConfig) -> Vocabulary:
    kinds = {part_name(single): head_kind(single) for single in task.singles}
    table = rows.select(task.source, ANSWERS).collect()
    texts = {name: expansion_vocabulary(table, name) for name, kind in kinds.items() if kind == "ranking"}
    for name, found in texts.items():
        if not found:
            raise StudentError(f"{name}: no text to choose from in the training rows; take the part out of the task")
    spelled = [name for name, kind in kinds.items() if kind == "edits"]
    marked = [name for name, kind in kinds.items() if kind == "spans"]
    spans = SpanVocabulary.of(table, marked, task=task, config=config.spans)
    if spelled and config.corrector is not None:
        return Vocabulary(None, texts, spans, Readings.from_section(config.corrector))
    alphabet = Alphabet.of(spelling_pairs(table, spelled[0], source=task.source)) if spelled else None
    return Vocabulary(alphabet, texts, spans)


def _with_heads(trunk: nn.Module, network: QueryNetwork, *, dropout: float, named: bool) -> nn.Module:
    """The model, with heads drawn from torch's global generator; ``named`` ones begin from their options' words."""
    import torch

    from distill.students.query_heads import LetterTagger, Marks, NamedOptions, QueryModel, ReadingChooser
    from distill.students.span_head import WordMarks

    config: Any = trunk.config
    width = int(config.hidden_size)
    heads: dict[str, nn.Module] = {}
    for name, single in network.parts.items():
        kind = head_kind(single)
        if kind == "edits" and network.vocabulary.readings is not None:
            heads[name] = ReadingChooser(width, FIRST_WEIGHTS, dropout=dropout)
        elif kind == "edits":
            alphabet = network.vocabulary.alphabet
            assert alphabet is not None
            sizes = {"letters": alphabet.size, "replace": len(alphabet.replace), "append": len(alphabet.append)}
            heads[name] = LetterTagger(width, **sizes, dropout=dropout)
        elif kind == "spans":
            letters = network.vocabulary.spans.letters
            heads[name] = (
                Marks(width, len(single.types), dropout=dropout)
                if letters is None
                else WordMarks(
                    width,
                    len(single.types),
                    letters=WordReader(letters).size,
                    names=network.vocabulary.spans.listed,
                    dropout=dropout,
                )
            )
        else:
            texts = (*network.vocabulary.texts.get(name, ()), "")  # the last one: none of them
            plain = single.labels if kind == "labels" else texts
            names = network.options(name).names if kind == "paths" else tuple((text,) for text in plain)
            states = _name_states(trunk, network.tokenizer, names) if named else torch.zeros(len(names), width)
            heads[name] = NamedOptions(states, dropout=dropout)
    return QueryModel(trunk, heads)


def _name_states(trunk: nn.Module, tokenizer: Any, names: Sequence[Sequence[str]]) -> Tensor:
    """``[options, D]``: the mean of what a trunk makes of each option's names, which are as many for all."""
    import torch

    from distill.students.query_heads import TRUNK_INPUTS, mean_state

    texts = [text for own in names for text in own]
    training, found = trunk.training, []
    trunk.eval()
    with torch.no_grad():
        for start in range(0, len(texts), _NAMES_TOGETHER):
            batch = tokenizer(
                texts[start : start + _NAMES_TOGETHER],
                padding=True,
                truncation=True,
                max_length=64,
                split_special_tokens=True,
                return_tensors="pt",
            )
            states = trunk(**{name: batch[name] for name in TRUNK_INPUTS if name in batch}).last_hidden_state
            found.append(mean_state(states, batch["attention_mask"]))
    trunk.train(training)
    return torch.cat(found).unflatten(0, (len(names), -1)).mean(dim=1)


def _load_trunk(source: str, *, name: str, config: Any = None) -> nn.Module:
    import torch
    from transformers import AutoModel

    attention = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
    settings = {} if config is None else {"config": config}
    try:
        found: nn.Module = AutoModel.from_pretrained(source, **settings, dtype=torch.float32, **attention)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudentError(not_an_encoder(name, error)) from error
    return found


def _dropout(config: Any) -> float:
    """The base's own, which ``dropout`` of the section has set already where it is given."""
    found = [value for name, value in config.to_dict().items() if "hidden" in name and name.endswith("dropout_prob")]
    return float(found[0]) if found else float(getattr(config, "dropout", 0.1) or 0.0)
