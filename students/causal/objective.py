"""What a causal student minimises: the label's loss, and the loss of the words around it.

========================= ================================================== =====================================
``traces``                first sequence of a row                            second, where the row has a fit trace
========================= ================================================== =====================================
``none``                  prompt, label                                      none
``multitask``             prompt, label                                      prompt to explain, trace
``before_label``          prompt, label                                      prompt to explain, trace, mark, label
``after_label``           prompt, label, trace where there is a fit one      none
========================= ================================================== =====================================

``multitask`` is distilling step-by-step (Hsieh et al. 2023, https://arxiv.org/abs/2305.02301): the two prompts differ
in their last line. ``before_label`` keeps its first sequence, so that the student can be asked for the label at once.

A row's loss is the sum over its sequences of

``label(z, t) - log P(codes) + trace_weight * mean over the other answer tokens of -log P(token)``

* ``label`` is the loss that the recipe names, between the scores ``z`` of the labels' codes at the position before the
  label, and the row's target distribution ``t``; for a label after a trace it is ``soft_ce`` or ``hard_ce``.
* ``- log P(codes)``, the mass of the vocabulary that is no code, makes the student say a code at all. With ``soft_ce``
  the two together are the cross-entropy over the whole vocabulary of a target that is spread over the codes.
* The other answer tokens are the trace, the mark and the end token; the prompt and the label's code are none of them.
  The mean is by sequence: a long trace pulls as hard as a short one. Temperature 1, so no T² factor.
* Normalised by the rows of the batch, each weighed as :mod:`distill.students.losses.distributions` declares; a row
  without a second sequence adds nothing for it, and the parts of a batch over processes have the whole batch's mean.
* Padding has no positions and adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.labeling.answers.traces import UNFIT, trace_problems
from distill.labeling.task import Task
from distill.students.network import Example, Output
from distill.students.training.objective import Objective, StepLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.causal.network import CausalNetwork, Scored
    from distill.students.config import CausalConfig

UNFIT_TO_LEARN = UNFIT | {"repeats_listing", "too_short"}
"""Traces with one of these are not learned; their rows' labels are."""


