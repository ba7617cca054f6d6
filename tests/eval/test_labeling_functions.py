from __future__ import annotations

import polars as pl
import pytest

import distill
from distill.eval.config import EvalConfig
from distill.eval.labeling_functions import analyze_functions
from distill.eval.report.function_words import function_cells, functions_said
from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import aggregate
from distill.labeling.vote import Vote, votes_frame

# Rows 0 to 9; a function's answers by row, None where it abstains.
SAID = {
    "one": {0: "a", 1: "a", 2: "b", 3: "a"},
    "two": {2: "a", 3: "a", 4: "b"},
    "silent": {},
}
GOLD = {0: "a", 1: "b", 2: "b", 3: "a", 5: "a"}


def votes_of(said=SAID, rows=10) -> pl.DataFrame:
    return votes_frame(
        Vote(f"r{row}", name, "f", "labeled" if answers.get(row) else "abstained", label=answers.get(row))
        for row in range(rows)
        for name, answers in said.items()
    )


def rows_of(gold=GOLD) -> pl.DataFrame:
    """Two rows a group."""
    return pl.DataFrame(
        {
            "row_id": [f"r{row}" for row in range(10)],
            "group": [f"g{row // 2}" for row in range(10)],
            "gold": [gold.get(row) for row in range(10)],
        },
        schema_overrides={"gold": pl.String},
    )


def test_the_measures_are_those_of_snorkel():
    found = distill.analyze_labeling_functions(votes_of(), rows_of())
    one, two, silent = found.rows(named=True)
    assert found["function"].to_list() == ["one", "two", "silent"]
    # one labels rows 0 to 3; two labels 2 and 3 of them too, and on 2 it differs.
    assert (one["coverage"], one["overlap"], one["conflict"]) == (0.4, 0.2, 0.1)
    # two labels 2, 3 and 4; 4 stands alone.
    assert (two["coverage"], two["overlap"], two["conflict"]) == (0.3, 0.2, 0.1)
    assert (one["polarity"], two["polarity"]) == (["a", "b"], ["a", "b"])
    # one is right on 0, 2 and 3 of its four rows with gold; two on 3 and not on 2, while 4 has no gold.
    assert (one["gold"], one["accuracy"]) == (4, 0.75)
    assert (two["gold"], two["accuracy"]) == (2, 0.5)
    assert (silent["coverage"], silent["polarity"], silent["gold"], silent["accuracy"]) == (0.0, [], 0, None)
    assert found["rows"].to_list() == [10, 10, 10]


def test_intervals_resample_groups_and_not_rows():
    """Right on whole groups: rows of a group are one piece of evidence, so that the interval is far wider."""
    said = {"f": dict.fromkeys(range(200), "a")}
    table = pl.DataFrame(
        {
            "row_id": [f"r{row}" for row in range(200)],
            "group": [f"g{row // 20}" for row in range(200)],
            "gold": ["a" if row // 20 < 5 else "b" for row in range(200)],
        }
    )
    (by_group,) = analyze_functions(votes_of(said, 200), table)
    (by_row,) = analyze_functions(votes_of(said, 200), table.with_columns(group="row_id"))
    assert by_group.accuracy.value == by_row.accuracy.value == 0.5
    assert (by_group.accuracy.groups, by_row.accuracy.groups) == (10, 200)
    widths = [one.accuracy.high - one.accuracy.low for one in (by_group, by_row)]
    # Standard errors sqrt(1/4/10) and sqrt(1/4/200): about 4.5 times as wide, and t of 9 degrees adds to that.
    assert widths[0] > 4 * widths[1]


def test_failures_are_counted_apart_from_abstentions():
    votes = votes_frame(
        [Vote("r0", "f", "f", "failed"), Vote("r1", "f", "f", "invalid"), Vote("r2", "f", "f", "abstained")]
    )
    (found,) = analyze_functions(votes)
    assert (found.rows, found.labeled, found.failed) == (3, 0, 2)
    assert found.accuracy.note == "no gold labels"


def test_only_the_functions_asked_for_overlap():
    found = analyze_functions(votes_of(), functions=["one"])
    assert [(one.name, one.overlapping, one.conflicting) for one in found] == [("one", 0, 0)]
    assert analyze_functions(votes_of(), functions=[]) == []
    with pytest.raises(DataError, match="no votes of three; there are one, two, silent"):
        analyze_functions(votes_of(), functions=["three"])


def test_repeats_count_once():
    twice = pl.concat([votes_of(), votes_of().with_columns(sample=pl.lit(1, pl.Int32))])
    assert analyze_functions(twice, rows_of()) == analyze_functions(votes_of(), rows_of())


def test_words_and_cells():
    facts = analyze_functions(votes_of(), rows_of(), config=EvalConfig(bootstrap=100))
    said = functions_said(facts)
    assert "3 labeling functions looked at 10 rows each" in said
    assert "Never said anything: silent." in said and "the weakest is two" in said
    assert function_cells(facts[2]) == ["silent", "–", "0.0%", "0.0%", "0.0%", "–", "0"]
    assert functions_said([]) == ""


@pytest.mark.parametrize("method", ["family_vote", "majority"])
def test_rows_on_which_everyone_abstains_stay_without_a_label(method):
    labels = aggregate(votes_of(), labels=["a", "b"], method=method)
    given = dict(labels.select("row_id", "label").iter_rows())
    # Row 2 is a tie of one and two; the first of the set is taken.
    assert given == {
        **dict.fromkeys([f"r{row}" for row in range(10)]),
        **{"r0": "a", "r1": "a", "r2": "a", "r3": "a", "r4": "b"},
    }
    bare = labels.filter(pl.col("label").is_null())
    assert bare["votes"].sum() == 0 and bare["confidence"].sum() == 0 and bare["probs"].null_count() == 5
    sure = dict(labels.select("row_id", "probs").iter_rows())
    assert sure["r4"] == [0.0, 1.0]  # one voter's word alone: those who abstain pull nothing towards the middle
