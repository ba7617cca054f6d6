"""Ground floor: rows, tasks, guidelines, prompts, the engine that asks teachers, the ledger, votes, labels."""
