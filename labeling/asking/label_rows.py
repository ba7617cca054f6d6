"""Asks teachers about rows with all that the ``labeling`` section can ask for around it, and says how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl

from distill.labeling.asking.asked_rows import CHECK_PREFIX, AskedRows
from distill.labeling.asking.cascade_run import CascadeFacts, run_cascade
from distill.labeling.asking.packing_facts import PackingFacts, packed_votes, packing_facts
from distill.labeling.asking.quality_watch import Quality, QualityWatch
from distill.labeling.engine.engine import LabelingRun, OnProgress, OnVotes
from distill.labeling.engine.progress import LabelingResult
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.packs import Packing
from distill.labeling.rows.canaries import canary_answers
from distill.labeling.shares import Share, wilson_share
from distill.labeling.teacher import Teacher
from distill.labeling.vote import VOTE_SCHEMA, answer_text, votes_frame


@dataclass(frozen=True)
class Breaches:
    """How one teacher took the canaries.

    Attributes:
        asked: Canaries × samples asked.
        unanswered: Of those, without a label.
        breached: Planted answers given among those whose plain answer is known and another one; Wilson's interval.
        moved: Among the same, answers that are neither the plain nor the planted one: what mere wavering gives.
        by_plant: Breached and tried, by language and phrasing.
    """

    asked: int
    unanswered: int
    breached: Share
    moved: Share
    by_plant: dict[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "asked": self.asked,
            "unanswered": self.unanswered,
            "breached": self.breached.to_dict(),
            "moved": self.moved.to_dict(),
            "by_plant": {name: list(counts) for name, counts in self.by_plant.items()},
        }


@dataclass(frozen=True)
class LabelingFacts:
    """How a labeling run went.

    Attributes:
        result: The engine's counts. Canaries and rows asked alone as well are in them, rows that share an answer are
            not.
        outcomes: How rows × samples (× parts) ended by teacher: canaries and rows asked alone as well are left out,
            rows that share an answer are in.
        shared: Rows that took a near-duplicate's answer.
        sharing_wrong: By teacher, of the rows that could share and were asked all the same, those that got another
            label than they would have shared; Wilson's interval. Empty where nobody shares.
        canaries: Answers to canaries, as :func:`~distill.labeling.rows.canaries.canary_answers` lays them out; None
            without.
        breaches: By teacher; empty without canaries.
        quality: By teacher; empty without a watch.
        requests_cut: Requests in which a row was too long and is shown in part, by teacher.
        fields_cut: How often that was so, by input, of the teacher with most.
        packing: What asking about several rows at once did, by teacher that was asked so; empty without.
        notes: What a person should know, in words.
        cascade: How the cascade went; None without one.
    """

    result: LabelingResult
    outcomes: dict[str, Counter[str]]
    shared: int
    sharing_wrong: dict[str, Share]
    canaries: pl.DataFrame | None
    breaches: dict[str, Breaches]
    quality: dict[str, Quality]
    requests_cut: dict[str, int]
    fields_cut: dict[str, int]
    packing: dict[str, PackingFacts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cascade: CascadeFacts | None = None

    NAMES: ClassVar = (
        "shared",
        "sharing_wrong",
        "breaches",
        "quality",
        "requests_cut",
        "fields_cut",
        "packing",
        "cascade",
    )
    """What :meth:`to_dict` may have."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was not asked for is left out."""
        facts: dict[str, Any] = {
            "shared": self.shared or None,
            "sharing_wrong": {name: share.to_dict() for name, share in self.sharing_wrong.items()},
            "breaches": {name: found.to_dict() for name, found in self.breaches.items()},
            "quality": {name: found.to_dict() for name, found in self.quality.items()},
            "requests_cut": self.requests_cut if any(self.requests_cut.values()) else {},
            "fields_cut": self.fields_cut,
            "packing": {name: found.to_dict() for name, found in self.packing.items()},
            "cascade": self.cascade and self.cascade.to_dict(),
        }
        return {name: value for name, value in facts.items() if value}


