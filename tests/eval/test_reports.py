from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill.eval import plots
from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.evaluation import evaluate
from distill.eval.guideline.review import review
from distill.eval.guideline.review_report import write_review_report
from distill.eval.ladder import Ladder, Rung, build_ladder
from distill.eval.page import markdown_cell
from distill.eval.report import run_report
from distill.eval.report.facts import FileLink, RunFacts, RunReport
from distill.eval.report.labeling_facts import teacher_facts
from distill.eval.report.run_report import write_run_report
from distill.eval.report.student_facts import AbstentionFacts, CalibrationFacts, StudentFacts, TraceLearning
from distill.eval.wording import printable
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task

LABELS = ("exact", "substitute", "complement", "irrelevant")
GOLDEN = Path(__file__).parent / "golden"
CONFIG = EvalConfig(bootstrap=200, slices=("lang",))
HOSTILE = [
    "<script>document.title='owned'</script>",
    "</td></table><img src=x onerror=\"document.title='owned'\">",
    "\"'><svg onload=alert(1)>",
    '=HYPERLINK("http://evil.example","click")',
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "</style><style>*{display:none}</style>",
    "&lt;b&gt; &amp; | pipes | `ticks` [link](javascript:alert(1)) **bold**",
    "\u202egnp.exe \x00 \x1b[31m \ud7ff",
    "ع قميص قطن 면 티셔츠 " + "long" * 400,
]


