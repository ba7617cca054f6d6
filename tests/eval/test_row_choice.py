from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from distill.eval import row_choice
from distill.eval.row_choice import choose_rows, group_discount, normalised_entropy
from distill.labeling.errors import DataError

SURE, TORN = [1.0, 0.0], [0.5, 0.5]


def _rows(groups: list[str], **columns: list) -> pl.DataFrame:
    table = {
        "row_id": [f"r{row:04d}" for row in range(len(groups))],
        "group": groups,
        "weight": [1.0] * len(groups),
        "query": groups,
        "title": [""] * len(groups),
    }
    return pl.DataFrame({**table, **columns})


def _own_groups(count: int) -> pl.DataFrame:
    return _rows([f"g{row}" for row in range(count)])


def _predicted(rows: pl.DataFrame, **students: list[list[float]]) -> pl.DataFrame:
    return pl.concat(
        [pl.DataFrame({"student": name, "row_id": rows["row_id"], "probs": probs}) for name, probs in students.items()]
    )


def test_entropy_is_one_for_no_idea_and_zero_for_certain():
    # of (3/4, 1/4): 2 - 0.75 log2(3) = 0.811278 bits of 1
    found = normalised_entropy(np.array([TORN, SURE, [0.75, 0.25]]))
    assert found == pytest.approx([1.0, 0.0, 0.811278], abs=1e-6)


def test_a_groups_next_row_counts_what_it_adds_to_the_effective_size():
    # m rows are worth m / (1 + 0.2 (m - 1)): 1, 5/3, 15/7, 2.5, of which the steps are 1, 2/3, 10/21, 5/14
    assert group_discount(np.arange(4)) == pytest.approx([1, 2 / 3, 10 / 21, 5 / 14])


def test_uncertainty_takes_rows_that_students_are_torn_about_first():
    rows = _own_groups(40)
    predictions = _predicted(rows, one=[TORN if row % 4 == 0 else SURE for row in range(40)])
    chosen = choose_rows(rows, count=12, rules={"uncertainty": 1.0}, predictions=predictions)
    torn = set(rows["row_id"][::4])
    # ten rows are worth something, the other two of the batch nothing
    assert set(chosen["row_id"][:10]) == torn
    assert chosen["score"].to_list() == [1.0] * 10 + [0.0] * 2


def test_rows_are_drawn_by_the_square_of_their_doubt_and_not_taken_from_the_top():
    # 300 rows with entropy 1 and 300 with 0.811278: a first draw takes one of the first 1 / (1 + 0.811278^2) = 0.603
    rows = _own_groups(600)
    predictions = _predicted(rows, one=[TORN] * 300 + [[0.75, 0.25]] * 300)
    first = [
        choose_rows(rows, count=1, rules={"uncertainty": 1.0}, predictions=predictions, seed=seed)["score"][0] == 1.0
        for seed in range(150)
    ]
    assert np.mean(first) == pytest.approx(0.603, abs=3 * np.sqrt(0.603 * 0.397 / 150))


def test_disagreement_is_what_students_differ_on_not_what_all_are_unsure_of():
    rows = _own_groups(3)
    opposed, both_torn, alike = ([1.0, 0.0], [0.0, 1.0]), (TORN, TORN), (SURE, SURE)
    one, other = zip(opposed, both_torn, alike, strict=True)
    predictions = _predicted(rows, one=list(one), other=list(other))
    chosen = choose_rows(rows, count=3, rules={"disagreement": 1.0}, predictions=predictions)
    scores = dict(zip(chosen["row_id"], chosen["score"], strict=True))
    # mean (1/2, 1/2) has entropy 1, each of the opposed 0; both torn: 1 - 1
    assert scores == pytest.approx({"r0000": 1.0, "r0001": 0.0, "r0002": 0.0})
    assert chosen["row_id"][0] == "r0000"
    # against (3/4, 1/4): mean (7/8, 1/8) has 0.543564, less half of 0.811278
    predictions = _predicted(rows, one=[SURE] * 3, other=[[0.75, 0.25]] * 3)
    chosen = choose_rows(rows, count=1, rules={"disagreement": 1.0}, predictions=predictions)
    assert chosen["score"][0] == pytest.approx(0.137925, abs=1e-6)


