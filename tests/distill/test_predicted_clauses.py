import io

import polars as pl

from distill.labeling.task import Task
from distill.predict import _write_csv


def test_csv_names_clauses_in_one_cell_where_a_student_gives_them() -> None:
    table = pl.DataFrame({"row_id": ["a"], "label": ["yes"], "confidence": [0.75], "probs": [[0.75, 0.25]]})
    named = table.with_columns(clauses=pl.Series([["E2", "E1"]]), clause_probs=pl.Series([[0.9, 0.6]]))
    for given, expected in (
        (table, "row_id,label,confidence,p_yes,p_no\na,yes,0.75,0.75,0.25\n"),
        (named, "row_id,label,confidence,p_yes,p_no,clauses\na,yes,0.75,0.75,0.25,E2 E1\n"),
    ):
        _write_csv(given, Task(labels=("yes", "no"), inputs=("query",)), stream := io.StringIO())
        assert stream.getvalue() == expected