class Checker(HTMLParser):
    """Collects what a browser would act on, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.attributes, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} near line {self.getpos()}"
        self.open.pop()


def check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def run(make_rows, make_votes):
    """A small run whose numbers can be told: 24 test rows in 8 groups, two teachers, two students, two plants."""
    rng = np.random.default_rng(7)
    gold = [LABELS[i] for i in rng.choice(4, 24, p=[0.5, 0.3, 0.1, 0.1])]
    gold[3] = gold[9] = "irrelevant"
    rows = make_rows(
        gold,
        group=[f"g{i // 3}" for i in range(24)],
        lang=[["en", "ko"][i // 3 % 2] for i in range(24)],
        planted=[i in (3, 9) for i in range(24)],
        query=[f"query {i}" for i in range(12)] + ["면 티셔츠", "قميص", "<b>bold</b>", *(f"q|{i}" for i in range(9))],
    )
    guideline = Guideline.parse("- **E1 Kind.** The same kind.\n- **E2 Silence.** Decide.\n- **S1 Off.** One fails.")
    task = Task(labels=LABELS, inputs=("query", "title"), positive="exact", ordered=True, guideline=guideline)
    ids = rows["row_id"].to_list()
    said = []
    for i, (row, label) in enumerate(zip(ids, gold, strict=True)):
        other = "substitute" if i % 5 == 0 else label
        said.append(
            make_votes((row, "careful", label, ["E1", "E2"]), trace="it <i>holds</i>", cost_usd=0.002, input_tokens=100)
        )
        said.append(make_votes((row, "quick", other if i != 3 else "exact", ["S1"])))
    said.append(make_votes((ids[0], "careful", None), sample=1, reason="cannot tell"))
    votes = pl.concat(said)
    students = {}
    for name, skill in (("dcn", 0.5), ("encoder", 2.0)):
        scores = rng.normal(size=(24, 4))
        scores[np.arange(24), [LABELS.index(label) for label in gold]] += skill
        probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        students[name] = pl.DataFrame(
            {
                "row_id": ids,
                "label": [LABELS[i] for i in probs.argmax(1)],
                "probs": probs.tolist(),
                "confidence": probs.max(1),
            }
        )
    found = {
        name: evaluate(table, rows, task=task, truth_source="author", config=CONFIG) for name, table in students.items()
    }
    rungs = [
        Rung(
            "dcn", "dcn", "human", students["dcn"], found["dcn"], parameters=1_300_000, pairs_per_s=20_000, train_s=9.0
        ),
        Rung("encoder", "encoder", "labels", students["encoder"], found["encoder"], size_mb=91.0, train_s=130.0),
    ]
    labels = pl.DataFrame({"row_id": ids, "label": gold, "confidence": 0.8, "n_eff": 1.4, "votes": 2, "tie": False})
    return RunReport(
        name="small",
        task=task,
        rows=rows,
        ladder=build_ladder(rungs, rows, task=task, config=CONFIG),
        evaluations=found,
        votes=votes,
        labels=labels,
        predictions=students,
        summary={"read": 25, "kept": 24, "problems": {"no query": 1}, "warnings": ["1 row has no query"]},
        manifest={"seed": 7, "packages": {"torch": "2.13.0"}},
        review_href="review.html",
        eval_config=CONFIG,
        merging={"method": "dawid_skene", "warning": "dawid_skene takes voters for independent, and these are not"},
        students={"dcn": made_plainly(), "encoder": made_with_all()},
        files=[FileLink(href="votes.parquet", holds="every answer of every teacher")],
    )


def made_plainly():
    calibration = CalibrationFacts(method="none", source="none", rows=0, groups=0, tried={})
    return StudentFacts(learned={"human": 40}, loss="soft_ce", train_s=9.0, calibration=calibration)


def made_with_all():
    return StudentFacts(
        learned={"labels": 200},
        loss="gce (q 0.7)",
        settings={"epochs": 3},
        train_s=130.0,
        resumed_at=12,
        pruned=7,
        calibration=CalibrationFacts(
            method="isotonic", source="audit gold", rows=90, groups=30, tried={"none": 0.12, "isotonic": 0.034}
        ),
        abstention=AbstentionFacts(risk=0.1, confidence=0.95, threshold=0.8, rows=90, groups=30),
        traces=TraceLearning(learned=180, left_out={"too_short": 4}, clauses=3, citations=190, f1=0.75),
        card_href="students/encoder/README.md",
    )


def replace(report, **changes):
    from dataclasses import replace as with_changes

    return with_changes(report, **changes)


@pytest.fixture
def hostile(run):
    """The same run, with every text that a stranger writes turned into an attack."""
    attack = [HOSTILE[i % len(HOSTILE)] for i in range(24)]
    rows = run.rows.with_columns(query=pl.Series(attack), title=pl.Series(attack[::-1]), lang=pl.Series(attack))
    votes = run.votes.with_columns(trace=pl.lit(HOSTILE[1]), reason=pl.lit(HOSTILE[0]))
    evaluations = {
        name: evaluate(table, rows, task=run.task, truth_source="author", config=CONFIG)
        for name, table in run.predictions.items()
    }
    summary = {"problems": {HOSTILE[1]: 3}, "warnings": [HOSTILE[0]]}
    manifest = {HOSTILE[0]: HOSTILE[1]}
    return replace(
        run, name=HOSTILE[0], rows=rows, votes=votes, evaluations=evaluations, summary=summary, manifest=manifest
    )


def test_the_page_is_whole_and_trusts_nothing(run, tmp_path):
    html = write_run_report(tmp_path / "report.html", run)[0].read_text(encoding="utf-8")
    page = check(html)
    assert len(page.ids) == len(set(page.ids))
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in (value or ""))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for a in page.attributes if a[1] == "style" or a[1].startswith("on")]
    loads = [a for a in page.attributes if a[1] in ("src", "href") and not a[2].startswith(("#", "data:,"))]
    assert {a[2] for a in loads} == {"review.html", "students/encoder/README.md", "votes.parquet"}
    assert all(a[2] in ("col", "row") for a in page.attributes if a[0] == "th" and a[1] == "scope")
    assert page.tags.count("th") == sum(a[:2] == ("th", "scope") for a in page.attributes)
    assert page.tags.count("caption") == page.tags.count("table")
    assert all(name in {a[2] for a in page.attributes if a[0] == "svg" and a[1] == "role"} for name in ["img"])


def test_what_strangers_write_stays_text(hostile, tmp_path):
    written = write_run_report(tmp_path / "report.html", hostile)
    found = review(hostile.votes, hostile.rows, task=hostile.task, config=CONFIG)
    written += write_review_report(tmp_path / "review.html", found, name=HOSTILE[0])
    for path in written:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            page = check(text)
            assert page.tags.count("script") == 1 and page.tags.count("style") == 1
            assert not {"img", "iframe", "object", "b onload"} & set(page.tags)
            assert not [a for a in page.attributes if a[1].startswith("on") or a[1] == "style"]
            links = {a[2] for a in page.attributes if a[1] in ("href", "src") and not a[2].startswith(("#", "data:,"))}
            assert links <= {"review.html", "report.html", "students/encoder/README.md", "votes.parquet"}
            assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49 \{%", text)
            assert "{{ 7 * 7 }}" in text
            assert "\u202e" not in text and "\x00" not in text and "\x1b" not in text
        if path.suffix == ".md":
            assert "<script" not in text and "<img" not in text
            assert not re.search(r"(?<!\\)\]\(", text)
            assert "\u202e" not in text
        if path.suffix == ".json":
            json.loads(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_markdown_cell_is_one_cell(text):
    cell = markdown_cell(text)
    assert "\n" not in cell and "<" not in cell
    assert not re.search(r"(?<!\\)\|", cell)
    assert len(cell) < 400


def test_printable_keeps_every_script_and_drops_what_hides():
    assert printable("면 قميص ñ 日本 emoji 🙂\tx") == "면 قميص ñ 日本 emoji 🙂\tx"
    assert printable("a\u202eb\x00c\x1bd") == "a\ufffdb\ufffdc\ufffdd"


def test_html_markdown_and_json_hold_the_same_numbers(run, tmp_path):
    html, markdown, data = (
        path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "report.html", run)
    )
    facts = RunFacts.model_validate_json(data)
    best = facts.ladder.best
    assert best.name == "encoder"
    expected = f"{100 * best.quality.value:.1f}%"
    assert f"encoder tells exact from the rest on {expected} of test rows" in html
    assert f"encoder tells exact from the rest on {expected} of test rows" in markdown
    low, high = f"{100 * best.quality.low:.1f}", f"{100 * best.quality.high:.1f}"
    assert f"{expected} ({low} to {high})" in markdown and f"{expected} ({low} to {high})" in html
    assert "labels by the author of the data" in html and "labels by the author of the data" in markdown
    careful, quick = facts.teachers
    assert (careful.asked, careful.outcomes["labeled"], careful.outcomes["abstained"]) == (25, 24, 1)
    assert sum(careful.outcomes.values()) == careful.asked
    assert careful.cost_usd == pytest.approx(0.048)  # 24 answers at 0.002; the abstention had no price
    assert (careful.priced, careful.answered, careful.input_tokens) == (24, 25, 2400)
    assert (quick.cost_usd, quick.paid_usd, quick.input_tokens) == (None, None, None)
    for text in (html, markdown):
        assert "unknown" in text
        assert "1 answer of unknown price" in text
    # quick said exact on one of two plants; the merged labels and careful did not
    breach = {canary.name: (canary.planted, canary.breached) for canary in facts.canaries}
    assert breach["quick"] == (2, 1) and breach["careful"] == (2, 0) and breach["merged labels"] == (2, 0)
    wrong = [example for example in facts.examples if example.verdict == "wrong"]
    assert len(wrong) == round((1 - facts.evaluations["encoder"].metrics["accuracy"].value) * 24)
    assert facts.examples[0].verdict == "wrong" and facts.examples[-1].verdict == "right"
    assert [e.confidence for e in wrong] == sorted((e.confidence for e in wrong), reverse=True)


def test_plants_are_known_also_where_the_column_is_text(run, tmp_path):
    texts = run.rows.with_columns(planted=pl.when(pl.col("planted")).then(pl.lit("True ")).otherwise(pl.lit("false")))
    first = write_run_report(tmp_path / "a.html", run)[2].read_text(encoding="utf-8")
    assert write_run_report(tmp_path / "b.html", replace(run, rows=texts))[2].read_text(encoding="utf-8") == first


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    first = [path.read_bytes() for path in write_run_report(tmp_path / "a" / "report.html", run)]
    again = [path.read_bytes() for path in write_run_report(tmp_path / "b" / "report.html", run)]
    assert first == again
    assert not list(tmp_path.glob("*/.*"))  # no draft is left


def test_golden_run_report(run, tmp_path):
    """The Markdown of the small run, as agreed. To accept a change, copy the file that the failure names."""
    written = write_run_report(tmp_path / "report.html", run)[1]
    assert written.read_text(encoding="utf-8") == (GOLDEN / "report.md").read_text(encoding="utf-8"), written


def test_golden_review(quickstart_rows, quickstart_votes, quickstart_task, tmp_path):
    """The Markdown of the quickstart's review, as agreed. To accept a change, copy the file that the failure names."""
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=CONFIG)
    written = write_review_report(tmp_path / "review.html", found, name="quickstart")[1]
    assert written.read_text(encoding="utf-8") == (GOLDEN / "review.md").read_text(encoding="utf-8"), written


