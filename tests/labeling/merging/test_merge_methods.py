"""Methods that learn about voters, each against a plain reference in loops; and what holds for all of them."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import METHODS, aggregate, merge
from distill.labeling.merging.aggregate_config import (
    DawidSkeneConfig,
    GladConfig,
    LabelModelConfig,
    MaceConfig,
    WeightedFamilyVoteConfig,
    merge_settings,
)
from distill.labeling.merging.confusion_em import VoteMatrix, fit_confusions
from distill.labeling.merging.dawid_skene import (
    dawid_skene,
    distance_confusions,
    full_confusions,
    one_coin_confusions,
)
from distill.labeling.merging.family_weights import even_near_ties, weighted_family_vote
from distill.labeling.merging.glad import glad
from distill.labeling.merging.label_model import label_model
from distill.labeling.merging.mace import mace, mace_reader
from distill.labeling.merging.merge_choice import PanelDependenceWarning
from distill.labeling.merging.panel import Panel

pytestmark = pytest.mark.filterwarnings("ignore::distill.labeling.merging.merge_choice.PanelDependenceWarning")

ABC = ("a", "b", "c")


def table(votes, **columns):
    names = ("row_id", "teacher", "label")
    return pl.DataFrame(votes, schema=dict.fromkeys(names, pl.String), orient="row").with_columns(**columns)


def crowd(*, rows=300, accuracies=(0.9, 0.8, 0.7, 0.6, 0.5), labels=ABC, share=0.8, seed=0):
    """Voters that err on their own and evenly, each seeing ``share`` of the rows; and the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(labels), rows)
    votes = []
    for voter, accuracy in enumerate(accuracies):
        shift = np.where(random.random(rows) < accuracy, 0, random.integers(1, len(labels), rows))
        given = (truth + shift) % len(labels)
        votes += [(f"r{row}", f"v{voter}", labels[given[row]]) for row in np.flatnonzero(random.random(rows) < share)]
    return table(votes), pl.DataFrame(
        {"row_id": [f"r{row}" for row in range(rows)], "gold": [labels[k] for k in truth]}
    )


def accuracy(labels, gold):
    found = labels.join(gold, on="row_id")
    return (found["label"] == found["gold"]).mean()


def em_in_loops(votes, labels, read, steps):
    """Dawid and Skene's EM over dicts; ``read`` turns one voter's counts, and those of all, into confusions."""
    rows = list(dict.fromkeys(votes["row_id"]))
    voters = list(dict.fromkeys(votes["teacher"]))
    seen = {row: [] for row in rows}
    for row, voter, label in votes.select("row_id", "teacher", "label").iter_rows():
        seen[row].append((voters.index(voter), labels.index(label)))
    size = range(len(labels))
    q = {row: [sum(label == k for _, label in seen[row]) / len(seen[row]) for k in size] for row in rows}
    for _ in range(steps):
        counts = [[[0.0 for _ in size] for _ in size] for _ in voters]
        for row in rows:
            for voter, label in seen[row]:
                for k in size:
                    counts[voter][k][label] += q[row][k]
        pooled = [[sum(counts[j][k][given] for j in range(len(voters))) for given in size] for k in size]
        theta = [read(counts[j], pooled) for j in range(len(voters))]
        prior = [(sum(q[row][k] for row in rows) + 1) / (len(rows) + len(labels)) for k in size]
        for row in rows:
            joint = [prior[k] * math.prod(theta[j][k][given] for j, given in seen[row]) for k in size]
            q[row] = [value / sum(joint) for value in joint]
    return np.array([q[row] for row in rows])


def full_in_loops(strength):
    def read(counts, pooled):
        theta = []
        for k, of_label in enumerate(counts):
            of_all = [value + (k == place) for place, value in enumerate(pooled[k])]
            drawn = [one + strength * usual / sum(of_all) for one, usual in zip(of_label, of_all, strict=True)]
            theta.append([value / sum(drawn) for value in drawn])
        return theta

    return read


