"""YAML read with the line of every value, so that an error can say where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.labeling.errors import RecipeError

Location = tuple[str | int, ...]
"""Path of a value inside the document: keys and list positions from the root."""

_OVERRIDE = "--set"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass
class YamlSource:
    """A YAML document and where each of its values stands.

    Attributes:
        name: What to call the file in messages.
        data: The document as plain Python values.
        places: ``file:line`` (or ``--set``) of each value, by location.
    """

    name: str
    data: Any
    places: dict[Location, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> YamlSource:
        """Reads a file.

        Raises:
            RecipeError: It is missing, not UTF-8, not YAML, or gives one key twice.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise RecipeError(f"{path}: no such recipe; `distill recipes` lists those that ship") from None
        except IsADirectoryError:
            raise RecipeError(f"{path}: is a folder, a recipe is one YAML file") from None
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
        return cls.parse(text, name=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str) -> YamlSource:
        """Reads text.

        Raises:
            RecipeError: It is not YAML, or gives one key twice.
        """
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{name}:{mark.line + 1}" if mark else name
            raise RecipeError(f"{where}: not YAML: {error.problem or error.context}; mend the syntax there") from None
        except yaml.YAMLError as error:
            raise RecipeError(f"{name}: not YAML: {error}") from None
        source = cls(name=name, data=None)
        problems: list[str] = []
        if node is not None:
            source.data = source._build(node, (), problems)
        if problems:
            raise RecipeError(problems)
        return source

    def override(self, assignment: str) -> None:
        """Applies one ``a.b=value``; the value is read as YAML. The first ``=`` divides.

        Raises:
            RecipeError: There is no ``=``, the value is not YAML, or the path runs through something that
                is not a section.
        """
        path, equals, raw = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"{_OVERRIDE} {assignment}: write it as {_OVERRIDE} section.key=value")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError:
            raise RecipeError(f"{_OVERRIDE} {assignment}: the value is not YAML; quote it") from None
        target = self.data if isinstance(self.data, dict) else {}
        self.data = target
        for depth, key in enumerate(keys[:-1], start=1):
            if target.get(key) is None:
                target[key] = {}
                self.places[tuple(keys[:depth])] = _OVERRIDE
            if not isinstance(target[key], dict):
                section = ".".join(keys[:depth])
                raise RecipeError(
                    f"{_OVERRIDE} {assignment}: {section} is not a section but a value; set {section} itself"
                )
            target = target[key]
        target[keys[-1]] = value
        self.places[tuple(keys)] = f"{_OVERRIDE} {path.strip()}"

    def place(self, location: Location) -> str:
        """Where a value stands, or the nearest thing around it that is written down."""
        for depth in range(len(location), -1, -1):
            if location[:depth] in self.places:
                return self.places[location[:depth]]
        return self.name

    def _build(self, node: yaml.Node, location: Location, problems: list[str]) -> Any:
        self.places.setdefault(location, f"{self.name}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, location, problems)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*location, index), problems) for index, item in enumerate(node.value)]
        return yaml.constructor.SafeConstructor().construct_object(node)

    def _build_mapping(self, node: yaml.MappingNode, location: Location, problems: list[str]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                # `<<: *anchor` gives what the anchor holds, wherever the mapping itself does not say otherwise.
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    merged |= self._build(source, location, problems)
                continue
            key = str(key_node.value)
            here = (*location, key)
            if key in mapping:
                line = key_node.start_mark.line + 1
                dotted = ".".join(map(str, here))
                problems.append(f"{self.name}:{line}: {dotted}: given twice, first at {self.place(here)}; keep one")
                continue
            self.places[here] = f"{self.name}:{key_node.start_mark.line + 1}"
            mapping[key] = self._build(value_node, here, problems)
        return {**merged, **mapping}
