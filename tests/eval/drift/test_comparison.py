"""Two sets of rows compared: false alarms, planted drift, groups, quality."""

import itertools

import numpy as np
import polars as pl
import pytest

from distill.eval.drift.comparison import StudentSets, compare_rows
from distill.eval.drift.config import DriftConfig, MonitorConfig
from distill.eval.drift.exchange import Exchange, p_value, shares
from distill.eval.drift.measures import Measure, Words, run_measures, value_cells
from distill.eval.drift.quality import effective_size, importance_weights
from distill.eval.drift.report import drift_markdown, drift_words, write_drift_report
from distill.eval.drift.sample import GroupSample
from distill.labeling.errors import DataError
from distill.labeling.task import Task

TASK = Task(labels=("exact", "other"), inputs=("query", "title", "brand"), positive="exact")
QUICK = DriftConfig(resamples=199)
WORDS = [f"{a}{b}{c}" for a, b, c in itertools.product("bdfgk", "aeiou", ("lo", "ra", "mi", "nes"))]


def shop(seed, *, groups=90, each=4, brands=("acme", "bolt", "core", "dune")):
    """Queries of three words, with their listings; a query's listings share a brand more often than not."""
    random = np.random.default_rng(seed)
    lines = []
    for group in range(groups):
        query = " ".join(random.choice(WORDS, 3))
        usual = random.choice(brands)
        for listing in range(each):
            brand = usual if random.random() < 0.6 else random.choice(brands)
            title = f"{query} {' '.join(random.choice(WORDS, 3))}"
            lines.append((f"{seed}-{group}-{listing}", f"{seed}-{group}", query, title, str(brand)))
    return pl.DataFrame(lines, schema=["row_id", "group", "query", "title", "brand"], orient="row")


def exchange_of(reference, current, *, count=199, seed=0):
    ones = (np.ones(len(reference)), np.ones(len(current)))
    return Exchange.of(np.array(reference), np.array(current), weights=ones, count=count, seed=seed)


def value_test(reference, current, exchange):
    codes, names = value_cells(pl.Series("v", [*reference, *current]))
    return run_measures([Measure("inputs", "v", "values", exchange.cells(codes, len(names)), "unordered")], exchange)[0]


def test_exchanges_are_those_of_the_classical_permutation_test():
    # Three groups a side, their values 1, 1, 1 against 0, 0, 0: of the 20 ways to deal six groups into two threes, two
    # give a difference of 1, so that the exact p is 2 / 20.
    exchange = exchange_of(["a", "b", "c"], ["d", "e", "f"], count=4000)
    sums = exchange.sums(np.array([1.0, 1, 1, 0, 0, 0])[:, None])
    drawn = [shares(sums, dealt, total=exchange.total) for dealt in exchange.draws()]
    apart = np.abs(np.concatenate([now - before for before, now in drawn])[:, 0])
    assert p_value(1.0, apart) == pytest.approx(0.1, abs=0.015)


def test_a_group_of_both_sets_keeps_a_block_in_either():
    exchange = exchange_of(["a", "a", "b"], ["a", "c"], count=50)
    mine = exchange.partner >= 0
    assert mine.sum() == 2
    for dealt in exchange.draws():
        assert ((dealt.current[:, mine] > 0).sum(axis=1) == 1).all()
        assert ((dealt.reference[:, mine] > 0).sum(axis=1) == 1).all()


def test_sets_that_are_one_and_the_same_are_never_apart():
    rows = shop(0, groups=40)
    report = compare_rows(rows, rows, task=TASK, config=QUICK)
    assert report.verdict == "steady"
    assert all(one.size == pytest.approx(0.0, abs=1e-9) for one in report.comparisons if one.measure == "values")
    assert report.current.common == pytest.approx(1.0)


