"""A guideline: Markdown with numbered clauses, a version, and a content hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distill.labeling.errors import DataError

_CLAUSE = re.compile(r"^- \*\*(?P<id>[A-Z]{1,3}\d{1,3})(?: (?P<title>[^*]*?))?\.?\*\*[ ]?(?P<text>.*)$")
_VERSION = re.compile(r"^version:\s*(?P<version>\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Clause:
    """One numbered rule of a guideline.

    Attributes:
        id: Its number as judges cite it, such as ``E2``.
        title: The words set in bold after the number.
        text: The rule, as one line.
        section: The heading that it stands under, empty where there is none.
        line: Line of the file, from 1.
    """

    id: str
    title: str
    text: str
    section: str
    line: int


@dataclass(frozen=True)
class Guideline:
    """What judges are told.

    A clause is a list item that starts with its number in bold: ``- **E2 Stated constraints.** Every …``.
    Lines indented under it belong to it.

    Attributes:
        text: The whole Markdown, as judges read it.
        version: From a line ``version: …``, or the first eight characters of the hash.
        clauses: In the order of the text.
    """

    text: str
    version: str
    clauses: tuple[Clause, ...]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the text: two guidelines are the same when this is."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def by_id(self) -> dict[str, Clause]:
        """Clauses by number."""
        return {clause.id: clause for clause in self.clauses}

    @classmethod
    def parse(cls, text: str, *, source: str = "guideline") -> Guideline:
        """Reads Markdown.

        Args:
            text: The Markdown. Windows line ends and a byte order mark are accepted.
            source: What to call it in errors.

        Raises:
            DataError: It is empty, or two clauses have one number.
        """
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip() + "\n"
        if not text.strip():
            raise DataError(f"{source}: the guideline is empty; write at least one clause, '- **E1 Title.** text'")
        clauses = tuple(_clauses(text))
        seen: dict[str, int] = {}
        for clause in clauses:
            if clause.id in seen:
                raise DataError(
                    f"{source}:{clause.line}: clause {clause.id} is numbered twice, first on line "
                    f"{seen[clause.id]}; give it a number of its own"
                )
            seen[clause.id] = clause.line
        found = _VERSION.search(text)
        version = found["version"] if found else hashlib.sha256(text.encode()).hexdigest()[:8]
        return cls(text=text, version=version, clauses=clauses)

    def with_clause(self, clause_id: str, text: str) -> Guideline:
        """The guideline with one clause's text replaced: its number and title stay, and every other character does.

        The version stays too, since judges read it and any changed character asks them anew; the hash tells them apart.

        Args:
            clause_id: Number of the clause.
            text: The new rule, as one paragraph.

        Raises:
            DataError: There is no such clause, or the text would not be read back as that clause.
        """
        clause = self.by_id.get(clause_id)
        if clause is None:
            raise DataError(f"guideline: no clause {clause_id!r}; there are {', '.join(self.by_id)}")
        lines = self.text.split("\n")
        first, end = clause.line - 1, clause.line
        while end < len(lines) and lines[end].startswith("  ") and lines[end].strip():
            end += 1
        head = _CLAUSE.match(lines[first])
        assert head is not None, "a clause's line is one"
        words = " ".join(text.split())
        if not words:
            raise DataError(f"guideline: clause {clause_id}: the new text is empty; write the rule")
        lines[first:end] = [lines[first][: head.start("text")] + words]
        changed = Guideline.parse("\n".join(lines))
        read_back = changed.by_id.get(clause_id)
        if read_back is None or read_back.text != words or len(changed.clauses) != len(self.clauses):
            raise DataError(
                f"guideline: clause {clause_id}: got a text that Markdown would read as something else, "
                f"{words[:80]!r}; write the rule as plain sentences"
            )
        return changed

    @classmethod
    def load(cls, path: Path) -> Guideline:
        """Reads a Markdown file in UTF-8.

        Raises:
            DataError: The file is missing, not UTF-8, empty, or numbers two clauses alike.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(f"{path}: no such guideline; check task.guideline in the recipe") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: the guideline is not UTF-8 ({error.reason}); save it as UTF-8") from None
        return cls.parse(text, source=str(path))


def _clauses(text: str) -> list[Clause]:
    clauses: list[Clause] = []
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#"):
            section = line.lstrip("#").strip()
        elif found := _CLAUSE.match(line):
            title = (found["title"] or "").strip()
            clauses.append(Clause(found["id"], title, found["text"].strip(), section, number))
        elif clauses and line.startswith("  ") and line.strip():
            last = clauses[-1]
            joined = f"{last.text} {line.strip()}".strip()
            clauses[-1] = Clause(last.id, last.title, joined, last.section, last.line)
    return clauses
