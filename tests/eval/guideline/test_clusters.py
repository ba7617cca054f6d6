"""Themes of disagreement: what goes together, and what it is called."""

from __future__ import annotations

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.guideline.clusters import MOST_THEMES, find_themes
from distill.eval.guideline.history import guideline_history
from distill.eval.guideline.review import review
from distill.eval.guideline.review_report import write_review_report
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

CONFIG = EvalConfig(bootstrap=100)
LABELS = ("exact", "substitute", "complement", "irrelevant")
TEXT = """- **E1 Kind.** The kind of thing holds.
- **E4 Silent listing.** The listing says nothing of it.
- **E6 Compatibility.** A product made for another.
- **S1 Off.** One constraint fails.
"""


@pytest.fixture
def two_themes(make_votes, make_rows):
    """Thirty rows apart over E4 on cotton shirts, fifteen over E6 on phone cases, and twenty settled."""
    rows, said = [], []
    for i in range(65):
        row, clause = f"r{i:03d}", "E4" if i < 30 else "E6"
        about = "cotton shirt" if clause == "E4" else "phone case"
        rows.append({"query": f"{about} {chr(97 + i % 26) * 3}", "title": about})
        said.append((row, "a", "exact", ["E1"] if i >= 45 else [clause]))
        said.append((row, "b", "exact" if i >= 45 else "substitute", ["E1"] if i >= 45 else [clause, "S1"]))
    columns = {name: [row[name] for row in rows] for name in ("query", "title")}
    table = make_rows([None] * 65, group=[f"g{i % 13}" for i in range(65)], **columns)
    task = Task(labels=LABELS, inputs=("query", "title"), positive="exact", guideline=Guideline.parse(TEXT))
    return make_votes(*said), table, task


def test_two_themes_are_told_apart_named_and_sized(two_themes):
    votes, rows, task = two_themes
    found = review(votes, rows, task=task, config=CONFIG)
    first, second = found.themes
    assert (first.clauses, first.rows, first.conflicts, first.border) == (("E4",), 30, 30, "exact|substitute")
    assert (second.clauses, second.rows) == (("E6",), 15)
    assert {"cotton", "shirt"} <= set(first.words) and {"phone", "case"} <= set(second.words)
    assert first.name.startswith("E4: ")
    assert first.share.value == pytest.approx(30 / 45)  # 30 of 45 pairs apart
    assert first.share.low < 30 / 45 < first.share.high
    assert set(first.telling) <= set(first.row_ids)
    assert rows.filter(rows["row_id"].is_in(list(first.telling)))["group"].n_unique() == len(first.telling) == 3
    assert sum(theme.conflicts for theme in found.themes) == found.conflicts


def test_themes_do_not_depend_on_the_order_of_votes(two_themes):
    votes, rows, task = two_themes
    found = review(votes, rows, task=task, config=CONFIG)
    again = review(votes.reverse(), rows.reverse(), task=task, config=CONFIG)
    assert found.themes == again.themes


def test_few_rows_have_no_themes_and_words_are_not_needed(make_rows, make_votes):
    task = Task(labels=LABELS, inputs=("query",), positive="exact")

    def on(count):
        said = [
            (f"r{i:03d}", judge, label) for i in range(count) for judge, label in (("a", "exact"), ("b", "substitute"))
        ]
        rows = make_rows([None] * count, query=[f"{i}" for i in range(count)])
        return review(make_votes(*said), rows, task=task, config=CONFIG)

    assert on(19).themes == []
    (only,) = on(20).themes
    assert (only.rows, only.share.value, only.clauses) == (20, 1.0, ())


def test_the_quickstart_has_few_themes_that_add_up(quickstart_rows, quickstart_votes, quickstart_task):
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=CONFIG)
    assert 2 <= len(found.themes) <= MOST_THEMES
    assert sum(theme.rows for theme in found.themes) == found.rows_apart
    assert found.themes[0].clauses == ("E4",)
    assert find_themes(found.telling, found.causes, labels=LABELS, config=CONFIG) == found.themes


def test_agreement_by_slice(make_rows, make_votes):
    """Korean rows: 1 of 2 agree; English: 2 of 2."""
    task = Task(labels=LABELS, inputs=("query",), positive="exact")
    said = [("r000", "exact", "exact"), ("r001", "exact", "substitute"), ("r002", "exact", "exact")]
    said.append(("r003", "substitute", "substitute"))
    votes = make_votes(*[(row, judge, label) for row, *both in said for judge, label in zip("ab", both, strict=True)])
    rows = make_rows([None] * 4, lang=["ko", "ko", "en", None])
    found = review(votes, rows, task=task, config=EvalConfig(bootstrap=100, slices=("lang", "absent")))
    assert [(one.value, one.rows, one.conflicts, one.agreement.value) for one in found.slices] == [
        ("ko", 2, 1, 0.5),
        ("en", 1, 0, 1.0),
        ("(none)", 1, 0, 1.0),
    ]


def test_what_strangers_write_stays_text_in_themes_and_history(two_themes, tmp_path):
    votes, rows, task = two_themes
    attack = "<script>alert(1)</script> | cotton"
    votes, rows = votes.with_columns(trace=pl.lit(attack)), rows.with_columns(title=pl.lit(attack))
    old = Guideline.parse(f"version: 0\n\n- **E1 Kind.** {attack}\n")
    found = review(votes, rows, task=task, config=CONFIG)
    found = found.model_copy(update={"history": guideline_history(votes, [old, task.guideline])})
    assert found.themes
    html, markdown, _ = (path.read_text("utf-8") for path in write_review_report(tmp_path / "r.html", found, name="n"))
    assert "alert(1)" in html and "<script>alert" not in html and "<script>alert" not in markdown
    assert "## Themes" in markdown and "## Guideline history" in markdown
