"""Rows from any source into one table, and what is said of those that cannot be used."""

import hashlib
import json

import datasets
import polars as pl
import pytest

from distill.labeling.asking.asked_rows import AskedRows
from distill.labeling.errors import DataError
from distill.labeling.labeling_config import CanaryConfig, LabelingConfig
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.rows.index import split_groups
from distill.labeling.rows.load import frame_rows, load_rows
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat

TASK = Task(labels=("exact", "partial", "none"), inputs=("query", "title", "brand"))
HEADER = "id,query,title,brand,label"
LINES = ["1,red shoe,Red shoe,Acme,exact", "2,red shoe,Blue shoe,,none", "3,tv,TV 40 inch,Vu,", "4,tv,Cable,Vu,partial"]


def load(tmp_path, rows, *, task=TASK, seed=0, slices=(), limit=None, **section):
    """Summary and table."""
    config = DataConfig.model_validate({"rows": str(rows), "max_bad_fraction": 1.0, **section})
    summary = load_rows(config, task=task, out=tmp_path / "run" / "rows.parquet", seed=seed, slices=slices, limit=limit)
    return summary, pl.read_parquet(summary.path)


def csv(tmp_path, lines, header=HEADER, name="rows.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def frame(tmp_path, columns, *, task=TASK, seed=0, slices=(), limit=None, **section):
    config = DataConfig.model_validate({"rows": "frame", "max_bad_fraction": 1.0, **section})
    summary = frame_rows(
        pl.DataFrame(columns), config, task=task, out=tmp_path / "rows.parquet", seed=seed, slices=slices, limit=limit
    )
    return summary, pl.read_parquet(summary.path)


def problems(summary):
    return [json.loads(line) for line in summary.problems_path.read_text(encoding="utf-8").splitlines()]


def test_the_table_has_the_shared_columns_and_the_summary_adds_up(tmp_path):
    summary, table = load(tmp_path, csv(tmp_path, LINES), id="id", gold="label", slices=["brand", "id"])
    assert dict(table.schema) == {
        "row_id": pl.String(),
        "group": pl.String(),
        "split": pl.String(),
        "gold": pl.String(),
        "weight": pl.Float64(),
        "query": pl.String(),
        "title": pl.String(),
        "brand": pl.String(),
        "id": pl.String(),
    }
    assert table["row_id"].to_list() == ["1", "2", "3", "4"]
    assert table["gold"].to_list() == ["exact", "none", None, "partial"]
    assert table["brand"].to_list() == ["Acme", "", "Vu", "Vu"]
    assert summary.gold == {"exact": 1, "partial": 1, "none": 1}
    assert (summary.read, summary.kept, summary.unusable) == (4, 4, 0)
    assert sum(summary.splits.values()) == 4 and sum(summary.groups.values()) == 2
    assert summary.largest_groups == {"red shoe": 2, "tv": 2}
    assert summary.cleaned == {"null_filled": 1}
    assert summary.problems_path is None and not list((tmp_path / "run").glob("*problems*"))
    json.dumps(summary.to_dict())


@pytest.mark.parametrize(
    "kind", ["csv", "jsonl", "array", "parquet", "folder", "glob", "list", "saved", "frame", "lazy", "hf"]
)
def test_every_source_gives_the_same_rows(tmp_path, kind):
    path = csv(tmp_path, LINES)
    _, wanted = load(tmp_path, path, id="id", gold="label")
    table = pl.read_csv(path)
    records = [{key: value for key, value in row.items() if value is not None} for row in table.to_dicts()]
    config = DataConfig(rows="frame", id="id", gold="label")
    out = tmp_path / "again" / "rows.parquet"
    if kind in ("frame", "lazy", "hf"):
        made = {"frame": table, "lazy": table.lazy(), "hf": datasets.Dataset.from_list(table.to_dicts())}[kind]
        frame_rows(made, config, task=TASK, out=out, seed=0)
    else:
        rows = {
            "csv": path,
            "jsonl": tmp_path / "rows.jsonl",
            "array": tmp_path / "rows.json",
            "parquet": tmp_path / "rows.parquet",
            "folder": tmp_path / "folder",
            "glob": tmp_path / "folder" / "part*",
            "list": [str(tmp_path / "folder" / "part1.csv"), str(tmp_path / "folder" / "part2.csv")],
            "saved": tmp_path / "saved",
        }[kind]
        (tmp_path / "folder" / "nested").mkdir(parents=True)
        csv(tmp_path / "folder", LINES[:2], name="part1.csv")
        csv(tmp_path / "folder", LINES[2:], name="part2.csv")
        (tmp_path / "folder" / "_SUCCESS").write_text("")
        (tmp_path / "folder" / "README.md").write_text("no data")
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
        (tmp_path / "rows.json").write_text(json.dumps(records))
        table.write_parquet(tmp_path / "rows.parquet")
        datasets.Dataset.from_list(table.to_dicts()).save_to_disk(str(tmp_path / "saved"))
        sources = rows if isinstance(rows, list) else str(rows)
        load_rows(config.model_copy(update={"rows": sources}), task=TASK, out=out, seed=0)
    assert pl.read_parquet(out).equals(wanted)


def test_a_hub_set_of_several_splits_is_streamed_and_names_them(tmp_path, monkeypatch):
    asked = []
    rows = {"query": ["a", "b"], "title": ["x", "y"], "brand": ["", ""], "label": [0, 2]}
    features = datasets.Features(
        {
            **dict.fromkeys(("query", "title", "brand"), datasets.Value("string")),
            "label": datasets.ClassLabel(names=TASK.labels),
        }
    )
    other = {**rows, "query": ["c", "d"], "label": [-1, 1]}

    def load_dataset(name, config, **options):
        asked.append((name, config, options))
        parts = {"train": rows, "validation": other}
        return datasets.IterableDatasetDict(
            {
                key: datasets.Dataset.from_dict(part, features=features).to_iterable_dataset()
                for key, part in parts.items()
            }
        )

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    _, table = load(
        tmp_path, "hf://owner/set:en", gold="label", split="split", split_map={"train": "pool", "validation": "audit"}
    )
    assert asked == [("owner/set", "en", {"split": None, "streaming": True})]
    assert table["gold"].to_list() == ["exact", "none", None, "partial"]
    assert table["split"].to_list() == ["pool", "pool", "audit", "audit"]


def test_a_hub_set_that_cannot_be_opened_is_one_clear_error(tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"hf://owner/set/train: cannot be opened \(ConnectionError: no route\)"):
        load(tmp_path, "hf://owner/set/train")
    with pytest.raises(DataError, match="'hf://set' is no data set; write hf://owner/set"):
        load(tmp_path, "hf://set")


def test_columns_are_mapped_and_may_be_shared(tmp_path):
    path = csv(tmp_path, ["a|b,x,shoe,Red shoe", "a,b|x,shoe,Blue shoe"], header="sku,shop,q,product title")
    columns = {"query": "q", "title": "product title"}
    task = Task(labels=TASK.labels, inputs=("query", "title"))
    _, table = load(tmp_path, path, task=task, id=["sku", "shop"], group="query", columns=columns, keep=["shop"])
    # The parts of an id are told apart although they hold the bar that joins them.
    assert table["row_id"].to_list() == ["a\\|b|x", "a|b\\|x"]
    assert table["shop"].to_list() == ["x", "b|x"]
    with pytest.raises(DataError, match=r"nothing in the recipe uses \['titel'\]; did you mean 'title'\?"):
        load(tmp_path, path, task=task, columns={**columns, "titel": "x"})


def test_without_an_id_the_inputs_are_hashed_whatever_stands_around_them(tmp_path):
    _, first = load(tmp_path, csv(tmp_path, LINES))
    _, second = load(tmp_path, csv(tmp_path, list(reversed(LINES))))
    assert first["row_id"].sort().equals(second["row_id"].sort())
    # By the docstring: BLAKE2b, 8 bytes, of the cleaned inputs joined by U+001F.
    assert first["row_id"][0] == hashlib.blake2b(b"red shoe\x1fRed shoe\x1fAcme", digest_size=8).hexdigest()


def test_rows_that_repeat_are_merged_and_rows_that_clash_are_listed(tmp_path):
    lines = [
        "1,tv,TV,Vu,,2",
        "1,tv,<b>TV</b>,Vu,exact,3",
        "1,tv,Cable,Vu,exact,1",
        "2,tv,TV,Vu,none,1",
        "1,tv,TV,Vu,none,0.5",
    ]
    path = csv(tmp_path, lines, header=HEADER + ",weight")
    summary, table = load(tmp_path, path, id="id", gold="label", weight="weight")
    # Line 3 repeats line 2 once its tags are gone and brings the label; line 6 repeats it with another label.
    assert table.select("row_id", "gold", "weight").rows() == [("1", "exact", 5.5), ("2", "none", 1.0)]
    assert (summary.read, summary.kept, summary.merged, summary.unusable) == (5, 2, 2, 1)
    assert summary.duplicate_content == 1
    assert summary.problems == {"duplicate_id": 1, "conflicting_gold": 1}
    clash, conflict = problems(summary)
    assert (clash["kind"], clash["line"], clash["row_id"], clash["used"]) == ("duplicate_id", 4, "1", False)
    assert clash["source"] == str(path) and clash["row"]["title"] == "Cable"
    assert (conflict["kind"], conflict["line"], conflict["used"]) == ("conflicting_gold", 6, True)


def test_rows_that_cannot_be_used_are_listed_with_their_place(tmp_path):
    lines = [*LINES, "5,,Title,B,", "6,query,,<br>,", ",query,Title,B,", "7,too,few", "8,q,t,b,amazing"]
    summary, table = load(tmp_path, csv(tmp_path, lines), id="id", gold="label")
    assert table["row_id"].to_list() == ["1", "2", "3", "4", "8"]
    assert table["gold"][-1] is None
    assert summary.problems == {
        "empty_id": 1,
        "empty_inputs": 1,
        "empty_query": 1,
        "label_outside_set": 1,
        "ragged_row": 1,
    }
    assert (summary.read, summary.kept, summary.unusable) == (9, 5, 4)
    found = {problem["kind"]: problem for problem in problems(summary)}
    assert {kind: problem["line"] for kind, problem in found.items()} == {
        "empty_query": 6,
        "empty_inputs": 7,
        "empty_id": 8,
        "ragged_row": 9,
        "label_outside_set": 10,
    }
    assert found["empty_inputs"]["row"]["brand"] == "<br>"
    assert found["ragged_row"]["row"] == "7,too,few"
    assert "'amazing' is not among the labels" in found["label_outside_set"]["detail"]


def test_too_many_bad_rows_stop_the_run_and_stay_listed(tmp_path):
    path = csv(tmp_path, [*LINES, "5,,x,x,", "6,bad"])
    with pytest.raises(DataError) as caught:
        load(tmp_path, path, id="id", max_bad_fraction=0.3)
    message = str(caught.value)
    assert "2 of 6 rows cannot be used" in message and "ragged_row 1" in message and "empty_query 1" in message
    listed = tmp_path / "run" / "rows_problems.jsonl"
    assert str(listed) in message and len(listed.read_text().splitlines()) == 2
    # Nothing half done is left, and a good run clears the old list away.
    assert [item.name for item in (tmp_path / "run").iterdir()] == [listed.name]
    load(tmp_path, csv(tmp_path, LINES), id="id")
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("missing.csv", "no such file or folder; did you mean .*missing1.csv"),
        ("nowhere/rows.csv", "there is no folder"),
        ("*.tsv", "no file matches"),
        ("empty", "no data in this folder"),
        ("empty.csv", "there are no rows"),
        ("header.csv", "there are no rows"),
        ("rows.xlsx", "set data.format"),
        ("bad.parquet", "cannot be read as parquet"),
        ("cut.csv.gz", "cannot be read as csv"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_clear_error(tmp_path, rows, says):
    import gzip

    (tmp_path / "empty").mkdir()
    for name in ("missing1.csv", "empty.csv", "rows.xlsx"):
        (tmp_path / name).write_text("")
    csv(tmp_path, [], name="header.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing of the kind")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"id,query\n" * 9999)[:-20])
    with pytest.raises(DataError, match=says):
        load(tmp_path, tmp_path / rows)


