"""Reads a row's fields back out of the text that :mod:`distill.labeling.prompts.prompt` writes of it.

For a served student: it answers the questions that are put to a large model, and reads the fields alone.
"""

from __future__ import annotations

import re

_JUDGED = re.compile(r"Judge the item between the two lines that carry ([0-9a-f]+)\.\s*\Z")
_INDENT = "    "


def read_fields(text: str) -> dict[str, str] | None:
    """The fields of the item that a prompt asks about; undoes :func:`distill.labeling.prompts.prompt.field_lines`.

    Nothing that a listing says can pass for a field or for the end of the item: further lines of a value are indented,
    and the item ends where its mark stands, which no item contains. Judged items that are shown before it are not read.

    Args:
        text: The user's message about one row.

    Returns:
        Values by name, in the order in which they stand; line breaks of a value are ``\\n``, whatever they were. None
        where the text is no such message.
    """
    judged = _JUDGED.search(text)
    if judged is None:
        return None
    start, end = f"<data {judged[1]}>\n", f"\n</data {judged[1]}>"
    _, opened, rest = text[: judged.start()].rpartition(start)
    content, closed, _ = rest.partition(end)
    if not (opened and closed):
        return None
    fields: dict[str, str] = {}
    name = ""
    for line in content.split("\n"):
        if line.startswith(_INDENT) and name:
            fields[name] += "\n" + line[len(_INDENT) :]
            continue
        name, colon, value = line.partition(":")
        if not colon:
            return None
        fields[name] = value.removeprefix(" ")
    return fields