def test_rows_of_a_query_are_exchanged_together():
    """Each of 30 queries gives ten rows of one value. Rows exchanged singly see drift where there is none."""
    naive = ours = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        before, now = (np.repeat(random.choice(list("vwxyz"), 30), 10) for _ in range(2))
        queries = [np.repeat([f"{side}{k}" for k in range(30)], 10) for side in "rc"]
        ours += value_test(before, now, exchange_of(*queries, seed=seed)).p_value <= 0.05
        single = exchange_of([f"r{k}" for k in range(300)], [f"c{k}" for k in range(300)], seed=seed)
        naive += value_test(before, now, single).p_value <= 0.05
    assert naive >= 30
    assert ours <= 5  # 2 of 40 expected; P(more than 5) is 1.4%


def test_the_same_queries_in_both_sets_raise_no_false_alarm_and_hide_no_drift():
    """Two weeks of one shop: most queries come again, and the second week is a quarter of the first."""
    catalogue = np.random.default_rng(9).choice(list("vwxyz"), 60)
    popular = 1 / np.arange(1, 61)
    alarms = seen = 0
    for seed in range(30):
        random = np.random.default_rng(100 + seed)
        weeks = [random.choice(60, size, p=popular / popular.sum()) for size in (800, 200)]
        exchange = exchange_of(*(week.astype(str) for week in weeks), seed=seed)
        before, now = (catalogue[week] for week in weeks)
        alarms += value_test(before, now, exchange).p_value <= 0.05
        # In the second week a fifth of the listings of every query are of a new value.
        drifted = np.where(random.random(len(now)) < 0.2, "new", now)
        seen += value_test(before, drifted, exchange).p_value <= 0.05
    assert alarms <= 4
    assert seen >= 27


@pytest.mark.parametrize("seed", range(2))
def test_two_draws_of_one_shop_are_steady(seed):
    report = compare_rows(shop(2 * seed), shop(2 * seed + 1), task=TASK, config=QUICK, seed=seed)
    assert report.verdict == "steady"
    assert report.whole is not None and report.whole.telling == ()


def test_a_new_brand_is_found_and_named():
    now = shop(1)
    # One query in four sells a brand that nobody had.
    taken = pl.col("group").hash(3) % 4 == 0
    now = now.with_columns(brand=pl.when(taken).then(pl.lit("nova")).otherwise("brand"))
    report = compare_rows(shop(0), now, task=TASK, config=QUICK)
    moved = {(one.column, one.measure) for one in report.comparisons if one.verdict == "moved"}
    assert {("brand", "values"), ("brand", "unseen values"), ("whole row", "whole row")} <= moved
    nova = next(one for one in report.values if one.value == "nova")
    assert nova.state == "new" and nova.reference == 0.0
    assert nova.difference.low is not None and nova.difference.low > 0.1
    assert report.whole is not None
    assert report.whole.slices[0].value == "nova"
    assert "brand: nova" in report.whole.toward_current
    assert {one.inputs["brand"] for one in report.whole.telling} == {"nova"}
    assert report.of("inputs").next and report.moved


def test_misspelt_queries_are_found_as_unseen_words():
    before, now = shop(0, groups=180, each=2), shop(1, groups=180, each=2)
    # In every other query the first word has two letters swapped: no brand, no length, no empty cell changes.
    odd = pl.col("group").hash(5) % 2 == 0
    swapped = pl.col("query").str.slice(1, 1) + pl.col("query").str.slice(0, 1) + pl.col("query").str.slice(2)
    now = now.with_columns(query=pl.when(odd).then(swapped).otherwise("query"))
    report = compare_rows(before, now, task=TASK, config=QUICK)
    moved = {(one.column, one.measure) for one in report.comparisons if one.verdict == "moved"}
    assert ("query", "unseen words") in moved
    assert ("query", "length") not in moved and ("brand", "values") not in moved