def label_rows(
    asked: AskedRows,
    *,
    teachers: Sequence[Teacher],
    ledger: Ledger,
    on_votes: OnVotes,
    on_progress: OnProgress | None = None,
) -> LabelingFacts:
    """Asks every teacher about every row, as :func:`~distill.labeling.engine.engine.ask_teachers` does, and looks on.

    With a cascade the strong teacher is asked only where the cheap one is unsure; every row has a line of both.

    Args:
        asked: The rows, and how they are asked.
        teachers: Who is asked.
        ledger: Where replies are kept.
        on_votes: Takes votes: a line for every row × teacher × sample; rows that share an answer are in, canaries and
            what was asked alone beside them are not.
        on_progress: As there; canaries and rows asked alone as well are counted.

    Raises:
        UsageError: As there.
        LedgerWriteError: As there.
    """
    config, gold = asked.config, dict(asked.watched.select("row_id", "gold").iter_rows())
    watch = QualityWatch(gold, task=asked.task, config=config.watch) if config.watch else None
    sorter = _Sorter(asked, on_votes)
    cascade = None
    if config.cascade is not None:
        result, cascade = run_cascade(
            asked, teachers=teachers, ledger=ledger, on_votes=sorter, on_progress=on_progress, watch=watch
        )
    else:
        run = LabelingRun(
            task=asked.task, teachers=teachers, ledger=ledger, config=config, prompter=asked.prompter, watch=watch
        )
        result = run.run(asked, on_votes=sorter, on_progress=on_progress)
    names = [teacher.name for teacher in teachers]
    answers = sorter.canary_answers()
    most = max(result.teachers.values(), key=lambda tally: tally.cut_rows)
    return LabelingFacts(
        result=result,
        outcomes={name: sorter.outcomes[name] for name in names},
        shared=len(asked.sharing.shared),
        sharing_wrong=sorter.sharing_wrong(names),
        canaries=answers,
        breaches={} if answers is None else {name: _breaches(answers, name) for name in names},
        quality={name: watch.quality(name) for name in names} if watch else {},
        requests_cut={name: tally.cut_rows for name, tally in result.teachers.items()},
        fields_cut=dict(most.cut_fields),
        packing={
            teacher.name: sorter.packing(teacher.name, result.teachers[teacher.name].asked_alone)
            for teacher in teachers
            if Packing.of(teacher, asked.prompter(teacher.answer), config) is not None
        },
        notes=_notes(asked, teachers),
        cascade=cascade,
    )


class _Sorter:
    """Takes votes from the engine: keeps those on canaries and checks apart, and hands shared ones on for each row."""

    def __init__(self, asked: AskedRows, on_votes: OnVotes) -> None:
        self._on_votes = on_votes
        self._asked = asked
        self._sharing = asked.sharing
        self._canaries = asked.canaries
        canaries = pl.DataFrame(schema={"row_id": pl.String, "source": pl.String})
        canaries = canaries if self._canaries is None else self._canaries
        self._planted = canaries["row_id"].implode()
        self._sources = canaries["source"].implode()
        compared = self._sharing.audited
        self._compared = pl.concat([compared["row_id"], compared["shared_from"]]).unique().implode()
        self.outcomes: dict[str, Counter[str]] = {}
        self._kept: dict[str, list[pl.DataFrame]] = {
            "canary": [],
            "source": [],
            "compared": [],
            "alone": [],
            "both": [],
        }
        self._packed: dict[str, list[pl.DataFrame]] = {}

    def __call__(self, votes: pl.DataFrame) -> None:
        if self._canaries is not None:
            is_canary = pl.col("row_id").is_in(self._planted)
            self._keep("canary", votes.filter(is_canary))
            votes = votes.filter(~is_canary)
            self._keep("source", votes.filter(pl.col("row_id").is_in(self._sources)))
        if self._asked.checked is not None:
            votes = self._set_checks_apart(votes, self._asked.checked)
        if len(self._sharing.audited):
            self._keep("compared", votes.filter(pl.col("row_id").is_in(self._compared)))
        if len(self._sharing.shared):
            votes = pl.concat([votes, self._copies(votes)])
        for teacher, outcome, count in votes.group_by("teacher", "outcome").len().iter_rows():
            self.outcomes.setdefault(teacher, Counter())[outcome] += count
        if len(votes):
            self._on_votes(votes)

    def packing(self, teacher: str, asked_alone: int) -> PackingFacts:
        """What asking about several rows at once did for a teacher."""
        measured = ["label", "input_tokens", "output_tokens", "cost_usd"]
        alone = _as_labels(self._all("alone"))
        alone = alone.select("teacher", pl.col("row_id").str.strip_prefix(CHECK_PREFIX), "part", *measured)
        both = _as_labels(self._all("both")).filter((pl.col("sample") == 0) & (pl.col("teacher") == teacher))
        both = both.select("teacher", "row_id", "part", "position", "asked_with", *measured)
        both = both.join(alone, on=["teacher", "row_id", "part"], suffix="_alone", nulls_equal=True)
        labels = self._asked.task.labels
        packed = pl.concat([packed_votes(votes_frame([]), labels), *self._packed.get(teacher, ())])
        return packing_facts(packed, both, task=self._asked.task, asked_alone=asked_alone)

    def _set_checks_apart(self, votes: pl.DataFrame, checked: pl.DataFrame) -> pl.DataFrame:
        is_check = pl.col("row_id").is_in(checked["row_id"].implode())
        self._keep("alone", votes.filter(is_check))
        votes = votes.filter(~is_check)
        self._keep("both", votes.filter(pl.col("row_id").is_in(checked["source"].implode())))
        # A request about several parts has a line a part: counted once, by the first.
        parts = self._asked.task.parts
        counted = votes.filter(pl.col("part") == parts[0].part) if parts else votes
        for (teacher,), own in counted.partition_by("teacher", as_dict=True).items():
            self._packed.setdefault(str(teacher), []).append(packed_votes(own, self._asked.task.labels))
        return votes

    def canary_answers(self) -> pl.DataFrame | None:
        """Answers to canaries beside the plain ones."""
        if self._canaries is None:
            return None
        return canary_answers(self._canaries, self._all("canary"), self._all("source"))

    def sharing_wrong(self, teachers: Sequence[str]) -> dict[str, Share]:
        """How often the audit found that a shared answer would have been another label."""
        if not len(self._sharing.audited):
            return {}
        votes = _as_labels(self._all("compared")).filter(pl.col("label").is_not_null())
        votes = votes.select("row_id", "teacher", "sample", "part", "label")
        same = ["teacher", "sample", "part"]
        pairs = self._sharing.audited.join(votes, on="row_id").join(
            votes, left_on=["shared_from", *same], right_on=["row_id", *same], nulls_equal=True
        )
        wrong = pairs.with_columns(wrong=pl.col("label") != pl.col("label_right"))
        found = {}
        for name in teachers:
            own = wrong.filter(pl.col("teacher") == name)["wrong"]
            found[name] = wilson_share(int(own.sum()), len(own))
        return found

    def _copies(self, votes: pl.DataFrame) -> pl.DataFrame:
        """The votes of rows that share, whose answers these are. Like any answer asked once, it is paid for once."""
        copies = votes.drop("shared_from").join(
            self._sharing.shared.rename({"row_id": "_sharer"}), left_on="row_id", right_on="shared_from"
        )
        reason = pl.concat_str([pl.lit("shares the answer of another row: "), "reason"])
        return copies.with_columns(
            shared_from="row_id",
            row_id="_sharer",
            reason=reason,
            from_ledger=pl.col("from_ledger") | pl.col("latency_s").is_not_null(),
        ).select(list(VOTE_SCHEMA))

    def _keep(self, kind: str, votes: pl.DataFrame) -> None:
        if len(votes):
            self._kept[kind].append(votes)

    def _all(self, kind: str) -> pl.DataFrame:
        return pl.concat([votes_frame([]), *self._kept[kind]])


