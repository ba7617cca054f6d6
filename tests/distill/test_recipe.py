import json
from pathlib import Path

import pytest

from distill.labeling.errors import RecipeError
from distill.recipe import Recipe, load_recipe, shipped_recipes

GOOD = """\
version: 1
name: small
data:
  rows: rows.csv
  gold: label
task:
  inputs: [query, title]
  guideline: guide.md
teachers:
  one: {type: recorded, path: replies.jsonl, family: f}
students:
  base: {type: dcn, train_on: human}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    (home / "rows.csv").write_text("query,title,label\na,b,exact\n")
    (home / "guide.md").write_text("- **E1 Type.** the same kind\n")
    (home / "replies.jsonl").write_text('{"row_id": "1", "reply": "exact"}\n')
    return home


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def problems_of(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    assert caught.value.exit_code == 2
    return [line.replace(f"{folder}/", "") for line in caught.value.problems]


def test_a_good_recipe_is_read_with_its_files_found_beside_it(folder):
    recipe = load(folder, GOOD)
    assert recipe.data.rows == str(folder / "rows.csv")
    assert recipe.task.guideline == folder / "guide.md"
    assert recipe.students["base"].train_on == ("human",)


def test_files_are_also_found_in_the_current_folder_and_under_distill_data(folder, tmp_path, monkeypatch):
    (folder / "rows.csv").rename(tmp_path / "rows.csv")
    data = tmp_path / "data"
    data.mkdir()
    (folder / "replies.jsonl").rename(data / "replies.jsonl")
    monkeypatch.setenv("DISTILL_DATA", str(data))
    recipe = load(folder, GOOD)
    assert recipe.data.rows == str(tmp_path / "rows.csv")
    assert recipe.teachers["one"].path == data / "replies.jsonl"


def test_every_error_comes_at_once_with_its_line_path_and_suggestion(folder):
    text = (
        GOOD.replace("gold:", "glod:").replace("family: f", "famly: f").replace("name: small", "name: small\nseed: x")
    )
    assert problems_of(folder, text) == [
        "recipe.yaml:3: seed: got 'x'; give a whole number",
        "recipe.yaml:6: data.glod: unknown key; did you mean 'gold'?",
        "recipe.yaml:11: teachers.one.family: missing; add it",
        "recipe.yaml:11: teachers.one.famly: unknown key; did you mean 'family'?",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("type: recorded", "type: recordd"), "teachers.one: unknown type 'recordd'; did you mean 'recorded'?"),
        (("type: recorded, ", ""), "teachers.one: `type` is missing; one of "),
        (
            ("train_on: human", "train_on: humans"),
            "students.base.train_on: got 'humans'; give human, labels, or the name",
        ),
        (("rows: rows.csv", "rows: gone.csv"), "data.rows: no such file: 'gone.csv'; looked in "),
        (("guide.md", "gone.md"), "task.guideline: no such file: 'gone.md'"),
        (("version: 1", "version: 2"), "version: got 2; one of 1"),
        (("version: 1\n", ""), "version: missing; add it"),
        (("inputs: [query, title]", "inputs: query"), "task.inputs: got 'query'; give a list"),
        (("name: small", "name: a b"), "name: got 'a b'; string should match pattern"),
        (("gold: label", "gold: label\n  gold: other"), "data.gold: given twice, first at recipe.yaml:5; keep one"),
        (
            ("gold: label", "gold: label\n  gold_map: {E: exakt}"),
            "data.gold_map: maps to 'exakt', which is not among the labels",
        ),
        (("  base:", "  one:"), "students.one: a teacher has this name; rename one of them"),
        (("inputs:", "positive: good\n  inputs:"), "task: positive 'good' is not among the labels"),
        (("family: f", "family: '${HOME}'"), "teachers.one.family: ${HOME} is read for secrets only"),
        (("gold: label", "gold: ["), "not YAML"),
    ],
)
def test_one_clear_message_for(folder, change, problem):
    (line,) = [line for line in problems_of(folder, GOOD.replace(*change)) if problem in line]
    assert line.startswith("recipe.yaml:"), line


@pytest.mark.parametrize("secret", ["sk-hush", "123456", "[sk-hush]"])
def test_a_secret_in_the_open_is_refused_and_not_repeated(folder, secret):
    text = GOOD.replace(
        "{type: recorded, path: replies.jsonl, family: f}",
        f"{{type: openai, base_url: http://h/v1, model: m, family: f, api_key: {secret}}}",
    )
    lines = "\n".join(problems_of(folder, text))
    assert "teachers.one.api_key" in lines
    assert "hush" not in lines and "123456" not in lines


def test_a_secret_is_read_when_a_teacher_is_built_and_never_written(folder, monkeypatch):
    from distill.secrets import with_secrets

    text = GOOD.replace(
        "{type: recorded, path: replies.jsonl, family: f}",
        "{type: openai, base_url: http://h/v1, model: m, family: f, api_key: '${SHOP_KEY}', "
        "headers: {X-Team: '${TEAM}'}}",
    )
    monkeypatch.delenv("SHOP_KEY", raising=False)
    recipe = load(folder, text)
    with pytest.raises(RecipeError, match=r"teachers.one.api_key: \$\{SHOP_KEY\} is not set"):
        with_secrets(recipe.teachers["one"], where="teachers.one")
    monkeypatch.setenv("SHOP_KEY", "sk-hush")
    monkeypatch.setenv("TEAM", "search")
    built = with_secrets(recipe.teachers["one"], where="teachers.one")
    assert built.api_key.get_secret_value() == "sk-hush"
    assert built.headers["X-Team"].get_secret_value() == "search"
    assert "sk-hush" not in json.dumps(recipe.document()) + repr(built)
    assert recipe.document()["teachers"]["one"]["api_key"] == "${SHOP_KEY}"


def test_set_changes_values_and_divides_at_the_first_equals_sign(folder):
    recipe = load(folder, GOOD, "seed=11", "students.base.epochs=3", "task.instructions='a=b'", "eval.slices=[lang]")
    assert recipe.seed == 11
    assert recipe.students["base"].epochs == 3
    assert recipe.task.instructions == "a=b"
    assert recipe.eval.slices == ("lang",)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "--set seed: write it as --set section.key=value"),
        ("name.x=1", "--set name.x=1: name is not a section"),
        (
            "students.base.epohcs=3",
            "--set students.base.epohcs: students.base.epohcs: unknown key; did you mean 'epochs'?",
        ),
        ("seed=[", "--set seed=[: the value is not YAML; quote it"),
    ],
)
def test_a_wrong_override_is_named(folder, override, problem):
    assert problem in problems_of(folder, GOOD, override)[0]


def test_what_students_share_is_written_once(folder):
    shared = "base: &base {type: dcn, train_on: human, epochs: 3}\n  other: {<<: *base, epochs: 5}"
    shared += "\n  bad: {<<: *base, epohcs: 1}"
    text = GOOD.replace("base: {type: dcn, train_on: human}", shared)
    assert problems_of(folder, text) == ["recipe.yaml:14: students.bad.epohcs: unknown key; did you mean 'epochs'?"]
    students = load(folder, text.partition("  bad:")[0]).students
    assert (students["base"].epochs, students["other"].epochs, students["other"].train_on) == (3, 5, ("human",))


def test_the_document_that_a_run_keeps_reads_back_as_the_same_recipe(folder):
    import yaml

    recipe = load(folder, GOOD)
    (folder / "again.yaml").write_text(yaml.safe_dump(recipe.document()))
    assert load_recipe(folder / "again.yaml") == recipe


def test_no_such_recipe_suggests_one_that_ships():
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        load_recipe("quickstat")
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe("gone/recipe.yaml")


def test_the_schema_describes_every_key():
    schema = Recipe.model_json_schema()
    assert schema["additionalProperties"] is False
    undescribed = [
        f"{name}.{key}"
        for name, part in [("Recipe", schema), *schema["$defs"].items()]
        for key, field in part.get("properties", {}).items()
        if "description" not in field and key != "type"
    ]
    assert not undescribed


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_says_what_it_is_in_its_first_line(name):
    first = shipped_recipes()[name].read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith(".") and len(first) < 130
