"""``distill agreement``: people beside models, of a file or of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

LABELS = ["exact", "substitute", "irrelevant"]


@pytest.fixture
def votes(tmp_path, monkeypatch) -> Path:
    """Forty queries of two rows; three people, one model that is as good as they are and one that guesses."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = []
    for row in range(80):
        truth = int(rng.integers(3))
        for judge, right in (("kim", 0.85), ("lee", 0.85), ("park", 0.85), ("good", 0.9), ("poor", 0.34)):
            said = truth if rng.random() < right else int(rng.integers(3))
            kind = "human" if judge in ("kim", "lee", "park") else "llm"
            lines.append(
                {"row_id": f"r{row}", "query": f"q{row // 2}", "judge": judge, "kind": kind, "label": LABELS[said]}
            )
    pl.DataFrame(lines).write_csv("votes.csv")
    return tmp_path / "votes.csv"


def test_a_table_that_says_itself_who_is_a_person(votes, cli):
    called = cli("agreement", "votes.csv", "--labels", "exact > substitute > irrelevant")
    assert called.code == 0, called.err
    assert "3 people labeled 80 rows" in called.out and "alpha (ordinal)" in called.out
    assert "good may stand in for an annotator" in called.out
    assert "poor may not yet stand in for an annotator" in called.out
    found = json.loads(cli("agreement", "votes.csv", "--json").out)
    assert found["people"] == ["kim", "lee", "park"]
    assert [one["name"] for one in found["candidates"]] == ["good", "poor"]
    # the kind column is no input, and groups are the queries
    assert found["candidates"][0]["test"]["against"][0]["groups"] == 40


def test_people_named_and_people_of_another_file(votes, cli):
    pl.read_csv("votes.csv").drop("kind").write_csv("plain.csv")
    called = cli("agreement", "plain.csv")
    assert called.code == 2 and "who is a person? Give --people a,b,c" in called.err
    found = json.loads(cli("agreement", "plain.csv", "--people", "kim,lee", "--json").out)
    assert found["people"] == ["kim", "lee"] and len(found["candidates"]) == 3
    called = cli("agreement", "plain.csv", "--people", "kim,lea")
    assert called.code == 2 and "lea judged nothing" in called.err
    models = pl.read_csv("votes.csv").filter(kind="llm").drop("kind")
    models.write_csv("models.csv")
    own = pl.read_csv("votes.csv").filter(kind="human").select("row_id", "label", annotator="judge")
    own.write_csv("people.csv")
    found = json.loads(cli("agreement", "models.csv", "--annotators", "people.csv", "--json").out)
    assert found["people"] == ["kim", "lee", "park"] and found["reliability"]["rows"] == 80
    everyone = json.loads(cli("agreement", "plain.csv", "--people", "all", "--json").out)
    assert len(everyone["people"]) == 5 and everyone["candidates"] == []


def test_the_annotators_of_a_run_stand_beside_its_models_in_the_report(shop, cli):
    head = "row_id,label,annotator,note,chance,draw\n"
    for who, said in (("kim", "exact"), ("dcn", "substitute")):  # an annotator may bear a student's name
        lines = [
            f"q{query}-{listing},{said if listing else 'exact'},{who},,,"
            for query in (2, 6, 10)
            for listing in range(4)
        ]
        Path(f"{who}.csv").write_text(head + "\n".join(lines) + "\n")
    called = cli("agreement", "nowhere")
    assert called.code == 2 and "no such run folder or file" in called.err
    assert cli("run", "recipe.yaml", "--out", "out").code == 0
    called = cli("agreement", "out")
    assert called.code == 2 and "has no labels of annotators; give --annotators FILE" in called.err
    beside = json.loads(cli("agreement", "out", "--annotators", "kim.csv", "--annotators", "dcn.csv", "--json").out)
    assert beside["people"] == ["dcn (annotator)", "kim"]
    assert [one["name"] for one in beside["candidates"]] == ["dcn"]
    document = yaml.safe_load(Path("recipe.yaml").read_text())
    document["data"]["annotations"] = ["kim.csv", "dcn.csv"]
    Path("recipe.yaml").write_text(yaml.safe_dump(document))
    called = cli("run", "recipe.yaml", "--out", "out")
    assert called.code == 0, called.err
    report = json.loads(Path("out/report.json").read_text())
    # 3 queries of 4 listings; they agree on the first of each
    assert report["people"]["reliability"]["agreement"]["value"] == pytest.approx(0.25)
    assert "## People beside models" in Path("out/report.md").read_text()
    html = Path("out/report.html").read_text()
    assert 'id="people"' in html and "annotations.parquet" in html
    assert json.loads(cli("agreement", "out", "--json").out)["people"] == ["dcn (annotator)", "kim"]
    called = cli("agreement", "out", "--people", "kim")
    assert called.code == 2 and "goes with a file" in called.err
