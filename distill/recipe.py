"""The recipe: one YAML file that says what a run is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.drift.config import REFERENCE_SPLITS, MonitorConfig
from distill.labeling.errors import RecipeError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.merging.aggregate_config import AggregateConfig, FamilyVoteConfig
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.task import TaskConfig
from distill.recipe_aggregate import aggregate_problems
from distill.recipe_cascade import cascade_problems, has_positive
from distill.recipe_catalogue import catalogue_problems, with_titles
from distill.recipe_kinds import kind_problems
from distill.recipe_problems import describe_problems, suggest
from distill.recipe_rounds import rounds_problems
from distill.recipe_teachers import teacher_names, teacher_problems
from distill.rounds_config import RoundsConfig
from distill.secrets import secret_problems, without_secrets
from distill.students.config import StudentConfig
from distill.students.task_fit import student_problems
from distill.teachers.config import TeacherConfig
from distill.yaml_source import Location, YamlSource

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_RESERVED = ("human", "labels")


class Recipe(BaseModel):
    """What a run is. Sections that the stages asked for do not need may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="version of the recipe format")
    name: str = Field(pattern=_NAME, description="names the run folder: letters, digits, dot, dash, underscore")
    seed: int = Field(7, ge=0, description="every random choice of the run follows from it")
    ledger: Path | None = Field(None, description="the ledger's file; .distill/ledger.sqlite where none is given")
    data: DataConfig | None = Field(None, description="the rows")
    task: TaskConfig | None = Field(None, description="what is asked of a row")
    teachers: dict[str, TeacherConfig] = Field(default_factory=dict, description="who answers, by name")
    labeling: LabelingConfig = Field(default_factory=LabelingConfig, description="how teachers are asked")
    aggregate: AggregateConfig = Field(default_factory=FamilyVoteConfig, description="how votes become labels")
    students: dict[str, StudentConfig] = Field(default_factory=dict, description="who learns, in ladder order")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="how quality is measured")
    rounds: RoundsConfig | None = Field(
        None, description="ask, merge, train and measure in rounds, each choosing its rows by the students of the last"
    )
    report: ReportConfig = Field(default_factory=ReportConfig, description="what the reports show")
    monitor: MonitorConfig | None = Field(None, description="rows of today, held against those that students know")

    @field_validator("teachers", "students")
    @classmethod
    def _names_are_usable(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
                raise ValueError(f"the name {name!r} becomes a file name: letters, digits, dash, underscore")
            if name in _RESERVED:
                raise ValueError(f"the name {name!r} is taken: `train_on: {name}` means something else; rename it")
        return value

    def document(self) -> dict[str, Any]:
        """The recipe with its defaults, as plain values to be written as YAML. Secrets stand in it by name."""
        return dict(without_secrets(self.model_dump(exclude_none=True)))


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and checks all that can be checked without a network.

    Files that it names are looked for beside the recipe, then in the current folder, then in
    ``$DISTILL_DATA``; the recipe that is returned holds where they were found.

    Args:
        path: The YAML file, or the name of a recipe that ships (``quickstart``).
        overrides: ``a.b=value`` each, applied in order.

    Raises:
        RecipeError: With every problem found, each with its file, line, path and what to do.
    """
    path = find_recipe(path)
    source = YamlSource.read(path)
    for assignment in overrides:
        source.override(assignment)
    if not isinstance(source.data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping that starts with `version: 1`, got {source.data!r}")
    return recipe_from_source(source, folder=path.parent)


def recipe_from_source(source: YamlSource, *, folder: Path) -> Recipe:
    """Checks a document that was read already.

    Args:
        source: The document. Its paths are replaced by where the files were found.
        folder: Where to look for files first.

    Raises:
        RecipeError: With every problem found.
    """
    problems = [f"{source.place(loc)}: {_dotted(loc)}: {text}" for loc, text in secret_problems(source.data)]
    problems += [f"{source.place(loc)}: {_dotted(loc)}: {text}" for loc, text in _find_files(source.data, folder)]
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        problems += describe_problems(error.errors(), source=source, model=Recipe)
    if recipe is not None:
        recipe = with_titles(recipe)
        problems += [f"{source.place(loc)}: {_dotted(loc)}: {text}" for loc, text in _cross_checks(recipe)]
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(path: Path | str) -> Path:
    """A recipe's file: a path as it is, or the name of one that ships.

    Raises:
        RecipeError: A bare name that is neither a file nor a recipe that ships.
    """
    given = Path(path)
    if not given.exists() and given.suffix == "" and len(given.parts) == 1:
        shipped = shipped_recipes()
        if given.name in shipped:
            return shipped[given.name]
        raise RecipeError(f"{given}: neither a file nor a recipe that ships{suggest(given.name, shipped)}")
    return given


def require_sections(recipe: Recipe, sections: Sequence[str], *, stage: str) -> None:
    """Refuses a recipe that lacks what a stage needs.

    Raises:
        RecipeError: Naming every section that is missing.
    """
    missing = [name for name in sections if not getattr(recipe, name)]
    if missing:
        raise RecipeError(
            [f"{recipe.name}: {name}: missing; the stage `{stage}` needs this section" for name in missing]
        )


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _file_locations(data: Any) -> Iterator[tuple[Location, str, bool]]:
    """Locations of file names in a raw recipe: location, text, whether the file has to exist."""
    if not isinstance(data, Mapping):
        return

    def section(key: str) -> Mapping[str, Any]:
        value = data.get(key)
        return value if isinstance(value, Mapping) else {}

    rows = section("data").get("rows")
    for index, item in enumerate(rows if isinstance(rows, list) else [rows]):
        if isinstance(item, str) and not item.startswith("hf://"):
            yield (("data", "rows", index) if isinstance(rows, list) else ("data", "rows")), item, True
    yield from _catalogue_files(section("data"))
    yield from _monitored(section("monitor"))
    for key in ("decisions", "annotations"):
        given = section("data").get(key)
        for index, item in enumerate(given if isinstance(given, list) else []):
            if isinstance(item, str):
                yield ("data", key, index), item, True
    if isinstance(guideline := section("task").get("guideline"), str):
        yield ("task", "guideline"), guideline, True
    for key in ("categories", "brands"):
        if isinstance(listed := section("task").get(key), str):
            yield ("task", key), listed, True
    for name, teacher in section("teachers").items():
        if isinstance(teacher, Mapping) and isinstance(path := teacher.get("path"), str):
            yield ("teachers", name, "path"), path, True
        if isinstance(teacher, Mapping) and str(teacher.get("type")).startswith("vllm"):
            # As with a student's base: a folder only where one is there.
            if isinstance(model := teacher.get("model"), str):
                yield ("teachers", name, "model"), model, False
            lora = teacher.get("lora")
            for adapter, folder in lora.items() if isinstance(lora, Mapping) else ():
                if isinstance(folder, str):
                    yield ("teachers", name, "lora", adapter), folder, False
        if isinstance(teacher, Mapping) and teacher.get("type") == "rules":
            yield from _word_lists(("teachers", name, "rules"), teacher.get("rules"))
        local = isinstance(teacher, Mapping) and teacher.get("type") == "classifier"
        if local and isinstance(model := teacher.get("model"), str):
            yield ("teachers", name, "model"), model, False
    for name, student in section("students").items():
        # A base model is a folder only where one is there; otherwise it is the name of a model on a hub.
        if isinstance(student, Mapping) and isinstance(base := student.get("base"), str):
            yield ("students", name, "base"), base, False
        corrector = student.get("corrector") if isinstance(student, Mapping) else None
        titles = corrector.get("titles") if isinstance(corrector, Mapping) else None
        if isinstance(titles, str) and not titles.startswith("hf://"):
            yield ("students", name, "corrector", "titles"), titles, True


def _monitored(section: Mapping[str, Any]) -> Iterator[tuple[Location, str, bool]]:
    """Files of today's rows, and of the reference where it is no split."""
    for key in ("rows", "reference"):
        given = section.get(key)
        for index, item in enumerate(given if isinstance(given, list) else [given]):
            named = isinstance(given, str) and key == "reference" and given in REFERENCE_SPLITS
            if isinstance(item, str) and not named and not item.startswith("hf://"):
                yield (("monitor", key, index) if isinstance(given, list) else ("monitor", key)), item, True


def _catalogue_files(data: Mapping[str, Any]) -> Iterator[tuple[Location, str, bool]]:
    """The products of a catalogue, the judgments of them, and the clicks on them."""
    catalogue = data.get("catalogue")
    inner = catalogue if isinstance(catalogue, Mapping) else {}
    parts = ((("catalogue", name), inner.get(name)) for name in ("judgments", "clicks"))
    for place, given in ((("catalogue",), catalogue), *parts):
        file = given.get("rows") if isinstance(given, Mapping) else None
        if isinstance(file, str) and not file.startswith("hf://"):
            yield ("data", *place, "rows"), file, True


def _word_lists(place: Location, rules: Any) -> Iterator[tuple[Location, str, bool]]:
    """Files that conditions of rules name; a condition may stand alone or in a list."""
    for name, rule in rules.items() if isinstance(rules, Mapping) else ():
        for part in ("when", "unless") if isinstance(rule, Mapping) else ():
            given = rule.get(part)
            for index, condition in enumerate(given if isinstance(given, list) else [given]):
                if isinstance(condition, Mapping) and isinstance(file := condition.get("file"), str):
                    inside = (index,) if isinstance(given, list) else ()
                    yield (*place, name, part, *inside, "file"), file, True


def _find_files(data: Any, folder: Path) -> list[tuple[Location, str]]:
    problems: list[tuple[Location, str]] = []
    places = [folder, Path.cwd()]
    if root := os.environ.get("DISTILL_DATA"):
        places.append(Path(root))
    for location, text, required in list(_file_locations(data)):
        found = next((place / text for place in places if _matches(place / text)), None)
        if found is not None:
            target = data
            for part in location[:-1]:
                target = target[part]
            target[location[-1]] = str(found.absolute())
        elif required:
            tried = ", ".join(dict.fromkeys(str(place.absolute()) for place in places))
            hint = "" if root else "; set DISTILL_DATA to have a further folder looked in"
            problems.append((location, f"no such file: {text!r}; looked in {tried}{hint}"))
    return problems


def _matches(path: Path) -> bool:
    """Whether a path, or a pattern such as ``rows/*.csv``, names something."""
    if path.exists():
        return True
    return "*" in path.name and path.parent.is_dir() and next(path.parent.glob(path.name), None) is not None


def _cross_checks(recipe: Recipe) -> list[tuple[Location, str]]:
    """What one section says of another."""
    problems: list[tuple[Location, str]] = []
    sources = {*_RESERVED}
    for name, teacher in recipe.teachers.items():
        found = list(teacher_problems(name, teacher, recipe.task))
        problems += found
        # A file that cannot be read has been complained of; its functions are not known.
        sources |= set(teacher_names(name, teacher)) if not found else {name}
    for name, student in recipe.students.items():
        if name in recipe.teachers:
            problems.append((("students", name), "a teacher has this name; rename one of them"))
        for source in student.train_on:
            if source not in sources:
                text = f"got {source!r}; give human, labels, or the name of a teacher{suggest(source, sources)}"
                if source in recipe.teachers:
                    text = f"got {source!r}, which is several teachers; give labels, or one{suggest(source, sources)}"
                problems.append((("students", name, "train_on"), text))
            elif source == "labels" and not recipe.teachers:
                problems.append((("students", name, "train_on"), "there are no teachers whose votes become labels"))
        problems += [(("students", name, key), text) for key, text in student_problems(student, recipe.task)]
    problems += aggregate_problems(recipe.aggregate, recipe.students, recipe.data)
    problems += kind_problems(recipe)
    problems += catalogue_problems(recipe)
    problems += cascade_problems(recipe.labeling, recipe.teachers, positive=has_positive(recipe.task))
    problems += rounds_problems(recipe)
    for key in ("student", "other_student"):
        named = getattr(recipe.monitor, key, None)
        if named is not None and named not in recipe.students:
            problems.append((("monitor", key), f"no such student: {named!r}{suggest(named, recipe.students)}"))
    if recipe.task and recipe.data:
        gold_values = set((recipe.data.gold_map or {}).values())
        known = (*recipe.task.labels, *recipe.task.types, *(recipe.task.parts if not recipe.task.labels else ()))
        for value in sorted(gold_values - set(known)):
            text = f"maps to {value!r}, which is not among the labels{suggest(value, known)}"
            problems.append((("data", "gold_map"), text))
    return problems
