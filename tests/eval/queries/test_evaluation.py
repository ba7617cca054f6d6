"""Parts of a query task measured: numbers derived by hand, claims paired, mistakes told, one report in three forms."""

from __future__ import annotations

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.ladder import Ladder, LadderRow
from distill.eval.queries.answers import PartAnswers, answer_text, gold_answers, part_answers, same_answer
from distill.eval.queries.claims import Predictor, Settings, paired_gain
from distill.eval.queries.evaluation import measure_part
from distill.eval.queries.label_free import spelling_passes
from distill.eval.queries.report import QueryFacts, query_markdown, write_query_report
from distill.eval.queries.report_words import put_in_words
from distill.eval.queries.tallies import Measured, Retrieval
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.catalogue_file import Judged
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

SPELLING = Task(labels=(), inputs=("query",), kind="text", type="spelling", part="spelling")
BRAND = Task(labels=(), inputs=("query",), kind="spans", type="brand", types=("brand",), part="brand")
EXPANSION = Task(labels=(), inputs=("query",), kind="text", type="expansion", several=True, part="expansion")
CATEGORY = Task(
    labels=("A > B", "A > C"), inputs=("query",), kind="choice", type="category", several=True, part="category"
)

QUERIES = {"r0": "nkie shoe", "r1": "red hat", "r2": "grean pasta", "r3": "lmap"}
TRUTH = {"r0": "nike shoe", "r1": "red hat", "r2": "grean pasta", "r3": "lamp"}
STUDENT = {"r0": "nike shoe", "r1": "red hat", "r2": "grean pasta", "r3": "lmap"}
TEACHER = {"r0": "nike shoe", "r1": "red hat", "r2": "green pasta", "r3": "lamp"}


def settings(groups: dict[str, str] | None = None, **slices: dict[str, str]) -> Settings:
    return Settings(EvalConfig(bootstrap=200), 7, groups or {row: row for row in QUERIES}, slices)


def spelling(**brands: list[str]) -> Measured:
    return Measured(SPELLING, QUERIES, PartAnswers(TRUTH), brands=brands)


def predictors() -> list[Predictor]:
    return [
        Predictor("student", "encoder", PartAnswers(STUDENT, {"r3": 0.4})),
        Predictor("model", "teacher", PartAnswers(TEACHER)),
        Predictor("tool", "function", PartAnswers({"r0": "nike shoe"})),
    ]


def test_spelling_by_hand():
    merged = PartAnswers(TEACHER)
    part = measure_part(spelling(r2=["grean"]), predictors(), truth_source="human", merged=merged, settings=settings())
    student, model, tool = part.evaluations
    value = {
        name: {key: one.metrics[key].value for key in one.metrics} for one in part.evaluations for name in [one.name]
    }
    # Two queries are wrong (r0, r3), two right. The student mends one and touches no other.
    assert value["student"]["corrected_right"] == 0.5 and value["student"]["left_alone"] == 1.0
    # The teacher mends both, and takes the brand grean for a slip.
    assert value["model"]["corrected_right"] == 1.0 and value["model"]["over_correction"] == 0.5
    assert (value["student"]["brand_over_correction"], value["model"]["brand_over_correction"]) == (0.0, 1.0)
    # F0.5 of word edits: student 1 of 1 predicted, of 2: 1.25 / (1 + 0.25 · 2); teacher 2 of 3, of 2: 2.5 / (3 + 0.5).
    assert value["student"]["word_f05"] == pytest.approx(1.25 / 1.5)
    assert value["model"]["word_f05"] == pytest.approx(2.5 / 3.5)
    # The tool answered one row, and is measured there alone.
    assert (tool.rows, tool.unanswered, value["tool"]["exact_match"]) == (1, 3, 1.0)
    # Of four rows the student says what was merged on two.
    assert student.agreement is not None and student.agreement.value == 0.5
    assert model.agreement is not None and model.agreement.value == 1.0
    # Functions are no teachers to be as good as.
    assert [(one.student, one.teacher) for one in part.claims] == [("student", "model")]
    claim = part.claims[0].claim
    assert claim.metric == "word_f05" and claim.difference == pytest.approx(1.25 / 1.5 - 2.5 / 3.5)


