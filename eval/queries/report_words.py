"""What the numbers of a query task mean, in plain words, and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distill.eval.queries.facts import PartEvaluation, PartMeasurement, TeacherClaim
from distill.eval.wording import (
    TRUTH_WORDS,
    count,
    dollars,
    flatten,
    interval,
    metric_meaning,
    metric_title,
    number,
    plural,
    quantity,
    seconds,
    share,
)

if TYPE_CHECKING:
    from distill.eval.queries.metrics import PairedClaim
    from distill.eval.queries.report import QueryFacts
    from distill.eval.queries.rounds_words import RoundsWords

_FIRST = {
    "spelling": (
        "word_f05",
        "corrected_right",
        "left_alone",
        "brand_over_correction",
        "change_precision",
        "exact_match",
    ),
    "brand": ("span_f1", "span_precision", "span_recall", "linked_f1", "false_brand"),
    "expansion": ("ndcg", "ndcg_change", "recall", "recall_change", "worse", "drift"),
}
"""Metrics that a part's table shows, the main one first; all of them for the other types."""
_TITLES = {"spelling": "Spelling", "brand": "Brands", "category": "Categories", "expansion": "Expansions"}
_KINDS = {"teacher": "teacher", "labels": "votes merged", "function": "tool or function"}
_FEW_QUERIES = 100
_DATA = ("read", "kept", "unusable", "merged", "duplicate_content", "splits", "gold_splits", "problems")

Table = tuple[list[str], list[list[object]]]


class PartWords(NamedTuple):
    """The sentences of a part's section."""

    title: str
    lede: str
    metrics: list[str]
    meanings: list[tuple[str, str]]
    claims: list[str]
    checks: str
    check_claims: list[str]
    mistakes: str