def answers(rows, *, share, sure=(0.7, 0.9), seed=0):
    random = np.random.default_rng(seed)
    exact = random.random(len(rows)) < share
    confidence = random.uniform(*sure, len(rows))
    return rows.select("row_id").with_columns(
        label=pl.Series(np.where(exact, "exact", "other")),
        probs=pl.Series(
            [[p, 1 - p] if is_exact else [1 - p, p] for p, is_exact in zip(confidence, exact, strict=True)]
        ),
        abstained=pl.Series(confidence < 0.75),
    )


def test_a_shift_of_labels_moves_predictions_and_not_rows():
    before, now = shop(0), shop(1)
    students = StudentSets("s", answers(before, share=0.5), answers(now, share=0.8, seed=1))
    report = compare_rows(before, now, task=TASK, predictions=students, config=QUICK)
    assert [one.verdict for one in report.verdicts] == ["steady", "moved", "steady"]
    assert "answers otherwise" in drift_words(report).headline
    labels = {one.value: one for one in report.values if one.column == "label"}
    assert labels["exact"].current - labels["exact"].reference == pytest.approx(0.3, abs=0.08)
    assert report.quality is not None and report.quality.measured_reference is None
    assert {"confidence", "abstained", "label"} <= {one.column for one in report.comparisons}


def test_two_students_that_begin_to_disagree():
    before, now = shop(0), shop(1)
    one = (answers(before, share=0.5), answers(now, share=0.5, seed=1))
    turned = one[1].with_columns(
        label=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("other")).otherwise("label")
    )
    other = StudentSets("b", one[0], turned)
    report = compare_rows(before, now, task=TASK, predictions=StudentSets("a", *one, other=other), config=QUICK)
    found = next(one for one in report.comparisons if one.column == "differs from b")
    # A third of the rows, half of which were exact.
    assert found.reference == 0.0 and found.current == pytest.approx(1 / 6, abs=0.04)
    assert found.verdict == "moved"


def easy_and_hard(seed, easy, *, gold):
    """Rows whose query says whether the student is right on 19 of 20 or on half of them; it knows, and says so."""
    random = np.random.default_rng(seed)
    is_easy = random.random(300) < easy
    right = random.random(300) < np.where(is_easy, 0.95, 0.5)
    rows = pl.DataFrame(
        {
            "row_id": [f"{seed}-{k}" for k in range(300)],
            "group": [f"{seed}-{k}" for k in range(300)],
            "query": [f"{'easy' if e else 'hard'} {random.choice(WORDS)}" for e in is_easy],
            "title": [" ".join(random.choice(WORDS, 3)) for _ in range(300)],
            "brand": ["acme"] * 300,
            "gold": ["exact" if r else "other" for r in right] if gold else [None] * 300,
        },
        schema_overrides={"gold": pl.String},
    )
    sure = np.where(is_easy, 0.95, 0.5)
    said = rows.select("row_id").with_columns(label=pl.lit("exact"), probs=pl.Series([[p, 1 - p] for p in sure]))
    return rows, said


def test_quality_on_rows_of_another_mix():
    before, said = easy_and_hard(0, 0.8, gold=True)
    now, said_now = easy_and_hard(1, 0.3, gold=True)
    students = StudentSets("s", said, said_now)
    report = compare_rows(before, now, task=TASK, predictions=students, config=QUICK)
    found = report.quality
    # 0.8 * 0.95 + 0.2 * 0.5 = 0.86 there, 0.3 * 0.95 + 0.7 * 0.5 = 0.635 here.
    assert found.expected_reference.value == pytest.approx(0.86, abs=0.03)
    assert found.expected_current.value == pytest.approx(0.635, abs=0.03)
    assert found.measured_reference.value == pytest.approx(0.86, abs=0.06)
    assert found.measured_current.value == pytest.approx(0.635, abs=0.08)
    assert found.reweighted.low <= 0.635 <= found.reweighted.high
    assert found.reweighted.value < found.measured_reference.value - 0.1
    assert found.effective_rows < 300
    assert found.gap.low <= 0.0 <= found.gap.high
    assert report.of("quality").verdict == "moved" and any("label-next" in one for one in report.of("quality").next)