def test_mistakes_are_of_the_best_student_and_show_what_others_say():
    part = measure_part(spelling(), predictors(), truth_source="human", merged=None, settings=settings())
    assert part.shown == "student" and part.wrong == 1
    assert part.mistakes[0].model_dump() == {
        "row_id": "r3",
        "query": "lmap",
        "truth": "lamp",
        "said": "lmap",
        "confidence": 0.4,
        "others": {"model": "lamp"},
        "note": "",
    }


def test_slices_split_the_rows_and_sum_to_them():
    lang = {"r0": "en", "r1": "en", "r2": "en", "r3": "de"}
    part = measure_part(spelling(), predictors(), truth_source="human", merged=None, settings=settings(lang=lang))
    found = {(one.column, one.value): one.found for one in part.evaluations[0].slices}
    assert {key: found[key].rows for key in found} == {("lang", "en"): 3, ("lang", "de"): 1}
    # In German it leaves the one slip as it is: no edit where there is one to make.
    assert found["lang", "de"].value == 0.0 and found["lang", "en"].value == 1.0


def test_two_students_differ_by_their_paired_difference():
    groups = {f"r{n}": f"g{n}" for n in range(40)}
    queries = dict.fromkeys(groups, "lmap")
    measured = Measured(SPELLING, queries, PartAnswers(dict.fromkeys(groups, "lamp")))
    good = Predictor("good", "encoder", PartAnswers(dict.fromkeys(groups, "lamp")))
    half = Predictor("half", "encoder", PartAnswers({row: "lamp" if n % 2 else "lmap" for n, row in enumerate(groups)}))
    gain = paired_gain(good, half, measured, settings(groups))
    # F0.5 of 20 of 40 edits with none wrong: 1.25 · 20 / (20 + 0.25 · 40) = 25 / 30.
    assert gain.value == pytest.approx(1 - 25 / 30) and gain.low is not None and 0 < gain.low < gain.value
    claim = measure_part(
        measured,
        [good, Predictor("half", "teacher", half.answers)],
        truth_source="human",
        merged=None,
        settings=settings(groups),
    ).claims[0]
    assert claim.claim.holds and claim.claim.p_value == pytest.approx(1 / 201)


def test_expansions_are_measured_by_what_they_retrieve():
    pytest.importorskip("bm25s")
    products = pl.DataFrame(
        {"id": ["p0", "p1", "p2"], "title": ["garden hose", "hosepipe", "shoe"], "category": ["G", "G", "S"]}
    )
    catalogue = Catalogue(products, brand=None, product_id="id")
    judged = {"garden hose": Judged({"p0": 1.0, "p1": 1.0, "p2": 0.0}, frozenset({"p0", "p1"}))}
    queries = {"r0": "garden hose", "r1": "nobody judged this"}
    measured = Measured(EXPANSION, queries, PartAnswers({}), retrieval=Retrieval(catalogue, judged))
    assert measured.row_ids == ["r0"]
    said = [
        Predictor("good", "labels", PartAnswers({"r0": ["hosepipe"]})),
        Predictor("drifts", "teacher", PartAnswers({"r0": ["shoe"]})),
    ]
    part = measure_part(measured, said, truth_source="author", merged=None, settings=settings({"r0": "g"}))
    good, drifts = part.evaluations
    # Alone the query finds one of two relevant products; with hosepipe both; a shoe brings none.
    assert good.metrics["recall_change"].value == 0.5 and drifts.metrics["recall_change"].value == 0.0
    assert (good.metrics["drift"].value, drifts.metrics["drift"].value) == (0.0, 1.0)
    assert part.judged and part.metric == "ndcg" and part.wrong == 0


def test_answers_are_read_in_the_order_of_their_support():
    labels = pl.DataFrame(
        {
            "row_id": ["r0", "r1"],
            "part": ["category", "brand"],
            "labels": [["A > B", "A > C"], None],
            "support": [[0.3, 0.7], None],
            "confidence": [0.6, None],
        }
    )
    found = part_answers(labels, CATEGORY)
    assert found.values == {"r0": ["A > C", "A > B"]} and found.confidence == {"r0": 0.6}


