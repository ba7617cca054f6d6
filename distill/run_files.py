"""What the run report tells of students, and which files it links to, as plain facts: it may load no student itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distill.eval.report.facts import FileLink
from distill.eval.report.student_facts import AbstentionFacts, CalibrationFacts, StudentFacts, TraceLearning
from distill.labeling.rows.load import problems_path
from distill.session import Session
from distill.students.abstention import Abstention
from distill.students.calibration import Calibration
from distill.students.model_card import CARD_FILE
from distill.students.student_info import StudentInfo

_CAUSAL_TRACES = "traces_"
"""Counts of a causal student's traces: ``traces_learned``, and ``traces_<problem>`` for those left out."""


def student_facts(session: Session, name: str) -> StudentFacts:
    """How a trained student of the run was made.

    Raises:
        StudentError: Its folder holds none.
    """
    folder = session.folder
    info, record = StudentInfo.read(folder.student(name)), folder.stage(f"train:{name}")
    noted = record.facts if record else {}
    loss = info.config.get("loss")
    return StudentFacts(
        learned=info.rows,
        loss=_in_words(loss) if loss else None,
        settings=info.config,
        train_s=noted.get("train_s"),
        resumed_at=noted.get("resumed_at", 0),
        pruned=noted.get("pruned"),
        calibration=_calibration(info.calibration),
        abstention=None if info.abstention is None else _abstention(info.abstention),
        traces=_traces(info),
        card_href=_href(folder.student(name) / CARD_FILE, folder.path),
    )


def file_links(session: Session, review: Sequence[Path]) -> list[FileLink]:
    """The files of the run folder that there are, in the order in which a reader wants them.

    Args:
        session: The run.
        review: What was written of the guideline review; nothing where there is none.
    """
    folder = session.folder
    decide = folder.review.with_name(f"{folder.review.stem}_decide.html")
    contested = folder.review.with_name(f"{folder.review.stem}_contested.csv")
    reviewed = {folder.review: "guideline review", decide: "decide contested rows", contested: "contested rows"}
    files = {
        **{path: holds for path, holds in reviewed.items() if path in review},
        folder.rows: "every row, with its group, split and gold label",
        folder.annotations: "every annotator’s own label, with its note",
        problems_path(folder.rows): "rows that could not be used, and why",
        folder.votes: "every answer of every teacher",
        folder.failures: "questions that ended without a label, and why",
        folder.labels: "merged labels",
        **{folder.predictions(name): f"predictions of {name}" for name in session.recipe.students},
        **({folder.monitor_rows: "today's rows that were compared"} if session.recipe.monitor else {}),
        **{folder.monitor_predictions(name): f"predictions of {name} on them" for name in session.recipe.students},
        **{folder.student(name) / CARD_FILE: f"model card of {name}" for name in session.recipe.students},
    }
    there = {path: holds for path, holds in files.items() if path.is_file() and path.stat().st_size}
    return [FileLink(href=_href(path, folder.path), holds=holds) for path, holds in there.items()]


def _href(path: Path, start: Path) -> str:
    return quote(Path(os.path.relpath(path, start)).as_posix())


def _in_words(loss: Any) -> str:
    if not isinstance(loss, Mapping):
        return str(loss)
    settings = ", ".join(f"{key} {value}" for key, value in loss.items() if key != "type" and value is not None)
    return f"{loss['type']} ({settings})" if settings else str(loss["type"])


def _calibration(found: Calibration) -> CalibrationFacts:
    return CalibrationFacts(
        method=found.method,
        source=found.source,
        rows=found.rows,
        groups=found.groups,
        tried={method: score.calibration_error for method, score in found.scores.items()},
    )


def _abstention(found: Abstention) -> AbstentionFacts:
    return AbstentionFacts(
        risk=found.risk,
        confidence=found.confidence,
        threshold=found.threshold,
        rows=found.rows,
        groups=found.groups,
        rows_needed=found.rows_needed,
    )


def _traces(info: StudentInfo) -> TraceLearning | None:
    if info.traces is not None:
        counts, quality = info.traces.counts, info.traces.quality
        return TraceLearning(
            learned=counts.traces,
            left_out=counts.dropped,
            clauses=len(info.traces.clauses),
            citations=counts.citations,
            f1=quality.f1 if quality else None,
        )
    counted = {key.removeprefix(_CAUSAL_TRACES): n for key, n in info.facts.items() if key.startswith(_CAUSAL_TRACES)}
    return TraceLearning(learned=counted.pop("learned", 0), left_out=counted) if counted else None
