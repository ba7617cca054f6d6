"""Rounds of a query task in words and tables: what each part gained, with and without labels, against its teachers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from distill.eval.ladder_words import cost_per_point_cell, expects_cell
from distill.eval.queries.report_words import check_claim_said, claim_said
from distill.eval.wording import (
    TRUTH_WORDS,
    count,
    dollars,
    interval,
    is_percent,
    metric_title,
    number,
    plural,
    share,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from distill.eval.intervals import Estimate
    from distill.eval.ladder import LadderRow
    from distill.eval.queries.facts import TeacherClaim
    from distill.eval.queries.rounds import PartRound
    from distill.eval.rounds import RoundFacts, RoundsFacts

Table = tuple[list[str], list[list[object]]]
_NOTHING = "–"


class RoundsWords(NamedTuple):
    """The sentences and tables of the report's section on rounds.

    Attributes:
        lines: What came of them.
        rounds: What each asked and cost.
        parts: Each part over all rounds.
    """

    lines: list[str]
    rounds: Table
    parts: list[PartWords]


class PartWords(NamedTuple):
    """One part over all rounds, as tables: its figures, and what it is to its teachers."""

    title: str
    story: PartStory
    figures: Table
    claims: Table | None


def rounds_in_words(facts: RoundsFacts, titles: Mapping[str, str]) -> RoundsWords:
    """Says what the rounds of a query task came to.

    Args:
        facts: The rounds.
        titles: Of the parts, by name.
    """
    parts = [
        PartWords(titles.get(story.part, story.part), story, part_table(story), claims_table(story, facts.student))
        for story in stories(facts)
    ]
    return RoundsWords(_end_said(facts), rounds_table(facts), parts)


class PartStory(NamedTuple):
    """One part over all rounds.

    Attributes:
        part: Its name.
        metric: What it is measured by.
        rows: A line of the ladder a round and student, with what stands beside it.
    """

    part: str
    metric: str
    rows: list[tuple[LadderRow, PartRound]]

    def of(self, student: str) -> list[tuple[LadderRow, PartRound]]:
        """One student's lines."""
        return [(row, own) for row, own in self.rows if row.name == student]


def stories(facts: RoundsFacts) -> list[PartStory]:
    """The parts, each over all rounds, in the order of the task."""
    found: dict[str, list[tuple[LadderRow, PartRound]]] = {}
    for one in facts.rounds:
        for row, own in zip(one.students, one.parts, strict=True):
            found.setdefault(own.part, []).append((row, own))
    return [PartStory(part, rows[0][0].metric, rows) for part, rows in found.items()]


def rounds_table(facts: RoundsFacts) -> Table:
    """What each round asked and cost, a line a round."""
    lines: list[list[object]] = [
        [
            one.number,
            next((row.changed for row in one.students if row.name == facts.student), _NOTHING),
            count(one.rows_in_all),
            dollars(one.cost_usd),
            dollars(one.cost_in_all_usd),
        ]
        for one in facts.rounds
    ]
    return ["round", "what changed", "queries so far", "cost", "in all"], lines


def part_table(story: PartStory) -> Table:
    """One part, a line a round and student: figures that need labels first, then those that need none."""
    names = list(dict.fromkeys(check.name for _, own in story.rows for check in own.checks))
    optional = {
        "right": any(own.right for _, own in story.rows),
        "a point": any(row.cost_per_point for row, _ in story.rows),
        "over random": any(own.over_random for _, own in story.rows),
    }
    truth = story.rows[0][0].truth_source
    several = len({row.name for row, _ in story.rows}) > 1
    columns = ["round", *(["student"] if several else [])]
    columns += [metric_title(story.metric, truth_source=truth), "gain"]
    columns += [name for name, there in optional.items() if there]
    columns += ["says as merged", "gain in that", "expects", "as the round before"]
    columns += [column for name in names for column in (name, "gain in that")]
    lines: list[list[object]] = []
    for row, own in story.rows:
        cells: dict[str, str] = {
            "right": _share(own.right),
            "a point": cost_per_point_cell(row),
            "over random": _signed(own.over_random, story.metric),
        }
        passed = {check.name: f"{share(check.passed)} of {count(check.passed.rows)}" for check in own.checks}
        gained = {name: _signed(gain, "accuracy") for name, gain in own.check_gains.items()}
        lines.append(
            [
                row.round,
                *([row.name] if several else []),
                interval(row.quality, story.metric),
                _signed(row.gain, story.metric),
                *(cells[name] for name, there in optional.items() if there),
                *_label_free_cells(row, own),
                *(cell for name in names for cell in (passed.get(name, _NOTHING), gained.get(name, _NOTHING))),
            ]
        )
    return columns, lines


def _label_free_cells(row: LadderRow, own: PartRound) -> list[str]:
    """Without labels: agreement with the merged answers, its gain, what it expects, and the same as a round before."""
    return [
        _share(row.estimate.agreement if row.estimate else None),
        _signed(own.agreement_gain, "accuracy"),
        expects_cell(row),
        _share(own.same_as_before),
    ]


