"""What a round came to where answers are no single label: each student on each part, beside the round before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from distill.eval.intervals import Estimate
from distill.eval.ladder import LadderRow
from distill.eval.queries.answers import PartAnswers, gold_answers
from distill.eval.queries.claims import Predictor, check_gains, paired_gain
from distill.eval.queries.evaluation import mean_of, part_title, share_of
from distill.eval.queries.facts import PartEvaluation, PartMeasurement, QueryMeasurement
from distill.eval.queries.label_free import SetRightBy, agreeing, estimate_part
from distill.eval.queries.rounds import PartRound
from distill.eval.queries.tallies import Measured
from distill.eval.rounds import RoundFacts, changed_said, points_gained
from distill.query_measurement import QueryRun, measured_part, predictor
from distill.recipe_rounds import deciding_student, learners
from distill.rounds_asking import cost_of
from distill.rounds_ladder import Measuring, read_ladder
from distill.run_folder import RunFolder
from distill.session import Session
from distill.students.config import HUMAN
from distill.students.queries.asked_task import part_name
from distill.students.student_info import StudentInfo


class RoundLines(NamedTuple):
    """A round's lines of the ladder, and what stands beside them."""

    rows: list[LadderRow]
    parts: list[PartRound]


def query_round_lines(session: Session, measuring: Measuring, facts: RoundFacts) -> RoundLines:
    """What each student came to on each part; those that learn from people alone stand in the first round.

    Args:
        session: Of the round's folder, measured.
        measuring: What the round is measured beside.
        facts: What it asked and cost.
    """
    run, able = QueryRun(session), learners(session.recipe.students)
    measurement = QueryMeasurement.model_validate_json(session.folder.evaluations.read_text(encoding="utf-8"))
    rungs = read_ladder(session.folder).rows
    by_name = {part_title(single): single for single in session.task.singles}
    lines = RoundLines([], [])
    for part in measurement.parts:
        single = by_name[part.part]
        found = measured_part(run, single)
        assert found is not None, "a part that was measured can be"
        for evaluation in part.evaluations:
            name = evaluation.name
            if name not in session.recipe.students or (measuring.number and name not in able):
                continue
            row = next((row for row in rungs if row.is_student and (row.part, row.name) == (single.part, name)), None)
            if row is None:  # it answered no row
                continue
            beside = _Beside(session, measuring, run, part, found[0], row)
            lines.parts.append(beside.round_of(evaluation))
            lines.rows.append(beside.line(facts, learns=name in able))
    return lines


@dataclass(frozen=True)
class _Beside:
    """One student on one part in one round, and all that it is held against.

    Attributes:
        session: Of the round.
        measuring: What the round is measured beside.
        run: Its tables.
        part: What was measured of the part.
        measured: How.
        row: The student's line on the ladder within the round.
    """

    session: Session
    measuring: Measuring
    run: QueryRun
    part: PartMeasurement
    measured: Measured
    row: LadderRow

    def round_of(self, evaluation: PartEvaluation) -> PartRound:
        """What stands beside its line."""
        single, settings, name = self.measured.single, self.run.settings, self.row.name
        said = self.now.answers
        right = {} if self.part.truth_source == "teacher" else agreeing(single, said, self._gold)
        stays = agreeing(single, said, self.before.answers) if self.before else {}
        decides = name == deciding_student(self.session.recipe)
        since, compared = self.measuring.since.get(self.part.part, (None, None)) if decides else (None, None)
        return PartRound(
            student=name,
            part=self.part.part,
            right=share_of(right, settings) if right else None,
            agreement_gain=self._agreement_gain(),
            same_as_before=share_of(stays, settings) if stays else None,
            checks=evaluation.checks,
            check_gains=check_gains(self.now, self.before, settings) if self.before else {},
            claims=[one for one in self.part.claims if one.student == name],
            check_claims=[one for one in self.part.check_claims if one.student == name],
            since=since,
            gain_since=self._gain_over(compared),
            over_random=self._gain_over(self.measuring.control) if decides else None,
        )

    def line(self, facts: RoundFacts, *, learns: bool) -> LadderRow:
        """Its line on the ladder of all rounds: within the round it was compared with another student."""
        update: dict[str, object] = {"gain": None, "gain_over": None, "cost_per_point": None}
        update |= {
            "round": self.measuring.number,
            "changed": changed_said(facts) if learns else "people's labels alone",
        }
        update["estimate"] = estimate_part(
            self.measured.single,
            self.now.answers,
            merged=self._merged,
            gold=self._gold,
            set_right_by=self._set_right_by(),
            settings=self.run.settings,
        )
        if learns and (gain := self._gain_over(self.measuring.before)) is not None:
            update |= {"gain": gain, "gain_over": f"round {self.measuring.number - 1}"}
            cost, points = self._cost(), points_gained(gain)
            update["cost_per_point"] = cost / points if cost and points else None
        return self.row.model_copy(update=update)

    @cached_property
    def now(self) -> Predictor:
        """Its answers of this round."""
        return self._said_in(self.session.folder)

    @cached_property
    def before(self) -> Predictor | None:
        """Its answers of the round before."""
        return self._said_in(self.measuring.before) if self.measuring.before else None

    def _said_in(self, folder: RunFolder) -> Predictor:
        table = pl.read_parquet(folder.predictions(self.row.name))
        return predictor(self.run, self.measured, self.row.name, self.row.kind, table)

    @cached_property
    def _merged(self) -> PartAnswers | None:
        return self.run.merged(self.measured.single)

    @cached_property
    def _gold(self) -> PartAnswers:
        return gold_answers(self.run.rows, self.session.task, self.measured.single)

    def _gain_over(self, folder: RunFolder | None) -> Estimate | None:
        if folder is None:
            return None
        return paired_gain(self.now, self._said_in(folder), self.measured, self.run.settings)

    def _agreement_gain(self) -> Estimate | None:
        if self._merged is None or self.before is None:
            return None
        single = self.measured.single
        agrees, agreed = (agreeing(single, one.answers, self._merged) for one in (self.now, self.before))
        changes = {row_id: same - agreed[row_id] for row_id, same in agrees.items() if row_id in agreed}
        return mean_of(changes, self.run.settings) if changes else None

    def _set_right_by(self) -> SetRightBy | None:
        """Whose answers its confidences were set right on: audit gold, else held-out rows of what it learned from."""
        infos = StudentInfo.read(self.session.folder.student(self.row.name)).parts or {}
        info = infos.get(part_name(self.measured.single))
        if info is None or not info.rows:
            return None
        people = info.calibration.source == "audit gold"
        return (
            "people" if people or set(self.session.recipe.students[self.row.name].train_on) == {HUMAN} else "teachers"
        )

    def _cost(self) -> float | None:
        """What the round's answers to this part cost: their share of requests that asked for several."""
        if self.run.votes is None:
            return None
        new = self.run.votes.filter(pl.col("round") == self.measuring.number)
        part = self.measured.single.part
        return cost_of(new if part is None else new.filter(pl.col("part") == part))