def test_diversity_keeps_away_from_what_was_asked_and_covers_the_rest():
    titles = ["red shoe"] * 30 + ["blue lamp"] * 30 + ["green tent"] * 30 + ["iron pan"]
    rows = _rows([f"g{row}" for row in range(91)], query=[""] * 91, title=titles)
    asked = rows[:5].with_columns("old" + pl.col("row_id"))
    chosen = choose_rows(rows, count=3, rules={"diversity": 1.0}, asked=asked, inputs=["query", "title"])
    held = rows.join(chosen, on="row_id")["title"].to_list()
    assert sorted(held) == ["blue lamp", "green tent", "iron pan"]
    # nothing in common with anything before: 1 - cos = 1
    assert chosen["score"].to_list() == pytest.approx([1.0] * 3)
    # what is asked before under another id is as far as could be once all is covered: nothing is left to gain
    again = choose_rows(rows, count=6, rules={"diversity": 1.0}, asked=asked, inputs=["query", "title"])
    assert again["score"][3:].to_list() == pytest.approx([0.0] * 3, abs=1e-9)


def test_half_of_likeness_is_the_query():
    rows = _rows(["a", "b", "c"], query=["shoe", "lamp", "lamp"], title=["red", "red", "oak"])
    chosen = choose_rows(rows[1:], count=2, rules={"diversity": 1.0}, asked=rows[:1], inputs=["query", "title"])
    scores = dict(zip(chosen["row_id"], chosen["score"], strict=True))
    # same title, other query: cos 1/2. Other title too: 0, or 1/2 where the lamp was drawn first
    first = chosen["row_id"][0]
    assert scores["r0001"] == pytest.approx(0.5)
    assert scores["r0002"] == pytest.approx(1.0 if first == "r0002" else 0.5)


def test_frequency_draws_head_queries_by_how_often_they_occur():
    rows = _own_groups(200).with_columns(weight=pl.when(pl.int_range(200) < 100).then(9.0).otherwise(1.0))
    first = [choose_rows(rows, count=1, rules={"frequency": 1.0}, seed=seed)["score"][0] for seed in range(150)]
    assert np.mean(np.array(first) == 9.0) == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 150))


@pytest.mark.parametrize("rule", ["uncertainty", "disagreement", "diversity", "frequency"])
def test_no_rule_fills_the_batch_with_one_query(rule):
    """A head query with nine tenths of the rows, all of them the most wanted by every rule."""
    groups = ["head"] * 450 + [f"g{row % 25}" for row in range(50)]
    rows = _rows(groups, title=[f"word{row}" for row in range(450)] + ["same"] * 50)
    rows = rows.with_columns(weight=pl.when(pl.col("group") == "head").then(1e6).otherwise(1.0))
    of_head = [group == "head" for group in groups]
    predictions = _predicted(
        rows,
        one=[TORN if head else [0.95, 0.05] for head in of_head],
        other=[SURE if head else [0.9, 0.1] for head in of_head],
    )
    chosen = choose_rows(
        rows, count=50, rules={rule: 1.0}, predictions=predictions, inputs=["query", "title"], seed=2
    ).join(rows, on="row_id")
    counts = Counter(chosen["group"])
    # a tenth of 50, and where the rule has no other wish than the head query it takes all of that
    assert counts["head"] <= 5
    assert len(chosen) == 50
    plain = choose_rows(rows, count=50, rules={"random": 1.0}, seed=2).join(rows, on="row_id")
    assert Counter(plain["group"])["head"] > 35


def test_groups_asked_before_wait_for_the_others():
    rows = _rows([f"g{row % 20}" for row in range(400)])
    predictions = _predicted(rows, one=[TORN] * 400)
    asked = rows.filter(pl.col("group").is_in([f"g{group}" for group in range(10)])).with_columns(
        "old" + pl.col("row_id")
    )
    chosen = choose_rows(rows, count=40, rules={"uncertainty": 1.0}, predictions=predictions, asked=asked)
    counts = Counter(chosen.join(rows, on="row_id")["group"])
    # after 20 rows of a group the next counts 0.8 / (5 * 4.8) = 1/30; four rows of each other group leave it 0.28
    assert sum(counts[f"g{group}"] for group in range(10, 20)) >= 36


def test_all_rows_come_where_there_are_no_others():
    rows = _rows(["only"] * 7)
    for rule in ("frequency", "diversity"):
        chosen = choose_rows(rows, count=20, rules={rule: 1.0}, inputs=["query"])
        assert sorted(chosen["row_id"]) == rows["row_id"].to_list()


MIXTURE = {"uncertainty": 2.0, "disagreement": 1.0, "diversity": 2.0, "frequency": 1.0, "random": 2.0}