def claims_table(story: PartStory, student: str) -> Table | None:
    """Student less teacher, a line a round, with the one-sided bound; None without a teacher to compare with."""
    own = story.of(student)
    found = [(row.round, {_against(one): one for one in _claims(part)}) for row, part in own]
    names = list(dict.fromkeys(name for _, claims in found for name in claims))
    if not names:
        return None
    return ["round", *names], [
        [at, *(_claim_cell(claims[name]) if name in claims else _NOTHING for name in names)] for at, claims in found
    ]


def query_rounds_table(facts: RoundsFacts) -> RichTable:
    """The deciding student part by part, for the terminal; the report has every student and check."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    table = RichTable(title="Rounds", pad_edge=False)
    columns = ["part", "round", "quality", "gain", "says as merged", "gain in that", "expects", "as before"]
    columns += ["queries", "in all"]
    for name in columns:
        table.add_column(name, justify="left" if name == "part" else "right", overflow="fold")
    by_number = {one.number: one for one in facts.rounds}
    for story in stories(facts):
        for place, (row, own) in enumerate(story.of(facts.student)):
            one = by_number[row.round or 0]
            cells = [
                f"{story.part}, {metric_title(story.metric, truth_source=row.truth_source)}" if not place else "",
                str(row.round),
                interval(row.quality, story.metric),
                _signed(row.gain, story.metric),
                *_label_free_cells(row, own),
                count(one.rows_in_all),
                dollars(one.cost_in_all_usd),
            ]
            table.add_row(*map(escape, cells))
    return table


def query_rounds_said(facts: RoundsFacts) -> list[str]:
    """What came of the rounds: the end, what each part gained in all, and how the student stands to its teachers."""
    return [*_end_said(facts), *(line for story in stories(facts) for line in _part_said(story, facts.student))]


def _end_said(facts: RoundsFacts) -> list[str]:
    said = [f"{plural(len(facts.rounds), 'round')}; ended because {facts.stop}."]
    sources = list(dict.fromkeys(row.truth_source for row in facts.deciding))
    against = " or ".join(TRUTH_WORDS[source] for source in sources)
    if sources:
        said.append(
            f"Quality is against {against}; a gain is over the round before, paired on the same queries. How often a "
            "student says what the merged labels say, and expects to, is known without any label and grades nobody."
        )
    return said


def _part_said(story: PartStory, student: str) -> Iterator[str]:
    own = story.of(student)
    if not own:
        return
    first, last = own[0][0], own[-1][0]
    title = metric_title(story.metric, truth_source=last.truth_source)
    told = f"{story.part}: {student} went from {number(first.quality.value, story.metric)} to "
    told += f"{interval(last.quality, story.metric)} {title}"
    if first.estimate and last.estimate and first.estimate.agreement and last.estimate.agreement:
        agreed = [number(one.value, "accuracy") for one in (first.estimate.agreement, last.estimate.agreement)]
        told += f", and from {agreed[0]} to {agreed[1]} of queries said as the merged labels say"
    yield (
        f"{told}." if len(own) > 1 else f"{story.part}: {interval(last.quality, story.metric)} {title} after one round."
    )
    passed = {check.name: check.passed.value for check in own[0][1].checks}
    for check in own[-1][1].checks:
        before = f", {number(passed.get(check.name), 'accuracy')} after the first round" if len(own) > 1 else ""
        yield f"{story.part}: {check.name}: {share(check.passed)} of {count(check.passed.rows)}{before}."
    yield from (f"{story.part}: {claim_said(one)}" for one in own[-1][1].claims)
    yield from (f"{story.part}: {check_claim_said(one)}" for one in own[-1][1].check_claims)


def no_part_gained_said(facts: RoundFacts, student: str) -> str:
    """Says that no part's gain is shown to be one, and what each came to."""
    metrics = {own.part: row.metric for row, own in zip(facts.students, facts.parts, strict=True)}
    found = []
    for own in (one for one in facts.parts if one.student == student):
        gain, metric = own.gain_since, metrics[own.part]
        if gain is None or gain.value is None:
            found.append(f"{own.part} cannot be told")
            continue
        points = " points" if is_percent(metric) else ""
        found.append(f"{own.part} {interval(gain, metric, signed=True)}{points} since round {own.since}")
    return f"no part of {student} is shown to have gained: {'; '.join(found) or 'none was measured'}"


def _claims(own: PartRound) -> list[TeacherClaim]:
    return [*own.claims, *own.check_claims]


def _against(one: TeacherClaim) -> str:
    return f"{one.teacher}, {metric_title(one.claim.metric)}"


def _claim_cell(one: TeacherClaim) -> str:
    claim = one.claim
    if claim.lower is None or claim.p_value is None:
        return "too few groups"
    places = (f"{claim.difference:+.3f}", f"{claim.lower:+.3f}")
    difference, bound = (place.replace("-", "−") for place in places)
    return f"{difference} (at least {bound}{', shown' if claim.holds else ''})"


def _share(found: Estimate | None) -> str:
    return _NOTHING if found is None else share(found)


def _signed(found: Estimate | None, metric: str) -> str:
    return _NOTHING if found is None else interval(found, metric, signed=True)
