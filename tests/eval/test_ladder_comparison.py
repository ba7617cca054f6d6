from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.evaluation import evaluate, paired_difference
from distill.eval.ladder import Ladder, Rung, build_ladder
from distill.eval.ladder_comparison import LadderComparison, MeasuredRun, compare_runs

LABELS = ("exact", "substitute", "complement", "irrelevant")
CONFIG = EvalConfig(bootstrap=100)


@pytest.fixture
def make_run(make_rows, task):
    """A run over rows ``first`` to ``last`` of one world, with students of the skills given."""
    gold = np.random.default_rng(0).integers(0, 4, 160)

    def make(*, first: int = 0, last: int = 120, truth: str = "author", config: EvalConfig = CONFIG, **skills: float):
        at = range(first, last)
        rows = make_rows(
            [LABELS[gold[row]] for row in at],
            row_id=[f"r{row:03d}" for row in at],
            group=[f"g{row // 4}" for row in at],
        )
        rungs, said = [], {}
        for name, skill in skills.items():
            noise = np.random.default_rng(len(name)).normal(size=(160, 4))
            noise[np.arange(160), gold] += skill
            probs = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
            labels = [LABELS[probs[row].argmax()] for row in at]
            said[name] = pl.DataFrame({"row_id": rows["row_id"], "label": labels, "probs": probs[first:last].tolist()})
            found = evaluate(said[name], rows, task=task, truth_source=truth, config=config)
            rungs.append(Rung(name, "dcn", "labels", said[name], found))
        ladder = build_ladder(rungs, rows, task=task, config=config)
        return MeasuredRun(ladder, rows, said, task, config)

    return make


def test_best_and_same_named_students_are_compared_over_shared_rows(make_run, task):
    monday, friday = make_run(small=0.3, large=1.0), make_run(first=40, last=160, small=0.8, huge=3.0)
    found = compare_runs({"monday": monday, "friday": friday})
    assert [row.run for row in found.rows] == ["monday", "monday", "friday", "friday"]
    best, named = found.differences
    assert (best.run, best.student, best.over_run, best.over_student) == ("friday", "huge", "monday", "large")
    assert (named.student, named.over_student, named.chosen_as) == ("small", "small", "same name")
    # rows 40 to 119 are in both
    assert (best.shared, best.rows, best.over_rows, best.gold_differs) == (80, 120, 120, 0)
    shared = monday.rows.slice(40)
    expected = paired_difference(
        friday.predictions["huge"], monday.predictions["large"], shared, task=task, config=CONFIG
    )
    assert best.difference == expected and expected.rows == 80
    assert LadderComparison.model_validate_json(found.model_dump_json()) == found


def test_a_pair_of_one_name_that_is_the_best_is_told_once(make_run):
    found = compare_runs({"a": make_run(small=0.3, large=1.0), "b": make_run(small=0.3, large=2.0)})
    assert [(one.student, one.chosen_as) for one in found.differences] == [("large", "best"), ("small", "same name")]


def test_where_rows_differ_it_says_so(make_run):
    found = compare_runs({"a": make_run(s=1.0, last=80), "b": make_run(s=1.0, first=80, last=160)}).differences[0]
    assert (found.difference, found.reason) == (None, "the test rows differ: 0 of 80 rows shared")


def test_rows_whose_gold_differs_are_left_out_and_counted(make_run):
    first, second = make_run(s=1.0), make_run(s=1.0)
    other = pl.when(pl.col("gold") == "exact").then(pl.lit("substitute")).otherwise(pl.lit("exact"))
    change = pl.col("row_id") < "r030"
    rows = second.rows.with_columns(gold=pl.when(change).then(other).otherwise("gold"))
    changed = MeasuredRun(second.ladder, rows, second.predictions, second.task, CONFIG)
    found = compare_runs({"a": first, "b": changed}).differences[0]
    assert (found.shared, found.gold_differs, found.difference.rows) == (90, 30, 90)
    assert found.difference.value == 0.0
    none = second.rows.with_columns(gold=other)
    apart = MeasuredRun(second.ladder, none, second.predictions, second.task, CONFIG)
    assert "gold differs on all 120" in compare_runs({"a": first, "b": apart}).differences[0].reason


def test_what_is_not_of_one_kind_is_not_compared(make_run):
    first = make_run(s=1.0)
    teachers = compare_runs({"a": first, "b": make_run(s=1.0, truth="teacher")}).differences[0]
    assert "merged labels" in teachers.reason
    accuracy = make_run(s=1.0, config=EvalConfig(bootstrap=100, metric="accuracy"))
    assert "measured by" in compare_runs({"a": first, "b": accuracy}).differences[0].reason
    ladder_only = MeasuredRun(first.ladder, None, {}, first.task, CONFIG)
    assert "are not kept" in compare_runs({"a": first, "b": ladder_only}).differences[0].reason
    rowless = MeasuredRun(first.ladder, None, first.predictions, first.task, CONFIG)
    assert "rows of one run are not kept" in compare_runs({"a": first, "b": rowless}).differences[0].reason
    empty = MeasuredRun(Ladder(rows=[]), first.rows, {}, first.task, CONFIG)
    nobody = compare_runs({"a": first, "b": empty}).differences[0]
    assert (nobody.student, nobody.reason) == (None, "no measured student in b")


def test_the_tables_say_difference_rows_and_reason(make_run):
    runs = {"a|1": make_run(s=0.5), "b": make_run(s=2.0, first=40, last=160)}
    found = compare_runs(runs)
    ladder, differences = found.to_markdown().split("\n\n")
    assert ladder.startswith("| student | trained on | accuracy, exact or not")
    head, _, line = differences.splitlines()
    assert head == "| run | student | over | why these | difference | shared test rows |"
    value = found.differences[0].difference.value
    assert line.startswith(f"| b | s | a\\|1: s | best | {100 * value:+.1f} (")
    assert line.endswith("accuracy, exact or not | 80 of 120 and 120 |")
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.differences_to_rich())
    assert "80 of 120 and 120" in captured.get()
    with_reason = compare_runs({"a": make_run(s=0.5, last=40), "b": make_run(s=0.5, first=40)})
    assert "why none is given" in with_reason.to_markdown()
