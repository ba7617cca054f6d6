from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.prompts.fence import CUT_MARK
from distill.labeling.prompts.field_cut import cut_fields, estimate_tokens


def test_tokens_by_bytes() -> None:
    assert estimate_tokens("a" * 40) == 10  # four ASCII bytes a token
    assert estimate_tokens("가" * 10) == 12  # thirty bytes of UTF-8, 2.5 a token
    assert estimate_tokens("ab가나") == 2 / 4 + 6 / 2.5


def test_long_fields_give_first_and_share_evenly_what_is_left() -> None:
    # 5 + 20 + 250 + 500 tokens with room for 225: query and brand stay, 200 is left for two fields, 100 each.
    values = {"query": "q" * 20, "brand": "b" * 80, "title": "t" * 1000, "description": "d" * 2000}
    assert cut_fields(values, 225, mark=CUT_MARK) == ("title", "description")
    assert (values["query"], values["brand"]) == ("q" * 20, "b" * 80)
    mark_tokens = 5 / 4 + 3 / 2.5  # "[cut]" and the ellipsis
    kept = int((100 - mark_tokens) * 4)
    assert values["title"] == "t" * kept + CUT_MARK and values["description"] == "d" * kept + CUT_MARK


def test_what_fits_is_left_alone() -> None:
    values = {"query": "q" * 40, "title": "t" * 40}
    assert cut_fields(values, 20, mark=CUT_MARK) == ()
    assert cut_fields(values, 19, mark=CUT_MARK) == ("query", "title")


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text(max_size=400), min_size=1),
    st.integers(min_value=30, max_value=300),
)
def test_a_cut_row_is_within_its_budget_and_uses_most_of_it(values: dict[str, str], budget: int) -> None:
    before = dict(values)
    cut = cut_fields(values, budget, mark=CUT_MARK)
    tokens = {name: estimate_tokens(text) for name, text in values.items()}
    assert bool(cut) == (sum(estimate_tokens(text) for text in before.values()) > budget)
    for name, text in values.items():
        if name not in cut:
            assert text == before[name]
        else:
            assert text.endswith(CUT_MARK) and before[name].startswith(text.removesuffix(CUT_MARK))
            # No field that was cut is left shorter than one that was not, but for a character and what was stripped.
            assert all(estimate_tokens(before[name]) >= tokens[other] for other in values if other not in cut)
    if cut:
        assert sum(tokens.values()) <= 1e-9 + max(
            budget, len(cut) * estimate_tokens(CUT_MARK) + budget * (1 - 1 / len(values))
        )


@pytest.mark.parametrize("budget", [50, 60, 75])
def test_a_short_query_survives_any_description(budget: int) -> None:
    values = {"query": "red shoe", "title": "Crimson sneaker", "description": "x" * 100_000}
    assert cut_fields(values, budget, mark=CUT_MARK) == ("description",)
    assert sum(map(estimate_tokens, values.values())) == pytest.approx(budget, abs=0.5)
