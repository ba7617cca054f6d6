"""A list of brands: how each is properly written, and what else it is called."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.labeling.errors import DataError


@dataclass(frozen=True)
class BrandList:
    """Brands with their aliases: other spellings, transliterations, short forms.

    Attributes:
        entries: Name and aliases of each brand, in the order of the file.
    """

    entries: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def load(cls, path: Path) -> BrandList:
        """Reads a file.

        Text: a brand a line, ``Name | alias | alias``; empty lines and those that begin with ``#`` are left out. JSONL:
        ``{"brand": "Name", "aliases": ["alias"]}`` a line.

        Raises:
            DataError: It cannot be read, holds no brand, or two brands have one name.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); give one brand a line") from None
        read = _of_json if path.suffix.lower() in (".jsonl", ".ndjson") else _of_text
        entries = []
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                name, *aliases = read(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
            entries.append((name, tuple(aliases)))
        return cls.of(entries, where=str(path))

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Sequence[str]]], *, where: str = "brands") -> BrandList:
        """Makes a list of names with their aliases.

        Raises:
            DataError: There is none, or two have one name.
        """
        kept = tuple((_tidy(name), tuple(map(_tidy, aliases))) for name, aliases in entries)
        names = [brand_form(name) for name, _ in kept]
        if not names:
            raise DataError(f"{where}: holds no brand; give one a line, `Name | alias | alias`")
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DataError(f"{where}: brands repeat: {twice[:5]}; give each once, with all its aliases")
        return cls(kept)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(name for name, _ in self.entries)

    def link(self, text: str) -> str | None:
        """The brand that is called so, by its name; None where none is, or where two share the alias."""
        return self._by_form.get(brand_form(text))

    def called(self, name: str) -> tuple[str, ...]:
        """Everything that a brand is called, its name first."""
        return self._called.get(name, (name,))

    @cached_property
    def _by_form(self) -> dict[str, str]:
        shared: dict[str, set[str]] = {}
        for name, aliases in self.entries:
            for alias in aliases:
                shared.setdefault(brand_form(alias), set()).add(name)
        found = {form: next(iter(names)) for form, names in shared.items() if len(names) == 1}
        return found | {brand_form(name): name for name, _ in self.entries}

    @cached_property
    def _called(self) -> dict[str, tuple[str, ...]]:
        return {name: (name, *aliases) for name, aliases in self.entries}

    @cached_property
    def basis(self) -> list[list[str]]:
        """Plain values that stand for the whole list, for fingerprints."""
        return [[name, *aliases] for name, aliases in self.entries]


def brand_form(text: str) -> str:
    """A name without what does not change whose it is: compatibility forms, case, spaces, and marks such as hyphens."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum() or unicodedata.combining(character))


def _tidy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _of_text(line: str) -> list[str]:
    parts = [part.strip() for part in line.split("|")]
    if not parts[0]:
        raise ValueError(f"no name before the first |, got {line.strip()[:60]!r}; write `Name | alias`")
    return [part for part in parts if part]


def _of_json(line: str) -> list[str]:
    try:
        record: Any = json.loads(line)
        name, aliases = record["brand"], record.get("aliases") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        name, aliases = None, []
    if not isinstance(name, str) or not name.strip() or not isinstance(aliases, list):
        raise ValueError(f'got {line.strip()[:60]!r}; write {{"brand": "Name", "aliases": ["…"]}}')
    return [name, *map(str, aliases)]
