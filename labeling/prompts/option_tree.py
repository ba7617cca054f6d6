"""Label sets that are larger than one question may be: asked as a tree, level by level.

Labels that are paths (``Home > Kitchen > Kettles``) are grouped by what their paths begin with; others in the task's
order, in groups of like size. A question is about the groups, or labels, of one place in the tree. The distribution is
the product of the conditionals along each path:

    P(label) = P(group | row) · P(group within it | row, group) · … · P(label | row, innermost group)

Groups of together less than 0.02 are not looked into: their mass is shared evenly among their labels, and the answer
says that it is clipped. Where an answer is a bare label, the one path that it points along is followed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from distill.labeling.answers.parsing import Answer
from distill.labeling.category_tree import SEPARATOR
from distill.labeling.prompts.system import answer_schema, options_of
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Prompt, Teacher

_NEGLIGIBLE = 0.02


@dataclass(frozen=True, eq=False)
class OptionNode:
    """One question of the tree.

    Attributes:
        options: What may be answered, with its meaning: labels, and names of groups.
        groups: The question that follows, for options that are groups.
    """

    options: Mapping[str, str]
    groups: Mapping[str, OptionNode] = field(default_factory=dict)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Every label below, in order."""
        labels: list[str] = []
        for option in self.options:
            labels += self.groups[option].labels if option in self.groups else [option]
        return tuple(labels)


class OptionTree:
    """The tree of a task's labels for one answer format.

    Args:
        task: What is asked.
        meanings: What each label means, by label; empty where nothing says it.
        most: The most options of one question, at least 2.
        answer: What the teacher is asked to write.
    """

    def __init__(self, task: Task, meanings: Mapping[str, str], *, most: int, answer: AnswerFormat) -> None:
        self.task = task
        self.root = build_tree(task.labels, meanings, most=most, paths=task.tree is not None)
        self._answer = answer
        self._tasks: dict[OptionNode, Task] = {}
        self._schemas: dict[OptionNode, Mapping[str, Any]] = {}

    def task_at(self, node: OptionNode) -> Task:
        """The task of one question: its options are the labels."""
        if node not in self._tasks:
            self._tasks[node] = replace(self.task, labels=tuple(node.options), positive=None, ordered=False)
        return self._tasks[node]

    def prompt_at(self, node: OptionNode, prompt: Prompt) -> Prompt:
        """Asks one question about a row: its prompt, with the options of the question alone."""
        if node not in self._schemas:  # one and the same object: teachers know schemas by identity
            self._schemas[node] = answer_schema(self.task_at(node), self._answer)
        user = prompt.user
        if self._answer.form != "decision":
            lines = [
                f"- `{option}`: {meaning}" if meaning else f"- `{option}`" for option, meaning in node.options.items()
            ]
            several = self.task.several
            wanted = "Answer with those of these that fit" if several else "Answer with one of these"
            user += f"\n\nThis question is about a part of the labels. {wanted}, spelled exactly so:\n\n"
            user += "\n".join(lines)
        return replace(prompt, user=user, schema=self._schemas[node], options=node.options)


def start_walk(tree: OptionTree, prompt: Prompt) -> Walk:
    """The questions about one row, from the root on."""
    return SeveralWalk(tree, prompt) if tree.task.several else TreeWalk(tree, prompt)


def _shares(node: OptionNode, label: str) -> list[float]:
    """What a bare answer gives to each option; a branch that is no option itself, to the options below it alike."""
    options = options_under(node, label)
    return [(option in options) / max(len(options), 1) for option in node.options]


def options_under(node: OptionNode, label: str) -> list[str]:
    """The options that an answer means: itself, or those below it where it names a branch."""
    return [label] if label in node.options else [name for name in node.options if name.startswith(label + SEPARATOR)]


class SeveralWalk:
    """The questions about one row of whose labels several may be right: every branch that is named is followed.

    At most as many labels as the task allows are kept, those of the branches named first. An answer that names nothing
    ends its branch; where the first one does, the answer is that there is none.

    Args:
        tree: The tree.
        prompt: The row's prompt.
    """

    clipped = False

    def __init__(self, tree: OptionTree, prompt: Prompt) -> None:
        self._tree = tree
        self._prompt = prompt
        self._open: list[OptionNode] = [tree.root]
        self._found: list[str] = []
        self._first: Answer | None = None
        self._confidence = 1.0
        self._stated = False

    @property
    def task(self) -> Task:
        """The task of the question that is open."""
        return self._tree.task_at(self._open[0])

    @property
    def prompt(self) -> Prompt:
        """The question that is open."""
        return self._tree.prompt_at(self._open[0], self._prompt)

    def take(self, answer: Answer, *, clipped: bool) -> bool:
        """Takes the answer to the question that is open; says whether there is a further one."""
        node = self._open.pop(0)
        self._first = self._first or answer
        if answer.confidence is not None:
            self._stated = True
            self._confidence = min(self._confidence, answer.confidence)
        further = []
        for option in (name for label in answer.labels or () for name in options_under(node, label)):
            if option in node.groups:
                further.append(node.groups[option])
            else:
                self._found.append(option)
        self._open = [*further, *self._open][: max(self._tree.task.most - len(self._found), 0)]
        return bool(self._open)

    @property
    def answer(self) -> Answer:
        """What the answers come to, once there is no further question; how sure the least sure of them was."""
        assert self._first is not None, "a question was answered"
        if self._first.labels is None:
            return self._first
        order = {label: place for place, label in enumerate(self._tree.task.labels)}
        found = sorted(set(self._found), key=order.__getitem__)
        return replace(self._first, labels=found, confidence=self._confidence if self._stated else None)


