"""A durable reply read for the row of a job: its vote, or the next question to ask about the row."""

from __future__ import annotations

from distill.labeling.answers.pack_answers import PackReader
from distill.labeling.engine.jobs import Job
from distill.labeling.engine.judge import Judge
from distill.labeling.engine.reply_counts import ReplyCounts
from distill.labeling.errors import TeacherError
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.prompts.packs import Packing
from distill.labeling.teacher import Completion, Reply, Teacher
from distill.labeling.vote import Vote, reason_of

_NO_ANSWER = {
    "filtered": "the provider withheld the answer to the rows asked about together",
    "refused": "the model declined to judge the rows asked about together",
    "length": "truncated at max_tokens, before this row's answer; raise it, or lower labeling.rows_per_request",
    "stop": "the answer to the rows asked about together has none for this row, or two that differ",
}


class ReplyReader:
    """Reads what one teacher replied, row by row.

    Args:
        teacher: Who replied.
        ledger: Where a reply to a row that was asked about alone is kept under the row as well.
        packing: How rows are asked about together; None where they are not.
        judge: Makes a vote of what stands in a reply.
        counts: What replies took.
    """

    def __init__(
        self, teacher: Teacher, *, ledger: Ledger, packing: Packing | None, judge: Judge, counts: ReplyCounts
    ) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self._packing = packing
        self._judge = judge
        self._counts = counts
        self._pieces = PackReader(teacher.read)

    def __call__(self, job: Job, reply: Reply, *, bought: bool) -> Vote | None:
        """Reads a reply for one of the jobs that it answers.

        Args:
            job: The job.
            reply: What came back; of one about several rows, with the job's part.
            bought: Whether it was bought for this job, in this run.

        Returns:
            The vote in which the row ends, ``failed`` where the reply cannot be read; None where the job now holds the
            next question about its row, which is to be served.
        """
        if self._packing is not None:
            self._place(job, reply, bought=bought)
        try:
            whole, answer = self._read(job, reply, bought=bought)
            self._counts.count(job, reply, whole, bought=bought)
            if answer is None:
                self._judge.again_alone(job, _NO_ANSWER[whole.finish])
                return None
            return self._judge(job, answer)
        except Exception as error:  # one row's surprise must not end the run
            cause = error.cause if isinstance(error, TeacherError) else "error"
            return self._judge.vote(job, "failed", reason_of(error, before="the reply cannot be read: "), cause)

    def _read(self, job: Job, reply: Reply, *, bought: bool) -> tuple[Completion, Completion | None]:
        """Reads a reply: as a whole, and what answers the row."""
        if job.part is not None:
            pieces = self._pieces(reply, job.part.of, bought=bought)
            return pieces.whole, pieces.answers[job.part.place]
        whole = (reply.completion if bought else None) or self._teacher.read(reply)
        return whole, whole

    def _place(self, job: Job, reply: Reply, *, bought: bool) -> None:
        """Notes where in its request a row was asked about, and that a reply to it alone is its own."""
        part = reply.part
        job.part = part if part is not None and part.of > 1 else None
        if part is not None and part.of == 1:
            job.alone = True
        elif part is None and not bought and job.pointers:
            request = job.request
            source = Source(request.endpoint, request.model, self._teacher.name)
            kept = self._ledger.put_soon(request.key, reply, source=source, pointers=job.pointers)
            kept.add_done_callback(lambda future: future.cancelled() or future.exception())