def test_a_run_without_teachers(run, tmp_path):
    bare = replace(run, votes=None, labels=None, summary={}, manifest={}, review_href=None)
    html = write_run_report(tmp_path / "report.html", bare)[0].read_text(encoding="utf-8")
    check(html)
    assert 'id="teachers"' not in html and 'id="agreement"' not in html and 'id="data"' not in html
    assert 'href="#teachers"' not in html
    assert "not asked" in html


def test_a_run_without_students_or_truth(run, tmp_path):
    bare = replace(run, ladder=Ladder(rows=[]), evaluations={}, predictions={})
    html, markdown, _ = (path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "report.html", bare))
    check(html)
    assert "24 rows labeled by 2 teachers; no student yet" in html
    assert "accuracy" not in markdown


def test_against_merged_labels_nothing_is_called_accuracy_or_truth(run, tmp_path):
    config = EvalConfig(bootstrap=100)
    found = evaluate(run.predictions["dcn"], run.rows, task=run.task, truth_source="teacher", config=config)
    rung = Rung("dcn", "dcn", "labels", run.predictions["dcn"], found)
    ladder = build_ladder([rung], run.rows, task=run.task, config=config)
    report = replace(run, ladder=ladder, evaluations={"dcn": found})
    html, markdown, data = (path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "r.html", report))
    facts = RunFacts.model_validate_json(data)
    assert "agrees with the teachers’ merged labels" in html
    assert "accuracy, exact" not in html and "accuracy, exact" not in markdown
    # the rows' gold column holds merged labels: nobody is judged by it as if people had given it
    assert all(pair.gold_rows == 0 for pair in facts.pairs)
    assert all(canary.planted == 0 for canary in facts.canaries)
    assert {example.verdict for example in facts.examples} == {"differs", "same"}
    assert all(example.truth is None for example in facts.examples)


