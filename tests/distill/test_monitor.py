"""The monitor stage and command, on the small shop."""

import json

import polars as pl
import pytest

from distill.monitor import _at
from distill.runs import Run
from tests.distill.conftest import shop_rows

WATCHED = {"rows": "today.csv", "reference": "all", "resamples": 199, "few_groups": 10}


def today(*, brand="shoe", queries=40):
    """Rows of today: other queries, the same words; ``brand`` takes the place of the word shoe in the titles."""
    rows = shop_rows(queries).with_columns(
        row_id=pl.format("t{}", "row_id"),
        query=pl.format("red shoe {}", pl.int_range(pl.len()) // 4 % 12),
        title=pl.col("title").str.replace("shoe", brand),
    )
    return rows.drop("label", "split")


@pytest.fixture
def watching(shop, recipe, cli):
    """A run of the shop that watches ``today.csv``; called with the section's settings, it gives what was printed."""

    def run(**given):
        path = recipe()
        text = path.read_text() + f"monitor: {json.dumps({**WATCHED, **given})}\n"
        path.write_text(text)
        return cli("run", path, "--out", "runs/shop")

    today().write_csv(shop / "today.csv")
    return run


def test_the_stage_writes_and_is_skipped_and_reports(watching, cli, shop):
    done = watching()
    assert done.code == 0, done.err
    found = json.loads((shop / "runs/shop/monitor.json").read_text())
    assert {one["part"] for one in found["verdicts"]} == {"inputs", "predictions", "quality"}
    assert found["reference"]["name"].startswith("all rows of the run")
    rows = pl.read_parquet(shop / "runs/shop/monitor_rows.parquet")
    said = pl.read_parquet(shop / "runs/shop/predictions/monitor/dcn.parquet")
    assert said["row_id"].to_list() == rows["row_id"].to_list() and len(rows) == 160
    page = (shop / "runs/shop/report.html").read_text()
    assert 'id="drift"' in page and found["verdicts"][0]["said"].split(".")[0] in page
    assert "What was compared" in (shop / "runs/shop/report.md").read_text()
    assert Run(shop / "runs/shop").drift.model_dump(mode="json") == found
    first = Run(shop / "runs/shop").folder.stage("monitor")
    assert cli("run", "recipe.yaml", "--out", "runs/shop").code == 0
    assert Run(shop / "runs/shop").folder.stage("monitor") == first
    today(brand="boot").write_csv(shop / "today.csv")
    assert cli("run", "recipe.yaml", "--out", "runs/shop").code == 0
    second = Run(shop / "runs/shop").folder.stage("monitor")
    assert second.fingerprint != first.fingerprint and second.facts["verdict"] == "moved"
    words = {(one.column, one.word) for one in Run(shop / "runs/shop").drift.words if one.sure}
    assert {("title", "boot"), ("title", "shoe")} <= words


def test_the_command_against_a_run_and_its_exit_code(watching, cli, shop):
    assert watching().code == 0
    today(brand="boot", queries=120).write_csv(shop / "monday.csv")
    (shop / "today.csv").unlink()  # what the run watched is gone, and is not needed
    asked = ("monitor", "runs/shop", "monday.csv", "--reference", "rows.csv")
    few = cli(*asked, "--json")
    assert few.code == 0, few.err
    assert json.loads(few.out)["verdicts"][0]["verdict"] == "cannot tell"  # 12 groups in rows.csv
    today(queries=120).with_columns(query=pl.format("shoe {}", pl.int_range(pl.len()) // 4)).write_csv("old.csv")
    changed = today(brand="boot", queries=120).with_columns(query=pl.format("shoe {}", pl.int_range(pl.len()) // 4))
    changed.write_csv("new.csv")
    moved = cli("monitor", "runs/shop", "new.csv", "--reference", "old.csv", "--fail-on", "moved", "--out", "d.html")
    assert moved.code == 1 and "The rows moved" in moved.out
    assert "boot" in (shop / "d.html").read_text()
    same = cli("monitor", "runs/shop", "old.csv", "--reference", "old.csv", "--fail-on", "moved")
    assert same.code == 0 and "still look like the reference" in same.out


def test_a_student_alone_and_two_times_of_one_file(watching, cli, shop):
    assert watching().code == 0
    old = shop_rows(60).with_columns(day=pl.lit("2026-10-30"))
    new = shop_rows(60).with_columns(pl.col("title").str.replace("shoe", "boot"), day=pl.lit("2026-11-02T08:00:00"))
    undated = shop_rows(1).with_columns(day=pl.lit(""))
    log = pl.concat([old, new, undated]).with_columns(query=pl.format("{} {}", "query", pl.int_range(pl.len()) // 4))
    log.write_csv("log.csv")
    student = "runs/shop/students/dcn"
    done = cli("monitor", student, "log.csv", "--time", "day", "--since", "2026-11-01", "--gold", "label", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["reference"]["rows"], found["current"]["rows"]) == (240, 240)
    assert found["reference"]["name"] == "before 2026-11-01" and found["verdicts"][0]["verdict"] == "moved"
    assert found["quality"]["measured_current"]["value"] is not None
    refused = cli("monitor", student, "log.csv")
    assert refused.code == 2 and "split of a run" in refused.err


def test_what_cannot_be_compared_is_said(watching, cli, shop):
    assert watching().code == 0
    for arguments, told in (
        (("--reference", "nowhere.csv"), "no such file"),
        (("--student", "nobody"), "no student 'nobody'"),
        (("--time", "day"), "go together"),
        (("--gold", "grade"), "no column ['grade']"),
        (("--time", "row_id", "--since", "zzz"), "no rows are left"),
        (("--fail-on", "steady"), "there is only: moved"),
        (("--out", "d.txt"), "ends in .html or .md"),
    ):
        refused = cli("monitor", "runs/shop", "today.csv", *arguments)
        assert refused.code == 2 and told in " ".join(refused.err.replace("│", " ").split()), arguments


def test_the_section_is_checked_before_anything_runs(watching, cli):
    for given, told in (
        ({"rows": "gone.csv"}, "monitor.rows: no such file"),
        ({"student": "dnc"}, "did you mean 'dcn'"),
        ({"since": "2026-11-02"}, "go together"),
    ):
        refused = watching(**given)
        assert refused.code == 2 and told in refused.err, refused.err


def test_times_sort_as_they_should():
    texts = ["2026-11-02", "2026-11-02T07:00", "2026-11-02 08:00", "9", "1700000000", "1700000000.5"]
    told = pl.DataFrame({"t": texts}).select(_at(pl.col("t"))).to_series().to_list()
    assert told[0] < told[1] < told[2]
    assert told[3] < told[4] == told[5]