def test_without_gold_no_accuracy_is_told():
    before, said = easy_and_hard(0, 0.8, gold=False)
    now, said_now = easy_and_hard(1, 0.3, gold=False)
    report = compare_rows(before, now, task=TASK, predictions=StudentSets("s", said, said_now), config=QUICK)
    found = report.quality
    assert found.measured_reference is found.measured_current is found.reweighted is found.gap is None
    assert "share right" not in drift_markdown(report) and "no accuracy" in drift_markdown(report)


def test_weights_are_odds_within_bounds_and_worth_what_kish_says():
    assert importance_weights(np.array([0.5, 0.75, 0.0, 1.0])) == pytest.approx([1.0, 3.0, 0.02, 50.0])
    # (1 + 1 + 2)^2 / (1 + 1 + 4) = 16 / 6
    assert effective_size(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)


def test_one_comparison_alone_can_always_pass_the_correction():
    # Three columns: 4 * 3 + 6 = 18 comparisons at most, and 18 / 0.05 = 360 exchanges with the sets as they are.
    report = compare_rows(shop(0, groups=25, each=1), shop(1, groups=25, each=1), task=TASK, config=QUICK)
    assert report.exchanges == 359 and len(report.comparisons) <= 18


def test_few_groups_cannot_tell_whatever_they_look_like():
    report = compare_rows(shop(0, groups=10), shop(1, groups=60, brands=("nova",)), task=TASK, config=QUICK)
    assert report.verdict == "cannot tell" and not report.moved
    assert report.whole is None and "10 groups" in report.verdicts[0].said


def test_a_sure_shift_that_is_small_is_steady():
    before, now = shop(0), shop(1, brands=("nova", "bolt", "core", "dune"))
    strict = compare_rows(before, now, task=TASK, config=QUICK.model_copy(update={"smallest": 0.9}))
    assert strict.of("inputs").verdict == "steady" and "for sure" in strict.of("inputs").said


def test_unseen_words_are_counted_by_hand():
    # Of the current set's four words "x" twice and "y" are new to the reference, "a" is not: 3 / 4. Of the reference's
    # three, "b" twice is gone: 2 / 3.
    texts = pl.Series("q", ["a b", "b", "a x", "x y"])
    exchange = exchange_of(["r1", "r2"], ["c1", "c2"])
    found = Words.of(texts, exchange).unseen(exchange)
    assert (found.reference, found.current) == pytest.approx((2 / 3, 3 / 4))
    # Exchanged, either side has as much that the other lacks.
    assert found.current_drawn.mean() == pytest.approx(found.reference_drawn.mean(), abs=0.1)


def test_sets_of_other_words_altogether_are_seen():
    """Both shares of unseen words are then the same, so that their difference alone shows nothing."""
    before, now = (pl.Series("q", [f"{side}{k % 7}" for k in range(30)]) for side in "rc")
    exchange = exchange_of([f"r{k}" for k in range(30)], [f"c{k}" for k in range(30)])
    found = Words.of(pl.concat([before, now]), exchange).unseen(exchange)
    assert (found.reference, found.current) == pytest.approx((1.0, 1.0))
    here, drawn = found.readings()
    assert (drawn[:, 0] < here[0]).all() and here[1] == pytest.approx(0.0, abs=0.1)


def test_weight_counts_a_row_as_often_as_it_says():
    rows = shop(0, groups=60, each=1).with_columns(weight=pl.lit(1.0))
    heavy = rows.with_columns(weight=pl.when(pl.col("brand") == "acme").then(5.0).otherwise(1.0))
    found = {one.value: one for one in compare_rows(rows, heavy, task=TASK, config=QUICK).values}
    share = float((rows["brand"] == "acme").mean())
    assert found["acme"].current == pytest.approx(5 * share / (5 * share + 1 - share))


