"""A row's fields as text, fenced as data: nothing in them can end the fence, the user's turn, or pass for a field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from distill.labeling.prompts.field_cut import cut_fields

CUT_MARK = "…[cut]"
"""Ends a field that was longer than the budget."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
# Chat templates turn these into special tokens wherever they stand, so a listing could end the user's turn with one.
# One pair per convention: ChatML and Llama 3 (and DeepSeek's full-width bar), SentencePiece and Gemma, Mistral.
_TEMPLATE_TOKENS = (
    (re.compile(r"<(?=[|｜])"), "< "),
    (re.compile(r"(?<=[|｜])>"), " >"),
    (re.compile(r"<(/?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn))>", re.IGNORECASE), r"< \1 >"),
    (re.compile(r"\[(/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS))\]"), r"[ \1 ]"),
    (re.compile(r"<<(/?SYS)>>"), r"< <\1> >"),
)


def field_lines(values: Mapping[str, str]) -> str:
    """Writes a row's inputs as lines ``name: value``.

    Every line of a value but its first is indented, so that a value cannot pass for another field.
    """
    lines = [f"{name}: " + "\n    ".join(text.splitlines()) if text else f"{name}:" for name, text in values.items()]
    return "\n".join(lines)


def example_text(values: Mapping[str, str], label: str, *, tokens: int) -> str:
    """Writes a judged item as it is shown before the item to judge: fenced as data, then its label.

    Args:
        values: Its inputs.
        label: What people said: a label, or a JSON object.
        tokens: Budget of the inputs.
    """
    cleaned = {name: field_text(value) for name, value in values.items()}
    cut_fields(cleaned, tokens, mark=CUT_MARK)
    said = "answer" if label.startswith("{") else "label"
    return f"{_fenced(field_lines(cleaned))[1]}\n{said}: {label}"


def field_text(value: object) -> str:
    """A cell as it is shown; empty where nothing is known."""
    return "" if value is None else clean(str(value))


def cut_chars(values: dict[str, str], most: int) -> tuple[str, ...]:
    """Cuts values to so many characters, in place; says which were longer."""
    cut = tuple(name for name, text in values.items() if len(text) > most)
    for name in cut:
        values[name] = values[name][: most - len(CUT_MARK)] + CUT_MARK
    return cut


def clean(text: str) -> str:
    """Takes out of a text what no server can read (lone surrogates) and what would end the user's turn.

    Control characters become spaces, and special tokens of chat templates (``<|im_end|>``, ``[INST]``) are broken up
    by a space: servers tokenise the rendered template, so a listing that contains one would close its own turn.
    """
    if not text.isprintable():
        text = _CONTROLS.sub(" ", _SURROGATES.sub("\ufffd", text))
    if "<" in text or ">" in text or "[" in text:
        for pattern, by in _TEMPLATE_TOKENS:
            text = pattern.sub(by, text)
    return text.strip()


def fence(content: str, *, known_label: str = "") -> str:
    """Puts content between two lines that carry a mark which the content does not contain.

    The mark is the first 48 bits of a BLAKE2b hash of the content, in hex: the same content always has the same mark.
    Whoever writes the content cannot foresee it without solving for a text that contains its own hash; should it
    be in the content all the same, the hash is taken with the next counter until it is not.

    Args:
        content: The data.
        known_label: The label to be explained; empty where the item is to be judged.
    """
    mark, fenced = _fenced(content)
    if known_label:
        return (
            f"{fenced}\n\nThe label of the item between the two lines that carry {mark} is `{known_label}`. Explain it."
        )
    return f"{fenced}\n\nJudge the item between the two lines that carry {mark}."


def _fenced(content: str) -> tuple[str, str]:
    folded = content.casefold()
    data = content.encode("utf-8", "surrogatepass")
    counter = 0
    while (mark := _mark(data, counter)) in folded:
        counter += 1
    return mark, f"<data {mark}>\n{content}\n</data {mark}>"


def fence_apart(contents: Sequence[str]) -> list[tuple[str, str]]:
    """Fences each content with a mark of its own, which hangs on all of them and is in none: pairs of mark and text."""
    whole = "\x00".join(contents)
    folded, data = whole.casefold(), whole.encode("utf-8", "surrogatepass")
    fenced: dict[str, str] = {}
    for number, content in enumerate(contents, start=1):
        counter, numbered = 0, b"%d\x00%b" % (number, data)
        while (mark := _mark(numbered, counter)) in folded or mark in fenced:
            counter += 1
        fenced[mark] = f"<data {mark}>\n{content}\n</data {mark}>"
    return list(fenced.items())


def _mark(data: bytes, counter: int) -> str:
    state = _FENCE.copy() if counter == 0 else _fence_state(counter)
    state.update(data)
    return state.hexdigest()


def _fence_state(counter: int) -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=6, salt=counter.to_bytes(8, "little"), person=b"distill-fence-1")


_FENCE = _fence_state(0)