def _mixed(rows: pl.DataFrame, **changes) -> pl.DataFrame:
    rng = np.random.default_rng(4)
    one, other = (rng.dirichlet(np.ones(3), 300).tolist() for _ in range(2))
    names = pl.DataFrame({"row_id": [f"r{row:04d}" for row in range(300)]})
    predictions = _predicted(names, one=one, other=other)
    settings = {"count": 80, "rules": MIXTURE, "predictions": predictions, "inputs": ["query", "title"], "seed": 5}
    return choose_rows(rows, **{**settings, **changes})


def _mixed_rows() -> pl.DataFrame:
    return _rows([f"g{row % 30}" for row in range(300)], title=[f"w{row % 7} v{row % 11}" for row in range(300)])


def test_shares_are_kept_and_rules_take_turns():
    chosen = _mixed(_mixed_rows())
    assert chosen["row_id"].n_unique() == 80
    assert Counter(chosen["rule"]) == {name: 10 * share for name, share in MIXTURE.items()}
    # a quarter of the batch holds a quarter of each rule's rows
    assert Counter(chosen["rule"][:20])["uncertainty"] in (4, 5, 6)
    assert chosen.filter(rule="random")["score"].null_count() == 20
    # seven rows by thirds: one more to the rules that lose most by rounding down
    uneven = _mixed(_mixed_rows(), count=7, rules={"uncertainty": 1, "frequency": 1, "random": 1})
    assert sorted(Counter(uneven["rule"]).values()) == [2, 2, 3]


def test_the_choice_hangs_on_rows_and_seed_only():
    rows = _mixed_rows()
    chosen = _mixed(rows)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    assert _mixed(shuffled).equals(chosen)
    assert _mixed(rows, rules=dict(reversed(MIXTURE.items()))).equals(chosen)
    assert not _mixed(rows, seed=6).equals(chosen)


def test_what_was_asked_is_not_asked_again():
    rows = _mixed_rows()
    first = _mixed(rows)
    asked = rows.join(first, on="row_id", how="semi")
    assert set(_mixed(rows, asked=asked)["row_id"]).isdisjoint(first["row_id"])


def test_a_rule_that_cannot_work_draws_at_random_and_says_so():
    rows = _own_groups(50)
    chosen = choose_rows(rows, count=10, rules={"uncertainty": 1, "disagreement": 1, "diversity": 1})
    assert chosen["rule"].to_list() == ["random"] * 10
    assert chosen["row_id"].n_unique() == 10
    single = _predicted(rows, one=[TORN] * 50)
    chosen = choose_rows(rows, count=10, rules={"disagreement": 1}, predictions=single)
    assert set(chosen["rule"]) == {"random"}


def test_rows_nobody_predicted_and_broken_distributions_are_drawn_last():
    rows = _own_groups(30)
    predictions = _predicted(rows[:20], one=[TORN] * 17 + [[float("nan"), 1.0]] * 3)
    chosen = choose_rows(rows, count=20, rules={"uncertainty": 1.0}, predictions=predictions)
    assert set(chosen["row_id"][:17]) == set(rows["row_id"][:17])
    assert chosen["score"][:17].to_list() == [1.0] * 17


def test_diversity_looks_at_a_draw_of_the_candidates_where_there_are_many(monkeypatch):
    monkeypatch.setattr(row_choice, "_DIVERSE_FROM", 60)
    monkeypatch.setattr(row_choice, "_STEPS", 8)
    chosen = _mixed(_mixed_rows(), count=30, rules={"diversity": 1.0})
    assert chosen["row_id"].n_unique() == 30


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rules": {}}, "one above 0"),
        ({"rules": {"uncertainty": -1.0, "random": 2.0}}, "0 or more"),
        ({"rules": {"doubt": 1.0}}, "unknown rule 'doubt'"),
        ({"inputs": ["query", "brand"]}, "lack brand"),
        ({"asked": pl.DataFrame({"row_id": ["r0001"]})}, "rows asked before need"),
        ({"predictions": pl.DataFrame({"row_id": ["r0001"]})}, "lack student, probs"),
        (
            {
                "predictions": pl.DataFrame(
                    {"student": ["a", "b"], "row_id": ["r0001"] * 2, "probs": [[0.5, 0.5], [1.0]]}
                )
            },
            r"distributions of \[1, 2\] labels",
        ),
    ],
)
def test_what_cannot_be_chosen_by_is_said(changes, said):
    with pytest.raises(DataError, match=said):
        _mixed(_mixed_rows(), **changes)


def test_negative_weights_are_refused():
    with pytest.raises(DataError, match="a weight is negative"):
        _mixed(_mixed_rows().with_columns(weight=-1.0))
