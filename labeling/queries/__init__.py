"""Tools for queries: typos and how they come about, retrieval from a catalogue, what rules say of a query, checks.

Strings and tables in, strings and tables out: each can be used in a notebook, as a labeling function, or by
``type: query_tools`` in a recipe.
"""
