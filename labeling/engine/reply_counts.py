"""What replies took: tokens and money, of each row and of the teacher."""

from __future__ import annotations

from typing import Any

from distill.labeling.answers.pack_answers import share_of
from distill.labeling.engine.budget import Purse, Use
from distill.labeling.engine.jobs import Errand, Job
from distill.labeling.engine.progress import TeacherTally
from distill.labeling.teacher import Completion, Prompt, Reply, Teacher

# Where a server does not count tokens, over the tokenizers in use.
_CHARS_PER_TOKEN = 3.5


class ReplyCounts:
    """Counts what replies of one teacher took.

    Args:
        teacher: Who replies.
        tally: Its counts.
        purse: What learns what a request of it takes.
    """

    def __init__(self, teacher: Teacher, *, tally: TeacherTally, purse: Purse) -> None:
        self._teacher = teacher
        self._tally = tally
        self._purse = purse

    def pay(self, errand: Errand, reply: Reply) -> Use:
        """Counts what a request cost, and says what it used of quotas and budgets."""
        rows, tokens = len(errand.members), 0.0
        if self._purse.limited:
            tokens = self._tokens(errand.members[0].prompt, reply.completion or self._teacher.read(reply), rows=rows)
        self._purse.learn(tokens=tokens, usd=reply.cost_usd or 0.0, rows=rows)
        if reply.cost_usd is None:
            self._tally.unpriced += 1
        else:
            self._tally.cost_usd += reply.cost_usd
        return Use(1.0, tokens, reply.cost_usd or 0.0)

    def _tokens(self, prompt: Prompt, completion: Completion, *, rows: int) -> float:
        """Tokens that an answer to so many rows like this one took, by its length where the server counts none."""
        read, written = completion.input_tokens, completion.output_tokens
        asked_chars = len(prompt.system) + rows * len(prompt.user)
        return (asked_chars / _CHARS_PER_TOKEN if read is None else read) + (
            len(completion.text) / _CHARS_PER_TOKEN if written is None else written
        )

    def count(self, job: Job, reply: Reply, completion: Completion, *, bought: bool) -> None:
        """Counts what a reply took: of one about several rows, the row's share.

        Args:
            job: The row; its tokens, cost and latency are added to.
            reply: What came back.
            completion: The same, read: of one about several rows the whole.
            bought: Whether it was bought for this job in this run, which the teacher's counts then bear.
        """
        place, of = (0, 1) if job.part is None else job.part[:2]
        read, written = (share_of(total, place, of) for total in (completion.input_tokens, completion.output_tokens))
        job.latency_s = reply.latency_s
        job.cost_usd = _plus(job.cost_usd, None if reply.cost_usd is None else reply.cost_usd / of)
        job.input_tokens = _plus(job.input_tokens, read)
        job.output_tokens = _plus(job.output_tokens, written)
        if bought:
            job.bought = True
            self._tally.input_tokens += read or 0
            self._tally.output_tokens += written or 0
        else:
            self._tally.ledger_hits += 1
            if reply.cost_usd is not None and self._purse.limited and place == 0:
                self._purse.learn(tokens=self._tokens(job.prompt, completion, rows=of), usd=reply.cost_usd, rows=of)


def _plus(total: float | None, more: float | None) -> Any:
    return more if total is None else total if more is None else total + more