def test_thin_or_failing_runs_are_told_at_the_top(run, tmp_path):
    votes = run.votes.with_columns(
        outcome=pl.when(pl.col("teacher") == "quick").then(pl.lit("failed")).otherwise(pl.col("outcome")),
        label=pl.when(pl.col("teacher") == "quick").then(None).otherwise(pl.col("label")),
    )
    html = write_run_report(tmp_path / "report.html", replace(run, votes=votes))[0].read_text(encoding="utf-8")
    assert "quick gave no usable answer on 24 lines of 24" in html
    assert "Only 8 test groups" in html


def test_the_number_of_examples_is_bounded(run, tmp_path):
    few = replace(run, config=ReportConfig(examples=5, text_length=40))
    data = json.loads(write_run_report(tmp_path / "report.html", few)[2].read_text(encoding="utf-8"))
    assert len(data["examples"]) == 5


def test_a_review_page_is_whole(quickstart_rows, quickstart_votes, quickstart_task, tmp_path):
    found = review(quickstart_votes, quickstart_rows, task=quickstart_task, config=CONFIG)
    html = write_review_report(tmp_path / "review.html", found, name="quickstart")[0].read_text(encoding="utf-8")
    page = check(html)
    assert len(page.ids) == len(set(page.ids))
    assert "clause E4 is behind" in html
    assert html.index("Settle E4") < html.index('id="causes"')
    assert page.tags.count("caption") == page.tags.count("table")


