"""Stands in for vLLM's offline engine: a model over characters whose probabilities can be told by hand.

The log-probability of a character is -1 - (its place in the alphabet) / 10, whatever stands before it; that of the end
of a turn, ``\\n``, is -0.5. A prompt that contains FAKE_VLLM_POISON kills the process; FAKE_VLLM_FAIL keeps the engine
from being made.
"""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

END = ord("\n")


class Tokenizer:
    eos_token_id = 0

    def encode(self, text, add_special_tokens=True):
        return [ord(character) for character in text]

    def apply_chat_template(self, messages, tokenize=True, add_generation_prompt=False, **_):
        text = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
        return text + ("assistant:" if add_generation_prompt else "")


def logprob(token: int) -> float:
    return -0.5 if token == END else -1 - (token - ord("a")) / 10


class SamplingParams:
    def __init__(self, **settings):
        self.settings = settings


class LLM:
    def __init__(self, **engine):
        if words := os.environ.get("FAKE_VLLM_FAIL"):
            raise RuntimeError(words)
        print("vLLM prints to its output")  # which is not the line that its owner waits for
        self.engine = engine
        model_config = SimpleNamespace(max_model_len=engine.get("max_model_len", 100_000))
        self.llm_engine = SimpleNamespace(model_config=model_config)

    def get_tokenizer(self):
        return Tokenizer()

    def generate(self, prompts, settings, *, lora_request=None, use_tqdm=True):
        poison = os.environ.get("FAKE_VLLM_POISON")
        texts = ["".join(map(chr, prompt["prompt_token_ids"])) for prompt in prompts]
        if poison and any(poison in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        adapters = lora_request or [None] * len(prompts)
        return [
            self._output(prompt["prompt_token_ids"], params.settings, adapter)
            for prompt, params, adapter in zip(prompts, settings, adapters, strict=True)
        ]

    def _output(self, tokens, settings, adapter):
        # The prefix cache holds all but the last token, the label's among them, where it may be read: what is read
        # from there has no probability.
        cached = len(tokens) - 1 if not settings.get("skip_reading_prefix_cache", True) else 0
        at = [
            {token: SimpleNamespace(logprob=logprob(token) if place >= cached else float("nan"))}
            for place, token in enumerate(tokens)
        ]
        following = {token: SimpleNamespace(logprob=logprob(token)) for token in settings.get("logprob_token_ids", ())}
        assert not (adapter and "prompt_logprobs" in settings), "vLLM fails here"
        texts = [f'{{"label": "{"exact" if adapter else "substitute"}"}}'] * settings.get("n", 1)
        answers = [
            SimpleNamespace(text=text, finish_reason="stop", token_ids=[1, 2], logprobs=[following]) for text in texts
        ]
        return SimpleNamespace(prompt_logprobs=[None, *at[1:]], num_cached_tokens=cached, outputs=answers)
