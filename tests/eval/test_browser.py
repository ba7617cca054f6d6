from __future__ import annotations

import time

import pytest

from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.evaluation import evaluate
from distill.eval.guideline.review import review
from distill.eval.guideline.review_report import write_review_report
from distill.eval.ladder import Rung, build_ladder
from distill.eval.report.facts import RunReport
from distill.eval.report.run_report import write_run_report
from distill.eval.scored import predictions_from_votes

pytestmark = pytest.mark.browser
CONFIG = EvalConfig(bootstrap=100, slices=("lang",))
ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def pages(quickstart_rows, quickstart_votes, quickstart_task, tmp_path):
    """Both reports of the quickstart's judges, with one hostile listing; ``quick`` stands in for a student."""
    import polars as pl

    hostile = pl.when(pl.col("row_id") == "q000-2").then(pl.lit(ATTACK)).otherwise(pl.col("title"))
    rows = quickstart_rows.with_columns(title=hostile)
    said = predictions_from_votes(quickstart_votes, "quick")
    found = evaluate(said, rows, task=quickstart_task, truth_source="author", config=CONFIG)
    rung = Rung("quick", "encoder", "labels", said, found)
    report = RunReport(
        name="quickstart",
        task=quickstart_task,
        rows=rows,
        ladder=build_ladder([rung], rows, task=quickstart_task, config=CONFIG),
        evaluations={"quick": found},
        votes=quickstart_votes,
        predictions={"quick": said.drop("probs")},
        review_href="review.html",
        eval_config=CONFIG,
        config=ReportConfig(examples=300),
    )
    write_run_report(tmp_path / "report.html", report)
    reviewed = review(quickstart_votes, rows, task=quickstart_task, config=CONFIG)
    write_review_report(tmp_path / "review.html", reviewed, name="quickstart", report_href="report.html")
    return tmp_path


@pytest.mark.parametrize("name", ["report.html", "review.html"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_pages_render_without_a_complaint_and_load_nothing(page, pages, name, width, dark):
    page.open(pages / name, width=width, dark=dark)
    assert page.evaluate("document.title").startswith("quickstart")
    # nothing is wider than the screen: tables scroll within themselves
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # every plot has words for those who hear the page, and values on hover; the keys of a legend have neither
    plots = "[...document.querySelectorAll('svg:not([aria-hidden])')]"
    assert page.evaluate(f"{plots}.length") > 0
    assert page.evaluate(f"{plots}.every(s => s.getAttribute('aria-label') && s.querySelector('title'))")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in light[4:-1].split(",")) < 200) == dark
    assert (
        page.evaluate("getComputedStyle(document.querySelector('section')).borderRadius") != "0px"
    )  # the style is let in
    assert page.evaluate("document.querySelector('.tools output').textContent.length") > 0  # and so is the script
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith(("file:", "data:,"))] == []


def test_a_hostile_listing_is_shown_and_not_obeyed(page, pages):
    page.open(pages / "report.html")
    assert "owned" not in page.evaluate("document.title")
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("[...document.querySelectorAll('td.listing')].some(c => c.textContent.includes('<img src=x'))")


def test_rows_are_searched_picked_and_sorted(page, pages):
    page.open(pages / "review.html")
    every = page.evaluate("document.querySelectorAll('#telling tbody tr').length")
    visible = "[...document.querySelectorAll('#telling tbody tr')].filter(r => r.offsetParent !== null).length"
    assert page.evaluate(visible) == every > 100
    search = "document.querySelector('[data-for=telling] input')"
    page.evaluate(f"{search}.value = 'q086-7'; {search}.dispatchEvent(new Event('input'))")
    assert page.evaluate(visible) == 1
    assert page.evaluate("document.querySelector('[data-for=telling] output').textContent") == f"1 of {every} rows"
    page.evaluate(f"{search}.value = ''; {search}.dispatchEvent(new Event('input'))")
    pick = "document.querySelector('[data-for=telling] select[name=cause]')"
    page.evaluate(f"{pick}.value = '0'; {pick}.dispatchEvent(new Event('change'))")
    shown = page.evaluate(visible)
    assert 0 < shown < every
    cells = (
        "[...document.querySelectorAll('#telling tbody tr')].filter(r => !r.hidden).map(r => r.cells[2].textContent)"
    )
    assert page.evaluate(f"{cells}.every(text => text === 'E4')")


