"""Imports go one way: distill → teachers, students, eval → labeling."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "labeling": {"labeling"},
    "teachers": {"teachers", "labeling"},
    "students": {"students", "labeling"},
    "eval": {"eval", "labeling"},
}
LAYERS = set(MAY_IMPORT)
INSIDE_LABELING = {
    "answers": set(),
    "ledger": set(),
    "rows": {"answers", "queries"},
    "queries": {"answers", "rows", "merging"},
    "prompts": {"answers", "rows"},
    "engine": {"answers", "ledger", "rows", "prompts"},
    "asking": {"answers", "ledger", "rows", "prompts", "engine"},
    "merging": {"answers", "rows"},
}
"""The folders of ``labeling/``, and which others each may import; the files beside them are for all."""


def imported_modules(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_a_layer_imports_only_what_is_below_it(layer):
    wrong = []
    for file in (ROOT / layer).rglob("*.py"):
        for name in imported_modules(file):
            parts = name.split(".")
            if parts[0] == "distill" and (len(parts) < 2 or parts[1] not in MAY_IMPORT[layer]):
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_folders_of_labeling_import_what_they_say():
    folders = {path.parent.name for path in (ROOT / "labeling").glob("*/__init__.py")}
    assert folders == set(INSIDE_LABELING)
    wrong = []
    for folder, others in INSIDE_LABELING.items():
        for file in (ROOT / "labeling" / folder).rglob("*.py"):
            for name in imported_modules(file):
                parts = name.split(".")
                if parts[:2] == ["distill", "labeling"] and parts[2] in folders - others - {folder}:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_one_imports_a_layer_by_its_short_name():
    wrong = []
    for folder in (*LAYERS, "distill", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            wrong += [f"{file}: {name}" for name in imported_modules(file) if name.split(".")[0] in LAYERS]
    assert not wrong, "\n".join(wrong)


def test_the_folders_are_links_so_that_each_class_exists_once():
    for layer in (*LAYERS, "recipes"):
        link = ROOT / "distill" / layer
        assert link.is_symlink() and not link.readlink().is_absolute()
        assert link.resolve() == ROOT / layer


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("code", ["import distill", "import distill.cli", "import distill; distill.DistillError"])
def test_importing_loads_nothing_heavy(code):
    heavy = {"torch", "transformers", "polars", "numpy", "aiohttp", "sklearn", "datasets", "pydantic", "jinja2"}
    assert not heavy & loaded_by(code)


def test_checking_a_recipe_loads_no_torch():
    code = "from distill.recipe import load_recipe; load_recipe('quickstart')"
    assert not {"torch", "transformers", "aiohttp", "sklearn", "datasets"} & loaded_by(code)