def test_gold_of_one_part_leaves_the_others_alone():
    task = Task(labels=(), inputs=("query",), kind="parts", type="query_understanding", parts=(SPELLING, BRAND))
    rows = pl.DataFrame({"row_id": ["r0", "r1", "r2"], "gold": ['{"spelling": "nike"}', '{"brand": []}', None]})
    assert gold_answers(rows, task, SPELLING).values == {"r0": "nike"}
    assert gold_answers(rows, task, BRAND).values == {"r1": []}


def test_same_answers_by_kind():
    nike = SpanAnswer(0, 4, "nike", "brand", "Nike")
    assert same_answer(SPELLING, "Note  Book", "note book") == 1.0
    assert same_answer(SPELLING, "notebook", "note book") == 0.0
    assert same_answer(BRAND, [nike], [nike._replace(link=None)]) == 1.0
    assert same_answer(BRAND, [nike], []) == 0.0
    assert same_answer(CATEGORY, ["A > B", "A > C"], ["A > C", "A > B"]) == 1.0
    assert same_answer(EXPANSION, ["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert answer_text([nike._replace(text="nkie")]) == "nkie → Nike" and answer_text([]) == "none"


def test_a_correction_that_loses_its_own_brand_fails_a_check():
    brands = PartAnswers({"r0": [SpanAnswer(0, 5, "grean", "brand")], "r1": [SpanAnswer(0, 5, "grean", "brand")]})
    queries = {"r0": "grean pasta", "r1": "grean psata"}
    corrected = PartAnswers({"r0": "green pasta", "r1": "grean pasta"})
    passes = spelling_passes(queries, corrected, brands=brands, catalogue=None)
    assert passes == {"changed queries that keep their brands": {"r0": 0.0, "r1": 1.0}}
    measured = Measured(SPELLING, queries, PartAnswers(queries))
    part = measure_part(
        measured,
        [Predictor("student", "encoder", corrected, passes)],
        truth_source="teacher",
        merged=None,
        settings=settings({"r0": "a", "r1": "b"}),
    )
    checks = part.evaluations[0].checks
    assert [(one.name, one.passed.value, one.passed.rows) for one in checks] == [
        ("changed queries that keep their brands", 0.5, 2)
    ]


@pytest.fixture
def facts() -> QueryFacts:
    part = measure_part(spelling(), predictors(), truth_source="human", merged=None, settings=settings())
    return QueryFacts(
        name="queries",
        parts=[part],
        ladder=Ladder(
            rows=[
                LadderRow(
                    name="student",
                    kind="encoder",
                    part="spelling",
                    trained_on="labels",
                    metric="word_f05",
                    quality=part.evaluations[0].metrics["word_f05"],
                    others={},
                    truth_source="human",
                    parameters=23_800_000,
                    pairs_per_s=270.0,
                    cost_usd=1.5,
                )
            ],
            baseline=None,
        ),
        teachers=[],
        outcomes=[],
        merged=[],
        checks={"model": {"given": 10, "drifts": 2}},
        summary={"read": 4, "splits": {"test": 4}},
        manifest={"seed": 7},
        level=0.95,
    )


def test_the_report_says_the_same_in_every_form(facts, tmp_path):
    page, markdown, facts_file = write_query_report(tmp_path / "report.html", facts)
    text, marked = page.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    assert QueryFacts.model_validate_json(facts_file.read_text(encoding="utf-8")) == facts
    for said in (
        "The best students reach spelling 0.833",
        "Only 4 test queries",
        "is not shown to be at least as good",
    ):
        assert said in text and said in marked
    assert "model 2 of 10 (2 drifts)" in put_in_words(facts).merging[0]
    assert query_markdown(facts, put_in_words(facts)) == marked


def test_what_a_query_says_stays_text(facts, tmp_path):
    bad = "<script>alert(1)</script> | *x*"
    part = facts.parts[0]
    mistake = part.mistakes[0].model_copy(update={"query": bad, "said": bad, "others": {"model": bad}})
    shown = facts.model_copy(update={"parts": [part.model_copy(update={"mistakes": [mistake]})]})
    page, markdown, _ = write_query_report(tmp_path / "report.html", shown)
    assert "<script>alert" not in page.read_text(encoding="utf-8")
    assert "<script>" not in markdown.read_text(encoding="utf-8")
