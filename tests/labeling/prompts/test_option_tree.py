from __future__ import annotations

import pytest

from distill.labeling.answers.parsing import Answer
from distill.labeling.prompts.option_tree import OptionNode, OptionTree, TreeWalk, build_tree
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

ROW = {"row_id": "r1", "query": "red shoe", "title": "Crimson sneaker"}
LABELS = tuple("abcdefghij")


def task_of(labels: tuple[str, ...]) -> Task:
    return Task(labels=labels, inputs=("query", "title"))


def walk_of(labels: tuple[str, ...], most: int, answer: AnswerFormat | None = None) -> TreeWalk:
    answer = answer or AnswerFormat(clauses=False, form="decision")
    task = task_of(labels)
    return TreeWalk(OptionTree(task, {}, most=most, answer=answer), Prompter(task, answer)(ROW))


def deepest(node: OptionNode) -> int:
    return 1 + max((deepest(group) for group in node.groups.values()), default=0)


def widest(node: OptionNode) -> int:
    return max([len(node.options), *(widest(group) for group in node.groups.values())])


@pytest.mark.parametrize(("count", "most", "levels"), [(10, 10, 1), (11, 10, 2), (100, 10, 2), (101, 10, 3), (9, 2, 4)])
def test_no_question_is_larger_than_allowed(count, most, levels):
    labels = [f"label {number}" for number in range(count)]
    tree = build_tree(labels, {}, most=most)
    assert tree.labels == tuple(labels)
    assert widest(tree) <= most
    assert deepest(tree) == levels


def test_groups_are_of_like_size_and_say_what_is_in_them():
    tree = build_tree(LABELS, {}, most=4)
    # Ten labels need three groups of at most four.
    assert dict(tree.options) == {"group 1": "a, b, c", "group 2": "d, e, f, g", "group 3": "h, i, j"}


def test_a_group_is_not_called_like_a_label():
    tree = build_tree(["group 1", "b", "c"], {}, most=2)
    assert list(tree.options) == ["group 1*", "group 2"]


def test_paths_are_grouped_by_what_they_begin_with():
    labels = ["Home > Kitchen > Kettles", "Home > Kitchen > Pans", "Home > Garden", "Toys > Blocks", "Toys > Dolls"]
    tree = build_tree(labels, {"Home > Garden": "outside"}, most=2)
    assert list(tree.options) == ["Home > …", "Toys > …"]
    home = tree.groups["Home > …"]
    assert dict(home.options) == {"Home > Kitchen > …": "", "Home > Garden": "outside"}
    assert list(home.groups["Home > Kitchen > …"].options) == labels[:2]
    assert widest(tree) == 2


def test_more_branches_than_options_are_grouped_too():
    labels = [f"{top} > {leaf}" for top in "ABCDE" for leaf in "xy"]
    tree = build_tree(labels, {}, most=3)
    assert tree.labels == tuple(labels)
    assert widest(tree) <= 3


def test_the_distribution_is_the_product_of_the_conditionals():
    walk = walk_of(tuple("abcd"), most=2)
    assert walk.task.labels == ("group 1", "group 2")
    assert walk.take(Answer("group 2", [0.4, 0.6], "decision"), clipped=False)
    assert walk.task.labels == ("c", "d")  # the likelier first
    assert walk.take(Answer("c", [0.75, 0.25], "decision"), clipped=False)
    assert walk.task.labels == ("a", "b")
    assert not walk.take(Answer("a", [0.5, 0.5], "decision"), clipped=False)
    # 0.4 × 0.5, 0.4 × 0.5, 0.6 × 0.75, 0.6 × 0.25.
    assert walk.answer.probs == pytest.approx([0.2, 0.2, 0.45, 0.15])
    assert walk.answer.label == "c"
    assert walk.answer.probs_source == "decision"
    assert not walk.clipped


def test_groups_of_negligible_mass_are_not_looked_into():
    walk = walk_of(tuple("abcdef"), most=3)
    assert walk.take(Answer("group 1", [0.985, 0.015], "decision"), clipped=False)
    assert walk.task.labels == ("a", "b", "c")
    assert not walk.take(Answer("a", [1.0, 0.0, 0.0], "decision"), clipped=False)
    # 0.015 is shared by three labels.
    assert walk.answer.probs == pytest.approx([0.985, 0, 0, 0.005, 0.005, 0.005])
    assert walk.clipped


def test_what_is_left_out_stays_below_the_bound_in_all():
    walk = walk_of(tuple("abcdefgh"), most=4)
    # Two groups of four would do; a third of 0.015 and a fourth of 0.015 together would be more than 0.02.
    assert walk.task.labels == ("group 1", "group 2")
    walk = walk_of(tuple("abcdefghijklmnop"), most=4)
    assert walk.take(Answer("group 1", [0.97, 0.015, 0.015, 0.0], "decision"), clipped=False)
    asked = [walk.task.labels[0]]
    while walk.take(Answer(walk.task.labels[0], [1.0, 0, 0, 0], "decision"), clipped=False):
        asked.append(walk.task.labels[0])
    assert asked == ["a", "i"]


def test_a_bare_label_is_followed_down_one_path():
    walk = walk_of(tuple("abcd"), most=2, answer=AnswerFormat(clauses=False))
    assert walk.take(Answer("group 2"), clipped=False)
    assert walk.task.labels == ("c", "d")
    assert not walk.take(Answer("d", trace="since"), clipped=False)
    assert walk.answer == Answer("d", trace="since")
    assert not walk.clipped


def test_who_cannot_tell_at_the_root_cannot_tell():
    walk = walk_of(tuple("abcd"), most=2)
    assert not walk.take(Answer(None), clipped=False)
    assert walk.answer.label is None


def test_a_question_names_its_own_options_only():
    walk = walk_of(tuple("abcd"), most=2, answer=AnswerFormat(clauses=False, probs="distribution"))
    prompt = walk.prompt
    assert prompt.schema["properties"]["label"]["enum"] == ["group 1", "group 2"]
    assert list(prompt.schema["properties"]["probs"]["properties"]) == ["group 1", "group 2"]
    assert prompt.user.endswith("- `group 1`: a, b\n- `group 2`: c, d")
    assert list(prompt.options) == ["group 1", "group 2"]
    decision = walk_of(tuple("abcd"), most=2).prompt
    assert "group 1" not in decision.user  # its endpoint is given them as options
    assert decision.schema == {}