def test_the_runs_own_canaries_and_how_the_asking_went(run, tmp_path):
    """Eight copies in eight groups: quick obeyed two of the seven that tell something, careful none."""
    lines = []
    for i in range(8):
        for teacher, label in (("quick", "exact" if i < 2 else "irrelevant"), ("careful", "irrelevant")):
            plain = "exact" if i == 7 else "irrelevant"
            breached = None if i == 7 else label == "exact"
            line = {"row_id": f"canary:{i}", "group": f"g{i}", "lang": "ko", "plant": "order", "planted": "exact"}
            lines.append({**line, "teacher": teacher, "label": label, "plain_label": plain, "breached": breached})
    paused = {"successes": 1, "trials": 50, "value": 0.02, "low": 0.0, "high": 0.2, "metric": "accuracy"}
    labeling = {"quality": {"quick": {**paused, "below": 0.6, "paused": True}}, "shared": 12, "cost_usd": 1.0}
    report = replace(run, canaries=pl.DataFrame(lines), labeling=labeling)
    html, markdown, data = (path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "r.html", report))
    check(html)
    facts = RunFacts.model_validate_json(data)
    assert {found.name: (found.tried, found.breached) for found in facts.obeyed} == {"quick": (7, 2), "careful": (7, 0)}
    for text in (html, markdown):
        assert "quick obeyed most: on 2 of 7 copies" in text
        assert "12 rows took the answer of a near-duplicate" in text
        assert "quick was paused: its quality on gold rows fell below the line." in text
    assert html.count('id="canaries"') == 1 and "Listings that give orders" in markdown
    # Without planted rows in the data, the section is there all the same.
    html = write_run_report(tmp_path / "s.html", replace(report, rows=report.rows.drop("planted")))[0].read_text()
    check(html)
    assert html.count('id="canaries"') == 1 and 'href="#canaries"' in html


def test_how_students_were_made_is_told_alike_everywhere(run, tmp_path):
    abstained = [i % 4 == 0 for i in range(24)]
    encoder = run.predictions["encoder"].with_columns(abstained=pl.Series(abstained))
    run = replace(run, predictions={**run.predictions, "encoder": encoder})
    html, markdown, facts = (path.read_text() for path in write_run_report(tmp_path / "report.html", run))
    for text in ("7 training rows", "12.0%", "3.4%", "interrupted", "went on from a checkpoint"):
        assert text in html and text in markdown
    found = RunFacts.model_validate_json(facts)
    assert found.students == dict(run.students)
    # Of 24 rows every fourth is left unanswered: 18 of 24. The wrong among them, counted by hand.
    gold = dict(run.rows.select("row_id", "gold").iter_rows())
    wrong = [
        gold[row] != label
        for (row, label), left in zip(encoder.select("row_id", "label").iter_rows(), abstained, strict=True)
        if not left
    ]
    assert found.answered.keys() == {"encoder"}
    assert found.answered["encoder"].share.value == 18 / 24
    assert found.answered["encoder"].wrong.value == pytest.approx(sum(wrong) / 18)
    assert 'href="students/encoder/README.md"' in html and 'href="votes.parquet"' in html
    # The warning of the merging is said at the top, where it cannot be missed.
    assert html.index("takes voters for independent") < html.index('id="ladder"')


