"""Measures a run whose answers are no single label: each part by its own metrics, and a ladder of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from distill.eval.ladder import Kind, Ladder, LadderRow
from distill.eval.queries.answers import PartAnswers, gold_answers, part_answers
from distill.eval.queries.claims import Predictor, Settings, paired_gain
from distill.eval.queries.evaluation import measure_part, queries_of
from distill.eval.queries.facts import PartMeasurement, QueryMeasurement
from distill.eval.queries.label_free import expansion_passes, spelling_passes
from distill.eval.queries.tallies import Measured, Retrieval
from distill.eval.scored import TruthSource
from distill.labeling.queries.catalogue_file import open_catalogue, read_judgments
from distill.labeling.task import Task
from distill.measurement import label_cost, made_of
from distill.model_cards import write_cards
from distill.run_folder import write_json
from distill.session import Ended, Session
from distill.teachers.config import functions_among

_LISTED = 12
"""Mistakes of a part that the report shows."""


class QueryRun:
    """The tables of a run, and who answered."""

    def __init__(self, session: Session) -> None:
        self.session = session
        folder, recipe = session.folder, session.recipe
        self.rows = pl.read_parquet(folder.rows)
        self.votes = pl.read_parquet(folder.votes) if recipe.teachers else None
        self.labels = pl.read_parquet(folder.labels) if recipe.teachers else None
        self.predictions = {name: pl.read_parquet(folder.predictions(name)) for name in recipe.students}
        rows = self.rows.with_columns(pl.col("row_id").cast(pl.String))
        self.settings = Settings(
            recipe.eval,
            recipe.seed,
            groups=dict(rows.select("row_id", "group").iter_rows()),
            slices={
                name: dict(rows.select("row_id", pl.col(name).fill_null("")).iter_rows()) for name in recipe.eval.slices
            },
        )
        config = recipe.data.catalogue if recipe.data else None
        self.catalogue = open_catalogue(config) if config else None
        self.retrieval = None
        if config is not None and config.judgments is not None and self.catalogue is not None:
            judged = read_judgments(config.judgments)
            self.retrieval = Retrieval(self.catalogue, judged, k=10, fusion=config.judgments.fusion)

    def merged(self, single: Task) -> PartAnswers | None:
        """The merged answers to a part; None without teachers."""
        return None if self.labels is None else part_answers(self.labels, single)

    def students(self) -> list[tuple[str, Kind, pl.DataFrame]]:
        """Who was trained, with the table of the answers."""
        return [(name, self.session.recipe.students[name].type, table) for name, table in self.predictions.items()]

    def teachers(self) -> list[tuple[str, Kind, pl.DataFrame]]:
        """Who taught: teachers, merged labels, functions."""
        if self.votes is None or self.labels is None:
            return []
        names = self.votes["teacher"].unique(maintain_order=True).to_list()
        functions = set(functions_among(names, self.session.recipe.teachers))
        by_name = {name: self.votes.filter(pl.col("teacher") == name) for name in names}
        found: list[tuple[str, Kind, pl.DataFrame]] = [
            (name, "teacher", by_name[name]) for name in names if name not in functions
        ]
        if len(names) > 1:
            found.append(("merged labels", "labels", self.labels))
        return [*found, *((name, "function", by_name[name]) for name in names if name in functions)]


def measure_query_run(session: Session) -> Ended:
    """Writes ``evaluations.json``, ``ladder.json`` and the students' model cards, a part at a time.

    Against gold where test rows have it for the part, or the judged products where the recipe gives them; where neither
    is there, students against the merged labels, which is agreement and says so.
    """
    run, folder = QueryRun(session), session.folder
    parts: list[PartMeasurement] = []
    rungs: list[LadderRow] = []
    for single in session.task.singles:
        found = measured_part(run, single)
        if found is None:
            continue
        measured, truth = found
        by_teachers = list(_predictors(run, measured, run.teachers()))
        predictors = list(_predictors(run, measured, run.students()))
        predictors += by_teachers if truth != "teacher" else []
        if not predictors:
            continue
        part = measure_part(
            measured,
            predictors,
            truth_source=truth,
            merged=run.merged(single),
            settings=run.settings,
            mistakes=_LISTED,
            teachers=[one for one in by_teachers if one.kind in ("teacher", "labels")],
        )
        parts.append(part)
        rungs += _rungs(run, part, measured, predictors)
        session.progress.step("measured", done=len(parts), total=None, note=part.part)
    write_cards(session, run.rows, votes=run.votes, found={}, parts=parts)
    write_json(folder.evaluations, QueryMeasurement(parts=parts).model_dump(mode="json"))
    write_json(folder.ladder, Ladder(rows=rungs, baseline=None).model_dump(mode="json"))
    if not parts:
        return Ended(
            "nothing to measure against: no test row has a gold answer, and no student learned from merged ones"
        )
    said = "; ".join(f"{part.part}: {len(part.evaluations)} judged on {part.rows:,} queries" for part in parts)
    truths = ", ".join(dict.fromkeys(part.truth_source for part in parts))
    return Ended(f"{said}; truth: {truths}", facts={"truth_source": truths, "rungs": len(rungs)})


def measured_part(run: QueryRun, single: Task) -> tuple[Measured, TruthSource] | None:
    """How a part is measured, and whose answers the truth is; None where there is no truth."""
    session, data = run.session, run.session.recipe.data
    assert data is not None
    queries = queries_of(run.rows, single)
    gold = gold_answers(run.rows, session.task, single)
    retrieval = run.retrieval if single.type == "expansion" else None
    truth: TruthSource = data.gold_source
    if retrieval is not None and not any(query in retrieval.judged for query in queries.values()):
        retrieval = None
    if retrieval is None and not queries.keys() & gold.values.keys():
        merged = run.merged(single)
        if merged is None:
            return None
        gold, truth = merged, "teacher"
    measured = Measured(single, queries, gold, brands=_brands(run, single), retrieval=retrieval)
    return (measured, truth) if measured.row_ids else None


def _predictors(
    run: QueryRun, measured: Measured, tables: Sequence[tuple[str, Kind, pl.DataFrame]]
) -> Iterator[Predictor]:
    for name, kind, table in tables:
        if kind == "function" and not part_answers(table, measured.single).values:
            continue  # it speaks of another part
        yield predictor(run, measured, name, kind, table)


def predictor(run: QueryRun, measured: Measured, name: str, kind: Kind, table: pl.DataFrame) -> Predictor:
    """Who answered a part, with the checks that the answers pass.

    Args:
        run: Whose catalogue they are checked in.
        measured: The part.
        name: Who.
        kind: What it is.
        table: Its answers to all parts.
    """
    answers = part_answers(table, measured.single)
    return Predictor(name, kind, answers, _passes(run, table, measured, answers))


def _brands(run: QueryRun, single: Task) -> dict[str, list[str]]:
    """True brands of each query as written there, for over-correction of real brands; empty where nobody gave them."""
    task = run.session.task
    brand = next((one for one in task.singles if one.type == "brand"), None)
    if single.type != "spelling" or brand is None:
        return {}
    known = gold_answers(run.rows, task, brand).values
    return {row_id: [span.text for span in spans] for row_id, spans in known.items()}


def _passes(
    run: QueryRun, table: pl.DataFrame, measured: Measured, answers: PartAnswers
) -> dict[str, dict[str, float]]:
    if measured.single.type == "expansion":
        return expansion_passes(measured.queries, answers, catalogue=run.catalogue)
    if measured.single.type != "spelling":
        return {}
    brand = next((one for one in run.session.task.singles if one.type == "brand"), None)
    own = part_answers(table, brand) if brand is not None else None
    brands = own if own is not None and own.values else None
    return spelling_passes(measured.queries, answers, brands=brands, catalogue=run.catalogue)


def _rungs(run: QueryRun, part: PartMeasurement, measured: Measured, predictors: list[Predictor]) -> list[LadderRow]:
    """The part's ladder: students with what they gain over the first of their kind, then who taught them."""
    recipe = run.session.recipe
    lines: list[LadderRow] = []
    earlier: list[Predictor] = []
    for one, found in zip(predictors, part.evaluations, strict=True):
        if part.metric not in found.metrics:
            continue
        student = recipe.students.get(one.name)
        over = next((other for other in earlier if other.kind == one.kind), None) if one.is_student else None
        lines.append(
            LadderRow(
                name=one.name,
                kind=one.kind,
                part=part.part if run.session.task.parts else None,
                trained_on=" + ".join(student.train_on) if student else "",
                metric=part.metric,
                quality=found.metrics[part.metric],
                others={name: value for name, value in found.metrics.items() if name != part.metric},
                truth_source=part.truth_source,
                unanswered=found.unanswered,
                gain=paired_gain(one, over, measured, run.settings) if over else None,
                gain_over=over.name if over else None,
                cost_usd=label_cost(student, run.votes, run.rows) if student else None,
                **(made_of(run.session.folder, one.name) if student else {}),
            )
        )
        earlier += [one] if one.is_student else []
    return lines
