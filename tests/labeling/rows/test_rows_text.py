"""Text files: encodings, separators, broken quotes, bad JSON."""

import bz2
import gzip
import json
import lzma
import random

import pytest

from distill.labeling.errors import DataError
from distill.labeling.rows.encoding import find_encoding
from distill.labeling.rows.text import read_csv, read_json

WANTED = {"id": "data.id", "text": "task.inputs"}
KOREAN = "상품명은 무선 블루투스 이어폰입니다. 방수 기능이 있는 가벼운 제품으로 운동할 때 좋습니다"


def read(reader, path, wanted=WANTED, **options):
    """All rows as (line, cells), the unreadable ones as (line, kind), and the repairs."""
    rows, bad, cleaned = [], [], {}
    for batch in reader(path, wanted, encoding=options.pop("encoding", None), **options):
        rows += zip(batch.numbers, batch.columns.rows(), strict=True)
        bad += [(item.number, item.kind) for item in batch.unreadable]
        cleaned |= batch.cleaned
    return rows, bad, cleaned


def csv_of(tmp_path, content, *, separator=None, encoding=None, wanted=WANTED):
    path = tmp_path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(read_csv, path, wanted, separator=separator, encoding=encoding)


def json_of(tmp_path, content, *, wanted=WANTED):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(read_json, path, wanted)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_and_quoted_newlines_are_part_of_a_cell(tmp_path, separator):
    lines = ['\ufeffid,"text",other', '1,"a', 'b, ""c""",x', "", "2,,y", ""]
    content = "\r\n".join(lines).replace(",", separator)
    rows, bad, _ = csv_of(tmp_path, content)
    assert rows == [(2, ("1", f'a\r\nb{separator} "c"')), (5, ("2", None))]
    assert not bad


def test_columns_are_wanted_by_name_in_any_order(tmp_path):
    rows, _, _ = csv_of(tmp_path, "text,zero,id\nt,0,1\n")
    assert rows == [(2, ("1", "t"))]


def test_a_row_of_another_width_is_listed_and_costs_no_neighbour(tmp_path):
    rows, bad, _ = csv_of(tmp_path, "id,text\n1,a\n2\n3,b,c\n4,d,,\n5,e\n")
    # Empty cells beyond the header (line 5) are how spreadsheets pad; they are no error.
    assert [cells[0] for _, cells in rows] == ["1", "4", "5"]
    assert bad == [(3, "ragged_row"), (4, "ragged_row")]


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path):
    lines = ["id,text", '1,"never closed', *(f"{number},fine {number}" for number in range(2, 2000))]
    rows, bad, _ = csv_of(tmp_path, "\n".join(lines) + "\n")
    assert bad == [(2, "bad_quotes")]
    assert [number for number, _ in rows] == list(range(3, 2001))


def test_two_stray_quotes_do_not_merge_the_rows_between_them(tmp_path):
    # Read loosely, 'x,"5 inch\ny,"6 inch' is one record of two cells.
    rows, bad, _ = csv_of(tmp_path, 'id,text\nx,"5 inch\ny,"6 inch\nz,fine\n')
    assert [cells[0] for _, cells in rows] == ["z"]
    assert bad == [(2, "bad_quotes"), (3, "bad_quotes")]


def test_inch_marks_are_text_where_that_explains_the_line(tmp_path):
    rows, bad, cleaned = csv_of(tmp_path, 'id\ttext\n1\t"Big" 5" pipe\n2\t"5 inch\n3\tx\n', separator="\t")
    assert [cells for _, cells in rows] == [("1", '"Big" 5" pipe'), ("2", '"5 inch'), ("3", "x")]
    assert not bad
    assert cleaned == {"quotes_as_text": 2}


def test_a_cell_beyond_the_limit_of_the_csv_module_is_read(tmp_path):
    rows, bad, _ = csv_of(tmp_path, f"id,text\n1,{'x' * 500_000}\n")
    assert len(rows[0][1][1]) == 500_000 and not bad


def test_a_column_named_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows.csv:1: the header names 'text' 2 times"):
        csv_of(tmp_path, "id,text,text\n1,a,b\n")


def test_missing_columns_are_named_all_at_once_with_what_was_meant(tmp_path):
    with pytest.raises(DataError) as caught:
        csv_of(tmp_path, "ID,titel\n1,a\n", wanted={"id": "data.id", "title": "task.inputs", "zzz": "data.gold"})
    message = str(caught.value)
    assert "3 column(s) missing" in message and "rows.csv" in message
    assert "'id' (for data.id); did you mean 'ID'?" in message
    assert "'title' (for task.inputs); did you mean 'titel'?" in message
    assert "'zzz' (for data.gold)\n" in message and "the columns there are: ID, titel" in message


