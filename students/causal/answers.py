"""A small GPT that answers the parts of a query task as JSON, in the fields in which teachers answer them.

A prompt is one user's turn in the base's own chat format::

    Understand the query.
    Query: acme red lmap
    Answer in JSON: corrected, brand, category, expansions.

and the answer ``{"corrected": "acme red lamp", "brand": ["acme"], …}``. Of a training row only the parts that are known
are asked for, so that a missing one is never learned as "none". What is written is read as a teacher's answer is
(:func:`distill.labeling.answers.parsing_kinds.parse_kind`): an answer that does not fit is ``invalid``, part by part;
of one that does not end within ``answer_tokens`` what is whole counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from pydantic_core import from_json
from torch import Tensor, nn

from distill.labeling.answers.parsing import Answer as Parsed
from distill.labeling.answers.parsing import AnswerError
from distill.labeling.answers.parsing_kinds import parse_kind
from distill.labeling.task import Task
from distill.students.causal.config import TINY
from distill.students.causal.network import CausalNetwork, LanguageModel
from distill.students.causal.objective import answer_tokens
from distill.students.causal.pretrained import Loaded, load_base, load_saved, save, with_adapters
from distill.students.causal.prompt import CausalPrompt
from distill.students.causal.reasoning import write
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.network import Example
from distill.students.queries.asked_task import head_kind, part_name, reading_order
from distill.students.queries.part_answers import Answer
from distill.students.queries.part_targets import ANSWERS
from distill.students.queries.tree_softmax import NOTHING
from distill.students.text import PairTemplate
from distill.students.training.objective import Objective, StepLoss, count_known_parts, target_columns

if TYPE_CHECKING:
    from distill.students.config import CausalConfig

ANSWER_TOKENS = 192
"""Tokens of an answer, where the section says nothing."""
PROMPT_FILE = "distill_prompt.json"
_VOCABULARY_ROWS = 50_000
_SCORED_TOGETHER = 64


class AnswerPrompt(CausalPrompt):
    """Writes and tokenises prompts that ask for parts.

    Args:
        tokenizer: The base's.
        task: What is answered.
        max_length: Tokens of a prompt.
    """

    def __init__(self, tokenizer: Any, *, task: Task, max_length: int) -> None:
        self.every = fields_of(task.singles)
        super().__init__(tokenizer, labels=(), template=PairTemplate(reading_order(task)), max_length=max_length)

    def content(self, query: str, listing: str | None, *, asked: str) -> str:
        """The user's turn; ``asked`` are the fields, separated by commas, and anything else stands for all."""
        fields = asked if set(asked.split(", ")) <= set(self.every.split(", ")) else self.every
        text = f"Understand the query.\nQuery: {self._defused(query)}\n"
        if len(self.inputs) > 1:
            text += f"<listing>\n{self._defused(listing or '')}\n</listing>\n"
        return f"{text}Answer in JSON: {fields}."


