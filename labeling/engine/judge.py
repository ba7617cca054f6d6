"""What a completion means for its row: a vote, or the next question."""

from __future__ import annotations

from distill.labeling.answers.distributions import answer_of_probs, answer_of_samples
from distill.labeling.answers.parsing import Answer, AnswerError, parse_answer, parse_rationale
from distill.labeling.answers.parsing_kinds import answer_of_shares, parse_kind
from distill.labeling.answers.traces import keep_trace
from distill.labeling.engine.jobs import Job
from distill.labeling.engine.progress import TeacherTally
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Completion, Prompt, Teacher
from distill.labeling.vote import MAX_REASON_CHARS, Outcome, PartVote, Vote, parts_of

_CANNOT_TELL = "the teacher said that it cannot tell"

_ANSWERS_REMEMBERED = 4096
_LONGEST_REMEMBERED_CHARS = 200


class Judge:
    """Turns completions of one teacher into votes, or their rows' jobs into the next question.

    Args:
        teacher: Who answered.
        task: What was asked.
        prompter: Writes the question again where an answer does not fit.
        reasks: How often that is done.
        tally: Counts of the lane, in which re-asks are noted.
    """

    def __init__(self, teacher: Teacher, *, task: Task, prompter: Prompter, reasks: int, tally: TeacherTally) -> None:
        self._teacher = teacher
        self._task = task
        self._prompter = prompter
        self._reasks = reasks
        self._tally = tally
        self._guideline_version = task.guideline.version if task.guideline else None
        self._answers: dict[str, Answer] = {}

    def __call__(self, job: Job, completion: Completion) -> Vote | None:
        """Makes a vote of a completion; None where the job is to be asked again."""
        if completion.finish == "filtered":
            return self.vote(job, "filtered", _quoted("the provider withheld the answer", completion.text), "filtered")
        if completion.finish == "refused":
            return self.vote(job, "refused", _quoted("the model declined", completion.text), "refused")
        try:
            answer = self._answer(job, completion)
        except AnswerError as error:
            return self._misfit(job, completion, str(error)[:MAX_REASON_CHARS], error.cause)
        if wrong := _problems(answer):
            # Asked again as a whole; where that does not help, the parts that fit still count.
            misfit = self._misfit(job, completion, "; ".join(wrong)[:MAX_REASON_CHARS])
            if misfit is None:
                return None
            if len(wrong) == len(answer.parts or ()):
                misfit.parts = _part_votes(answer)
                return misfit
        clipped = completion.probs_clipped
        if job.walk is not None:
            if job.walk.take(answer, clipped=clipped) and self._ask_further(job, job.walk.prompt):
                return None
            answer, clipped = job.walk.answer, job.walk.clipped
        if self._teacher.answer.explains:
            vote = self.vote(job, "explained", f"shown the label {job.prompt.known_label}")
        elif answer.abstains:
            vote = self.vote(job, "abstained", _CANNOT_TELL, "abstained")
        else:
            vote = self.vote(job, "labeled")
            vote.label, vote.probs, vote.probs_source = answer.label, answer.probs, answer.probs_source
            vote.labels, vote.text, vote.texts = answer.labels, answer.text, answer.texts
            vote.spans, vote.confidence = answer.spans, answer.confidence
            vote.probs_clipped = clipped
            vote.parts = _part_votes(answer)
        vote.clauses = answer.clauses
        if answer.trace or completion.reasoning:
            keep_trace(vote, answer, completion, task=self._task, asked=self._teacher.answer, prompt=job.prompt)
        return vote

    def _answer(self, job: Job, completion: Completion) -> Answer:
        """The answer in a completion: the distribution that came with it, else what its text says."""
        if self._teacher.answer.explains:
            return parse_rationale(completion.text, task=self._task)
        task = job.walk.task if job.walk else self._task
        if not task.closed:
            if completion.probs is not None:
                return answer_of_shares(completion.probs, task=task)
            return parse_kind(completion.text, task=task, source=job.prompt.source)
        if completion.probs is not None:
            return answer_of_probs(completion, task=task)
        if completion.others:
            return answer_of_samples(completion, task=task, answer=self._teacher.answer)
        if job.walk is not None:
            return parse_answer(completion.text, task=task, answer=self._teacher.answer)
        return self._answers.get(completion.text) or self._parse(completion.text)

    def _parse(self, text: str) -> Answer:
        """Reads an answer, and remembers it where it is short: most teachers write the same few again and again."""
        answer = parse_answer(text, task=self._task, answer=self._teacher.answer)
        if len(text) <= _LONGEST_REMEMBERED_CHARS and len(self._answers) < _ANSWERS_REMEMBERED:
            self._answers[text] = answer
        return answer

    def again_alone(self, job: Job, problem: str) -> None:
        """Has a row asked about alone that got no answer among others: none is guessed, and it is not to blame."""
        job.alone, job.row_key, job.part = True, None, None
        job.failures, job.so_far = 0, ("invalid", problem, "misfit")
        self._tally.reasks += 1
        self._tally.asked_alone += 1

    def _ask_further(self, job: Job, prompt: Prompt) -> bool:
        """Turns a job into the next question about its row; False where the teacher has no answer to it."""
        request = self._teacher.compile(prompt, sample=job.request.sample)
        if request is None:
            return False
        job.prompt, job.request = prompt, request
        job.reasks, job.failures, job.so_far = 0, 0, None
        return True

    def _misfit(self, job: Job, completion: Completion, problem: str, cause: str = "misfit") -> Vote | None:
        """What becomes of a row whose answer does not fit: asked again, alone or with the reason, or invalid."""
        if job.part is not None:
            self.again_alone(job, problem)
            return None
        if completion.finish == "length":
            tokens = f" ({completion.output_tokens} tokens)" if completion.output_tokens is not None else ""
            return self.vote(job, "invalid", f"truncated at max_tokens{tokens}, raise it: {problem}", "truncated")
        if job.reasks >= self._reasks:
            return self.vote(job, "invalid", problem, cause)
        prompt = self._prompter.again(job.prompt, text=completion.text, problem=problem)
        request = self._teacher.compile(prompt, sample=job.request.sample)
        if request is None or request.key == job.request.key:  # a recorded teacher can say nothing else
            return self.vote(job, "invalid", problem, cause)
        job.prompt, job.request = prompt, request
        job.reasks, job.failures, job.so_far = job.reasks + 1, 0, ("invalid", problem, cause)
        self._tally.reasks += 1
        return None

    def vote(self, job: Job, outcome: Outcome, reason: str | None = None, cause: str | None = None) -> Vote:
        """A vote without a label, with what its replies took.

        Args:
            job: The row × sample that ends.
            outcome: How.
            reason: Why, in words; None where it is labeled.
            cause: The same by name, one of :data:`~distill.labeling.errors.CAUSES`.
        """
        answered = job.latency_s is not None
        return Vote(
            row_id=job.prompt.row_id,
            teacher=self._teacher.name,
            family=self._teacher.family,
            outcome=outcome,
            sample=job.request.sample,
            reason=reason,
            input_tokens=job.input_tokens,
            output_tokens=job.output_tokens,
            cost_usd=job.cost_usd,
            latency_s=job.latency_s,
            from_ledger=answered and not job.bought,
            key=(job.request.key if job.part is None else job.part.pack).hex(),
            asked_with=1 if job.part is None else job.part.of,
            position=0 if job.part is None else job.part.place,
            guideline_version=self._guideline_version,
            cause=cause,
            parts=parts_of(self._task),
        )


def _problems(answer: Answer) -> list[str]:
    """What is wrong with the parts of an answer."""
    return [str(part) for part in (answer.parts or {}).values() if isinstance(part, AnswerError)]


def _part_votes(answer: Answer) -> tuple[PartVote, ...]:
    return tuple(_part_vote(name, part) for name, part in (answer.parts or {}).items())


def _part_vote(name: str, part: Answer | AnswerError) -> PartVote:
    if isinstance(part, AnswerError):
        return PartVote(name, "invalid", str(part)[:MAX_REASON_CHARS], part.cause)
    if part.abstains:
        return PartVote(name, "abstained", _CANNOT_TELL, "abstained")
    return PartVote(
        name,
        "labeled",
        label=part.label,
        labels=part.labels,
        text=part.text,
        texts=part.texts,
        spans=part.spans,
        confidence=part.confidence,
    )


def _quoted(reason: str, text: str) -> str:
    return f"{reason}: {text.strip()[:200]}" if text.strip() else reason
