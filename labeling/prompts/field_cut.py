"""Long rows cut to a token budget, field by field."""

from __future__ import annotations

_ASCII_BYTES_PER_TOKEN = 4.0
# Korean, Chinese and Japanese run at 2.5 to 3.5 bytes of UTF-8 a token in the tokenizers in use: the careful end.
_OTHER_BYTES_PER_TOKEN = 2.5
_MOST_TOKENS_PER_CHAR = 4 / _OTHER_BYTES_PER_TOKEN


def estimate_tokens(text: str) -> float:
    """About how many tokens a text is: a quarter of its ASCII bytes, and 1 / 2.5 of the other bytes of UTF-8."""
    ascii_bytes = len(text.encode("ascii", "ignore"))
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_bytes
    return ascii_bytes / _ASCII_BYTES_PER_TOKEN + other_bytes / _OTHER_BYTES_PER_TOKEN


def cut_fields(values: dict[str, str], budget: float, *, mark: str) -> tuple[str, ...]:
    """Cuts the fields of a row in place so that together they stay within a budget.

    Long fields give first: every field is held to one cap, the largest for which ``sum(min(tokens, cap)) <= budget``,
    so that a short field (a query, a brand) is whole as long as any other is longer.

    Args:
        values: Field texts by name.
        budget: Tokens, as :func:`estimate_tokens` counts them.
        mark: Ends a field that was cut; counted within the cap, so that it may be all that is left.

    Returns:
        The names of the fields that were cut.
    """
    if sum(map(len, values.values())) * _MOST_TOKENS_PER_CHAR <= budget:
        return ()
    tokens = {name: estimate_tokens(text) for name, text in values.items()}
    if sum(tokens.values()) <= budget:
        return ()
    cap = _cap(sorted(tokens.values()), budget)
    cut = tuple(name for name, count in tokens.items() if count > cap)
    for name in cut:
        values[name] = _start_of(values[name], cap - estimate_tokens(mark)) + mark
    return cut


def _cap(tokens: list[float], budget: float) -> float:
    """The water level: ``tokens`` rising, so that each field in turn either fits its even share or sets the cap."""
    left = budget
    for place, count in enumerate(tokens):
        share = left / (len(tokens) - place)
        if count > share:
            return share
        left -= count
    return tokens[-1]


def _start_of(text: str, tokens: float) -> str:
    """The longest beginning of a text within a number of tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_tokens(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip()
