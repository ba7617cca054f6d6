from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from pydantic import ValidationError

from distill.labeling.queries.keyboards import ALPHABETS, wrong_layouts
from distill.labeling.queries.protected_spans import protected_spans
from distill.labeling.queries.synthetic_typos import misspelled, synthetic_typos
from distill.labeling.queries.typo_channel import TypoChannel
from distill.labeling.queries.typo_fit import fit_typos
from distill.labeling.queries.typo_rates import TypoRates


def test_probabilities_of_all_that_can_be_typed_sum_to_one():
    channel = TypoChannel()
    letters = ["".join(typed) for n in range(3) for typed in itertools.product(ALPHABETS["en"], repeat=n)]
    total = sum(math.exp(channel.log_prob(typed, "a")) for typed in [*letters, *wrong_layouts("a")])
    # Left out: three letters, which takes two slips of 4e-4 and 6e-4 or, for "eau", a sound and an insertion.
    assert total == pytest.approx(1, abs=1e-5)


def test_an_omission_by_hand():
    rates = TypoRates()
    # "xb" -> "b": nothing inserted in three gaps, no space in the inner one, x left out, b right. Of b's slips none
    # sounds alike and none can swap with a next key: right = 1 - neighbour - other - omission - doubling.
    right = 1 - rates.neighbour - rates.other - rates.omission - rates.doubling
    gaps = (1 - rates.insertion) ** 2 * (1 - rates.insertion - rates.split)
    expected = (1 - rates.layout) * gaps * rates.omission * right
    # The other way, x typed as b and b left out, is four thousand times rarer.
    assert math.exp(TypoChannel().log_prob("b", "xb")) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("meant", ["tier ok", "세탁기", "молоко"])
def test_samples_come_as_often_as_the_model_says(meant):
    channel, draw, count = TypoChannel(TypoRates().scaled(12)), random.Random(5), 3000
    drawn = Counter(channel.sample(meant, draw) for _ in range(count))
    frequent = [typed for typed, times in drawn.items() if times >= 15]
    assert len(frequent) >= 5 and meant in frequent
    for typed in frequent:
        likely = math.exp(channel.log_prob(typed, meant))
        deviation = math.sqrt(likely * (1 - likely) / count)
        assert drawn[typed] / count == pytest.approx(likely, abs=4.5 * deviation), typed


@pytest.mark.parametrize(
    ("nearer", "farther", "meant"),
    [
        ("faucwt", "faucpt", "faucet"),  # w lies beside e, p does not
        ("teir", "eitr", "tier"),
        ("fauset", "faubet", "faucet"),  # c is heard as s
        ("쵸콜릿", "츠콜릿", "초콜릿"),
        ("초콜렛", "초콜랫", "초콜릿"),
        ("малоко", "мылоко", "молоко"),  # unstressed о is heard as а
        ("vjkjrj", "vjkjrq", "молоко"),  # typed with the Latin layout
        ("black decker", "blackd ecker", "black decker"),
        ("blackdecker", "blckdecker", "black decker"),
    ],
)
def test_likelier_slips_are_likelier(nearer, farther, meant):
    channel = TypoChannel()
    assert channel.log_prob(nearer, meant) >= channel.log_prob(farther, meant)


def test_digits_are_never_mistyped():
    assert TypoChannel().log_prob("3m tape", "4m tape") < -1e8
    assert TypoChannel().log_prob("12v", "21v") < -1e8


def test_case_and_width_do_not_matter():
    channel = TypoChannel()
    assert channel.log_prob("ＭＯＥＮ", "moen") == channel.log_prob("moen", "Moen")


def test_rates_are_recovered_from_pairs():
    true = TypoRates(transposition=0.02, sound=0.02, omission=0.01)
    channel, draw = TypoChannel(true), random.Random(11)
    words = ["faucet", "shelving", "extension cord", "cabinet", "outdoor light", "drawer", "garden hose"] * 100
    fitted = fit_typos((channel.sample(word, draw), word) for word in words)
    # 700 texts of about 9 keys: some 120 transpositions, 60 omissions.
    assert fitted.transposition == pytest.approx(true.transposition, rel=0.3)
    assert fitted.omission == pytest.approx(true.omission, rel=0.4)
    assert fitted.layout < 0.003


def test_a_few_pairs_move_rates_little_and_wrong_share_sets_the_level():
    start = TypoRates()
    few = fit_typos([("teir", "tier")])
    # Two pairs of keys can swap besides the last: (1 + 500 r) / (3 + 500)
    assert few.transposition == pytest.approx((1 + 500 * start.transposition) / 503)
    rare = fit_typos([("teir", "tier"), ("faucet", "faucet")], wrong_share=0.01)
    mix, rare_mix = few.transposition / few.omission, rare.transposition / rare.omission
    assert rare.transposition < few.transposition
    assert rare_mix == pytest.approx(mix, rel=0.05)


def test_pairs_that_no_slip_connects_are_left_out():
    assert fit_typos([("40 watt", "60 watt")]).omission == TypoRates().omission


def test_rates_are_bounded():
    with pytest.raises(ValidationError):
        TypoRates(omission=0.5)
    assert TypoRates().scaled(1e6).omission == 0.1


QUERIES = [
    "moen kitchen faucet 3/4 in",
    "무선 이어폰 케이스 갤럭시 s23",
    "молоко простоквашино 1 л",
    "60w",
    "dewalt drill",
]


def test_rows_follow_from_seed_and_query_alone():
    rows = synthetic_typos(QUERIES, share=0.7, seed=3)
    alone = [synthetic_typos([query], share=0.7, seed=3).row(0) for query in QUERIES]
    assert rows.rows() == alone
    assert rows.rows() != synthetic_typos(QUERIES, share=0.7, seed=4).rows()
    assert rows["changed"].to_list() == [typed != meant for typed, meant, _ in rows.rows()]


def test_protected_spans_come_out_as_they_went_in():
    def find_brands(query: str) -> list[tuple[int, int]]:
        at = query.find("moen")
        return [(at, at + 4)] if at >= 0 else []

    channel, draw = TypoChannel(TypoRates().scaled(20)), random.Random(2)
    for _ in range(100):
        typed = misspelled("moen faucet 3/4 in kit rp-1274", channel, draw, find_brands=find_brands)
        assert typed.startswith("moen ") and " 3/4 in " in typed and typed.endswith(" rp-1274"), typed
        assert typed != "moen faucet 3/4 in kit rp-1274"
    assert misspelled("60w 3/4 in", channel, draw) == "60w 3/4 in"


def test_protected_spans_by_script():
    assert protected_spans("bosch gsr12v drill 18 volt") == [(6, 12), (19, 26)]
    assert protected_spans("라면 5봉") == [(3, 5)]
    assert protected_spans("молоко 1 л") == [(7, 10)]
    assert protected_spans("3 dogs") == [(0, 1)]  # no unit