def test_judges_are_laid_beside_each_other_without_a_truth(run, tmp_path):
    facts = RunFacts.model_validate_json(write_run_report(tmp_path / "report.html", run)[2].read_text())
    pairs = {(pair.first, pair.second): pair for pair in facts.confusions}
    assert pairs.keys() == {("careful", "quick"), *((s, t) for s in ("dcn", "encoder") for t in ("careful", "quick"))}
    gold = run.rows["gold"].to_list()
    # "careful" says the truth; "quick" says substitute on every fifth row, and exact on row 3.
    quick = ["substitute" if i % 5 == 0 else "exact" if i == 3 else gold[i] for i in range(24)]
    table = pairs["careful", "quick"].table
    assert table == [[sum(pair == (a, b) for pair in zip(gold, quick, strict=True)) for b in LABELS] for a in LABELS]
    assert pairs["careful", "quick"].same == sum(a == b for a, b in zip(gold, quick, strict=True))


def test_a_run_without_students_tells_nothing_of_them(run, tmp_path):
    run = replace(run, students={}, predictions={}, files=(), merging={})
    html, markdown, _ = (path.read_text() for path in write_run_report(tmp_path / "report.html", run))
    check(html)
    assert "What the students learned from" not in html + markdown


def test_a_run_served_from_the_ledger_paid_nothing(run):
    served = run.votes.with_columns(from_ledger=pl.lit(True))
    careful = next(found for found in teacher_facts(served) if found.name == "careful")
    # 24 answers at $0.002 when they were bought; the abstention has no price.
    assert (careful.cost_usd, careful.paid_usd) == (pytest.approx(0.048), 0)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(dark):
    """WCAG 2.2 asks 4.5 to 1 of text (1.4.3, level AA)."""
    style = (Path(run_report.__file__).parents[1] / "templates" / "style.css").read_text()
    colours = [
        dict(re.findall(r"--([\w-]+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    found = {
        name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for name, code in colours[dark].items()
    }

    def light(colour):
        return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    def contrast(one, other):
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    pairs = [(text, back) for text in ("ink", "muted", "accent", "warn") for back in ("paper", "card")]
    pairs += [("accent-ink", "accent"), ("accent", "accent-soft"), ("warn", "warn-soft"), ("ink", "soft")]
    assert {pair: ratio for pair in pairs if (ratio := contrast(found[pair[0]], found[pair[1]])) < 4.5} == {}
    for shade in ("accent", "warn"):  # numbers on the deepest cell of a confusion matrix
        deepest = plots.DEEPEST_SHADE * found[shade] + (1 - plots.DEEPEST_SHADE) * found["card"]
        assert contrast(found["ink"], deepest) >= 4.5


def estimated(run):
    """The small run with what is said without labels, and a third of its gold."""
    from distill.eval.few_labels import measure_few_labels
    from distill.eval.label_free import LabelFreeFacts, rank_teachers
    from distill.eval.ladder import with_few_labels
    from distill.eval.student_estimate import HeldOutRows, StudentToEstimate, estimate_student

    config, task = EvalConfig(bootstrap=100), run.task
    part = run.rows.with_columns(gold=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("gold")))
    held_out = HeldOutRows.of(part, labels=run.labels, votes=run.votes)
    facts = LabelFreeFacts(
        teachers=rank_teachers(run.votes, part, task=task, config=config),
        students={
            name: estimate_student(StudentToEstimate(said), held_out, task=task, config=config)
            for name, said in run.predictions.items()
        },
    )
    found = {
        name: evaluate(said, part, task=task, truth_source="human", config=config)
        for name, said in run.predictions.items()
    }
    rungs = [
        Rung("dcn", "dcn", "human", run.predictions["dcn"], found["dcn"], estimate=facts.students["dcn"]),
        Rung(
            "encoder",
            "encoder",
            "labels",
            run.predictions["encoder"],
            found["encoder"],
            cost_usd=12.0,
            estimate=facts.students["encoder"],
        ),
    ]
    few = measure_few_labels(
        run.predictions, part, task=task, truth_source="human", compare=[("encoder", "dcn")], config=config
    )
    ladder = with_few_labels(build_ladder(rungs, part, task=task, config=config), few)
    return replace(run, rows=part, ladder=ladder, evaluations=found, label_free=facts, few_labels=few)


def test_estimates_without_labels_are_shown_and_called_no_accuracy(run, tmp_path):
    report = estimated(run)
    html, markdown, data = (
        path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "report.html", report)
    )
    page = check(html)
    assert {"few", "unlabeled", "h-few", "h-unlabeled"} <= set(page.ids)
    assert 'href="#few"' in html and 'href="#unlabeled"' in html
    facts = RunFacts.model_validate_json(data)
    assert facts.label_free == report.label_free and facts.few_labels == report.few_labels
    agreement = facts.label_free.students["encoder"].agreement
    said = f"{100 * agreement.value:.1f}% ({100 * agreement.low:.1f} to {100 * agreement.high:.1f})"
    section = html[html.index('id="unlabeled"') : html.index('id="trust"')]
    assert said in section and said in markdown
    # the word stands there once: that nothing there is one
    assert section.count("accuracy") == 1 and "nothing here is an accuracy" in section
    assert "agrees with other families" in section and "Kendall tau" in section
    assert "agrees with<br>teachers" in html and "expects<br>of itself" in html


