"""A small shop: a folder with rows, a guideline and a recipe, and the CLI called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import yaml

SECTIONS = ("name", "seed", "data", "task", "labeling", "aggregate", "students", "eval")
LABELS = ["exact", "substitute", "complement", "irrelevant"]


class Called(NamedTuple):
    """How a call of the CLI ended."""

    code: int
    out: str
    err: str


def shop_rows(queries: int = 12, listings: int = 4) -> pl.DataFrame:
    splits = ["train", "pool", "test", "audit"]
    return pl.DataFrame(
        [
            {
                "row_id": f"q{query}-{listing}",
                "query": f"red shoe {query}",
                "title": f"{LABELS[listing % 4]} shoe {query} number {listing}",
                "label": LABELS[listing % 4],
                "split": splits[query % 4],
            }
            for query in range(queries)
            for listing in range(listings)
        ]
    )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which is also the current one. ``recipe.yaml`` in it asks no one and trains a tiny DCN."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    monkeypatch.delenv("DISTILL_LEDGER", raising=False)
    shop_rows().write_csv(tmp_path / "rows.csv")
    (tmp_path / "guideline.md").write_text("version: 1\n\n- **E1 Type.** The kind of thing that the query names.\n")
    write_recipe(tmp_path)
    return tmp_path


def write_recipe(folder: Path, **sections: object) -> Path:
    """Writes ``recipe.yaml``; a section given replaces the one that is there, None takes it out."""
    recipe: dict[str, object] = {
        "version": 1,
        "name": "shop",
        "data": {"rows": "rows.csv", "id": "row_id", "gold": "label", "split": "split"},
        "task": {"inputs": ["query", "title"], "guideline": "guideline.md"},
        "students": {"dcn": {"type": "dcn", "train_on": "human", "epochs": 1, "buckets": 256}},
        "eval": {"bootstrap": 100},
    }
    recipe = {key: value for key, value in {**recipe, **sections}.items() if value is not None}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def recipe(shop: Path) -> Callable[..., Path]:
    """Rewrites the shop's recipe: ``recipe(teachers=server.base_url, timeout_s=1, labeling={…}, name="other")``.

    What is no section of a recipe is a setting of the one teacher.
    """

    def rewrite(*, teachers: str | None = None, **given: object) -> Path:
        sections = {key: given.pop(key) for key in list(given) if key in SECTIONS}
        if teachers is not None:
            teacher = {
                "type": "openai",
                "base_url": teachers,
                "model": "tiny",
                "family": "tiny",
                "timeout_s": 5,
                "probe": False,
            }
            sections["teachers"] = {"one": {**teacher, **given}}
        return write_recipe(shop, **sections)

    return rewrite


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Calls the command as a shell would: ``cli("check", "recipe.yaml")``."""
    from distill.cli import main

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        out, err = capfd.readouterr()
        return Called(code, out, err)

    return call


@pytest.fixture
def letters_base(tmp_path: Path) -> Path:
    """A BERT of one narrow layer that knows letters, for students of query tasks."""
    return write_letters_base(tmp_path / "letters_base")


def write_letters_base(folder: Path) -> Path:
    """The same, in a folder of one's own."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789나이키운동화"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)}, strip_accents=False)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder
