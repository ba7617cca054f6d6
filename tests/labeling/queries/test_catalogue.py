from __future__ import annotations

import math
import sys

import polars as pl
import pytest

from distill.labeling.errors import DataError, MissingDependencyError
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.labeling.queries.catalogue import Catalogue, Share, discounted
from distill.labeling.queries.category_vote import CategoryShare, category_overlap, vote_categories
from distill.labeling.queries.query_words import search_terms

PRODUCTS = pl.DataFrame(
    [
        ("p0", "Apple iPhone 15 case", "Spigen", "Electronics > Phones > Cases"),
        ("p1", "Apple iPhone 15", "Apple", "Electronics > Phones > Smartphones"),
        ("p2", "Apple AirPods", "Apple", "Electronics > Audio"),
        ("p3", "Fuji apple, 1 kg", "FreshFarm", "Grocery > Fruit"),
        ("p4", "무선이어폰 갤럭시 버즈", "삼성", "Electronics > Audio"),
        ("p5", "무선 이어폰 케이스", None, "Electronics > Audio > Cases"),
        ("p6", "Молоко 1 л", "Простоквашино", "Grocery > Milk"),
    ],
    schema=["id", "title", "brand", "category"],
    orient="row",
)


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue(PRODUCTS, product_id="id")


def test_scores_are_bm25(catalogue):
    query = "apple case"
    lengths = [len(terms) for terms in catalogue.terms]
    mean = sum(lengths) / len(lengths)

    def score(terms):  # Robertson & Zaragoza with Lucene's idf and without its constant (k1 + 1)
        total = 0.0
        for term in search_terms(query):
            holding = sum(term in other for other in catalogue.terms)
            idf = math.log(1 + (len(lengths) - holding + 0.5) / (holding + 0.5))
            times = terms.count(term)
            total += idf * times / (times + 1.2 * (1 - 0.75 + 0.75 * len(terms) / mean))
        return total

    expected = {place: score(terms) for place, terms in enumerate(catalogue.terms) if score(terms) > 0}
    found = catalogue.search([query])[0]
    assert {hit.product: hit.score for hit in found} == pytest.approx(expected, rel=1e-5)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_korean_is_found_with_and_without_spaces(catalogue):
    assert {hit.product for hit in catalogue.search(["무선 이어폰"])[0]} == {4, 5}
    assert catalogue.search(["이어폰케이스"])[0][0].product == 5


def test_nothing_found_is_no_error_and_k_may_exceed_the_catalogue(catalogue):
    assert catalogue.search(["zzz", "", "молоко"], k=100)[:2] == [[], []]
    assert [hit.product for hit in catalogue.search(["молоко"], k=100)[0]] == [6]
    assert catalogue.near("zzz").brands == ()


def test_ties_are_broken_by_position():
    same = Catalogue(pl.DataFrame({"title": ["oak table"] * 30}), brand=None, category=None)
    assert [hit.product for hit in same.search(["oak"], k=5)[0]] == [0, 1, 2, 3, 4]


def test_shares_and_evidence(catalogue):
    near = catalogue.near("무선 이어폰")
    assert near.brands == (Share("삼성", 1, 0.5),)  # of two found, one has none
    line = catalogue.evidence(["apple iphone", "zzz"], k=2).row(0, named=True)
    assert line["near_titles"] == "Apple iPhone 15\nApple iPhone 15 case"
    assert line["near_brands"] == "Apple (1 of 2)\nSpigen (1 of 2)"
    assert catalogue.evidence(["zzz"]).row(0)[1:] == ("", "", "")


def test_what_is_wrong_is_said(monkeypatch):
    with pytest.raises(DataError, match=r"missing column\(s\) \['name'\]"):
        Catalogue(PRODUCTS, title="name")
    with pytest.raises(DataError, match="no product has a word"):
        Catalogue(pl.DataFrame({"title": ["!!", None]}), brand=None, category=None)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'distill\[retrieval\]'"):
        Catalogue(PRODUCTS)


def test_category_vote_by_hand(catalogue):
    hits = catalogue.search(["apple"], k=10)[0]
    order = [hit.product for hit in hits]
    assert set(order) == {0, 1, 2, 3}
    weight = dict(zip(order, discounted(hits), strict=True))
    # Phones together against Audio and Fruit; with 0.6 only the root is sure enough.
    electronics = weight[0] + weight[1] + weight[2]
    assert vote_categories(catalogue, hits, least=0.6) == [CategoryShare("Electronics", pytest.approx(electronics))]
    found = vote_categories(catalogue, hits, least=0.15)
    by_weight = sorted(order, key=lambda place: -weight[place])
    assert [vote.category for vote in found] == [PRODUCTS["category"][place] for place in by_weight]
    top = vote_categories(catalogue, hits, least=0.15, level=1)
    assert {vote.category for vote in top} == {"Electronics", "Grocery"}
    assert vote_categories(catalogue, []) == []


def test_category_overlap():
    # 2/3 a, 1/3 b against 1/2 a, 1/2 c: 1/2
    assert category_overlap(["a", "a", "b", ""], ["a", "c"]) == pytest.approx(0.5)
    assert category_overlap(["a"], [""]) == 0.0


@pytest.mark.parametrize(
    "query", ["black decker drill", "Black & Decker drill", "blackdecker drill", "black and decker drill"]
)
def test_names_are_found_however_they_are_joined(query):
    (span,) = BrandDictionary(["BLACK+DECKER", "Decker"]).tag(query)
    assert span.brand == "BLACK+DECKER" and query[span.end :] == " drill" and span.start == 0


def test_short_names_are_not_pieced_together():
    brands = BrandDictionary(["Nook", "L'Oréal", "Generic", "3"])
    assert brands.tag("no ok today") == [] and brands.tag("generic 3 pack") == []
    assert brands.tag("l oréal mascara")[0].brand == "L'Oréal"
    assert brands.spans("my NOOK") == [(3, 7)]


def test_aliases_lead_to_the_name_and_names_cross_scripts():
    brands = BrandDictionary(
        ["Hewlett-Packard", "Samsung", "Adidas"], aliases={"hp": "hewlett packard"}, transliterate=True
    )
    assert brands.tag("hp printer")[0].brand == "Hewlett-Packard"
    assert [span.brand for span in brands.tag("삼성 냉장고")] == ["Samsung"]
    assert [span.brand for span in brands.tag("кроссовки адидас")] == ["Adidas"]
    assert BrandDictionary(["Samsung"]).tag("삼성 냉장고") == []
    # Two brands of one sound: neither is guessed.
    twins = BrandDictionary(["Adidas", "Adydas Co"], aliases={"adydas": "Adydas Co"}, transliterate=True)
    assert twins.tag("адидас") == []


def test_a_brand_that_is_a_word_needs_evidence(catalogue):
    brands = BrandDictionary.from_products(catalogue.titles, catalogue.brands)
    # apple stands in four titles, two of Apple: (2 + 1) / (4 + 1); held against a higher bar here
    assert brands.trust["apple"] == pytest.approx(0.6)
    strict = BrandDictionary(["Apple"], trusted=0.7)
    strict.learn_trust(catalogue.titles, catalogue.brands)
    assert strict.tag("apple") == []
    assert strict.tag("apple juice", {"FreshFarm": 0.9}) == []
    (span,) = strict.tag("apple airpods", {"apple": 0.5})
    assert (span.brand, span.trust) == ("Apple", pytest.approx(0.6))
    assert strict("apple airpods", {"Apple": 0.5})[0]._asdict() == {"start": 0, "end": 5, "label": "brand"}