def sampled(rows, step, **options):
    sample = GroupSample(**{"most_groups": 50, "rows_per_group": 3, **options})
    for start in range(0, len(rows), step):
        sample.add(rows[start : start + step])
    return sample.finish()


def test_a_sample_is_the_same_whatever_the_batches():
    rows = shop(0, groups=300, each=5)
    one, other = sampled(rows, 7), sampled(rows, 500)
    assert one.rows.equals(other.rows)
    assert one.rows["group"].n_unique() == 50 and one.rows.group_by("group").len()["len"].max() == 3
    assert one.read == 1500 and "sample" in one.note
    # Three rows of five stand for five; all groups are raised alike.
    assert one.rows["weight"].to_numpy() == pytest.approx(5 / 3 * one.rows["weight"][0] / (5 / 3))


def test_a_sample_keeps_the_groups_of_the_other_set():
    rows = shop(0, groups=300, each=2)
    known = rows["group"].unique(maintain_order=True)[:40]
    found = sampled(rows, 100, always=known)
    assert set(known) <= set(found.rows["group"])
    assert found.rows["group"].n_unique() == 90
    # 40 known groups count as they are; 50 of the 260 others stand for about 260.
    weight = found.rows.group_by(pl.col("group").is_in(known.implode()).alias("known")).agg(pl.col("weight").sum())
    told = dict(weight.iter_rows())
    assert told[True] == pytest.approx(80) and told[False] == pytest.approx(520, rel=0.3)


def test_sampled_sets_of_one_traffic_are_steady():
    random = np.random.default_rng(0)
    pool = shop(0, groups=600, each=1)
    popular = 1 / np.arange(1, 601)
    weeks = [pool[random.choice(600, 900, p=popular / popular.sum())] for _ in range(2)]
    weeks = [week.with_columns(row_id=pl.int_range(pl.len()).cast(pl.String)) for week in weeks]
    config = QUICK.model_copy(update={"max_groups": 120, "rows_per_group": 10})
    report = compare_rows(*weeks, task=TASK, config=config)
    assert report.verdict == "steady" and report.reference.note and report.current.note


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="current set lacks the columns lang"):
        compare_rows(shop(0).with_columns(lang=pl.lit("en")), shop(1), task=TASK, slices=["lang"], config=QUICK)


def test_a_kind_of_no_column_is_named():
    with pytest.raises(DataError, match=r"no column \['brnad'\]"):
        compare_rows(shop(0), shop(1), task=TASK, config=QUICK.model_copy(update={"kinds": {"brnad": "category"}}))


def test_a_student_without_probabilities_expects_nothing_and_is_still_measured():
    before, said = easy_and_hard(0, 0.8, gold=True)
    now, said_now = easy_and_hard(1, 0.3, gold=True)
    bare = StudentSets("s", said.drop("probs"), said_now.drop("probs"))
    found = compare_rows(before, now, task=TASK, predictions=bare, config=QUICK).quality
    assert found.expected_current.value is None and found.gap.value is None
    assert found.measured_current.value == pytest.approx(0.635, abs=0.08)


def test_the_page_escapes_what_it_shows(tmp_path):
    now = shop(1, brands=("<script>alert(1)</script>",))
    report = compare_rows(shop(0), now, task=TASK, config=QUICK)
    page = write_drift_report(tmp_path / "d.html", report, name="shop").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    text = write_drift_report(tmp_path / "d.md", report, name="shop").read_text()
    assert "**moved.**" in text and "<script>" not in text
    assert drift_words(report).plot is not None


def test_a_date_in_the_section_is_text_and_comes_with_its_column():
    import datetime

    found = MonitorConfig(rows="a.csv", time="day", since=datetime.date(2026, 11, 2))
    assert found.since == "2026-11-02"
    with pytest.raises(ValueError, match="go together"):
        MonitorConfig(rows="a.csv", time="day")
