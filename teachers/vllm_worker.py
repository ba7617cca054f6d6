"""Runs vLLM's offline engine in a process of its own, which talks JSON lines over its input and output.

It is run as a script by the interpreter that has vLLM, where distill need not be installed: it imports nothing else.

The first line in says how to start: ``{"engine": {…arguments of vllm.LLM}, "lora": {name: folder}}``; the first line
out is ``{"ready": …, "max_model_len": …}``. Then each line in is a batch, ``{"items": […]}``, and each line out its
results, ``{"results": […]}``, one an item, in order. An item has ``messages`` and ``template`` (switches of the chat
template), ``adapter`` (a name, or null), and either

``labels``
    the log-probability of each label: that of its tokens, one after another behind the prompt, and of the token that
    ends the turn. Result: ``{"logprobs": {label: …}, "input_tokens": …}``;
or ``sampling`` and ``schema``
    arguments of ``vllm.SamplingParams``, and a JSON schema or null. Result: ``{"texts": […], "finish": …,
    "input_tokens": …, "output_tokens": …}``.

An item that cannot be done has the result ``{"error": …}``. A line ``{"fatal": …}`` comes before the end of a worker
that cannot go on.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple

# The folder of a script is on the path, and ours has an openai.py, which is not the one that vLLM wants.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [place for place in sys.path if os.path.realpath(place or os.curdir) != _HERE]

# As many as vLLM allows to be asked for at one place.
_MOST_FOLLOWING = 128
_PLACEHOLDER = "exactly these words"


class _Part(NamedTuple):
    """One sequence to be run, for an item; ``scored`` are the tokens at its end whose probability is wanted."""

    item: int
    label: str | None
    tokens: list[int]
    scored: int


class Engine:
    """vLLM's ``LLM``, with what the items need of its tokenizer."""

    def __init__(self, engine: dict[str, Any], lora: dict[str, str]) -> None:
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self.llm = LLM(**engine)
        self.tokenizer = self.llm.get_tokenizer()
        self.max_model_len = int(self.llm.llm_engine.model_config.max_model_len)
        self.adapters = {
            name: LoRARequest(name, number, path) for number, (name, path) in enumerate(sorted(lora.items()), 1)
        }
        self._ends: dict[str, list[int]] = {}
        self._label_tokens: dict[str, list[int]] = {}

    def results(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What comes of a batch, item by item."""
        found: list[dict[str, Any]] = [{} for _ in items]
        parts: list[_Part] = []
        for number, item in enumerate(items):
            try:
                parts += self._parts(number, item)
            except Exception as error:
                found[number] = {"error": f"{type(error).__name__}: {error}"}
        scored = [part for part in parts if part.label is not None]
        written = [part for part in parts if part.label is None]
        if scored:
            logs = self._step_by_step(scored, items) if self.adapters else self._at_once(scored, items)
            for part, log in zip(scored, logs, strict=True):
                result = found[part.item]
                result.setdefault("logprobs", {})[part.label] = log
                result["input_tokens"] = result.get("input_tokens", 0) + len(part.tokens)
                result["output_tokens"] = 0
        if written:
            self._write(written, items, found)
        return found

    def _parts(self, number: int, item: dict[str, Any]) -> list[_Part]:
        prompt = self._prompt_tokens(item["messages"], item["template"])
        if labels := item.get("labels"):
            end = self._end_of_turn(item["template"])
            tails = {label: self._tokens_of(label) + end for label in labels}
            parts = [_Part(number, label, prompt + tail, len(tail)) for label, tail in tails.items()]
            room = 1  # vLLM always writes a token
        else:
            parts, room = [_Part(number, None, prompt, 0)], int(item["sampling"]["max_tokens"])
        longest = max(len(part.tokens) for part in parts) + room
        if longest > self.max_model_len:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and wants {longest} with its answer, the model holds "
                f"{self.max_model_len}; shorten rows (labeling.row_tokens) or raise max_model_len"
            )
        return parts

    def _prompt_tokens(self, messages: list[dict[str, str]], template: dict[str, Any]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _tokens_of(self, label: str) -> list[int]:
        if label not in self._label_tokens:
            self._label_tokens[label] = list(self.tokenizer.encode(label, add_special_tokens=False))
        return self._label_tokens[label]

    def _end_of_turn(self, template: dict[str, Any]) -> list[int]:
        """The token that the chat template writes behind an answer, which is not always the tokenizer's end token."""
        key = json.dumps(template, sort_keys=True)
        if key not in self._ends:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PLACEHOLDER}]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **template)
            behind = text.rpartition(_PLACEHOLDER)[2]
            tokens = list(self.tokenizer.encode(behind, add_special_tokens=False))[:1]
            self._ends[key] = tokens or [int(self.tokenizer.eos_token_id)]
        return self._ends[key]

    def _at_once(self, parts: list[_Part], items: list[dict[str, Any]]) -> list[float]:
        """Log-probabilities of labels, one sequence a label.

        They are those of the prompt's last tokens, which hold the label and the turn's end. vLLM leaves the prefix
        cache alone where log-probabilities of the prompt are wanted, since it has none for what it takes from there. We
        want the last few only, so it may take the rest (the guideline is most of a prompt); a sequence whose label was
        in the cache too is run again without it.
        """
        outputs = self._generate(parts, items, [_reading(cached=True)] * len(parts))
        again = [
            place
            for place, (part, output) in enumerate(zip(parts, outputs, strict=True))
            # A token's probability comes of the position before it, which must have been computed.
            if (output.num_cached_tokens or 0) > len(part.tokens) - part.scored - 1
        ]
        if again:
            settings = [_reading(cached=False)] * len(again)
            fresh = self._generate([parts[place] for place in again], items, settings)
            for place, output in zip(again, fresh, strict=True):
                outputs[place] = output
        return [_scored(part, output.prompt_logprobs) for part, output in zip(parts, outputs, strict=True)]

    def _step_by_step(self, parts: list[_Part], items: list[dict[str, Any]]) -> list[float]:
        """The same, one sequence for every beginning that labels have: from those of the tokens that may come next.

        vLLM (0.32) fails where log-probabilities of the prompt are wanted of an engine that has adapters: it applies
        the adapter's mapping of sampled tokens to the rows of the prompt.
        """
        wanted: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for part in parts:
            for place in range(len(part.tokens) - part.scored, len(part.tokens)):
                following = wanted.setdefault((part.item, tuple(part.tokens[:place])), [])
                if part.tokens[place] not in following:
                    following.append(part.tokens[place])
        steps = [
            (beginning, following[first : first + _MOST_FOLLOWING])
            for beginning, following in wanted.items()
            for first in range(0, len(following), _MOST_FOLLOWING)
        ]
        sequences = [_Part(item, None, list(tokens), 0) for (item, tokens), _ in steps]
        outputs = self._generate(sequences, items, [_next_token(following) for _, following in steps])
        logs: dict[tuple[int, tuple[int, ...]], float] = {}
        for ((item, tokens), following), output in zip(steps, outputs, strict=True):
            at = output.outputs[0].logprobs[0]
            logs |= {(item, (*tokens, token)): at[token].logprob for token in following}
        ends = [range(len(part.tokens) - part.scored + 1, len(part.tokens) + 1) for part in parts]
        return [
            float(sum(logs[part.item, tuple(part.tokens[:end])] for end in places))
            for part, places in zip(parts, ends, strict=True)
        ]

    def _write(self, parts: list[_Part], items: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
        outputs = self._generate(parts, items, [_sampling(items[part.item]) for part in parts])
        for part, output in zip(parts, outputs, strict=True):
            cut = any(answer.finish_reason == "length" for answer in output.outputs)
            found[part.item] = {
                "texts": [answer.text for answer in output.outputs],
                "finish": "length" if cut else "stop",
                "input_tokens": len(part.tokens),
                "output_tokens": sum(len(answer.token_ids) for answer in output.outputs),
            }

    def _generate(self, parts: list[_Part], items: list[dict[str, Any]], settings: list[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": part.tokens} for part in parts]
        adapters = [items[part.item].get("adapter") for part in parts]
        lora = [self.adapters[name] if name else None for name in adapters] if any(adapters) else None
        return list(self.llm.generate(prompts, settings, lora_request=lora, use_tqdm=False))


def _reading(*, cached: bool) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,  # that of the token which stands there, and of no other
        detokenize=False,
        skip_reading_prefix_cache=not cached,
    )


def _next_token(tokens: list[int]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=tokens, detokenize=False)


def _sampling(item: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    held = {"structured_outputs": StructuredOutputsParams(json=item["schema"])} if item.get("schema") else {}
    return SamplingParams(**item["sampling"], **held)


def _scored(part: _Part, logprobs: list[dict[int, Any] | None]) -> float:
    """Sums over the last tokens; counted from the end, since positions taken from the cache may be left out."""
    tokens = part.tokens[-part.scored :]
    return float(sum(at[token].logprob for token, at in zip(tokens, logprobs[-part.scored :], strict=True) if at))


def main() -> None:
    """Answers batches until its input ends."""
    # vLLM and what it loads may print; our lines go where nobody else writes.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    try:
        engine = Engine(**json.loads(sys.stdin.readline()))
        say({"ready": True, "max_model_len": engine.max_model_len})
        for line in sys.stdin:
            say({"results": engine.results(json.loads(line)["items"])})
    except Exception as error:
        say({"fatal": f"{type(error).__name__}: {error}"[:2000]})
        raise


if __name__ == "__main__":
    main()