class CausalObjective(Objective):
    """Labels, and traces where the student uses them.

    Args:
        config: The student's section.
        label: What is minimised between scores of the labels and targets; its columns are kept.
        task: Labels and inputs, against which traces are checked.
    """

    def __init__(self, config: CausalConfig, label: Objective, *, task: Task) -> None:
        self._config = config
        self._label = label
        self._task = task
        self.rows_together = label.rows_together
        self.columns_need_texts = config.traces != "none" or label.columns_need_texts
        self.facts: dict[str, int] = {}

    def read(self, network: Any, table: pl.DataFrame) -> Sequence[Example]:
        """Prompts with their answers."""
        examples = network.read(table)
        codes = [network.prompt.code_ids[int(np.argmax(target))] for target in table["target"].to_list()]
        traces = self._fit_traces(network, table)
        end = int(network.tokenizer.eos_token_id)
        first = traces if self._config.traces == "after_label" else [[]] * len(examples)
        for example, code, words in zip(examples, codes, first, strict=True):
            example["input_ids"] = [*example["input_ids"], code, *words, end]
        if self._config.traces in ("multitask", "before_label"):
            self._add_second(network, table, examples, codes=codes, traces=traces)
        return examples

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """Those of the label's objective. Counts the traces that are used, and those that are not by what is wrong."""
        for problem in self._problems(table):
            name = "traces_learned" if problem is None else f"traces_{problem}"
            self.facts[name] = self.facts.get(name, 0) + 1
        return self._label.columns(table)

    def loss(
        self, network: Any, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See the module; where nothing is trained, the label's loss alone."""
        self._label.epoch = self.epoch
        if not model.training:
            return self._label.loss(network, model, batch, columns)
        import torch

        rows, weight = len(batch["direct"]), columns["weight"].float()
        labelled = torch.nonzero(batch["label_at"] >= 0)[:, 0]
        label_at = labelled * batch["input_ids"].shape[1] + batch["label_at"][labelled]
        token_at, token_of = answer_tokens(batch)
        at = torch.cat([label_at, token_at])
        scored = model(batch["input_ids"], batch["attention_mask"], at, row=batch["row"])
        at_tokens = scored.logits[len(labelled) :]
        step = self._label_loss(network, model, batch, columns, scored=scored, labelled=labelled)
        words = torch.nn.functional.cross_entropy(
            at_tokens, batch["input_ids"].flatten()[token_at + 1], reduction="none"
        )
        share = 1.0 / torch.bincount(token_of, minlength=len(batch["row"])).clamp(min=1)[token_of]
        loss = step.loss + self._config.trace_weight * (weight[batch["row"][token_of]] * share * words).sum() / rows
        return StepLoss(loss, step.logits)

    def _label_loss(
        self,
        network: Any,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
        *,
        scored: Scored,
        labelled: Tensor,
    ) -> StepLoss:
        """The labels' part: ``labelled`` ``[Y]`` are the sequences with a label, first of ``scored`` their states."""
        rows, weight = len(batch["direct"]), columns["weight"].float()
        at_labels = scored.logits[: len(labelled)]
        codes = network.label_scores(at_labels)
        said: Any = _Said(Output(codes[:rows], scored.hidden[:rows]))
        step = self._label.loss(said, model, batch, columns)
        row = batch["row"][labelled]
        loss = step.loss + (weight[row] * (at_labels.logsumexp(-1) - codes.logsumexp(-1))).sum() / rows
        if len(labelled) > rows:
            second = row[rows:]
            per_row = _cross_entropy(codes[rows:], columns["target"][second], hard=self._config.loss.type == "hard_ce")
            loss = loss + (weight[second] * per_row).sum() / rows
        return StepLoss(loss, codes[:rows])

    def state_dict(self) -> dict[str, Any]:
        """The label's."""
        return self._label.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The label's."""
        self._label.load_state_dict(state)

    def _fit_traces(self, network: CausalNetwork, table: pl.DataFrame) -> list[list[int]]:
        """Tokens of each row's trace; none where there is no trace, or one that should not be learned."""
        problems = self._problems(table)
        if not problems:
            return [[]] * table.height
        most = self._config.trace_tokens
        return [
            [] if problem is not None else network.prompt.trace_tokens(trace, most=most)
            for trace, problem in zip(table["trace"].to_list(), problems, strict=True)
        ]

    def _problems(self, table: pl.DataFrame) -> list[str | None]:
        """What is wrong with each row's trace, None for a fit one; empty where no traces are used."""
        if self._config.traces == "none" or "trace" not in table.columns:
            return []
        inputs = pl.col(self._task.inputs).cast(pl.String).fill_null("")
        values = table.select(inputs).iter_rows(named=True)
        labels = [self._task.labels[int(np.argmax(target))] for target in table["target"].to_list()]
        return [
            unfit_to_learn(trace, label=label, task=self._task, values=of_row)
            for label, trace, of_row in zip(labels, table["trace"].to_list(), values, strict=True)
        ]

    def _add_second(
        self,
        network: CausalNetwork,
        table: pl.DataFrame,
        examples: Sequence[Example],
        *,
        codes: list[int],
        traces: list[list[int]],
    ) -> None:
        labels_too = self._config.traces == "before_label"
        prompts = network.prompt.read(table, asked="trace_then_label" if labels_too else "trace")
        end = int(network.tokenizer.eos_token_id)
        for example, prompt, code, words in zip(examples, prompts, codes, traces, strict=True):
            if not words:
                example["reasoned_ids"] = example["reasoned_label_at"] = example["reasoned_answer_at"] = []
                continue
            before = [*prompt, *words, *network.prompt.answer_mark_ids] if labels_too else [*prompt, *words]
            example["reasoned_ids"] = [*before, code, end] if labels_too else [*before, end]
            example["reasoned_label_at"] = [len(before) - 1 if labels_too else -1]
            example["reasoned_answer_at"] = [len(prompt) - 1]


class _Said:
    """Stands for a network that has already spoken: the label's objective asks for scores, not for another pass."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        return self._output


def unfit_to_learn(trace: str | None, *, label: str, task: Task, values: Mapping[str, str]) -> str | None:
    """The first thing that makes a trace unfit beside a label, ``absent`` where there is none; None for a fit one.

    Checked anew against the row's label, which several teachers may have made: the trace was checked against its own.
    """
    if trace is None:
        return "absent"
    found = trace_problems(trace, label=label, task=task, values=values)
    return next((problem for problem in found if problem in UNFIT_TO_LEARN), None)


def answer_tokens(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Positions, in the flattened batch, that predict an answer's token other than a label; and their sequences."""
    import torch

    mask = batch["attention_mask"]
    position = torch.arange(mask.shape[1], device=mask.device)[None]
    followed = torch.nn.functional.pad(mask[:, 1:], (0, 1)).bool()
    chosen = followed & (position >= batch["answer_at"][:, None]) & (position != batch["label_at"][:, None])
    return torch.nonzero(chosen.flatten())[:, 0], torch.nonzero(chosen)[:, 0]


def _cross_entropy(scores: Tensor, target: Tensor, *, hard: bool) -> Tensor:
    import torch

    if hard:
        target = torch.nn.functional.one_hot(target.argmax(dim=-1), target.shape[-1])
    return -(target.float() * scores.float().log_softmax(dim=-1)).sum(dim=-1)
