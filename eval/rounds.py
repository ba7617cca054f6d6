"""Rounds of distillation: what each asked, cost and gained, and when going on is shown to gain nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.ladder import Ladder, LadderRow
from distill.eval.ladder_words import cost_per_point_cell
from distill.eval.queries.rounds import PartRound, is_shown
from distill.eval.scored import TruthSource
from distill.eval.wording import TRUTH_WORDS, count, dollars, interval, is_percent, metric_title, number, plural

if TYPE_CHECKING:
    from rich.table import Table


class RecheckFacts(Frozen):
    """What a stronger teacher said of labels that a student contradicted."""

    teacher: str
    asked: int = Field(description="rows asked again")
    answered: int = Field(description="of those, rows that it labeled")
    changed: int = Field(description="of those, rows whose merged label is another one now")
    gold_rows: int = Field(0, description="of those answered, rows with a gold label")
    right_before: int = Field(0, description="of those, right by gold as they were merged before")
    right_after: int = Field(0, description="of those, right by gold now")


class ControlFacts(Frozen):
    """A student of as many random rows, beside that of the chosen ones."""

    student: LadderRow
    rows: int = Field(description="rows asked for it over all rounds so far, held-out ones aside")
    difference: Estimate = Field(description="the chosen rows' student less this one, on the same rows")
    cost_usd: float | None = Field(description="of the answers that only it needed, in this round")


class RoundFacts(Frozen):
    """One round, from 0."""

    number: int
    asked: dict[str, int] = Field(description="rows that every teacher was asked about, by the rule that chose them")
    held_out: int = Field(0, description="rows of the splits that rounds are measured on; asked in round 0")
    recheck: RecheckFacts | None = None
    cost_usd: float | None = Field(description="of this round's answers when they were bought; None where not known")
    cost_in_all_usd: float | None = Field(description="of all answers so far, the control's among them")
    rows_in_all: int = Field(description="rows asked so far, held-out ones aside")
    students: list[LadderRow] = Field(description="gain is over the same student of the round before")
    gain_since: Estimate | None = Field(None, description="the deciding student over that of the round named in since")
    since: int | None = Field(None, description="the last round that had a shown gain; 0 where none had")
    control: ControlFacts | None = None
    parts: list[PartRound] = Field(
        default_factory=list,
        description="where answers are no single label: what stands beside each line of students, of the same part",
    )

    def student(self, name: str) -> LadderRow:
        """One student's line."""
        return next(row for row in self.students if row.name == name)


