"""What servers were found to do, and the lane that each teacher settled on: kept in the ledger's file for the next run.

A run that took another lane than the last one would ask every row anew, and a plan has to know the lane without a
network.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import NamedTuple, cast

from distill.labeling.errors import TeacherError
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.teacher import Capabilities, ProbingTeacher, Teacher

# A table of its own, which older versions do not look at: no new schema version is needed for it.
_TABLE = """
CREATE TABLE IF NOT EXISTS settled (
    endpoint TEXT NOT NULL, model TEXT NOT NULL, teacher TEXT NOT NULL, lane TEXT NOT NULL, found TEXT NOT NULL,
    settled_s INTEGER NOT NULL, PRIMARY KEY (endpoint, model, teacher)
) WITHOUT ROWID
"""


class Settled(NamedTuple):
    """What a teacher settled on.

    Attributes:
        lane: The lane's name.
        found: What the server was found to do.
    """

    lane: str
    found: Capabilities


def settled_lane(ledger: Ledger, *, endpoint: str, model: str, teacher: str) -> Settled | None:
    """What this teacher settled on in its last run; None where it has not.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    with ledger.reading() as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'settled'").fetchone():
            return None
        query = "SELECT lane, found FROM settled WHERE endpoint = ? AND model = ? AND teacher = ?"
        row = connection.execute(query, (endpoint, model, teacher)).fetchone()
    if row is None:
        return None
    known = json.loads(row[1])
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    usable = {name: value for name, value in {**known, **lists}.items() if name in Capabilities._fields}
    return Settled(row[0], Capabilities(**usable))


def keep_lane(ledger: Ledger, settled: Settled, *, endpoint: str, model: str, teacher: str) -> None:
    """Notes what a teacher settled on.

    Raises:
        LedgerError: The ledger cannot be written.
    """
    found = json.dumps(settled.found._asdict())
    with ledger.writing() as connection:
        connection.execute(_TABLE)
        values = (endpoint, model, teacher, settled.lane, found, int(time.time()))
        connection.execute("INSERT OR REPLACE INTO settled VALUES (?, ?, ?, ?, ?, ?)", values)


def settle_as_before(teacher: Teacher, ledger: Ledger) -> None:
    """Settles a teacher, without asking its server, on the lane of its last run; does nothing where it had none.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    if not hasattr(teacher, "settle"):
        return
    asking = cast(ProbingTeacher, teacher)
    before = settled_lane(ledger, endpoint=asking.endpoint, model=asking.model, teacher=teacher.name)
    if before is not None:
        with suppress(TeacherError):  # the recipe now asks for a lane that it did not have then: it is found out anew
            asking.settle(before.found, kept=before.lane)
