"""The Gemini teacher in the labeling engine: batch jobs, and several rows in one decision."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.engine.jobs import Timing
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.teachers.config import GeminiTeacherConfig
from distill.teachers.gemini import GeminiTeacher

pytest.importorskip("google.genai")

TASK = Task(labels=("exact", "irrelevant"), inputs=("query", "title"))
ROWS = pl.DataFrame(
    {
        "row_id": [f"r{n}" for n in range(24)],
        "query": [f"red shoe {n // 6}" for n in range(24)],
        "title": [f"Crimson sneaker {n}" for n in range(24)],
    }
)


def label(server: Any, folder: Path, config: LabelingConfig, **settings: Any) -> tuple[pl.DataFrame, Any]:
    given = {"api_key": server.key, "base_url": server.base_url, "model": "gemini-tiny", "family": "gemini"}
    price = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}
    teacher = GeminiTeacher("hosted", GeminiTeacherConfig(**{**given, "price": price, **settings}))
    tables: list[pl.DataFrame] = []
    timing = Timing(sleep=lambda seconds: asyncio.sleep(min(seconds, 0.01)))
    with Ledger(folder / "ledger.sqlite") as ledger:
        run = LabelingRun(task=TASK, teachers=[teacher], ledger=ledger, config=config, timing=timing)
        result = run.run([ROWS], on_votes=tables.append)
    return pl.concat(tables).sort("row_id"), result


def test_rows_go_by_batch_job_at_half_the_price_and_are_kept(gemini_server, tmp_path):
    live, _ = label(gemini_server, tmp_path / "live", LabelingConfig(), lane="json")
    votes, result = label(gemini_server, tmp_path, LabelingConfig(), batch=True)
    assert votes["outcome"].unique().to_list() == ["labeled"], votes["reason"][0]
    assert votes["label"].to_list() == live["label"].to_list()
    assert len(gemini_server.asked(":batchGenerateContent")) == 1
    assert votes["cost_usd"].sum() == pytest.approx(live["cost_usd"].sum() / 2)
    again, result = label(gemini_server, tmp_path, LabelingConfig(), lane="json")
    assert (result.requests_sent, again["label"].to_list()) == (0, votes["label"].to_list())


def test_rows_of_a_query_share_a_decision(gemini_server, tmp_path):
    alone, _ = label(gemini_server, tmp_path / "alone", LabelingConfig(), lane="decision")
    config = LabelingConfig(rows_per_request=6)
    votes, result = label(gemini_server, tmp_path, config, lane="decision")
    assert votes["outcome"].unique().to_list() == ["labeled"], votes["reason"][0]
    # The imitation decides by the item's mark, which hangs on the whole request: only the form is compared.
    assert votes["probs_source"].unique().to_list() == alone["probs_source"].unique().to_list() == ["decision"]
    assert votes["asked_with"].to_list() == [6] * 24
    assert result.requests_sent == 4
    assert label(gemini_server, tmp_path, config, lane="decision")[1].requests_sent == 0
