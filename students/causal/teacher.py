"""A causal student that also learns what a large language model expects at each token of its answers.

To the loss of :mod:`distill.students.causal.objective` a row's sequences add

``weight * mean over the answer's tokens of T² * cross-entropy(teacher's shares, softmax(z / T))``

* The answer's tokens are all that are no prompt, the label's code and the end token among them.
* ``T`` is the temperature that the file was drawn at. Shares are unbiased estimates: see
  :mod:`distill.students.logprobs.token_draws`.
* Normalised by the rows of the batch, each weighed; the mean is by sequence. A sequence that the file lacks adds
  nothing, and is counted.
* The words' and the teacher's losses are computed together, by
  :func:`distill.students.logprobs.loss.sparse_cross_entropy`: the logits of all the answers' tokens are never there at
  once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.causal.objective import CausalObjective
from distill.students.logprobs.file import LogprobsHeader
from distill.students.logprobs.store import LogprobsWriter, SparseLogprobs, TokenDistributions
from distill.students.logprobs.teacher import TeacherSequence, sequence_key, store_logprobs
from distill.students.logprobs.tokenizer_fingerprint import TokenizerFingerprint
from distill.students.network import Example
from distill.students.training.objective import Objective, StepLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.causal.config import TeacherLogprobsSection
    from distill.students.causal.network import CausalNetwork
    from distill.students.config import CausalConfig
    from distill.students.job import Job
    from distill.students.logprobs.loss import TokenTargets


class TaughtObjective(CausalObjective):
    """Labels, traces where the student uses them, and a teacher's expectations.

    Args:
        config: The student's section.
        section: Its part that names the file.
        label: As for :class:`CausalObjective`.
        task: As for :class:`CausalObjective`.

    Raises:
        StudentError: The file cannot be read.
    """

    def __init__(self, config: CausalConfig, section: TeacherLogprobsSection, label: Objective, *, task: Task) -> None:
        super().__init__(config, label, task=task)
        self._section = section
        self._store = SparseLogprobs(section.path)
        self._row_ids: list[str] = []

    def read(self, network: Any, table: pl.DataFrame) -> Sequence[Example]:
        """As without a teacher; counts the sequences that the file has and those that it lacks.

        Raises:
            StudentError: The tokenizer is another one, or the file has none of the sequences.
        """
        fingerprint = TokenizerFingerprint.of(network.tokenizer)
        self._store.refuse_other_tokenizer(fingerprint, whose=f"base {self._config.base!r}")
        examples = super().read(network, table)
        wanted = teacher_sequences(table["row_id"].to_list(), examples)
        found = sum(item.key in self._store for item in wanted)
        for name, count in (("teacher_logprobs", found), ("teacher_logprobs_missing", len(wanted) - found)):
            self.facts[name] = self.facts.get(name, 0) + count
        if wanted and not found and not self._row_ids:
            raise StudentError(
                f"{self._section.path}: has none of the {len(wanted):,} sequences to learn: rows, prompt, labels or "
                "traces have changed since; name the teacher as teacher_logprobs.model to have them made"
            )
        return examples

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """Those of the label's objective, and ``teacher_row`` ``[N]``, by which the row's id is known in the step."""
        first = len(self._row_ids)
        self._row_ids += table["row_id"].to_list()
        return {**super().columns(table), "teacher_row": np.arange(first, len(self._row_ids))}

    def loss(
        self, network: Any, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See the module; where nothing is trained, the label's loss alone."""
        if not model.training:
            return super().loss(network, model, batch, columns)
        import torch

        self._label.epoch = self.epoch
        labelled = torch.nonzero(batch["label_at"] >= 0)[:, 0]
        label_at = labelled * batch["input_ids"].shape[1] + batch["label_at"][labelled]
        answer_at, targets = self._targets(batch, columns)
        scored = model(
            batch["input_ids"],
            batch["attention_mask"],
            torch.cat([label_at, answer_at]),
            targets=targets,
            temperature=self._store.header.temperature,
        )
        step = self._label_loss(network, model, batch, columns, scored=scored, labelled=labelled)
        return StepLoss(step.loss + scored.loss, step.logits)

    def _targets(self, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> tuple[Tensor, TokenTargets]:
        """Positions in the flattened batch that predict the answers' tokens, and what is learned there."""
        import torch

        from distill.students.logprobs.loss import IGNORED, TokenTargets

        ids, lengths = batch["input_ids"], batch["attention_mask"].sum(dim=1)
        position = torch.arange(ids.shape[1], device=ids.device)[None]
        answers = (position >= batch["answer_at"][:, None]) & (position < lengths[:, None] - 1)
        at, sequence = torch.nonzero(answers.flatten())[:, 0], torch.nonzero(answers)[:, 0]
        is_label = (answers & (position == batch["label_at"][:, None])).flatten()[at]
        found = self._read_batch(batch, columns, lengths)
        counts = [np.diff(item.offsets) if item else np.zeros(size, np.int64) for item, size in found]
        kept = [item for item, _ in found if item]
        share = columns["weight"].float()[batch["row"]][sequence] / len(batch["direct"])
        size = len(batch["row"])
        words = torch.bincount(sequence[~is_label], minlength=size).clamp(min=1)[sequence]
        tokens = torch.bincount(sequence, minlength=size)[sequence]
        targets = TokenTargets(
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(np.concatenate(counts))])),
            ids=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(item.ids for item in kept)])),
            shares=torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *(item.shares for item in kept)])),
            soft_weight=self._section.weight * share / tokens,
            labels=torch.where(is_label, IGNORED, ids.flatten()[at + 1]),
            hard_weight=self._config.trace_weight * share / words,
        )
        return at, targets

    def _read_batch(
        self, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor], lengths: Tensor
    ) -> list[tuple[TokenDistributions | None, int]]:
        """Of each sequence what the file has, None where it has nothing; and the number of its answer's tokens."""
        rows = columns["teacher_row"][batch["row"]].tolist()
        ids, sizes, answers = batch["input_ids"].cpu().numpy(), lengths.tolist(), batch["answer_at"].tolist()
        found: list[tuple[TokenDistributions | None, int]] = []
        for row, tokens, size, answer in zip(rows, ids, sizes, answers, strict=True):
            key = sequence_key(self._row_ids[row], tokens[:size])
            item = self._store.read(key) if key in self._store else None
            whole = item is not None and (item.start, len(item.offsets)) == (answer + 1, size - answer)
            found.append((item if whole else None, size - answer - 1))
        return found


def teacher_sequences(row_ids: Sequence[str], examples: Sequence[Example]) -> list[TeacherSequence]:
    """The sequences of training examples, as a teacher reads them: the answer is learned, the prompt is not."""
    found = []
    for row_id, example in zip(row_ids, examples, strict=True):
        given = [(example["input_ids"], example["label_at"][0])]
        if example.get("reasoned_ids"):
            given.append((example["reasoned_ids"], example["reasoned_answer_at"][0]))
        for tokens, answer_at in given:
            found.append(TeacherSequence(sequence_key(row_id, tokens), tokens, answer_at + 1))
    return found


def make_missing(job: Job, section: TeacherLogprobsSection) -> int:
    """Lets the section's teacher read what the file lacks of a job's training rows.

    Returns:
        Sequences that were made; 0 where the section names no teacher.

    Raises:
        StudentError: The teacher cannot be loaded, numbers tokens in another way, or the file was made otherwise.
    """
    if section.model is None:
        return 0
    import torch

    from distill.students.causal.network import CausalNetwork, LanguageModel
    from distill.students.causal.pretrained import load_base
    from distill.students.surroundings import quiet, seeded, threads_set

    with quiet(), threads_set(job.config.threads), seeded(job.seed):
        table, config = job.rows().train, job.config
        network = CausalNetwork.from_base(config, labels=job.labels, inputs=job.inputs, rows=table.lazy())  # type: ignore[arg-type]
        sequences = _sequences_of(network, table, config, task=job.task)  # type: ignore[arg-type]
        header = _header(section, network)
        with LogprobsWriter(section.path, header) as writer:
            if all(item.key in writer for item in sequences):
                return 0
            loaded = load_base(section.model)
            _refuse_other_numbers(section.model, TokenizerFingerprint.of(loaded.tokenizer), header.tokenizer)
            on_gpu = torch.cuda.is_available()
            model = loaded.model.to("cuda", torch.bfloat16) if on_gpu else loaded.model  # type: ignore[arg-type]
            return store_logprobs(LanguageModel(model), sequences, writer)


def _sequences_of(
    network: CausalNetwork, table: pl.DataFrame, config: CausalConfig, *, task: Task
) -> list[TeacherSequence]:
    from distill.students.training.objective import LabelObjective

    examples = CausalObjective(config, LabelObjective(config, task=task), task=task).read(network, table)
    return teacher_sequences(table["row_id"].to_list(), examples)


def _header(section: TeacherLogprobsSection, network: CausalNetwork) -> LogprobsHeader:
    fingerprint = TokenizerFingerprint.of(network.tokenizer)
    # The draws' seed is no part of the training's: students of several seeds learn from one file.
    return LogprobsHeader(
        teacher=str(section.model),
        tokenizer=fingerprint,
        vocabulary=fingerprint.size,
        draws=section.draws,
        temperature=section.temperature,
    )


def _refuse_other_numbers(model: str, teacher: TokenizerFingerprint, student: TokenizerFingerprint) -> None:
    """The teacher reads token numbers, so its chat template and the roles of its special tokens do not matter."""
    differing = teacher.differences(student, parts=("vocabulary", "merges"))
    if differing:
        raise StudentError(
            f"causal: teacher_logprobs.model {model!r}: its tokenizer is not the base's: {' and '.join(differing)} "
            "differ; name a teacher of the base's own family, or learn from its traces instead"
        )
