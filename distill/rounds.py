"""Rounds of distillation: choose rows, ask teachers, merge, train, measure, until nothing more is gained.

A round is the stages of a run, on a folder of its own with the votes so far. So the same command after Ctrl-C, kill -9
or a spent budget goes on in the round that it was in, and ends in what an uninterrupted run would have given.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from distill import stages
from distill.eval.queries.evaluation import part_title
from distill.eval.queries.rounds import PartsWatch
from distill.eval.queries.rounds_words import no_part_gained_said
from distill.eval.rounds import GainWatch, RoundFacts, RoundsFacts, no_gain_said, rounds_ladder
from distill.eval.row_choice import ChoiceRule
from distill.eval.wording import plural
from distill.labeling.errors import TeacherError
from distill.model_cards import card_paths
from distill.monitor_stage import watch
from distill.progress import TitledProgress
from distill.recipe import Recipe
from distill.recipe_rounds import CHOOSABLE, deciding_student
from distill.rounds_asking import ASKED, CONTROL, RECHECKED, Purse, ask, join_labeling, join_votes, write_asked_rows
from distill.rounds_budget import RoundsBudget
from distill.rounds_config import RoundsConfig
from distill.rounds_ladder import (
    WHOLE,
    Measuring,
    asked_again,
    asked_rows,
    measure_round,
    read_ladder,
)
from distill.rounds_rows import (
    Choosing,
    choose_first,
    choose_more,
    choose_suspects,
    chosen_path,
    left_to_ask,
    suspects_path,
    watched_students,
)
from distill.run_folder import RunFolder, file_digest, link_file, path_digest, write_json
from distill.session import Ended, Session
from distill.train_stage import train

LastStage = Literal["label", "aggregate", "train", "eval", "monitor", "report"]


def run_rounds(session: Session, *, until: LastStage) -> None:
    """Runs a recipe with ``rounds`` once its rows are read.

    The run folder then holds the votes, labels, students and predictions of the last round, by hard links, and
    ``rounds.json`` and ``ladder.json`` of all.

    Args:
        session: Of the run.
        until: The last stage; before ``eval`` there is one round, since what a next one asks hangs on it.

    Raises:
        DistillError: As the stages raise it.
    """
    loop = _Loop(session)
    if until in ("label", "aggregate", "train"):
        session.progress.warn(f"rounds: a run until {until} ends within the first round")
        loop.first(until)
        loop.bring_up(until)
        return
    loop.run()
    loop.bring_up(until)
    if until in ("monitor", "report"):
        watch(session)
    if until == "report":
        stages.write_reports(session)


@dataclass
class _Loop:
    top: Session
    facts: list[RoundFacts] = field(default_factory=list)
    stop: str = ""

    def __post_init__(self) -> None:
        assert self.top.recipe.rounds is not None
        self.recipe: Recipe = self.top.recipe
        self.rounds: RoundsConfig = self.top.recipe.rounds
        self.student = deciding_student(self.recipe)
        self.purse = Purse(self.recipe)
        self.budget = RoundsBudget(self.rounds)
        patience = self.rounds.patience
        self.watch = GainWatch(patience) if self.top.task.closed else PartsWatch(patience)
        again = self.rounds.recheck.teacher if self.rounds.recheck else None
        self.labelers = [name for name in self.recipe.teachers if name != again]
        self.last = 0

    def run(self) -> None:
        """Goes through rounds until one of the reasons to stop."""
        first = self.first("eval")
        assert first is not None
        self.facts.append(first)
        while not self._ended():
            since = self._since()
            self.last += 1
            self.facts.append(self._next(self.last, since))
        self.top.folder.note("rounds_ended", rounds=len(self.facts), reason=self.stop)

    def first(self, until: LastStage) -> RoundFacts | None:
        """The first round, as far as a stage; what it came to where that is the last one."""
        session = self._session(self._folder(0), "round 0", earlier=None)
        session.start()
        choose_first(session)
        chosen = pl.read_parquet(chosen_path(session.folder))["row_id"]
        self._ask(session, chosen, ASKED, teachers=self.labelers, most_usd=self.rounds.budget_usd)
        join_votes(session, number=0, before=None, asked=[_votes_in(session.folder, ASKED)])
        if not self._learn(session, until):
            return None
        return measure_round(session, Measuring(0))

    def bring_up(self, until: LastStage) -> None:
        """Makes the run folder hold what the last round has."""
        top, last = self.top, self._folder(self.last)
        parts = [self._folder(number).path for number in range(self.last + 1)]
        asked = [RunFolder(path / name) for path in parts for name in (RECHECKED, ASKED)]
        join_labeling(top, last.votes, asked, beside=[RunFolder(path / CONTROL / ASKED) for path in parts])
        top.earlier, top.held_labels = last, self._held_labels(self.last)
        for name, work in (("aggregate", stages.merge_votes), ("train", train)):
            if until == "label" or (until == "aggregate" and name == "train"):
                return
            work(top)
        if until != "train":
            self._bring_up_measures(last)

    def _since(self) -> dict[str, int]:
        """The rounds that the next one's gains are taken over, by part."""
        if isinstance(self.watch, GainWatch):
            return {WHOLE: self.watch.since}
        return {title: self.watch.since.get(title, 0) for title in map(part_title, self.top.task.singles)}

    def _next(self, number: int, since: dict[str, int]) -> RoundFacts:
        before = self._folder(number - 1)
        session = self._session(self._folder(number), f"round {number}", earlier=before)
        session.start()
        votes = pl.read_parquet(before.votes)
        asked = asked_rows(votes, self.recipe)
        if self.rounds.recheck is not None:
            self._recheck(session, before, votes=votes, asked=asked)
        count = self.budget.affordable(before, also=_votes_in(session.folder, RECHECKED))
        chosen = self._choose(session, self.rounds.choose, asked, before=before, count=count)
        self._ask(session, chosen, ASKED, teachers=self.labelers, most_usd=None)
        new = [_votes_in(session.folder, name) for name in (ASKED, RECHECKED)]
        join_votes(session, number=number, before=before.votes, asked=new)
        self._learn(session, "eval")
        control = self._control(session, number, rows=len(chosen)) if self.rounds.control else None
        measuring = Measuring(
            number,
            before=before,
            since={part: (earlier, self._folder(earlier)) for part, earlier in since.items()},
            control=control,
            controls=control.votes if control else None,
        )
        return measure_round(session, measuring)

    def _learn(self, session: Session, until: LastStage) -> bool:
        """Merges, trains and measures, as far as a stage; whether it got through."""
        work: dict[str, Callable[[Session], None]] = {
            "aggregate": stages.merge_votes,
            "train": train,
            "eval": stages.measure,
        }
        if until == "label":
            return False
        for name, stage in work.items():
            stage(session)
            if name == until:
                break
        return until == "eval"

    def _choose(
        self, session: Session, rules: dict[ChoiceRule, float], asked: pl.Series, *, before: RunFolder, count: int
    ) -> pl.Series:
        choosing = Choosing(
            rules={rule: share for rule, share in rules.items() if share},
            count=count,
            asked=asked,
            before=before,
            students=watched_students(self.recipe),
        )
        choose_more(session, choosing)
        return pl.read_parquet(chosen_path(session.folder))["row_id"]

    def _recheck(self, session: Session, before: RunFolder, *, votes: pl.DataFrame, asked: pl.Series) -> None:
        assert self.rounds.recheck is not None
        choose_suspects(session, before=before, asked_again=asked_again(votes, self.recipe), asked=asked)
        doubted = pl.read_parquet(suspects_path(session.folder))["row_id"]
        try:
            self._ask(
                session,
                doubted,
                RECHECKED,
                teachers=[self.rounds.recheck.teacher],
                most_usd=self.budget.left_usd(before),
            )
        except TeacherError as error:
            session.progress.warn(f"nothing came of asking again: {error}")

    def _control(self, session: Session, number: int, *, rows: int) -> RunFolder:
        """The part of a round that asks about random rows, with the deciding student alone."""
        before = self._folder(number - 1)
        before = before if number == 1 else RunFolder(before.path / CONTROL)
        folder = RunFolder(session.folder.path / CONTROL)
        control = self._session(folder, f"round {number}, control", earlier=before)
        control.recipe = self.recipe.model_copy(update={"students": {self.student: self.recipe.students[self.student]}})
        asked = asked_rows(pl.read_parquet(before.votes), self.recipe)
        chosen = self._choose(control, {"random": 1.0}, asked, before=before, count=rows)
        self._ask(control, chosen, ASKED, teachers=self.labelers, most_usd=None)
        # Where a row is in both, both have what was asked again: what is compared is the choice.
        again = _votes_in(session.folder, RECHECKED)
        join_votes(control, number=number, before=before.votes, asked=[_votes_in(folder, ASKED)], beside=again)
        self._learn(control, "eval")
        return folder

    def _ask(
        self, session: Session, row_ids: pl.Series, name: str, *, teachers: list[str], most_usd: float | None
    ) -> None:
        if row_ids.is_empty():
            return
        folder = RunFolder(session.folder.path / name)
        folder.log = self.top.folder.log
        write_asked_rows(folder, pl.read_parquet(self.top.folder.rows), row_ids)
        first = session.folder.path == self._folder(0).path
        # Rows with planted orders show who obeys a listing; the first round shows it.
        kept = {} if first else {"canaries": None}
        recipe = self.recipe.model_copy(
            update={
                "teachers": {teacher: self.recipe.teachers[teacher] for teacher in teachers},
                "labeling": self.recipe.labeling.model_copy(update=kept),
            }
        )
        retry = self.top.retry_failed and (first or folder.stage("label") is not None)
        asking = Session(recipe, folder, session.progress, self.top.limit, retry, examples=self.top.folder.rows)
        ask(asking, self.purse, most_usd=most_usd)

    def _ended(self) -> bool:
        """Whether there is a reason to stop, which is then in ``stop``."""
        self.stop = self._reason()
        return bool(self.stop)

    def _reason(self) -> str:
        number, facts = self.last, self.facts[-1]
        if number and self.rounds.until_no_gain and (without := self._without_gain(number, facts)):
            return without
        if number + 1 >= self.rounds.count:
            return f"the count of {plural(self.rounds.count, 'round')} is reached (rounds.count)"
        folder = self._folder(number)
        votes = pl.read_parquet(folder.votes)
        rows = pl.read_parquet(folder.rows)
        left = left_to_ask(rows, self.recipe, asked_rows(votes, self.recipe))
        if left.is_empty():
            return "every row that may be chosen is asked (splits pool and train of labeling.splits)"
        wanted = min(self.rounds.rows, len(left))
        return self.budget.too_little_said(folder, wanted)

    def _without_gain(self, number: int, facts: RoundFacts) -> str:
        """Takes in what a round gained; why it is over, where it is."""
        if isinstance(self.watch, PartsWatch):
            gains = {one.part: one.gain_since for one in facts.parts if one.student == self.student}
            over = self.watch.over(number, gains)
        else:
            since = self.watch.since
            over = self.watch.over(number, facts.gain_since)
        if not over:
            return ""
        if not facts.students:
            return "there is nothing to measure a gain against: no test row has a gold or a merged label"
        if isinstance(self.watch, PartsWatch):
            return no_part_gained_said(facts, self.student)
        return no_gain_said(self.student, facts.gain_since, metric=facts.student(self.student).metric, since=since)

    def _folder(self, number: int) -> RunFolder:
        return self.top.folder.round(number)

    def _held_labels(self, number: int) -> Path | None:
        """Labels of the rows that rounds are measured on: the first round's, in every later one."""
        return _held_path(self._folder(0)) if number else None

    def _session(self, folder: RunFolder, title: str, *, earlier: RunFolder | None) -> Session:
        top = self.top
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.log = top.folder.log
        if not folder.rows.exists() or file_digest(folder.rows) != file_digest(top.folder.rows):
            link_file(top.folder.rows, folder.rows)
        held = None
        if earlier is not None:
            held = self._held_labels(1)
            assert held is not None
            _write_held(self._folder(0), held)
        progress = TitledProgress(top.progress, title)
        return Session(self.recipe, folder, progress, top.limit, earlier=earlier, held_labels=held)

    def _bring_up_measures(self, last: RunFolder) -> None:
        top, folder = self.top, self.top.folder
        beside = [folder.evaluations, folder.label_free, folder.few_labels, *card_paths(top)]
        told = RoundsFacts(student=self.student, stop=self.stop, rounds=self.facts)

        def work() -> Ended:
            for path in beside:
                source = last.path / os.path.relpath(path, folder.path)
                path.unlink(missing_ok=True)
                if source.exists():
                    # No link: cards are written in place when a student is measured again.
                    shutil.copy2(source, path)
            write_json(folder.rounds, told.model_dump(mode="json"))
            write_json(folder.ladder, rounds_ladder(told, read_ladder(last)).model_dump(mode="json"))
            facts = {"rounds": len(told.rounds), "stop": told.stop, "truth_source": told.truth_source}
            return Ended(" ".join(told.lines()[:1]), facts=facts)

        top.stage(
            "eval",
            reads=[told.model_dump(mode="json"), path_digest(last.evaluations), path_digest(last.ladder)],
            outputs=[folder.ladder, folder.rounds, *beside],
            work=work,
        )


def _votes_in(folder: RunFolder, name: str) -> Path:
    return RunFolder(folder.path / name).votes


def _held_path(first: RunFolder) -> Path:
    return first.path / "held_labels.parquet"


def _write_held(first: RunFolder, path: Path) -> None:
    """The first round's labels of rows that rounds are measured on, which stand in every round."""
    rows = pl.read_parquet(first.rows, columns=["row_id", "split"]).filter(~pl.col("split").is_in(CHOOSABLE))
    held = pl.read_parquet(first.labels).join(rows.select("row_id"), on="row_id", how="semi")
    stages.write_table(held, path)