@pytest.mark.parametrize(
    ("encoding", "found", "text"),
    [
        ("utf-8", "utf-8", KOREAN),
        ("utf-8-sig", "utf-8-sig", KOREAN),
        ("utf-16", "utf-16", KOREAN),
        ("utf-16-le", "utf-16-le", "plain letters mostly"),
        ("utf-16-be", "utf-16-be", "plain letters mostly"),
        ("cp949", "cp949", KOREAN),
        ("cp1252", "cp1252", "Crème brûlée à la façon de l'hôtel – “très bien” naïveté déjà vue"),
        ("cp932", "cp932", "ワイヤレスイヤホンは防水で軽く、運動に適しています。日本製の商品です"),
    ],
)
def test_the_encoding_is_found_also_when_it_shows_late(tmp_path, encoding, found, text):
    lines = ["id,text", *(f"{number},plain ascii" for number in range(50)), *(f"9{n},{text}" for n in range(20))]
    content = "\r\n".join(lines).encode(encoding)
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert find_encoding(path).replace("_", "-") == found
    rows, bad, _ = csv_of(tmp_path, content)
    assert not bad and len(rows) == 70
    assert rows[-1][1] == ("919", text)


def test_an_encoding_that_shows_only_after_the_sample_is_found(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,text\n" + b"1,ascii\n" * 60_000 + f"2,{KOREAN}\n".encode("cp949") * 5)
    assert find_encoding(path) == "cp949"


def test_bytes_that_are_no_text_cost_their_row_and_are_shown(tmp_path):
    lines = [f"{number},{KOREAN}".encode() for number in range(30)]
    lines[7] = b"7,broken \xff\xfe here"
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,text\n" + b"\n".join(lines) + b"\n")
    (batch,) = read_csv(path, WANTED, encoding=None, separator=None)
    (bad,) = batch.unreadable
    assert (bad.number, bad.kind) == (9, "undecodable")
    assert bad.raw == r"7 | broken \xff\xfe here" and "2 byte(s)" in bad.detail
    assert len(batch.numbers) == 29


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files_are_read(tmp_path, ending, pack):
    path = tmp_path / f"rows.csv{ending}"
    path.write_bytes(pack(f"id,text\n1,{KOREAN}\n".encode()))
    assert read(read_csv, path, separator=None)[0] == [(2, ("1", KOREAN))]


def test_zst_files_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.jsonl.zst"
    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(json.dumps({"id": 1, "text": KOREAN}).encode())
    assert read(read_json, path)[0] == [(1, ("1", KOREAN))]


def test_bad_lines_of_json_are_listed(tmp_path):
    content = '{"id": 1, "text": "a"}\n\n{"id": 2, "text": \n[1, 2]\n"x"\n{"id": 3}\r\n{"id": 4, "text": "b\u2028c"}'
    rows, bad, _ = json_of(tmp_path, content)
    assert rows == [(1, ("1", "a")), (6, ("3", None)), (7, ("4", "b\u2028c"))]
    assert bad == [(3, "bad_json"), (4, "not_an_object"), (5, "not_an_object")]


def test_values_of_json_are_rendered_and_types_may_mix(tmp_path):
    lines = ['{"id": 1, "text": {"a": [1, 2.0]}}', '{"id": "b", "text": 3.5}', '{"id": true, "text": null}']
    content = "\n".join([*lines, '{"id": 2, "text": "\\ud83d"}'])
    rows, bad, _ = json_of(tmp_path, content)
    assert [cells for _, cells in rows] == [("1", "a: 1, 2"), ("b", "3.5"), ("true", None), ("2", "\ufffd")]
    assert not bad


def test_json_nested_beyond_reason_is_a_problem_not_a_crash(tmp_path):
    rows, bad, _ = json_of(tmp_path, '{"id": 1, "text": "a"}\n' + "[" * 200_000 + "\n")
    assert len(rows) == 1 and bad == [(2, "bad_json")]


def test_a_key_that_no_line_has_is_a_missing_column(tmp_path):
    with pytest.raises(DataError, match=r"'text' \(for task.inputs\); did you mean 'texts'"):
        json_of(tmp_path, '{"id": 1, "texts": "a"}\n')


def test_an_array_of_objects_is_read_over_chunk_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.labeling.rows.text._JSON_CHUNK_CHARS", 7)
    values = [{"id": index, "text": "x" * random.Random(index).randrange(20)} for index in range(50)]
    rows, bad, _ = json_of(tmp_path, json.dumps([*values, 5], indent=1))
    assert [cells[0] for _, cells in rows] == [str(index) for index in range(50)]
    assert bad == [(51, "not_an_object")]


def test_a_broken_array_says_where(tmp_path):
    with pytest.raises(DataError, match="not valid JSON after item 1"):
        json_of(tmp_path, '[{"id": 1, "text": "a"}, {"id": ')
