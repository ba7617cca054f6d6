"""What a causal student is asked, in words and in tokens.

A prompt is one user's turn in the base's own chat format::

    Label the listing for the query.
    Labels: A exact, B substitute, C complement, D irrelevant
    Query: 80% keyboard red switches
    <listing>
    title: Gryndle K87 brand: Gryndle …
    </listing>
    Answer with the letter of the label.

Each label has a code of exactly one token, so that one position's logits are the scores of the whole label set, and a
server that returns the first token's log-probabilities returns the label's distribution.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import polars as pl

from distill.labeling.errors import StudentError
from distill.students.text import PairTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Asked = Literal["label", "label_then_trace", "trace", "trace_then_label"]
"""What the last line of a prompt asks for."""

ANSWER_MARK = "\nLabel:\n"
"""Stands between a trace and the label's code; always tokenised by itself, so that it is found again."""

_LAST_LINES: dict[Asked, str] = {
    "label": "Answer with the letter of the label.",
    "label_then_trace": "Answer with the letter of the label, then explain.",
    "trace": "Explain which label fits.",
    "trace_then_label": "Explain which label fits, then answer with its letter.",
}
_LONGEST_LEGEND = 26
"""More labels than this are not listed in each prompt: their codes are learned from the rows alone."""
_PLACE = "\ufffc"
"""Where the content goes in the rendered chat template; no template writes an object replacement character itself."""
_RESERVED_TOKENS = 8
"""Left free of the query: cut text may take a few tokens more than it did inside the whole."""
_FEWEST_TOKENS_OF_A_ROW = 24
_PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Answer:\n{% endif %}"
)


class CausalPrompt:
    """Writes and tokenises prompts.

    Args:
        tokenizer: The base's; given a plain chat template here where it has none, so that servers have one too.
        labels: The task's labels.
        template: How a row is written out.
        max_length: Tokens of a prompt.

    Attributes:
        codes: One for each label, each a single token.
        code_ids: Their ids.
        answer_mark_ids: Tokens of :data:`ANSWER_MARK`.
        inputs: Input columns, the query first.

    Raises:
        StudentError: The vocabulary has too few single tokens for the labels, or ``max_length`` leaves rows no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        template: PairTemplate,
        max_length: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.inputs = template.inputs
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _PLAIN_TEMPLATE
        self.codes, self.code_ids = label_codes(tokenizer, len(labels))
        self.answer_mark_ids: list[int] = self.tokens(ANSWER_MARK)
        self._first_lines = _first_lines(labels, self.codes, listing=len(template.inputs) > 1)
        self._forbidden = re.compile(
            "|".join(map(re.escape, [*_written_as_one(tokenizer), "<listing>", "</listing>"])), re.IGNORECASE
        )
        self._before, self._after = self._around()
        self._limit = max_length - len(self._before) - len(self._after)
        room = self._limit - len(self.tokens(self.content("", "", asked="trace_then_label")))
        if room < _FEWEST_TOKENS_OF_A_ROW:
            raise StudentError(
                f"causal: max_length leaves {room} tokens for a row beside the instruction, got {max_length}; "
                f"set it to {max_length - room + 128} or more"
            )

    def content(self, query: str, listing: str | None, *, asked: Asked) -> str:
        """The user's turn. Query and listing are data: neither can begin a line, close its fence or end the turn."""
        text = f"{self._first_lines}Query: {self._defused(query)}\n"
        if len(self._template.inputs) > 1:
            text += f"<listing>\n{self._defused(listing or '')}\n</listing>\n"
        return text + _LAST_LINES[asked]

    def contents(self, rows: pl.DataFrame, *, asked: Asked) -> list[str]:
        """The user's turn of each row, cut to length: what a chat server is sent."""
        queries, listings = self._template.render(rows)
        return [text for text, _ in self._fitted(queries, listings, asked)]

    def read(self, rows: pl.DataFrame, *, asked: Asked) -> list[list[int]]:
        """Tokens of each row's prompt; the listing is cut first, the query only where it alone is too long."""
        queries, listings = self._template.render(rows)
        return [[*self._before, *ids, *self._after] for _, ids in self._fitted(queries, listings, asked)]

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text in which special tokens are spelled, not meant."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids)

    def trace_tokens(self, trace: str, *, most: int) -> list[int]:
        """Tokens of a trace, cut after ``most``."""
        return self.tokens(self._defused(trace))[:most]

    def _fitted(self, queries: list[str], listings: list[str] | None, asked: Asked) -> Iterator[tuple[str, list[int]]]:
        paired = list(zip(queries, listings or itertools.repeat(None), strict=False))
        texts = [self.content(query, listing, asked=asked) for query, listing in paired]
        if not texts:
            return
        encoded = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        for (query, listing), text, ids in zip(paired, texts, encoded, strict=True):
            yield (text, list(ids)) if len(ids) <= self._limit else self._cut_to_fit(query, listing, asked)

    def _cut_to_fit(self, query: str, listing: str | None, asked: Asked) -> tuple[str, list[int]]:
        query, listing = self._defused(query), None if listing is None else self._defused(listing)
        bare = len(self.tokens(self.content("", "", asked=asked)))
        query = self._cut(query, self._limit - bare - _RESERVED_TOKENS)
        room = self._limit - len(self.tokens(self.content(query, "", asked=asked)))
        while True:
            text = self.content(query, None if listing is None else self._cut(listing, room), asked=asked)
            ids = self.tokens(text)
            if len(ids) <= self._limit or room <= 0:
                return text, ids
            room -= len(ids) - self._limit

    def _cut(self, text: str, most: int) -> str:
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        return text if len(ends) <= most else text[: ends[most - 1]] if most > 0 else ""

    def _defused(self, text: str) -> str:
        """One line, in which whatever the tokenizer or the fence would take for its own has a space put in.

        Leaving it to ``split_special_tokens`` would not do: a server tokenises the whole prompt without it.
        """
        return self._forbidden.sub(lambda found: f"{found[0][0]} {found[0][1:]}", " ".join(text.split()))

    def _around(self) -> tuple[list[int], list[int]]:
        """Tokens before and after the user's words, as the chat template writes them."""
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": _PLACE}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # read by templates that know it (Qwen3), ignored by the others
        )
        before, found, after = str(rendered).partition(_PLACE)
        if not found:
            raise StudentError("causal: the base's chat template does not write the user's words; name another base")
        return tuple(  # type: ignore[return-value]
            list(self._tokenizer(part, add_special_tokens=False, verbose=False).input_ids) for part in (before, after)
        )


