from __future__ import annotations

import json

import pytest
import yaml

from distill.labeling.errors import UsageError
from distill.runs import Run
from distill.try_edits import read_edits

OLD = "version: 1\n\n- **E1 Type.** The kind of thing that the query names.\n- **E2 Size.** Decide as you see fit.\n"
NEW = "A size that is not stated fails."


def _judge(strict: bool):
    """Answers by the listing's number; of the second listing judges are of two minds until the guideline says how."""

    def answer(request: dict) -> str:
        system, item = (request["messages"][place]["content"] for place in (0, -1))
        label, clause = "exact", "E1"
        if "number 1" in item:
            clause = "E2"
            label = "substitute" if strict or NEW in system else "exact"
        return json.dumps({"label": label, "clauses": [clause]})

    return answer


@pytest.fixture
def judged(shop, cli, recipe, make_fault_server):
    """A run of two judges who differ on a quarter of the rows."""
    teachers = {}
    for name in ("lenient", "strict"):
        server = make_fault_server()
        server.answer = _judge(name == "strict")
        teachers[name] = {
            "type": "openai",
            "base_url": server.base_url,
            "model": "tiny",
            "family": name,
            "probe": False,
        }
    (shop / "guideline.md").write_text(OLD)
    path = recipe(students=None)
    document = yaml.safe_load(path.read_text())
    document["teachers"] = teachers
    path.write_text(yaml.safe_dump(document))
    assert cli("run", "recipe.yaml", "--until", "aggregate", "--out", "out").code == 0
    return shop


def test_an_edit_is_tried_on_the_runs_own_judges(judged, cli):
    (judged / "edits.yaml").write_text(
        yaml.safe_dump([{"clause": "E2", "text": NEW}, {"clause": "E1", "text": "x " * 99}])
    )
    called = cli("review", "out", "--edits", "edits.yaml")
    assert called.code == 0, called.err
    found = json.loads((judged / "out" / "review_edits.json").read_text())
    (trial,) = found["trials"]
    assert (trial["affected_rows"], trial["agreement_old"]["value"], trial["agreement_new"]["value"]) == (9, 0.0, 1.0)
    assert trial["gain"]["value"] == 1.0
    assert trial["changed"]["value"] == 0.5
    assert trial["harm"]["value"] == 0.0
    assert "lengthens the guideline" in found["refused"]["E1"]
    page = (judged / "out" / "review.html").read_text()
    assert "Edits that were tried" in page
    assert NEW in page
    # once more: every answer is in the ledger
    again = cli("review", "out", "--edits", "edits.yaml")
    assert again.code == 0
    assert json.loads((judged / "out" / "review_edits.json").read_text())["trials"][0]["gain"] == trial["gain"]


def test_recorded_judges_cannot_be_asked_again(shop, cli, recipe, fault_server):
    recipe(teachers=fault_server.base_url, students=None)
    assert cli("run", "recipe.yaml", "--until", "aggregate", "--out", "out").code == 0
    (shop / "edits.yaml").write_text(yaml.safe_dump([{"clause": "E1", "text": "The thing itself."}]))
    with pytest.raises(UsageError, match="1 of its teachers can be asked again"):
        Run(shop / "out").write_review(edits=shop / "edits.yaml")


@pytest.mark.parametrize("text", ["- clause: E1\n", "a: [", "- clause: E1\n  text: x\n  twxt: y\n"])
def test_files_that_hold_no_edits(tmp_path, text):
    path = tmp_path / "edits.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="write a list of clause, text, why"):
        read_edits(path)