def test_a_table_is_sorted_with_the_keyboard(page, pages):
    page.open(pages / "review.html")
    rows = "[...document.querySelectorAll('#clause-table tbody tr')]"
    ids = f"{rows}.map(r => r.cells[0].querySelector('.mono').textContent)"
    key = f"{rows}.map(r => Number(r.cells[2].dataset.key))"
    assert page.evaluate(ids)[0] == "E4"
    page.evaluate("document.querySelectorAll('#clause-table thead button')[2].focus()")
    page.press("Enter")
    values = page.evaluate(key)
    assert values == sorted(values, reverse=True)
    assert (
        page.evaluate("document.querySelectorAll('#clause-table thead th')[2].getAttribute('aria-sort')")
        == "descending"
    )
    page.press("Enter")
    assert page.evaluate(key) == sorted(values)
    page.evaluate("document.querySelectorAll('#clause-table thead button')[0].focus()")
    page.press("Enter")
    names = page.evaluate(ids)
    assert names == sorted(names)
    assert page.complaints == []


def test_ten_thousand_rows_stay_quick(page, quickstart_rows, quickstart_votes, quickstart_task, tmp_path):
    """10,000 examples: searching them takes well under a second (measured: 60 ms on two cores)."""
    import polars as pl

    rows = pl.concat(
        [quickstart_rows.with_columns(pl.col("row_id") + f"+{copy}", split=pl.lit("test")) for copy in range(6)]
    )
    labels = rows.select("row_id", label=pl.lit("exact"), confidence=pl.lit(0.5))
    report = RunReport(
        name="large",
        task=quickstart_task,
        rows=rows,
        ladder=build_ladder([], rows, task=quickstart_task),
        labels=labels,
        config=ReportConfig(examples=10_000),
    )
    html = write_run_report(tmp_path / "report.html", report)[0]
    page.open(html)
    took = page.evaluate("""(() => {
      const search = document.querySelector('[data-for=examples] input');
      search.value = 'keyboard';
      const start = performance.now();
      search.dispatchEvent(new Event('input'));
      return performance.now() - start;
    })()""")
    found = page.evaluate("document.querySelector('[data-for=examples] output').textContent")
    assert found.endswith("of 10000 rows") and not found.startswith("0 ")
    assert took < 5000
    assert page.complaints == []


def test_text_reads_in_its_own_direction_and_without_the_script(page, quickstart_rows, quickstart_task, tmp_path):
    """Korean runs to the right and Arabic to the left, in one table; where no script runs every row is shown."""
    import polars as pl

    queries = ["면 티셔츠", "قميص قطن", *(f"shirt {i}" for i in range(248))]
    rows = quickstart_rows.head(250).with_columns(query=pl.Series(queries), split=pl.lit("test"))
    report = RunReport(
        name="scripts",
        task=quickstart_task,
        rows=rows,
        ladder=build_ladder([], rows, task=quickstart_task),
        labels=rows.select("row_id", label=pl.lit("exact"), confidence=pl.lit(0.5)),
        config=ReportConfig(examples=250),
    )
    html = write_run_report(tmp_path / "report.html", report)[0]
    visible = "[...document.querySelectorAll('#examples tbody tr')].filter(r => r.offsetParent !== null).length"
    page.open(html)
    direction = """(words => getComputedStyle([...document.querySelectorAll('.query')]
      .find(each => each.textContent === words)).direction)"""
    assert page.evaluate(f"{direction}('قميص قطن')") == "rtl"
    assert page.evaluate(f"{direction}('면 티셔츠')") == "ltr"
    assert page.evaluate(visible) == 200
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.call("Page.navigate", url=html.as_uri())  # no promise is kept without scripts: open() would wait for ever
    until = time.monotonic() + 15
    while page.evaluate("document.readyState") != "complete" and time.monotonic() < until:
        time.sleep(0.02)
    assert page.evaluate(visible) == 250
