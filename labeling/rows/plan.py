"""Which column of the source means what, settled before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue_config import EVIDENCE_COLUMNS
from distill.labeling.rows.data_config import (
    RESERVED_COLUMNS,
    SHARES_WITH_GOLD,
    SHARES_WITHOUT_GOLD,
    DataConfig,
    as_names,
)
from distill.labeling.rows.source import STRUCTURED, closest
from distill.labeling.task import Task

_SHOWN_SOURCES = 3


@dataclass(frozen=True)
class RowPlan:
    """The columns to read and what becomes of each.

    Attributes:
        config: The ``data`` section.
        task: Names the inputs and the labels.
        seed: Divides groups between splits where those are shares.
        wanted: Columns in the source, with the recipe keys that want each.
        inputs: Column in the source by input.
        ids: Columns in the source that make up the id; empty for a hash of the inputs.
        groups: Names that make up the group, inputs by our name and other columns by that in the source.
        extras: Column in the source by further column to carry along.
        gold: Column in the source, None without one, or where each part of the task has its own.
        part_golds: Those, by part.
        split: Likewise.
        weight: Likewise.
        shares: Share of the groups by split; empty where ``split`` is a column.
        source: What to call the rows in messages.
    """

    config: DataConfig
    task: Task
    seed: int
    wanted: Mapping[str, str]
    inputs: Mapping[str, str]
    ids: Sequence[str]
    groups: Sequence[str]
    extras: Mapping[str, str]
    gold: str | None
    split: str | None
    weight: str | None
    shares: Mapping[str, float]
    source: str
    part_golds: Mapping[str, str]

    @classmethod
    def make(cls, config: DataConfig, task: Task, *, seed: int, slices: Sequence[str] = ()) -> RowPlan:
        """Settles the columns.

        Args:
            config: The ``data`` section.
            task: Whose inputs, evidence and images are columns.
            seed: Of the recipe, for splits that are drawn.
            slices: Further columns, by which results are told apart (``eval.slices``).

        Raises:
            DataError: The recipe contradicts itself: an input has a reserved name, ``columns`` renames what nothing
                uses, or ``gold_map`` leads out of the label set.
        """
        taken = [name for name in task.inputs if name in RESERVED_COLUMNS]
        if taken:
            raise DataError(
                f"task.inputs: {taken} are names that every table of rows uses itself; give the input another name and "
                f"say where it comes from, data.columns: {{item_{taken[0]}: {taken[0]}}}"
            )
        _check_gold_map(config, task)
        _check_evidence(config, task)
        split = config.split if isinstance(config.split, str) else None
        groups = as_names(config.group) or [task.inputs[0]]
        there = (*task.inputs, *RESERVED_COLUMNS, *(config.catalogue.evidence if config.catalogue else ()))
        extras = [
            name for name in dict.fromkeys([*task.evidence, *task.images, *slices, *config.keep]) if name not in there
        ]
        uses = [("task.inputs", task.inputs), ("data.id", as_names(config.id)), ("data.group", groups)]
        golds = config.gold if isinstance(config.gold, dict) else {}
        gold_key = "data.gold" if task.closed else STRUCTURED
        uses += [(gold_key, as_names(golds.values() or config.gold)), ("data.split", as_names(split))]
        uses += [
            ("data.weight", as_names(config.weight)),
            ("task.evidence, task.images, eval.slices or data.keep", extras),
        ]
        _check_columns(config, [name for _, names in uses for name in names])

        def theirs(name: str) -> str:
            return config.columns.get(name, name)

        roles: dict[str, list[str]] = {}
        for key, names in uses:
            for name in names:
                keys = roles.setdefault(theirs(name), [])
                keys += [key] if key not in keys else []
        shown = as_names(config.rows)
        return cls(
            config=config,
            task=task,
            seed=seed,
            wanted={name: ", ".join(keys) for name, keys in roles.items()},
            inputs={name: theirs(name) for name in task.inputs},
            ids=[theirs(name) for name in as_names(config.id)],
            groups=[name if name in task.inputs else theirs(name) for name in groups],
            extras={name: theirs(name) for name in extras},
            gold=theirs(config.gold) if isinstance(config.gold, str) else None,
            part_golds={part: theirs(name) for part, name in golds.items()},
            split=theirs(split) if split else None,
            weight=theirs(config.weight) if config.weight else None,
            shares=_shares(config),
            source=", ".join(shown[:_SHOWN_SOURCES]) + (" …" if len(shown) > _SHOWN_SOURCES else ""),
        )


def _shares(config: DataConfig) -> Mapping[str, float]:
    if isinstance(config.split, str):
        return {}
    if config.split is not None:
        return {str(name): share for name, share in config.split.items()}
    return SHARES_WITH_GOLD if config.gold else SHARES_WITHOUT_GOLD


def _check_gold_map(config: DataConfig, task: Task) -> None:
    if isinstance(config.gold, dict):
        parts = [str(part.part) for part in task.parts]
        if unknown := sorted(set(config.gold) - set(parts)):
            raise DataError(f"data.gold: got the parts {unknown}; the task has {parts or 'none, so give one column'}")
    known = {name for single in task.singles for name in (*single.labels, *single.types)}
    outside = {key: label for key, label in (config.gold_map or {}).items() if label not in known}
    if outside:
        shown = list(task.labels) if task.labels else sorted(known)
        raise DataError(f"data.gold_map: {outside} lead to none of the task's labels {shown}; correct them")


def _check_evidence(config: DataConfig, task: Task) -> None:
    given = config.catalogue.evidence if config.catalogue else ()
    if taken := [name for name in task.inputs if name in given]:
        raise DataError(f"task.inputs: {taken} are columns that data.catalogue gives; name them in task.evidence")
    lacking = [name for name in task.evidence if name in EVIDENCE_COLUMNS and name not in given]
    if config.catalogue is not None and lacking:
        raise DataError(f"task.evidence: {lacking} need columns that data.catalogue does not name; it gives {given}")


def _check_columns(config: DataConfig, used: Sequence[str]) -> None:
    unused = [name for name in config.columns if name not in used]
    if unused:
        close = closest(unused[0], used)
        hint = f"; did you mean {close!r}?" if close else ""
        raise DataError(
            f"data.columns: nothing in the recipe uses {unused}{hint}; the left side is the name used in the recipe, "
            f"the right side that in the file; in use are {sorted(set(used))}"
        )
