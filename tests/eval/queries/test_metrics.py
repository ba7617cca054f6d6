from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score

from distill.eval.queries.brand_metrics import brand_tally
from distill.eval.queries.category_metrics import category_tally
from distill.eval.queries.expansion_metrics import Searched, expanded_ranking, expansion_tally
from distill.eval.queries.metrics import estimates, f_beta, paired_claim
from distill.eval.queries.spelling_metrics import spelling_tally, word_edits
from distill.labeling.errors import DataError
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue


def values(tally):
    sums = tally.terms.sum(axis=0)
    return {name: float(score(sums)) for name, score in tally.scores.items()}


def test_spelling_by_hand():
    queries = ["gas mowe", "rug", "Moen tap", "teir shelf", "sofa bed"]
    gold = ["gas mower", "rug", "moen tap", "tier shelf", "sofa bed"]
    said = ["gas mower", "rag", "men tap", "tier shelves", "sofabed"]
    brands = [[], [], ["Moen"], [], []]
    found = values(spelling_tally(queries, gold, said, brands=brands))
    assert found["corrected_right"] == 1 / 2  # of mowe and teir the first
    assert found["over_correction"] == 1.0 and found["left_alone"] == 0.0  # rug, Moen and sofa bed all changed
    assert found["change_precision"] == 1 / 5
    assert found["exact_match"] == 1 / 5
    assert found["brand_over_correction"] == 1.0
    # Edits: gold mower, tier: 2. Said mower, rag, men, tier, shelves, sofabed: 6, two of them right.
    # F0.5 = 1.25 · 2 / (6 + 0.25 · 2)
    assert found["word_f05"] == pytest.approx(2.5 / 6.5)


def test_case_and_spaces_are_no_change_and_a_joined_brand_stays():
    found = values(spelling_tally(["Black  Decker"], ["black decker"], ["BlackDecker"], brands=[["black decker"]]))
    assert found["over_correction"] == 1.0 and found["brand_over_correction"] == 0.0
    assert math.isnan(found["corrected_right"])


def test_word_edits():
    assert word_edits("a b c", "a x y") == {(1, 2, "x"), (2, 3, "y")}
    assert word_edits("thresh hold door", "threshold door") == {(0, 2, "threshold")}
    assert word_edits("lawnmower", "lawn mower") == {(0, 1, "lawn mower")}
    assert word_edits("a", "a") == set()