class RoundsFacts(Frozen):
    """All rounds of a run, as ``rounds.json`` holds them."""

    student: str = Field(description="whose predictions choose rows and whose gain decides")
    stop: str = Field(description="why there was no further round, in words")
    rounds: list[RoundFacts]

    @property
    def deciding(self) -> list[LadderRow]:
        """The deciding student, round by round; empty where nothing was measured."""
        return [row for one in self.rounds for row in one.students if row.name == self.student]

    @property
    def by_part(self) -> bool:
        """Whether answers are no single label, so that each part is told of by itself."""
        return any(one.parts for one in self.rounds)

    @property
    def truth_source(self) -> TruthSource | None:
        """What quality is measured against; None where nothing was measured, or parts against different things."""
        sources = {row.truth_source for row in self.deciding}
        return sources.pop() if len(sources) == 1 else None

    def lines(self) -> list[str]:
        """What came of it, a sentence or two each."""
        if self.by_part:
            from distill.eval.queries.rounds_words import query_rounds_said

            return query_rounds_said(self)
        return rounds_said(self)

    def to_rich(self) -> Table:
        """The rounds as a table for the terminal."""
        from rich.markup import escape
        from rich.table import Table

        if self.by_part:
            from distill.eval.queries.rounds_words import query_rounds_table

            return query_rounds_table(self)
        columns, lines = rounds_cells(self)
        table = Table(title="Rounds", pad_edge=False)
        for name in columns:
            wide = name in ("student", "what changed")
            table.add_column(name, justify="left" if wide else "right", overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
        return table


@dataclass
class GainWatch:
    """Tells when rounds have ceased to gain: the rule by which a run ends by itself.

    A round is compared with the last one that had a shown gain (the first one where none had), so that with patience
    small steps add up to one that can be seen. With a patience of 1 that is the round before.

    Attributes:
        patience: Rounds in a row without a shown gain, after which it is over.
        since: The round to compare with.
        without: Rounds without a shown gain since then.
    """

    patience: int
    since: int = 0
    without: int = 0

    def over(self, number: int, gain: Estimate | None) -> bool:
        """Takes in the gain of a round over round ``since``.

        Returns:
            Whether it is over. A gain that cannot be told is none that is shown.
        """
        if is_shown(gain):
            self.since, self.without = number, 0
        else:
            self.without += 1
        return self.without >= self.patience


def no_gain_said(student: str, gain: Estimate | None, *, metric: str, since: int) -> str:
    """Says that a gain is not shown to be one."""
    if gain is None or gain.value is None:
        return f"whether {student} gained since round {since} cannot be told{_note(gain)}"
    points = " points" if is_percent(metric) else ""
    found = f"{interval(gain, metric, signed=True)}{points} since round {since}"
    if gain.high is not None and gain.high < 0:
        return f"{student} got worse: {found}"
    return f"the gain of {student} is not shown to be one: {found}, an interval that includes zero"


def points_gained(gain: Estimate | None) -> float | None:
    """Hundredths gained; None where the interval does not lie above zero, so that no gain is shown."""
    if gain is None or gain.value is None or not is_shown(gain):
        return None
    return 100.0 * gain.value


def rounds_ladder(facts: RoundsFacts, last: Ladder) -> Ladder:
    """One ladder of all rounds: every round's students, then what stood beside those of the last one.

    Args:
        facts: The rounds.
        last: The ladder of the last round.
    """
    rest = [row for row in last.rows if not row.is_student]
    return Ladder(rows=[*(row for one in facts.rounds for row in one.students), *rest], baseline=last.baseline)


def rounds_cells(facts: RoundsFacts) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells, as text: a line for each round and student that learns from teachers."""
    first = facts.deciding[0] if facts.deciding else None
    title = "quality"
    if first is not None:
        title = metric_title(first.metric, positive=first.positive, truth_source=first.truth_source)
    columns = ["round", "student", title, "gain", "label-free", "rows", "cost", "in all", "a point"]
    control = any(one.control for one in facts.rounds)
    columns += ["over random"] if control else []
    lines = []
    for one in facts.rounds:
        for row in one.students:
            cells = [str(one.number), row.name, interval(row.quality, row.metric)]
            cells.append(interval(row.gain, row.metric, signed=True) if row.gain else "–")
            cells.append(estimate_said(row))
            once = [count(one.rows_in_all), dollars(one.cost_usd), dollars(one.cost_in_all_usd)]
            cells += once if row.name == facts.student else [""] * len(once)
            cells.append(cost_per_point_cell(row))
            if control:
                beside = one.control if one.control and one.control.student.name == row.name else None
                cells.append(interval(beside.difference, row.metric, signed=True) if beside else "–")
            lines.append([*cells, row.changed])
    return [*columns, "what changed"], lines


def estimate_said(row: LadderRow) -> str:
    """The label-free estimate of a student in a few words: agreement where it is known, else its own expectation."""
    found = row.estimate
    if found is None:
        return "–"
    if found.agreement is not None and found.agreement.value is not None:
        return f"agrees {number(found.agreement.value, 'accuracy')}"
    if found.expected is not None and found.expected.value is not None:
        return f"expects {number(found.expected.value, 'accuracy')}"
    if found.consistency is not None and found.consistency.value is not None:
        return f"stays {number(found.consistency.value, 'accuracy')}"
    return "–"


def changed_said(facts: RoundFacts) -> str:
    """What a round did that the one before had not, in words."""
    rules = ", ".join(f"{count(rows)} {rule}" for rule, rows in facts.asked.items() if rows)
    said = [f"{plural(sum(facts.asked.values()), 'row')}: {rules}"] if rules else []
    if facts.held_out:
        said.append(f"{count(facts.held_out)} held out")
    if (found := facts.recheck) is not None:
        said.append(f"{count(found.asked)} rechecked by {found.teacher}, {count(found.changed)} changed")
    return "; ".join(said) or "nothing asked"


def rounds_said(facts: RoundsFacts) -> list[str]:
    """What came of the rounds, a sentence or two each: the end, the gain over all, rechecks, the control."""
    many = plural(len(facts.rounds), "round")
    said = [f"{many}; ended because {facts.stop}."]
    if facts.truth_source is not None:
        held = "" if facts.truth_source != "teacher" else ": no test row has a label by a person, so a gain is one in "
        held += "" if facts.truth_source != "teacher" else "agreement with the merged labels of the first round"
        said.append(
            f"Quality is against {TRUTH_WORDS[facts.truth_source]}{held}; a gain is over the round before, on the same "
            "rows; a point's cost is told only where the gain's interval is above zero."
        )
    again = [one.recheck for one in facts.rounds if one.recheck is not None]
    if again:
        asked, changed = sum(one.asked for one in again), sum(one.changed for one in again)
        line = f"{again[0].teacher} was asked again about {plural(asked, 'doubted label')} and changed {count(changed)}"
        if rows := sum(one.gold_rows for one in again):
            before, after = sum(one.right_before for one in again), sum(one.right_after for one in again)
            line += f"; of {count(rows)} with a gold label {count(before)} were right before and {count(after)} after"
        said.append(f"{line}.")
    if (control := facts.rounds[-1].control) is not None:
        metric = control.student.metric
        said.append(
            f"Against as many random rows: {interval(control.difference, metric, signed=True)} for {facts.student} in "
            "the last round."
        )
    return said


def _note(gain: Estimate | None) -> str:
    return f" ({gain.note})" if gain is not None and gain.note else ""
