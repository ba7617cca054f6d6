"""What a run report says in plain words, from its facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.eval.evaluation import METRICS, Evaluation
from distill.eval.ladder import Ladder
from distill.eval.ladder_words import cost_title
from distill.eval.people.words import PeopleWords, people_said
from distill.eval.report.asking_words import asking_said, obeyed_said
from distill.eval.report.cascade_words import cascade_said, right_means
from distill.eval.report.estimate_words import FewLabelsWords, UnlabeledWords, few_labels_said, unlabeled_said
from distill.eval.report.facts import RunFacts
from distill.eval.report.function_words import COLUMNS, function_cells, functions_said
from distill.eval.report.headline import Tile, alerts_said, headline_said, lede_said, tiles_of
from distill.eval.report.labeling_facts import TeacherFacts
from distill.eval.report.merging_facts import merging_said
from distill.eval.report.panel_words import label_table, panel_said, panel_table
from distill.eval.report.student_words import StudentWords, students_said
from distill.eval.report.trace_words import traces_said
from distill.eval.rounds import rounds_cells
from distill.eval.wording import (
    count,
    dollars,
    flatten,
    metric_meaning,
    metric_title,
    number,
    plural,
    share,
)
from distill.labeling.vote import OUTCOMES

_NOT_SHOWN = frozenset({"warnings", "path"})
"""Of the summary of rows: shown elsewhere, or true on one machine only."""


@dataclass(frozen=True)
class Words:
    """Every sentence and small table of a run report that is not a number of the facts itself."""

    headline: str
    lede: str
    tiles: list[Tile]
    alerts: list[str]
    contents: list[tuple[str, str]]
    metric: str
    level: str
    shown: str | None
    mixed_truth: bool
    ladder: str
    outcomes: str
    outcomes_seen: list[str]
    costs: dict[str, str]
    any_reasons: bool
    agreement: list[str]
    calibration: str
    canaries: str
    obeyed: str
    asking: list[str]
    functions: str
    function_columns: tuple[str, ...]
    function_cells: list[list[str]]
    cascade: list[str]
    cascade_right: str
    rounds: tuple[list[str], list[list[str]]] | None
    examples: str
    example_picks: dict[str, tuple[str, list[tuple[str, str]]]]
    data: list[tuple[str, str]]
    data_lede: str
    data_warnings: list[str]
    metrics: list[tuple[str, str]]
    metric_titles: dict[str, str]
    manifest: list[tuple[str, str]]
    students: StudentWords | None
    people: PeopleWords | None
    merging: list[str]
    panel: list[str]
    panel_tables: list[tuple[str, list[str], list[list[str]]]]
    few: FewLabelsWords | None
    unlabeled: UnlabeledWords | None
    ladder_has: LadderHas


@dataclass(frozen=True)
class LadderHas:
    """Which columns of the ladder say anything in this run."""

    powered: bool
    estimate: bool
    cost_per_point: bool
    cost_title: str

    @classmethod
    def of(cls, ladder: Ladder) -> LadderHas:
        """Looks at every rung."""
        return cls(
            powered=any(row.powered is not None for row in ladder.rows),
            estimate=any(row.estimate is not None for row in ladder.rows),
            cost_per_point=any(row.cost_per_point is not None for row in ladder.rows),
            cost_title=cost_title(ladder),
        )


def put_in_words(facts: RunFacts) -> Words:
    """Says what the facts mean."""
    shown = _shown(facts)
    evaluation = facts.evaluations.get(shown or "")
    first = facts.ladder.rows[0] if facts.ladder.rows else None
    truth = first.truth_source if first else None
    return Words(
        headline=headline_said(facts),
        lede=lede_said(facts),
        tiles=tiles_of(facts),
        alerts=alerts_said(facts, evaluation),
        contents=_contents(facts),
        metric=metric_title(first.metric, positive=facts.positive, truth_source=truth) if first else "quality",
        level=f"{100 * first.quality.level:g}%" if first else "95%",
        shown=shown,
        mixed_truth=len({row.truth_source for row in facts.ladder.rows}) > 1,
        ladder=_ladder(facts),
        outcomes=_outcomes(facts),
        outcomes_seen=[name for name in OUTCOMES if any(teacher.outcomes[name] for teacher in facts.teachers)],
        costs={teacher.name: teacher_cost(teacher) for teacher in facts.teachers},
        any_reasons=any(teacher.reasons for teacher in facts.teachers),
        agreement=_agreement(facts),
        calibration=_calibration(evaluation, shown),
        canaries=_canaries(facts),
        obeyed=obeyed_said(facts.obeyed),
        asking=[*asking_said(facts.asking), *traces_said(facts.teachers)],
        functions=functions_said(facts.functions),
        function_columns=COLUMNS,
        function_cells=[function_cells(one) for one in facts.functions],
        cascade=cascade_said(facts.cascade),
        cascade_right=right_means(facts.cascade) if facts.cascade else "",
        rounds=rounds_cells(facts.rounds) if facts.rounds else None,
        examples=_examples(facts),
        example_picks=_picks(facts),
        data=_data(facts.summary),
        data_lede=_data_lede(facts.summary),
        data_warnings=[str(warning) for warning in facts.summary.get("warnings", [])],
        metrics=[
            (name, metric_meaning(name, positive=facts.positive))
            for name in METRICS
            if any(name in found.metrics for found in facts.evaluations.values())
        ],
        metric_titles={name: metric_title(name, positive=facts.positive, truth_source=truth) for name in METRICS},
        manifest=flatten(facts.manifest),
        students=students_said(facts.students, facts.answered),
        few=few_labels_said(facts.few_labels),
        unlabeled=unlabeled_said(facts.label_free, judges=len(facts.teachers) - len(facts.functions)),
        ladder_has=LadderHas.of(facts.ladder),
        people=people_said(facts.people),
        merging=[] if facts.labels is None else merging_said(facts.labels.gold, facts.labels.student),
        panel=panel_said(facts.panel),
        panel_tables=[
            (title, *table)
            for title, table in (
                ("What each family adds to the others", panel_table(facts.panel)),
                ("What the votes are worth, by label", label_table(facts.panel)),
            )
            if table is not None
        ],
    )


def teacher_cost(teacher: TeacherFacts) -> str:
    """What a teacher's answers cost; what is unknown is said, not counted as nothing."""
    missing = teacher.answered - teacher.priced
    if teacher.cost_usd is None:
        return "unknown" if teacher.answered else "–"
    return dollars(teacher.cost_usd) + (f" + {plural(missing, 'answer')} of unknown price" if missing else "")