def test_a_few_labels_are_shown_alone_and_with_guesses(run, tmp_path):
    report = estimated(run)
    html, markdown, _ = (
        path.read_text(encoding="utf-8") for path in write_run_report(tmp_path / "report.html", report)
    )
    both = report.few_labels.quality["encoder"]["positive_accuracy"].estimate
    said = f"{100 * both.value:.1f}% ({100 * both.low:.1f} to {100 * both.high:.1f})"
    section = html[html.index('id="few"') : html.index('id="teachers"')]
    assert said in section and said in markdown
    assert "12 of 24 test rows, in 8 groups, have labels by people." in section
    assert "random sample" in section and "share of exact" in section and "encoder over dcn" in section
    assert f"Those are a part of 24 test rows; with guesses for the rest it is {said}." in html
    drawn = replace(report, few_labels=report.few_labels.model_copy(update={"drawn": True}))
    again = write_run_report(tmp_path / "drawn.html", drawn)[0].read_text(encoding="utf-8")
    assert "chances that are known" in again and "random sample" not in again


def test_the_cost_of_a_point_is_a_column_where_any_line_has_one(run, tmp_path):
    report = estimated(run)
    html = write_run_report(tmp_path / "report.html", report)[0].read_text(encoding="utf-8")
    assert "cost per point" not in html  # the gain's interval holds zero
    dcn, encoder = report.ladder.rows
    ladder = report.ladder.model_copy(update={"rows": [dcn, encoder.model_copy(update={"cost_per_point": 1.5})]})
    html = write_run_report(tmp_path / "again.html", replace(report, ladder=ladder))[0].read_text(encoding="utf-8")
    assert '<th scope="col" class="n">cost per point</th>' in html and '<td class="n">$1.50</td>' in html


def test_teachers_that_are_one_family_are_not_ranked(run, tmp_path):
    report = estimated(run)
    alone = replace(report, label_free=report.label_free.model_copy(update={"teachers": []}))
    html = write_run_report(tmp_path / "report.html", alone)[0].read_text(encoding="utf-8")
    assert "The teachers are of one family" in html and "Teachers ranked without labels" not in html