class TreeWalk:
    """The questions about one row, from the root on, and what their answers come to.

    Args:
        tree: The tree.
        prompt: The row's prompt.
    """

    def __init__(self, tree: OptionTree, prompt: Prompt) -> None:
        self._tree = tree
        self._prompt = prompt
        self._open: list[tuple[float, OptionNode]] = [(1.0, tree.root)]
        self._masses = dict.fromkeys(tree.task.labels, 0.0)
        self._answers: dict[str, Answer] = {}
        self._left_out = 0.0
        self._bare = False
        self._abstained: Answer | None = None
        self.clipped = False

    @property
    def task(self) -> Task:
        """The task of the question that is open."""
        return self._tree.task_at(self._open[0][1])

    @property
    def prompt(self) -> Prompt:
        """The question that is open."""
        return self._tree.prompt_at(self._open[0][1], self._prompt)

    def take(self, answer: Answer, *, clipped: bool) -> bool:
        """Takes the answer to the question that is open.

        Args:
            answer: By the options of :attr:`task`.
            clipped: Whether one of its probabilities was guessed.

        Returns:
            Whether there is a further question.
        """
        mass, node = self._open.pop(0)
        if answer.label is None and mass > 0.5:
            self._abstained, self._open = answer, []
            return False
        self.clipped |= clipped
        if answer.label is None:
            self._share(node, mass)
        else:
            self._divide(node, mass, answer)
        return bool(self._open)

    def _divide(self, node: OptionNode, mass: float, answer: Answer) -> None:
        shares = answer.probs
        if shares is None:
            self._bare = True
            shares = _shares(node, str(answer.label))
        further: list[tuple[float, OptionNode]] = []
        for option, share in zip(node.options, shares, strict=True):
            if option in node.groups:
                further.append((mass * share, node.groups[option]))
            else:
                self._masses[option] = mass * share
                self._answers[option] = answer
        for part, group in sorted(further, key=lambda item: item[0]):
            if self._left_out + part < _NEGLIGIBLE:
                self._left_out += part
                self._share(group, part)
            else:
                self._open.append((part, group))
        self._open.sort(key=lambda item: -item[0])

    def _share(self, node: OptionNode, mass: float) -> None:
        """Shares the mass of a group that is not looked into."""
        self.clipped |= mass > 0
        for label in node.labels:
            self._masses[label] = mass / len(node.labels)

    @property
    def answer(self) -> Answer:
        """What the answers come to, once there is no further question."""
        if self._abstained is not None:
            return self._abstained
        label = max(self._masses, key=lambda name: self._masses[name])
        said = self._answers.get(label)
        found = replace(said, label=label, probs=None, probs_source="none") if said else Answer(label=label)
        if not self._bare and said is not None:
            total = math.fsum(self._masses.values())
            found.probs = [mass / total for mass in self._masses.values()]
            found.probs_source = said.probs_source
        return found


def tree_of(teacher: Teacher, task: Task) -> OptionTree | None:
    """The tree by which a teacher is asked for a label; None where it can be asked for all of them at once."""
    bounds = [most for most in (getattr(teacher, "most_options", None), task.most_options) if most is not None]
    if not bounds or len(task.labels) <= (most := min(bounds)):
        return None
    return OptionTree(task, options_of(task), most=most, answer=teacher.answer)


def build_tree(labels: Sequence[str], meanings: Mapping[str, str], *, most: int, paths: bool = False) -> OptionNode:
    """Groups labels until no question has more than ``most`` options.

    Args:
        labels: In the task's order.
        meanings: What each means, by label.
        most: At least 2.
        paths: Whether they are paths, also where some have one part only.
    """
    if paths or all(SEPARATOR in label for label in labels):
        return _by_path(labels, meanings, most, depth=1)
    return _balanced(
        [(label, meanings.get(label, ""), None) for label in labels], most, taken=set(labels), name="group"
    )


_Entry = tuple[str, str, OptionNode | None]


def _by_path(labels: Sequence[str], meanings: Mapping[str, str], most: int, *, depth: int) -> OptionNode:
    """The question among labels whose paths are the same up to ``depth`` parts less one."""
    if len(labels) <= most:
        return OptionNode({label: meanings.get(label, "") for label in labels})
    branches: dict[str, list[str]] = {}
    for label in labels:
        branches.setdefault(SEPARATOR.join(label.split(SEPARATOR)[:depth]), []).append(label)
    if len(branches) == 1:
        return _by_path(labels, meanings, most, depth=depth + 1)
    entries: list[_Entry] = []
    for start, below in branches.items():
        if len(below) == 1:
            entries.append((below[0], meanings.get(below[0], ""), None))
        else:
            entries.append((f"{start}{SEPARATOR}…", "", _by_path(below, meanings, most, depth=depth + 1)))
    return _balanced(entries, most, taken=set(labels), name="group")


def _balanced(entries: Sequence[_Entry], most: int, *, taken: set[str], name: str) -> OptionNode:
    """The question among entries, in groups of like size where they are too many."""
    if len(entries) > most:
        count = min(most, math.ceil(len(entries) / most))
        cuts = [round(place * len(entries) / count) for place in range(count + 1)]
        groups: list[_Entry] = []
        for number in range(count):
            part = entries[cuts[number] : cuts[number + 1]]
            named = f"{name} {number + 1}" if name == "group" else f"{name}.{number + 1}"
            while named in taken:
                named += "*"
            node = _balanced(part, most, taken=taken, name=named)
            groups.append((named, ", ".join(option for option, _, _ in part), node))
        entries = groups
    return OptionNode(
        {option: meaning for option, meaning, _ in entries},
        {option: node for option, _, node in entries if node is not None},
    )


Walk = TreeWalk | SeveralWalk
