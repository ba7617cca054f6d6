"""Cells as text that a model can read: HTML, control characters and odd types taken out, and every change counted."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html.entities import html5
from typing import NamedTuple

import polars as pl

_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|"
    "var|wbr"
)
_BLOCK = (
    "address|area|article|aside|audio|base|blockquote|body|br|button|canvas|caption|center|col|colgroup|dd|del|details|"
    "dialog|dir|div|dl|dt|embed|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hgroup|hr|html|"
    "iframe|img|input|label|legend|li|link|main|map|menu|meta|nav|noscript|object|ol|optgroup|option|output|p|param|"
    "picture|pre|progress|script|section|select|source|style|summary|svg|table|tbody|td|template|textarea|tfoot|th|thead|"
    "time|title|tr|track|ul|video"
)
# An element's name alone is not enough to call something a tag: in "0<p and q>0" there is none, so attributes must
# hold an equals sign.
_ATTRIBUTES = r"""(?:\s+(?:"[^"]*"|'[^']*'|[^<>"'])*=(?:"[^"]*"|'[^']*'|[^<>"'])*|\s*)/?"""
_HIDDEN_TEXT = r"(?is)<(?:script|style)\b[^<>]*>.*?</(?:script|style)\s*>|<!--.*?-->|<!doctype[^<>]*>|<!\[CDATA\[|\]\]>"
_INLINE_TAG = rf"(?i)</?(?:{_INLINE}){_ATTRIBUTES}>"
_BLOCK_TAG = rf"(?i)</?(?:{_BLOCK}){_ATTRIBUTES}>"
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# Control characters that are not white space, and invisible ones that reorder or hide text. The joiners U+200C and
# U+200D stay: Persian, Hindi and emoji need them.
_INVISIBLE = (
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_BROKEN_SPACE = r"^\s|\s$|\s\s|[^\S ]|[\x1c-\x1f]"
_SPACE = r"[\s\x1c-\x1f]+"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST_PLAIN_FLOAT = 1e15


class Cleaned(NamedTuple):
    """A column after cleaning, and how many of its cells each repair changed."""

    values: pl.Series
    counts: Counter[str]


def clean_text(values: pl.Series, *, strip_html: bool, max_chars: int) -> Cleaned:
    """Makes a text column fit to be read.

    Nulls become empty; tags go (an element inside a word leaves no gap, any other leaves a space) and entities are
    replaced; control and invisible characters go; white space folds to single spaces; letters are composed (NFC), so
    that Korean written on a Mac equals Korean written elsewhere; what is longer than ``max_chars`` is cut.

    Args:
        values: Strings, shape (n,).
        strip_html: Whether to take out tags and entities. ``size < 5 > 3`` is no tag and stays.
        max_chars: The most characters that a cell may keep.

    Returns:
        Strings without nulls, and counts by ``null_filled``, ``html_stripped``, ``invisible_removed``,
        ``space_folded``, ``recomposed``, ``cell_cut``.
    """
    counts: Counter[str] = Counter({"null_filled": values.null_count()})
    values = values.fill_null("")
    if strip_html:
        values, counts["html_stripped"] = _change_where(values, values.str.contains("[<&]"), _strip_html)
    values, counts["invisible_removed"] = _change_where(
        values, values.str.contains(_INVISIBLE), lambda part: part.str.replace_all(_INVISIBLE, "")
    )
    values, counts["space_folded"] = _change_where(values, values.str.contains(_BROKEN_SPACE), _fold_space)
    beyond_ascii = values.str.len_bytes() != values.str.len_chars()
    values, counts["recomposed"] = _change_where(values, beyond_ascii, lambda part: part.str.normalize("NFC"))
    too_long = values.str.len_chars() > max_chars
    values, counts["cell_cut"] = _change_where(
        values, too_long, lambda part: part.str.slice(0, max_chars).str.strip_chars_end()
    )
    return Cleaned(values, +counts)


def _change_where(
    values: pl.Series, where: pl.Series, change: Callable[[pl.Series], pl.Series]
) -> tuple[pl.Series, int]:
    """Applies a costly change to the few cells that may need it; counts those that it did change."""
    at = where.arg_true()
    if not len(at):
        return values, 0
    before = values.gather(at)
    after = change(before)
    return values.scatter(at, after), int((before != after).sum())


def _strip_html(values: pl.Series) -> pl.Series:
    # Twice, since shops escape whole descriptions: "&lt;b&gt;" is a tag once it is unescaped.
    return _strip_tags(_unescape(_strip_tags(values)))


def _strip_tags(values: pl.Series) -> pl.Series:
    values = values.str.replace_all(_HIDDEN_TEXT, " ")
    return values.str.replace_all(_INLINE_TAG, "").str.replace_all(_BLOCK_TAG, " ")


def _unescape(values: pl.Series) -> pl.Series:
    at = values.str.contains("&", literal=True).arg_true()
    if not len(at):
        return values
    changed = [_ENTITY.sub(_entity, text) for text in values.gather(at)]
    return values.scatter(at, pl.Series(changed, dtype=pl.String))


def _entity(match: re.Match[str]) -> str:
    """Only whole entities: html.unescape alone would also turn ``?a=1&copy=2`` into ``?a=1©=2``."""
    text = match[0]
    return html.unescape(text) if text[1] == "#" or text[1:] in html5 else text


def _fold_space(values: pl.Series) -> pl.Series:
    return values.str.replace_all(_SPACE, " ").str.strip_chars(" ")


def to_text(values: pl.Series) -> pl.Series:
    """Renders a column of any type as text, nulls kept.

    Whole numbers are written without a point, also where a column of integers became floats because of its gaps
    (3.0 is ``3``); NaN is null; lists and structs are written as :func:`plain_text` does.
    """
    dtype = values.dtype
    if dtype == pl.String:
        return values
    if dtype.is_float():
        values = values.fill_nan(None)
        whole = values.is_finite() & (values == values.round(0)) & (values.abs() < _LARGEST_PLAIN_FLOAT)
        as_integers = values.cast(pl.Int64, strict=False).cast(pl.String)
        return as_integers.zip_with(whole.fill_null(False), values.cast(pl.String))
    if dtype.is_nested() or dtype == pl.Object:
        return text_series([plain_text(value) for value in values.to_list()])
    if dtype == pl.Binary:
        return text_series([None if value is None else value.decode("utf-8", "replace") for value in values])
    return values.cast(pl.String)


def plain_text(value: object, *, separator: str = "; ") -> str | None:
    """Renders one value of JSON as text: ``{"color": "red", "size": [1, 2.0]}`` is ``color: red; size: 1, 2``.

    Returns:
        None for what holds nothing (null, NaN, an empty list).
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() and abs(value) < _LARGEST_PLAIN_FLOAT else repr(value)
    if isinstance(value, dict):
        items = ((key, plain_text(item, separator=", ")) for key, item in value.items())
        return separator.join(f"{key}: {text}" for key, text in items if text) or None
    if isinstance(value, list | tuple | set | pl.Series):
        texts = (plain_text(item, separator=", ") for item in value)
        return separator.join(text for text in texts if text) or None
    return str(value)


def text_series(values: Sequence[str | None]) -> pl.Series:
    """A text column of Python strings; halves of surrogate pairs, which are no characters, become U+FFFD."""
    try:
        return pl.Series(values, dtype=pl.String)
    except UnicodeEncodeError:
        fixed = [None if text is None else _SURROGATE.sub("\ufffd", text) for text in values]
        return pl.Series(fixed, dtype=pl.String)
