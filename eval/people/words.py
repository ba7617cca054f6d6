"""What agreement between people and models means, in plain words, and as tables."""

from __future__ import annotations

from typing import NamedTuple

from distill.eval.chance_corrected import Reliability
from distill.eval.page import markdown_table
from distill.eval.people.agreement import Candidate, PeopleAgreement
from distill.eval.wording import count, interval, number, plural, share

_RELIABLE, _TENTATIVE = 0.8, 2 / 3
"""Krippendorff's own lines for alpha: conclusions may be drawn; tentative ones at best."""
_PAIRS_SHOWN = 8
"""Of two people, and of a person and a model, each."""


class Table(NamedTuple):
    """A small table of texts."""

    title: str
    columns: tuple[str, ...]
    lines: list[list[str]]


class PeopleWords(NamedTuple):
    """The sentences and tables of the section on people."""

    lede: list[str]
    verdicts: list[str]
    coefficients: Table
    tests: Table | None
    against: Table | None
    pairs: Table | None
    meaning: str


def people_said(facts: PeopleAgreement | None) -> PeopleWords | None:
    """Says what the figures mean; None without people."""
    if facts is None:
        return None
    return PeopleWords(
        lede=_lede(facts),
        verdicts=[verdict(one) for one in facts.candidates],
        coefficients=_coefficients(facts),
        tests=_tests(facts),
        against=_against(facts),
        pairs=_pairs(facts),
        meaning=_meaning(facts),
    )


def people_markdown(said: PeopleWords) -> list[str]:
    """The section as Markdown."""
    parts = ["## People beside models", *said.lede, "\n".join(f"- {line}" for line in said.verdicts)]
    for table in (said.coefficients, said.tests, said.pairs):
        if table is not None:
            parts.append(f"**{table.title}**")
            parts.append(markdown_table(list(table.columns), [list(line) for line in table.lines]))
    return [part for part in parts if part]


def verdict(one: Candidate) -> str:
    """May it stand in for an annotator? One sentence or two."""
    test = one.test
    if test is None or test.winning_rate is None:
        why = test.note if test is not None and test.note else "fewer than two people labeled its rows"
        return f"{one.name}: no verdict, {why}."
    tested = [against for against in test.against if against.p_value is not None]
    won = sum(against.wins for against in tested)
    said = (
        f"{one.name} {'may' if test.passes else 'may not yet'} stand in for an annotator: shown to be as good as {won} "
    )
    said += f"of {len(tested)} (winning rate {number(test.winning_rate, 'accuracy')}; half is needed), with "
    said += f"{100 * test.epsilon:g} points in its favour for costing less"
    if test.advantage is not None:
        said += f"; on {number(test.advantage, 'accuracy')} of rows it agrees with the others at least as well as the "
        said += "one left out"
    return said + (f". Beware: {test.note}." if test.note else ".")


def _lede(facts: PeopleAgreement) -> list[str]:
    found = facts.reliability
    if not found.rows:
        said = (
            f"{plural(facts.rows, 'row')} have a label by a person, none by two, so that nothing is known of how far "
        )
        return [said + "people agree.", *_beware(facts)]
    said = (
        f"{plural(len(facts.people), 'person', 'people')} labeled {plural(facts.rows, 'row')}, {count(found.rows)} of "
    )
    said += f"them by two or more, and give the same label on {share(found.agreement)} of pairs"
    alpha = found.alpha.value
    if alpha is not None:
        kind = "ordinal" if found.ordered else "nominal"
        said += f"; Krippendorff’s alpha ({kind}) is {interval(found.alpha, 'alpha')}, "
        said += (
            "which is enough to build on"
            if alpha >= _RELIABLE
            else "which allows tentative conclusions"
            if alpha >= _TENTATIVE
            else f"which is low: people read the question in different ways, or nearly all rows have one label (Gwet’s "
            f"{_gwet(found)}, which does not mind that, is {number(found.ac.value, 'ac')})"
        )
    return [said + ".", *_beware(facts)]