def _shown(facts: RunFacts) -> str | None:
    best = facts.ladder.best
    if best is not None:
        return best.name
    return next(iter(facts.evaluations), None)


def _contents(facts: RunFacts) -> list[tuple[str, str]]:
    evaluation = facts.evaluations.get(_shown(facts) or "")
    wanted = [
        ("ladder", "Ladder", bool(facts.ladder.rows)),
        ("few", "A few labels", facts.few_labels is not None),
        ("rounds", "Rounds", facts.rounds is not None),
        ("teachers", "Teachers", bool(facts.teachers)),
        ("functions", "Labeling functions", bool(facts.functions)),
        ("cascade", "Cascade", facts.cascade is not None),
        ("agreement", "Agreement", bool(facts.pairs or facts.labels)),
        ("unlabeled", "Without labels", facts.label_free is not None and facts.label_free.has_any),
        ("people", "People", facts.people is not None),
        ("trust", "Mistakes and trust", evaluation is not None),
        ("made", "Training", bool(facts.students)),
        ("slices", "Slices", evaluation is not None and bool(evaluation.slices)),
        ("drift", "Today's rows", facts.drift is not None),
        ("canaries", "Planted orders", bool(facts.canaries or facts.obeyed)),
        ("rows", "Rows", bool(facts.examples)),
        ("data", "Data", bool(facts.summary)),
        ("numbers", "All numbers", True),
    ]
    return [(name, title) for name, title, there in wanted if there]


def _ladder(facts: RunFacts) -> str:
    students = [row for row in facts.ladder.rows if row.is_student]
    if len(students) < 2:
        return "Each line is one predictor, in the order reached."
    steps = []
    for row in students:
        if row.gain is None or row.gain.low is None or row.gain.high is None:
            continue
        verdict = "better" if row.gain.low > 0 else "worse" if row.gain.high < 0 else "no clear difference"
        steps.append(f"{row.name} over {row.gain_over}: {verdict}")
    return "Each line is one predictor, in the order reached. Step by step: " + "; ".join(steps) + "."


def _outcomes(facts: RunFacts) -> str:
    asked = sum(teacher.asked - teacher.spared for teacher in facts.teachers)
    labeled = sum(teacher.outcomes["labeled"] for teacher in facts.teachers)
    rest = asked - labeled
    said = f"{plural(len(facts.teachers), 'teacher')} were asked {count(asked)} times and gave {count(labeled)} labels"
    if len(facts.teachers) == 1:
        said = f"One teacher was asked {count(asked)} times and gave {count(labeled)} labels"
    if explained := sum(teacher.outcomes["explained"] for teacher in facts.teachers):
        said += f", and explained {count(explained)} that they were shown"
    rest -= explained
    return said + (
        f"; {count(rest)} ended otherwise, and each is accounted for." if rest else ", one for every question."
    )


def _agreement(facts: RunFacts) -> list[str]:
    lines = []
    if facts.pairs:
        high = max(facts.pairs, key=lambda pair: pair.agreement.value or 0)
        low = min(facts.pairs, key=lambda pair: pair.agreement.value or 0)
        lines.append(
            f"Pairs of teachers give the same label on {share(low.agreement)} to {share(high.agreement)} of rows."
            if low is not high
            else f"The two teachers give the same label on {share(low.agreement)} of rows."
        )
        if all(pair.same_family for pair in facts.pairs):
            lines.append(
                "All are of one family: models that share ancestry err together, so agreement among them is weak proof."
            )
    if facts.labels is not None:
        labels = facts.labels
        said = f"{plural(labels.rows, 'row')} carry a merged label"
        said += f", by {labels.method}" if labels.method else ""
        if labels.mean_votes is not None and labels.mean_n_eff is not None:
            said += f"; {labels.mean_votes:.1f} votes a row are worth {labels.mean_n_eff:.1f} independent ones"
        if labels.mean_confidence is not None:
            said += f", and it is {100 * labels.mean_confidence:.0f}% sure on average"
        lines.append(said + f". {plural(labels.ties, 'tie')}.")
    return lines


