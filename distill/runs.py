"""A run that is there: its tables, its ladder, its reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.errors import RunFolderError, UsageError
from distill.run_folder import RunFolder

if TYPE_CHECKING:
    from distill.eval.drift.facts import DriftReport
    from distill.eval.evaluation import Evaluation
    from distill.eval.few_labels import FewLabels
    from distill.eval.guideline.review import Review
    from distill.eval.label_free import LabelFreeFacts
    from distill.eval.labeling_functions import FunctionFacts
    from distill.eval.ladder import Ladder
    from distill.eval.ladder_comparison import LadderComparison, MeasuredRun
    from distill.eval.queries.facts import QueryMeasurement
    from distill.eval.rounds import RoundsFacts
    from distill.labeling.task import Task
    from distill.recipe import Recipe
    from distill.students.student import Student


class Run:
    """Reads a run folder. Tables are polars.

    Args:
        path: The folder.

    Raises:
        RunFolderError: No run wrote there.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder(Path(path))
        self.path = self.folder.path
        if not self.folder.manifest:
            raise RunFolderError(
                f"{self.path}: not a run folder, it has no manifest.json; give one that `distill run` made"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, students={self.students})"

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made of: versions, hashes, seeds."""
        return self.folder.manifest

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was resolved for this run."""
        from distill.recipe import load_recipe

        return load_recipe(self.folder.recipe)

    @property
    def rows(self) -> pl.DataFrame:
        """Every row that was used."""
        return self._table(self.folder.rows)

    @property
    def votes(self) -> pl.DataFrame:
        """A line for every row × teacher × sample that was asked for, whatever its outcome."""
        return self._table(self.folder.votes)

    @property
    def labels(self) -> pl.DataFrame:
        """The votes merged."""
        return self._table(self.folder.labels)

    @property
    def labeling_functions(self) -> pl.DataFrame:
        """What its labeling functions and rules cover, and how often they are right; no line where it has none.

        The columns are those of :func:`distill.analyze_labeling_functions`.
        """
        from distill.eval.labeling_functions import analysis_table

        return analysis_table(self.function_facts)

    @property
    def function_facts(self) -> list[FunctionFacts]:
        """The same as :attr:`labeling_functions`, with intervals as the reports hold them; of single labels only."""
        from distill.eval.labeling_functions import analyze_functions
        from distill.teachers.config import functions_among

        recipe = self.recipe
        if not self.folder.votes.exists() or (recipe.task is not None and not recipe.task.closed):
            return []
        votes = self.votes
        names = functions_among(votes["teacher"].unique(maintain_order=True), recipe.teachers)
        return analyze_functions(votes, self.rows, functions=names, config=recipe.eval, seed=recipe.seed)

    @property
    def students(self) -> list[str]:
        """Names of the students that are trained."""
        folder = self.path / "students"
        done = (
            [path.name for path in folder.iterdir() if self.folder.stage(f"train:{path.name}")]
            if folder.is_dir()
            else []
        )
        order = {key: index for index, key in enumerate(self.folder.stages)}
        return sorted(done, key=lambda name: order[f"train:{name}"])

    def predictions(self, student: str) -> pl.DataFrame:
        """One student's predictions on the test rows."""
        return self._table(self.folder.predictions(student))

    def student(self, name: str) -> Student:
        """A trained student, ready to predict."""
        from distill.students.student import load_student

        return load_student(self.folder.student(name))

    @property
    def has_ladder(self) -> bool:
        """Whether the run got as far as being measured."""
        return self.folder.ladder.exists()

    @property
    def ladder(self) -> Ladder:
        """Students in order, with quality, interval, truth source, size and speed."""
        from distill.eval.ladder import Ladder

        self._need(self.folder.ladder, "eval")
        return Ladder.model_validate_json(self.folder.ladder.read_text(encoding="utf-8"))

    @property
    def rounds(self) -> RoundsFacts | None:
        """What each round of distillation asked, cost and gained, and why they ended; None without rounds."""
        from distill.eval.rounds import RoundsFacts

        path = self.folder.rounds
        if not path.exists():
            return None
        return RoundsFacts.model_validate_json(path.read_text(encoding="utf-8"))

    @property
    def measured(self) -> MeasuredRun:
        """Ladder, rows and predictions, as a comparison of runs reads them.

        Raises:
            RunFolderError: It was not measured.
        """
        from distill.eval.ladder_comparison import MeasuredRun

        ladder, recipe = self.ladder.last_round, self.recipe  # the students that the folder holds
        # Whoever keeps only ladders of old runs can still stand them below each other.
        kept = [row.name for row in ladder.rows if row.is_student and self.folder.predictions(row.name).exists()]
        rows = self.rows if self.folder.rows.exists() else None
        said = {name: self.predictions(name) for name in kept}
        return MeasuredRun(ladder, rows, said, self._task(recipe), recipe.eval)

    @property
    def label_free(self) -> LabelFreeFacts | None:
        """What is said of teachers and students without any label; None in a folder of an older version."""
        from distill.estimates import read_label_free

        return read_label_free(self.folder)

    @property
    def few_labels(self) -> FewLabels | None:
        """What the test rows with gold tell of all of them; None where all have gold, or none has."""
        from distill.estimates import read_few_labels

        return read_few_labels(self.folder)

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """Every measurement, by the name of who was measured.

        Raises:
            RunFolderError: The run is not measured yet, or its answers are no single labels.
        """
        from distill.eval.evaluation import Evaluation

        self._need(self.folder.evaluations, "eval")
        raw = json.loads(self.folder.evaluations.read_text(encoding="utf-8"))
        if "parts" in raw:
            raise RunFolderError(f"{self.path}: its answers are no single labels; read query_measurement instead")
        return {name: Evaluation.model_validate(value) for name, value in raw.items()}

    @property
    def query_measurement(self) -> QueryMeasurement | None:
        """Measurements of a task whose answers are no single label, by part; None where they are."""
        from distill.eval.queries.facts import QueryMeasurement

        self._need(self.folder.evaluations, "eval")
        text = self.folder.evaluations.read_text(encoding="utf-8")
        return QueryMeasurement.model_validate_json(text) if "parts" in json.loads(text) else None

    def _need_single_labels(self, what: str) -> None:
        """Refuses what lays answers to the clauses, or the doubts, of one label.

        Raises:
            UsageError: The answers are several labels, spans, texts or parts.
        """
        task = self.recipe.task
        if task is not None and not task.closed:
            raise UsageError(
                f"{what}: {self.path} asks a task of type {task.type}, whose answers are no single label; its run "
                "report lists the mistakes of each part"
            )

    @property
    def drift(self) -> DriftReport | None:
        """Today's rows against those of the run; None where its recipe watches none, or it did not get that far."""
        from distill.eval.drift.facts import DriftReport

        if not self.folder.monitor.exists():
            return None
        return DriftReport.model_validate_json(self.folder.monitor.read_text(encoding="utf-8"))

    @property
    def reports(self) -> dict[str, Path]:
        """The reports that were written, by what they are."""
        named = {"run report": self.folder.report, "guideline review": self.folder.review}
        return {name: path for name, path in named.items() if path.exists()}

    def review(self) -> Review:
        """Where judges disagree, and which clause is to blame.

        Raises:
            DataError: No row was labeled by two judges.
        """
        from distill.eval.guideline.review import review

        self._need_single_labels("review")
        recipe = self.recipe
        labels = self.labels if self.folder.labels.exists() else None
        return review(
            self.votes, self.rows, task=self._task(recipe), labels=labels, config=recipe.eval, seed=recipe.seed
        )

    def write_review(
        self,
        out: Path | None = None,
        *,
        decisions: Sequence[Path] = (),
        edits: Path | None = None,
        propose: str | None = None,
        history: Sequence[Path] = (),
    ) -> list[Path]:
        """Writes the guideline review: HTML, Markdown and JSON, the page to decide on, the table of contested rows.

        Args:
            out: The HTML file; ``review.html`` in the run folder where none is given. The others stand beside it.
            decisions: Files that people saved on the page; what they decided counts as gold.
            edits: Edits of clauses to try first: the run's teachers are asked again, see :mod:`distill.try_edits`.
            propose: Name of the run's teacher that is to propose edits, for a person to read.
            history: Earlier texts of the guideline, oldest first: what changed since, and what that made stale.

        Raises:
            DataError: No row was labeled by two judges, or a file holds no decisions.
        """
        from distill.review_files import ReviewSettings, write_review_files

        self._need_single_labels("review")
        recipe, labels = self.recipe, self.labels if self.folder.labels.exists() else None
        path, task = out or self.folder.review, self._task(recipe)
        tried = None
        if edits is not None:
            from distill.try_edits import read_edits, try_edits

            tried = try_edits(self, read_edits(edits))
        settings = ReviewSettings(
            labels=labels,
            decisions=tuple(decisions),
            tried=tried,
            earlier=tuple(history),
            eval=recipe.eval,
            report=recipe.report,
            seed=recipe.seed,
        )
        written = write_review_files(path, self.votes, self.rows, name=recipe.name, task=task, settings=settings)
        if propose is not None:
            from distill.propose_edits import propose_edits, write_proposals

            proposed = path.with_name(f"{path.stem}_proposed.yaml")
            written.append(write_proposals(proposed, self, propose_edits(self, propose), teacher=propose))
        return written

    def to_dict(self) -> dict[str, Any]:
        """What a program wants to know of the run."""
        label = self.folder.stage("label")
        return {
            "folder": str(self.path),
            "outcomes": label.facts.get("outcomes") if label else None,
            "cost_usd": label.facts.get("cost_usd") if label else None,
            "students": self.students,
            "ladder": self.ladder.model_dump(mode="json")["rows"] if self.has_ladder else [],
            "rounds": rounds.model_dump(mode="json") if (rounds := self.rounds) else None,
            "reports": {name: str(path) for name, path in self.reports.items()},
        }

    def _task(self, recipe: Recipe) -> Task:
        from distill.labeling.task import Task

        assert recipe.task is not None, "a run's recipe has a task"
        return Task.from_config(recipe.task)

    def _table(self, path: Path) -> pl.DataFrame:
        self._need(path, "run")
        return pl.read_parquet(path)

    def _need(self, path: Path, command: str) -> None:
        if not path.exists():
            recipe = self.folder.recipe
            raise RunFolderError(f"{path}: not there yet; run: distill {command} {recipe} --out {self.path}")


def joined_ladder(runs: Sequence[Path]) -> LadderComparison:
    """The ladders of several runs, one below the other, with paired differences to the first one's students.

    Raises:
        RunFolderError: One of them is no run folder, or was not measured.
    """
    from distill.eval.ladder import merge_ladders
    from distill.eval.ladder_comparison import LadderComparison, compare_runs

    if len(runs) == 1:
        ladder = Run(runs[0]).ladder
        return LadderComparison(rows=ladder.rows, baseline=ladder.baseline)
    ladders = {str(path): Run(path).ladder for path in runs}
    if any(row.part for ladder in ladders.values() for row in ladder.rows):
        # Differences are of single labels; parts stand below each other, each with its interval.
        return LadderComparison(rows=merge_ladders(ladders).rows, baseline=None)
    found = {str(path): Run(path).measured for path in runs}
    return compare_runs(found, seed=Run(runs[0]).recipe.seed)
