"""A small world for students: a task whose rule is in the text, and a tiny encoder built on the spot."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.task import Task

COLOURS = ("red", "blue", "green", "black")
THINGS = ("lamp", "chair", "kettle", "shoe", "rug", "bowl")


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        labels=("exact", "substitute", "irrelevant"), inputs=("query", "title", "brand"), positive="exact", ordered=True
    )


@pytest.fixture(scope="session")
def rows() -> pl.DataFrame:
    """24 queries × 4 titles: exact where colour and thing agree, substitute where only the thing does.

    Groups 0-11 are split train (with gold), 12-15 audit (with gold), 16-19 pool (no gold), 20-23 test (with gold).
    """
    lines = []
    for group, (colour, thing) in enumerate(itertools.product(COLOURS, THINGS)):
        split = "train" if group < 12 else "audit" if group < 16 else "pool" if group < 20 else "test"
        other_colour = COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]
        other_thing = THINGS[(THINGS.index(thing) + 1) % len(THINGS)]
        titles = [
            (f"{colour} {thing}", "exact"),
            (f"{other_colour} {thing}", "substitute"),
            (f"{other_colour} {other_thing}", "irrelevant"),
            (f"large {colour} {thing} set", "exact"),
        ]
        for number, (title, label) in enumerate(titles):
            lines.append(
                {
                    "row_id": f"{group}-{number}",
                    "group": f"g{group}",
                    "split": split,
                    "gold": None if split == "pool" else label,
                    "weight": 1.0,
                    "query": f"{colour} {thing}",
                    "title": title,
                    "brand": "" if number % 2 else "acme",
                }
            )
    return pl.DataFrame(lines, schema_overrides={"gold": pl.String})


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers without dropout, random weights, letters and a few words as its vocabulary."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789:;[]=._"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *THINGS, "title", "brand", "large", "set", "acme"]
    vocabulary = dict.fromkeys([*words, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=96,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on, for processes that meet there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
