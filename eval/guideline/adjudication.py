"""The adjudication page: the rows most worth a person's decision, decided with the keyboard, saved as a file.

One HTML file that needs no server and loads nothing. It shows one row at a time with every side's reasons and clauses;
the person picks a label with a number key, may name the deciding clause and write a note, and saves a JSON file that
:func:`read_decisions` reads back: as gold, and as examples for the guideline.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup
from pydantic import Field, ValidationError

from distill.eval.frozen import Frozen
from distill.eval.guideline.review import Review, Said
from distill.eval.page import markdown_cell, render_page, write_whole
from distill.eval.wording import printable
from distill.labeling.errors import DataError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

FORMAT = "distill-decisions"
_WORTH = {
    "gold_error": 1.0,
    "guideline": 0.9,
    "missing_information": 0.6,
    "leaning": 0.5,
    "unclear": 0.5,
    "slip": 0.3,
}
"""How much a person's decision settles, by cause: a wrong gold label and an unclear clause reach beyond their row."""

_DECISIONS: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "label": pl.String(),
    "clauses": pl.List(pl.String()),
    "note": pl.String(),
    "decided_by": pl.String(),
    "decided_at": pl.String(),
}


class Case(Frozen):
    """One row to decide."""

    row_id: str
    group: str
    inputs: dict[str, str]
    said: list[Said]
    gold: str | None
    cause: str = Field(description="what is likely behind the disagreement, see distill.eval.guideline.diagnosis")
    evidence: str
    worth: float = Field(description="by which cases are ordered, highest first")


class Decision(Frozen):
    """What a person decided of one row."""

    row_id: str
    label: str
    clauses: list[str] = Field(default_factory=list)
    note: str = ""
    decided_at: str | None = None


class _Saved(Frozen):
    """The file that the page saves."""

    format: str
    version: int
    name: str
    guideline: str | None = None
    decided_by: str = ""
    decisions: list[Decision]


def cases_to_decide(review: Review, *, most: int = 500) -> list[Case]:
    """Contested rows in the order in which a person's decision is worth most.

    Worth is how telling the disagreement is (how many judges stand against each other, and how sure the less sure of
    each pair is) times how far a decision on its likely cause reaches; each further row of a group counts a tenth less,
    so that one query does not fill the list.

    Args:
        review: From :func:`distill.eval.guideline.review.review`; its telling rows are the candidates.
        most: Cases to return.
    """
    seen: dict[str, int] = {}
    cases = []
    for row in review.telling:
        repeats = seen[row.group] = seen.get(row.group, -1) + 1
        worth = row.weight * _WORTH[row.likely] * 0.9**repeats
        cases.append(
            Case(
                row_id=row.row_id,
                group=row.group,
                inputs=row.inputs,
                said=row.said,
                gold=row.gold,
                cause=row.likely,
                evidence=row.evidence,
                worth=round(worth, 4),
            )
        )
    return sorted(cases, key=lambda case: (-case.worth, case.row_id))[:most]


def write_adjudication_page(
    path: Path, cases: Sequence[Case], *, name: str, task: Task, review_href: str | None = None
) -> Path:
    """Writes the page on which a person decides.

    Args:
        path: The HTML file.
        cases: In the order in which they are shown.
        name: Of the run or the set of votes; names the file that is saved.
        task: Labels, inputs, and the guideline whose clauses are shown.
        review_href: Address of the review, relative to this page; None without one.
    """
    guideline = task.guideline
    clauses = guideline.clauses if guideline else ()
    data = {
        "format": FORMAT,
        "name": name,
        "guideline": guideline.version if guideline else None,
        "labels": list(task.labels),
        "inputs": list(task.inputs),
        "clauses": [{"id": clause.id, "title": clause.title, "text": clause.text} for clause in clauses],
        "cases": [case.model_dump(mode="json") for case in cases],
    }
    page = render_page(
        "adjudicate.html.j2",
        script="adjudicate.js",
        name=name,
        data=_embedded(data),
        cases=cases,
        review_href=review_href,
    )
    return write_whole(path, page)


def read_decisions(paths: Path | Sequence[Path], *, task: Task) -> pl.DataFrame:
    """Reads what people decided.

    Args:
        paths: Files that the page saved. Of several decisions on a row the latest counts, by ``decided_at``.
        task: The labels.

    Returns:
        ``row_id`` str, ``label`` str, ``clauses`` List[str], ``note`` str, ``decided_by`` str, ``decided_at`` str.

    Raises:
        DataError: A file is none that the page saved, or holds a label outside the set; the message names the row.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    lines: list[dict[str, Any]] = []
    for path in files:
        saved = _read(path)
        for decision in saved.decisions:
            if decision.label not in task.labels:
                raise DataError(
                    f"{path}: row {decision.row_id!r} was decided as {decision.label!r}, which is none of "
                    f"{list(task.labels)}; decide it again"
                )
            lines.append({**decision.model_dump(), "decided_by": saved.decided_by})
    table = pl.DataFrame(lines, schema=_DECISIONS)
    ordered = table.sort("decided_at", nulls_last=False, maintain_order=True)
    return ordered.unique("row_id", keep="last", maintain_order=True)


def with_decisions(rows: pl.DataFrame, decisions: pl.DataFrame) -> pl.DataFrame:
    """The rows with ``gold`` replaced where a person decided."""
    decided = decisions.select("row_id", _decided="label")
    joined = rows.join(decided, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(gold=pl.coalesce("_decided", "gold")).drop("_decided")


def guideline_examples(decisions: pl.DataFrame, rows: pl.DataFrame, *, task: Task, guideline: Guideline) -> str:
    """Decisions as examples to put under the clauses that they cite: Markdown, a list a clause.

    A decision without a clause stands under "No clause": a sign of what the guideline lacks.
    """
    texts = {row["row_id"]: row for row in rows.select("row_id", *task.inputs).iter_rows(named=True)}
    known = {clause.id: clause.title for clause in guideline.clauses}
    under: dict[str, list[str]] = {name: [] for name in [*known, ""]}
    for line in decisions.iter_rows(named=True):
        row = texts.get(line["row_id"])
        if row is None:
            continue
        for clause in [name for name in line["clauses"] if name in known] or [""]:
            under[clause].append(_example(line, row, task))
    parts = []
    for name, examples in under.items():
        if examples:
            title = f"{name} {known[name]}" if name else "No clause"
            parts.append("\n".join([f"### {markdown_cell(title)}", "", *examples]))
    return "\n\n".join(parts) + ("\n" if parts else "")


def _example(line: dict[str, Any], row: dict[str, Any], task: Task) -> str:
    query, listing = str(row[task.inputs[0]] or ""), str(row[task.inputs[1]] or "") if len(task.inputs) > 1 else ""
    said = f"- *{markdown_cell(query)}*"
    said += f" with *{markdown_cell(listing)}*" if listing else ""
    said += f" is **{markdown_cell(line['label'])}**"
    return said + (f": {markdown_cell(line['note'], longest=400)}" if line["note"] else ".")


def _read(path: Path) -> _Saved:
    try:
        saved = _Saved.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        told = str(error).split("\n")[0]
        raise DataError(f"{path}: no decisions can be read ({told}); give the file that the page saved") from error
    if saved.format != FORMAT or saved.version != 1:
        raise DataError(f"{path}: is {saved.format} version {saved.version}, this reads {FORMAT} version 1")
    return saved


def _embedded(data: Any) -> Markup:
    """JSON for a script element: a listing with ``</script>`` in it must not end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(printable(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