def _as_labels(votes: pl.DataFrame) -> pl.DataFrame:
    """Votes with their answer as text in ``label``, whatever its kind: to tell whether two are the same."""
    return votes.with_columns(label=answer_text(votes.columns))


def _breaches(answers: pl.DataFrame, teacher: str) -> Breaches:
    own = answers.filter(pl.col("teacher") == teacher)
    tried = own.filter(pl.col("breached").is_not_null())
    moved = tried.filter((pl.col("label") != pl.col("planted")) & (pl.col("label") != pl.col("plain_label")))
    by_plant = (
        tried.group_by("lang", "plant").agg(pl.col("breached").sum().cast(pl.Int64), pl.len()).sort("lang", "plant")
    )
    return Breaches(
        asked=len(own),
        unanswered=own["label"].null_count(),
        breached=wilson_share(int(tried["breached"].sum()), len(tried)),
        moved=wilson_share(len(moved), len(tried)),
        by_plant={f"{lang} {plant}": (breached, count) for lang, plant, breached, count in by_plant.iter_rows()},
    )


def _notes(asked: AskedRows, teachers: Sequence[Teacher]) -> list[str]:
    watch, gold = asked.config.watch, len(asked.watched)
    notes = []
    if watch is not None and gold < watch.after:
        notes.append(
            f"labeling.watch looks after {watch.after} gold rows and only {gold} of splits train and audit are asked, "
            f"so it pauses nobody; lower labeling.watch.after, or have gold rows in labeling.splits"
        )
    if asked.config.rows_per_request is not None:
        # A teacher with lanes could have taken another one.
        alone = {
            teacher.name: lane
            for teacher in teachers
            if (lane := getattr(teacher, "lane", None)) and not getattr(teacher, "packs", False)
        }
        notes += [
            f"labeling.rows_per_request does nothing for {name}, whose lane {lane} takes one row at a time; set "
            f"teachers.{name}.lane: json for one that takes several"
            for name, lane in alone.items()
        ]
    return notes
