"""A cascade as a person meets it: what a recipe may say, the run, its labels and report, and asking again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.distill.conftest import shop_rows

CASCADE = {"order": ["cheap", "strong"], "calibration": 200}


def record(folder: Path, rows: pl.DataFrame) -> dict[str, Any]:
    """Replies of two teachers: the cheap one errs, and says that it is unsure, on every sixth listing."""
    cheap, strong = [], []
    for at, (row_id, label) in enumerate(rows.select("row_id", "label").iter_rows()):
        unsure = at % 6 == 0
        said = {"label": "substitute" if unsure and label == "exact" else label, "confidence": 0.5 if unsure else 0.9}
        cheap.append({"row_id": row_id, "reply": json.dumps(said)})
        strong.append({"row_id": row_id, "reply": json.dumps({"label": label})})
    for name, lines in (("cheap", cheap), ("strong", strong)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: {"type": "recorded", "path": f"{name}.jsonl", "family": name} for name in ("cheap", "strong")}


@pytest.fixture
def large_shop(shop: Path, recipe: Callable[..., Path]) -> Callable[..., Path]:
    rows = shop_rows(queries=200)
    rows.write_csv(shop / "rows.csv")
    teachers = record(shop, rows)

    def write(cascade: Any = CASCADE, **sections: Any) -> Path:
        from tests.distill.conftest import write_recipe

        given = {"teachers": teachers, "labeling": {"cascade": cascade}, "students": None, **sections}
        return write_recipe(shop, **given)

    return write


def test_a_run_with_a_cascade_from_rows_to_report(large_shop: Callable[..., Path], cli: Any, shop: Path) -> None:
    called = cli("run", large_shop(), "--out", "run")
    assert called.code == 0, called.err
    assert "cheap was sure (0.9) of" in called.err
    votes = pl.read_parquet(shop / "run/votes.parquet")
    spared = votes.filter(pl.col("cause") == "cascade")
    assert set(spared["teacher"]) == {"strong"} and len(spared) > 200
    # What nobody was asked for is no failure.
    assert (shop / "run/failures.jsonl").read_text() == ""
    record = json.loads((shop / "run/stages.json").read_text())["label"]
    assert record["final"] and record["facts"]["causes"] == {"cascade": len(spared)}
    labels = pl.read_parquet(shop / "run/labels.parquet")
    truth = dict(shop_rows(queries=200).select("row_id", "label").iter_rows())
    assert len(labels) == 600 and all(
        truth[row_id] == label for row_id, label in labels.select("row_id", "label").rows()
    )
    assert set(labels["votes"]) == {1}
    report = json.loads((shop / "run/report.json").read_text())["cascade"]
    assert (report["cheap"], report["threshold"], report["kept"]) == ("cheap", 0.9, len(spared))
    assert report["asked_strong"] == 600 - len(spared) and report["asked_all"] == 600
    assert report["same_label"]["value"] == 1.0
    page = (shop / "run/report.html").read_text()
    assert "cheap first, strong where it is unsure" in page and "Wrong among the answers kept" in page
    assert "gave no usable answer" not in page
    again = cli("run", large_shop(), "--out", "run", "--retry-failed")
    assert again.code == 0 and "nothing had failed" in again.err


def test_no_threshold_is_said_with_what_it_would_take(large_shop: Callable[..., Path], cli: Any, shop: Path) -> None:
    assert cli("run", large_shop({**CASCADE, "calibration": 20}), "--out", "run").code == 0
    page = (shop / "run/report.md").read_text()
    assert "No threshold of cheap is shown to do" in page and "calibration rows would probably do" in page


@pytest.mark.parametrize(
    ("labeling", "more", "said"),
    [
        ({"cascade": {"order": ["cheap", "stron"]}}, {}, "got 'stron'; give the names of two teachers"),
        ({"cascade": {"order": ["cheap", "cheap"]}}, {}, "names cheap twice"),
        ({"cascade": {"order": ["cheap"]}}, {}, "labeling.cascade.order"),
        (
            {"cascade": {**CASCADE, "measure": "accuracy"}, "splits": ["pool"]},
            {},
            "needs gold of splits train or audit",
        ),
        ({"cascade": CASCADE}, {"third": "strong"}, "third would be asked beside them about every row"),
        ({"cascade": CASCADE}, {"cheap": "openai"}, "cheap is to give bare labels"),
    ],
)
def test_what_a_recipe_may_not_say(
    large_shop: Callable[..., Path], cli: Any, shop: Path, labeling: Any, more: dict[str, str], said: str
) -> None:
    kinds = {
        "openai": {"type": "openai", "base_url": "http://localhost:1/v1", "model": "m", "family": "f", "lane": "json"},
        "strong": {"type": "recorded", "path": "strong.jsonl", "family": "f"},
        "cheap": {"type": "recorded", "path": "cheap.jsonl", "family": "f"},
    }
    teachers = {
        "cheap": kinds["cheap"],
        "strong": kinds["strong"],
        **{name: kinds[kind] for name, kind in more.items()},
    }
    called = cli("check", large_shop(teachers=teachers, labeling=labeling))
    assert called.code == 2 and said in called.err


def test_a_plan_follows_the_answers_that_are_there(large_shop: Callable[..., Path], cli: Any, shop: Path) -> None:
    path = large_shop()
    cheap, strong = json.loads(cli("plan", path, "--json").out)["teachers"]
    assert not (shop / ".distill").exists()
    assert cheap["rows"] == 600
    # All is recorded, so that the plan knows the threshold and who goes on: as the run then finds.
    assert strong["rows"] == strong["to_send"] == strong["to_send_least"]
    assert cli("run", path, "--out", "run").code == 0
    votes = pl.read_parquet(shop / "run/votes.parquet")
    assert strong["rows"] == len(votes.filter((pl.col("teacher") == "strong") & (pl.col("outcome") == "labeled")))