def one_coin_in_loops(strength):
    def read(counts, pooled):
        right, total = sum(counts[k][k] for k in range(len(counts))), sum(map(sum, counts))
        usual = (sum(pooled[k][k] for k in range(len(counts))) + 1) / (sum(map(sum, pooled)) + 2)
        a = (right + strength * usual) / (total + strength)
        return [
            [a if k == given else (1 - a) / (len(counts) - 1) for given in range(len(counts))]
            for k in range(len(counts))
        ]

    return read


@pytest.mark.parametrize("strength", [0.3, 2.0])
@pytest.mark.parametrize(
    ("fast", "plain"), [(full_confusions, full_in_loops), (one_coin_confusions, one_coin_in_loops)]
)
def test_dawid_skene_equals_em_in_loops(fast, plain, strength):
    votes, _ = crowd(rows=40)
    matrix = VoteMatrix.of(Panel.from_votes(votes, ABC))
    # Seven steps and no early stop.
    fitted = fit_confusions(matrix, lambda counts: fast(counts, strength=strength), steps=7, tolerance=1e-30)
    assert fitted.steps == 7
    np.testing.assert_allclose(fitted.posterior, em_in_loops(votes, list(ABC), plain(strength), 7), atol=1e-9)


def test_mace_equals_its_m_step_in_loops():
    # Counts of two voters over two labels; trust starts at 1/2, habits at (1/2, 1/2).
    counts = np.array([[[6.0, 2.0], [1.0, 3.0]], [[4.0, 0.0], [4.0, 0.0]]])
    found = mace_reader(MaceConfig(trust_prior=0.5, habit_prior=1.0))(counts)
    for voter, of_voter in enumerate(counts):
        # An agreeing vote is knowing with (1/2) / (1/2 + 1/2 * 1/2) = 2/3.
        knowing = [2 / 3 * of_voter[label][label] for label in (0, 1)]
        spam = [of_voter[0][label] + of_voter[1][label] - knowing[label] for label in (0, 1)]
        trust = (sum(knowing) + 0.5) / (of_voter.sum() + 1)
        habit = [(value + 1) / (sum(spam) + 2) for value in spam]
        for true in (0, 1):
            for label in (0, 1):
                assert found[voter, true, label] == pytest.approx(trust * (true == label) + (1 - trust) * habit[label])
    np.testing.assert_allclose(found.sum(axis=2), 1)


def test_em_never_lowers_the_likelihood():
    votes, _ = crowd(rows=120, accuracies=(0.9, 0.6, 0.5))
    matrix = VoteMatrix.of(Panel.from_votes(votes, ABC))

    def plain(counts):
        return full_confusions(counts, strength=0.0)

    # Label frequencies are smoothed by one row each, which EM's promise does not cover: they are held fixed.
    even = np.full(3, 1 / 3)
    likelihood = [
        fit_confusions(matrix, plain, steps=steps, tolerance=1e-30, prior=even).log_likelihood for steps in range(1, 12)
    ]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(likelihood))


def test_decay_by_distance_has_the_distance_that_was_counted():
    # One voter, grades 0 1 2, counts 6 2 1 / 1 7 1 / 0 2 5: distance 2 + 2 + 1 + 1 + 2 = 8 of 25 votes.
    counts = np.array([[[6.0, 2.0, 1.0], [1.0, 7.0, 1.0], [0.0, 2.0, 5.0]]])
    found = distance_confusions(counts, strength=0.0)[0]
    distance = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    assert (counts[0].sum(axis=1) * (found * distance).sum(axis=1)).sum() == pytest.approx(8)
    # From 0 each further grade is less likely by the same factor.
    assert found[0, 1] / found[0, 0] == pytest.approx(found[0, 2] / found[0, 1])


def test_rows_with_the_same_votes_are_one_kind():
    votes = table(
        [("1", "x", "a"), ("1", "y", "b"), ("2", "y", "b"), ("2", "x", "a"), ("3", "x", "b"), ("3", "y", "a")]
    )
    matrix = VoteMatrix.of(Panel.from_votes(votes, ABC))
    assert matrix.kind[0] == matrix.kind[1] != matrix.kind[2]
    assert sorted(matrix.weight) == [1, 2]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_beats_chance_by_far_on_a_crowd_and_weighs_its_voters(method):
    votes, gold = crowd(accuracies=(0.9, 0.9, 0.9, 0.4, 0.4, 0.4))
    found = accuracy(aggregate(votes, labels=ABC, method=method), gold)
    # Three of six voters are right on 0.9 of the rows, three on 0.4. On 10,000 rows counting heads is right on 0.85 and
    # every learning method on 0.94; four standard errors of 300 rows are 0.08 and 0.06.
    assert found >= (0.76 if method in ("majority", "family_vote") else 0.88)


@pytest.mark.parametrize("method", ["dawid_skene", "mace", "glad", "weighted_family_vote"])
def test_learning_who_is_good_beats_the_majority_where_most_are_poor(method):
    votes, gold = crowd(rows=600, accuracies=(0.95, 0.95, 0.45, 0.45, 0.45, 0.45, 0.45), share=1.0)
    assert accuracy(aggregate(votes, labels=ABC, method=method), gold) > accuracy(
        aggregate(votes, labels=ABC, method="majority"), gold
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_one_voter_unanimity_and_rows_without_votes(method):
    alone = aggregate(table([("1", "x", "b"), ("2", "x", "a"), ("3", "x", "b")]), labels=ABC, method=method)
    assert alone["label"].to_list() == ["b", "a", "b"] and alone["n_eff"].to_list() == [1.0, 1.0, 1.0]
    agreed = [(row, voter, label) for row, label in (("1", "a"), ("2", "b"), ("3", "c")) for voter in "xyz"]
    found = aggregate(table([*agreed, ("4", "x", None)]), labels=ABC, method=method)
    assert found["label"].to_list() == ["a", "b", "c", None]
    assert found["probs"][3] is None and found["confidence"][3] == 0
    nothing = aggregate(table([("1", "x", None)]), labels=ABC, method=method)
    assert nothing["label"].to_list() == [None]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_tie_between_like_voters_is_said(method):
    # x and y mirror each other: two rows, each label once from each.
    votes = table([("1", "x", "a"), ("1", "y", "b"), ("2", "x", "b"), ("2", "y", "a")])
    # A random restart of MACE may find an end that takes sides.
    config = {"type": method} | ({"restarts": 0} if method == "mace" else {})
    found = aggregate(votes, labels=("a", "b"), method=config)
    assert found["tie"].to_list() == [True, True]
    assert found["probs"][0].to_list() == pytest.approx([0.5, 0.5])


@st.composite
def small_crowds(draw):
    places = st.tuples(st.integers(0, 6), st.integers(0, 4))
    return [
        (f"r{row}", f"v{voter}", ABC[draw(st.integers(0, 2))])
        for row, voter in draw(st.lists(places, min_size=2, max_size=25, unique=True))
    ]


@settings(deadline=None, max_examples=25)
@given(small_crowds(), st.randoms(), st.sampled_from(sorted(METHODS)))
def test_the_order_of_votes_changes_nothing(votes, random, method):
    # Restarts of MACE are drawn by kind of row, whose order is that of the voters.
    config = {"type": method} | ({"restarts": 0} if method == "mace" else {})
    shuffled = list(votes)
    random.shuffle(shuffled)
    both = [aggregate(table(part), labels=ABC, method=config).sort("row_id") for part in (votes, shuffled)]
    np.testing.assert_allclose(both[0]["probs"].to_list(), both[1]["probs"].to_list(), atol=1e-6)
    np.testing.assert_allclose(both[0]["probs"].list.sum(), 1, atol=1e-9)
    assert both[0]["confidence"].is_between(0, 1).all()


@settings(deadline=None, max_examples=25)
@given(small_crowds(), st.permutations(range(3)), st.sampled_from(sorted(METHODS)))
def test_renamed_labels_give_renamed_answers(votes, order, method):
    config = {"type": method} | ({"restarts": 0} if method == "mace" else {})
    plain = aggregate(table(votes), labels=ABC, method=config)
    moved = aggregate(table(votes), labels=[ABC[place] for place in order], method=config)
    back = np.array(moved["probs"].to_list())[:, np.argsort(order)]
    np.testing.assert_allclose(back, np.array(plain["probs"].to_list()), atol=1e-6)


def test_ordered_labels_are_read_by_distance():
    # Graders that miss by one grade, never by more. By distance a far vote tells on a careless grader.
    random = np.random.default_rng(3)
    grades = [str(grade) for grade in range(5)]
    truth = random.integers(0, 5, 400)
    votes = []
    for voter, spread in enumerate((0.2, 0.3, 0.4, 2.0)):
        given = np.clip(np.rint(truth + random.normal(0, 0.6 + spread, 400)), 0, 4).astype(int)
        votes += [(f"r{row}", f"v{voter}", grades[given[row]]) for row in range(400)]
    gold = pl.DataFrame({"row_id": [f"r{row}" for row in range(400)], "gold": [grades[k] for k in truth]})
    ordered, plain = (
        aggregate(table(votes), labels=grades, method="dawid_skene", ordered=way) for way in (True, False)
    )
    assert accuracy(ordered, gold) > accuracy(plain, gold)


def rules(rows=2000, seed=0):
    """Four rules for ham that are loud, two for spam that are precise and rare; a third of the rows is spam."""
    random = np.random.default_rng(seed)
    spam = random.random(rows) < 0.33
    votes = []
    for name, label, on_spam, on_ham in (
        ("h0", "ham", 0.4, 0.6),
        ("h1", "ham", 0.3, 0.5),
        ("h2", "ham", 0.3, 0.5),
        ("h3", "ham", 0.2, 0.3),
        ("s0", "spam", 0.5, 0.02),
        ("s1", "spam", 0.5, 0.02),
    ):
        fires = random.random(rows) < np.where(spam, on_spam, on_ham)
        votes += [(f"r{row}", name, label) for row in np.flatnonzero(fires)]
    gold = pl.DataFrame({"row_id": [f"r{row}" for row in range(rows)], "gold": np.where(spam, "spam", "ham")})
    return table(votes), gold


def test_one_sided_rules_do_not_collapse_to_one_class():
    votes, gold = rules()
    found = aggregate(votes, labels=("ham", "spam"), method="label_model")
    share = (found["label"] == "spam").mean()
    assert 0.2 < share < 0.45
    assert accuracy(found, gold) > accuracy(aggregate(votes, labels=("ham", "spam"), method="majority"), gold)
    assert merge(votes, labels=("ham", "spam"), method="auto").method == "label_model"


def test_a_known_balance_is_used_and_checked():
    votes, _ = rules(rows=300)
    shares = [
        (
            aggregate(votes, labels=("ham", "spam"), method={"type": "label_model", "balance": (1 - s, s)})["label"]
            == "spam"
        ).mean()
        for s in (0.05, 0.5)
    ]
    # A class gets at least half the share that it is said to have.
    assert shares[0] >= 0.024 and shares[1] >= 0.24
    with pytest.raises(DataError, match="give one share above 0 a label"):
        aggregate(votes, labels=("ham", "spam"), method={"type": "label_model", "balance": (1.0,)})


def test_copies_share_one_vote_and_strangers_under_one_name_do_not():
    random = np.random.default_rng(5)
    truth = random.integers(0, 2, 600)

    def voter(accuracy):
        return np.where(random.random(600) < accuracy, truth, 1 - truth)

    first, others = voter(0.75), [voter(0.75) for _ in range(4)]
    copies = [("c0", "f", first), ("c1", "f", first), ("c2", "f", first)]
    alone = [(f"o{place}", f"o{place}", given) for place, given in enumerate(others)]
    strangers = [(f"s{place}", "f", voter(0.75)) for place in range(3)]
    for family, loud in ((copies, False), (strangers, True)):
        frame = pl.concat(
            pl.DataFrame({"row_id": [str(row) for row in range(600)], "label": given.astype(str)}).with_columns(
                teacher=pl.lit(name), family=pl.lit(kin)
            )
            for name, kin, given in [*family, *alone]
        )
        panel = Panel.from_votes(frame, ("0", "1"))
        share = weighted_family_vote(panel, WeightedFamilyVoteConfig()).share.reshape(600, 5)[0]
        # Five families: a fifth for copies; strangers count one by one, three of seven.
        assert share[0] == pytest.approx(3 / 7 if loud else 1 / 5, abs=0.08)


def test_labels_that_trail_by_less_than_the_margin_share_alike():
    probs = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    found = even_near_ties(probs, np.array([0.25, 0.0, 0.0]))
    # 0.3 trails by 0.2, less than 0.25; 0.2 by 0.3. Without a margin only what is equal is.
    np.testing.assert_allclose(found, [[0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])


def test_a_sliver_of_kinship_does_not_decide_a_tie():
    random = np.random.default_rng(8)
    truth = random.choice(3, 3000, p=(0.5, 0.3, 0.2))

    def voter():
        return np.where(random.random(3000) < 0.6, truth, random.integers(0, 3, 3000))

    first = voter()
    # A fifth of the second sibling's answers are the first's; the others judge on their own.
    second = np.where(random.random(3000) < 0.2, first, voter())
    given = {("f0", "f"): first, ("f1", "f"): second} | {(name, name): voter() for name in "ghij"}
    # Siblings for a, two strangers for b, two for c: counts are 2, 2, 2.
    ends = {("f0", "f"): 0, ("f1", "f"): 0, ("g", "g"): 1, ("h", "h"): 1, ("i", "i"): 2, ("j", "j"): 2}
    votes = pl.concat(
        pl.DataFrame(
            {
                "row_id": [str(row) for row in range(3001)],
                "label": [ABC[code] for code in [*label, ends[teacher, family]]],
            }
        ).with_columns(teacher=pl.lit(teacher), family=pl.lit(family))
        for (teacher, family), label in given.items()
    )
    last = {
        lead: aggregate(votes, labels=ABC, method={"type": "weighted_family_vote", "least_lead": lead}).row(
            -1, named=True
        )
        for lead in (0.0, 0.5)
    }
    # Two siblings that share a fifth of their answers weigh less than two strangers, but by less than half a vote, so
    # that the label that is more frequent over all wins, as in a majority, and a tie is called one.
    assert last[0.0]["label"] in "bc" and not last[0.0]["tie"]
    assert last[0.5]["label"] == "a" and last[0.5]["tie"]
    np.testing.assert_allclose(last[0.5]["probs"], [1 / 3] * 3)


def test_a_lone_unsure_vote_is_no_tie():
    votes = table([("1", "x", "b"), ("2", "x", "a")], probs=pl.Series([[0.4, 0.6], [0.6, 0.4]]))
    found = aggregate(votes, labels=("a", "b"), method="weighted_family_vote")
    # It leads by all of its own lead of 0.2, of which half would do.
    assert found["tie"].to_list() == [False, False] and found["label"].to_list() == ["b", "a"]


@pytest.mark.parametrize("repeats", [1.0, 0.8])
@pytest.mark.parametrize("method", ["family_vote", "auto"])
def test_twenty_copies_of_a_weak_judge_do_not_outvote_three_good_ones(method, repeats):
    random = np.random.default_rng(6)
    truth = random.integers(0, 3, 1000)

    def voter(accuracy):
        return np.where(random.random(1000) < accuracy, truth, (truth + random.integers(1, 3, 1000)) % 3)

    weak = voter(0.5)
    given = {(f"c{n}", "weak"): np.where(random.random(1000) < repeats, weak, voter(0.5)) for n in range(20)}
    given |= {(f"g{n}", f"g{n}"): voter(0.75) for n in range(3)}
    rows = [str(row) for row in range(1000)]
    votes = pl.concat(
        pl.DataFrame({"row_id": rows, "label": [ABC[code] for code in label]}).with_columns(
            teacher=pl.lit(teacher), family=pl.lit(family)
        )
        for (teacher, family), label in given.items()
    )
    gold = pl.DataFrame({"row_id": rows, "gold": [ABC[code] for code in truth]})
    # Three good ones alone: all right 0.42, two of three right 0.42, so at least 0.8 with the rest left to the copies;
    # the copies alone 0.5, which is what a majority of all 23 gives.
    assert accuracy(aggregate(votes, labels=ABC, method=method), gold) > 0.79
    assert accuracy(aggregate(votes, labels=ABC, method="majority"), gold) < 0.55


def test_auto_takes_a_crowd_for_a_crowd_and_a_panel_for_a_panel():
    votes, _ = crowd(accuracies=[0.7] * 25, share=0.2)
    assert merge(votes, labels=ABC, method="auto").method == "dawid_skene"
    kin = votes.with_columns(family=pl.col("teacher").str.slice(0, 2))
    assert merge(kin, labels=ABC, method="auto").method == "weighted_family_vote"


@pytest.mark.filterwarnings("default::distill.labeling.merging.merge_choice.PanelDependenceWarning")
def test_an_independence_model_on_a_dependent_panel_is_warned_of():
    one = [(f"r{row}", ABC[row % 3]) for row in range(200)]
    votes = pl.concat(
        table([(row, f"t{copy}", label) for row, label in one]).with_columns(family=pl.lit(f"f{copy % 2}"))
        for copy in range(6)
    )
    with pytest.warns(PanelDependenceWarning, match=r"6\.0 votes of a row are worth 1\.\d .* use weighted_family_vote"):
        aggregate(votes, labels=ABC, method="dawid_skene")
    found = merge(votes, labels=ABC, method="family_vote")
    assert found.warning is None and found.method == "family_vote"


def test_evidence_is_discounted_to_that_of_the_effective_votes():
    votes, _ = crowd(rows=100)
    panel = Panel.from_votes(votes, ABC)
    raw = dawid_skene(panel, DawidSkeneConfig())
    found = aggregate(votes, labels=ABC, method="dawid_skene")
    counted = found["votes"].to_numpy()
    temper = (found["n_eff"].to_numpy() / counted)[:, None]
    wanted = raw.probs**temper
    np.testing.assert_allclose(found["probs"].to_list(), wanted / wanted.sum(axis=1, keepdims=True), atol=1e-9)
    # Powers keep the order, so that the label is still the most probable.
    assert (np.array(found["probs"].to_list()).argmax(axis=1) == raw.label).all()


def test_posteriors_of_glad_and_label_model_are_distributions_and_voters_differ():
    votes, _ = crowd(rows=60)
    panel = Panel.from_votes(votes, ABC)
    for found in (glad(panel, GladConfig()), label_model(panel, LabelModelConfig()), mace(panel, MaceConfig())):
        np.testing.assert_allclose(found.probs.sum(axis=1), 1)
        np.testing.assert_allclose(panel.sum_by_row(panel.family_opinions.row, found.share), 1)


def test_settings_that_a_recipe_finds_tables_for_are_refused_without_the_tables():
    votes = pl.DataFrame({"row_id": ["a", "b"], "teacher": ["t", "t"], "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"aggregate\.gold: is a recipe's setting; from Python give gold="):
        aggregate(votes, labels=["x", "y"], method={"type": "family_vote", "gold": True})
    with pytest.raises(DataError, match=r"aggregate\.student: is a recipe's setting; from Python give predictions="):
        aggregate(votes, labels=["x", "y"], method={"type": "family_vote", "student": {}})
    assert merge_settings({"gold": ["audit"]}).gold_splits == ("audit",)
