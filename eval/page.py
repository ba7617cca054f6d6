"""Writes a report as one HTML file that opens anywhere and trusts nothing that it shows.

Templates escape everything. A content-security policy stands in the page: no network at all, and only the one style
sheet and the one script whose hashes it names, so that a listing with markup in it stays text even where an escape were
forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.eval import ladder_words, wording
from distill.eval.wording import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from pydantic import BaseModel


def render_page(template: str, *, script: str = "tables.js", **values: Any) -> str:
    """Renders a template of this package to a whole page.

    Args:
        template: File under ``templates/``.
        script: The one script that the page runs, a file under ``templates/`` too.
        **values: What it shows.
    """
    style, code = _asset("style.css"), _asset(script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(code)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(style=style, script=code, policy=policy, **values)


def write_forms(path: Path, page: str, *, markdown: str, facts: BaseModel) -> list[Path]:
    """Writes a report as a page, and beside it as Markdown and as what it says in JSON; returns the three files."""
    return [
        write_whole(path, page),
        write_whole(path.with_suffix(".md"), markdown),
        write_whole(path.with_suffix(".json"), facts.model_dump_json(indent=1) + "\n"),
    ]


def write_whole(path: Path, text: str) -> Path:
    """Replaces a file whole, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, path)
    return path


def markdown_cell(text: object, *, longest: int = 120) -> str:
    """Text as a Markdown table cell: one line, cut, with everything that Markdown or HTML would act on escaped."""
    words = " ".join(printable(text).split())
    words = words if len(words) <= longest else words[: longest - 1] + "…"
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", words)


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells go through :func:`markdown_cell`."""
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*head, *("| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in lines)])


@cache
def _asset(name: str) -> str:
    return (resources.files("distill.eval") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from distill.eval.queries.report_words import checks_table, slices_table

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "interval": wording.interval,
        "number": wording.number,
        "share": wording.share,
        "count": wording.count,
        "dollars": wording.dollars,
        "seconds": wording.seconds,
        "quantity": wording.quantity,
        "metric_title": wording.metric_title,
        "metric_meaning": wording.metric_meaning,
        "shorten": _shorten,
        "checks_table": checks_table,
        "slices_table": slices_table,
        "agrees_cell": ladder_words.agrees_cell,
        "expects_cell": ladder_words.expects_cell,
        "cost_per_point_cell": ladder_words.cost_per_point_cell,
    }
    environment.globals["plural"] = wording.plural
    return environment


def _shorten(text: object, longest: int) -> str:
    words = str(text)
    return words if len(words) <= longest else words[: longest - 1] + "…"
