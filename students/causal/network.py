"""A small GPT that answers with a label's code, or reasons and then answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor, nn

from distill.labeling.errors import StudentError
from distill.students.causal.config import TINY, TraceUse
from distill.students.causal.pretrained import Loaded, load_base, load_saved, save, with_adapters
from distill.students.causal.prompt import ANSWER_MARK, Asked, CausalPrompt, fixed_texts
from distill.students.causal.shared_prefix import can_share, states_at
from distill.students.causal.tiny import tiny_model, tiny_tokenizer
from distill.students.config import CausalConfig
from distill.students.logprobs.loss import TokenTargets, sparse_cross_entropy
from distill.students.network import Example, Output
from distill.students.text import PairTemplate

PROMPT_FILE = "distill_prompt.json"
_SAME_LOGITS = 1e-2
_VOCABULARY_ROWS = 50_000
"""Logits of the model's own forward pass and of :meth:`LanguageModel.scores` may differ by rounding only."""

ASKED: Mapping[TraceUse, Asked] = {
    "none": "label",
    "multitask": "label",
    "before_label": "label",
    "after_label": "label_then_trace",
}
"""What a prompt asks for when the label comes first, by the student's use of traces."""


class Scored(NamedTuple):
    """What a language model says at some positions.

    Attributes:
        hidden: ``[P, D]``, the last layer's states.
        logits: ``[P, V]``; of the first positions only, where the last ones have targets.
        loss: Of those with targets.
    """

    hidden: Tensor
    logits: Tensor
    loss: Tensor | None = None