def test_all_rows_bad_is_an_error_even_if_the_recipe_allows_it(tmp_path):
    with pytest.raises(DataError, match="1 of 1 rows cannot be used"):
        load(tmp_path, csv(tmp_path, ["1,,,,"]), id="id", max_bad_fraction=1.0)


def test_gold_is_mapped_and_numbers_match_their_text(tmp_path):
    task = Task(labels=("4", "3", "1"), inputs=("query", "title"))
    columns = {"query": ["a", "b", "c", "d", "e"], "title": list("vwxyz"), "grade": [4.0, 3.0, None, 2.0, 1.0]}
    summary, table = frame(tmp_path, columns, task=task, gold="grade", gold_map={2: 3})
    assert table["gold"].to_list() == ["4", "3", None, "3", "1"]
    assert summary.gold == {"4": 1, "3": 2, "1": 1}
    with pytest.raises(DataError, match="lead to none of the task's labels"):
        frame(tmp_path, columns, task=task, gold="grade", gold_map={2: "9"})


def test_gold_outside_the_set_on_every_row_is_an_error_that_shows_the_values(tmp_path):
    columns = {"query": ["a", "b", "c"], "title": list("xyz"), "brand": ["", "", ""], "grade": ["E", "E", "I"]}
    with pytest.raises(DataError) as caught:
        frame(tmp_path, columns, gold="grade")
    message = str(caught.value)
    assert "it says 'E' (2), 'I' (1)" in message and "the labels are ['exact', 'partial', 'none']" in message
    assert "data.gold_map: {'E': exact" in message