class CausalAnswers(CausalNetwork):
    """Implements :class:`distill.students.network.Network` with a causal language model that writes answers.

    Args:
        loaded: The model and its tokenizer.
        config: The student's section.
        task: What is answered.
    """

    def __init__(self, loaded: Loaded, config: CausalConfig, *, task: Task) -> None:
        self.model: nn.Module = LanguageModel(loaded.model)
        self.tokenizer = loaded.tokenizer
        self.config = config
        self.labels = ()
        self.task = task
        self.answer_tokens = config.answer_tokens or ANSWER_TOKENS
        positions = getattr(loaded.model.config, "max_position_embeddings", None)
        longest = config.max_length if positions is None else min(config.max_length, positions - self.answer_tokens)
        self.prompt: AnswerPrompt = AnswerPrompt(loaded.tokenizer, task=task, max_length=longest)
        self._pad = int(loaded.tokenizer.pad_token_id)
        self._end = int(loaded.tokenizer.eos_token_id)

    @classmethod
    def for_task(cls, config: CausalConfig, *, task: Task, rows: pl.LazyFrame) -> CausalAnswers:
        """Loads a pretrained GPT, or makes a tiny one that learns its vocabulary from rows with answers."""
        if config.base == TINY:
            table = rows.head(_VOCABULARY_ROWS).collect()
            queries, listings = PairTemplate(reading_order(task)).render(table)
            asked = f"Understand the query.\nQuery: \nAnswer in JSON: {fields_of(task.singles)}."
            said = [written(task, query, json.loads(cell)) for query, cell in zip(queries, table[ANSWERS], strict=True)]
            texts = [*queries, *(listings or []), *said, *[asked] * table.height]
            tokenizer = tiny_tokenizer(texts, vocabulary=config.tiny.vocabulary)
            return cls(Loaded(tiny_model(config.tiny, tokenizer), tokenizer), config, task=task)
        loaded = load_base(config.base, quantization=config.quantization)
        if config.lora is not None:
            loaded = Loaded(with_adapters(loaded.model, config.lora), loaded.tokenizer)
        return cls(loaded, config, task=task)

    @classmethod
    def saved(cls, folder: Path, config: CausalConfig, *, task: Task) -> CausalAnswers:
        """Loads a trained student."""
        return cls(load_saved(folder), config, task=task)

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Prompts that ask for every part."""
        return [self._example(ids) for ids in self._prompts(rows, [self.prompt.every] * rows.height)]

    def taught(self, rows: pl.DataFrame) -> list[Example]:
        """Prompts that ask for what is known of each row, and the answer behind them."""
        answers: list[dict[str, Any]] = [json.loads(cell) for cell in rows[ANSWERS]]
        asked = [fields_of([single for single in self.task.singles if part_name(single) in known]) for known in answers]
        examples = []
        sources = rows[self.task.source].cast(pl.String).fill_null("")
        for ids, source, known in zip(self._prompts(rows, asked), sources, answers, strict=True):
            example = self._example(ids)
            words = self.prompt.tokens(written(self.task, source, known))[: self.answer_tokens - 1]
            example["input_ids"] = [*ids, *words, self._end]
            example["answer_from"] = [len(ids) - 1]
            examples.append(example)
        return examples

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """As a student of labels, but that no position is a label's."""
        batch = super().collate(examples)
        answer_at = [
            (example["answer_from"] if "answer_from" in example else example["label_at"])[0] for example in examples
        ]
        return {**batch, "answer_at": torch.tensor(answer_at), "label_at": torch.full((len(examples),), -1)}

    def save(self, folder: Path) -> None:
        """Writes what ``AutoModelForCausalLM`` loads, and how to ask it."""
        model: Any = self.model
        save(model.model, self.tokenizer, folder, base=self.config.base, lora=self.config.lora)
        asked = {"prompt": self.prompt.content("{query}", "{listing}", asked=self.prompt.every)}
        (folder / PROMPT_FILE).write_text(json.dumps(asked, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def answers(self, rows: pl.DataFrame, *, batch_size: int | None) -> dict[str, list[Answer]]:
        """Answers by part, each as probable as its words are on average; greedily written.

        Args:
            rows: The task's inputs.
            batch_size: Rows written at once.
        """
        found: dict[str, list[Answer]] = {part_name(single): [] for single in self.task.singles}
        if rows.is_empty():
            return found
        prompts = [example["input_ids"] for example in self.read(rows)]
        together = batch_size or _SCORED_TOGETHER
        words = write(self, prompts, batch_size=together, most=self.answer_tokens)
        probable = self._probable(prompts, words, together)
        sources = rows[self.task.source].cast(pl.String).fill_null("")
        for ids, source, probability in zip(words, sources, probable, strict=True):
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
            text = text if len(ids) < self.answer_tokens else whole_part(text)
            for name, answer in _read(self.task, text, source, probability).items():
                found[name].append(answer)
        return found

    def _prompts(self, rows: pl.DataFrame, asked: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in asked]
        for fields in dict.fromkeys(asked):
            places = [place for place, own in enumerate(asked) if own == fields]
            form: Any = fields
            for place, ids in zip(places, self.prompt.read(rows[places], asked=form), strict=True):
                found[place] = ids
        return found

    def _probable(self, prompts: Sequence[list[int]], words: Sequence[list[int]], together: int) -> list[float]:
        """Geometric mean of the probabilities of an answer's tokens, the end token among them."""
        end = self._end
        found: list[float] = []
        device = next(self.model.parameters()).device
        for start in range(0, len(prompts), together):
            examples = []
            for prompt, own in zip(prompts[start : start + together], words[start : start + together], strict=True):
                example = self._example([*prompt, *own, end])
                examples.append({**example, "answer_from": [len(prompt) - 1]})
            batch = {name: tensor.to(device) for name, tensor in self.collate(examples).items()}
            costs, at = _token_costs(self.model, batch)
            total = torch.zeros(len(examples), device=device).index_add(0, at, costs)
            count = torch.bincount(at, minlength=len(examples)).clamp(min=1)
            found += (-total / count).exp().tolist()
        return found

    def _example(self, ids: list[int]) -> Example:
        return {"input_ids": ids, "label_at": [len(ids) - 1]}


class CausalAnswerObjective(Objective):
    """Mean cross-entropy of an answer's tokens, weighed by the row and by how hard it pulls in the parts it answers.

    ``sum_i w_i * t_i * mean over tokens of -log p / B`` with ``t_i`` the mean over the row's known parts of how hard it
    pulls there. The prompt's tokens and padding cost nothing; temperature 1.

    Args:
        task: What is answered.
    """

    def __init__(self, task: Task) -> None:
        self._names = [part_name(single) for single in task.singles]
        self.facts: dict[str, int] = {}

    def read(self, network: Any, table: pl.DataFrame) -> Sequence[Example]:
        """Prompts with their answers."""
        examples: Sequence[Example] = network.taught(table)
        return examples

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``target`` and ``weight``, and counts of the rows of which each part is known."""
        found = target_columns(table)
        count_known_parts(found["target"], self._names, self.facts)
        return found

    def loss(
        self, network: Any, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See the class; validated on each row's mean."""
        costs, at = _token_costs(model, batch)
        rows = len(columns["weight"])
        per_row = torch.zeros(rows, device=costs.device).index_add(0, at, costs.float())
        per_row = per_row / torch.bincount(at, minlength=rows).clamp(min=1)
        target = columns["target"]
        pull = target.sum(dim=1) / (target > 0).sum(dim=1).clamp(min=1)
        return StepLoss((columns["weight"] * pull * per_row).sum() / rows, per_row[:, None])

    def validation_loss(self, logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
        """The same loss over all held-out rows, their weights normalised to sum to one."""
        pull = target.sum(axis=1) / np.maximum((target > 0).sum(axis=1), 1)
        return float((weight * pull * logits[:, 0]).sum() / weight.sum())


def fields_of(singles: Sequence[Task]) -> str:
    """Fields of an answer, as a prompt names them."""
    return ", ".join(single.field for single in singles)


def written(task: Task, source: str, answers: Mapping[str, Any]) -> str:
    """What a student is to write: the most probable answer to each part that is known, as JSON."""
    found = {}
    for single in task.singles:
        answer = answers.get(part_name(single))
        if answer is not None:
            found[single.field] = _value(single, source, answer)
    return json.dumps(found, ensure_ascii=False)


def _value(single: Task, source: str, answer: Sequence[Any]) -> Any:
    kind = head_kind(single)
    if kind == "spans":
        marked = [(source[start:end], single.types[place]) for start, end, place, support in answer if support > 0.5]
        return [text if len(single.types) == 1 else {"text": text, "type": named} for text, named in marked]
    if kind == "ranking":
        return [text for text, _ in answer]
    if kind == "labels":
        return [label for label, share in answer if share > 0.5]
    best = max(answer, key=lambda pair: pair[1])[0] if answer else NOTHING
    if kind != "paths" or not single.several:
        return best
    most = max((share for _, share in answer), default=0.0)
    return [label for label, share in answer if share >= 0.5 * most and label != NOTHING]


def whole_part(text: str) -> str:
    """What is whole of an answer that was cut: of a list its first items, of an object its first fields.

    The text itself where it is no JSON that goes on. A small model that has said all it knows goes on repeating itself.
    """
    try:
        found, begun = from_json(text, allow_partial=True), from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return text
    last = next(reversed(begun), None) if isinstance(begun, dict) else None
    if last is not None and found.get(last) == [] and not text.rstrip().endswith(("]", "}")):
        del found[last]  # a list that was cut before its first item does not say that there is none
    return json.dumps(found, ensure_ascii=False)


def _read(task: Task, text: str, source: str, probability: float) -> dict[str, Answer]:
    """What was written, by part; of a part that does not fit, or is not there, no value."""
    try:
        whole: Parsed | AnswerError = parse_kind(text, task=task, source=source)
    except AnswerError as error:
        whole = error
    found = {}
    for single in task.singles:
        own = whole
        if isinstance(whole, Parsed) and task.parts:
            own = (whole.parts or {}).get(str(single.part), AnswerError("missing"))
        value = None if isinstance(own, AnswerError) else getattr(own, single.answer_column)
        outcome = "invalid" if isinstance(own, AnswerError) else "abstained" if value is None else "labeled"
        found[part_name(single)] = Answer(value, probability if value is not None else 0.0, outcome=outcome)
    return found


def _token_costs(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """``-log p`` of every token of the answers, and the row of each."""
    token_at, token_of = answer_tokens(batch)
    scored = model(batch["input_ids"], batch["attention_mask"], token_at)
    chosen = batch["input_ids"].flatten()[token_at + 1]
    return torch.nn.functional.cross_entropy(scored.logits, chosen, reduction="none"), token_of
