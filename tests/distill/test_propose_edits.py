"""Edits proposed by a teacher of the run, read back by ``--edits``, and the history of a guideline."""

from __future__ import annotations

import json

import pytest
import yaml

from distill.labeling.errors import DataError, UsageError
from distill.propose_edits import propose_edits
from distill.runs import Run
from distill.try_edits import read_edits

OLD = "version: 1\n\n- **E1 Type.** The kind of thing that the query names.\n- **E2 Size.** Decide as you see fit.\n"
NEW = "A size that is not stated fails."


def _answers(strict: bool, proposal: str):
    """A judge of two minds on the second listing; asked for an edit, it gives ``proposal``."""

    def answer(request: dict) -> str:
        system, item = (request["messages"][place]["content"] for place in (0, -1))
        if "You edit the guideline" in system:
            return proposal
        second = "number 1" in item
        label = "substitute" if second and strict else "exact"
        return json.dumps({"label": label, "clauses": ["E2" if second else "E1"]})

    return answer


@pytest.fixture
def judged(shop, cli, recipe, make_fault_server):
    """A run of two judges who differ over E2, and the server of the strict one."""
    servers, teachers = [], {}
    for name in ("lenient", "strict"):
        servers.append(make_fault_server())
        servers[-1].answer = _answers(name == "strict", json.dumps({"text": NEW, "why": "The strict reading."}))
        place = {"type": "openai", "base_url": servers[-1].base_url, "model": "tiny", "family": name, "probe": False}
        teachers[name] = place
    (shop / "guideline.md").write_text(OLD)
    path = recipe(students=None)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "teachers": teachers}))
    assert cli("run", "recipe.yaml", "--until", "aggregate", "--out", "out").code == 0
    return shop, servers[1]


def test_a_teacher_proposes_what_edits_reads_and_is_asked_once(judged, cli):
    shop, server = judged
    called = cli("review", "out", "--propose", "strict")
    assert called.code == 0, called.err
    (edit,) = read_edits(shop / "out" / "review_proposed.yaml")
    assert (edit.clause, edit.text, edit.why) == ("E2", NEW, "The strict reading.")
    assert "# E2 now: Decide as you see fit." in (shop / "out" / "review_proposed.yaml").read_text()
    asked = server.requests[-1]["messages"]
    assert OLD in asked[0]["content"]
    assert "says substitute citing E2" in asked[-1]["content"] and "<data " in asked[-1]["content"]
    assert "Decide as you see fit." in asked[-1]["content"]
    sent = len(server.requests)
    assert propose_edits(Run(shop / "out"), "strict") == [edit]
    assert len(server.requests) == sent  # from the ledger


def test_what_cannot_be_proposed_is_said(judged, cli):
    shop, server = judged
    server.answer = _answers(True, "I would rather not.")
    with pytest.raises(DataError, match="clause E2: expected a JSON object with a text"):
        propose_edits(Run(shop / "out"), "strict")
    with pytest.raises(UsageError, match="it has lenient, strict"):
        propose_edits(Run(shop / "out"), "nobody")


def test_history_says_which_labels_are_stale(judged, cli):
    shop, _ = judged
    (shop / "old.md").write_text(OLD)
    (shop / "guideline.md").write_text(OLD.replace("version: 1", "version: 2").replace("Decide as you see fit.", NEW))
    called = cli("review", "out", "--history", "old.md")
    assert called.code == 0, called.err
    history = json.loads((shop / "out" / "review.json").read_text())["history"]
    rows = Run(shop / "out").votes.filter(Run(shop / "out").votes["outcome"] == "labeled")
    cites = sum("E2" in (clauses or ()) for clauses in rows["clauses"].to_list())
    assert (history["votes"], history["stale"], history["touched"]) == (len(rows), len(rows), cites)
    assert [change["id"] for change in history["steps"][0]["changes"]] == ["E2"]
    assert "What changed in the guideline" in (shop / "out" / "review.html").read_text()
    assert "## Guideline history" in (shop / "out" / "review.md").read_text()