def test_a_split_column_is_read_and_unknown_names_are_an_error(tmp_path):
    columns = {"query": ["a", "b", "c"], "title": list("xyz"), "brand": ["", "", ""], "part": ["train", "dev", None]}
    with pytest.raises(DataError) as caught:
        frame(tmp_path, columns, split="part")
    message = str(caught.value)
    assert "'dev' (1)" in message and "data.split_map: {'': pool, 'dev': audit}" in message
    _, table = frame(tmp_path, columns, split="part", split_map={"dev": "audit", "": "pool"})
    assert table["split"].to_list() == ["train", "audit", "pool"]


def test_a_group_across_two_splits_is_an_error_that_names_it(tmp_path):
    columns = {
        "query": ["tv", "TV ", "shoe", "lamp", "lamp"],
        "title": list("vwxyz"),
        "brand": [""] * 5,
        "part": ["train", "test", "test", "pool", "pool"],
    }
    with pytest.raises(DataError, match=r"1 group\(s\) stand in more than one split, such as 'tv'.*data.split: \{pool"):
        frame(tmp_path, columns, split="part")
    # The same row in two splits is a leak too, although it would be merged.
    columns["title"], columns["query"] = ["v", "v", "x", "y", "z"], ["tv", "tv", "shoe", "lamp", "lamp"]
    with pytest.raises(DataError, match=r"1 group\(s\)"):
        frame(tmp_path, columns, split="part")


