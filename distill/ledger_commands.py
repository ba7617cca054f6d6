"""What ``distill ledger …`` does, as text for a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.labeling.engine.batch_journal import BatchJournal, OpenJob
from distill.labeling.errors import UsageError
from distill.labeling.ledger.admin import export_ledger, import_ledger, ledger_stats, prune_ledger
from distill.labeling.ledger.ledger import Ledger
from distill.stages import ledger_path


def stats(path: Path | None, *, as_json: bool = False) -> str:
    """What the ledger holds, by where it was bought.

    Raises:
        UsageError: There is no ledger at this place.
        LedgerError: It cannot be read.
    """
    with Ledger(_existing(path)) as ledger:
        found = ledger_stats(ledger)
        jobs = BatchJournal(ledger).open_jobs()
    sources: list[dict[str, Any]] = [
        {**item.source._asdict(), **{key: value for key, value in item._asdict().items() if key != "source"}}
        for item in found.sources
    ]
    if as_json:
        open_jobs = [{**job.source._asdict(), **_of_job(job)} for job in jobs]
        whole = {**found._asdict(), "sources": sources, "open_batch_jobs": open_jobs}
        return json.dumps(whole, indent=1, default=str)
    lines = [f"{found.path}: {found.replies:,} replies, {found.size_bytes / 1024**2:.2f} MiB"]
    if found.parts:
        lines.append(f"  {found.parts:,} rows are answered by a reply about several")
    for item in found.sources:
        price = f"${item.cost_usd:,.4f}" + (f" and {item.unpriced:,} at an unknown price" if item.unpriced else "")
        since = f"{item.oldest:%Y-%m-%d} to {item.newest:%Y-%m-%d}"
        lines.append(
            f"  {item.source.teacher:<16} {item.source.model:<28} {item.replies:>10,} replies  {price}  {since}"
        )
    for job in jobs:
        made = datetime.fromtimestamp(job.created_s, UTC)
        where = "being submitted, or cut off as it was" if job.job_id is None else f"batch job {job.job_id}"
        lines.append(
            f"  {job.source.teacher:<16} {job.source.model:<28} {job.requests:>10,} requests  {where}  "
            f"{made:%Y-%m-%d %H:%M} UTC, open"
        )
    return "\n".join(lines)


def export(path: Path | None, to: Path) -> str:
    """Writes every reply as JSON lines.

    Raises:
        UsageError: There is no ledger at this place.
        LedgerError: It cannot be read, or the file cannot be written.
    """
    with Ledger(_existing(path)) as ledger:
        counts = export_ledger(ledger, to)
    lost = f"; {counts.unreadable:,} could not be read" if counts.unreadable else ""
    return f"{to}: {counts.written:,} replies{lost}"


def import_(path: Path | None, source: Path) -> str:
    """Takes in what another ledger exported; makes the ledger where there is none.

    Raises:
        DataError: The file is missing, or a line of it is not a reply.
        LedgerError: The ledger cannot be written.
    """
    target = ledger_path(path)
    with Ledger(target) as ledger:
        counts = import_ledger(ledger, source)
    return f"{target}: {counts.added:,} replies added, {counts.already:,} were there already"


def prune(path: Path | None, *, older_than_days: float) -> str:
    """Forgets replies bought longer ago.

    Raises:
        UsageError: There is no ledger at this place.
        LedgerError: It cannot be written.
    """
    target = _existing(path)
    with Ledger(target) as ledger:
        counts = prune_ledger(ledger, older_than_days=older_than_days)
    freed = f"{counts.freed_bytes / 1024**2:.2f} MiB given back"
    return f"{target}: {counts.removed:,} replies removed, {counts.kept:,} kept, {freed}"


def _of_job(job: OpenJob) -> dict[str, Any]:
    made = datetime.fromtimestamp(job.created_s, UTC)
    return {"tag": job.tag, "job_id": job.job_id, "requests": job.requests, "created_at": made.isoformat()}


def _existing(path: Path | None) -> Path:
    found = ledger_path(path)
    if not found.exists():
        raise UsageError(f"{found}: no ledger here; give --ledger, or run where one was made")
    return found
