"""How a row is written out for a student that reads text."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class PairTemplate:
    """Writes a row as two segments: the query, and the listing's fields with their names.

    Attributes:
        inputs: The query's column, then the listing's, in the order in which they are written.
    """

    inputs: tuple[str, ...]

    def render(self, rows: pl.DataFrame) -> tuple[list[str], list[str] | None]:
        """First and second segments; the second is None where the query is the only input.

        An empty field is left out, its name too.
        """
        table = rows.select(pl.col(column).cast(pl.String).fill_null("") for column in self.inputs)
        queries = table[self.inputs[0]].to_list()
        if len(self.inputs) == 1:
            return queries, None
        return queries, [self._listing(texts[1:]) for texts in table.iter_rows()]

    def _listing(self, texts: tuple[str, ...]) -> str:
        named = zip(self.inputs[1:], texts, strict=True)
        return " ".join(f"{column}: {text.strip()}" for column, text in named if text.strip())