class LanguageModel(nn.Module):
    """A causal language model whose logits are computed only where they are asked for.

    All of it runs inside :meth:`forward`, so that distributed wrappers see every parameter's use.

    Args:
        model: A Hugging Face causal language model, with adapters of peft maybe.
        shares_beginnings: Whether to read only once what all sequences of a batch begin with. Not where the layers are
            sharded over processes: each gathers its weights for one pass.
    """

    def __init__(self, model: Any, *, shares_beginnings: bool = True) -> None:
        super().__init__()
        self.model = model
        self.shares_beginnings = shares_beginnings
        self._refuse_other_heads()

    @property
    def whole(self) -> Any:
        """The Hugging Face model; adapters sit in its layers where there are any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        at: Tensor | None = None,
        *,
        row: Tensor | None = None,
        targets: TokenTargets | None = None,
        temperature: float = 1.0,
    ) -> Tensor | Scored:
        """Reads sequences that are padded on the right.

        Args:
            input_ids: ``[S, L]``.
            attention_mask: ``[S, L]``, 0 for padding.
            at: ``[P]``, positions in the flattened ``[S * L]``, at least one in every sequence.
            row: ``[S]``, the row of each sequence, as :meth:`CausalNetwork.collate` gives it; one each if None.
            targets: What is learned at the last of ``at``, whose logits are then never there all at once.
            temperature: Of the targets' shares.

        Returns:
            The last hidden states ``[S, L, D]`` where ``at`` is None; else those at ``at``, and their logits.
        """
        decoder = self.whole.get_decoder()
        chosen: Tensor | None = None
        if at is not None and self.shares_beginnings and can_share(decoder):
            row = torch.arange(len(input_ids), device=at.device) if row is None else row
            chosen = states_at(decoder, input_ids, attention_mask, at, row=row)
        if chosen is None:
            hidden: Tensor = decoder(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
            if at is None:
                return hidden
            chosen = hidden.flatten(0, 1)[at]
        if targets is None:
            return Scored(chosen, self.scores(chosen))
        first = len(chosen) - len(targets.labels)
        return Scored(chosen, self.scores(chosen[:first]), self._loss(chosen[first:], targets, temperature))

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits ``[P, V]`` of hidden states, in float32 where nothing is trained: bfloat16 has too few digits.

        Scaled and capped as the configuration says (Granite, Cohere; Gemma).
        """
        head, config = self.whole.get_output_embeddings(), self.whole.config
        with torch.autocast(
            hidden.device.type, enabled=self.training and torch.is_autocast_enabled(hidden.device.type)
        ):
            logits = head(hidden if self.training else hidden.to(head.weight.dtype))
        logits = logits.float() * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _loss(self, hidden: Tensor, targets: TokenTargets, temperature: float) -> Tensor:
        head, config = self.whole.get_output_embeddings(), self.whole.config
        if getattr(config, "final_logit_softcapping", None) is not None:
            raise StudentError(
                f"causal: teacher_logprobs: a base of type {config.model_type!r} caps its logits, which the loss in "
                "chunks cannot; name another base"
            )
        scaled = hidden * (getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0))
        found = sparse_cross_entropy(
            scaled, head.weight, targets, bias=getattr(head, "bias", None), temperature=temperature, normalizer=1.0
        )
        return found.loss

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The parameters that are trained: with adapters, they alone. A tied matrix is there once, by its first name.

        Checkpoints are written by safetensors, which refuses two names of one tensor.
        """
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        own = dict(self.named_parameters())
        trained = {name for name, parameter in own.items() if parameter.requires_grad}
        if len(trained) < len(own):
            return {name: value for name, value in state.items() if name in trained}
        again = {name for name, _ in self.named_parameters(remove_duplicate=False)} - set(own)
        return {name: value for name, value in state.items() if name not in again}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes up what :meth:`state_dict` gave; what that leaves out is not missing."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = sorted(set(found.missing_keys) & set(self.state_dict()))
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"causal: weights lack {missing} and have {found.unexpected_keys} beside those needed")
        return found._replace(missing_keys=missing)

    @torch.no_grad()
    def _refuse_other_heads(self) -> None:
        """Some architectures do more between the last state and the logits than :meth:`scores` knows."""
        was_training = self.training
        self.eval()
        ids = torch.arange(1, 5, device=self.whole.device)[None]
        found = self(ids, torch.ones_like(ids), torch.arange(4, device=ids.device)).logits
        own = self.whole(input_ids=ids).logits[0].float()
        self.train(was_training)
        if (found - own).abs().max() > _SAME_LOGITS * max(1.0, float(own.abs().max())):
            raise StudentError(
                f"causal: a base of type {self.whole.config.model_type!r} computes its logits in a way that is not "
                "known here; name another base, such as a Llama, Qwen, Gemma or GPT-2"
            )


class CausalNetwork:
    """Implements :class:`distill.students.network.Network` with a causal language model.

    An example is a sequence ``input_ids`` whose label is predicted at position ``label_at``. In training the label's
    code and more may follow, and a second sequence may go with it; see :mod:`distill.students.causal.objective`.

    Args:
        loaded: The model and its tokenizer.
        config: The student's section.
        labels: The task's labels.
        inputs: Input columns, the query first.
    """

    bf16_speeds_up = True

    def __init__(self, loaded: Loaded, config: CausalConfig, *, labels: Sequence[str], inputs: Sequence[str]) -> None:
        sharded = any(config.trainer.get(name) for name in ("fsdp", "deepspeed"))
        self.model: nn.Module = LanguageModel(loaded.model, shares_beginnings=not sharded)
        self.tokenizer = loaded.tokenizer
        self.config = config
        self.labels = tuple(labels)
        self.prompt = CausalPrompt(
            loaded.tokenizer,
            labels=labels,
            template=PairTemplate(tuple(inputs)),
            max_length=_prompt_length(loaded.model.config, config, answer=len(ANSWER_MARK) + 2),
        )
        self._pad = int(loaded.tokenizer.pad_token_id)

    @classmethod
    def from_base(
        cls, config: CausalConfig, *, labels: Sequence[str], inputs: Sequence[str], rows: pl.LazyFrame
    ) -> CausalNetwork:
        """Loads a pretrained GPT, or makes a tiny one.

        Args:
            config: The student's section.
            labels: The task's labels.
            inputs: Input columns, the query first.
            rows: Training rows, from the first of which a tiny base learns its vocabulary.

        Raises:
            StudentError: The base cannot be loaded.
            MissingDependencyError: peft or bitsandbytes is wanted and absent.
        """
        if config.base == TINY:
            texts = _written(rows.head(_VOCABULARY_ROWS).collect(), labels, inputs)
            tokenizer = tiny_tokenizer(texts, vocabulary=config.tiny.vocabulary)
            return cls(Loaded(tiny_model(config.tiny, tokenizer), tokenizer), config, labels=labels, inputs=inputs)
        loaded = load_base(config.base, quantization=config.quantization)
        if config.lora is not None:
            loaded = Loaded(with_adapters(loaded.model, config.lora), loaded.tokenizer)
        return cls(loaded, config, labels=labels, inputs=inputs)

    @classmethod
    def from_folder(
        cls, folder: Path, config: CausalConfig, *, labels: Sequence[str], inputs: Sequence[str]
    ) -> CausalNetwork:
        """Loads a trained student.

        Raises:
            StudentError: The folder is not whole.
            MissingDependencyError: It holds adapters, and peft is absent.
        """
        return cls(load_saved(folder), config, labels=labels, inputs=inputs)

    def read(self, rows: pl.DataFrame) -> list[Example]:
        """Prompts that ask for the label at once."""
        if rows.is_empty():
            return []
        prompts = self.prompt.read(rows, asked=ASKED[self.config.traces])
        return [{"input_ids": ids, "label_at": [len(ids) - 1]} for ids in prompts]

    def contents(self, rows: pl.DataFrame, *, traces: bool = False) -> list[str]:
        """The user's turn of each row, as a chat server is sent it.

        Args:
            rows: The task's inputs.
            traces: Ask for the trace too.
        """
        with_trace: dict[TraceUse, Asked] = {"multitask": "trace", "before_label": "trace_then_label"}
        use = self.config.traces
        return self.prompt.contents(rows, asked=with_trace.get(use, ASKED[use]) if traces else ASKED[use])

    def size(self, example: Example) -> int:
        """Tokens of the longest of its sequences."""
        return max(len(example["input_ids"]), len(example.get("reasoned_ids", ())))

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pads on the right.

        Returns:
            ``direct`` ``[B]``, the sequence of each row that asks for the label at once, always 0 to B - 1; of the S
            sequences ``input_ids`` and ``attention_mask`` ``[S, L]``, ``row`` ``[S]``, ``label_at`` ``[S]``, the
            position that predicts the label, -1 for none, and ``answer_at`` ``[S]``, the position that predicts the
            first token which is no prompt.
        """
        reasoned = [number for number, example in enumerate(examples) if example.get("reasoned_ids")]
        sequences = [example["input_ids"] for example in examples]
        sequences += [examples[number]["reasoned_ids"] for number in reasoned]
        longest = max(map(len, sequences))
        label_at = [example["label_at"][0] for example in examples]
        return {
            "direct": torch.arange(len(examples)),
            "input_ids": torch.tensor([ids + [self._pad] * (longest - len(ids)) for ids in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]),
            "row": torch.tensor([*range(len(examples)), *reasoned]),
            "label_at": torch.tensor(label_at + [examples[number]["reasoned_label_at"][0] for number in reasoned]),
            "answer_at": torch.tensor(label_at + [examples[number]["reasoned_answer_at"][0] for number in reasoned]),
        }

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """Scores the whole label set in one pass, at the position after the prompt."""
        rows, length = len(batch["direct"]), batch["input_ids"].shape[1]
        at = torch.arange(rows, device=batch["label_at"].device) * length + batch["label_at"][:rows]
        scored = model(batch["input_ids"][:rows], batch["attention_mask"][:rows], at)
        return Output(self.label_scores(scored.logits), scored.hidden)

    def hidden(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The last hidden states ``[S, L, D]`` of a batch, before the output embedding."""
        states: Tensor = model(batch["input_ids"], batch["attention_mask"])
        return states

    @property
    def output_embedding(self) -> Tensor:
        """``[V, D]``: logits are hidden states times this, but for what :meth:`LanguageModel.scores` adds."""
        weight: Tensor = self.model.whole.get_output_embeddings().weight  # type: ignore[operator, union-attr]
        return weight

    def label_scores(self, logits: Tensor) -> Tensor:
        """The labels' scores ``[P, K]`` among the vocabulary's ``[P, V]``."""
        return logits[:, self.prompt.code_ids]

    def prepare(self, examples: Sequence[Example]) -> None:
        """Nothing to learn from the examples but by gradient."""

    def is_head(self, name: str) -> bool:
        """No parameter is a new head: the label's code is a token like any other."""
        return False

    def save(self, folder: Path) -> None:
        """Writes what ``AutoModelForCausalLM`` loads, and how to ask it (``distill_prompt.json``)."""
        model: Any = self.model
        save(model.model, self.tokenizer, folder, base=self.config.base, lora=self.config.lora)
        asked: dict[str, Any] = {
            "codes": dict(zip(self.prompt.codes, self.labels, strict=True)),
            "prompt": self.prompt.content("{query}", "{listing}", asked=ASKED[self.config.traces]),
        }
        if self.config.traces == "before_label":
            asked["prompt_with_trace"] = self.prompt.content("{query}", "{listing}", asked="trace_then_label")
            asked["answer_mark"] = ANSWER_MARK
        text = json.dumps(asked, indent=2, ensure_ascii=False)
        (folder / PROMPT_FILE).write_text(text + "\n", encoding="utf-8")


def _prompt_length(model_config: Any, config: CausalConfig, *, answer: int) -> int:
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions is None:
        return config.max_length
    return min(config.max_length, positions - answer - (config.trace_tokens if config.traces != "none" else 0))


def _written(rows: pl.DataFrame, labels: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """The texts that a student meets, as often as it meets them: what stands in every prompt is met with every row."""
    queries, listings = PairTemplate(tuple(inputs)).render(rows)
    traces = rows["trace"].drop_nulls().to_list() if "trace" in rows.columns else []
    return [*queries, *(listings or []), *traces, *fixed_texts(labels) * rows.height]
