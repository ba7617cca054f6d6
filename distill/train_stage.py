"""The training stage: each student learns, is set right, and predicts the test rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.people_labels import CHANCE
from distill.run_folder import lines_digest, path_digest
from distill.session import Ended, Session
from distill.stages import votes_digest, write_table
from distill.students.config import HUMAN, LABELS

if TYPE_CHECKING:
    from distill.students.abstention import Abstention
    from distill.students.config import StudentConfig
    from distill.students.fit import FitProgress, FitResult


def train(session: Session) -> None:
    """Trains each student and has it predict the test rows."""
    for name, config in session.recipe.students.items():
        _train_one(session, name, config)
        _predict_one(session, name)


def _train_one(session: Session, name: str, config: StudentConfig) -> None:
    from distill.students.fit import fit_student
    from distill.students.people import targets_for

    folder, task = session.folder, session.task

    def work() -> Ended:
        rows = pl.read_parquet(folder.rows)
        training = targets_for(
            config,
            rows,
            labels=pl.read_parquet(folder.labels) if LABELS in config.train_on else None,
            votes=pl.read_parquet(folder.votes) if _from_teachers(config) else None,
            task=task,
            seed=session.recipe.seed,
        )
        audit = rows.filter((pl.col("split") == "audit") & pl.col("gold").is_not_null())
        fitted = fit_student(
            config,
            training,
            task=task,
            out=folder.student(name),
            seed=session.recipe.seed,
            calibration=audit if len(audit) else None,
            on_progress=lambda state: _show_training(session, name, state),
        )
        if fitted.abstention is not None and fitted.abstention.threshold is None:
            session.progress.warn(_no_threshold(name, fitted.abstention))
        facts = {"parameters": fitted.parameters, "train_s": round(fitted.seconds, 3), "rows": training.counts}
        facts["resumed_at"] = fitted.resumed_at
        if config.prune is not None:
            facts["pruned"] = fitted.pruned
        return Ended(_fitted_said(fitted, config), facts={**facts, **fitted.facts})

    session.stage(f"train:{name}", reads=_training_reads(session, config), outputs=[folder.student(name)], work=work)


def _fitted_said(fitted: FitResult, config: StudentConfig) -> str:
    """How training went, in words."""
    from distill.students.queries.parts_info import parts_told

    said = f"{fitted.parameters:,} parameters on {fitted.rows:,} rows"
    if config.prune is not None:
        said += f", {fitted.pruned:,} left out as mislabeled"
    if "traces_learned" in fitted.facts:
        said += f", {fitted.facts['traces_learned']:,} traces"
    said += f"; {fitted.traces.told()}" if fitted.traces else ""
    return said if fitted.parts is None else f"{said}; {parts_told(fitted.parts)}"


def _training_reads(session: Session, config: StudentConfig) -> list[Any]:
    """All that a student hangs on: where nothing of it has changed, the student is not trained again."""
    folder, task = session.folder, session.task
    base = getattr(config, "base", None)
    return [
        _learnable_digest(folder.rows),
        session.marks.get("aggregate") if LABELS in config.train_on else None,
        votes_digest(folder.votes) if _from_teachers(config) else None,
        config.model_dump(mode="json"),
        path_digest(Path(base) / "config.json") if base and (Path(base) / "config.json").is_file() else None,
        *_titles_digest(config),
        [task.labels, task.inputs, task.positive, task.ordered],
        *([task.basis] if not task.closed else []),
        task.guideline.sha256 if task.guideline and getattr(config, "traces", None) else None,
        session.recipe.seed,
    ]


def _from_teachers(config: StudentConfig) -> bool:
    """Whether it learns from single teachers' votes."""
    return any(source not in (HUMAN, LABELS) for source in config.train_on)


def _learnable_digest(path: Path) -> str:
    """Digest of the rows that a student may learn from or be set right by.

    People who label more test rows change what students are measured on, and nothing that they are trained on.
    """
    rows = pl.scan_parquet(path).filter(pl.col("split") != "test")
    return lines_digest(rows.drop(CHANCE, strict=False))


def _titles_digest(config: StudentConfig) -> list[str]:
    """Digest of the titles that a student's corrector reads; none without one, so that earlier marks still hold."""
    corrector = getattr(config, "corrector", None)
    if corrector is None or corrector.titles is None or corrector.titles.startswith("hf://"):
        return []
    return [path_digest(Path(corrector.titles))]


def _no_threshold(name: str, abstention: Abstention) -> str:
    text = (
        f"student {name}: abstain: on {abstention.rows:,} gold rows of {abstention.groups:,} audit groups no threshold "
        f"was shown to keep the risk at {abstention.risk:g}, so that it abstains on every row"
    )
    needed = f"; about {abstention.rows_needed:,} such rows" if abstention.rows_needed else ""
    return f"{text}; raise the risk, or give split audit more gold labels{needed}"


def _predict_one(session: Session, name: str) -> None:
    from distill.students.student import load_student

    folder = session.folder

    def work() -> Ended:
        rows = pl.read_parquet(folder.rows).filter(pl.col("split") == "test")
        student = load_student(folder.student(name))
        began = time.perf_counter()
        predictions = student.predict(rows)
        seconds = max(time.perf_counter() - began, 1e-9)
        write_table(predictions, folder.predictions(name))
        return Ended(
            f"{len(rows):,} test rows, {len(rows) / seconds:,.0f} pairs/s", facts={"pairs_per_s": len(rows) / seconds}
        )

    session.stage(
        f"predict:{name}",
        reads=[session.marks[f"train:{name}"], path_digest(folder.rows)],
        outputs=[folder.predictions(name)],
        work=work,
    )


def _show_training(session: Session, name: str, state: FitProgress) -> None:
    note = f"epoch {state.epoch} of {state.epochs} · {state.rows_per_s:,.0f} pairs/s"
    note += f" · loss {state.loss:.3f}" if state.loss is not None else ""
    session.progress.step(name, done=state.step, total=state.total_steps, note=note)