def fixed_texts(labels: Sequence[str]) -> list[str]:
    """What stands in every prompt, for a vocabulary that is learned from texts."""
    codes = string.ascii_uppercase[: len(labels)]
    lines = [_first_lines(labels, codes, listing=listing) for listing in (True, False)]
    return [*lines, "Query: \n<listing>\n\n</listing>\n", *_LAST_LINES.values(), ANSWER_MARK]


def _first_lines(labels: Sequence[str], codes: Sequence[str], *, listing: bool) -> str:
    text = f"Label the {'listing for the query' if listing else 'query'}.\n"
    if len(labels) <= _LONGEST_LEGEND:
        text += f"Labels: {', '.join(f'{code} {label}' for code, label in zip(codes, labels, strict=True))}\n"
    return text


def label_codes(tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[tuple[str, ...], list[int]]:
    """The first codes of A, B, …, Z, a, …, z, AA, AB, … that are one token each, and their ids.

    Raises:
        StudentError: The vocabulary has fewer.
    """
    letters = string.ascii_uppercase + string.ascii_lowercase
    pairs = map("".join, itertools.product(string.ascii_uppercase, repeat=2))
    codes: dict[str, int] = {}
    for code in itertools.chain(letters, pairs):
        if len(codes) == count:
            break
        ids = tokenizer(code, add_special_tokens=False, verbose=False).input_ids
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            codes[code] = ids[0]
    if len(codes) < count:
        raise StudentError(
            f"causal: {count} labels need as many codes of one token, the base's vocabulary has {len(codes)}; "
            "use an encoder, or a base with a larger vocabulary"
        )
    return tuple(codes), list(codes.values())


def _written_as_one(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Strings that the tokenizer takes out of a text before it splits it; of more than one character."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if len(token.content.strip()) > 1]
