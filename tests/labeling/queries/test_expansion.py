from __future__ import annotations

import math

import polars as pl
import pytest

from distill.labeling.errors import DataError
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.expansion import CoClicks, Expansion, merge_expansions, plain_rewrites, title_terms
from distill.labeling.queries.query_checks import check_corrections, check_expansions, count_checks


@pytest.fixture(scope="module")
def catalogue():
    titles = [
        *(("Sofa couch, grey", "Home > Sofas"), ("Sofa couch bed", "Home > Sofas"), ("Couch for two", "Home > Sofas")),
        *(("Sofa cover", "Home > Covers"), ("Dog food", "Pets > Food"), ("Dog couch blanket", "Pets > Beds")),
        *(("Grey paint", "Tools > Paint"), ("Loveseat", "Home > Sofas"), ("Cat food", "Pets > Food")),
    ]
    products = pl.DataFrame(titles, schema=["title", "category"], orient="row").with_row_index("id")
    return Catalogue(products, brand=None, product_id="id")


def test_co_clicks_by_hand():
    clicks = pl.DataFrame(
        {
            "query": ["sofa", "couch", "sofa", "rug", "rug", "lamp"],
            "product_id": [1, 1, 2, 2, 3, 9],
            "n": [3, 1, 1, 1, 1, 1],
        }
    )
    near = CoClicks(clicks, count="n", shrinkage=0.0)
    # Four queries; products 1 and 2 have two each, log(4/2) = log 2. sofa: (1: log 4 · log 2, 2: log 2 · log 2).
    # couch: (1: log 2 · log 2). Cosine: log 4 / sqrt(log² 4 + log² 2) = 2 / sqrt(5).
    (couch, rug) = near("sofa")
    assert couch == Expansion("couch", pytest.approx(2 / math.sqrt(5)))
    # rug: (2: log 2 · log 2, 3: log 2 · log 4): dot with sofa 1 over sqrt(5) · sqrt(5)
    assert rug == Expansion("rug", pytest.approx(1 / 5))
    assert near("lamp") == [] and near("never seen") == []
    with pytest.raises(DataError, match=r"missing column\(s\) \['n'\]"):
        CoClicks(clicks.drop("n"), count="n")


def test_title_terms_by_hand(catalogue):
    found = title_terms(catalogue, "sofa")
    # Three titles found; of their other words only couch is in two of them.
    assert [expansion.text for expansion in found] == ["sofa couch"]
    hits = catalogue.search(["sofa"])[0]
    weights = [1 / math.log2(rank + 2) for rank in range(3)]
    share = sum(w for w, hit in zip(weights, hits, strict=True) if "couch" in catalogue.terms[hit.product]) / sum(
        weights
    )
    assert found[0].score == pytest.approx(share * math.log(share / (4 / 9)))  # couch is in four of nine titles
    assert title_terms(catalogue, "zzz") == []


def test_plain_rewrites():
    assert [one.text for one in plain_rewrites("the best hose for garden 50 feet")] == [
        "the best hose for garden 50 ft",
        "hose garden 50 feet",
        "hose garden 50 ft",
    ]
    assert [one.text for one in plain_rewrites("молоко 900 гр купить")] == [
        "молоко 900 г купить",
        "молоко 900 гр",
        "молоко 900 г",
    ]
    assert [one.text for one in plain_rewrites("추천 노트북")] == ["노트북"]
    assert plain_rewrites("garden hose") == [] and plain_rewrites("the best") == []
    assert plain_rewrites("case without cover") == []  # it turns the meaning


def test_lists_are_fused_by_rank():
    one, other = [Expansion("a", 9), Expansion("b", 8)], [Expansion("B ", 0.1), Expansion("c", 0.1)]
    # b: 1/62 + 1/61 > a: 1/61 > c: 1/62
    assert merge_expansions([one, other]) == ["b", "a", "c"]
    assert merge_expansions([one, other], most=1) == ["b"]


def test_expansions_that_drift_are_dropped(catalogue):
    checks = check_expansions(catalogue, "sofa", ["couch", "Sofa", "dog food", "zzz", "loveseat", "COUCH"], k=3)
    assert [(check.expansion, check.reason) for check in checks] == [
        ("couch", ""),
        ("Sofa", "same"),
        ("dog food", "drifts"),
        ("zzz", "finds nothing"),
        ("loveseat", ""),  # another product, of the category that two of the query's three have
        ("COUCH", "same"),
    ]
    assert checks[4].overlap == 0 and checks[4].category_overlap == pytest.approx(2 / 3)


def test_with_labels_exact_products_have_to_stay(catalogue):
    (lost,) = check_expansions(catalogue, "sofa", ["loveseat"], exact=["0", "1"], k=3)
    assert (lost.kept, lost.exact_kept, lost.reason) == (False, 0.0, "loses exact products")
    (kept,) = check_expansions(catalogue, "sofa", ["sofa couch"], exact=["0", "8"], k=3)
    assert kept.kept and kept.exact_kept == 1.0  # product 8 is not among the query's own


def test_nothing_is_said_of_a_query_that_finds_nothing(catalogue):
    assert check_expansions(catalogue, "qqq", ["couch"])[0].kept


def test_corrections_are_checked_against_the_other_tasks():
    answers = pl.DataFrame(
        {
            "query": ["moen faucwt", "rug", "dewall dril", "sofá"],
            "correction": ["men faucet", "Rug", "dewalt drill", "sofa"],
        }
    )
    categories = {
        "moen faucwt": ["Bath"],
        "men faucet": ["Men"],
        "dewall dril": ["Tools"],
        "dewalt drill": ["Tools", "x"],
    }
    checked = check_corrections(
        answers,
        correct=lambda text: {"dewalt drill": "dewalt drills"}.get(text, text),
        categories=lambda text: categories.get(text, []),
        brands={"moen faucwt": [Span(0, 4, "brand")], "rug": [Span(0, 3, "brand")], "dewall dril": []},
    )
    assert checked.select("changed", "stands", "same_category", "brands_stay").rows() == [
        (True, True, False, False),
        (False, None, None, None),  # case is no change
        (True, False, True, None),
        (True, True, None, None),
    ]
    counts = count_checks(checked)
    assert counts.rows() == [
        ("changed", 3, 1, 0, 0.75),
        ("stands", 2, 1, 1, pytest.approx(2 / 3)),
        ("same_category", 1, 1, 2, 0.5),
        ("brands_stay", 0, 1, 3, 0.0),
    ]
