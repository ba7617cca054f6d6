"""Clicks by query: summed, spelled, and turned into queries that lead to the same products."""

from __future__ import annotations

import math

import polars as pl
import pytest

from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue_config import ClicksConfig
from distill.labeling.queries.catalogue_file import read_clicks
from distill.labeling.queries.click_log import Clicked, ClickLog
from distill.labeling.queries.expansion import CoClicks


def clicks(*lines: tuple[str | None, str | None, object]) -> pl.DataFrame:
    return pl.DataFrame(list(lines), schema=["query", "product_id", "n"], orient="row", strict=False)


def test_clicks_are_summed_by_form_and_written_as_most_do() -> None:
    log = ClickLog(
        clicks(
            *(("Sofa", "p1", 1), ("sofa ", "p1", 2), (" SOFA", "p2", 3), ("sofa", "p2", 1)),
            *((None, "p1", 5), ("rug", None, 5), ("rug", "p3", 0), ("  ", "p3", 4), ("rug", "p3", -2)),
        ),
        count="n",
    )
    # p2 has 3 + 1, p1 1 + 2; " SOFA" has three clicks, and "sofa " and "sofa" two and one.
    assert log.products("sOfA") == [Clicked("p2", 4.0), Clicked("p1", 3.0)]
    assert log.spelled("sofa") == "SOFA"
    assert len(log) == 1 and log.products("rug") == []
    # Without a column of counts every line is a click, also that of the rug.
    assert ClickLog(clicks(("rug", "p3", 0), ("rug", "p3", 0))).products("rug") == [Clicked("p3", 2.0)]


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(DataError, match=r"clicks: missing column\(s\) \['times'\]"):
        ClickLog(clicks(("sofa", "p1", 1)), count="times")
    with pytest.raises(DataError, match="no line of 2 has a query, a product and a click"):
        ClickLog(clicks(("sofa", "p1", "many"), ("rug", "p1", "0")), count="n")


def test_a_stray_click_makes_no_synonym() -> None:
    log = clicks(("sofa", "p1", 40), ("couch", "p1", 40), ("lamp", "p2", 1), ("rug", "p2", 1), ("bed", "p3", 9))
    near = CoClicks(log, count="n", shrinkage=2.0)
    # Each pair shares its one product: the cosine is 1. Sofa and couch share 40 clicks, lamp and rug one.
    assert near("sofa")[0] == ("couch", pytest.approx(40 / 42))
    assert near("lamp")[0] == ("rug", pytest.approx(1 / 3))
    assert near("lamp", least=0.4) == [] and near("bed") == []


def test_against_a_plain_reference() -> None:
    lines = [("a", "1", 3), ("a", "2", 1), ("b", "1", 1), ("b", "3", 2), ("c", "2", 5), ("c", "3", 1), ("d", "9", 1)]
    near = CoClicks(clicks(*lines), count="n", shrinkage=1.5)
    counts = {(query, product): n for query, product, n in lines}
    leading = {product: len({q for q, p, _ in lines if p == product}) for _, product, _ in lines}

    def reference(one: str, other: str) -> float:
        x, y = (
            {p: math.log1p(n) * math.log(4 / leading[p]) for (q, p), n in counts.items() if q == own}
            for own in (one, other)
        )
        shared = sum(min(counts[one, p], counts[other, p]) for p in x if p in y)
        cosine = sum(x[p] * y[p] for p in x if p in y) / math.hypot(*x.values()) / math.hypot(*y.values())
        return shared / (shared + 1.5) * cosine

    found = near("a", least=1e-9)
    assert {one.text: one.score for one in found} == pytest.approx({q: reference("a", q) for q in ("b", "c")})
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert near("a", most=1, least=1e-9) == found[:1]


def test_of_a_product_of_all_queries_the_strongest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.labeling.queries.expansion._MOST_QUERIES", 2)
    log = clicks(*((f"q{n}", "hit", n) for n in range(1, 6)), ("other", "p", 1))
    near = CoClicks(log, count="n", shrinkage=0.0)
    assert [one.text for one in near("q1", least=1e-9)] == ["q4", "q5"]  # both cosines are 1: by name


def test_a_log_is_read_as_the_section_says(tmp_path) -> None:
    pl.DataFrame({"q": ["Sofa", "couch", "rug"], "sku": [7, 7, 8], "n": [3, 3, 1]}).write_csv(tmp_path / "clicks.csv")
    config = ClicksConfig(rows=str(tmp_path / "clicks.csv"), query="q", product="sku", clicks="n")
    assert [one.text for one in read_clicks(config)("couch")] == ["Sofa"]
    with pytest.raises(DataError, match=r"'product_id' \(for data.catalogue.clicks\)"):
        read_clicks(ClicksConfig(rows=str(tmp_path / "clicks.csv")))
