"""What a step minimises where an encoder learns from traces: the label's loss, and what :class:`TracesConfig` adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.students.losses.distributions import soft_cross_entropy
from distill.students.network import CLAUSES, Example, Network, Output
from distill.students.traces.config import TracesConfig
from distill.students.traces.losses import agreement, clause_cross_entropy, contrast, unlikeness
from distill.students.traces.rows import clause_columns, clause_vocabulary
from distill.students.traces.texts import NO_TOKEN, embeddings, token_ids, with_traces
from distill.students.training.objective import Objective, StepLoss
from distill.students.training_set import TrainingSet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.encoder import EncoderNetwork

_TRACE = "trace"
"""The head that is compared with the trace's embedding; it is taken off in the end."""


class TraceObjective(Objective):
    """Adds to another objective what the traces teach.

    ``inner + clauses * clause_cross_entropy + weight * drawn``, where ``drawn`` is, by ``draw_to``:

    * ``trace``: a linear head on the pooled state beside the trace's embedding by the base as it was before training
      (mean over tokens, less the mean over all traces), made once before the first step: :func:`unlikeness`, or
      :func:`contrast` where it is drawn by that.
    * ``input_with_trace``: the same network reads the row with the trace behind it, in the same pass. That reading
      learns the row's target (:func:`soft_cross_entropy`), and the plain one is drawn to it without pulling it back: by
      its label (:func:`agreement`), or by its pooled state (:func:`contrast`).

    In validation only the inner objective is computed: what is kept is what is best at labels.

    Args:
        inner: What is minimised on the labels; it never knows.
        config: What is added.
    """

    looks_at_all_rows = True

    def __init__(self, inner: Objective, config: TracesConfig) -> None:
        self._inner = inner
        self._config = config
        self.rows_together = inner.rows_together
        self._vocabulary: tuple[str, ...] = ()
        self._network: EncoderNetwork | None = None
        self._embedded: dict[str, np.ndarray] = {}
        self._width = 0

    @property
    def epoch(self) -> int:
        """Of the training, handed on."""
        return self._inner.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._inner.epoch = epoch

    def start(self, network: Network, training: TrainingSet) -> None:
        """Puts the heads on, and embeds the traces while the base is as it came."""
        from distill.students.encoder import EncoderNetwork

        assert isinstance(network, EncoderNetwork)
        self._network = network
        widths = {}
        if self._config.clauses > 0:
            self._vocabulary = clause_vocabulary(training.train, fewest=self._config.fewest_citations)
            widths = {CLAUSES: len(self._vocabulary)} if self._vocabulary else {}
        if self._config.draw_to == "trace":
            states = embeddings(network, self._token_ids(training.train))
            self._embedded = dict(zip(training.train["row_id"].to_list(), states, strict=True))
            self._width = widths[_TRACE] = states.shape[1]
        network.put_on(widths)

    def finish(self, network: Network) -> None:
        """Takes the head off that was compared with traces; the one that names clauses stays."""
        self._inner.finish(network)
        if self._network is not None and self._embedded:
            self._network.take_off(_TRACE)

    def read(self, network: Network, table: pl.DataFrame) -> Sequence[Example]:
        """As the inner objective does."""
        return self._inner.read(network, table)

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """The inner objective's, and by what is learned ``cited``, ``cited_known``, ``trace_state``, ``trace_ids``."""
        found = self._inner.columns(table)
        if self._vocabulary:
            found |= clause_columns(table, self._vocabulary)
        if self._config.draw_to == "trace":
            states = np.zeros((table.height, self._width), dtype=np.float32)
            for place, row_id in enumerate(table["row_id"]):
                states[place] = self._embedded.get(row_id, 0.0)
            found["trace_state"] = states
        if self._config.draw_to == "input_with_trace":
            found["trace_ids"] = self._token_ids(table)
        return found

    def loss(
        self, network: Network, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """One pass of the network for all of it."""
        if not model.training:
            return self._inner.loss(network, model, batch, columns)
        read = self._told(batch, columns) if "trace_ids" in columns else batch
        output = network.forward(model, read)
        rows = _part(output, 0, len(columns["weight"]))
        found = self._inner.loss(_Heard(network, batch, rows), model, batch, columns)
        loss = found.loss
        if CLAUSES in rows.extra:
            weight = columns["weight"] * columns["cited_known"]
            loss = loss + self._config.clauses * clause_cross_entropy(
                rows.extra[CLAUSES], columns["cited"], weight=weight
            )
        if "trace_state" in columns:
            loss = loss + self._config.weight * self._drawn_to_trace(rows, columns)
        if "trace_ids" in columns:
            told = _part(output, len(columns["weight"]), None)
            loss = loss + self._config.weight * self._drawn_to_told(rows, told, columns)
        return StepLoss(loss, found.logits)

    def state_dict(self) -> dict[str, Any]:
        """The inner objective's."""
        return self._inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inner objective's."""
        self._inner.load_state_dict(state)

    def _token_ids(self, table: pl.DataFrame) -> np.ndarray:
        assert self._network is not None
        return token_ids(self._network, table["trace"].to_list(), most=self._config.trace_tokens)

    def _told(self, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self._network is not None
        tokenizer = self._network.tokenizer
        return with_traces(batch, columns["trace_ids"], pad=tokenizer.pad_token_id or 0, longest=self._network.longest)

    def _drawn_to_trace(self, rows: Output, columns: Mapping[str, Tensor]) -> Tensor:
        state = columns["trace_state"]
        weight = columns["weight"] * (state != 0).any(dim=-1)
        if self._config.draw_by == "agreement":
            return unlikeness(rows.extra[_TRACE], state, weight=weight)
        return contrast(rows.extra[_TRACE], state, weight=weight, temperature=self._config.temperature)

    def _drawn_to_told(self, rows: Output, told: Output, columns: Mapping[str, Tensor]) -> Tensor:
        assert rows.pooled is not None and told.pooled is not None
        weight = columns["weight"] * (columns["trace_ids"] != NO_TOKEN).any(dim=-1)
        learned = soft_cross_entropy(told.logits, columns["target"], weight=weight)
        if self._config.draw_by == "agreement":
            return learned + agreement(rows.logits, told.logits, weight=weight)
        state = told.pooled.detach()
        return learned + contrast(rows.pooled, state, weight=weight, temperature=self._config.temperature)


class _Heard:
    """A network that has read the batch already, for an objective that is about to ask it to."""

    def __init__(self, network: Network, batch: Mapping[str, Tensor], output: Output) -> None:
        self._network = network
        self._batch = batch
        self._output = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Output:
        """What it said; of another batch it is asked anew."""
        return self._output if batch is self._batch else self._network.forward(model, batch)


def _part(output: Output, start: int, end: int | None) -> Output:
    assert output.pooled is not None
    extra = {name: scores[start:end] for name, scores in output.extra.items()}
    return Output(output.logits[start:end], output.pooled[start:end], extra)
