"""Declarative rules as labeling functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distill.labeling.errors import DataError
from distill.labeling.labeling_function import ClosedVerdict
from distill.teachers.colors import COLORS
from distill.teachers.functions import FunctionTeacher
from distill.teachers.quantities import Quantity, quantities
from distill.teachers.rules_config import (
    Condition,
    OverlapCondition,
    QuantityCondition,
    RegexCondition,
    Rule,
    RulesTeacherConfig,
    ValueCondition,
    WordsCondition,
)
from distill.teachers.rules_text import normalised, shared_part, word_finder

# Where a word list lies changes no answer; what it holds does.
_NOT_IN_KEY: Any = {"family": True, "when": {"__all__": {"file"}}, "unless": {"__all__": {"file"}}}

Values = Mapping[str, str]
Holds = Callable[[Values], bool]
Decides = Callable[[Values], ClosedVerdict]


def rule_teachers(section: str, config: RulesTeacherConfig) -> list[FunctionTeacher]:
    """The teachers of a section: one a rule, or one of all of them.

    Raises:
        DataError: A word list cannot be read or is empty.
    """
    lists = {file: _read_lines(file, section) for file in config.files}
    rules = {name: compile_rule(rule, lists) for name, rule in config.rules.items()}
    family = config.family or section

    def basis(part: Mapping[str, Rule]) -> str:
        read = [lists[file] for rule in part.values() for file in _files(rule)]
        settings = [rule.model_dump(mode="json", exclude=_NOT_IN_KEY) for rule in part.values()]
        return f"{config.decide} {settings!r} {read!r}"

    if config.decide == "each":
        return [
            FunctionTeacher(f"{section}.{name}", rules[name], family=rule.family or family, basis=basis({name: rule}))
            for name, rule in config.rules.items()
        ]
    decide = first_verdict if config.decide == "first" else shared_verdict
    decides = partial(decide, list(rules.values()))
    return [FunctionTeacher(section, decides, family=family, basis=basis(config.rules))]


def compile_rule(rule: Rule, lists: Mapping[Path, Sequence[str]]) -> Decides:
    """A rule as a function of the row.

    Args:
        rule: The rule.
        lists: Lines of the files that it names.
    """
    when = [compile_condition(condition, lists) for condition in rule.when]
    unless = [compile_condition(condition, lists) for condition in rule.unless]

    def verdict(values: Values) -> ClosedVerdict:
        holds = all(condition(values) for condition in when)
        return rule.then if holds and not any(condition(values) for condition in unless) else None

    return verdict


def first_verdict(rules: Sequence[Decides], values: Values) -> ClosedVerdict:
    """What the first rule says that does not abstain."""
    return next((verdict for rule in rules if (verdict := rule(values)) is not None), None)


def shared_verdict(rules: Sequence[Decides], values: Values) -> ClosedVerdict:
    """The mean of what the rules say that do not abstain, one share each."""
    said = [verdict for rule in rules if (verdict := rule(values)) is not None]
    shares: dict[str, float] = {}
    for verdict in said:
        for label, share in ({verdict: 1.0} if isinstance(verdict, str) else verdict).items():
            shares[label] = shares.get(label, 0.0) + share / len(said)
    return shares or None


def compile_condition(condition: Condition, lists: Mapping[Path, Sequence[str]]) -> Holds:
    """A condition as a function of the row; it does not hold where an input that it needs is empty.

    Args:
        condition: The condition.
        lists: Lines of the files that it names.
    """
    if isinstance(condition, RegexCondition):
        expression = condition.compiled()
        return lambda values: bool(expression.search(_raw(condition.fields, values)))
    if isinstance(condition, WordsCondition):
        finder = word_finder([*condition.words, *_lines(condition.file, lists)], condition.boundary)
        return lambda values: bool(finder.search(_text(condition.fields, values)))
    if isinstance(condition, QuantityCondition):
        return partial(_quantity_holds, condition)
    if isinstance(condition, ValueCondition):
        return partial(_value_holds, condition, _finders(condition, lists))
    return partial(_overlap_holds, condition)


def _quantity_holds(condition: QuantityCondition, values: Values) -> bool:
    wanted = quantities(_query(condition.query, values), condition.dimensions)
    listed = quantities(" | ".join(values[name] for name in condition.fields), condition.dimensions)

    def met(quantity: Quantity) -> bool:
        return any(other.meets(quantity, tolerance=condition.tolerance) for other in listed)

    if condition.relation == "same":
        return bool(wanted) and all(map(met, wanted))
    kinds = {other.dimension for other in listed}
    return any(quantity.dimension in kinds and not met(quantity) for quantity in wanted)


def _finders(condition: ValueCondition, lists: Mapping[Path, Sequence[str]]) -> dict[str, re.Pattern[str]]:
    """An expression for each value that there is; empty where the listing's own is looked for."""
    given: Mapping[str, Sequence[str]] = {}
    if condition.values == "colors":
        given = COLORS
    elif isinstance(condition.values, dict):
        given = {value: (value, *spellings) for value, spellings in condition.values.items()}
    elif condition.values is not None:
        given = {value: (value,) for value in condition.values}
    elif condition.file is not None:
        spelled = [[part.strip() for part in line.split(",") if part.strip()] for line in lists[condition.file]]
        given = {spellings[0]: spellings for spellings in spelled if spellings}
    return {value: word_finder(spellings) for value, spellings in given.items()}


def _value_holds(condition: ValueCondition, finders: Mapping[str, re.Pattern[str]], values: Values) -> bool:
    query, listing = normalised(_query(condition.query, values)), _text(condition.fields, values)
    if not finders:
        own = [text for name in condition.fields if (text := normalised(values[name]))]
        return bool(own) and bool(word_finder(own).search(query))
    wanted = {value for value, finder in finders.items() if finder.search(query)}
    if not wanted:
        return False
    listed = {value for value, finder in finders.items() if finder.search(listing)}
    if condition.relation == "same":
        return wanted <= listed
    return bool(listed) and not wanted & listed


def _overlap_holds(condition: OverlapCondition, values: Values) -> bool:
    share = shared_part(normalised(_query(condition.query, values)), _text(condition.fields, values))
    if share is None:
        return False
    low = 0.0 if condition.at_least is None else condition.at_least
    high = 1.0 if condition.at_most is None else condition.at_most
    return low <= share <= high


def _query(name: str | None, values: Values) -> str:
    return values[next(iter(values)) if name is None else name]


def _raw(fields: Sequence[str], values: Values) -> str:
    return unicodedata.normalize("NFKC", "\n".join(values[name] for name in fields))


def _text(fields: Sequence[str], values: Values) -> str:
    # A sign between fields, so that no phrase is found across two of them.
    return normalised(" | ".join(values[name] for name in fields))


def _files(rule: Rule) -> list[Path]:
    found = [getattr(condition, "file", None) for condition in rule.conditions]
    return [file for file in found if file is not None]


def _lines(file: Path | None, lists: Mapping[Path, Sequence[str]]) -> Sequence[str]:
    return () if file is None else lists[file]


def _read_lines(file: Path, section: str) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"teachers.{section}: {file}: cannot be read, {error}; give a UTF-8 text file") from None
    lines = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    if not any(lines):
        raise DataError(f"teachers.{section}: {file}: holds no word; give one a line")
    return [line for line in lines if line]
