from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.guideline.adjudication import (
    Case,
    cases_to_decide,
    guideline_examples,
    read_decisions,
    with_decisions,
    write_adjudication_page,
)
from distill.eval.guideline.review import Said, review
from distill.labeling.errors import DataError

ATTACK = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def cases() -> list[Case]:
    def case(number: int, query: str, title: str) -> Case:
        said = [
            Said(judge="a", label="exact", confidence=0.9, clauses=["E4"], trace="It fits."),
            Said(judge="b", label="substitute", confidence=None, clauses=[], trace=None),
        ]
        inputs = {"query": query, "title": title, "brand": "", "category": "", "attributes": "", "description": ""}
        known = {"gold": None, "cause": "guideline", "evidence": "both sides cite E4", "worth": 1.0}
        return Case(row_id=f"r{number}", group=query, inputs=inputs, said=said, **known)

    return [case(0, "usb kabel", "cable"), case(1, "도어락", ATTACK), case(2, "مصباح", "lamp")]


def _saved(path: Path, decisions: list[dict[str, object]], **more: object) -> Path:
    body = {
        "format": "distill-decisions",
        "version": 1,
        "name": "x",
        "decided_by": "kim",
        "decisions": decisions,
        **more,
    }
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_the_latest_decision_counts_and_becomes_gold(tmp_path, make_rows, task):
    first = _saved(tmp_path / "a.json", [{"row_id": "r000", "label": "exact", "decided_at": "2026-01-02"}])
    second = _saved(
        tmp_path / "b.json",
        [
            {"row_id": "r000", "label": "substitute", "decided_at": "2026-01-01"},
            {"row_id": "r001", "label": "irrelevant", "clauses": ["I1"], "note": "no", "decided_at": "2026-01-01"},
        ],
    )
    found = read_decisions([first, second], task=task)
    assert found.sort("row_id").select("row_id", "label", "note").rows() == [
        ("r000", "exact", ""),
        ("r001", "irrelevant", "no"),
    ]
    rows = make_rows(["substitute", None, "complement"])
    assert with_decisions(rows, found)["gold"].to_list() == ["exact", "irrelevant", "complement"]


def test_files_that_hold_no_decisions_are_named(tmp_path, task):
    with pytest.raises(DataError, match=r"row 'r1' was decided as 'exakt'"):
        read_decisions(_saved(tmp_path / "a.json", [{"row_id": "r1", "label": "exakt"}]), task=task)
    with pytest.raises(DataError, match="version 2"):
        read_decisions(_saved(tmp_path / "a.json", [], version=2), task=task)
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(DataError, match=r"b\.json: no decisions can be read"):
        read_decisions(tmp_path / "b.json", task=task)


def test_decisions_become_examples_under_their_clauses(quickstart_rows, quickstart_task, tmp_path):
    row_id = quickstart_rows["row_id"][0]
    made = [
        {"row_id": row_id, "label": "exact", "clauses": ["E4"], "note": "<b>fits</b>"},
        {"row_id": quickstart_rows["row_id"][1], "label": "irrelevant"},
        {"row_id": "gone", "label": "exact"},
    ]
    decisions = read_decisions(_saved(tmp_path / "a.json", made), task=quickstart_task)
    guideline = quickstart_task.guideline
    text = guideline_examples(decisions, quickstart_rows, task=quickstart_task, guideline=guideline)
    title = next(clause.title for clause in guideline.clauses if clause.id == "E4")
    assert text.startswith(f"### E4 {title}\n\n- *")
    assert "is **exact**: &lt;b&gt;fits&lt;/b&gt;" in text
    assert "### No clause\n\n- *" in text


def test_the_quickstarts_cases_put_what_reaches_far_first(quickstart_rows, quickstart_votes, quickstart_task):
    config = EvalConfig(bootstrap=100)
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=config)
    cases = cases_to_decide(found, most=100)
    assert len(cases) == 100
    assert [case.worth for case in cases] == sorted((case.worth for case in cases), reverse=True)
    first = [case.cause for case in cases[:30]]
    assert first.count("slip") < first.count("guideline")


@pytest.mark.browser
def test_decided_by_keyboard_saved_and_read_back(page, cases, quickstart_task, tmp_path):
    path = write_adjudication_page(tmp_path / "adjudicate.html", cases, name="shop 1", task=quickstart_task)
    page.open(path)
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    title = "document.getElementById('case-title').textContent"
    assert page.evaluate(title) == "usb kabel"
    page.evaluate("document.getElementById('who').value = 'kim'")
    page.press("1")
    assert page.evaluate(title) == "도어락"
    page.press("c")
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.evaluate("document.activeElement.click()")  # E4, which a judge cites, stands first
    page.press("Escape")
    page.press("2")
    page.press("ArrowRight")
    page.press("3")
    page.press("x")  # taken back
    page.press("s")
    target = tmp_path / "shop-1-decisions.json"
    for _ in range(200):
        if target.exists() and target.stat().st_size:
            break
        page.evaluate("new Promise(done => setTimeout(done, 25))")
    found = read_decisions(target, task=quickstart_task)
    assert found.select("row_id", "label", "clauses", "decided_by").rows() == [
        ("r0", "exact", [], "kim"),
        ("r1", "substitute", ["E4"], "kim"),
    ]
    assert page.evaluate("document.getElementById('count').textContent") == "2 of 3 decided"
    assert page.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_a_hostile_listing_is_text_and_the_page_fits(page, cases, quickstart_task, tmp_path, width, dark):
    page.open(
        write_adjudication_page(tmp_path / "a.html", cases, name="x", task=quickstart_task), width=width, dark=dark
    )
    page.press("j")
    assert page.evaluate("document.getElementById('listing').textContent.includes('<img src=x')")
    assert page.evaluate("document.title") == "x: decide"
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in page.requested if not url.startswith(("file:", "data:,"))] == []
    assert page.complaints == []


def test_ten_thousand_cases_stay_one_small_page(cases, quickstart_task, tmp_path):
    many = [cases[0].model_copy(update={"row_id": f"r{number}"}) for number in range(10_000)]
    path = write_adjudication_page(tmp_path / "a.html", many, name="x", task=quickstart_task)
    assert path.stat().st_size < 10_000_000
    embedded = path.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    assert len(json.loads(embedded)["cases"]) == 10_000
    assert pl.DataFrame(json.loads(embedded)["cases"])["row_id"].n_unique() == 10_000
