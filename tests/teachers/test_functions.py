from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import polars as pl
import pytest

import distill
from distill.labeling.engine.engine import LabelingRun
from distill.labeling.errors import DataError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.labeling_function import labeling_function
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.vote import votes_frame
from distill.teachers.functions import FunctionTeacher
from distill.teachers.functions_config import FunctionsTeacherConfig
from distill.teachers.registry import build_teacher, build_teachers

TASK = Task(labels=("exact", "substitute", "irrelevant"), inputs=("query", "title"), positive="exact", ordered=True)
RULES = '''\
import distill

@distill.labeling_function(family="words")
def same(row):
    """All of it is there."""
    return "exact" if row["query"] in row["title"] else distill.ABSTAIN

@distill.labeling_function(name="shares")
def by_shares(row):
    return {"exact": 1, "substitute": 3}

def helper(row):
    return "irrelevant"
'''


def rows(*titles: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"row_id": [f"r{number:03d}" for number in range(len(titles))], "query": "lamp", "title": list(titles)}
    )


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    return path


@pytest.fixture
def vote(tmp_path: Path):
    """Runs the engine with teachers and gives the votes in order."""

    def run(table: pl.DataFrame, *teachers: FunctionTeacher, **settings: object) -> pl.DataFrame:
        parts = [votes_frame([])]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            LabelingRun(task=TASK, teachers=teachers, ledger=ledger, config=LabelingConfig(**settings)).run(
                [table], on_votes=parts.append
            )
        return pl.concat(parts).sort("row_id", "teacher", "sample")

    return run


def section(path: Path, **settings: object) -> list[FunctionTeacher]:
    return build_teachers({"mine": FunctionsTeacherConfig(type="functions", path=path, **settings)})


def key(teacher: FunctionTeacher, **values: str) -> bytes:
    row = {"row_id": "r1", "query": "lamp", "title": "red lamp", **values}
    return teacher.compile(Prompter(TASK, teacher.answer)(row), sample=0).key


def replies_in(folder: Path) -> int:
    with Ledger(folder / "ledger.sqlite") as ledger, ledger.reading() as connection:
        return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])


def test_every_decorated_function_of_a_file_is_a_teacher(rules, vote):
    teachers = section(rules)
    assert [(one.name, one.family) for one in teachers] == [("mine.same", "words"), ("mine.shares", "mine")]
    votes = vote(rows("red lamp", "chair"), *teachers)
    said = {(row, teacher): label for row, teacher, label in votes.select("row_id", "teacher", "label").iter_rows()}
    assert said == {
        ("r000", "mine.same"): "exact",
        ("r001", "mine.same"): None,
        ("r000", "mine.shares"): "substitute",
        ("r001", "mine.shares"): "substitute",
    }
    assert votes.filter(pl.col("label").is_null())["outcome"].to_list() == ["abstained"]
    shares = votes.filter(pl.col("teacher") == "mine.shares")
    assert shares["probs"].to_list() == [[0.25, 0.75, 0.0]] * 2  # 1 and 3 of 4
    assert set(shares["probs_source"]) == {"model"}
    assert votes["cost_usd"].sum() == 0.0


def test_functions_named_in_the_section_need_no_decorator(rules, vote):
    (one,) = section(rules, functions=["helper"], family="f")
    assert (one.name, one.family) == ("mine.helper", "f")
    assert vote(rows("x"), one)["label"].to_list() == ["irrelevant"]


def test_answers_are_kept_in_the_ledger_only_where_that_is_asked_for(rules, vote, tmp_path):
    vote(rows("a", "b", "c"), *section(rules, functions=["same"]))
    assert replies_in(tmp_path) == 0
    assert vote(rows("a", "b", "c"), *section(rules, functions=["same"], keep=True))["from_ledger"].sum() == 0
    assert replies_in(tmp_path) == 3
    assert vote(rows("a", "b", "c"), *section(rules, functions=["same"], keep=True))["from_ledger"].sum() == 3