def test_brand_by_hand():
    queries = ["black decker drill", "apple juice", "рис мистраль", "sofa"]
    gold = [[Span(0, 12, "brand")], [], [Span(4, 12, "brand")], []]
    said = [[Span(0, 5, "brand")], [Span(0, 5, "brand")], [Span(4, 12, "brand")], []]
    linked = ([["Black+Decker"], [], ["Мистраль"], []], [["BLACK+DECKER"], ["Apple"], ["Мистраль"], []])
    found = values(brand_tally(queries, gold, said, linked=linked))
    assert found["span_f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert found["span_precision"] == pytest.approx(1 / 3) and found["span_recall"] == 1 / 2
    assert found["word_f1"] == pytest.approx(2 * 2 / (3 + 3))  # black and мистраль of three words, and of three said
    assert found["linked_f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["false_brand"] == 1 / 2
    assert "linked_f1" not in brand_tally(queries, gold, said).scores


def test_category_by_hand():
    gold = [["Home > Kitchen > Kettles"], ["Home > Garden", "Tools"], ["Pets"]]
    said = [["home > kitchen > Pans"], ["Tools", "Home > Bath"], []]
    found = values(category_tally(gold, said))
    assert found["accuracy_1"] == pytest.approx(2 / 3)
    # Two queries have a second level: Kitchen is right; Tools, though true, stops above it.
    assert found["accuracy_2"] == 1 / 2
    assert found["accuracy_3"] == 0.0
    assert found["micro_f1"] == pytest.approx(2 * 1 / (3 + 4))
    # Six labels occur, of which Tools alone has hits: F1 1
    assert found["macro_f1"] == pytest.approx(1 / 6)
    # With ancestors: gold 3 + 3 + 1, said 3 + 3 + 0, hits home, kitchen; home, tools
    assert found["hierarchical_f1"] == pytest.approx(2 * 4 / (7 + 6))


def test_category_f1_against_scikit_learn():
    rng = np.random.default_rng(1)
    true, guess = rng.random((60, 5)) < 0.4, rng.random((60, 5)) < 0.4
    names = np.array(list("abcde"))
    found = values(category_tally([list(names[row]) for row in true], [list(names[row]) for row in guess]))
    assert found["micro_f1"] == pytest.approx(f1_score(true, guess, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(true, guess, average="macro"))
    assert found["hierarchical_f1"] == pytest.approx(found["micro_f1"])  # a flat set has no ancestors


def test_expansion_by_hand():
    searched = [
        Searched(
            before=["a", "b"],
            after=["c", "a", "x"],
            gains={"a": 1.0, "b": 0.0, "c": 3.0, "x": 0.0},
            relevant=["a", "c"],
            categories={"a": "Home", "c": "Home", "x": "Pets", "b": ""},
        ),
        Searched(before=["p"], after=["p"], gains={"p": 1.0}, relevant=["p"], categories={}),
        Searched(before=[], after=["q"], gains={"q": 0.0}, relevant=[], categories={"q": "Pets"}),
    ]
    found = values(expansion_tally(searched, k=2))
    assert found["recall"] == pytest.approx((2 / 2 + 1) / 2)
    assert found["recall_change"] == pytest.approx((1.0 - 0.5) / 2)
    ideal = 3 + 1 / math.log2(3)
    assert found["ndcg_change"] == pytest.approx((1 - 1 / ideal) / 2)  # c then a is the best order; before: a at 1
    assert (found["better"], found["worse"]) == (1 / 2, 0.0)
    assert found["drift"] == 1 / 2  # new and judged: c, with a gain, and q, without
    assert found["category_drift"] == 0.0  # c alone: x is beyond k, and q's query had no category to leave
    assert values(expansion_tally(searched, k=3))["category_drift"] == 1 / 2  # x too
    assert expansion_tally(searched).signed == {"recall_change", "ndcg_change"}
    with pytest.raises(DataError, match="at least 1"):
        expansion_tally(searched, k=0)


def test_expanded_ranking_by_hand():
    products = pl.DataFrame({"id": ["s", "c", "b"], "title": ["sofa", "couch", "sofa couch"]})
    catalogue = Catalogue(products, brand=None, category=None, product_id="id")
    assert expanded_ranking(catalogue, "sofa", []) == ["s", "b"]  # the shorter title first
    # sofa: s 1/61, b 1/62. couch: c 1/61, b 1/62, each times w. b passes s as soon as (1 + w)/62 > 1/61: w > 1/61.
    assert expanded_ranking(catalogue, "sofa", ["couch"], weight=0.5, fusion="ranks") == ["b", "s", "c"]
    assert expanded_ranking(catalogue, "sofa", ["couch"], weight=0.01, fusion="ranks") == ["s", "b", "c"]
    # By scores: s is 1, c is w, b is (1 + w) q, with q the score of a title of two words over that of one. Both have
    # the term once, and bm25s's Lucene form is tf / (tf + 1.2 (0.25 + 0.75 length / mean)); the mean is 4/3 words.
    # 1 + 1.2 (0.25 + 0.5625) = 1.975 over 1 + 1.2 (0.25 + 1.125) = 2.65: q = 0.745. b passes s where w > 0.342.
    assert expanded_ranking(catalogue, "sofa", ["couch"], weight=0.5) == ["b", "s", "c"]
    assert expanded_ranking(catalogue, "sofa", ["couch"], weight=0.35) == ["b", "s", "c"]
    assert expanded_ranking(catalogue, "sofa", ["couch"], weight=0.33) == ["s", "b", "c"]
    # Several expansions share the weight: of two, one of which finds nothing, couch has half of it.
    assert expanded_ranking(catalogue, "sofa", ["couch", "zzz"], weight=0.66) == ["s", "b", "c"]
    assert expanded_ranking(catalogue, "zzz", ["couch"]) == ["c", "b"]


def test_estimates_are_by_group():
    queries, gold = ["teir"] * 40, ["tier"] * 40
    said = ["tier"] * 20 + ["teir"] * 20
    by_query = estimates(spelling_tally(queries, gold, said), [f"q{n}" for n in range(40)])
    by_pair = estimates(spelling_tally(queries, gold, said), [f"q{n // 10}" for n in range(40)])
    assert by_query["corrected_right"].value == by_pair["corrected_right"].value == 0.5
    width = {
        name: found.high - found.low
        for name, found in [("q", by_query["corrected_right"]), ("p", by_pair["corrected_right"])]
    }
    assert width["p"] > 2 * width["q"]  # four groups of ten alike
    assert by_pair["corrected_right"].groups == 4
    assert by_query["left_alone"].value is None  # no query was right


def test_a_change_of_exactly_nothing_keeps_its_interval():
    one = Searched(before=["a"], after=["b"], gains={"a": 1.0, "b": 0.0}, relevant=["a"], categories={})
    other = Searched(before=["b"], after=["a"], gains={"a": 1.0, "b": 0.0}, relevant=["a"], categories={})
    found = estimates(expansion_tally([one, other] * 20, k=1), [str(n) for n in range(40)])["ndcg_change"]
    assert found.value == 0 and found.low < -0.1 and found.high > 0.1


def test_f_beta_against_scikit_learn():
    from sklearn.metrics import fbeta_score

    rng = np.random.default_rng(2)
    true, guess = rng.random(200) < 0.3, rng.random(200) < 0.4
    sums = np.array([(true & guess).sum(), guess.sum(), true.sum()], float)
    assert float(f_beta(0, 1, 2, beta=0.5)(sums)) == pytest.approx(fbeta_score(true, guess, beta=0.5))
    assert np.isnan(f_beta(0, 1, 2)(np.zeros(3)))


def sides(better, worse, count=200):
    """Two predictors on the same queries: how often each is right, independently by query."""
    rng = np.random.default_rng(7)
    queries, gold = ["teir"] * count, ["tier"] * count
    tallies = [
        spelling_tally(queries, gold, np.where(rng.random(count) < share, "tier", "teir").tolist())
        for share in (better, worse)
    ]
    return *tallies, [str(n) for n in range(count)]


def test_a_better_student_is_claimed_and_a_worse_one_is_not():
    student, teacher, groups = sides(0.9, 0.7)
    claim = paired_claim(student, teacher, groups, metric="corrected_right")
    assert claim.holds and claim.p_value < 0.01 and 0 < claim.lower < claim.difference
    turned = paired_claim(teacher, student, groups, metric="corrected_right")
    assert not turned.holds and turned.p_value > 0.99
    assert turned.difference == pytest.approx(-claim.difference)


def test_equals_need_a_margin():
    student, _, groups = sides(0.8, 0.8)
    same = paired_claim(student, student, groups, metric="corrected_right")
    assert (same.difference, same.lower, same.holds) == (0.0, 0.0, False)
    assert paired_claim(student, student, groups, metric="corrected_right", margin=0.01).holds


def test_lower_bound_agrees_with_the_t_interval():
    student, teacher, groups = sides(0.85, 0.75, count=400)
    claim = paired_claim(student, teacher, groups, metric="corrected_right")
    gaps = student.terms[:, 2] - teacher.terms[:, 2]  # right or not
    bound = gaps.mean() - 1.6487 * gaps.std(ddof=1) / 20  # t of 399 degrees at .95, sqrt(400)
    assert claim.lower == pytest.approx(bound, abs=0.006)


def test_a_claim_needs_the_same_queries():
    student, teacher, groups = sides(0.9, 0.7)
    with pytest.raises(DataError, match="score both on the same queries"):
        paired_claim(student, teacher, groups[:-1], metric="corrected_right")
    with pytest.raises(DataError, match="'span_f1'"):
        paired_claim(student, teacher, groups, metric="span_f1")
