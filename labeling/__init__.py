"""Ground floor: rows, tasks, guidelines, prompts, the engine that asks teachers, the ledger, votes, labels.

What all of it is about stands here: ``task``, ``guideline``, ``teacher``, ``vote``, ``labeling_function``, the
``labeling`` section of a recipe, and every error. The rest is in folders; each imports only those named behind it:

- ``answers``: what a teacher wrote, read as an answer.
- ``ledger``: every reply ever bought, on disk.
- ``rows``: rows read from anywhere, cleaned, named, split. (answers, queries)
- ``queries``: what can be said of a query without a model. (answers, rows, merging)
- ``prompts``: the question put to a teacher. (answers, rows)
- ``engine``: a lane for each teacher, limits, budgets, batch jobs. (answers, ledger, rows, prompts)
- ``asking``: which rows, cascades, checks beside them. (all of these but queries)
- ``merging``: votes merged into one label a row. (answers, rows)
"""