def test_what_goes_wrong_on_a_row_is_its_outcome_and_no_others(tmp_path, vote):
    path = tmp_path / "odd.py"
    path.write_text(
        "def odd(row):\n"
        "    if row['title'] == 'raise':\n        return 1 / 0\n"
        "    if row['title'] == 'exit':\n        raise SystemExit(3)\n"
        "    if row['title'] == 'column':\n        return row['colour']\n"
        "    if row['title'] == 'write':\n        row['title'] = 'x'\n"
        "    return {'label': 'nonsense', 'probs': {'nonsense': 1.0}, 'none': {}, 'upper': 'EXACT', 'object': object()}"
        ".get(row['title'], 'exact')\n"
    )
    titles = ["raise", "exit", "column", "write", "label", "probs", "none", "upper", "object", "fine"]
    votes = vote(rows(*titles), *section(path, functions=["odd"]))
    ends = dict(zip(titles, votes["outcome"], strict=True))
    assert ends == {
        **dict.fromkeys(["raise", "exit", "column", "write"], "failed"),
        **dict.fromkeys(["label", "probs", "none", "object"], "invalid"),
        **dict.fromkeys(["upper", "fine"], "labeled"),
    }
    reasons = dict(zip(titles, votes["reason"], strict=True))
    assert "ZeroDivisionError: division by zero (line 3 of odd.py, in odd)" in reasons["raise"]
    assert "KeyError: 'colour'" in reasons["column"] and "the row has query, title" in reasons["column"]
    assert "nonsense" in reasons["label"]
    causes = dict(zip(titles, votes["cause"], strict=True))
    assert (causes["raise"], causes["label"]) == ("function_raised", "misfit")


def test_abstaining_on_every_row_stops_nobody(vote):
    silent = FunctionTeacher.of(labeling_function(name="silent")(lambda row: None))
    votes = vote(rows(*map(str, range(200))), silent)
    assert votes["outcome"].to_list() == ["abstained"] * 200


def test_a_key_changes_with_the_code_the_file_the_version_and_the_row_and_nothing_else(rules):
    def of(text: str, **settings: object) -> bytes:
        rules.write_text(text)
        return key(section(rules, **settings)[0])

    before = of(RULES)
    assert of(RULES) == before
    assert of(RULES, family="other") == before
    assert of(RULES.replace('in row["title"]', 'not in row["title"]')) != before
    assert of(RULES.replace('"irrelevant"', '"exact"')) != before  # another function, which this one may call
    assert of(RULES.replace('family="words"', 'family="words", version="2"')) != before
    rules.write_text(RULES)
    first, second = section(rules)
    assert key(first) != key(second)
    assert key(first, title="blue lamp") != key(first)
    assert key(first, row_id="r2") == key(first)
    elsewhere = rules.with_name("moved.py")
    elsewhere.write_text(RULES)
    assert key(section(elsewhere)[0]) == before


def test_a_guideline_is_no_part_of_the_key(rules):
    (one,) = section(rules, functions=["same"])
    row = {"row_id": "r", "query": "a", "title": "b"}
    other = Task(labels=TASK.labels, inputs=TASK.inputs, instructions="Judge kindly.")
    plain, kind = (one.compile(Prompter(task, one.answer)(row), sample=0) for task in (TASK, other))
    assert plain.key == kind.key