def test_a_group_of_its_own_where_the_group_is_empty(tmp_path):
    columns = {
        "id": ["1", "2", "3"],
        "query": ["a", "a", "a"],
        "title": list("xyz"),
        "brand": [""] * 3,
        "q": ["g", None, " "],
    }
    summary, table = frame(tmp_path, columns, id="id", group="q")
    assert table["group"].to_list() == ["g", "2", "3"]
    assert summary.cleaned["group_filled"] == 2


def test_groups_keep_their_split_when_rows_are_appended_and_shares_are_met():
    shares = {"pool": 0.7, "audit": 0.1, "test": 0.2}
    groups = pl.Series([f"query {index}" for index in range(20_000)])
    split = split_groups(groups, shares, seed=3)
    again = split_groups(pl.Series([*groups.reverse(), "another"]), shares, seed=3)
    assert again[:-1].reverse().equals(split)
    assert not split_groups(groups, shares, seed=4).equals(split)
    for name, share in shares.items():
        # Binomial over 20,000 groups: four standard deviations.
        assert (split == name).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


def test_a_split_that_got_no_group_is_pointed_out(tmp_path):
    columns = {"query": ["a", "a"], "title": ["x", "y"], "brand": ["", ""]}
    summary, _ = frame(tmp_path, columns, split={"pool": 0.5, "test": 0.5})
    assert len(summary.warnings) == 1 and "there are only 1 groups" in summary.warnings[0]