def _gwet(found: Reliability) -> str:
    return "AC2" if found.ordered else "AC1"


def _beware(facts: PeopleAgreement) -> list[str]:
    return [f"{note[:1].upper()}{note[1:]}." for note in facts.notes]


def _coefficients(facts: PeopleAgreement) -> Table:
    found = facts.reliability
    level = "ordinal" if found.ordered else "nominal"
    columns = ("who", "rows", "same label", f"alpha ({level})", "Fleiss’ kappa", f"Gwet’s {_gwet(found)}")
    lines = []
    for name, one in (
        ("people alone", found),
        *((f"people and {candidate.name}", candidate.with_people) for candidate in facts.candidates),
    ):
        cells = [interval(part, "kappa") for part in (one.alpha, one.kappa, one.ac)]
        lines.append([name, count(one.rows), share(one.agreement), *cells])
    return Table("Agreement beyond chance", columns, lines)


def _tests(facts: PeopleAgreement) -> Table | None:
    tests = [one.test for one in facts.candidates if one.test is not None]
    if not tests:
        return None
    lines = []
    for test in tests:
        tested = [against for against in test.against if against.p_value is not None]
        lines.append(
            [
                test.candidate,
                f"{len(tested)} of {len(test.against)}",
                str(sum(against.wins for against in tested)),
                number(test.winning_rate, "accuracy"),
                number(test.advantage, "accuracy"),
                "no verdict" if test.winning_rate is None else "yes" if test.passes else "no",
            ]
        )
    columns = ("model", "annotators tested", "shown as good as", "winning rate", "at least as good on", "may stand in")
    return Table(f"The alternative annotator test at epsilon {facts.epsilon:g}", columns, lines)


def _against(facts: PeopleAgreement) -> Table | None:
    lines = []
    for candidate in facts.candidates:
        for one in candidate.test.against if candidate.test is not None else ():
            chance = (
                "–" if one.p_corrected is None else f"{one.p_corrected:.3f}" if one.p_corrected >= 0.001 else "<0.001"
            )
            as_good = (number(share, "accuracy") for share in (one.candidate_as_good, one.annotator_as_good))
            wins = "–" if one.p_value is None else "yes" if one.wins else "no"
            lines.append([candidate.name, one.annotator, count(one.rows), count(one.groups), *as_good, chance, wins])
    columns = ("model", "annotator", "rows", "groups", "model at least as good", "annotator at least as good")
    return Table("Against each annotator", (*columns, "p, corrected", "wins"), lines) if lines else None


def _pairs(facts: PeopleAgreement) -> Table | None:
    shown = [pair for people in (2, 1) for pair in [p for p in facts.pairs if p.people == people][:_PAIRS_SHOWN]]
    lines = [
        [
            f"{pair.first} – {pair.second}",
            "two people" if pair.people == 2 else "person and model",
            count(pair.rows),
            share(pair.agreement),
            interval(pair.kappa, "kappa"),
        ]
        for pair in shown
    ]
    left = facts.pairs_left_out + len(facts.pairs) - len(shown)
    title = "Pairs with most rows in common" + (f"; {plural(left, 'further pair')} not shown" if left else "")
    return Table(title, ("pair", "who", "rows", "same label", "Cohen’s kappa"), lines) if lines else None


def _meaning(facts: PeopleAgreement) -> str:
    return (
        "The test leaves out each annotator in turn and asks who agrees better with the others, the model or that "
        "annotator; a p-value is that of the model being worse by more than epsilon, over groups, corrected for as "
        "many tests (Calderon, Reichart and Dror 2025). Epsilon is what an annotator costs more: 0.2 for experts, 0.15 "
        "for trained annotators, 0.1 for a crowd. Alpha and kappa take away what label frequencies give by chance and "
        "read low where nearly all rows have one label; Gwet’s coefficient does not. Agreement with people is not "
        "being right: where people share a mistake, a model that is right is told that it is not."
    )
