"""The monitor stage: today's rows against those that the run's students know."""

from __future__ import annotations

import itertools
from pathlib import Path

from distill.labeling.rows.data_config import as_names
from distill.run_folder import path_digest, write_json
from distill.session import Ended, Session
from distill.stages import write_table


def watch(session: Session) -> None:
    """Writes ``monitor.json``, today's rows that were looked at, and the student's predictions on them.

    Skipped where the recipe has no ``monitor`` section.
    """
    recipe, folder = session.recipe, session.folder
    if recipe.monitor is None or recipe.data is None:
        return
    config, data = recipe.monitor, recipe.data
    files = [config.rows, [] if config.time or config.on_a_split else config.reference]
    named = list(itertools.chain.from_iterable(as_names(given) for given in files))
    digests = [name if name.startswith("hf://") else path_digest(Path(name)) for name in named]
    session.stage(
        "monitor",
        reads=[
            digests,
            config.model_dump(mode="json", exclude={"rows"}),
            data.model_dump(mode="json", exclude={"rows", "decisions"}),
            path_digest(folder.rows),
            {key: mark for key, mark in session.marks.items() if key.startswith("predict:") or key == "eval"},
            [session.task.labels, session.task.inputs],
            recipe.eval.slices,
            recipe.seed,
        ],
        outputs=[folder.monitor, folder.monitor_rows, *(folder.monitor_predictions(name) for name in recipe.students)],
        work=lambda: _watch(session),
    )


def _watch(session: Session) -> Ended:
    from distill.labeling.rows.load import problems_path
    from distill.monitor import monitor_run
    from distill.runs import Run

    recipe, folder = session.recipe, session.folder
    assert recipe.monitor is not None
    run = Run(folder.path)
    done = monitor_run(run, recipe.monitor, problems=problems_path(folder.monitor_rows), recipe=recipe)
    write_table(done.rows, folder.monitor_rows)
    for name in recipe.students:
        # Of a student that is no longer asked, nothing stays that could be taken for today's.
        folder.monitor_predictions(name).unlink(missing_ok=True)
    for name, predictions in done.predictions.items():
        write_table(predictions, folder.monitor_predictions(name))
    write_json(folder.monitor, done.report.model_dump(mode="json"))
    for note in done.report.notes:
        session.progress.warn(f"monitor: {note}")
    said = " ".join(one.said for one in done.report.verdicts)
    return Ended(f"{done.report.verdict}. {said}", facts={"verdict": done.report.verdict})