def test_a_slow_function_does_not_hold_up_the_event_loop():
    """While the function waits, the loop lets go of it: were it called in the loop, nobody could."""
    let_go, threads = threading.Event(), []

    def slow(row):
        threads.append(threading.current_thread())
        return "exact" if let_go.wait(30) else "irrelevant"

    async def run() -> list[str]:
        one = FunctionTeacher.of(labeling_function(name="slow")(slow))
        await one.open()
        prompter = Prompter(TASK, one.answer)
        asked = [
            asyncio.create_task(
                one.ask(one.compile(prompter({"row_id": f"{n}", "query": "q", "title": f"{n}"}), sample=0))
            )
            for n in range(3)
        ]
        while not threads:
            await asyncio.sleep(0)
        let_go.set()
        bodies = [one.read(reply).text for reply in await asyncio.gather(*asked)]
        await one.close()
        return bodies

    assert asyncio.run(run()) == ['{"label": "exact"}'] * 3
    assert threads[0] is not threading.main_thread() and len(set(threads)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(row:\n", "rules.py:1: not Python"),
        ("x = 1\n\n1 / 0\n", "rules.py:3: cannot be run, got ZeroDivisionError"),
        ("import no_such_neighbour\n", "files beside it are not on the import path"),
        ("def f(row): return None\n", "no labeling function found; decorate them"),
        (RULES.replace('name="shares"', 'name="by shares"'), "the name 'by shares' becomes a teacher's"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(rules, text, words):
    rules.write_text(text)
    with pytest.raises(DataError, match=words):
        section(rules)


def test_a_function_that_is_not_there_is_named_with_those_that_are(rules):
    with pytest.raises(DataError, match=r"'smae' is not there; it has same, shares, .*helper"):
        section(rules, functions=["smae"])


def test_a_module_by_name_gives_only_functions_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "shop_rules_for_test.py").write_text(RULES)
    (tmp_path / "more_rules_for_test.py").write_text(
        "from distill import labeling_function\nfrom shop_rules_for_test import same\n\n"
        "@labeling_function\ndef other(row):\n    return same(row)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = FunctionsTeacherConfig(type="functions", module="more_rules_for_test")
    assert [one.name for one in build_teachers({"m": config})] == ["m.other"]


def test_one_section_of_several_teachers_is_not_one(rules):
    with pytest.raises(distill.DistillError, match="several teachers"):
        build_teacher("mine", FunctionsTeacherConfig(type="functions", path=rules))


def test_functions_are_teachers_of_the_library_and_can_be_tried_on_a_row(tmp_path, monkeypatch):
    @distill.labeling_function
    def has_query(row):
        return "exact" if row["query"] in row["title"] else distill.ABSTAIN

    assert has_query({"query": "lamp", "title": "red lamp"}) == "exact"
    assert distill.ABSTAIN is None and has_query.name == "has_query"
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))
    task = {"labels": list(TASK.labels), "inputs": list(TASK.inputs)}
    table = distill.read_rows(rows("red lamp", "chair"), task, data={"id": "row_id", "group": "query"})
    votes = distill.label(table, task, [has_query])
    assert votes["teacher"].unique().to_list() == ["has_query"]
    assert sorted(votes["outcome"]) == ["abstained", "labeled"]
    assert distill.aggregate(votes, labels=TASK.labels)["label"].null_count() == 1


def test_repeats_get_the_same_answer(rules, vote):
    votes = vote(rows("red lamp"), *section(rules, functions=["same"]), samples=3)
    assert votes["label"].to_list() == ["exact"] * 3


@pytest.mark.parametrize(
    ("verdict", "body"),
    [
        (["nike"], {"label": ["nike"]}),
        ([], {"label": []}),
        ({"b", "a"}, {"label": ["a", "b"]}),
        ([(0, 4)], {"label": [[0, 4]]}),
        ({"spelling": "nike", "brand": [(0, 4)], "category": None}, {"parts": {"spelling": "nike", "brand": [[0, 4]]}}),
        ({"exact": 0.25, "irrelevant": 0.75}, {"probs": {"exact": 0.25, "irrelevant": 0.75}}),
        (None, {"label": None}),
    ],
)
def test_answers_of_every_kind_are_written_as_json(verdict, body):
    import json

    from distill.teachers.functions import _body

    assert json.loads(_body(verdict)) == body