def test_a_limit_takes_the_first_rows_of_every_split(tmp_path):
    parts = ["test"] * 60 + ["pool"] * 30 + ["audit"] * 10
    columns = {"query": [f"q{index}" for index in range(100)], "title": ["t"] * 100, "brand": [""] * 100, "part": parts}
    summary, table = frame(tmp_path, columns, split="part", limit=10)
    # Six tenths are test rows, three tenths pool, one tenth audit.
    assert table["query"].to_list() == [*(f"q{i}" for i in range(6)), "q60", "q61", "q62", "q90"]
    assert (summary.kept, summary.beyond_limit, summary.read) == (10, 90, 100)


def test_a_limit_does_not_read_the_whole_source(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.labeling.rows.load._LIMIT_READS_ROWS", 5)
    monkeypatch.setattr("distill.labeling.rows.files.BATCH_ROWS", 100)
    columns = {"query": [f"q{index}" for index in range(1000)], "title": ["t"] * 1000, "brand": [""] * 1000}
    summary, _ = frame(tmp_path, columns, limit=3)
    # 50 times the limit is 150, reached with the second batch of 100.
    assert (summary.read, summary.kept) == (200, 3)


def test_batches_make_no_difference_and_a_run_repeats_byte_by_byte(tmp_path, monkeypatch):
    lines = [f"{index % 70},q{index % 7},title {index % 70},b,exact" for index in range(100)]
    path = csv(tmp_path, lines)
    first, _ = load(tmp_path / "one", path, id="id", gold="label")
    again, _ = load(tmp_path / "two", path, id="id", gold="label")
    assert first.path.read_bytes() == again.path.read_bytes()
    monkeypatch.setattr("distill.labeling.rows.text.BATCH_ROWS", 7)
    batched, table = load(tmp_path / "three", path, id="id", gold="label")
    assert table.equals(pl.read_parquet(first.path))
    assert batched.to_dict() | {"path": ""} == first.to_dict() | {"path": ""}
    assert (batched.kept, batched.merged) == (70, 30)


def test_odd_weights_count_as_one_and_are_listed(tmp_path):
    lines = ["1,a,x,b,,2.5", "2,b,x,b,,", "3,c,x,b,,-1", "4,d,x,b,,many"]
    summary, table = load(tmp_path, csv(tmp_path, lines, header=HEADER + ",n"), id="id", weight="n")
    assert table["weight"].to_list() == [2.5, 1, 1, 1]
    assert summary.problems == {"bad_weight": 3} and summary.unusable == 0


def test_an_input_may_not_have_the_name_of_a_shared_column(tmp_path):
    with pytest.raises(DataError, match=r"task.inputs: \['weight'\]"):
        frame(tmp_path, {"query": ["a"], "weight": ["1 kg"]}, task=Task(labels=("a", "b"), inputs=("query", "weight")))


def test_a_guessed_encoding_is_said(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        "\n".join([HEADER, *(f"{index},이어폰,무선 블루투스 이어폰,소리," for index in range(9))]).encode("cp949")
    )
    summary, table = load(tmp_path, path, id="id")
    assert table["title"][0] == "무선 블루투스 이어폰"
    assert any("was read as cp949" in warning for warning in summary.warnings)
    assert not load(tmp_path, path, id="id", encoding="cp949")[0].warnings[1:]


def test_columns_of_images_are_kept_and_make_rows_differ(tmp_path):
    task = Task(labels=TASK.labels, inputs=("query", "title"), images=("photo",))
    columns = {"query": ["shoe", "shoe", "tv"], "title": ["Red", "Red", "40 inch"], "photo": ["1.jpg", "2.jpg", None]}
    _, table = frame(tmp_path, columns, task=task)
    assert table.columns[-1] == "photo"
    assert table["photo"].to_list() == ["1.jpg", "2.jpg", None]
    assert table["row_id"].n_unique() == 3
    asked = AskedRows(
        table.lazy(),
        task=task,
        config=LabelingConfig(near_duplicates="share", canaries=CanaryConfig(at_least=1, share=0.1)),
        seed=0,
    )
    prompts = {row["row_id"]: asked.prompter(AnswerFormat())(row) for batch in asked for row in batch.to_dicts()}
    assert len(prompts) == 4  # a canary has the image of the row that it is made of
    assert [prompts[row_id].images for row_id in table["row_id"]] == [("1.jpg",), ("2.jpg",), ()]
