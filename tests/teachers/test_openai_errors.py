import pytest
from multidict import CIMultiDict

from distill.teachers.openai_errors import is_filtered, retry_after_s, told


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "3", "Retry-After-Ms": "250"}, 0.25),
        # 90 s from the server's own clock, whatever ours says.
        ({"Retry-After": "Wed, 21 Oct 2015 07:29:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 90.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6m0s"}, None),
    ],
)
def test_retry_after(headers, expected):
    assert retry_after_s(CIMultiDict(headers)) == expected


def test_told_is_one_short_line():
    assert told("  ", None) == "an empty body"
    assert told("<html><title>502\n Bad</title>", None) == "an HTML page titled '502 Bad'"
    assert told("<p>no", None) == "an HTML page"
    assert told("", {"error": {"message": "a\nb"}}) == "an empty body"
    assert told("{}", {"error": {"message": "a\nb"}}) == "a b"
    assert told("{}", {"error": "flat"}) == "flat"
    assert told("{}", {"object": "error", "message": "old vLLM"}) == "old vLLM"
    assert told("{}", {"detail": "Not Found"}) == "Not Found"
    assert len(told("x" * 10_000, None)) == 301


def test_filters():
    assert is_filtered({"error": {"code": "content_filter"}})
    assert is_filtered({"error": {"code": 403, "metadata": {"flagged_input": "x", "reasons": ["y"]}}})
    assert not is_filtered({"error": {"code": 400, "metadata": None}})
    assert not is_filtered(None)
    assert not is_filtered({"choices": []})
