"""Cells as text."""

import datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.rows.clean import clean_text, plain_text, text_series, to_text


def cleaned(text, *, strip_html=True, max_chars=1000):
    return clean_text(pl.Series([text], dtype=pl.String), strip_html=strip_html, max_chars=max_chars).values[0]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("size < 5 > 3", "size < 5 > 3"),
        ("0<p and q>0", "0<p and q>0"),
        ("i <3 you & me", "i <3 you & me"),
        ("<Brand> is kept", "<Brand> is kept"),
        ("un<b>break</b>able H<sub>2</sub>O", "unbreakable H2O"),
        ("one<br/>two<p class='x'>three</P>", "one two three"),
        ('<img src="a>b.png" alt=x>pic', "pic"),
        ("<script>if (1<2) {}</script>ok<style>p{}</style><!-- no -->!", "ok !"),
        ("&lt;p class=&quot;x&quot;&gt;escaped&lt;/p&gt; whole", "escaped whole"),
        ("AT&T &amp; R&D ?a=1&copy=2 &bogus; &#39;&#x41;", "AT&T & R&D ?a=1&copy=2 &bogus; 'A"),
        (" a\u00a0b\r\n\tc  ", "a b c"),
        ("a\x00b\u200bc\x07\ufeff", "abc"),
        ("\u202eevil\u202c", "evil"),
        ("क्\u200dष 👩\u200d👧", "क्\u200dष 👩\u200d👧"),
        ("\u1112\u1161\u11ab", "한"),
        (None, ""),
    ],
)
def test_text_becomes_readable(found, wanted):
    assert cleaned(found) == wanted


def test_html_is_kept_where_the_recipe_says_so():
    assert cleaned("<b>x</b> &amp; y", strip_html=False) == "<b>x</b> &amp; y"


def test_changes_are_counted_by_kind_and_clean_cells_are_not():
    values = pl.Series(["plain", "<b>x</b>", "a  b", "abcdefghijk", None, "x & y", "한\x00국"])
    result = clean_text(values, strip_html=True, max_chars=10)
    assert result.values.to_list() == ["plain", "x", "a b", "abcdefghij", "", "x & y", "한국"]
    assert dict(result.counts) == {
        "null_filled": 1,
        "html_stripped": 1,
        "space_folded": 1,
        "invisible_removed": 1,
        "cell_cut": 1,
    }


@given(st.text(max_size=200))
def test_cleaning_settles_and_never_leaves_control_characters(text):
    once = cleaned(text.encode("utf-8", "replace").decode(), strip_html=False)
    assert cleaned(once, strip_html=False) == once
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in once)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pl.Series([3.0, 2.5, None, float("nan"), 1e30]), ["3", "2.5", None, None, "1e+30"]),
        (pl.Series([1, None]), ["1", None]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series([datetime.date(2024, 2, 29)]), ["2024-02-29"]),
        (pl.Series([b"abc", b"\xff"]), ["abc", "\ufffd"]),
        (pl.Series([["a", "b"], []]), ["a; b", None]),
        (pl.Series([{"color": "red", "cm": [1.0, 2.5], "none": None}]), ["color: red; cm: 1, 2.5"]),
        (pl.Series(["x"], dtype=pl.Categorical), ["x"]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_any_type_is_rendered_as_text(values, wanted):
    assert to_text(values).to_list() == wanted


def test_nested_json_is_rendered_flat():
    value = {"size": {"w": 1, "h": 2.0}, "tags": ["a", None, "b"], "ok": True, "empty": {}, "n": float("nan")}
    assert plain_text(value) == "size: w: 1, h: 2; tags: a, b; ok: true"


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    assert text_series(["a\ud83d", None, "b"]).to_list() == ["a\ufffd", None, "b"]
