"""How many requests at once each server was found to bear, kept in the ledger's file for the next run."""

from __future__ import annotations

import time

from distill.labeling.engine.limits import Learned
from distill.labeling.ledger.ledger import Ledger

# A table of its own, which older versions do not look at: no new schema version is needed for it.
_TABLE = """
CREATE TABLE IF NOT EXISTS limits (
    endpoint TEXT NOT NULL, model TEXT NOT NULL, in_flight INTEGER NOT NULL, settled INTEGER NOT NULL,
    learned_s INTEGER NOT NULL, PRIMARY KEY (endpoint, model)
) WITHOUT ROWID
"""


def learned_limit(ledger: Ledger, *, endpoint: str, model: str) -> Learned | None:
    """What the last run found that this server bears at once for this model; None where none did.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    with ledger.reading() as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'limits'").fetchone():
            return None
        query = "SELECT in_flight, settled FROM limits WHERE endpoint = ? AND model = ?"
        found = connection.execute(query, (endpoint, model)).fetchone()
    return Learned(int(found[0]), bool(found[1])) if found else None


def keep_limits(ledger: Ledger, limits: dict[tuple[str, str], Learned]) -> None:
    """Notes what was found, by endpoint and model.

    Raises:
        LedgerError: The ledger cannot be written.
    """
    now_s = int(time.time())
    with ledger.writing() as connection:
        connection.execute(_TABLE)
        for server, learned in limits.items():
            connection.execute("INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?)", (*server, *learned, now_s))