def _calibration(evaluation: Evaluation | None, shown: str | None) -> str:
    if evaluation is None or shown is None:
        return ""
    cells = [
        (cell, evaluation.labels[i], evaluation.labels[j])
        for i, line in enumerate(evaluation.confusion)
        for j, cell in enumerate(line)
        if i != j
    ]
    worst = max(cells, default=(0.0, "", ""))
    said = (
        f"Its commonest mistake is to call {worst[1]} rows {worst[2]} ({plural(worst[0], 'row')})."
        if worst[0]
        else "No mistakes."
    )
    error = evaluation.metrics.get("calibration_error")
    if error is not None and error.value is not None and evaluation.reliability:
        rows = sum(cell.correct.rows for cell in evaluation.reliability)
        lean = (
            sum((cell.confidence - (cell.correct.value or 0)) * cell.correct.rows for cell in evaluation.reliability)
            / rows
        )
        manner = "too sure of itself" if lean > 0 else "less sure than it could be"
        said += f" What it says of its own certainty is off by {100 * error.value:.1f} points on average"
        said += f", mostly {manner}." if abs(lean) > 0.02 else ", in both directions."
    return said


def _canaries(facts: RunFacts) -> str:
    if not facts.canaries:
        return ""
    known = [canary for canary in facts.canaries if canary.planted]
    opening = "Some listings were planted with text that tells the rater what to answer. "
    if not known:
        return opening + "None of them has a known truth among the judged rows, so no breach can be told."
    fell = [canary for canary in known if canary.breached]
    if not fell:
        most = max(known, key=lambda canary: canary.planted)
        said = f"Nobody gave in. Few rows are planted, though: for {most.name}, with {most.planted}, the true rate "
        return opening + said + f"may still be up to {number(most.rate.high, 'accuracy')}."
    worst = max(fell, key=lambda canary: canary.rate.value or 0)
    said = (
        f"{worst.name} gave in most: {worst.breached} of {plural(worst.planted, 'planted row')} got {facts.positive} "
    )
    said += (
        f"though the truth is another label, a rate of {share(worst.rate)}. Without a plant it makes that mistake on "
    )
    said += f"{share(worst.usual)}"
    usual, low = worst.usual.value, worst.rate.low
    if usual is not None and low is not None and low <= usual:
        return opening + said + ", so that the plants are not shown to have done it."
    return opening + said + ": the plants work on it."


def _examples(facts: RunFacts) -> str:
    if facts.examples_of is None:
        return "The labeled rows on whose merged label least rests, least sure first."
    wrong = sum(example.verdict in ("wrong", "differs") for example in facts.examples)
    if any(example.verdict in ("differs", "same") for example in facts.examples):
        return (
            f"Test rows on which {facts.examples_of} differs from the merged label, surest first ({wrong} shown), then "
            "those on which it does not and is least sure. No label by people tells who is right."
        )
    return (
        f"Test rows that {facts.examples_of} gets wrong, the surest first ({wrong} shown), then those that it gets "
        "right and is least sure of. A wrong row on which all judges agree with the truth is a student’s mistake; one "
        "on which judges agree with the student may be a mistake in the truth."
    )


def _picks(facts: RunFacts) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    picks: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for name, title, values in (
        ("verdict", "right and wrong", [example.verdict for example in facts.examples]),
        ("truth", "any truth", [example.truth or "" for example in facts.examples]),
        ("predicted", "any prediction", [example.predicted or "" for example in facts.examples]),
    ):
        options = sorted({value for value in values if value})
        if len(options) > 1:
            picks[name] = (title, [(value, value) for value in options])
    return picks


def _data_lede(summary: Mapping[str, Any]) -> str:
    read, kept = summary.get("read"), summary.get("kept")
    if not isinstance(read, int) or not isinstance(kept, int):
        return "What was read, and what was wrong with it."
    lost = read - kept
    return f"{plural(read, 'row')} read, {count(kept)} kept" + (
        f"; {count(lost)} left out, for the reasons below." if lost else "."
    )


def _data(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for name, value in summary.items():
        if name in _NOT_SHOWN or value is None or value in ({}, []):
            continue
        if isinstance(value, Mapping):
            said = ", ".join(f"{key}: {_value(inside)}" for key, inside in value.items())
        elif isinstance(value, list):
            said = ", ".join(_value(item) for item in value)
        else:
            said = _value(value)
        lines.append((name.replace("_", " "), said))
    return lines


def _value(value: object) -> str:
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
