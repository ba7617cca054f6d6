from __future__ import annotations

import asyncio
import json
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.answers.parsing import parse_answer
from distill.labeling.errors import DataError
from distill.labeling.task import Task
from distill.labeling.teacher import Prompt, Teacher
from distill.teachers.config import RecordedTeacherConfig
from distill.teachers.recorded import RecordedTeacher
from distill.teachers.registry import build_teacher

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"


def teacher(path: Path, **section) -> RecordedTeacher:
    return RecordedTeacher("old", RecordedTeacherConfig(path=path, family="f", **section))


def prompt(row_id: str, user: str = "any") -> Prompt:
    return Prompt(row_id=row_id, system="s", user=user, schema={})


def reply(one: RecordedTeacher, row_id: str) -> str | None:
    request = one.compile(prompt(row_id), sample=0)
    if request is None:
        return None
    answered = asyncio.run(one.ask(request))
    assert answered.cost_usd == 0.0
    return one.read(answered).text


def write_jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_quickstart_replies_come_back_as_recorded():
    one = build_teacher("careful", RecordedTeacherConfig(path=QUICKSTART / "careful.jsonl", family="f"))
    assert isinstance(one, Teacher)
    assert isinstance(one, RecordedTeacher)
    assert len(one) == 1920
    for line in (QUICKSTART / "careful.jsonl").read_text(encoding="utf-8").splitlines()[:50]:
        record = json.loads(line)
        assert reply(one, record["row_id"]) == record["reply"]


def test_no_reply_no_request(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"row_id": "1", "reply": "exact"}, {"row_id": "2", "reply": None}])
    one = teacher(path)
    assert one.compile(prompt("1"), sample=0) is not None
    assert one.compile(prompt("2"), sample=0) is None
    assert one.compile(prompt("3"), sample=0) is None
    assert one.compile(prompt("1"), sample=1) is None


def test_key_follows_the_reply_and_nothing_of_the_prompt(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"row_id": "1", "reply": "exact"}, {"row_id": "2", "reply": "exact"}])
    before = teacher(path)
    keys = [before.compile(prompt(row_id), sample=0).key for row_id in "12"]
    assert keys[0] != keys[1]
    assert before.compile(prompt("1", user="another question"), sample=0).key == keys[0]
    path = write_jsonl(
        tmp_path / "b.jsonl", [{"row_id": "1", "reply": "irrelevant"}, {"row_id": "2", "reply": "exact"}]
    )
    after = teacher(path)
    assert after.compile(prompt("1"), sample=0).key != keys[0]
    assert after.compile(prompt("2"), sample=0).key == keys[1]


def test_formats_hold_the_same(tmp_path):
    table = pl.DataFrame({"row_id": ["007", "b"], "reply": ['{"label": "exact"}', None]})
    table.write_csv(tmp_path / "a.csv")
    table.write_csv(tmp_path / "a.tsv", separator="\t")
    table.write_parquet(tmp_path / "a.parquet")
    table.write_ndjson(tmp_path / "a.jsonl")
    for suffix in ("csv", "tsv", "parquet", "jsonl"):
        one = teacher(tmp_path / f"a.{suffix}")
        assert reply(one, "007") == '{"label": "exact"}', suffix
        assert reply(one, "b") is None, suffix


def test_jsonl_with_mixed_types_missing_fields_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '\ufeff{"row_id": 1, "reply": "exact"}\n\n'
        '{"row_id": "b", "reply": {"label": "exact"}, "late": 1}\n{"row_id": 3}\n',
        encoding="utf-8",
    )
    one = teacher(path)
    assert [reply(one, row_id) for row_id in ("1", "b", "3")] == ["exact", '{"label": "exact"}', None]


def test_composite_ids_are_joined_as_rows_join_them(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"q": ["a", "a"], "n": [1, 2], "reply": ["x", "y"]}).write_parquet(path)
    assert reply(teacher(path, id=["q", "n"]), "a|2") == "y"


def test_parsed_table_becomes_the_json_of_an_answer(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame(
        {
            "id": [1, 2, 3],
            "grade": [4.0, 3.0, None],
            "sure": [0.9, float("nan"), 0.5],
            "why": ["Same kind.", None, "?"],
            "rules": [["E1", "E2"], [], None],
        }
    ).write_parquet(path)
    columns = {"label": "grade", "confidence": "sure", "trace": "why", "clauses": "rules"}
    one = teacher(path, id="id", columns=columns, label_map={4: "exact"})
    assert json.loads(reply(one, "1")) == {
        "trace": "Same kind.",
        "clauses": ["E1", "E2"],
        "label": "exact",
        "confidence": 0.9,
    }
    assert json.loads(reply(one, "2")) == {"label": "3", "clauses": []}  # not in the map: as it stands
    assert reply(one, "3") is None
    task = Task(labels=("exact", "3"), inputs=("query",))
    answer = parse_answer(reply(one, "1"), task=task, answer=one.answer)
    assert (answer.label, answer.trace) == ("exact", "Same kind.")
    assert answer.probs == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("form", ["columns", "struct", "list", "json"])
def test_distributions_of_parsed_tables(tmp_path, form):
    values = {
        "columns": {"pe": [0.75], "pi": [0.25]},
        "struct": {"p": [{"E": 0.75, "irrelevant": 0.25}]},
        "list": {"p": [[0.75, 0.25]]},
        "json": {"p": ['{"E": 0.75, "irrelevant": 0.25}']},
    }[form]
    path = tmp_path / "a.parquet"
    pl.DataFrame({"row_id": ["1"], "label": ["E"], **values}).write_parquet(path)
    probs = {"exact": "pe", "irrelevant": "pi"} if form == "columns" else "p"
    one = teacher(path, columns={"label": "label", "probs": probs}, label_map={"E": "exact"})
    task = Task(labels=("exact", "irrelevant"), inputs=("query",))
    answer = parse_answer(reply(one, "1"), task=task, answer=one.answer)
    assert (answer.label, answer.probs) == ("exact", pytest.approx([0.75, 0.25]))


@pytest.mark.parametrize(
    ("name", "content", "section", "words"),
    [
        ("none.jsonl", None, {}, "no such file; correct the path"),
        ("a.txt", b"x", {}, "got a .txt file; give one of .jsonl"),
        ("a.jsonl", b"", {}, "holds no reply"),
        ("a.jsonl", b'{"row_id": 1, "reply": "x"}\n{"row_id": \n', {}, "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", {}, "line 1 is not a JSON object"),
        ("a.jsonl", b'{"row_id": "\xff"}\n', {}, "cannot be read as jsonl"),
        ("a.parquet", b"not parquet", {}, "cannot be read as parquet"),
        ("a.csv", b"", {}, "cannot be read as csv"),
        ("a.csv", b"id,answer\n1,x\n", {}, "column 'row_id' is missing, the file has id, answer; set teachers.old.id"),
        ("a.csv", b"row_id,answer\n1,x\n", {}, "column 'reply' is missing"),
        ("a.csv", b"row_id,l\n1,x\n", {"columns": {"label": "l", "trace": "t"}}, "column 't' is missing"),
        ("a.csv", b"row_id,reply\n1,x\n2,y\n1,z\n", {}, "the id '1' stands in records 1 and 3, and 1 records in all"),
        ("a.csv", b"row_id,reply\n1,x\n,y\n", {}, "record 2 has no 'row_id'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, section, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        teacher(path, **section)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"teacher old ({path}): ")
    assert "\n" not in str(caught.value)