class Tile(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: str
    note: str


class QueryWords(NamedTuple):
    """The sentences of the page."""

    headline: str
    lede: str
    tiles: list[Tile]
    alerts: list[str]
    parts: list[PartWords]
    students: Table | None
    answers: Table | None
    merging: list[str]
    merged: Table | None
    data: list[tuple[str, str]]
    manifest: list[tuple[str, str]]
    rounds: RoundsWords | None


def put_in_words(facts: QueryFacts) -> QueryWords:
    """Says what the facts mean."""
    from distill.eval.queries.rounds_words import rounds_in_words

    return QueryWords(
        headline=_headline(facts),
        lede=_lede(facts),
        tiles=[tile for part in facts.parts if (tile := _tile(part)) is not None],
        alerts=_alerts(facts),
        parts=[_part(part, level=facts.level) for part in facts.parts],
        students=_students(facts),
        answers=_answers(facts),
        merging=_merging(facts),
        merged=_merged(facts),
        data=_data(facts),
        manifest=flatten(facts.manifest),
        rounds=rounds_in_words(facts.rounds, _TITLES) if facts.rounds and facts.rounds.by_part else None,
    )


def shown_metrics(part: PartMeasurement) -> list[str]:
    """Metrics of a part's table, in order: those that anybody has."""
    there = list(dict.fromkeys(name for one in part.evaluations for name in one.metrics))
    wanted = _FIRST.get(part.type, ())
    first = [name for name in wanted if name in there]
    return first or [part.metric, *(name for name in there if name != part.metric)]


def numbers_table(part: PartMeasurement) -> Table:
    """Predictors by metrics, with intervals."""
    metrics = shown_metrics(part)
    merged = any(one.agreement for one in part.evaluations)
    columns = ["who", *(metric_title(name) for name in metrics), *(["same as merged"] if merged else [])]
    lines: list[list[object]] = []
    for one in part.evaluations:
        cells = [interval(one.metrics[name], name) if name in one.metrics else "–" for name in metrics]
        agrees = [share(one.agreement) if one.agreement else "–"] if merged else []
        lines.append([who(one), *cells, *agrees])
    return columns, lines


def checks_table(part: PartMeasurement) -> Table | None:
    """What was found without labels; None where nothing was."""
    names = list(dict.fromkeys(check.name for one in part.evaluations for check in one.checks))
    if not names:
        return None
    lines: list[list[object]] = []
    for one in part.evaluations:
        found = {check.name: check for check in one.checks}
        if found:
            cells = [
                f"{share(found[name].passed)} of {count(found[name].passed.rows)}" if name in found else "–"
                for name in names
            ]
            lines.append([one.name, *cells])
    return ["who", *names], lines


def slices_table(part: PartMeasurement) -> Table | None:
    """The part's metric by slice of the test queries; None where nothing was sliced."""
    names = list(dict.fromkeys((one.column, one.value) for each in part.evaluations for one in each.slices))
    if not names:
        return None
    lines: list[list[object]] = []
    for column, value in names:
        cells = []
        for each in part.evaluations:
            found = next((one.found for one in each.slices if (one.column, one.value) == (column, value)), None)
            cells.append(f"{interval(found, part.metric)} of {count(found.rows)}" if found else "–")
        lines.append([f"{column}: {value or '–'}", *cells])
    return ["slice", *(each.name for each in part.evaluations)], lines


def mistakes_table(part: PartMeasurement) -> Table:
    """The most telling mistakes of the one shown, beside what others say."""
    lines: list[list[object]] = []
    for one in part.mistakes:
        said = f"{one.said} ({one.note})" if one.note else one.said
        others = "; ".join(f"{name}: {answer}" for name, answer in one.others.items())
        lines.append([one.query, one.truth, said, number(one.confidence, "accuracy"), others])
    return ["query", "truth", part.shown or "says", "how sure", "others"], lines


def who(one: PartEvaluation) -> str:
    """A predictor's name, what it is, and what it left out."""
    kind = f" ({_KINDS[one.kind]})" if one.kind in _KINDS else ""
    return f"{one.name}{kind}" + (f", {one.unanswered} unanswered" if one.unanswered else "")


def _part(part: PartMeasurement, *, level: float) -> PartWords:
    metrics = shown_metrics(part)
    every = list(dict.fromkeys([*metrics, *(name for one in part.evaluations for name in one.metrics)]))
    against = "the relevance judgments of products" if part.judged else TRUTH_WORDS[part.truth_source]
    lede = f"Measured on {plural(part.rows, 'test query', 'test queries')} against {against}"
    lede += f", by the {part.truth_source}" if part.judged else ""
    lede += f"; {100 * level:g}% intervals over groups. " + _best_said(part)
    if any(one.unanswered for one in part.evaluations):
        lede += " Numbers are of the queries that each answered, so that those who leave some out are not comparable."
    wrong = f"{plural(part.wrong, 'query', 'queries')} of {part.rows:,} "
    wrong += "find less with its expansions" if part.judged else "answered wrongly"
    order = "those that lose most come first" if part.judged else "the surest come first"
    return PartWords(
        title=_TITLES.get(part.part, part.part),
        lede=lede,
        metrics=metrics,
        meanings=[(metric_title(name), metric_meaning(name)) for name in every],
        claims=[claim_said(one) for one in part.claims],
        checks="Without any label, of its test answers that the check speaks of:",
        check_claims=[check_claim_said(one) for one in part.check_claims],
        mistakes=f"{wrong}; {order}." if part.wrong else "",
    )


def _best_said(part: PartMeasurement) -> str:
    ranked = [one for one in part.evaluations if one.metrics.get(part.metric) and not one.unanswered]
    ranked = [one for one in ranked if one.metrics[part.metric].value is not None]
    if not ranked:
        return ""
    best = max(ranked, key=lambda one: one.metrics[part.metric].value or 0.0)
    value = interval(best.metrics[part.metric], part.metric)
    return f"The highest {metric_title(part.metric)} is that of {best.name}: {value}."


def claim_said(one: TeacherClaim) -> str:
    """Whether a student is shown to be at least as good as a teacher, with the bound that says so."""
    claim = one.claim
    if claim.lower is None or claim.p_value is None:
        return f"{one.student} against {one.teacher}: no verdict, too few groups."
    verdict = "is shown to be better than" if claim.holds else "is not shown to be at least as good as"
    metric = claim.metric
    values = f"{number(claim.student, metric)} and {number(claim.teacher, metric)} {metric_title(metric)}"
    return f"{one.student} {verdict} {one.teacher}: {values}; {_bound_said(claim)}"


def check_claim_said(one: TeacherClaim) -> str:
    """The same of how often answers pass a check that needs no label."""
    claim = one.claim
    if claim.lower is None or claim.p_value is None:
        return f"{one.student} against {one.teacher}: no verdict, too few groups."
    verdict = "is shown to pass more often than" if claim.holds else "is not shown to pass as often as"
    values = f"{claim.metric}, {number(claim.student, 'accuracy')} and {number(claim.teacher, 'accuracy')}"
    return f"{one.student} {verdict} {one.teacher}: {values}; {_bound_said(claim)}"


def _bound_said(claim: PairedClaim) -> str:
    assert claim.lower is not None and claim.p_value is not None
    chance = f"{claim.p_value:.3f}" if claim.p_value >= 0.001 else "<0.001"
    bound = f"{claim.lower:+.3f}".replace("-", "−")
    return (
        f"the difference is at least {bound} ({100 * claim.level:g}% one-sided, paired over {claim.groups:,} groups; "
        f"p {chance})."
    )


def _headline(facts: QueryFacts) -> str:
    if not facts.parts:
        return f"{facts.name}: nothing to measure against"
    said = []
    for part in facts.parts:
        found = next((one for one in part.evaluations if one.name == part.shown), None)
        value = found.metrics.get(part.metric) if found else None
        if value is not None and value.value is not None:
            said.append(f"{part.part} {number(value.value, part.metric)}")
    students = any(one.kind not in _KINDS for part in facts.parts for one in part.evaluations)
    return f"{'The best students' if students else 'Merged labels'} reach {', '.join(said)}" if said else facts.name


def _lede(facts: QueryFacts) -> str:
    if not facts.parts:
        return "No test row has an answer by a person or the data’s author, and no student learned from merged labels."
    names = ", ".join(f"{metric_title(part.metric)} for {part.part}" for part in facts.parts)
    sources = {part.truth_source for part in facts.parts}
    said = f"The figures are {names}. "
    if sources == {"teacher"}:
        return said + "Truth are merged teacher labels: that is agreement and no accuracy."
    return said + "Each part has its own metrics, its own truth and its own mistakes below; parts are not comparable."


def _tile(part: PartMeasurement) -> Tile | None:
    found = next((one for one in part.evaluations if one.name == part.shown), None)
    value = found.metrics.get(part.metric) if found else None
    if found is None or value is None or value.value is None:
        return None
    ends = interval(value, part.metric).split(" ", 1)
    note = f"{metric_title(part.metric)} of {found.name}"
    note += f", {ends[1].strip('()')}" if len(ends) > 1 else ""
    return Tile(_TITLES.get(part.part, part.part), number(value.value, part.metric), note)


def _alerts(facts: QueryFacts) -> list[str]:
    """A word of caution where a part has few queries; one for all parts that have as few."""
    few: dict[int, list[str]] = {}
    for part in facts.parts:
        if part.rows < _FEW_QUERIES:
            few.setdefault(part.rows, []).append(part.part)
    return [
        f"Only {plural(rows, 'test query', 'test queries')} for {', '.join(names)}: a few points apart may be chance."
        for rows, names in few.items()
    ]


def _students(facts: QueryFacts) -> Table | None:
    """What each student took: one line a student, whatever the parts that it answers."""
    rows = list({row.name: row for row in facts.ladder.rows if row.is_student}.values())
    if not rows:
        return None
    lines: list[list[object]] = [
        [
            row.name,
            row.trained_on or "–",
            quantity(row.parameters),
            "–" if row.size_mb is None else f"{row.size_mb:,.0f} MB",
            quantity(row.pairs_per_s, " queries/s"),
            seconds(row.train_s),
            dollars(row.cost_usd),
        ]
        for row in rows
    ]
    return ["student", "trained on", "weights", "size", "speed, all parts", "training", "labels cost"], lines


def _answers(facts: QueryFacts) -> Table | None:
    if not facts.outcomes:
        return None
    seen = list(dict.fromkeys(name for one in facts.outcomes for name, amount in one.outcomes.items() if amount))
    lines: list[list[object]] = [
        [one.teacher, one.family, one.part or "–", *(count(one.outcomes.get(name, 0)) for name in seen)]
        for one in facts.outcomes
    ]
    return ["teacher", "family", "part", *seen], lines


def _merging(facts: QueryFacts) -> list[str]:
    priced = [one for one in facts.teachers if one.cost_usd]
    costs = "; ".join(f"{one.name} cost {dollars(one.cost_usd)}, {dollars(one.paid_usd)} of it now" for one in priced)
    said = [f"{costs}."] if costs else []
    if facts.checks:
        given = sum(own.get("given", 0) for own in facts.checks.values())
        each = []
        for teacher, own in facts.checks.items():
            left = {reason: amount for reason, amount in own.items() if reason != "given"}
            if left:
                why = ", ".join(f"{amount:,} {reason}" for reason, amount in left.items())
                each.append(f"{teacher} {sum(left.values()):,} of {own.get('given', 0):,} ({why})")
        text = (
            f"Of {given:,} expansions, those were left out of the vote that retrieve something else than their query: "
        )
        said.append(text + ("; ".join(each) if each else "none") + ".")
    return said


def _merged(facts: QueryFacts) -> Table | None:
    if not facts.merged:
        return None
    columns = ["part", "rows", "labeled", "ties", "votes are worth", "mean confidence", "merged by"]
    lines: list[list[object]] = [
        [
            one.part or "–",
            count(one.rows),
            count(one.labeled),
            count(one.ties),
            f"{one.n_eff:.2f}",
            number(one.confidence, "accuracy"),
            one.method,
        ]
        for one in facts.merged
    ]
    return columns, lines


def _data(facts: QueryFacts) -> list[tuple[str, str]]:
    lines = []
    for name in _DATA:
        value = facts.summary.get(name)
        if value in (None, 0, {}, []):
            continue
        text = (
            ", ".join(f"{key} {count(amount)}" for key, amount in value.items()) if isinstance(value, dict) else value
        )
        lines.append((name.replace("_", " "), text if isinstance(text, str) else count(text)))
    return lines
